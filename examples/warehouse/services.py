"""
What the handlers stand on: connections, the directory, tokens.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self

from psycopg_pool import AsyncConnectionPool
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)

from twh_platform import CachedTenantDirectory
from twh_platform.tenancy.postgres.directory import (
    PostgresTenantDirectory,
    TenantChangeListener,
    directory_pool,
)
from twh_platform.tenancy.postgres.sqlalchemy import bind_engine

from .auth import Tokens
from .settings import Settings

__all__ = ["Services"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """
    One set per running app; nothing is connected before it is needed.

    Attributes:
        settings: What the service was told.

        tokens: Issues and reads tokens.

        directory: Who the tenants are.

        app: Sessions as `warehouse_app`, bound to the current tenant.

        login: Sessions as `warehouse_directory`, bound to the current tenant.

        administrator: Sessions as `warehouse_administrator`, which sees
            `twh.tenants` only.

        engines: What those sessions connect with.

        pool: What the directory reads through.
    """

    settings: Settings
    tokens: Tokens
    directory: CachedTenantDirectory
    app: async_sessionmaker[AsyncSession]
    login: async_sessionmaker[AsyncSession]
    administrator: async_sessionmaker[AsyncSession]
    engines: tuple[AsyncEngine, ...]
    pool: AsyncConnectionPool[Any]

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """
        Put them together.
        """
        app = _engine(settings.app_dsn, size=10)
        login = _engine(settings.directory_dsn, size=4)
        administrator = _engine(settings.administrator_dsn, size=2)
        pool = directory_pool(_plain(settings.directory_dsn))
        return cls(
            settings=settings,
            tokens=Tokens(settings),
            directory=CachedTenantDirectory(PostgresTenantDirectory(pool)),
            app=async_sessionmaker(app, expire_on_commit=False),
            login=async_sessionmaker(login, expire_on_commit=False),
            administrator=async_sessionmaker(administrator, expire_on_commit=False),
            engines=(app, login, administrator),
            pool=pool,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """
        Open what has to be opened, and close everything at the end.
        """
        async with AsyncExitStack() as stack:
            for engine in self.engines:
                stack.push_async_callback(engine.dispose)
            await stack.enter_async_context(self.pool)
            await stack.enter_async_context(
                TenantChangeListener(_plain(self.settings.directory_dsn), self.directory)
            )
            yield


def _engine(dsn: str, *, size: int) -> AsyncEngine:
    engine = create_async_engine(
        dsn,
        pool_size=size,
        max_overflow=0,
        pool_timeout=2.0,
        hide_parameters=True,  # an error's text goes to the log
        connect_args={
            "connect_timeout": 3,
            "options": "-c statement_timeout=4s -c lock_timeout=3s"
            " -c idle_in_transaction_session_timeout=10s",
        },
    )
    return bind_engine(engine)


def _plain(dsn: str) -> str:
    return dsn.replace("postgresql+psycopg://", "postgresql://", 1)
