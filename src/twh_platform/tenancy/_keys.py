"""
Names that belong to the current tenant, for places that know no tenant.

Caches, advisory locks and notification channels are shared by all tenants of
a service.  A name that is made here is another one for each tenant.

The names are made so that other programs can make them too::

    cache key    tenant id ":" part ":" part ...
    lock key     SHA-256("twh.lock.v1" NUL tenant id NUL name), bytes 0-7, signed
    channel      "twh_" and 40 hexadecimal digits: HMAC-SHA256(secret,
                 "twh.channel.v1" NUL tenant id NUL name), bytes 0-19

A tenant id has neither ``:`` nor NUL, so the tenant always ends at the first.
Text is UTF-8.  In the parts of a cache key ``%`` is written ``%25`` and ``:``
is written ``%3A``.  The first byte of a lock key is its highest.
"""

from __future__ import annotations

import hashlib
import hmac

from ..errors import ConfigurationError
from ._context import require_tenant

__all__ = ["tenant_channel", "tenant_key", "tenant_lock_key"]

_MIN_SECRET_BYTES = 32


def tenant_key(*parts: str | int) -> str:
    """
    The current tenant and these parts as one key: for caches, Redis, queues.

        >>> from twh_platform import Tenant, bind_tenant
        >>> with bind_tenant(Tenant(id="acme")):
        ...     tenant_key("item", 7)
        'acme:item:7'

    No parts of one tenant make a key of another, whatever is in them, and
    different parts make different keys.  Numbers read as their digits: ``7``
    and ``"7"`` are the same part.  Use it where upper and lower case differ;
    a file system may fold them, and with them two tenants.

    Args:
        parts: At least one, each a string or an integer.

    Raises:
        twh_platform.errors.NoCurrentTenantError: If no tenant is bound.

        TypeError: For no part, or a part of another type.
    """
    if not parts:
        message = "tenant_key() takes at least one part: without one all would share a key"
        raise TypeError(message)
    return ":".join((require_tenant().id, *map(_part, parts)))


def tenant_lock_key(name: str) -> int:
    """
    The key of an advisory lock of the current tenant, for `pg_advisory_xact_lock`.

    Two tenants that lock the same name do not wait for each other.  The key is
    no secret: whoever can run SQL can take any lock.

    Args:
        name: What is locked.

    Returns:
        A PostgreSQL ``bigint``: 64 bits, with a sign.

    Raises:
        twh_platform.errors.NoCurrentTenantError: If no tenant is bound.
    """
    digest = hashlib.sha256(_message(b"twh.lock.v1", name)).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def tenant_channel(name: str, *, secret: bytes) -> str:
    """
    The channel of the current tenant for LISTEN and NOTIFY.

    PostgreSQL lets every role listen to and notify every channel whose name it
    knows.  This one can be neither guessed nor computed without the secret.
    It still stands in the text of LISTEN, which `pg_stat_activity` shows to
    the same role, so turn `track_activities` off for it, and say in a payload
    no more than that something has changed.

    Args:
        name: What is told there, such as ``orders``.

        secret: 32 bytes or more, the same in all processes that talk, and
            unknown to the database.

    Returns:
        An identifier of PostgreSQL that needs no quotes.

    Raises:
        twh_platform.errors.NoCurrentTenantError: If no tenant is bound.

        twh_platform.errors.ConfigurationError: If the secret is shorter.
    """
    if len(secret) < _MIN_SECRET_BYTES:
        message = f"secret has {len(secret)} bytes and needs {_MIN_SECRET_BYTES}"
        raise ConfigurationError(message)
    return f"twh_{hmac.digest(secret, _message(b'twh.channel.v1', name), 'sha256')[:20].hex()}"


def _part(part: str | int) -> str:
    # True and False are integers too, and no numbers of anything.
    if isinstance(part, bool) or not isinstance(part, str | int):
        message = f"a part of a key is a string or an integer, not {type(part).__name__}"
        raise TypeError(message)
    return str(part).replace("%", "%25").replace(":", "%3A")


def _message(purpose: bytes, name: str) -> bytes:
    return b"\0".join((purpose, require_tenant().id.encode("ascii"), name.encode()))
