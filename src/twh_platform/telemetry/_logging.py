"""
Log lines that can be found from a trace: a filter, a JSON formatter, a structlog processor.

Names in JSON are those of OpenTelemetry's log data model in snake case, with
the ids at the top as its "Trace Context in non-OTLP Log Formats" has them.
"""

from __future__ import annotations

import json
import logging
import math
import traceback
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from datetime import UTC, date, datetime
from typing import Any, Final
from uuid import UUID

from .._asgi import INNER_SCOPE, Scope, request_id
from ..tenancy._context import binding_here, known_id
from ._exchange import Exchange, current_exchange
from ._labels import clean_label

__all__ = ["JsonFormatter", "TelemetryFilter", "add_ids", "current_ids", "ids_of"]

_NAMES: Final = ("trace_id", "span_id", "trace_sampled", "tenant_id", "user_id", "request_id")
_ATTRIBUTES: Final = {
    "tenant_id": "tenant.id",
    "user_id": "enduser.id",
    "request_id": "request.id",
}
# What every record has; what is there besides came with `extra`.
_OWN: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", *_NAMES}
# OpenTelemetry, log data model, "Severity Fields".
_SEVERITIES: Final = ((50, 21), (40, 17), (30, 13), (20, 9), (10, 5), (0, 1))
_LONGEST_TEXT = 16_384
_MOST_MEMBERS = 100
_DEEPEST = 6
_LARGEST = 2**63
_MOST_SCOPES = 8


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

    A tenant that is bound here counts more than that of the request.
    """
    exchange = current_exchange()
    ids = {} if exchange is None else ids_of(exchange)
    bound = known_id(binding_here())
    if bound is not None:
        ids["tenant_id"] = clean_label(bound)
    return ids


def add_ids(
    logger: Any, method_name: str, event_dict: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """
    Add the ids of the request to an event: a processor for structlog.

    What the event has already stays, and what there is none of is left out.

        >>> add_ids(None, "info", {"event": "packed"})
        {'event': 'packed'}
    """
    del logger, method_name
    for name, value in current_ids().items():
        event_dict.setdefault(name, value)
    return event_dict


class TelemetryFilter(logging.Filter):
    """
    Add to each record the ids of the request in which it was written.

    Put it on a handler, or before a queue: the ids are those of the thread and
    task that logs.  A record then has ``trace_id``, ``span_id``,
    ``trace_sampled``, ``tenant_id``, ``user_id`` and ``request_id`` for
    the format of a text line.  They are cleaned, so that none of them can begin
    a new line.  No record is left out.

        >>> record = logging.makeLogRecord({"msg": "packed"})
        >>> TelemetryFilter().filter(record), record.trace_id
        (True, '-')

    Args:
        missing: What stands where there is none.
    """

    def __init__(self, *, missing: str = "-") -> None:
        super().__init__()
        self._missing = missing

    def filter(self, record: logging.LogRecord) -> bool:
        """
        Add them; always true.
        """
        try:
            ids = current_ids()
        except Exception:  # noqa: BLE001 -- a line without ids is better than none
            ids = {}
        for name in _NAMES:
            if name not in record.__dict__:
                record.__dict__[name] = ids.get(name, self._missing)
        return True


class JsonFormatter(logging.Formatter):
    r"""
    Write a record as one line of JSON in ASCII, whatever is in it.

        {"timestamp": "2026-09-20T12:00:00.000000Z", "severity_text": "INFO",
         "severity_number": 9, "scope_name": "shop", "body": "packed",
         "trace_id": ..., "span_id": ..., "trace_flags": "01",
         "attributes": {"tenant.id": "acme", "order": 7}}

    Times are RFC 3339 in UTC.  What came with ``extra`` stands in
    ``attributes``.  Of values that are no JSON only the type is written, never
    their ``repr``, which may tell a secret; bytes are shown by their number.
    Lone surrogates become U+FFFD, and line ends are escaped, so one record is
    one line.  Texts are cut at 16,384 characters.

    Args:
        stacktraces: Whether exceptions are written with theirs.
    """

    def __init__(self, *, stacktraces: bool = True) -> None:
        super().__init__()
        self._stacktraces = stacktraces

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
        attributes = self._ids(record, line)
        for name, value in list(record.__dict__.items()):
            if name not in _OWN:
                attributes[_text(name)] = _plain(value)
        if record.exc_info:
            attributes.update(self._exception(record.exc_info))
        if attributes:
            line["attributes"] = attributes
        return json.dumps(line)

    def _ids(self, record: logging.LogRecord, line: dict[str, Any]) -> dict[str, Any]:
        if "trace_id" in record.__dict__:
            ids = {name: record.__dict__.get(name) for name in _NAMES}
        else:
            ids = {**current_ids()}
        found = {name: _text(ids[name]) for name in _NAMES if ids.get(name) not in _NONE}
        if "trace_id" in found:
            line["trace_id"], line["span_id"] = found["trace_id"], found.get("span_id", "")
            line["trace_flags"] = "01" if found.get("trace_sampled") == "true" else "00"
        return {_ATTRIBUTES[name]: found[name] for name in _ATTRIBUTES if name in found}

    def _exception(self, exc_info: Any) -> dict[str, str]:
        error = exc_info[1] if isinstance(exc_info, tuple) else exc_info
        if not isinstance(error, BaseException):
            return {}
        kind = type(error)
        found = {"exception.type": _text(f"{kind.__module__}.{kind.__qualname__}")}
        found["exception.message"] = _said(error)
        if self._stacktraces:
            with suppress(Exception):  # an exception's own __str__ may raise
                found["exception.stacktrace"] = _text("".join(traceback.format_exception(error)))
        return found


_NONE: Final = (None, "", "-")


def _request_id(scope: Scope) -> str:
    # Middleware may have handed on a copy, and the id been made for that one.
    found = request_id(_last(scope))
    scope.setdefault("twh.request_id", found)
    return found


def _last(scope: Scope) -> Scope:
    for _ in range(_MOST_SCOPES):
        inner = scope.get(INNER_SCOPE)
        if inner is None:
            break
        scope = inner
    return scope


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
    try:
        if isinstance(value, Mapping):
            pairs = list(value.items())[:_MOST_MEMBERS]
            return {_name(key): _plain(one, depth) for key, one in pairs}
        return [_plain(one, depth) for one in list(value)[:_MOST_MEMBERS]]
    except Exception:  # noqa: BLE001 -- somebody's own mapping
        return _kind(value)


def _name(key: object) -> str:
    return _text(key) if isinstance(key, str | int | float) else _kind(key)
