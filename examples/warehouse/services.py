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
from twh_platform.telemetry.psycopg import watch_pool
from twh_platform.telemetry.sqlalchemy import watch_engine
from twh_platform.tenancy.postgres import Seal
from twh_platform.tenancy.postgres.directory import (
    PostgresTenantDirectory,
    TenantChangeListener,
    directory_pool,
)
from twh_platform.tenancy.postgres.sqlalchemy import (
    TenantSession,
    bind_administrator_engine,
    bind_engine,
    verify_login_async,
)

from .auth import Tokens
from .keys import Keys
from .quotas import Quotas
from .settings import Settings
from .telemetry import Telemetry
from .vault import Vault
from .webhooks import Webhooks

__all__ = ["Services"]


# It sees all tenants, and so has no tokens that could be taken.
_SUPPORT_BEARS = ("login_bypasses_policies", "token_visible", "token_in_statements")


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """
    One set per running app; nothing is connected before it is needed.

    Attributes:
        settings: What the service was told.

        telemetry: What is seen of it all.

        vault: The platform's own secrets.

        seal: Seals the tenants of all connections.

        tokens: Issues and reads tokens.

        keys: What columns of tenants are sealed with.

        directory: Who the tenants are.

        quotas: How much they may use.

        webhooks: Signs and sends what their receivers are told.

        app: Sessions as `warehouse_app`, bound to the current tenant.

        login: Sessions as `warehouse_directory`, bound to the current tenant.

        administrator: Sessions as `warehouse_administrator`, which sees no
            tenant's rows.

        support: Sessions as `warehouse_support`, which sees all tenants, inside
            `twh_platform.tenancy.administrator` only.

        engines: What those sessions connect with, but for the last.

        support_engine: What the last connect with.

        pool: What the directory reads through; so do overrides, and usage is
            written through it.

        administrator_pool: Overrides are changed, and usage is read, through it.
    """

    settings: Settings
    telemetry: Telemetry
    vault: Vault
    seal: Seal
    tokens: Tokens
    keys: Keys
    directory: CachedTenantDirectory
    quotas: Quotas
    webhooks: Webhooks
    app: async_sessionmaker[AsyncSession]
    login: async_sessionmaker[AsyncSession]
    administrator: async_sessionmaker[AsyncSession]
    support: async_sessionmaker[AsyncSession]
    engines: tuple[AsyncEngine, ...]
    support_engine: AsyncEngine
    pool: AsyncConnectionPool[Any]
    administrator_pool: AsyncConnectionPool[Any]

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """
        Put them together.
        """
        telemetry = Telemetry.of(settings)
        calls = telemetry.calls
        vault = Vault.of(settings)
        seal = vault.seal()
        app = bind_engine(_engine(settings, settings.app_dsn, size=10), seal=seal)
        login = bind_engine(_engine(settings, settings.directory_dsn, size=4), seal=seal)
        administrator = bind_engine(_engine(settings, settings.administrator_dsn, size=2))
        support = bind_administrator_engine(_engine(settings, settings.support_dsn, size=2))
        pool = directory_pool(_plain(settings.directory_dsn))
        administrators = directory_pool(_plain(settings.administrator_dsn), min_size=0, max_size=2)
        for name, engine in (("app", app), ("login", login), ("administrator", administrator)):
            watch_engine(engine, calls, pool=name)
        watch_engine(support, calls, pool="support")
        watch_pool(pool, calls, name="directory")
        watch_pool(administrators, calls, name="administrators")
        return cls(
            settings=settings,
            telemetry=telemetry,
            vault=vault,
            seal=seal,
            tokens=Tokens(settings, vault),
            keys=Keys.of(settings, service=vault.service, seal=seal, calls=calls),
            directory=CachedTenantDirectory(PostgresTenantDirectory(pool)),
            quotas=Quotas.of(settings, directory=pool, administrator=administrators, calls=calls),
            webhooks=Webhooks(settings, calls),
            app=_sessions(app),
            login=_sessions(login),
            administrator=async_sessionmaker(administrator, expire_on_commit=False),
            support=async_sessionmaker(support, expire_on_commit=False),
            engines=(app, login, administrator),
            support_engine=support,
            pool=pool,
            administrator_pool=administrators,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """
        Open what has to be opened, and close everything at the end.
        """
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.telemetry.running())
            for engine in (*self.engines, self.support_engine):
                stack.push_async_callback(engine.dispose)
            await stack.enter_async_context(self.vault.running())
            await stack.enter_async_context(self.vault.following(self.seal))
            await stack.enter_async_context(self.pool)
            await stack.enter_async_context(self.administrator_pool)
            await stack.enter_async_context(self.quotas.running())
            await stack.enter_async_context(self.keys.running())
            await stack.enter_async_context(self.webhooks.running())
            await stack.enter_async_context(
                TenantChangeListener(_plain(self.settings.directory_dsn), self.directory)
            )
            yield

    async def verify_logins(self) -> None:
        """
        Refuse to serve with a login that policies, or the seal, cannot hold.
        """
        for engine in self.engines:
            await verify_login_async(engine, sealed=True)
        # Outside of an access the support engine would refuse this, too.
        support = _engine(self.settings, self.settings.support_dsn, size=1)
        try:
            await verify_login_async(support, sealed=True, accept=_SUPPORT_BEARS)
        finally:
            await support.dispose()


def _sessions(engine: AsyncEngine) -> async_sessionmaker[AsyncSession]:
    return async_sessionmaker(engine, sync_session_class=TenantSession, expire_on_commit=False)


def _engine(settings: Settings, dsn: str, *, size: int) -> AsyncEngine:
    # The server gives up first, so that its reason is what is told.
    milliseconds = settings.database_seconds * 1000
    statement, lock = round(milliseconds * 0.8), round(milliseconds * 0.6)
    return create_async_engine(
        dsn,
        pool_size=size,
        max_overflow=0,
        pool_timeout=settings.database_seconds * 0.4,
        hide_parameters=True,  # an error's text goes to the log
        connect_args={
            "connect_timeout": 3,
            "options": f"-c statement_timeout={statement}ms -c lock_timeout={lock}ms"
            " -c idle_in_transaction_session_timeout=10s",
        },
    )


def _plain(dsn: str) -> str:
    return dsn.replace("postgresql+psycopg://", "postgresql://", 1)
