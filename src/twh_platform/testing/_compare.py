"""
Whether two answers say the same, but for what differs between any two.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from ._http import AppAnswer
from ._leaks import UUID_TEXT

__all__ = ["Said", "changes", "otherwise"]

_REFUSED = 400
_TIMES = re.compile(
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?"
    r"|[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT"
)
_CHANCE = re.compile(r"\b[0-9a-fA-F]{16,}\b")
_COUNTED = re.compile(
    r"(?:x-)?ratelimit\b.*|retry-after|date|age|content-length|server-timing|.*-time"
)

Essence = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Said:
    """
    An answer, and the values that were put into its request.
    """

    answer: AppAnswer
    sent: tuple[object, ...]


def otherwise(found: Said, usual: tuple[Said, Said], volatile: Collection[str]) -> str:
    """
    Say in what an answer differs from both of two usual ones; empty if it is like one of them.

    What the request said, and what chance and time say, does not count.  Where
    the two usual ones are the same word for word, so has the third to be; else
    names, types and numbers of members have to be.
    """
    exact = [essence(one, volatile, exact=True) for one in usual]
    alike = exact[0] == exact[1]
    wanted = exact if alike else [essence(one, volatile, exact=False) for one in usual]
    got = essence(found, volatile, exact=alike)
    return "" if got in wanted else differences(got, wanted[0])


def essence(said: Said, volatile: Collection[str], *, exact: bool) -> Essence:
    """
    What an answer says.

    Args:
        said: The answer, and what was put into its request.

        volatile: Names of headers and JSON members whose values do not count.

        exact: Whether every word of a success counts, as it does of a refusal,
            or the names and types of its members and how many there are.
    """
    answer, hide = said.answer, _Hiding(said.sent, volatile)
    exact = exact or answer.status >= _REFUSED
    body = answer.find_json()
    words: Any = hide.text(answer.text) if exact else len(answer.text.splitlines())
    if body is not None:
        words = hide.members(body) if exact else _shape(body)
    values = {
        name: "" if name in volatile or not exact or _COUNTED.fullmatch(name) else hide.text(value)
        for name, value in answer.headers
    }
    kind = (answer.header("content-type") or "").partition(";")[0]
    return {"status": answer.status, "content-type": kind, "headers": values, "body": words}


def differences(found: Essence, wanted: Essence) -> str:
    """
    Say in what two answers differ; an empty string if in nothing.
    """
    parts = [
        f"{name} {_brief(found[name])} instead of {_brief(wanted[name])}"
        for name in ("status", "content-type", "headers", "body")
        if found[name] != wanted[name]
    ]
    return "; ".join(parts)


def _brief(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 200 else f"{text[:200]}..."  # noqa: PLR2004 -- a line or two


class _Hiding:
    def __init__(self, sent: Iterable[object], volatile: Collection[str]) -> None:
        texts = {str(one) for one in sent} - {""}
        forms = (
            texts
            | {quote(one, safe="") for one in texts}
            | {json.dumps(one)[1:-1] for one in texts}
        )
        longest = sorted(forms, key=len, reverse=True)
        self._sent = [
            re.compile(
                rf"(?<![0-9]){one}(?![0-9])" if one.isdigit() else re.escape(one), re.IGNORECASE
            )
            for one in longest
        ]
        self._volatile = volatile

    def text(self, text: str) -> str:
        for pattern in self._sent:
            text = pattern.sub("<sent>", text)
        text = UUID_TEXT.sub("<uuid>", text)
        return _CHANCE.sub("<hex>", _TIMES.sub("<time>", text))

    def members(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {
                key: "" if key in self._volatile else self.members(one)
                for key, one in value.items()
            }
        if isinstance(value, list):
            return [self.members(one) for one in value]
        plain = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
        return self.text(plain) if isinstance(plain, str) else plain


def _shape(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _shape(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_shape(one) for one in value]
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    return "number" if isinstance(value, int | float) else "string"


def changes(before: AppAnswer, after: AppAnswer) -> set[str]:
    """
    The places in which two answers to the same request differ: status, body, or parts of it.
    """
    if before.status != after.status:
        return {f"status {before.status}, then {after.status}"}
    first, second = before.find_json(), after.find_json()
    if first is None or second is None:
        return set() if before.content == after.content else {"body"}
    return set(_differing(first, second, "body"))


def _differing(first: Any, second: Any, place: str) -> Iterator[str]:
    if isinstance(first, dict) and isinstance(second, dict) and first.keys() == second.keys():
        for key in first:
            yield from _differing(first[key], second[key], f"{place}.{key}")
    elif isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        for one, other in zip(first, second, strict=True):
            yield from _differing(one, other, f"{place}[]")
    elif first != second:
        yield place
