"""
Writing YAML, as far as rules and provisioning need it.

Strings are written as in JSON, which YAML 1.2 reads (section 1.3); those of
several lines as blocks, so that an expression can be read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

__all__ = ["to_yaml"]

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*(?: [A-Za-z0-9_.-]+)*")
_WORDS = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})


def to_yaml(value: Mapping[str, Any], *, comment: str = "") -> str:
    """
    A document out of mappings, lists, strings, numbers and truths.

    Args:
        value: The document.

        comment: A line for its top.
    """
    head = [f"# {comment}"] if comment else []
    return "\n".join([*head, *_mapping(value, ""), ""])


def _mapping(value: Mapping[str, Any], indent: str) -> Iterator[str]:
    for key, one in value.items():
        yield from _entry(f"{indent}{_scalar(key)}:", one, indent)


def _entry(head: str, value: Any, indent: str) -> Iterator[str]:
    inner = f"{indent}  "
    if isinstance(value, Mapping) and value:
        yield head
        yield from _mapping(value, inner)
    elif isinstance(value, Sequence) and not isinstance(value, str) and value:
        yield head
        for one in value:
            yield from _item(one, inner)
    elif isinstance(value, str) and "\n" in value:
        yield f"{head} |-"
        yield from (f"{inner}{line}" for line in value.splitlines())
    else:
        yield f"{head} {_scalar(value)}"


def _item(value: Any, indent: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        first, *rest = _mapping(value, f"{indent}  ")
        yield f"{indent}- {first.strip()}"
        yield from rest
    else:
        yield f"{indent}- {_scalar(value)}"


def _scalar(value: Any) -> str:
    plain = isinstance(value, str) and _PLAIN.fullmatch(value)
    return str(value) if plain and value.lower() not in _WORDS else json.dumps(value)
