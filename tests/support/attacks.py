"""
The record of the attacks: what the attacker gets where nothing defends, and from ours.

Each test in `tests/attacks` makes a row or more with the fixture `twh_attack`.
At the end they are printed as a table for each capability and server;
``--attacks-json FILE`` writes them as JSON too, one object per row::

    capability  what is attacked: the folder of the test
    number      the attack, as the capability's page in docs/explanation counts them
    title       what the attacker does
    kind        attack, fact or residual
    form        which of several ways; empty if there is one
    server      such as "PostgreSQL 15.18"; empty where none is needed
    control     what the attacker got in the planted, unprotected case; null if none is due
    ours        what the attacker got from ours
    ok          whether the row is as it has to be
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Generator, Sized
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Protocol

import pytest

__all__ = ["Attack", "Attacks", "Kind"]

Kind = Literal["attack", "fact", "residual"]


@dataclass(slots=True, kw_only=True)
class Attack:
    """
    One row: an attack tried on a planted case and on ours.

    Args:
        capability: What is attacked; each counts its attacks from 1.

        number: The number in the capability's page of docs/explanation.

        title: What the attacker does, as in that table.

        kind:
            An ``attack`` succeeds on a planted case and gets nothing from
            ours.  A ``fact`` is refused by what we build on, such as PostgreSQL;
            a control is welcome and not due.  A ``residual`` is not defended
            against; the row shows what it gives away.

        form: Which of several ways to do it.

        server: Where it was tried.
    """

    capability: str
    number: int
    title: str
    kind: Kind = "attack"
    form: str = ""
    server: str = ""
    _control: int | None = None
    _ours: int | None = None

    def control(self, gained: int | Sized) -> None:
        """
        Note what the attacker got in the planted case; several calls add up.
        """
        gain = _count(gained)
        self._control = (self._control or 0) + gain
        assert gain > 0, f"{self}: the control got nothing, so the attack shows nothing"

    def ours(self, gained: int | Sized) -> None:
        """
        Note what the attacker got from ours; several calls add up.
        """
        gain = _count(gained)
        self._ours = (self._ours or 0) + gain
        assert gain == 0 or self.kind == "residual", f"{self}: the attacker got {gained!r}"

    @property
    def fault(self) -> str:
        """
        Why the row is no proof; empty if it is one.
        """
        if self.kind == "attack" and not self._control:
            return "has no control"
        if self._ours is None:
            return "was not tried on ours"
        return "gave something away" if self._ours and self.kind != "residual" else ""

    def as_json(self) -> dict[str, object]:
        """
        The row as it is written to the file.
        """
        row = {key: value for key, value in asdict(self).items() if not key.startswith("_")}
        return {**row, "control": self._control, "ours": self._ours, "ok": not self.fault}

    def __str__(self) -> str:
        """
        Name the row.
        """
        return f"attack {self.number}, {self.title}{self.form and f' [{self.form}]'}"


class Attacks(Protocol):
    """
    What the fixture `twh_attack` gives: make a row of the table.
    """

    def __call__(self, *, number: int, title: str, kind: Kind = "attack", form: str = "") -> Attack:
        """
        Take what `Attack` takes, without the capability and the server.
        """
        ...


_ITEM = pytest.StashKey[list[Attack]]()
_SESSION = pytest.StashKey[list[Attack]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """
    Take the file to write to.
    """
    text = "write what the attacks got to this file"
    parser.addoption("--attacks-json", metavar="FILE", default=None, help=text)


@pytest.fixture
def twh_attack(request: pytest.FixtureRequest) -> Attacks:
    """
    Make a row of the table; note in it what the attacker got, both times.
    """
    asked = "server" in request.fixturenames
    version = request.getfixturevalue("server_version") if asked else ""
    capability = request.path.parent.name
    rows = request.node.stash.setdefault(_ITEM, [])
    session = request.config.stash.setdefault(_SESSION, [])

    def make(*, number: int, title: str, kind: Kind = "attack", form: str = "") -> Attack:
        row = Attack(
            capability=capability,
            number=number,
            title=title,
            kind=kind,
            form=form,
            server=version,
        )
        rows.append(row)
        session.append(row)
        return row

    return make


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """
    Fail the test whose row is no proof.
    """
    result = yield
    faults = [f"{row} {row.fault}" for row in item.stash.get(_ITEM, []) if row.fault]
    if "twh_attack" in getattr(item, "fixturenames", ()) and _ITEM in item.stash:
        faults = faults or ([] if item.stash[_ITEM] else ["the test made no row"])
    assert not faults, "; ".join(faults)
    return result


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """
    Print the tables, and write them where it was asked for.
    """
    config = terminalreporter.config
    rows = sorted(config.stash.get(_SESSION, []), key=lambda row: (*_table(row), row.number))
    for (capability, server), of_table in itertools.groupby(rows, key=_table):
        title = f"attacks on {capability}, {server or 'without a server'}"
        terminalreporter.section(title)
        terminalreporter.line(f" no  class     {'the attacker':<74} control  ours")
        for row in of_table:
            terminalreporter.line(_line(row))
    for capability, of_capability in itertools.groupby(rows, key=lambda row: row.capability):
        terminalreporter.line(f"{capability}: {_verdict(list(of_capability))}")
    if path := config.getoption("--attacks-json"):
        Path(path).write_text(json.dumps([row.as_json() for row in rows], indent=1) + "\n")


def _table(row: Attack) -> tuple[str, str]:
    return row.capability, row.server


def _line(row: Attack) -> str:
    title = row.title + (row.form and f" [{row.form}]")
    control, ours = ("-" if one is None else str(one) for one in (row._control, row._ours))
    return f"{row.number:>3}  {row.kind:<8}  {title:<74} {control:>7} {ours:>5}" + (
        row.fault and f"  {row.fault.upper()}"
    )


def _verdict(rows: list[Attack]) -> str:
    kinds = {kind: [row for row in rows if row.kind == kind] for kind in ("attack", "fact")}
    attacks = kinds["attack"]
    controls = sum(bool(row._control) for row in attacks)
    faults = sum(bool(row.fault) for row in rows)
    return (
        f"{len(attacks)} attacks, {controls} with a control; {len(kinds['fact'])} facts; "
        f"{len(rows) - len(attacks) - len(kinds['fact'])} residuals; {faults} at fault"
    )


def _count(gained: int | Sized) -> int:
    return gained if isinstance(gained, int) else len(gained)
