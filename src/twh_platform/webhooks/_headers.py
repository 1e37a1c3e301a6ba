"""
The headers of a webhook: exactly one of each, short, and in the one form they have.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterable, Mapping
from operator import itemgetter
from typing import Any, Final, TypeAlias, final

from ..errors import WebhookError, WebhookUsageError
from ._profiles import Form

__all__ = [
    "READERS",
    "HeaderReader",
    "Headers",
    "Token",
    "in_lower_case",
    "timestamp_of",
    "usual_head",
    "valid_id",
]

Headers: TypeAlias = Mapping[str, str] | Iterable[tuple[bytes, bytes]] | Iterable[tuple[str, str]]
"""A mapping of texts in any case, or pairs, as ASGI gives them in ``scope["headers"]``."""

Token: TypeAlias = tuple[bytes, bytes]
"""The name of a scheme, and a signature."""

Signatures: TypeAlias = tuple[bytes, list[Token]]
"""A timestamp, empty if the header has none, and the signatures."""

LONGEST_HEADER: Final = 8_192
MOST_TOKENS: Final = 16

LONGEST_ID: Final = 256
LONGEST_TIMESTAMP: Final = 12
_ID: Final = (string.ascii_letters + string.digits + "_-").encode()

usual_head: Final = re.compile(rb"[A-Za-z0-9_-]{1,256}+\.[1-9][0-9]{0,11}+\.").fullmatch
"""`valid_id` and `timestamp_of` in one, for the ``{id}.{timestamp}.`` of Standard Webhooks."""


def valid_id(text: bytes) -> bool:
    """
    Whether it is 1 to 256 of the letters, digits, ``_`` and ``-`` of ASCII.

    A full stop is none of them: it is what separates the id from what follows.
    """
    return 0 < len(text) <= LONGEST_ID and not text.translate(None, _ID)


def timestamp_of(text: bytes) -> int:
    """
    Read a timestamp: 1 to 12 digits, the first of them no zero.

    Raises:
        twh_platform.errors.WebhookError: With code ``timestamp_malformed``.
    """
    if text.isdigit() and len(text) <= LONGEST_TIMESTAMP and not text.startswith(b"0"):
        return int(text)
    raise WebhookError("the timestamp is malformed", code="timestamp_malformed")


@final
class HeaderReader:
    """
    Finds the one value of each of these headers.

    Args:
        names: In lower case.
    """

    __slots__ = ("_names", "_raws", "_texts")

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names
        self._texts = _getter(names)
        self._raws = _getter(tuple(name.encode() for name in names))

    def values(self, headers: Headers) -> list[bytes]:
        """
        Find them in whatever was given.

        Raises:
            twh_platform.errors.WebhookError: With code ``missing_header``,
                ``duplicate_header`` or ``malformed_header``.

            twh_platform.errors.WebhookUsageError: With code ``headers_invalid``,
                if these are no headers.
        """
        found = self._plain(headers)
        if found is not None:
            return found
        try:
            # A list is told first: asking about a Mapping costs as much as all the rest.
            if not isinstance(headers, list) and isinstance(headers, Mapping):
                seen = self._seen(headers.items())
            else:
                seen = self._seen(headers)
        except (AttributeError, TypeError, ValueError) as error:
            message = "headers are a mapping of texts, or pairs of texts or of bytes"
            raise WebhookUsageError(message, code="headers_invalid") from error
        return [_only(seen, name) for name in self._names]

    def _seen(self, pairs: Any) -> dict[str, list[bytes]]:
        seen: dict[str, list[bytes]] = {}
        for name, value in pairs:
            lower = name.lower() if isinstance(name, str) else str(name.lower(), "latin-1")
            # The lower case of some letters beyond ASCII is a letter of ASCII.
            if lower in self._names and name.isascii():
                seen.setdefault(lower, []).append(_bytes(lower, value))
        return seen

    def _plain(self, headers: Any) -> list[bytes] | None:
        # What most callers give, in a third of the time: names in lower case, each once.
        try:
            if type(headers) is dict and in_lower_case("".join(headers)):
                found = [value.encode() for value in self._texts(headers)]
            elif type(headers) is list:
                alone = dict(headers)
                if len(alone) < len(headers) or not in_lower_case(b"".join(alone)):
                    return None
                found = [value for value in self._raws(alone) if type(value) is bytes]
            else:
                return None
        except (AttributeError, KeyError, TypeError, ValueError):
            return None
        usual = len(found) == len(self._names) and all(found)
        return found if usual and max(map(len, found)) <= LONGEST_HEADER else None


def in_lower_case(names: Any) -> bool:
    """
    Whether no name that is different can be the same in lower case.
    """
    return bool(names == names.lower())


def _getter(names: tuple[Any, ...]) -> Callable[[Any], tuple[Any, ...]]:
    if len(names) == 1:
        return lambda found: (found[names[0]],)
    return itemgetter(*names)


def _bytes(name: str, value: object) -> bytes:
    if isinstance(value, str):
        # Whatever is not ASCII is wrong in each of them, and is found to be so there.
        return value.encode("utf-8", "surrogatepass")
    if not isinstance(value, (bytes, bytearray)):
        raise TypeError(name)
    return bytes(value)


def _only(seen: dict[str, list[bytes]], name: str) -> bytes:
    values = seen.get(name, [])
    if len(values) > 1:
        raise WebhookError(f"{name} came {len(values)} times", code="duplicate_header")
    if not values or not values[0]:
        raise WebhookError(f"{name} is missing", code="missing_header")
    if len(values[0]) > LONGEST_HEADER:
        raise WebhookError(f"{name} is too long", code="malformed_header")
    return values[0]


def _spaced(value: bytes) -> Signatures:
    if b" " not in value:  # as nearly all are
        name, comma, signature = value.partition(b",")
        return b"", [(name, signature)] if comma else []
    parts = [part.partition(b",") for part in _split(value, b" ", MOST_TOKENS)]
    return b"", [(name, signature) for name, comma, signature in parts if comma]


def _fields(value: bytes) -> Signatures:
    parts = [part.partition(b"=") for part in _split(value, b",", MOST_TOKENS + 1)]
    stamps = [text for name, equals, text in parts if name == b"t" and equals]
    if len(stamps) != 1:
        message = f"there are {len(stamps)} timestamps among the signatures"
        raise WebhookError(message, code="malformed_header")
    return stamps[0], [(name, text) for name, equals, text in parts if name != b"t" and equals]


def _prefixed(value: bytes) -> Signatures:
    name, equals, rest = value.partition(b"=")
    if not equals:
        return b"", []
    return b"", [(name, one) for one in _split(rest, b",", MOST_TOKENS)]


def _plain_one(value: bytes) -> Signatures:
    return b"", [(b"", value)]


def _split(value: bytes, separator: bytes, most: int) -> list[bytes]:
    parts = value.split(separator, most)
    if len(parts) > most:
        raise WebhookError(f"there are more than {MOST_TOKENS} signatures", code="malformed_header")
    return parts


READERS: Final[dict[Form, Callable[[bytes], Signatures]]] = {
    Form.SPACED: _spaced,
    Form.FIELDS: _fields,
    Form.PREFIXED: _prefixed,
    Form.PLAIN: _plain_one,
}
"""
How each form of the signatures' header is read: into the timestamp, if it has one,
and the signatures.  What is no signature is passed over, so that one that we do not
know does not hide one that we do.
"""
