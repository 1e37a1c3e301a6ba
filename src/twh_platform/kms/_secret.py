"""
A secret as a value that does not show itself.

What is printed, formatted, logged, pickled or found among the locals of a
traceback is `Secret(hidden)`.  The value comes out where somebody asks for it
by name: `Secret.reveal` and `Secret.text`.

Code of ours that must hand the value on passes `Secret.hidden()`: bytes like
any other to whoever encrypts or sends them, and nothing to whoever prints them.
A slice or a copy of them is plain again, so they go only where they are used up.
Memory is not wiped: Python copies bytes as it likes.
"""

from __future__ import annotations

import base64
import hmac
import secrets
from collections.abc import Callable
from typing import Any, Final, NoReturn, Self, SupportsIndex, final

from .._hidden import HiddenBytes, not_pickled
from ..errors import ConfigurationError, SecretError

__all__ = ["FORMS", "LONGEST_SECRET_BYTES", "HiddenBytes", "Secret"]

LONGEST_SECRET_BYTES = 65_536
_LEAST_RANDOM_BYTES = 16
_MOST_RANDOM_BYTES = 1_024


def _base64url(value: bytes) -> bytes:
    return base64.urlsafe_b64encode(value).rstrip(b"=")


FORMS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "raw": lambda value: value,
    "hex": lambda value: value.hex().encode(),
    "base64url": _base64url,
    "whsec": lambda value: b"whsec_" + base64.b64encode(value),
}
"""How random bytes are written; ``whsec`` is that of Standard Webhooks."""


@final
class Secret:
    """
    A secret value: 1 to 65,536 bytes that show themselves to nobody unasked.

    Two are equal if their bytes are; comparing takes the same time wherever
    they differ.  It has no hash, so it is no key of a dictionary, and it is not
    pickled; a copy of it is itself.

        >>> token = Secret("s3cr3t")
        >>> token, f"{token}", str([token])
        (Secret(hidden), 'Secret(hidden)', '[Secret(hidden)]')
        >>> token.reveal(), token == Secret(b"s3cr3t")
        (b's3cr3t', True)

    Args:
        value: The bytes, or a text, which is kept as UTF-8.

    Raises:
        twh_platform.errors.ConfigurationError: With code ``secret_invalid``, if
            it is neither, is empty, or is too long.
    """

    __slots__ = ("_hidden",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, value: bytes | bytearray | str) -> None:
        fault = _fault(value)
        if fault:
            # Raised where a traceback with locals finds no value.
            del value
            raise ConfigurationError(f"a secret {fault}", code="secret_invalid")
        self._hidden = HiddenBytes(value.encode() if isinstance(value, str) else value)

    @classmethod
    def random(cls, n: int = 32, form: str = "raw") -> Secret:
        """
        Make a secret of *n* bytes from the system's random source.

            >>> Secret.random(24, "whsec").text().startswith("whsec_")
            True

        Args:
            n: How many random bytes: 16 to 1,024.

            form: How they are written: ``raw``, ``hex``, ``base64url`` or
                ``whsec``.

        Raises:
            twh_platform.errors.ConfigurationError: With code ``secret_invalid``.
        """
        if not _LEAST_RANDOM_BYTES <= n <= _MOST_RANDOM_BYTES:
            message = f"a random secret has {_LEAST_RANDOM_BYTES} to {_MOST_RANDOM_BYTES} bytes"
            raise ConfigurationError(f"{message}, not {n}", code="secret_invalid")
        if form not in FORMS:
            message = f"a secret's form is one of {', '.join(FORMS)}, not {form!r}"
            raise ConfigurationError(message, code="secret_invalid")
        return cls(FORMS[form](secrets.token_bytes(n)))

    def reveal(self) -> bytes:
        """
        The value, as bytes that show themselves like any other.
        """
        return bytes(self._hidden)

    def text(self) -> str:
        """
        The value as text.

        Raises:
            twh_platform.errors.SecretError: With code ``secret_not_text``, if it
                is not UTF-8.
        """
        try:
            return str(self._hidden, "utf-8")
        except UnicodeDecodeError:
            # Its message has a byte of the value, and it holds all of them.
            pass
        raise SecretError("a secret is not text in UTF-8", code="secret_not_text")

    def hidden(self) -> HiddenBytes:
        """
        The value as bytes that are not shown, for whoever encrypts or sends them.
        """
        return self._hidden

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._hidden, other._hidden)

    def __repr__(self) -> str:
        return "Secret(hidden)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __setattr__(self, name: str, value: Any) -> None:
        if hasattr(self, "_hidden"):
            raise SecretError("a secret does not change", code="secret_immutable")
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> NoReturn:
        raise SecretError("a secret does not change", code="secret_immutable")

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise not_pickled()


def _fault(value: object) -> str:
    if not isinstance(value, (bytes, bytearray, str)):
        return f"is bytes or text, not {type(value).__name__}"
    if not value:
        return "is not empty"
    # Lone surrogates count as what they would take, and are refused.
    if isinstance(value, str) and not _encodes(value):
        return "is text that UTF-8 can write"
    size = len(value.encode()) if isinstance(value, str) else len(value)
    return f"has at most {LONGEST_SECRET_BYTES} bytes" if size > LONGEST_SECRET_BYTES else ""


def _encodes(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
