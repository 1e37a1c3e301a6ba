"""
Which public keys of Ed25519 (RFC 8032) are sound; in integers, so it needs nothing.
"""

from __future__ import annotations

import functools
from typing import Final

__all__ = ["PUBLIC_KEY_BYTES", "fault_of_public_key"]

PUBLIC_KEY_BYTES: Final = 32
_P: Final = 2**255 - 19
_ORDER: Final = 2**252 + 27742317777372353535851937790883648493
_D: Final = -121665 * pow(121666, -1, _P) % _P
_ROOT: Final = pow(2, (_P - 1) // 4, _P)

Point = tuple[int, int, int, int]
_NEUTRAL: Final[Point] = (0, 1, 1, 0)


@functools.lru_cache(maxsize=1024)
def fault_of_public_key(raw: bytes) -> str:
    """
    Say which rule a public key breaks, as what a key is: "" if it breaks none.

    A key is the canonical spelling (section 5.1.3) of a point other than the neutral
    one, in the group of prime order.  A key of small order, for which anybody can
    make signatures, is not; neither is one that verifiers disagree about.
    """
    if len(raw) != PUBLIC_KEY_BYTES:
        return "has 32 bytes"
    point = _point(raw)
    if point is None:
        return "is a point of the curve, in its one spelling"
    if _is_neutral(point) or not _is_neutral(_times(_ORDER, point)):
        return "is a point of the group of prime order"
    return ""


def _point(raw: bytes) -> Point | None:
    number = int.from_bytes(raw, "little")
    sign, y = number >> 255, number & (2**255 - 1)
    if y >= _P:
        return None
    square = (y * y - 1) * pow(_D * y * y + 1, -1, _P) % _P
    x = pow(square, (_P + 3) // 8, _P)
    if (x * x - square) % _P:
        x = x * _ROOT % _P
    if (x * x - square) % _P or (x == 0 and sign):
        return None
    x = x if x & 1 == sign else _P - x
    return x, y, 1, x * y % _P


def _is_neutral(point: Point) -> bool:
    x, y, z, _ = point
    return x % _P == 0 and (y - z) % _P == 0


def _add(one: Point, two: Point) -> Point:
    # Section 5.1.4; complete, so that it doubles as well.
    a = (one[1] - one[0]) * (two[1] - two[0]) % _P
    b = (one[1] + one[0]) * (two[1] + two[0]) % _P
    c = 2 * one[3] * two[3] * _D % _P
    d = 2 * one[2] * two[2] % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def _times(factor: int, point: Point) -> Point:
    total = _NEUTRAL
    while factor:
        if factor & 1:
            total = _add(total, point)
        point = _add(point, point)
        factor >>= 1
    return total
