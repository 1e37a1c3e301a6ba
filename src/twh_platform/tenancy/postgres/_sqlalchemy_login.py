"""
`verify_login` for SQLAlchemy.
"""

from __future__ import annotations

from collections.abc import Collection

from ..._extras import missing_extra
from ...errors import BackendUnavailableError
from ._login import VerifiedLogin, verified
from ._login_query import LOGIN_QUERY

try:
    from sqlalchemy import Engine
    from sqlalchemy.exc import SQLAlchemyError
    from sqlalchemy.ext.asyncio import AsyncEngine
except ImportError as cause:
    raise missing_extra("sqlalchemy", cause) from cause

__all__ = ["verify_login", "verify_login_async"]


def verify_login(
    engine: Engine, *, sealed: bool = False, accept: Collection[str] = ()
) -> VerifiedLogin:
    """
    Look whether policies, and the seal, can hold the login of an engine.

    A service calls it once, when it starts; see
    `twh_platform.tenancy.postgres.psycopg.verify_login`, which takes the same
    arguments and raises the same errors.
    """
    try:
        with engine.connect() as connection:
            answer: str = connection.exec_driver_sql(LOGIN_QUERY).scalar_one()
    except (SQLAlchemyError, OSError) as error:
        raise _unverified(error) from error
    return verified(answer, sealed=sealed, accept=accept)


async def verify_login_async(
    engine: AsyncEngine, *, sealed: bool = False, accept: Collection[str] = ()
) -> VerifiedLogin:
    """
    The same for an asynchronous engine.
    """
    try:
        async with engine.connect() as connection:
            answer: str = (await connection.exec_driver_sql(LOGIN_QUERY)).scalar_one()
    except (SQLAlchemyError, OSError) as error:
        raise _unverified(error) from error
    return verified(answer, sealed=sealed, accept=accept)


def _unverified(error: Exception) -> BackendUnavailableError:
    return BackendUnavailableError(
        f"the login cannot be verified: {type(error).__name__}", code="login_unverified"
    )
