"""
Log lines that can be found from a trace: a filter, a JSON formatter, a structlog processor.

Names in JSON are those of OpenTelemetry's log data model in snake case, with
the ids at the top as its "Trace Context in non-OTLP Log Formats" has them.

What a service logs besides may be what a client has sent.  So whose line it is
is said by us alone: what comes under a name of ours is shown as ``extra.`` and
that name.
"""

from __future__ import annotations

import json
import logging
import math
import traceback
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from contextlib import suppress
from datetime import UTC, date, datetime
from typing import Any, Final
from uuid import UUID

from .._asgi import REQUEST_ID, Scope, innermost, request_id
from ..tenancy._context import binding_here, known_id
from ._exchange import Exchange, current_exchange
from ._labels import clean_label, error_name

__all__ = [
    "JsonFormatter",
    "TelemetryFilter",
    "add_ids",
    "current_ids",
    "find_spans_with",
    "ids_of",
    "own_ids",
]

_NAMES: Final = ("trace_id", "span_id", "trace_sampled", "tenant_id", "user_id", "request_id")
_ATTRIBUTES: Final = {
    "tenant_id": "tenant.id",
    "user_id": "enduser.id",
    "request_id": "request.id",
}
_MISSING = "-"
# What every record has; what is there besides came with `extra`.
_OWN: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime"}
# OpenTelemetry, log data model, "Severity Fields".
_SEVERITIES: Final = ((50, 21), (40, 17), (30, 13), (20, 9), (10, 5), (0, 1))
_LONGEST_TEXT = 16_384
_MOST_MEMBERS = 100
_DEEPEST = 6
_LARGEST = 2**63


Place = tuple[str, str]
"""
The ids of a trace and of a span in it.
"""


class OwnId(str):
    """
    An id that a record has from us: of a type that nothing a client sends is of.
    """

    __slots__ = ()


_find_span: Callable[[], Place | None] | None = None


def find_spans_with(find: Callable[[], Place | None]) -> None:
    """
    Ask *find* for the innermost span that is recorded here, from now on.

    What makes spans says so once, for the whole process.
    """
    global _find_span  # noqa: PLW0603 -- log lines belong to the process
    _find_span = find


def ids_of(exchange: Exchange) -> dict[str, str]:
    """
    The ids that log lines of this request carry, by name; those it has.
    """
    ids = {
        "trace_id": exchange.trace_id,
        "span_id": exchange.span_id,
        "trace_sampled": "true" if exchange.sampled or exchange.kept else "false",
        "request_id": _request_id(exchange.seen),
    }
    if (tenant := exchange.tenant_id) is not None:
        ids["tenant_id"] = clean_label(tenant)
    if (user := exchange.user_id) is not None:
        ids["user_id"] = clean_label(user)
    return ids


def current_ids() -> dict[str, str]:
    """
    The ids that a log line written here carries, by name; none where nothing is served.

    A tenant that is bound here counts more than that of the request, and a span
    that is under way here more than that of the request, if it is in its trace.
    """
    exchange = current_exchange()
    ids = {} if exchange is None else ids_of(exchange)
    if exchange is not None and exchange.sampled and _find_span is not None:
        found = _find_span()
        if found is not None and found[0] == ids["trace_id"]:
            ids["span_id"] = found[1]
    bound = known_id(binding_here())
    if bound is not None:
        ids["tenant_id"] = clean_label(bound)
    return ids


def own_ids(ids: Mapping[str, str]) -> dict[str, str]:
    """
    What a record is to have under all names of ids, with a dash for what there is none of.
    """
    return {name: OwnId(ids.get(name, _MISSING)) for name in _NAMES}


def add_ids(
    logger: Any, method_name: str, event_dict: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """
    Add the ids of the request to an event: a processor for structlog.

    What there is none of is left out, and what the event has under one of their
    names is shown as ``extra.trace_id`` and so on.

        >>> add_ids(None, "info", {"event": "packed"})
        {'event': 'packed'}
    """
    del logger, method_name
    ids = _ids_here()
    _set_aside(event_dict, ids)
    event_dict.update(ids)
    return event_dict


class TelemetryFilter(logging.Filter):
    """
    Add to each record the ids of the request in which it was written.

    Put it on a handler, or before a queue: the ids are those of the thread and
    task that logs.  A record then has ``trace_id``, ``span_id``,
    ``trace_sampled``, ``tenant_id``, ``user_id`` and ``request_id`` for
    the format of a text line, with a dash for what there is none of.  They are
    cleaned, so that none of them can begin a new line.  What came under these
    names with ``extra`` goes on as ``extra.trace_id`` and so on.  No record is
    left out.

        >>> record = logging.makeLogRecord({"msg": "packed"})
        >>> TelemetryFilter().filter(record), record.trace_id
        (True, '-')
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """
        Add them; always true.
        """
        fields = record.__dict__
        if not isinstance(fields.get("trace_id"), OwnId):
            ids = _ids_here()
            _set_aside(fields, ids)
            fields.update(own_ids(ids))
        return True


class JsonFormatter(logging.Formatter):
    r"""
    Write a record as one line of JSON in ASCII, whatever is in it.

        {"timestamp": "2026-09-20T12:00:00.000000Z", "severity_text": "INFO",
         "severity_number": 9, "scope_name": "shop", "body": "packed",
         "trace_id": ..., "span_id": ..., "trace_flags": "01",
         "attributes": {"tenant.id": "acme", "order": 7}}

    Times are RFC 3339 in UTC.  What came with ``extra`` stands in
    ``attributes``; what took the name of an id, flat or with dots, stands there
    as ``extra.tenant.id`` and so on.  Of values that are no JSON only the type
    is written, never their ``repr``, which may tell a secret; bytes are shown by
    their number.  Lone surrogates become U+FFFD, and line ends are escaped, so
    one record is one line.  Texts are cut at 16,384 characters.
    """

    def format(self, record: logging.LogRecord) -> str:
        """
        The line, without the end of it.
        """
        when = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "timestamp": when.isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "severity_text": _text(record.levelname),
            "severity_number": _severity(record.levelno),
            "scope_name": _text(record.name),
            "body": _body(record),
        }
        ids = _ids_in(record)
        if "trace_id" in ids:
            line["trace_id"], line["span_id"] = ids["trace_id"], ids.get("span_id", "")
            line["trace_flags"] = "01" if ids.get("trace_sampled") == "true" else "00"
        attributes = _extras(record, ids)
        if record.exc_info:
            attributes.update(_exception(record.exc_info))
        attributes.update((_ATTRIBUTES[name], ids[name]) for name in _ATTRIBUTES if name in ids)
        if attributes:
            line["attributes"] = attributes
        return json.dumps(line)


def _request_id(scope: Scope) -> str:
    # Middleware may have handed on a copy, and the id been made for that one.
    found = request_id(innermost(scope))
    scope.setdefault(REQUEST_ID, found)
    return found


def _ids_here() -> dict[str, str]:
    try:
        return current_ids()
    except Exception:  # noqa: BLE001 -- a line without ids is better than none
        return {}


def _ids_in(record: logging.LogRecord) -> dict[str, str]:
    # A record that has come through a queue has them; here they would be somebody else's.
    own = {name: record.__dict__.get(name) for name in _NAMES}
    ids = {name: value for name, value in own.items() if isinstance(value, OwnId)} or _ids_here()
    return {name: _text(value) for name, value in ids.items() if value not in {"", _MISSING}}


def _extras(record: logging.LogRecord, ids: Mapping[str, str]) -> dict[str, Any]:
    fields = {name: value for name, value in list(record.__dict__.items()) if name not in _OWN}
    _set_aside(fields, ids, (*_NAMES, *_ATTRIBUTES.values()))
    return {
        _text(name): _plain(value) for name, value in fields.items() if not isinstance(value, OwnId)
    }


def _set_aside(
    fields: MutableMapping[str, Any], ids: Mapping[str, str], names: Iterable[str] = _NAMES
) -> None:
    """
    Rename what *fields* has under one of *names*, unless it is ours or says the same.
    """
    for name in names:
        if name not in fields or isinstance(fields[name], OwnId):
            continue
        theirs = fields.pop(name)
        if type(theirs) is not str or theirs != ids.get(name):
            fields[f"extra.{name}"] = theirs


def _exception(exc_info: Any) -> dict[str, str]:
    error = exc_info[1] if isinstance(exc_info, tuple) else exc_info
    if not isinstance(error, BaseException):
        return {}
    found = {"exception.type": _text(error_name(error)), "exception.message": _said(error)}
    with suppress(Exception):  # an exception's own __str__ may raise
        found["exception.stacktrace"] = _text("".join(traceback.format_exception(error)))
    return found


def _severity(level: int) -> int:
    return next((number for least, number in _SEVERITIES if level >= least), 1)


def _body(record: logging.LogRecord) -> str:
    try:
        return _text(record.getMessage())
    except Exception:  # noqa: BLE001 -- wrong arguments must not cost the line
        return _said(record.msg)


def _said(thing: object) -> str:
    try:
        return _text(str(thing))
    except Exception:  # noqa: BLE001 -- whatever its __str__ raises
        return _kind(thing)


def _text(text: object) -> str:
    if not isinstance(text, str):
        return _said(text)
    if len(text) > _LONGEST_TEXT:
        text = text[:_LONGEST_TEXT] + "…"
    if text.isascii():
        return text
    # Surrogates in pairs are a character; others are none.
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _kind(value: object) -> str:
    return f"<{type(value).__qualname__}>"


def _plain(value: object, depth: int = 0) -> Any:
    try:
        return _json(value, depth)
    except Exception:  # noqa: BLE001 -- somebody's own mapping, or a text whose __str__ raises
        return _kind(value)


def _json(value: object, depth: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str | UUID | date):
        return _text("".join(str(value)))
    if isinstance(value, int | float):
        return _number(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if depth < _DEEPEST and isinstance(value, Mapping | list | tuple | set | frozenset):
        return _members(value, depth + 1)
    return _kind(value)


def _number(value: float) -> Any:
    if isinstance(value, int):
        # Beyond 64 bits readers lose digits, and Python itself writes no more than some thousand.
        return int(value) if abs(value) < _LARGEST else _kind(value)
    return float(value) if math.isfinite(value) else str(float(value))


def _members(value: Any, depth: int) -> Any:
    if isinstance(value, Mapping):
        pairs = list(value.items())[:_MOST_MEMBERS]
        return {_name(key): _plain(one, depth) for key, one in pairs}
    return [_plain(one, depth) for one in list(value)[:_MOST_MEMBERS]]


def _name(key: object) -> str:
    return _text(key) if isinstance(key, str | int | float) else _kind(key)
