"""
Cobblestone-256 in plain sight: C2SP chunked-encryption with SHA-512 and AES-256-GCM.

Written from the specification alone, on nothing but HMAC and AES-GCM, so that
what we seal is opened by other code than ours.  Slow, and not for use.
"""

from __future__ import annotations

import hashlib
import hmac

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

__all__ = ["CHUNK", "cobblestone_open", "cobblestone_seal", "hkdf_expand"]

CHUNK = 16_384

_LABEL = b"c2sp.org/chunked-encryption@v1+" + b"AEAD_AES_256_GCM" + b"\x00"


def hkdf_expand(key: bytes, info: bytes, size: int) -> bytes:
    """HKDF-Expand with SHA-512, as RFC 5869, section 2.3 writes it."""
    block, made = b"", b""
    for counter in range(1, -(-size // 64) + 1):
        block = hmac.digest(key, block + info + bytes([counter]), hashlib.sha512)
        made += block
    return made[:size]


def _derive(key: bytes, salt: bytes, context: bytes) -> tuple[bytes, bytes, bytes]:
    if len(key) != 32:
        raise ValueError("key")
    made = hkdf_expand(key, _LABEL + salt + context, 76)
    return made[:32], made[32:44], made[44:]


def _nonce(base: bytes, number: int) -> bytes:
    return (int.from_bytes(base, "big") ^ number).to_bytes(12, "big")


def cobblestone_seal(key: bytes, context: bytes, plaintext: bytes, salt: bytes) -> bytes:
    """Salt, commitment and chunks; the last chunk is short, and may be empty."""
    chunk_key, base, commitment = _derive(key, salt, context)
    cipher = AESGCM(chunk_key)
    chunks = [
        cipher.encrypt(_nonce(base, number), plaintext[at : at + CHUNK], None)
        for number, at in enumerate(range(0, len(plaintext) + 1, CHUNK))
    ]
    return salt + commitment + b"".join(chunks)


def cobblestone_open(key: bytes, context: bytes, sealed: bytes) -> bytes:
    """The plaintext; ValueError or InvalidTag for everything else."""
    salt, commitment, body = sealed[:24], sealed[24:56], sealed[56:]
    chunk_key, base, expected = _derive(key, salt, context)
    if commitment != expected:
        raise ValueError("commitment")
    if len(body) % (CHUNK + 16) < 16:
        raise ValueError("cut")
    cipher = AESGCM(chunk_key)
    return b"".join(
        cipher.decrypt(_nonce(base, number), body[at : at + CHUNK + 16], None)
        for number, at in enumerate(range(0, len(body), CHUNK + 16))
    )
