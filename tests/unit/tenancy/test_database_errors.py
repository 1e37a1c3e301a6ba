"""
The meaning of errors that no test of a real server brings about.
"""

from __future__ import annotations

import asyncpg
import psycopg
import psycopg_pool
import pytest
import sqlalchemy.exc

from twh_platform.errors import ConfigurationError, TenantMismatchError
from twh_platform.tenancy import REFUSALS
from twh_platform.tenancy.postgres import refusal_of, sqlstate_of


def wrapped(error: Exception) -> sqlalchemy.exc.DBAPIError:
    """SQLAlchemy's error around a driver's."""
    return sqlalchemy.exc.DBAPIError("SELECT 1", {}, error)


@pytest.mark.parametrize(
    "error",
    [
        psycopg.OperationalError("connection refused"),
        psycopg.InterfaceError("the connection is closed"),
        psycopg_pool.PoolTimeout("no connection within 2 s"),
        psycopg.errors.DeadlockDetected(),
        psycopg.errors.SerializationFailure(),
        psycopg.errors.LockNotAvailable(),
        psycopg.errors.TooManyConnections(),
        asyncpg.exceptions.ConnectionDoesNotExistError(),
        asyncpg.exceptions.InvalidPasswordError(),
        asyncpg.InterfaceError("connection is closed"),
        sqlalchemy.exc.TimeoutError("QueuePool limit"),
        wrapped(psycopg.OperationalError("connection refused")),
        wrapped(psycopg.errors.AdminShutdown()),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_database_that_is_away_is_told_as_such(error):
    """Trying again may help, so the answer says when."""
    assert refusal_of(error) is REFUSALS["backend_unavailable"]


@pytest.mark.parametrize(
    "error",
    [
        psycopg.errors.UniqueViolation(),
        wrapped(psycopg.errors.ForeignKeyViolation()),
        asyncpg.exceptions.UndefinedColumnError(),
        sqlalchemy.exc.InvalidRequestError("no such thing"),
        TenantMismatchError("not a database's"),
        ConfigurationError("not a database's"),
        TimeoutError("anybody's"),
        OSError("anybody's"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_other_errors_are_left_to_the_caller(error):
    """What is said about the data, and what is not the database's, has no uniform answer."""
    assert refusal_of(error) is None


def test_a_state_is_found_inside():
    """SQLAlchemy's error has the state of the driver's; others have none."""
    assert sqlstate_of(wrapped(psycopg.errors.UniqueViolation())) == "23505"
    assert sqlstate_of(ValueError()) == ""
