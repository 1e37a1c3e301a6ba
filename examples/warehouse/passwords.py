"""
Password hashes: scrypt, from the standard library.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
from base64 import b64decode, b64encode
from concurrent.futures import ThreadPoolExecutor

from twh_platform.errors import BackendUnavailableError

__all__ = ["hash_password", "password_matches"]

# OWASP's table for scrypt: 16 MiB and five passes.
_LOG_N, _R, _P = 14, 8, 5

# Threads of their own: those who log in take none from the others.
_THREADS = ThreadPoolExecutor(max_workers=2, thread_name_prefix="scrypt")
_MAX_WAITING = 32  # a few seconds of work
_waiting: set[object] = set()


async def hash_password(password: str) -> str:
    """
    Return the salted hash of *password*, as text; computed in a thread.
    """
    salt = os.urandom(16)
    digest = await _hashed(password, salt, _LOG_N, _R, _P)
    return "$".join(("scrypt", str(_LOG_N), str(_R), str(_P), _text(salt), _text(digest)))


async def password_matches(password: str, stored: str | None) -> bool:
    """
    Compare *password* with a stored hash, in the same time for no hash at all.

    Args:
        password: What the user says.

        stored: What `hash_password` returned, or None if there is no such user.

    Raises:
        BackendUnavailableError: If too many wait for their answer already.
    """
    if len(_waiting) >= _MAX_WAITING:
        message = f"{len(_waiting)} passwords are being compared already"
        raise BackendUnavailableError(message)
    _, log_n, r, p, salt, digest = (stored or _NOBODY).split("$")
    _waiting.add(place := object())
    try:
        found = await _hashed(password, b64decode(salt), int(log_n), int(r), int(p))
    finally:
        _waiting.discard(place)
    return hmac.compare_digest(found, b64decode(digest)) and stored is not None


async def _hashed(password: str, salt: bytes, log_n: int, r: int, p: int) -> bytes:
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_THREADS, _scrypt, password, salt, log_n, r, p)


def _scrypt(password: str, salt: bytes, log_n: int, r: int, p: int) -> bytes:
    return hashlib.scrypt(
        password.encode(), salt=salt, n=1 << log_n, r=r, p=p, maxmem=64 << 20, dklen=32
    )


def _text(value: bytes) -> str:
    return b64encode(value).decode()


_NOBODY = "$".join(("scrypt", str(_LOG_N), str(_R), str(_P), _text(bytes(16)), _text(bytes(32))))
