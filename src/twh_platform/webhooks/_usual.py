"""
The usual webhook, in one flat function: plain headers, one signature, one secret.

It says what is true, or that the signature does not match.  Whatever is unusual,
right or wrong, it leaves to the general way in `_verify`, which says the same of
what is usual: the two are held to that by a property test.
"""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Callable, Sequence
from hmac import compare_digest
from operator import itemgetter
from typing import Any, Final, Literal, TypeAlias

from ._candidates import Candidate, MacCandidate
from ._headers import MOST_TOKENS, in_lower_case, usual_head
from ._profiles import Form, Profile
from ._verified import Verified

__all__ = ["Body", "Usual", "usual_of"]

Body: TypeAlias = bytes | bytearray | memoryview

Usual: TypeAlias = Callable[[Body, Any], Verified | Literal[False] | None]
"""What takes a body and its headers: False if they do not match, None if they are unusual."""

_HEAD: Final = "{id}.{timestamp}."
_new = tuple.__new__


def usual_of(
    profile: Profile,
    candidates: Sequence[Candidate],
    *,
    past: int,
    future: int,
    clock: Callable[[], float],
) -> Usual:
    """
    Make that function; it never knows if the keys or the profile are not the usual ones.
    """
    candidate = _only(profile, candidates)
    if candidate is None:
        return _never
    names = (profile.id_header, profile.timestamp_header, profile.signature_header)
    count = len(names)
    texts, pairs = itemgetter(*names), itemgetter(*(name.encode() for name in names))
    scheme = candidate.scheme
    begin, end = candidate.copies
    earliest = -future
    prefix = f"{scheme},"
    whole = len(prefix) + candidate.length
    well_formed = usual_head
    key_id, name = candidate.key.id, profile.name

    def usual(body: Body, headers: Any) -> Verified | Literal[False] | None:
        try:
            # With no header besides, none can be there a second time in another case.
            if type(headers) is dict and (len(headers) == count or in_lower_case("".join(headers))):
                event, stamp, signature = texts(headers)
            elif (
                type(headers) is list
                and len(alone := dict(headers)) == len(headers)
                and in_lower_case(b"".join(alone))
            ):
                event, stamp, signature = pairs(alone)
                event, stamp, signature = event.decode(), stamp.decode(), signature.decode()
            else:
                return None
            head = f"{event}.{stamp}.".encode()
            are_texts = type(event) is type(stamp) is type(signature) is str
        except (AttributeError, KeyError, TypeError, ValueError):
            return None
        if not are_texts or len(signature) != whole or well_formed(head) is None:
            return None
        timestamp = int(stamp)
        age = int(clock()) - timestamp
        if not earliest <= age <= past:
            return None
        inner = begin()
        inner.update(head)
        inner.update(body)
        outer = end()
        outer.update(inner.digest())
        expected = prefix + b2a_base64(outer.digest(), newline=False).decode()
        try:
            if compare_digest(expected, signature):
                # Half of what calling the class costs, and that is a tenth of all of this.
                return _new(Verified, (event, timestamp, age, key_id, scheme, name))
        except TypeError:  # it is not ASCII
            pass
        # As long as one signature, it has room for no other of that length.
        one = signature.startswith(prefix) and signature.count(" ") < MOST_TOKENS
        return False if one else None

    return usual


def _only(profile: Profile, candidates: Sequence[Candidate]) -> MacCandidate | None:
    if profile.form is not Form.SPACED or profile.head != _HEAD or len(candidates) != 1:
        return None
    [one] = candidates
    return one if isinstance(one, MacCandidate) and one.encoding == "base64" else None


def _never(_body: Body, _headers: Any) -> None:
    return None
