"""
What sealing costs, against raw AES-GCM and the public libraries for envelopes.

Every figure is CPU time per call.  A round runs a block of each contender, in
an order that is drawn anew; ratios are those of one round.  The reference is
an AES-256-GCM encryption with 37 bytes of additional data and a random nonce,
in both directions.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from twh_platform import Tenant, bind_tenant
from twh_platform.kms import (
    AsyncTenantCipher,
    DataKey,
    KeyContext,
    Keyset,
    LocalKeyService,
    MemoryDataKeyStore,
    Suite,
    TenantCipher,
)
from twh_platform.kms._service import Result

from ._database import machine, versions
from ._kms_peers import AAD, Peer, peers, raw
from ._rows import Row, as_table, count_row, paired_row

__all__ = ["rows"]

_ROUNDS = 15
_SIZES = {"64 B": 64, "1 KiB": 1024, "64 KiB": 64 * 1024, "1 MiB": 1024 * 1024}
_CONTEXT = {"table": "suppliers", "column": "bank_account", "row": "supplier-00042"}

# How many times the reference a whole call may take; the gate is 1.25 of each.
_TARGETS = {
    ("suite 1", "64 B"): 3.0,
    ("suite 1", "1 KiB"): 2.7,
    ("suite 1", "64 KiB"): 1.45,
    ("suite 2", "64 B"): 6.5,
    ("suite 2", "1 KiB"): 5.5,
    ("suite 2", "64 KiB"): 2.6,
}
_ALONE = {"1 KiB": ("encrypt", 1.05), "64 B": ("decrypt", 1.12)}
_AGAINST_SDK = {"suite 1": 25.0, "suite 2": 13.0}
_SIZE_OVERHEAD = {"suite 1": 79, "suite 2": 91}
_GATE = 1.25
_PEERS = ("cryptography", "tink", "aws-encryption-sdk")
_SDK = "AWS Encryption SDK, cached"

Call = Callable[[], object]


def rows(*, quick: bool = False, parts: Sequence[str] | None = None) -> list[Row]:
    """
    Measure and print.

    Args:
        quick: Shorter, and so less certain.

        parts: Of ``speed`` and ``calls``; both if None.
    """
    known = {"speed": lambda: _speed(0.004 if quick else 0.02), "calls": _calls}
    for part in parts or ():
        if part not in known:
            raise SystemExit(f"the parts are {', '.join(known)}, there is no {part}")
    lines = [*machine(), versions(_PEERS)] + (["quick, and so less certain"] if quick else [])
    sys.stdout.write("".join(f"{line}\n" for line in lines) + "\n")
    found: list[Row] = []
    for part, measure in known.items():
        if not parts or part in parts:
            found += measure()
    sys.stdout.write(as_table(found) + "\n")
    return found


class _Counted(LocalKeyService):
    calls = 0

    def generate(self, contexts: Sequence[KeyContext]) -> list[Result[DataKey]]:
        self.calls += 1
        return super().generate(contexts)


def _cipher() -> tuple[TenantCipher, _Counted]:
    service = _Counted(Keyset.new())
    return TenantCipher(service, MemoryDataKeyStore()), service


def _ours() -> dict[str, Peer]:
    cipher, _ = _cipher()

    def with_suite(suite: Suite) -> Peer:
        return Peer(
            lambda plaintext: cipher.seal(plaintext, _CONTEXT, suite=suite),
            lambda sealed: cipher.open(sealed, _CONTEXT),
        )

    return {"suite 1": with_suite(Suite.FIELD), "suite 2": with_suite(Suite.STREAM)}


def _speed(block: float) -> list[Row]:
    found: list[Row] = []
    with bind_tenant(Tenant(id="acme")):
        contenders = {**_ours(), **peers()}
        for size, length in _SIZES.items():
            found += _of_size(size, os.urandom(length), contenders, block)
        found += _overheads(contenders)
    return found


def _of_size(
    size: str, plaintext: bytes, contenders: Mapping[str, Peer], block: float
) -> list[Row]:
    reference = raw()
    calls: dict[tuple[str, str], Call] = {("raw", "seal"): lambda: reference.seal(plaintext)}
    for name, peer in contenders.items():
        sealed = peer.seal(plaintext)
        calls[name, "seal"] = lambda peer=peer: peer.seal(plaintext)  # type: ignore[misc]
        calls[name, "open"] = lambda peer=peer, sealed=sealed: peer.open(sealed)  # type: ignore[misc]
    calls |= _alone(plaintext)
    taken = _interleaved(calls, block)
    against = taken["raw", "seal"]
    found = [
        paired_row(
            f"{name}, {verb}",
            size,
            unit="us",
            ours=series,
            reference=taken["raw", "decrypt"] if verb == "decrypt" else against,
            target=_target(name, verb, size),
        )
        for (name, verb), series in taken.items()
        if (name, verb) not in {("raw", "seal"), ("raw", "decrypt")}
    ]
    if size == "64 B" and _SDK in contenders:
        found += [
            paired_row(
                f"{suite} against the {_SDK}, {verb}",
                size,
                unit="us",
                ours=taken[suite, verb],
                reference=taken[_SDK, verb],
                target=_GATE / factor,
            )
            for suite, factor in _AGAINST_SDK.items()
            for verb in ("seal", "open")
        ]
    return found


def _target(name: str, verb: str, size: str) -> float | None:
    if name == "cryptography of suite 1":
        wanted = _ALONE.get(size, ("", 0.0))
        return _GATE * wanted[1] if wanted[0] == verb else None
    whole = _TARGETS.get((name, size))
    return whole and _GATE * whole


def _alone(plaintext: bytes) -> dict[tuple[str, str], Call]:
    """
    What suite 1 adds to AES-GCM itself: the commitment, written and compared.
    """
    aead = AESGCM(AESGCM.generate_key(256))
    commitment = os.urandom(32)
    nonce = os.urandom(12)
    bare = nonce + aead.encrypt(nonce, plaintext, AAD)
    sealed = commitment + bare

    def encrypt() -> bytes:
        fresh = os.urandom(12)
        return b"".join((commitment, fresh, aead.encrypt(fresh, plaintext, AAD)))

    def decrypt() -> bytes:
        if not hmac.compare_digest(sealed[:32], commitment):
            raise AssertionError
        return aead.decrypt(sealed[32:44], sealed[44:], AAD)

    return {
        ("raw", "decrypt"): lambda: aead.decrypt(bare[:12], bare[12:], AAD),
        ("cryptography of suite 1", "encrypt"): encrypt,
        ("cryptography of suite 1", "decrypt"): decrypt,
    }


def _interleaved(
    calls: Mapping[tuple[str, str], Call], block: float
) -> dict[tuple[str, str], list[float]]:
    runs = {name: _runs(call, block) for name, call in calls.items()}
    taken: dict[tuple[str, str], list[float]] = {name: [] for name in calls}
    draw = random.Random(0)
    for _ in range(_ROUNDS):
        for name in draw.sample(list(calls), len(calls)):
            call, count = calls[name], runs[name]
            began = time.process_time()
            for _ in range(count):
                call()
            taken[name].append((time.process_time() - began) / count * 1e6)
    return taken


def _runs(call: Call, block: float) -> int:
    began = time.perf_counter()
    for _ in range(20):
        call()
    return max(3, round(block / ((time.perf_counter() - began) / 20)))


def _overheads(contenders: Mapping[str, Peer]) -> list[Row]:
    plaintext = bytes(64)
    return [
        count_row(
            f"{suite}, size",
            "64 B, bytes added, against what the format says",
            unit="bytes",
            ours=len(contenders[suite].seal(plaintext)) - len(plaintext),
            reference=expected,
            target=1.0,
        )
        for suite, expected in _SIZE_OVERHEAD.items()
    ]


def _calls() -> list[Row]:
    cold, service = _cipher()
    with bind_tenant(Tenant(id="acme")):
        asyncio.run(_storm(AsyncTenantCipher(cold)))
    other, second = _cipher()
    with bind_tenant(Tenant(id="acme")):
        for row in range(20):
            other.seal(b"x", {**_CONTEXT, "row": str(row)})
    return [
        count_row(name, "calls of the key service", unit="calls", ours=seen, reference=1, target=1)
        for name, seen in {
            "1,000 cold coroutines": service.calls,
            "20 contexts of rows": second.calls,
        }.items()
    ]


async def _storm(cipher: AsyncTenantCipher) -> None:
    await asyncio.gather(*(cipher.seal(b"x", _CONTEXT) for _ in range(1000)))
