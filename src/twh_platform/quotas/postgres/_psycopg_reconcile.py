"""
Reconciling one tenant after the other, each in a transaction of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..._extras import missing_extra
from ...errors import BackendUnavailableError, ConfigurationError
from ...tenancy._context import bind_tenant
from ...tenancy._tenant import Tenant
from ...tenancy.postgres import Seal
from ...tenancy.postgres.psycopg import TenantConnection
from ._reconcile import CapacityCount, Counts
from .psycopg import PostgresCapacity

try:
    import psycopg
except ImportError as cause:
    raise missing_extra("psycopg", cause) from cause

__all__ = ["reconcile_tenants"]

_CONNECT_SECONDS = 10
_ALL = "SELECT id FROM twh.tenants ORDER BY id"


def reconcile_tenants(
    dsn: str,
    counts: Counts,
    *,
    tenants: Iterable[str] = (),
    seal: Seal | None = None,
    correct: bool = True,
) -> Iterator[CapacityCount]:
    """
    Reconcile tenants and yield what was found of each, once it is committed.

    Args:
        dsn: As the owner of the tables, or one of the *reconcilers*.

        counts: See `PostgresCapacity.reconcile`.

        tenants: Their ids; all of ``twh.tenants`` if there is none.

        seal: For a sealed database.

        correct: Whether to put levels right.

    Raises:
        twh_platform.errors.ConfigurationError: With code ``owner_refused``, for
            a login that may not do this, or for SQL that does not count.

        twh_platform.errors.BackendUnavailableError: If the server cannot be
            reached, or fails.
    """
    capacity = PostgresCapacity()
    kind = TenantConnection.using(seal=seal)
    try:
        with kind.connect(dsn, connect_timeout=_CONNECT_SECONDS) as connection:
            ids = list(tenants) or [id for (id,) in connection.execute(_ALL)]  # noqa: A001
            connection.rollback()
            for tenant_id in ids:
                with bind_tenant(Tenant(id=tenant_id)):
                    with connection.transaction():
                        found = capacity.reconcile(connection, counts, correct=correct)
                    yield from found
    except (psycopg.ProgrammingError, psycopg.DataError) as error:
        message = f"the server refused: {error.diag.message_primary}"
        raise ConfigurationError(message, code="owner_refused") from error
    except psycopg.Error as error:
        # A message of libpq about a DSN quotes it, password included.
        text = error.diag.message_primary or type(error).__name__
        raise BackendUnavailableError(f"the database did not do it: {text}") from None
