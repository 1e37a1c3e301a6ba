"""
Whether an answer has something of a tenant in it, as it is or encoded.

An answer is looked at as it was sent and as what its parts mean when they are
decoded: base64, hexadecimal digits, percent-encoding, JSON's and HTML's
escapes, and one of these within another.
"""

from __future__ import annotations

import base64
import binascii
import html
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes
from uuid import UUID

from ._http import AppAnswer, AppRequest

__all__ = ["UUID_TEXT", "Leak", "Needle", "find_leaks", "without_sent"]

_DEPTH = 2
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{8,}")
_HEX = re.compile(rb"[0-9A-Fa-f]{8,}")
_JSON_ESCAPE = re.compile(rb'\\(?:u([0-9A-Fa-f]{4})|([/"\\]))')

UUID_TEXT = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")


@dataclass(frozen=True, slots=True)
class Needle:
    """
    A text that belongs to one tenant, and what it is.
    """

    text: str
    what: str

    def forms(self) -> Iterator[tuple[str, bytes]]:
        """
        Yield how the text may be written, each form with its name, in lower case.
        """
        yield "", self.text.encode().lower()
        if UUID_TEXT.fullmatch(self.text):
            identity = UUID(self.text)
            yield "without dashes", identity.hex.encode()
            yield "as 16 bytes", identity.bytes.lower()
            yield "as a number", str(identity.int).encode()


@dataclass(frozen=True, slots=True)
class Leak:
    """
    Where a text of the one tenant stands in an answer to the other.
    """

    needle: Needle
    place: str
    how: str

    def __str__(self) -> str:
        how = f", {self.how}" if self.how else ""
        return f"{self.place}{how}: {self.needle.what} {self.needle.text!r}"


def find_leaks(answer: AppAnswer, needles: Iterable[Needle]) -> list[Leak]:
    """
    Find every needle in the headers and the body, at most one place of each.
    """
    places = [(f"header {name}", value.encode()) for name, value in answer.headers]
    places.append(("body", answer.content))
    views = [
        (place, how, seen) for place, data in places for how, seen in _views(data) if seen.strip()
    ]
    found = [leak for needle in needles if (leak := _first(needle, views)) is not None]
    # What is part of a longer find in the same place says nothing more.
    return [leak for leak in found if not any(_covers(other, leak) for other in found)]


def _covers(longer: Leak, leak: Leak) -> bool:
    text, part = longer.needle.text.lower(), leak.needle.text.lower()
    return text != part and part in text and (longer.place, longer.how) == (leak.place, leak.how)


def _first(needle: Needle, views: list[tuple[str, str, bytes]]) -> Leak | None:
    forms = list(needle.forms())
    for place, how, seen in views:
        for form, text in forms:
            if text in seen:
                return Leak(needle, place, ", ".join(filter(None, (how, form))))
    return None


def without_sent(needles: Iterable[Needle], request: AppRequest) -> list[Needle]:
    """
    Leave out what the request says itself: an echo of it tells nothing.
    """
    sent = [("", "", seen) for data in _said(request) for _, seen in _views(data)]
    return [needle for needle in needles if _first(needle, sent) is None]


def _said(request: AppRequest) -> Iterator[bytes]:
    yield request.path.encode()
    yield request.body
    # A token names who sends it; what it says is no word of the request.
    yield from (
        value.encode() for name, value in request.headers if name.lower() != "authorization"
    )


def _views(data: bytes) -> list[tuple[str, bytes]]:
    """
    The data and what can be decoded from it, in lower case, each with its encodings.
    """
    fringe = [("", data)]
    found = {data: ""}
    for _ in range(_DEPTH):
        new = []
        for how, one in fringe:
            for name, decode in _DECODERS.items():
                decoded = decode(one)
                if decoded and decoded not in found:
                    found[decoded] = f"{name} in {how}" if how else name
                    new.append((found[decoded], decoded))
        fringe = new
    return [(how, one.lower()) for one, how in found.items()]


def _from_base64(data: bytes) -> bytes:
    # What is glued to its front shifts the groups of four, so each shift is tried.
    # One that ends in a single odd character has only that one too many.
    parts = []
    for match in _BASE64.finditer(data):
        plain = match[0].replace(b"-", b"+").replace(b"_", b"/")
        for shift in range(4):
            cut = plain[shift:]
            cut = cut[:-1] if len(cut) % 4 == 1 else cut
            parts.append(base64.b64decode(cut + b"=" * (-len(cut) % 4)))
    return b"\0".join(parts)


def _from_hex(data: bytes) -> bytes:
    parts = []
    for match in _HEX.finditer(data):
        for shift in (0, 1):
            cut = match[0][shift:]
            parts.append(binascii.unhexlify(cut[: len(cut) // 2 * 2]))
    return b"\0".join(parts)


def _from_percent(data: bytes) -> bytes:
    return unquote_to_bytes(data.replace(b"+", b" ")) if b"%" in data else b""


def _from_json(data: bytes) -> bytes:
    def plain(match: re.Match[bytes]) -> bytes:
        if match[1] is None:
            return match[2]
        return chr(int(match[1], 16)).encode(errors="replace")

    return _JSON_ESCAPE.sub(plain, data) if b"\\" in data else b""


def _from_html(data: bytes) -> bytes:
    if b"&" not in data:
        return b""
    return html.unescape(data.decode(errors="replace")).encode()


_DECODERS: dict[str, Callable[[bytes], bytes]] = {
    "base64": _from_base64,
    "hexadecimal": _from_hex,
    "percent-encoded": _from_percent,
    "escaped in JSON": _from_json,
    "escaped in HTML": _from_html,
}
