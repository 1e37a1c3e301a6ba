"""
The envelope written a second time, from its reference page, to compare with ours.

All chance is an argument, so that the same arguments give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESGCMSIV

from tests.support.cobblestone import cobblestone_seal, hkdf_expand

__all__ = ["reference_keys", "reference_seal", "reference_tail"]

PROVIDERS = {"local": 1, "vault": 2, "aws": 3}


def _lp(part: bytes) -> bytes:
    return len(part).to_bytes(4, "big") + part


def reference_tail(tenant_id: str, context: Mapping[str, str]) -> bytes:
    """What is bound beyond the header."""
    pairs = sorted((key.encode(), value.encode()) for key, value in context.items())
    counted = len(pairs).to_bytes(4, "big") + b"".join(_lp(key) + _lp(one) for key, one in pairs)
    return _lp(tenant_id.encode()) + counted


def reference_keys(data_key: bytes, suite: int, data_key_id: bytes, tenant_id: str) -> bytes:
    """The 64 bytes that a suite takes its keys from."""
    parts = [b"twh/env/v1", bytes([suite]), data_key_id, tenant_id.encode()]
    return hkdf_expand(data_key, b"".join(map(_lp, parts)), 64)


def _inline(keys: Sequence[Mapping[str, Any]]) -> bytes:
    made = bytes([len(keys)])
    for key in keys:
        key_ref, wrapped = key["key_ref"].encode(), bytes.fromhex(key["wrapped"])
        made += bytes([PROVIDERS[key["provider"]]]) + len(key_ref).to_bytes(2, "big") + key_ref
        made += key["key_version"].to_bytes(4, "big") + len(wrapped).to_bytes(2, "big") + wrapped
    return made


def reference_seal(
    plaintext: bytes,
    *,
    suite: int,
    data_key: bytes,
    data_key_id: bytes,
    tenant_id: str,
    context: Mapping[str, str],
    random: bytes,
    inline: Sequence[Mapping[str, Any]] = (),
) -> bytes:
    """One envelope; *random* is the nonce of suite 1 or the salt of suite 2."""
    header = bytes([1, suite, 1 if inline else 0]) + data_key_id
    bound = header + reference_tail(tenant_id, context)
    made = reference_keys(data_key, suite, data_key_id, tenant_id)
    if suite == 1:
        body = made[32:] + random + AESGCM(made[:32]).encrypt(random, plaintext, bound)
    elif suite == 2:
        body = cobblestone_seal(made[:32], bound, plaintext, random)
    else:
        body = made[32:] + AESGCMSIV(made[:32]).encrypt(bytes(12), plaintext, bound)
    return header + (_inline(inline) if inline else b"") + body
