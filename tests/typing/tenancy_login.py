"""
Looking at a login as a service author does; checked, never run.
"""

from __future__ import annotations

from typing import assert_type

import asyncpg
import psycopg
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine

from twh_platform import Problem
from twh_platform.errors import UnsafeLoginError
from twh_platform.tenancy.postgres import (
    LOGIN_FAULTS,
    LoginFault,
    VerifiedLogin,
    refusal_of,
    sqlstate_of,
)
from twh_platform.tenancy.postgres import asyncpg as tenant_asyncpg
from twh_platform.tenancy.postgres import psycopg as tenant_psycopg
from twh_platform.tenancy.postgres import sqlalchemy as tenant_sqlalchemy


def with_connections(connection: psycopg.Connection, dsn: str) -> None:
    """
    Any connection will do, and any engine.
    """
    verified = tenant_psycopg.verify_login(connection, sealed=True, accept=["token_visible"])
    assert_type(verified, VerifiedLogin)
    assert_type(verified.accepted, tuple[LoginFault, ...])
    assert_type(verified.roles, tuple[str, ...])
    assert_type(
        tenant_sqlalchemy.verify_login(create_engine(dsn), accept=LOGIN_FAULTS), VerifiedLogin
    )


async def with_asynchronous_ones(
    connection: psycopg.AsyncConnection, other: asyncpg.Connection, dsn: str
) -> None:
    """
    The same, awaited.
    """
    assert_type(await tenant_psycopg.verify_login_async(connection), VerifiedLogin)
    assert_type(await tenant_asyncpg.verify_login(other, sealed=True), VerifiedLogin)
    engine = create_async_engine(dsn)
    assert_type(await tenant_sqlalchemy.verify_login_async(engine), VerifiedLogin)


def refused(error: UnsafeLoginError, other: Exception) -> None:
    """
    What is raised tells its faults; what a driver raises has an answer.
    """
    assert_type(error.code, str)
    assert_type(refusal_of(other), Problem | None)
    assert_type(sqlstate_of(other), str)
