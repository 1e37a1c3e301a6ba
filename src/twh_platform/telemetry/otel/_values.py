"""
What a span may say: whatever is written into one, its batch can be exported.

One text that UTF-8 cannot say, or one number of more than 64 bits, makes an
exporter give up all spans of its batch.  A stranger's words get into spans: in
the text of an exception, for one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import time_ns
from typing import Any, Final

from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import Link, Status

__all__ = [
    "MOST",
    "all_exportable",
    "clean",
    "exportable",
    "is_sound",
    "moment",
    "repaired",
    "status_of",
]

MOST: Final = 128
"""
Attributes, events and links of a span, and values of one attribute: the SDK's limit.
"""

_LONGEST = 1024
_WIDEST = 2**63
_MOST_BITS = 256  # of a number that is told as a text: longer than any id


def clean(text: str, longest: int = _LONGEST) -> str:
    """
    Cut *text*, and make it something that UTF-8 can say.
    """
    cut = text[:longest]
    return cut if cut.isascii() else cut.encode("utf-8", "replace").decode()


def exportable(value: Any) -> Any:
    """
    What is told of *value*; None for what is not told, such as a sequence in a sequence.

    It never raises, whatever class *value* is of.
    """
    try:
        if isinstance(value, Sequence) and not isinstance(value, str | bytes):
            found = [_single(one) for one in value[:MOST]]
            return tuple(one for one in found if one is not None)
        return _single(value)
    except Exception:  # noqa: BLE001 -- no request fails for what it says
        return None


def all_exportable(attributes: Mapping[str, Any] | None) -> dict[str, Any]:
    """
    The attributes that can be told.
    """
    found = {
        clean(key): exportable(value)
        for key, value in (attributes or {}).items()
        if isinstance(key, str)
    }
    return {key: value for key, value in found.items() if value is not None}


def moment(nanoseconds: Any) -> int:
    """
    A time on the wall; now for what is none.
    """
    return nanoseconds if _is_moment(nanoseconds) else time_ns()


def status_of(status: Status) -> Status:
    """
    The same status, whose words can be told.
    """
    words = status.description
    return Status(status.status_code, clean(words)) if words else status


def is_sound(span: ReadableSpan) -> bool:
    """
    Whether an exporter can surely write down the texts and times of *span*.

    Of attributes it need not be asked: exporters leave out a bad one.
    """
    return (
        _is_plain(span.name)
        and _is_plain(span.status.description or "")
        and _is_moment(span.start_time)
        and _is_moment(span.end_time)
        and all(map(_is_sound_event, span.events))
    )


def repaired(span: ReadableSpan) -> ReadableSpan:
    """
    The same span, whose texts and times can be exported; nothing else of it changes.
    """
    return ReadableSpan(
        _name(span.name),
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=_legible_in(span.attributes),
        events=[
            Event(_name(event.name), _legible_in(event.attributes), moment(event.timestamp))
            for event in span.events
        ],
        links=[Link(link.context, _legible_in(link.attributes)) for link in span.links],
        kind=span.kind,
        status=Status(span.status.status_code, _legible(span.status.description)),
        start_time=moment(span.start_time),
        end_time=moment(span.end_time),
        instrumentation_scope=span.instrumentation_scope,
    )


def _is_moment(nanoseconds: Any) -> bool:
    return isinstance(nanoseconds, int) and 0 <= nanoseconds < _WIDEST


def _is_plain(value: Any) -> bool:
    return isinstance(value, str) and value.isascii()


def _is_sound_event(event: Event) -> bool:
    told = (event.attributes or {}).values()
    are_plain = all(one.isascii() for one in told if isinstance(one, str))
    return are_plain and _is_plain(event.name) and _is_moment(event.timestamp)


def _legible(value: Any) -> Any:
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _name(value: Any) -> str:
    return _legible(value) if isinstance(value, str) else ""


def _legible_in(attributes: Mapping[str, Any] | None) -> dict[str, Any]:
    return {_legible(key): _legible(value) for key, value in (attributes or {}).items()}


def _single(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return int(value) if -_WIDEST <= value < _WIDEST else _wide(value)
    if isinstance(value, bytes):
        return value[:_LONGEST].decode("utf-8", "replace")
    return None


def _wide(value: int) -> str:
    # Python refuses to write down thousands of digits, and they would take long.
    bits = value.bit_length()
    return str(value) if bits <= _MOST_BITS else f"a number of {bits} bits"
