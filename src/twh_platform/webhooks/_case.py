"""
A webhook that was refused, as the doctor looks at it: what came, and what it is tried with.
"""

from __future__ import annotations

import binascii
import hmac
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple, TypeAlias, final

from ._causes import Cause, Diagnosis
from ._guesses import any_base64, head_as_it_came
from ._headers import LONGEST_TIMESTAMP, Headers
from ._keyring import Key, Keyring, Keys
from ._profiles import Profile
from ._secrets import HmacSecret, VerifyingKey
from ._usual import Body

__all__ = ["Case", "Fits", "Given", "Way", "found"]

MOST_HASHED_BYTES: Final = 67_108_864
MOST_TRIALS: Final = 4_096
# What a trial costs beside the bytes that it hashes, as so many bytes.
_MAC_COST: Final = 512
_ED25519_COST: Final = 65_536
_LONGEST_VALUE: Final = 8_192
_MOST_PIECES: Final = 64
_MOST_SIGNATURES: Final = 16
_SIGNATURE_SIZES: Final = frozenset({32, 64})
_BETWEEN: Final = re.compile(rb"[ \t,;]+")
_NAMED: Final = re.compile(rb"\A[A-Za-z0-9]{1,8}=(?=.)")

Fits: TypeAlias = Callable[[bytes, bytes], bool]
"""Whether one of the signatures is of a head and a body."""


class Way(NamedTuple):
    """
    One reading of one key.

    Attributes:
        key_id: Which key.

        fits: Whether one of the signatures is of it, for a head and a body.

        cost: What a trial costs beside the bytes that it hashes, as so many bytes.

        key: The key, if it is one of the keyring's.
    """

    key_id: str
    fits: Fits
    cost: int
    key: Key | None = None


def found(cause: Cause, how: str, way: Way | None = None) -> Diagnosis:
    """
    What was found: proven, if a way is given by which the signature holds.
    """
    key_id = way.key_id if way else ""
    return Diagnosis(cause=cause, how=how, proven=way is not None, key_id=key_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """
    What `diagnose` was given.

    Attributes:
        now: Unix seconds: the one moment of all of it.

        request: The method and the URL.
    """

    body: Body
    headers: Headers
    keyring: Keyring
    profile: Profile
    now: float
    others: Mapping[str, Keys]
    request: tuple[str, str]

    def clock(self) -> float:
        """
        The one moment, for who wants a clock.
        """
        return self.now


@final
class Case:
    """
    What came, read as far as it can be, and how much more may be tried.

    Args:
        given: What came; that it is a body and headers was checked.

        code: That of the error, "" under another profile than it was verified by.
    """

    def __init__(self, given: Given, code: str = "") -> None:
        profile = given.profile
        self.given, self.code, self.profile = given, code, profile
        self.bytes_left, self.trials_left = MOST_HASHED_BYTES, MOST_TRIALS
        self.body, self.values = bytes(given.body), _loose(given.headers)
        self.event = self.first(profile.id_header)[:_LONGEST_VALUE]
        pieces = _BETWEEN.split(self.first(profile.signature_header)[:_LONGEST_VALUE])
        self.stamp = self.first(profile.timestamp_header)[:_LONGEST_VALUE] or _field(pieces, b"t=")
        signatures = filter(None, map(_decoded, pieces[:_MOST_PIECES]))
        self.signatures = list(signatures)[:_MOST_SIGNATURES]
        self.head = head_as_it_came(profile.head, self.event, self.stamp)

    def under(self, profile: Profile) -> Case:
        """
        The same, as another profile reads it.
        """
        return Case(replace(self.given, profile=profile))

    def first(self, name: str) -> bytes:
        """
        The first value of a header, or nothing.
        """
        return self.values.get(name, [b""])[0]

    def ways(self) -> list[Way]:
        """
        The keys as they are, those that are good now first.
        """
        keys = sorted(self.given.keyring.keys, key=lambda one: not one.good(self.given.now))
        return [way for key in keys for way in self.ways_of(key)]

    def ways_of(self, key: Key) -> Iterator[Way]:
        """
        What one key is tried as.
        """
        secret = key.secret
        if isinstance(secret, HmacSecret):
            yield from self.ways_by(key, _key_bytes(secret))
            return
        public = secret if isinstance(secret, VerifyingKey) else getattr(secret, "public", None)
        if isinstance(public, VerifyingKey):
            signatures, fits = self.signatures, public.fits
            yield Way(
                key.id,
                lambda head, body: any(fits(one, head + body) for one in signatures),
                _ED25519_COST,
                key,
            )

    def ways_by(self, key: Key, raw: bytes) -> Iterator[Way]:
        """
        What the bytes of a shared secret are tried as.
        """
        schemes = {one.algorithm.removeprefix("hmac-") for one in self.profile.schemes.values()}
        for algorithm in sorted(schemes - {"ed25519"}) or ["sha256"]:
            yield Way(key.id, _mac(raw, algorithm, self.signatures), _MAC_COST, key)

    def holds(self, way: Way, head: bytes, body: bytes) -> bool:
        """
        Whether a signature is of these bytes; no, once enough was tried.
        """
        cost = len(head) + len(body) + way.cost
        if not self.signatures or cost > self.bytes_left or not self.trials_left:
            return False
        self.bytes_left -= cost
        self.trials_left -= 1
        return way.fits(head, body)

    @property
    def age(self) -> int | None:
        """
        How old the timestamp says it is, in seconds.
        """
        if not self.stamp.isdigit() or len(self.stamp) > LONGEST_TIMESTAMP:
            return None
        return int(self.given.now) - int(self.stamp)


def _key_bytes(secret: HmacSecret) -> bytes:
    return bytes(secret._hidden)  # noqa: SLF001 -- of this package, for trials alone


def _mac(raw: bytes, algorithm: str, signatures: list[bytes]) -> Fits:
    def fits(head: bytes, body: bytes) -> bool:
        running = hmac.new(raw, head, algorithm)
        running.update(body)
        made = running.digest()
        return any(hmac.compare_digest(made, one) for one in signatures)

    return fits


def _loose(headers: Any) -> dict[str, list[bytes]]:
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    found: dict[str, list[bytes]] = {}
    for name, value in pairs:
        lower = (name if isinstance(name, str) else str(name, "latin-1")).lower()
        text = value.encode("utf-8", "replace") if isinstance(value, str) else value
        # Others than ours were not checked, and may be anything.
        if isinstance(text, (bytes, bytearray)):
            found.setdefault(lower, []).append(bytes(text))
    return found


def _field(pieces: list[bytes], name: bytes) -> bytes:
    return next((one.removeprefix(name) for one in pieces if one.startswith(name)), b"")


def _decoded(piece: bytes) -> bytes:
    # However it is spelled: in hexadecimal, in base64 for addresses, without padding.
    text = _NAMED.sub(b"", piece, count=1)
    for decode in (binascii.unhexlify, any_base64):
        with suppress(ValueError):
            raw = decode(text)
            return raw if len(raw) in _SIGNATURE_SIZES else b""
    return b""
