"""
B3: which trace a request belongs to, as Zipkin and its relatives write it.

    b3: {trace id}-{span id}-{sampling}-{parent's span id}     the last two may be missing
    b3: 0                                                      not to be recorded, and no ids

or the same in headers of their own, `x-b3-traceid`, `x-b3-spanid`,
`x-b3-sampled`, `x-b3-flags`.  A trace id has 32 hexadecimal digits or 16, which
are the lower half of an id.  Sampling is ``1``, ``0``, or ``d`` for debug; where
it is missing the sender has left it open.  Source: github.com/openzipkin/b3-propagation.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from ._trace_context import Headers, TraceContext, checked_trace_context

__all__ = [
    "B3",
    "B3_NAMES",
    "b3_headers",
    "b3_multi_headers",
    "parse_b3",
    "parse_b3_multi",
    "read_b3",
]

_SINGLE = re.compile(rb"([0-9a-f]{32}|[0-9a-f]{16})-([0-9a-f]{16})(?:-([01d])(?:-[0-9a-f]{16})?)?")
_TRACE_ID = re.compile(rb"[0-9a-f]{32}|[0-9a-f]{16}")
_SPAN_ID = re.compile(rb"[0-9a-f]{16}")
# Of the multiple headers, older senders wrote words.
_SAMPLED: Final = {b"1": True, b"true": True, b"0": False, b"false": False}
_STATES: Final = {b"1": True, b"0": False, b"d": True, None: None}
_NO_TRACE_ID = "0" * 32
_NO_SPAN_ID = "0" * 16
_MULTI = frozenset({b"x-b3-traceid", b"x-b3-spanid", b"x-b3-sampled", b"x-b3-flags"})
B3_NAMES = _MULTI | {b"b3"}


@dataclass(frozen=True, slots=True, kw_only=True)
class B3:
    """
    What B3 headers say.

    Args:
        context: The place in a trace; None where they have no ids.

        sampled: True or False where they say so, None where it is left open.
    """

    context: TraceContext | None = None
    sampled: bool | None = None


_DENIED = B3(sampled=False)


def parse_b3(value: bytes | str) -> B3 | None:
    """
    Read one `b3` header; None for what is malformed.

    A sampling state alone is good only as ``0``: a ``1`` or ``d`` without ids
    would have a stranger ask for a trace of ours.

        >>> parse_b3("80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-d").context.debug
        True
        >>> parse_b3("0").sampled
        False
    """
    raw = (value.encode(errors="replace") if isinstance(value, str) else value).strip(b" \t")
    if raw == b"0":
        return _DENIED
    found = _SINGLE.fullmatch(raw)
    if found is None:
        return None
    trace, span, state = found.groups()
    return _put_together(trace, span, sampled=_STATES[state], debug=state == b"d")


def parse_b3_multi(headers: Headers) -> B3 | None:
    """
    Read the `x-b3-...` headers of a request; None where they are missing or malformed.

    A header that is there twice makes all of them malformed.
    """
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in _MULTI:
            if name in found:
                return None
            found[name] = value.strip(b" \t")
    return _of_multi(found) if found else None


def read_b3(headers: Headers) -> B3 | None:
    """
    Read what B3 headers a request has: the single one, else the others.

    Where the single header is there and malformed, or there twice, nothing is
    read.
    """
    singles = [value for name, value in headers if name == b"b3"]
    if singles:
        return parse_b3(singles[0]) if len(singles) == 1 else None
    return parse_b3_multi(headers)


def b3_headers(context: TraceContext) -> dict[str, str]:
    """
    The single B3 header that tells the next service about *context*.
    """
    parts = [context.trace_id, context.span_id, _state(context)]
    return {"b3": "-".join(filter(None, parts))}


def b3_multi_headers(context: TraceContext) -> dict[str, str]:
    """
    The headers of their own that tell the next service about *context*.
    """
    headers = {"x-b3-traceid": context.trace_id, "x-b3-spanid": context.span_id}
    state = _state(context)
    if state == "d":
        headers["x-b3-flags"] = "1"
    elif state:
        headers["x-b3-sampled"] = state
    return headers


def _state(context: TraceContext) -> str:
    if context.debug:
        return "d"
    return "" if context.sampled is None else str(int(context.sampled))


def _of_multi(found: dict[bytes, bytes]) -> B3 | None:
    debug = found.get(b"x-b3-flags") == b"1"
    asked = found.get(b"x-b3-sampled")
    if asked is not None and asked.lower() not in _SAMPLED:
        return None
    sampled = True if debug else None if asked is None else _SAMPLED[asked.lower()]
    trace, span = found.get(b"x-b3-traceid"), found.get(b"x-b3-spanid")
    if trace is None and span is None:
        return _DENIED if sampled is False else None
    if trace is None or span is None:
        return None
    if not _TRACE_ID.fullmatch(trace) or not _SPAN_ID.fullmatch(span):
        return None
    return _put_together(trace, span, sampled=sampled, debug=debug)


def _put_together(trace: bytes, span: bytes, *, sampled: bool | None, debug: bool) -> B3 | None:
    trace_id, span_id = trace.decode().zfill(32), span.decode()
    if trace_id == _NO_TRACE_ID or span_id == _NO_SPAN_ID:
        return None
    context = checked_trace_context(trace_id, span_id, sampled=sampled, debug=debug)
    return B3(context=context, sampled=sampled)
