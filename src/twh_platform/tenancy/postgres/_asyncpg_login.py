"""
`verify_login` for asyncpg.
"""

from __future__ import annotations

from collections.abc import Collection

from ..._extras import missing_extra
from ...errors import BackendUnavailableError
from ._login import VerifiedLogin, verified
from ._login_query import LOGIN_QUERY

try:
    import asyncpg
except ImportError as cause:
    raise missing_extra("asyncpg", cause) from cause

__all__ = ["verify_login"]


async def verify_login(
    connection: asyncpg.Connection, *, sealed: bool = False, accept: Collection[str] = ()
) -> VerifiedLogin:
    """
    Look whether policies, and the seal, can hold the login of a connection.

    A service calls it once, when it starts; see
    `twh_platform.tenancy.postgres.psycopg.verify_login`, which takes the same
    arguments and raises the same errors.
    """
    try:
        async with connection.transaction():
            answer: str = await connection.fetchval(LOGIN_QUERY)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        raise BackendUnavailableError(
            f"the login cannot be verified: {error}", code="login_unverified"
        ) from error
    return verified(answer, sealed=sealed, accept=accept)
