"""
What an error of the database means to a client, whichever driver raised it.

The errors are known by their shape, so no driver is imported: psycopg and
asyncpg have a `sqlstate`, SQLAlchemy has theirs as `orig`.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..._asgi import Problem
from .._refusals import REFUSALS
from ._violations import VIOLATIONS

__all__ = ["refusal_of", "sqlstate_of"]

_DRIVERS = frozenset(("asyncpg", "psycopg", "psycopg_pool", "sqlalchemy"))

# Connection lost, login refused, no such database, out of resources, shut down or cancelled.
_AWAY = frozenset(("08", "28", "3D", "53", "57"))

# A deadlock, a conflict of serializable transactions and a lock may be gone in a moment.
_IN_THE_WAY = frozenset(("40P01", "40001", "55P03"))

# Errors of drivers that have no SQLSTATE: the server never got so far.
_NO_ANSWER = frozenset(("OperationalError", "InterfaceError", "TimeoutError"))


def sqlstate_of(error: BaseException) -> str:
    """
    The five characters that the server gave an error; empty if it gave none.

    Takes the errors of psycopg, asyncpg and SQLAlchemy.
    """
    for one in _chain(error):
        state = getattr(one, "sqlstate", None)
        if isinstance(state, str):
            return state
    return ""


def refusal_of(error: BaseException) -> Problem | None:
    """
    The uniform answer to an error of the database, or None.

    None is for errors that speak of the request's own data, such as a key that
    exists already, for mistakes in the SQL, and for what is no error of
    psycopg, asyncpg or SQLAlchemy.

    Returns:
        Of `twh_platform.tenancy.REFUSALS`: ``backend_unavailable`` for a
        connection that is lost, refused or has to wait too long,
        ``tenant_refused`` for a row or a table that a policy or a grant
        refuses, ``internal_error`` for a transaction without a tenant, with a
        malformed one, or without a valid seal.
    """
    if not _of_driver(error):
        return None
    state = sqlstate_of(error)
    if state in VIOLATIONS:
        refused = VIOLATIONS[state] == "tenant_row_refused"
        return REFUSALS["tenant_refused" if refused else "internal_error"]
    if _is_lost(error) or state[:2] in _AWAY or state in _IN_THE_WAY:
        return REFUSALS["backend_unavailable"]
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """
    Yield an error and what SQLAlchemy has inside of it.
    """
    yield error
    inner = getattr(error, "orig", None)
    if isinstance(inner, BaseException):
        yield inner


def _names(error: BaseException) -> Iterator[tuple[str, str]]:
    for one in _chain(error):
        for kind in type(one).__mro__:
            yield kind.__module__.partition(".")[0], kind.__name__


def _of_driver(error: BaseException) -> bool:
    return any(module in _DRIVERS for module, _ in _names(error))


def _is_lost(error: BaseException) -> bool:
    if getattr(error, "connection_invalidated", False):
        return True
    unanswered = any(module in _DRIVERS and name in _NO_ANSWER for module, name in _names(error))
    return unanswered and not sqlstate_of(error)
