"""
JSON as strictly as a receiver of webhooks wants it: one reading, or none.
"""

from __future__ import annotations

import json
import math
import re
from itertools import accumulate
from typing import Any, Final, NoReturn

from ..errors import WebhookError, WebhookUsageError

__all__ = ["parse_json"]

DEEPEST: Final = 64

_KEPT: Final = b'[]{}"'
_DROPPED: Final = bytes(one for one in range(256) if one not in _KEPT)
_STEP: Final = tuple({0x5B: 1, 0x7B: 1, 0x5D: -1, 0x7D: -1}.get(one, 0) for one in range(256))
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")


def parse_json(body: bytes | bytearray | memoryview) -> Any:
    """
    Parse a body whose signature holds.

    A body that is genuine can still be no JSON, and that is not a forgery: the
    error has a code of its own.

        >>> parse_json(b'{"type": "order.paid", "data": {"id": 7}}')["data"]
        {'id': 7}

    Args:
        body: The bytes that were verified.

    Raises:
        twh_platform.errors.WebhookError: With code ``payload_invalid``: not
            UTF-8, not JSON (RFC 8259), nested more than 64 deep, a name twice
            in one object, a number that is none or has no finite value, a lone
            surrogate.  It carries nothing of the body.

        twh_platform.errors.WebhookUsageError: With code ``body_not_bytes``.
    """
    if not isinstance(body, (bytes, bytearray, memoryview)):
        message = f"a body is the bytes that came, not {type(body).__name__}"
        raise WebhookUsageError(message, code="body_not_bytes")
    raw = bytes(body)
    if _too_deep(raw):
        raise _invalid(f"is nested more than {DEEPEST} deep")
    value, failed = None, ""
    try:
        value = _DECODER.decode(str(raw, "utf-8"))
        if _SURROGATE.search(raw):
            # A pair is a character; one alone is none, and nothing can write it.
            json.dumps(value, ensure_ascii=False).encode()
    except _Twice:
        failed = "has a name twice in one object"
    except UnicodeDecodeError:
        failed = "is not UTF-8"
    except UnicodeEncodeError:
        failed = "has half of a surrogate pair"
    except (ValueError, RecursionError):
        failed = "is not JSON"
    if failed:
        # Outside of the handler: the decoder's error has the body with it.
        raise _invalid(failed)
    return value


class _Twice(ValueError):  # noqa: N818 -- never leaves this file
    """
    A name stands twice in one object.
    """


def _too_deep(raw: bytes) -> bool:
    # The decoder calls itself for each level, so the depth is known before it runs.
    if raw.count(b"[") + raw.count(b"{") <= DEEPEST:
        return False
    if b"\\" in raw:
        raw = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    outside = b"".join(raw.translate(None, _DROPPED).split(b'"')[::2])
    return any(map(DEEPEST.__lt__, accumulate(map(_STEP.__getitem__, outside))))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise _Twice
    return made


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError
    return number


def _no_number(_: str) -> NoReturn:
    raise ValueError


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=_finite, parse_constant=_no_number
)


def _invalid(what: str) -> WebhookError:
    return WebhookError(f"the body {what}", code="payload_invalid")
