"""
`verify_login` for psycopg.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ..._extras import missing_extra
from ...errors import BackendUnavailableError
from ._login import VerifiedLogin, verified
from ._login_query import LOGIN_QUERY

try:
    import psycopg
    from psycopg.rows import tuple_row
except ImportError as cause:
    raise missing_extra("psycopg", cause) from cause

__all__ = ["verify_login", "verify_login_async"]


def verify_login(
    connection: psycopg.Connection[Any], *, sealed: bool = False, accept: Collection[str] = ()
) -> VerifiedLogin:
    """
    Look whether policies, and the seal, can hold the login of a connection.

    A service calls it once, when it starts, with a connection of the kind that
    it will use.  No tenant need be bound, and nothing is written.

    Args:
        connection: Where to ask.

        sealed: Whether the database has to be sealed.  One that is gets the
            checks of the seal in any case.

        accept: Codes of faults that are known and borne, of
            `twh_platform.tenancy.postgres.LOGIN_FAULTS`.

    Returns:
        What was looked at, and the faults that were accepted.

    Raises:
        twh_platform.errors.UnsafeLoginError: With all other faults, each with
            SQL that mends it.
        twh_platform.errors.BackendUnavailableError: With code
            ``login_unverified``, if the server does not answer.
    """
    try:
        with connection.transaction(force_rollback=True):
            cursor = connection.cursor(row_factory=tuple_row)
            row = cursor.execute(LOGIN_QUERY.encode()).fetchone()
    except psycopg.Error as error:
        raise _unverified(error) from error
    assert row is not None  # noqa: S101 -- for the type checker
    return verified(row[0], sealed=sealed, accept=accept)


async def verify_login_async(
    connection: psycopg.AsyncConnection[Any], *, sealed: bool = False, accept: Collection[str] = ()
) -> VerifiedLogin:
    """
    The same for an asynchronous connection; see `verify_login`.
    """
    try:
        async with connection.transaction(force_rollback=True):
            cursor = connection.cursor(row_factory=tuple_row)
            row = await (await cursor.execute(LOGIN_QUERY.encode())).fetchone()
    except psycopg.Error as error:
        raise _unverified(error) from error
    assert row is not None  # noqa: S101 -- for the type checker
    return verified(row[0], sealed=sealed, accept=accept)


def _unverified(error: Exception) -> BackendUnavailableError:
    return BackendUnavailableError(
        f"the login cannot be verified: {error}", code="login_unverified"
    )
