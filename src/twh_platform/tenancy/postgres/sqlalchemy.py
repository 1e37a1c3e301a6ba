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
from ._violations import announce_error

try:
    from sqlalchemy import Engine, event
    from sqlalchemy.ext.asyncio import AsyncEngine
except ImportError as cause:
    raise missing_extra("sqlalchemy", cause) from cause

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._seal import Seal

__all__ = ["bind_engine"]

E = TypeVar("E", Engine, AsyncEngine)


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
    sync_engine = engine.sync_engine if isinstance(engine, AsyncEngine) else engine
    connect = _connector(sync_engine, seal=seal, pooled=pooled)
    # The dialect asks the first connection for it, whatever the pool.
    if getattr(sync_engine.dialect, "server_version_info", None) is not None:
        message = "bind_engine() comes before the engine's first connection"
        raise ConfigurationError(message)
    event.listen(sync_engine, "do_connect", connect)
    event.listen(sync_engine, "connect", _verify)
    event.listen(sync_engine, "handle_error", _tell)
    return engine


def _connector(engine: Engine, **settings: Any) -> Callable[..., Any]:
    driver, is_async = engine.dialect.driver, engine.dialect.is_async
    if driver == "psycopg":
        from .psycopg import AsyncTenantConnection, TenantConnection

        if is_async:
            return _async_creator(AsyncTenantConnection.using(**settings).connect)
        opened = TenantConnection.using(**settings).connect

        def connect(_dialect: Any, _record: Any, args: Any, kwargs: Any) -> Any:
            return opened(*args, **kwargs)

        return connect
    if driver == "asyncpg":
        from .asyncpg import TenantConnection as AsyncpgTenantConnection
        from .asyncpg import connect as connect_asyncpg

        kind = AsyncpgTenantConnection.using(**settings)
        return _async_creator(partial(connect_asyncpg, connection_class=kind))
    message = f"bind_engine() knows psycopg and asyncpg, not {engine.dialect.name}+{driver}"
    raise ConfigurationError(message)


def _async_creator(creator: Callable[..., Any]) -> Callable[..., None]:
    def connect(_dialect: Any, _record: Any, _args: Any, kwargs: Any) -> None:
        kwargs["async_creator_fn"] = creator

    return connect


def _tell(context: Any) -> None:
    announce_error(context.original_exception)


def _verify(dbapi_connection: Any, record: Any) -> None:
    if not hasattr(record.driver_connection, "binding"):
        dbapi_connection.close()
        message = "this engine has a creator of its own: let it open tenant connections"
        raise ConfigurationError(message)
