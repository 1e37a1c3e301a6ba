"""
What seals are bound to, encoded quickly: the same bytes as `bound_tail` gives.

Encoding a context takes longer than encrypting a small value.  Contexts of one
shape (the same keys in the same order) differ in their values only, so that
what stands around the values is made once, and a value in ASCII of at most 127
characters is its own encoding.  A shape of which few contexts are seen, such
as table and column without a row, has them kept.
"""

from __future__ import annotations

from collections.abc import Mapping

from ._context import encode_context, length_prefixed

__all__ = ["quick_tail", "tail_prefix"]

_MOST_SHAPES = 1024
_MOST_KEPT = 256
_NOTHING = encode_context({})
_LENGTHS = tuple(f"\0\0\0{chr(length)}" for length in range(128))


class _Shape:
    __slots__ = ("kept", "parts")

    def __init__(self, keys: tuple[str, ...]) -> None:
        count = _LENGTHS[len(keys)]
        # What stands before each value, and its key, in the order of the encoding.
        self.parts = [
            (("" if at else count) + _LENGTHS[len(key)] + key, key)
            for at, key in enumerate(sorted(keys))
        ]
        # By the values in the order of the context; None once there were too many.
        self.kept: dict[tuple[str, ...], bytes] | None = {}


_shapes: dict[tuple[str, ...], _Shape] = {}


def tail_prefix(tenant_id: str) -> bytes:
    """
    The part of a tail that all contexts of a tenant share.
    """
    return length_prefixed(tenant_id.encode())


def quick_tail(prefix: bytes, context: Mapping[str, str]) -> bytes:
    """
    What `bound_tail` gives for the tenant of *prefix* and the context.

    Raises:
        twh_platform.errors.ConfigurationError: With code
            ``seal_context_invalid``; see `encode_context`.
    """
    if not context:
        return prefix + _NOTHING
    shape = _shapes.get(tuple(context))
    if shape is None:
        return prefix + _first_of_its_shape(context)
    kept = shape.kept
    try:
        if kept is None:
            return prefix + _encode(shape, context)
        values = tuple(context.values())
        encoded = kept.get(values)
        if encoded is None:
            encoded = _encode(shape, context)
            if len(kept) < _MOST_KEPT:
                kept[values] = encoded
            else:
                shape.kept = None
        return prefix + encoded
    # Longer, not ASCII, or no text at all: all of it is looked at again, slowly.
    except (IndexError, TypeError, UnicodeEncodeError):
        return prefix + encode_context(context)


def _encode(shape: _Shape, context: Mapping[str, str]) -> bytes:
    pieces: list[str] = []
    for before, key in shape.parts:
        value = context[key]
        pieces += before, _LENGTHS[len(value)], value
    return "".join(pieces).encode("ascii")


def _first_of_its_shape(context: Mapping[str, str]) -> bytes:
    encoded = encode_context(context)
    keys = tuple(context)
    if all(key.isascii() and len(key) < len(_LENGTHS) for key in keys):
        if len(_shapes) >= _MOST_SHAPES:
            _shapes.clear()
        _shapes[keys] = _Shape(keys)
    return encoded
