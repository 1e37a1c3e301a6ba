"""
How an operation is written into a migration: as Python, in lines that are not too long.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

__all__ = ["call", "comments"]

_WIDTH = 80


def comments(what: str, differences: Sequence[str]) -> list[str]:
    """
    Say what was found different, a comment for each.
    """
    # A name can hold anything, even a line break.
    return [f"# {ascii(what)[1:-1]}: {ascii(one)[1:-1]}" for one in differences]


def call(name: str, positional: Iterable[Any], options: Mapping[str, Any]) -> str:
    """
    Write a call of an operation.
    """
    arguments = [_written(one) for one in positional]
    arguments += [f"{key}={_written(value)}" for key, value in options.items()]
    return _bracketed(f"op.{name}(", arguments, ")")


def _written(value: object) -> str:
    if isinstance(value, str):
        lines = value.splitlines(keepends=True)
        return repr(value) if len(lines) < 2 else _bracketed("(", map(repr, lines), ")", "")  # noqa: PLR2004
    if isinstance(value, (list, tuple)):
        if value and isinstance(value[0], tuple) and isinstance(value, list):
            return _bracketed("[", map(repr, value), "]")
        return _bracketed("[", map(_written, value), "]")
    if not hasattr(value, "__dataclass_fields__"):
        return repr(value)
    given = [
        f"{one.name}={_written(getattr(value, one.name))}"
        for one in fields(value)  # type: ignore[arg-type]
        if getattr(value, one.name) != one.default
    ]
    return _bracketed(f"{type(value).__name__}(", given, ")")


def _bracketed(before: str, parts: Iterable[str], after: str, comma: str = ",") -> str:
    listed = list(parts)
    flat = before + f"{comma} ".join(listed) + after
    if len(flat) <= _WIDTH and "\n" not in flat:
        return flat
    inner = "".join(f"{part}{comma}\n" for part in listed)
    return before + "\n" + _indented(inner) + after


def _indented(lines: str) -> str:
    return "".join(f"    {line}\n" for line in lines.splitlines())
