"""
What shows at a webhook that was refused without trying a signature.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ._case import Case, found
from ._causes import Cause, Diagnosis
from ._headers import LONGEST_TIMESTAMP
from ._profiles import PROFILES, Profile

__all__ = ["by_code", "by_facts"]

_HALF_HOUR: Final = 1_800
_MOST_HALF_HOURS: Final = 28  # the zones of the world are at most 14 hours from UTC
_NEAR: Final = 300
_LONGEST_LENGTH: Final = 18
_REPLACEMENT: Final = "\ufffd".encode()


def by_code(case: Case) -> Diagnosis | None:
    """
    What the code of the error says of it, with the headers and the clock.
    """
    look = _CODES.get(case.code)
    return look(case) if look else None


def by_facts(case: Case) -> Diagnosis | None:
    """
    What the body and the headers about it say.
    """
    length = case.first("content-length")
    if length.isdigit() and len(length) <= _LONGEST_LENGTH and int(length) != len(case.body):
        how = f"Content-Length says {int(length)} bytes, and {len(case.body)} are here"
        return found(Cause.BODY_LENGTH_CHANGED, how)
    if not case.body:
        return found(Cause.BODY_EMPTY, "the body is empty: something may have read it before")
    if case.first("content-encoding").strip().lower() not in (b"", b"identity"):
        how = "it says that it is compressed: the signature is of the bytes on the wire"
        return found(Cause.BODY_DECOMPRESSED, how)
    if _REPLACEMENT in case.body:
        how = "the body has replacement characters: it was read as text, which it was not"
        return found(Cause.CHARSET_CHANGED, how)
    return None


def _unknown_key(_: Case) -> Diagnosis:
    return found(Cause.KEY_UNKNOWN, "it names a key that is not ours, or not good now")


def _missing(case: Case) -> Diagnosis:
    ours = _names(case.profile)
    theirs = {name for one in PROFILES.values() for name in _names(one)} - set(ours)
    if any(map(case.first, ours)) and any(map(case.first, theirs)):
        how = "some of its headers are those of another profile"
        return found(Cause.HEADERS_MIXED, how)
    gone = ", ".join(name for name in ours if not case.first(name))
    return found(Cause.HEADER_MISSING, f"{gone} is missing or empty")


def _twice(case: Case) -> Diagnosis:
    names = [name for name in _names(case.profile) if len(case.values.get(name, ())) > 1]
    return found(Cause.HEADER_TWICE, f"{', '.join(names)} came more than once")


def _malformed(case: Case) -> Diagnosis:
    for name in (case.profile.id_header, case.profile.timestamp_header):
        before, comma, after = case.first(name).partition(b",")
        if comma and before.strip() == after.strip():
            how = f"{name} has its value twice in one line: something joined two headers"
            return found(Cause.HEADER_TWICE, how)
    how = "one of its headers is too long, has too many signatures, or is no id"
    return found(Cause.HEADER_MALFORMED, how)


def _stamp_malformed(case: Case) -> Diagnosis:
    if len(case.stamp) == LONGEST_TIMESTAMP + 1 and case.stamp.isdigit():
        return found(Cause.TIMESTAMP_MILLISECONDS, "the timestamp has 13 digits: milliseconds")
    before, comma, after = case.stamp.partition(b",")
    if comma and before.strip() == after.strip():
        return found(Cause.HEADER_TWICE, "the timestamp is there twice in one line")
    return found(Cause.TIMESTAMP_MALFORMED, "the timestamp is no number of seconds")


def _time(case: Case) -> Diagnosis | None:
    age = case.age
    if age is None:
        return None
    cause = Cause.CLOCKS_DIFFER if age < 0 else Cause.LATE
    how = f"its timestamp is {abs(age)} s {'ahead of' if age < 0 else 'behind'} our clock"
    near = round(age / _HALF_HOUR)
    if near and abs(age - near * _HALF_HOUR) <= _NEAR and abs(near) <= _MOST_HALF_HOURS:
        how += f", near {abs(near) / 2:g} h: a local time, taken for UTC?"
    return found(cause, how)


def _scheme(case: Case) -> Diagnosis:
    names = ", ".join(sorted(filter(None, case.profile.schemes))) or "one without a name"
    kinds = ", ".join(sorted({key.secret.kind for key in case.given.keyring.keys})) or "none"
    how = f"no signature is of a scheme for our keys: schemes {names}; keys {kinds}"
    return found(Cause.SCHEME_UNKNOWN, how)


def _type(case: Case) -> Diagnosis:
    takes = sorted({kind for one in case.profile.schemes.values() for kind in one.kinds})
    how = f"the profile {case.profile.name} takes secrets of the types {', '.join(takes)}"
    return found(Cause.SECRET_TYPE, how)


_CODES: Final[dict[str, Callable[[Case], Diagnosis | None]]] = {
    "missing_header": _missing,
    "duplicate_header": _twice,
    "malformed_header": _malformed,
    "timestamp_malformed": _stamp_malformed,
    "too_old": _time,
    "too_new": _time,
    "no_supported_scheme": _scheme,
    "secret_type_invalid": _type,
    "key_unknown": _unknown_key,
}


def _names(profile: Profile) -> list[str]:
    names = (profile.signature_header, profile.id_header, profile.timestamp_header)
    return [name for name in names if name]
