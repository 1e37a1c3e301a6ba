"""
Reading plans from TOML: the only place that knows how the file is laid out.

    default = "FREE"            # the plan of a tenant with another tier

    [rules.minute]              # a rule: its kind, and what it says of itself
    kind = "rate"
    per = 60

    [plans.FREE]                # a plan: a limit for each rule
    minute = 10
    exports = { kind = "calendar", period = "day", limit = 3 }

    [common.login]              # a rule that needs no tenant
    ...

A plan has every rule of ``[rules]``; one that it gives no limit to, and that
has none itself, is an error.  Nobody becomes unlimited by forgetting a line.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, fields
from typing import Any, NamedTuple, NoReturn

from ..errors import ConfigurationError
from ._plan import Plan
from ._quoting import WORD_BITS, shown
from ._rules import Calendar, Capacity, Concurrency, Rate, Rule, SlidingWindow

__all__ = ["INVALID", "LARGEST_BYTES", "PlanFile", "read_plan_file"]

INVALID = "plan_invalid"
LARGEST_BYTES = 2**20

KINDS: dict[str, type[Rule]] = {
    "rate": Rate,
    "sliding_window": SlidingWindow,
    "calendar": Calendar,
    "concurrency": Concurrency,
    "capacity": Capacity,
}
"""The kinds by their names in the file."""

UNLIMITED = "unlimited"
"""What a plan says that shall not have one of the rules."""

_TOP = ("default", "common", "rules", "plans")
_BARE = re.compile(r"[A-Za-z0-9_-]{1,80}")
_SHOWN = 80
_LONGEST_TEXT = 1000
# No key has more than three parts, and the time to read one grows with their square.
_MOST_DOTS = 250

Table = dict[str, Any]


class PlanFile(NamedTuple):
    """
    What a file says.

    Attributes:
        default: The name of the plan for other tiers, or None.

        common: The rules that need no tenant.

        plans: In the order of the file.
    """

    default: str | None
    common: tuple[Rule, ...]
    plans: tuple[Plan, ...]


class _Place(NamedTuple):
    """
    Where in which file something stands.
    """

    source: str
    table: str = ""

    def __truediv__(self, name: str) -> _Place:
        key = name if _BARE.fullmatch(name) else shown(name)
        return self._replace(table=f"{self.table}.{key}".lstrip("."))

    def refuse(self, what: str, cause: Exception | None = None) -> NoReturn:
        where = f"{self.source}: [{self.table}]" if self.table else self.source
        raise ConfigurationError(f"{where}: {what}", code=INVALID) from cause


def read_plan_file(text: str, *, source: str) -> PlanFile:
    """
    Read plans from TOML.

    Args:
        text: The file's content.

        source: What errors call it.

    Raises:
        twh_platform.errors.ConfigurationError: With code ``plan_invalid``, for
            everything that is not as described above; the message names the
            source, the table and the key, and quotes the value.
    """
    top = _Place(source)
    document = _parse(text, top)
    _refuse_unknown(document, _TOP, top)
    shared = {
        name: _Shared(_kind(table, top / "rules" / name), table, top / "rules" / name)
        for name, table in _tables(document, "rules", top)
    }
    for name, one in shared.items():
        _check_table(name, one.table, one.kind, one.place)
    plans = [_plan(name, table, shared, top) for name, table in _tables(document, "plans", top)]
    common = [
        _own_rule(name, table, top / "common" / name)
        for name, table in _tables(document, "common", top)
    ]
    return PlanFile(_default(document, top), tuple(common), tuple(plans))


def _parse(text: str, top: _Place) -> Table:
    if len(text) > LARGEST_BYTES:
        top.refuse(f"it is larger than {LARGEST_BYTES} bytes")
    for number, line in enumerate(text.split("\n"), 1):
        if line.count(".") > _MOST_DOTS:
            top.refuse(f"line {number}: it has more than {_MOST_DOTS} dots")
    try:
        return tomllib.loads(text)
    except ValueError as error:
        top.refuse(f"it is not TOML: {str(error)[:_SHOWN]}", error)
    except RecursionError:
        top.refuse("it is nested too deeply")


def _tables(parent: Table, key: str, place: _Place) -> Iterator[tuple[str, Table]]:
    tables = parent.get(key, {})
    if not isinstance(tables, dict):
        place.refuse(f"{key}={shown(tables)} is not a table")
    for name, table in tables.items():
        if not isinstance(table, dict):
            (place / key).refuse(f"{shown(name)}={shown(table)} is not a table")
        yield name, table


def _default(document: Table, top: _Place) -> str | None:
    default = document.get("default")
    if default is not None and not isinstance(default, str):
        top.refuse(f"default={shown(default)} is not the name of a plan")
    return default


class _Shared(NamedTuple):
    """
    A rule of ``[rules]``: what every plan has, but for what a plan says itself.
    """

    kind: type[Rule]
    table: Table
    place: _Place


def _plan(name: str, table: Table, shared: Mapping[str, _Shared], top: _Place) -> Plan:
    place = top / "plans" / name
    if not shared and not table:
        place.refuse("it has no rule")
    rules = [
        _shared_rule(rule, table.get(rule), one, place)
        for rule, one in shared.items()
        if table.get(rule) != UNLIMITED
    ]
    for rule in [one for one in table if one not in shared]:
        if not isinstance(table[rule], dict):
            message = f"{shown(rule)}={shown(table[rule])}: there is no such rule in [rules]"
            place.refuse(f"{message}, and one of the plan's own is a table with a kind")
        rules.append(_own_rule(rule, table[rule], place / rule))
    try:
        return Plan(name=name, rules=tuple(rules))
    except ConfigurationError as error:
        place.refuse(str(error), error)


def _own_rule(name: str, table: Table, place: _Place) -> Rule:
    kind = _kind(table, place)
    _check_table(name, table, kind, place)
    return _make(name, kind, table, dict.fromkeys(_keys(kind), place))


def _shared_rule(name: str, said: object, shared: _Shared, place: _Place) -> Rule:
    """
    Make a rule of ``[rules]`` with what a plan says: a limit, a table, or nothing (None).
    """
    if said is None:
        said = {}
    elif isinstance(said, dict):
        place = place / name
        if "kind" in said:
            place.refuse(f"kind={shown(said['kind'])}: {shared.place.table} has said it")
    else:
        said = {"limit": said}
    _check_table(name, said, shared.kind, place)
    origins = dict.fromkeys(_keys(shared.kind), shared.place)
    own = said if "limit" in shared.table else ("limit", *said)
    origins |= dict.fromkeys(own, place)
    return _make(name, shared.kind, {**shared.table, **said}, origins)


def _make(name: str, kind: type[Rule], table: Table, origins: Mapping[str, _Place]) -> Rule:
    """
    Make a rule; *origins* says for each key where an error in it is to be sought.
    """
    values = {key: value for key, value in table.items() if key != "kind"}
    for field in fields(kind):
        if field.default is MISSING and field.name not in {*values, "name"}:
            origins[field.name].refuse(f"rule {shown(name)}: {field.name} is missing")
    try:
        return kind(name=name, **values)
    except ConfigurationError as error:
        # A rule says "rule 'minute': per=0 is not valid".
        key = str(error).partition(": ")[2].partition("=")[0]
        origins.get(key, origins["limit"]).refuse(_shortened(str(error)), error)


def _shortened(text: str) -> str:
    # Many routes, quoted: what is wrong stands at both ends.
    half = _LONGEST_TEXT // 2
    return text if len(text) <= _LONGEST_TEXT else f"{text[:half]} ... {text[-half:]}"


def _kind(table: Table, place: _Place) -> type[Rule]:
    kind = table.get("kind")
    if kind is None:
        place.refuse(f"kind is missing: it is one of {', '.join(KINDS)}")
    if not isinstance(kind, str) or kind not in KINDS:
        place.refuse(f"kind={shown(kind)} is none of {', '.join(KINDS)}")
    return KINDS[kind]


def _check_table(name: str, table: Table, kind: type[Rule], place: _Place) -> None:
    if len(name) > _SHOWN:
        place.refuse("the name is too long")
    _refuse_unknown(table, ("kind", *_keys(kind)), place)
    for key, value in table.items():
        if not _is_plain(value):
            place.refuse(f"rule {shown(name)}: {key}={shown(value)} is not what a rule can have")


def _keys(kind: type[Rule]) -> list[str]:
    return [field.name for field in fields(kind) if field.name != "name"]


def _refuse_unknown(table: Table, known: Iterable[str], place: _Place) -> None:
    for key, value in table.items():
        if key not in known:
            message = f"{shown(key)}={shown(value)}: there is no such key"
            place.refuse(f"{message}; there are {', '.join(known)}")


def _is_plain(value: object) -> bool:
    """
    Whether a rule may be asked what it thinks of it: its answer quotes the value.
    """
    if isinstance(value, list):
        return len(value) <= _LONGEST_TEXT and all(isinstance(one, str) for one in value)
    if isinstance(value, str):
        return len(value) <= _LONGEST_TEXT
    return isinstance(value, int | float) and not abs(value) >= 2**WORD_BITS
