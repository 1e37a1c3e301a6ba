"""
Reading tenants from PostgreSQL through psycopg.
"""

from __future__ import annotations

from typing import Any

from ..._extras import missing_extra
from ...errors import BackendUnavailableError, ConfigurationError
from .._tenant import Tenant
from ._directory_sql import LOOK_UP

try:
    import psycopg
    from psycopg.conninfo import conninfo_to_dict
    from psycopg_pool import AsyncConnectionPool
except ImportError as error:
    raise missing_extra("psycopg", error) from error

__all__ = ["CONNECTION", "PostgresTenantDirectory", "directory_pool"]

_UNAVAILABLE = "directory_unavailable"
_RECONNECT_SECONDS = 5.0

# A peer that vanished without a word is noticed in half a minute.
CONNECTION: dict[str, Any] = {
    "autocommit": True,
    "application_name": "twh-directory",
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
}


def directory_pool(
    conninfo: str, *, min_size: int = 1, max_size: int = 4, timeout: float = 1.0
) -> AsyncConnectionPool[Any]:
    """
    Make a pool that suits `PostgresTenantDirectory`; open it with `async with`.

    Its connections are in autocommit mode, checked when they are taken out,
    prepare nothing (poolers), and end a statement after *timeout* seconds.  It
    opens though the database is down, and tries again when it is asked.

    Args:
        conninfo: A DSN of the directory's own login role.

        min_size: How many connections are kept.

        max_size: How many there may be.

        timeout: Seconds to wait for a connection, and for a statement; less
            than that of the cache in front, so that the driver can say what is wrong.

    Raises:
        twh_platform.errors.ConfigurationError: If *conninfo* is malformed.
    """
    _ensure_readable(conninfo)
    return AsyncConnectionPool(
        conninfo,
        kwargs={
            **CONNECTION,
            "prepare_threshold": None,
            "options": f"-c statement_timeout={max(1, int(timeout * 1000))}",
        },
        min_size=min_size,
        max_size=max_size,
        timeout=timeout,
        # After this it gives up for the moment, and the next request begins anew.
        reconnect_timeout=_RECONNECT_SECONDS,
        check=AsyncConnectionPool.check_connection,
        name="twh-directory",
        open=False,
    )


def _ensure_readable(conninfo: str) -> None:
    # The pool would log the driver's complaint, which quotes the DSN with its password.
    try:
        conninfo_to_dict(conninfo)
    except psycopg.ProgrammingError:
        message = "conninfo is not a DSN that libpq can read"
        raise ConfigurationError(message) from None


class PostgresTenantDirectory:
    """
    Look tenants up in the table that `directory_sql` makes.

    Put a `CachedTenantDirectory` in front of it, which gives a look-up up at
    its deadline whatever the server does, and a `TenantChangeListener` beside
    it.

    Args:
        pool: An open pool of the directory's own login role; see `directory_pool`.
    """

    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        self._pool = pool

    async def get(self, tenant_id: str) -> Tenant | None:
        """
        Return the tenant with exactly this id, or None.

        Raises:
            twh_platform.errors.BackendUnavailableError: With code
                ``directory_unavailable``.
        """
        try:
            async with self._pool.connection() as connection:
                cursor = await connection.execute(LOOK_UP, (tenant_id,))
                row: tuple[Any, ...] | None = await cursor.fetchone()
        except psycopg.Error as error:
            kind = f"{type(error).__name__}, SQLSTATE {error.sqlstate}"
            message = f"the tenant directory could not be read: {kind}"
            raise BackendUnavailableError(message, code=_UNAVAILABLE) from error
        if row is None:
            return None
        names = ("id", "tier", "status", "kind", "expires_at", "time_zone", "attributes")
        return Tenant(**dict(zip(names, row, strict=True)))
