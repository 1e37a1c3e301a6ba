"""
Password hashes: scrypt, from the standard library.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
from base64 import b64decode, b64encode

__all__ = ["hash_password", "password_matches"]

# OWASP's table for scrypt: 16 MiB and five passes.
_LOG_N, _R, _P = 14, 8, 5


async def hash_password(password: str) -> str:
    """
    Return the salted hash of *password*, as text; computed in a thread.
    """
    salt = os.urandom(16)
    digest = await asyncio.to_thread(_scrypt, password, salt, _LOG_N, _R, _P)
    return "$".join(("scrypt", str(_LOG_N), str(_R), str(_P), _text(salt), _text(digest)))


async def password_matches(password: str, stored: str | None) -> bool:
    """
    Compare *password* with a stored hash, in the same time for no hash at all.

    Args:
        password: What the user says.

        stored: What `hash_password` returned, or None if there is no such user.
    """
    _, log_n, r, p, salt, digest = (stored or _NOBODY).split("$")
    found = await asyncio.to_thread(_scrypt, password, b64decode(salt), int(log_n), int(r), int(p))
    return hmac.compare_digest(found, b64decode(digest)) and stored is not None


def _scrypt(password: str, salt: bytes, log_n: int, r: int, p: int) -> bytes:
    return hashlib.scrypt(
        password.encode(), salt=salt, n=1 << log_n, r=r, p=p, maxmem=64 << 20, dklen=32
    )


def _text(value: bytes) -> str:
    return b64encode(value).decode()


_NOBODY = "$".join(("scrypt", str(_LOG_N), str(_R), str(_P), _text(bytes(16)), _text(bytes(32))))
