"""
What a body, a secret or a signed head may have been before something changed it.

Pure guesses, each with its cause: `_doctor` tries which of them the signature
holds for.  Their number and their size are bounded.
"""

from __future__ import annotations

import binascii
import gzip
import json
import zlib
from collections.abc import Iterator
from contextlib import suppress
from itertools import product
from typing import Any, Final, NamedTuple, TypeAlias

from ..errors import WebhookError
from ._causes import Cause
from ._payload import parse_json
from ._profiles import PROFILES, Profile

__all__ = [
    "Guess",
    "any_base64",
    "body_guesses",
    "head_as_it_came",
    "head_guesses",
    "secret_guesses",
    "url_guesses",
]

LARGEST_REWRITTEN: Final = 262_144
LARGEST_INDENTED: Final = 65_536
_NEAR_SECONDS: Final = 60
_LONGEST_STAMP: Final = 16
_BOM: Final = b"\xef\xbb\xbf"
_GZIP: Final = b"\x1f\x8b"
_SPACES: Final = b" \t\r\n"
_LEVELS: Final = (6, 9, 1)


class Guess(NamedTuple):
    """
    What it may have been, why it is not any more, and how that reads.
    """

    cause: Cause
    was: bytes
    how: str


def body_guesses(body: bytes) -> Iterator[Guess]:
    """
    What a body may have been when it was signed, the most frequent first.
    """
    for before, cause, how in _ends(body):
        if before != body:
            yield Guess(cause, before, how)
    if len(body) <= LARGEST_REWRITTEN:
        yield from _compressed(body)
        yield from _text(body)
        yield from _json(body)


def _ends(body: bytes) -> Iterator[tuple[bytes, Cause, str]]:
    for end, name in ((b"\n", "LF"), (b"\r\n", "CRLF")):
        yield body + end, Cause.LINE_BREAK_CUT, f"with {name} at its end"
        if body.endswith(end):
            yield body.removesuffix(end), Cause.LINE_BREAK_ADDED, f"without {name} at its end"
    yield body.strip(_SPACES), Cause.LINE_BREAK_ADDED, "without white space at its ends"
    unix = body.replace(b"\r\n", b"\n")
    yield unix, Cause.LINE_ENDS_CHANGED, "with LF in the place of CRLF"
    yield unix.replace(b"\n", b"\r\n"), Cause.LINE_ENDS_CHANGED, "with CRLF in the place of LF"
    yield body.removeprefix(_BOM), Cause.BOM_ADDED, "without its byte order mark"
    yield _BOM + body, Cause.BOM_CUT, "with a byte order mark"
    yield b"", Cause.BODY_EMPTY, "empty"


def _compressed(body: bytes) -> Iterator[Guess]:
    if body.startswith(_GZIP):
        with suppress(zlib.error):
            # As much as could be written again: a bomb goes no further.
            plain = zlib.decompressobj(31).decompress(body, LARGEST_REWRITTEN)
            yield Guess(Cause.BODY_COMPRESSED, plain, "decompressed")
        return
    for level in _LEVELS:
        packed = gzip.compress(body, level, mtime=0)
        yield Guess(Cause.BODY_DECOMPRESSED, packed, f"compressed with gzip, level {level}")


def _text(body: bytes) -> Iterator[Guess]:
    yield Guess(Cause.REPR_SIGNED, repr(body).encode(), "as Python shows bytes")
    with suppress(UnicodeError):
        was = str(body, "utf-8").encode("latin-1")
        if was != body:
            yield Guess(Cause.CHARSET_CHANGED, was, "in Latin-1")
    if not body.isascii():
        was = str(body, "latin-1").encode()
        yield Guess(Cause.CHARSET_CHANGED, was, "from Latin-1 to UTF-8")
    with suppress(UnicodeError):
        for ascii_only in (True, False):
            was = json.dumps(str(body, "utf-8"), ensure_ascii=ascii_only).encode()
            yield Guess(Cause.TEXT_QUOTED, was, "as a string of JSON")


def _json(body: bytes) -> Iterator[Guess]:
    try:
        value = parse_json(body.removeprefix(_BOM))
    except WebhookError:
        return
    if isinstance(value, str):
        yield Guess(Cause.TEXT_QUOTED, value.encode(), "as what that string of JSON says")
    forms = _FORMS if len(body) <= LARGEST_INDENTED else _FORMS[:2]
    for written, how in _written(value, forms):
        if written != body:
            yield Guess(Cause.JSON_REWRITTEN, written, f"as JSON, {how}")


_Form: TypeAlias = tuple[str, dict[str, Any]]
_FORMS: Final[tuple[_Form, ...]] = (
    ("compact", {"separators": (",", ":")}),
    ("spaced", {"separators": (", ", ": ")}),
    ("indented by 2", {"indent": 2}),
    ("indented by 4", {"indent": 4}),
)


def _written(value: object, forms: tuple[_Form, ...]) -> Iterator[tuple[bytes, str]]:
    for (name, form), in_order, ascii_only in product(forms, (False, True), (False, True)):
        text = json.dumps(value, sort_keys=in_order, ensure_ascii=ascii_only, **form)
        order = "sorted" if in_order else "in its order"
        how = f"{name}, {order}, {'ASCII alone' if ascii_only else 'not ASCII alone'}"
        yield text.encode(), how
        yield text.replace("/", "\\/").encode(), f"{how}, slashes escaped"
        if not ascii_only:
            yield _for_html(text).encode(), f"{how}, escaped for HTML"


def _for_html(text: str) -> str:
    # As Go's encoder does unless it is told otherwise.
    for one in "<>&\u2028\u2029":
        text = text.replace(one, f"\\u{ord(one):04x}")
    return text


def secret_guesses(secret: str | bytes) -> Iterator[Guess]:
    """
    Which other key the same secret is to somebody who reads it in another way.

    Args:
        secret: The text of a `StandardSecret`, or the bytes of a `RawSecret`.
    """
    text = secret.encode() if isinstance(secret, str) else secret
    inner = text.removeprefix(b"whsec_")
    if isinstance(secret, str):
        yield Guess(Cause.SECRET_DECODED, text, "the whole text of the secret as the key")
        yield Guess(Cause.SECRET_DECODED, inner, "the text behind whsec_ as the key")
        yield Guess(Cause.SECRET_LINE_BREAK, text + b"\n", "the text and a line break as the key")
        return
    yield Guess(Cause.SECRET_LINE_BREAK, text + b"\n", "the secret and a line break as the key")
    if inner != text:
        yield Guess(Cause.SECRET_NOT_DECODED, inner, "the text behind whsec_ as the key")
    for encoding, decode in _DECODERS:
        with suppress(ValueError):
            was = decode(inner)
            yield Guess(Cause.SECRET_NOT_DECODED, was, f"the secret decoded from {encoding}")


def any_base64(text: bytes) -> bytes:
    """
    Decode base64 in either alphabet, padded or not.

    Raises:
        ValueError: If it is none.
    """
    standard = text.translate(bytes.maketrans(b"-_", b"+/")).rstrip(b"=")
    return binascii.a2b_base64(standard + b"=" * (-len(standard) % 4), strict_mode=True)


_DECODERS: Final = (("base64", any_base64), ("hexadecimal", binascii.unhexlify))


def head_guesses(profile: Profile, event: bytes, stamp: bytes) -> Iterator[Guess]:
    """
    What may have been signed before the body instead.
    """
    used = set()
    for one in PROFILES.values():
        if ("{id}" in one.head and not event) or ("{timestamp}" in one.head and not stamp):
            continue
        head = head_as_it_came(one.head, event, stamp)
        if one.head not in used and head != head_as_it_came(profile.head, event, stamp):
            used.add(one.head)
            yield Guess(Cause.OTHER_PROFILE, head, f"as the profile {one.name} signs")
    yield from _other_ids(profile, event, stamp)
    yield from _other_times(profile, event, stamp)


def head_as_it_came(head: str, event: bytes, stamp: bytes) -> bytes:
    """
    What is signed before the body, also with an id or a timestamp that is malformed.
    """
    return head.encode().replace(b"{timestamp}", stamp).replace(b"{id}", event)


def _other_ids(profile: Profile, event: bytes, stamp: bytes) -> Iterator[Guess]:
    if "{id}" not in profile.head:
        return
    bare = event.partition(b"_")[2]
    spellings = {event.lower(), event.upper(), event.strip(), bare, b"msg_" + event} - {event, b""}
    for was in sorted(spellings):
        head = head_as_it_came(profile.head, was, stamp)
        yield Guess(Cause.ID_CHANGED, head, "with the id in another spelling")


def _other_times(profile: Profile, event: bytes, stamp: bytes) -> Iterator[Guess]:
    if "{timestamp}" not in profile.head or not stamp.isdigit() or len(stamp) > _LONGEST_STAMP:
        return
    seconds = int(stamp)
    for was in (seconds * 1000, seconds // 1000):
        head = head_as_it_came(profile.head, event, b"%d" % was)
        yield Guess(Cause.TIMESTAMP_MILLISECONDS, head, "with a thousandth, or the thousandfold")
    for step in range(1, _NEAR_SECONDS + 1):
        for off in (-step, step):
            head = head_as_it_came(profile.head, event, b"%d" % (seconds + off))
            how = f"with a timestamp {step} s {'earlier' if off < 0 else 'later'}"
            yield Guess(Cause.TIMESTAMP_CHANGED, head, how)


def url_guesses(url: str, host: str) -> Iterator[tuple[str, str]]:
    """
    What a URL may have been for its sender, and how that reads.

    Args:
        url: As it is here.

        host: What the `Host` header says.
    """
    scheme, _, rest = url.partition("://")
    name, slash, path = rest.partition("/")
    swapped = {"http": "https", "https": "http"}.get(scheme.lower(), scheme)
    bare, mark, query = path.partition("?")
    yield f"{swapped}://{rest}", f"with {swapped}"
    for one in (scheme, swapped):
        if host and host != name:
            yield f"{one}://{host}{slash}{path}", f"with the host of the request and {one}"
    yield f"{scheme}://{name}{slash}{bare}", "without a query"
    yield f"{scheme}://{name}{slash}{bare.rstrip('/')}{mark}{query}", "without a slash at its end"
    yield f"{scheme}://{name}{slash}{bare}/{mark}{query}", "with a slash at its end"
