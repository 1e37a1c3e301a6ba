"""
W3C Trace Context: which trace a request belongs to, in two headers.

`traceparent` is 55 bytes in version 00:

    00 - 32 hexadecimal digits - 16 hexadecimal digits - 2 hexadecimal digits
    ^    trace id                span id of the sender   flags: 01 sampled, 02 random

Source: W3C Recommendation "Trace Context" (level 1, 23 November 2021), and of
level 2 the random flag (section 3.2.2.5.2).  Nothing here raises for what was
sent: a bad header is no header.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import ConfigurationError

__all__ = [
    "Headers",
    "TraceContext",
    "checked_trace_context",
    "clean_tracestate",
    "new_span_id",
    "new_trace_id",
    "new_trace_number",
    "parse_traceparent",
    "parse_tracestate",
    "read_trace_context",
]

Headers = Iterable[tuple[bytes, bytes]]
"""
Headers as ASGI has them: pairs of a name in lower case and a value.
"""

_SAMPLED = 0x01
_RANDOM = 0x02
_LENGTH = 55
_NO_TRACE_ID = "0" * 32
_NO_SPAN_ID = "0" * 16
# Section 3.2.2: lower case only, and no id is all zeros.
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_LATER_VERSION = re.compile(r"(?!00|ff)[0-9a-f]{2}")
_IS_SAMPLED, _IS_RANDOM = frozenset("13579bdf"), frozenset("2367abef")
_TRACE_ID = re.compile(r"[0-9a-f]{32}")
_SPAN_ID = re.compile(r"[0-9a-f]{16}")
# What nobody sends: longer ones are not read, whatever their version.
_LONGEST_TRACEPARENT = 512

_LONGEST_TRACESTATE = 512
_MOST_MEMBERS = 32
# Section 3.3.2.2: a key of level 1, and a value that neither is empty nor ends with a blank.
# No quantifier gives back what it has taken, so that nothing is read twice.
_MEMBER = re.compile(
    rb"([a-z][a-z0-9_*/-]{0,255}+|[a-z0-9][a-z0-9_*/-]{0,240}+@[a-z][a-z0-9_*/-]{0,13}+)"
    rb"=[ -+\--<>-~]{1,256}+(?<! )"
)

# Our own generator: a service that seeds the global one would repeat our ids.
_random = random.Random()  # noqa: S311 -- ids are no secrets; they have to differ
if hasattr(os, "register_at_fork"):  # else nothing forks
    os.register_at_fork(after_in_child=_random.seed)
_bits = _random.getrandbits


def new_trace_id() -> str:
    """
    Make a trace id: 32 hexadecimal digits of chance, never all zeros.

    Ids are no secrets and must not serve as such.  A forked child makes other
    ids than its parent, and `random.seed` does not make them repeat.
    """
    return new_trace_number().to_bytes(16).hex()


def new_trace_number() -> int:
    """
    Make a trace id that is not written out yet: a number of 128 bits, never 0.
    """
    return _bits(128) or 1


def new_span_id() -> str:
    """
    Make a span id: 16 hexadecimal digits of chance, never all zeros.
    """
    return (_bits(64) or 1).to_bytes(8).hex()


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceContext:
    """
    One place in one trace: what a service tells the next one it calls.

        >>> here = TraceContext(trace_id="0af7651916cd43dd8448eb211c80319c",
        ...                     span_id="b7ad6b7169203331", sampled=True)
        >>> here.traceparent
        '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'

    Args:
        trace_id: 32 hexadecimal digits in lower case, not all zeros.

        span_id: 16 hexadecimal digits in lower case, not all zeros.

        sampled: Whether the trace is recorded; None where the sender has left
            that open, as only B3 can.

        random: Whether the last 56 bits of the trace id are known to be chance
            (level 2).

        state: The `tracestate`, as `clean_tracestate` returns it.

        debug: B3's debug flag; it implies *sampled*.

    Raises:
        twh_platform.errors.ConfigurationError: For another form of an id, and
            for a *state* that is not clean.
    """

    trace_id: str
    span_id: str
    sampled: bool | None = False
    random: bool = False
    state: str = ""
    debug: bool = False

    def __post_init__(self) -> None:
        if not _TRACE_ID.fullmatch(self.trace_id) or self.trace_id == _NO_TRACE_ID:
            message = f"trace_id={self.trace_id[:80]!r} is not 32 lower case hexadecimal digits"
            raise ConfigurationError(message)
        if not _SPAN_ID.fullmatch(self.span_id) or self.span_id == _NO_SPAN_ID:
            message = f"span_id={self.span_id[:80]!r} is not 16 lower case hexadecimal digits"
            raise ConfigurationError(message)
        if self.state and clean_tracestate(self.state) != self.state:
            message = f"state={self.state[:80]!r} is not a clean tracestate"
            raise ConfigurationError(message)

    @classmethod
    def root(cls, *, sampled: bool = False) -> TraceContext:
        """
        Begin a trace, with ids of its own and the random flag.
        """
        return checked_trace_context(new_trace_id(), new_span_id(), sampled=sampled, random=True)

    def child(self, *, sampled: bool | None = None) -> TraceContext:
        """
        The place of a new span below this one: the same trace, another span id.

        Args:
            sampled: Whether it is recorded; without, as this one.
        """
        return checked_trace_context(
            self.trace_id,
            new_span_id(),
            sampled=self.sampled if sampled is None else sampled,
            random=self.random,
            state=self.state,
            debug=self.debug,
        )

    def link(self) -> TraceContext:
        """
        The same place with nothing but its ids, to point at and not to obey.
        """
        if self.sampled is False and not (self.random or self.state or self.debug):
            return self
        return checked_trace_context(self.trace_id, self.span_id)

    @property
    def flags(self) -> int:
        """
        The flags of level 2: 1 for sampled, 2 for random.
        """
        return (_SAMPLED if self.sampled else 0) | (_RANDOM if self.random else 0)

    @property
    def traceparent(self) -> str:
        """
        The `traceparent` header, in version 00.
        """
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"


def parse_traceparent(value: bytes | str, *, ids_only: bool = False) -> TraceContext | None:
    """
    Read one `traceparent`; None for what the specification rejects.

    Of a version above 00 the four known fields are read, and what follows a
    dash after them is left unread (section 3.2.4).  White space around the
    value is allowed.  Flags that have no meaning yet are not kept.

        >>> parse_traceparent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-03").random
        True
        >>> parse_traceparent("00-0AF7-b7ad6b7169203331-01") is None
        True

    Args:
        value: As it was sent.

        ids_only: Leave the flags unread, as in `TraceContext.link`.
    """
    raw = value.encode(errors="replace") if isinstance(value, str) else value
    return _read(raw, "", ids_only=ids_only)


def read_trace_context(headers: Headers, *, state: bool = True) -> TraceContext | None:
    """
    Read the W3C headers of a request; None unless it has one good `traceparent`.

    A `tracestate` that is bad or too long is dropped, and the rest is kept.

    Args:
        headers: As ASGI has them.

        state: Whether to read `tracestate`.
    """
    parent: bytes | None = None
    states: list[bytes] = []
    for name, value in headers:
        if name == b"traceparent":
            if parent is not None:
                return None  # section 3.2: two of them come from two senders
            parent = value
        elif state and name == b"tracestate":
            states.append(value)
    if parent is None:
        return None
    return _read(parent, parse_tracestate(states) if states else "")


def _read(raw: bytes, state: str, *, ids_only: bool = False) -> TraceContext | None:
    text = raw.decode("latin-1")
    if not _TRACEPARENT.fullmatch(text):
        text = _as_known(text)
        if not _TRACEPARENT.fullmatch(text):
            return None
    if ids_only:
        return checked_trace_context(text[3:35], text[36:52])
    last = text[54]
    return checked_trace_context(
        text[3:35],
        text[36:52],
        sampled=last in _IS_SAMPLED,
        random=last in _IS_RANDOM,
        state=state,
    )


def _as_known(text: str) -> str:
    # Without white space around it, and of a later version as much as version 00 has.
    if len(text) > _LONGEST_TRACEPARENT:
        return ""
    text = text.strip(" \t")
    if text[_LENGTH : _LENGTH + 1] in {"", "-"} and _LATER_VERSION.fullmatch(text[:2]):
        return f"00{text[2:_LENGTH]}"
    return text


def parse_tracestate(values: Iterable[bytes]) -> str:
    """
    Read all `tracestate` headers of a request as one; "" unless they are good.

    What comes back has one form: members in their order, a comma between two,
    no white space around them.  Of a key given twice the first, which is the
    newer, is kept.  More than 512 bytes with what is around them, more than 32
    members, or one malformed member, and all of it is dropped: half a state is
    not what anybody wrote.

        >>> parse_tracestate([b"congo=t61rcWkgMzE", b" rojo=00f067aa0ba902b7 "])
        'congo=t61rcWkgMzE,rojo=00f067aa0ba902b7'
    """
    joined = b",".join(values)
    if len(joined) > _LONGEST_TRACESTATE:
        return ""
    members: dict[bytes, bytes] = {}
    count = 0
    for part in joined.split(b","):
        member = part.strip(b" \t")
        if not member:
            continue  # section 3.3.1.3: empty members are allowed
        count += 1
        found = _MEMBER.fullmatch(member)
        if found is None or count > _MOST_MEMBERS:
            return ""
        members.setdefault(found[1], member)
    return b",".join(members.values()).decode()


def clean_tracestate(state: str) -> str:
    """
    Return *state* in the form of `parse_tracestate`; "" unless it is good.
    """
    return parse_tracestate([state.encode(errors="replace")])


_new = object.__new__
_set_trace_id = TraceContext.__dict__["trace_id"].__set__
_set_span_id = TraceContext.__dict__["span_id"].__set__
_set_sampled = TraceContext.__dict__["sampled"].__set__
_set_random = TraceContext.__dict__["random"].__set__
_set_state = TraceContext.__dict__["state"].__set__
_set_debug = TraceContext.__dict__["debug"].__set__


def checked_trace_context(
    trace_id: str,
    span_id: str,
    *,
    sampled: bool | None = False,
    random: bool = False,
    state: str = "",
    debug: bool = False,
) -> TraceContext:
    """
    Make a `TraceContext` of parts that were just checked or made.

    Without the checks of the constructor it takes a third of the time, on the
    path of every request.
    """
    made: TraceContext = _new(TraceContext)
    _set_trace_id(made, trace_id)
    _set_span_id(made, span_id)
    _set_sampled(made, sampled)
    _set_random(made, random)
    _set_state(made, state)
    _set_debug(made, debug)
    return made
