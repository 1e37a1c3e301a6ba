"""
A strict reader of Structured Fields: Lists of Items, as RFC 9651, section 4.2 has them.

Written from the RFC alone, so that what we write is read by other code than
ours.  Decimals, dates and inner lists are left out; everything else that breaks
the grammar is a `ValueError`.
"""

from __future__ import annotations

import base64
import re
from typing import Any

__all__ = ["Token", "read_list"]

_KEY = re.compile(r"[a-z*][a-z0-9_.*-]*")
_INTEGER = re.compile(r"-?[0-9]{1,15}(?![0-9.])")
_STRING = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')
_TOKEN = re.compile(r"[A-Za-z*][!#$%&'*+.^_`|~0-9A-Za-z:/-]*")
_BYTES = re.compile(r":([A-Za-z0-9+/]*={0,2}):")
_COMMA = re.compile(r"[ \t]*,[ \t]*")

Item = tuple[Any, dict[str, Any]]


class Token(str):
    """
    A bare word, which is another type than a String.
    """

    __slots__ = ()


def read_list(field: bytes | str) -> list[Item]:
    """
    Read the value of a field: each member with its parameters.
    """
    text = field.decode("ascii") if isinstance(field, bytes) else field
    rest = text.strip(" ")
    members: list[Item] = []
    while rest:
        member, rest = _item(rest)
        members.append(member)
        if rest:
            comma = _COMMA.match(rest)
            if comma is None or comma.end() == len(rest):
                message = f"no member after {text!r}"
                raise ValueError(message)
            rest = rest[comma.end() :]
    return members


def _item(text: str) -> tuple[Item, str]:
    value, text = _bare_item(text)
    parameters: dict[str, Any] = {}
    while text.startswith(";"):
        text = text[1:].lstrip(" ")
        key = _KEY.match(text)
        if key is None:
            message = f"no key at {text!r}"
            raise ValueError(message)
        text, parameters[key[0]] = text[key.end() :], True
        if text.startswith("="):
            parameters[key[0]], text = _bare_item(text[1:])
    return (value, parameters), text


def _bare_item(text: str) -> tuple[Any, str]:
    if found := _STRING.match(text):
        return re.sub(r"\\(.)", r"\1", found[1]), text[found.end() :]
    if found := _INTEGER.match(text):
        return int(found[0]), text[found.end() :]
    if found := _BYTES.match(text):
        return base64.b64decode(found[1], validate=True), text[found.end() :]
    if text.startswith(("?0", "?1")):
        return text[1] == "1", text[2:]
    if found := _TOKEN.match(text):
        return Token(found[0]), text[found.end() :]
    message = f"no item at {text!r}"
    raise ValueError(message)
