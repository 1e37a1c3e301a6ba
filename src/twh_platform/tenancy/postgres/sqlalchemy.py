"""
SQLAlchemy engines whose every transaction belongs to the current tenant.

    >>> from sqlalchemy import create_engine
    >>> engine = bind_engine(
    ...     create_engine("postgresql+psycopg://app@db/warehouse")
    ... )  # doctest: +SKIP

ORM, Core and raw SQL are covered alike, because the binding sits in the
driver's connection: it is folded into BEGIN, so a commit or rollback in the
middle of a request keeps the tenant.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from ..._extras import missing_extra
from ...errors import ConfigurationError
from ._administrator_binding import AdministratorBinding
from ._binding import TransactionBinding
from ._sqlalchemy_login import verify_login, verify_login_async
from ._sqlalchemy_orm import TenantSession
from ._violations import announce_error, lost_statement

try:
    from sqlalchemy import Engine, event
    from sqlalchemy.ext.asyncio import AsyncEngine
except ImportError as cause:
    raise missing_extra("sqlalchemy", cause) from cause

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._seal import Seal

__all__ = [
    "TenantSession",
    "bind_administrator_engine",
    "bind_engine",
    "verify_login",
    "verify_login_async",
]

E = TypeVar("E", Engine, AsyncEngine)

# Behind a pooler a statement that has a name would stay in one session, and
# next time the connection is in another.
_UNPREPARED: dict[str, Any] = {
    "statement_cache_size": 0,
    "prepared_statement_cache_size": 0,
    "prepared_statement_name_func": str,
}


def bind_engine(engine: E, *, seal: Seal | None = None, pooled: bool = False) -> E:
    """
    Make *engine* open tenant connections, and return it.

    Call it once, before the engine's first connection.  It takes engines of
    ``postgresql+psycopg`` (sync and async) and ``postgresql+asyncpg``.

    A session or connection that has a transaction open for one tenant raises
    `twh_platform.errors.TenantMismatchError` when another tenant uses it.

    Args:
        engine: The engine.

        seal: Seals the tenants, for a sealed database.

        pooled: Whether a pooler in transaction mode is in between; see
            [poolers](../howto/pgbouncer.md).

    Raises:
        twh_platform.errors.ConfigurationError: For another driver; for an
            engine that has connections already; and, at the first
            connection, if a ``creator`` brings connections of its own.
    """
    return _bind(engine, "TenantConnection", TransactionBinding, seal=seal, pooled=pooled)


def bind_administrator_engine(engine: E, *, pooled: bool = False) -> E:
    """
    Make *engine* open connections of the administrators' login, and return it.

    It takes what `bind_engine` takes, with the address of a login that has
    BYPASSRLS.  Outside of `twh_platform.tenancy.administrator` the engine
    refuses everything, its first connection included.

    Args:
        engine: The engine, which has had no connection yet.

        pooled: Whether a pooler in transaction mode is in between.

    Raises:
        twh_platform.errors.ConfigurationError: As `bind_engine`.
    """
    return _bind(engine, "AdministratorConnection", AdministratorBinding, pooled=pooled)


def _bind(engine: E, kind: str, binding: type[TransactionBinding], **settings: Any) -> E:
    sync_engine = engine.sync_engine if isinstance(engine, AsyncEngine) else engine
    connect = _connector(sync_engine, kind, **settings)
    # The dialect asks the first connection for it, whatever the pool.
    if getattr(sync_engine.dialect, "server_version_info", None) is not None:
        message = "bind_engine() comes before the engine's first connection"
        raise ConfigurationError(message)
    event.listen(sync_engine, "do_connect", connect)
    event.listen(sync_engine, "connect", partial(_verify, binding))
    event.listen(sync_engine, "handle_error", _tell)
    if settings["pooled"]:
        sync_engine.dialect.do_ping = _ping  # type: ignore[method-assign]
    return engine


def _ping(dbapi_connection: Any) -> bool:
    # SQLAlchemy pings outside of a transaction, which a pooler forbids here.
    cursor = dbapi_connection.cursor()
    cursor.execute("SELECT 1")
    cursor.close()
    dbapi_connection.rollback()
    return True


def _connector(engine: Engine, kind: str, **settings: Any) -> Callable[..., Any]:
    driver, is_async = engine.dialect.driver, engine.dialect.is_async
    if driver == "psycopg":
        from . import psycopg

        if is_async:
            return _async_creator(getattr(psycopg, f"Async{kind}").using(**settings).connect)
        opened = getattr(psycopg, kind).using(**settings).connect

        def connect(_dialect: Any, _record: Any, args: Any, kwargs: Any) -> Any:
            return opened(*args, **kwargs)

        return connect
    if driver == "asyncpg":
        from . import asyncpg

        opened = partial(asyncpg.connect, connection_class=getattr(asyncpg, kind).using(**settings))
        return _async_creator(opened, **(_UNPREPARED if settings["pooled"] else {}))
    message = f"bind_engine() knows psycopg and asyncpg, not {engine.dialect.name}+{driver}"
    raise ConfigurationError(message)


def _async_creator(creator: Callable[..., Any], **defaults: Any) -> Callable[..., None]:
    def connect(_dialect: Any, _record: Any, _args: Any, kwargs: Any) -> None:
        kwargs["async_creator_fn"] = creator
        for name, value in defaults.items():
            kwargs.setdefault(name, value)

    return connect


def _tell(context: Any) -> None:
    error = context.original_exception
    announce_error(error)
    if lost_statement(error):
        context.is_disconnect = True


def _verify(kind: type[TransactionBinding], dbapi_connection: Any, record: Any) -> None:
    if type(getattr(record.driver_connection, "binding", None)) is not kind:
        dbapi_connection.close()
        message = "this engine has a creator of its own: let it open tenant connections"
        raise ConfigurationError(message)
