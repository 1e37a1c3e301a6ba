"""
The receipt of a shred: what was destroyed, how that was proved, and a MAC over it.

A receipt is one line of JSON in one possible form: keys sorted, no spaces,
ASCII only, no fractions; times are text with microseconds and ``Z``.

    {"mac":{"key_ref":...,"tag":base64},"receipt":{...}}

The MAC is by the key service's key ``receipts``, over

    "twh/shred/v1" 0x00 kind 0x00 SHA-512(the object, in the same form)

*kind* is ``receipt`` here, and ``journal`` for what an unfinished shred keeps.
"""

from __future__ import annotations

import hashlib
import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ...errors import DecryptionError
from .._service import KeyService, KeyState, Mac

__all__ = [
    "RECEIPT_KEY",
    "ShredReceipt",
    "canonical",
    "receipt_text",
    "signed",
    "time_of",
    "time_text",
    "verified",
    "verify_receipt",
]

RECEIPT_KEY = "receipts"
"""The MAC key's name at the key service."""

_TYPE = "twh/shred-receipt/v1"
_LONGEST_TEXT = 64 * 1024
_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShredReceipt:
    """
    What was destroyed, and how that was proved.

    Attributes:
        tenant_id: Whose keys.

        provider: ``local``, ``vault`` or ``aws``.

        key_ref: The master key that was destroyed.

        state: ``destroyed``; or ``destroying``, if the service refuses every use
            and keeps the key until `destroyed_at`, when the shred is run again.

        destroyed_at: When the master key was, or will be, destroyed; None if the
            service does not tell.

        data_keys: How many wrapped data keys were overwritten.

        began: When the canary was made.

        finished: When the proof was complete.

        steps: What was done, in this order, with the microseconds each took.

        canary: The code with which the key service refused a key that it had
            opened before.

        sealed_canary: The code with which a value was refused that had been
            sealed and opened before; None if none was.

        acknowledged: How many processes said that they have let go of the keys;
            None if nobody asked them.

        cache_seconds: How long a process that was not told may go on opening.

        caveats: What it does not cover, as sentences.
    """

    tenant_id: str
    provider: str
    key_ref: str
    state: KeyState
    destroyed_at: datetime | None
    data_keys: int
    began: datetime
    finished: datetime
    steps: tuple[tuple[str, int], ...]
    canary: str
    sealed_canary: str | None
    acknowledged: int | None
    cache_seconds: int
    caveats: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """
        What all steps took together.
        """
        return sum(duration for _, duration in self.steps) / 1e6


def receipt_text(receipt: ShredReceipt, service: KeyService) -> str:
    """
    The receipt with its MAC, as a line of text.
    """
    return signed(_as_object(receipt), service, kind="receipt")


def verify_receipt(text: str, service: KeyService) -> ShredReceipt:
    """
    Read a receipt that this key service has signed.

    Raises:
        twh_platform.errors.DecryptionError: With code ``receipt_invalid``, for
            every other text.

        twh_platform.errors.KeyServiceError: If the key service does not answer.
    """
    found = verified(text.removesuffix("\n"), service, kind="receipt")
    try:
        return _from_object(found)
    except (KeyError, TypeError, ValueError) as error:
        raise _invalid() from error


def signed(value: Mapping[str, Any], service: KeyService, *, kind: str) -> str:
    """
    An object and its MAC in canonical form, under *kind*.
    """
    mac = service.mac(_message(value, kind), key=RECEIPT_KEY)
    tag = b64encode(mac.tag).decode()
    return canonical({"mac": {"key_ref": mac.key_ref, "tag": tag}, kind: value})


def verified(text: str, service: KeyService, *, kind: str) -> dict[str, Any]:
    """
    The object of what `signed` gave.

    Raises:
        twh_platform.errors.DecryptionError: With code ``receipt_invalid``.
    """
    if len(text) > _LONGEST_TEXT:
        raise _invalid()
    try:
        whole = json.loads(text, parse_float=_no_fraction, parse_constant=_no_fraction)
        value, mac = whole[kind], whole["mac"]
        found = Mac(key_ref=mac["key_ref"], tag=b64decode(mac["tag"], validate=True))
        again = {"mac": {"key_ref": mac["key_ref"], "tag": mac["tag"]}, kind: value}
        # There is one text for a value: names that are there twice, or are none
        # of ours, other spaces, other ways to write a letter are refused.
        if canonical(again) == text and isinstance(value, dict):
            service.verify_mac(_message(value, kind), found, key=RECEIPT_KEY)
            return value
    except (KeyError, TypeError, ValueError, RecursionError, DecryptionError) as error:
        raise _invalid() from error
    raise _invalid()


def canonical(value: object) -> str:
    """
    JSON in the only form that is read back.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def time_text(moment: datetime) -> str:
    """
    A moment as receipts have it.
    """
    return moment.astimezone(UTC).strftime(_TIME)


def time_of(text: str) -> datetime:
    """
    The moment of a `time_text`; `ValueError` for another text.
    """
    return datetime.strptime(text, _TIME).replace(tzinfo=UTC)


def _message(value: object, kind: str) -> bytes:
    digest = hashlib.sha512(canonical(value).encode()).digest()
    return b"\x00".join([b"twh/shred/v1", kind.encode(), digest])


def _no_fraction(text: str) -> None:
    raise ValueError(text)


def _invalid() -> DecryptionError:
    return DecryptionError("it is not a receipt of this key service", code="receipt_invalid")


def _as_object(receipt: ShredReceipt) -> dict[str, Any]:
    return {
        "type": _TYPE,
        "tenant": receipt.tenant_id,
        "provider": receipt.provider,
        "key_ref": receipt.key_ref,
        "state": receipt.state.value,
        "destroyed_at": time_text(receipt.destroyed_at) if receipt.destroyed_at else None,
        "data_keys": receipt.data_keys,
        "began": time_text(receipt.began),
        "finished": time_text(receipt.finished),
        "steps": [{"step": name, "microseconds": duration} for name, duration in receipt.steps],
        "canary": receipt.canary,
        "sealed_canary": receipt.sealed_canary,
        "acknowledged": receipt.acknowledged,
        "cache_seconds": receipt.cache_seconds,
        "caveats": list(receipt.caveats),
    }


def _from_object(found: Mapping[str, Any]) -> ShredReceipt:
    destroyed_at = found["destroyed_at"]
    receipt = ShredReceipt(
        tenant_id=found["tenant"],
        provider=found["provider"],
        key_ref=found["key_ref"],
        state=KeyState(found["state"]),
        destroyed_at=None if destroyed_at is None else time_of(destroyed_at),
        data_keys=found["data_keys"],
        began=time_of(found["began"]),
        finished=time_of(found["finished"]),
        steps=tuple((one["step"], one["microseconds"]) for one in found["steps"]),
        canary=found["canary"],
        sealed_canary=found["sealed_canary"],
        acknowledged=found["acknowledged"],
        cache_seconds=found["cache_seconds"],
        caveats=tuple(found["caveats"]),
    )
    if _as_object(receipt) != found:
        raise ValueError
    return receipt
