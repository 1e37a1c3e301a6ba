"""
A key together with a scheme that it fits: what a signature is compared with.
"""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64, hexlify
from collections.abc import Callable, Iterator
from functools import partial
from hmac import compare_digest
from typing import Any, Final, Protocol, TypeAlias, final

from ..errors import WebhookUsageError
from ._headers import Token
from ._keyring import Key
from ._profiles import Profile, Scheme
from ._secrets import Hash, HmacSecret, VerifyingKey

__all__ = ["ENCODINGS", "Candidate", "MacCandidate", "Running", "candidates_of"]

ENCODINGS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "base64": partial(b2a_base64, newline=False),
    "hex": hexlify,
}
_SIGNATURE_BYTES: Final = 64
_SMALL_BYTES: Final = 4_096


class Running(Protocol):
    """
    What takes in the signed bytes as they come.
    """

    def update(self, data: Any, /) -> None:
        """
        Take in the next ones.
        """
        ...


class _Candidate:
    __slots__ = ("key", "name", "scheme")

    def __init__(self, key: Key, scheme: str) -> None:
        self.key = key
        self.scheme = scheme
        self.name = scheme.encode()


@final
class MacCandidate(_Candidate):
    """
    A shared secret: the MAC is made once, and compared with each signature.

    Attributes:
        encoding: Of the signature.

        length: Of the signature, in characters.

        copies: What begins the inner hash, and what begins the outer one.
    """

    __slots__ = ("_encode", "copies", "encoding", "length")

    def __init__(self, key: Key, name: str, scheme: Scheme, secret: HmacSecret) -> None:
        super().__init__(key, name)
        inner, outer = secret.pads(scheme.algorithm.removeprefix("hmac-"))
        self.copies = inner.copy, outer.copy
        self.encoding = scheme.encoding
        self._encode = ENCODINGS[scheme.encoding]
        self.length = len(self._encode(outer.digest()))

    def begin(self, head: bytes) -> Hash:
        running = self.copies[0]()
        running.update(head)
        return running

    def whole(self, head: bytes, body: Any) -> Any:
        running = self.copies[0]()
        running.update(head)
        running.update(body)
        return running

    def signature(self, running: Hash) -> bytes:
        """
        What the signature has to be: as text, so that it has one spelling.
        """
        outer = self.copies[1]()
        outer.update(running.digest())
        return self._encode(outer.digest())

    def matches(self, running: Any, tokens: list[Token]) -> bool:
        expected = self.signature(running)
        found = False
        for name, signature in tokens:
            if name == self.name and compare_digest(expected, signature):
                found = True
        return found


class _Collected:
    # Ed25519 reads the message twice, so it has to be there as a whole.
    __slots__ = ("parts",)

    def __init__(self, head: bytes) -> None:
        self.parts: list[bytes | bytearray] = [head]

    def update(self, data: Any) -> None:
        piece, last = bytes(data), self.parts[-1]
        if len(piece) >= _SMALL_BYTES:
            self.parts.append(piece)
        elif isinstance(last, bytearray):
            last += piece
        else:
            # Each as an object would take many times its size.
            self.parts.append(bytearray(piece))


@final
class _Signature(_Candidate):
    """
    A public key.
    """

    __slots__ = ("_fits",)

    def __init__(self, key: Key, name: str, secret: VerifyingKey) -> None:
        super().__init__(key, name)
        self._fits = secret.fits

    def begin(self, head: bytes) -> Running:
        return _Collected(head)

    def whole(self, head: bytes, body: Any) -> Any:
        running = _Collected(head)
        running.update(body)
        return running

    def matches(self, running: Any, tokens: list[Token]) -> bool:
        message = b"".join(running.parts)
        signatures = [_decoded(text) for name, text in tokens if name == self.name]
        return any(self._fits(one, message) for one in signatures if one)


Candidate: TypeAlias = MacCandidate | _Signature


def candidates_of(key: Key, profile: Profile) -> Iterator[Candidate]:
    """
    Pair a key with each scheme of a profile that it fits.

    Raises:
        twh_platform.errors.WebhookUsageError: With code ``secret_type_invalid``,
            if it fits none.
    """
    secret, kind = key.secret, key.secret.kind
    fitting = [(name, one) for name, one in profile.schemes.items() if kind in one.kinds]
    if not fitting or not isinstance(secret, (HmacSecret, VerifyingKey)):
        message = f"profile {profile.name!r} does not verify with a {type(secret).__name__}"
        raise WebhookUsageError(message, code="secret_type_invalid")
    for name, scheme in fitting:
        if isinstance(secret, HmacSecret):
            yield MacCandidate(key, name, scheme, secret)
        else:
            yield _Signature(key, name, secret)


def _decoded(text: bytes) -> bytes:
    try:
        found = a2b_base64(text, strict_mode=True)
    except ValueError:
        return b""
    one_spelling = ENCODINGS["base64"](found) == text
    return found if one_spelling and len(found) == _SIGNATURE_BYTES else b""
