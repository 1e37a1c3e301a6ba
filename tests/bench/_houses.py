"""
The warehouse in three degrees of isolation, and a meter on each.

*Sealed* is the warehouse as shipped.  *Unsealed* has its policies and believes
tenants without a seal.  *None* has no row-level security, a constant for the
tenant's default, and an engine that knows nothing of tenants; its queries name
the tenant in WHERE, because every index begins with it.  All three hold the
same rows of one tenant, under the same ids.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import ORMExecuteState, Session, with_loader_criteria

from examples.warehouse.app import create_app
from examples.warehouse.auth import Role
from examples.warehouse.database import temporary_warehouse
from examples.warehouse.models import TenantRow
from examples.warehouse.schema import APP, DIRECTORY, OWNER, TENANT_TABLES
from examples.warehouse.services import Services, _engine, _sessions
from examples.warehouse.settings import Settings
from tests.support.warehouse import Client, connect
from twh_platform.tenancy.postgres import install_sql
from twh_platform.tenancy.postgres.sqlalchemy import bind_engine
from twh_platform.testing import PostgresDatabase, PostgresServer

__all__ = ["ITEMS", "PLACE", "House", "Meter", "open_databases", "open_houses"]

ITEMS = 1000
"""How many items there are; their ids are the UUIDs from 0 on."""

PLACE = UUID(int=1)
"""The id of the one location, where all items are in stock."""

_TENANT = "acme"
_USER = UUID(int=1)
_TOKEN_SECONDS = 86400.0

_ROOM = '{"minute": {"limit": 10000000}, "hour": {"limit": 100000000}}'

_FILL = f"""
INSERT INTO twh.tenants (id, tier, status) VALUES ('{_TENANT}', 'ENTERPRISE', 'active');
SELECT twh.change_quota_override(
    '{_TENANT}', '{_ROOM}', 'bench', 'as many requests as the machine can answer');
INSERT INTO users (tenant_id, id, email, name, role)
    VALUES ('{_TENANT}', '{_USER}', 'admin@{_TENANT}.example', 'Admin', 'admin');
INSERT INTO locations (tenant_id, id, code, name)
    VALUES ('{_TENANT}', '{PLACE}', 'MAIN', 'Main hall');
INSERT INTO items (tenant_id, id, sku, name, unit_price_minor, reorder_point, version)
    SELECT '{_TENANT}', lpad(to_hex(n), 32, '0')::uuid, 'SKU-' || n, 'Item ' || n, n, 10, 1
    FROM generate_series(0, {ITEMS} - 1) AS n;
INSERT INTO stock_movements
        (tenant_id, id, kind, item_id, location_id, quantity, reference, actor_id)
    SELECT tenant_id, gen_random_uuid(), 'adjustment', id, '{PLACE}',
           1000000000, 'opening stock', '{_USER}'
    FROM items;
INSERT INTO stock_levels (tenant_id, item_id, location_id, quantity)
    SELECT tenant_id, item_id, location_id, quantity FROM stock_movements;
"""


@dataclass(slots=True, kw_only=True)
class Meter:
    """
    What one app's connections spend on the database.

    Attributes:
        seconds: From sending to having the answer, all in all.

        turns: How many times the app waited for an answer.

        backends: The server's processes behind the connections.
    """

    seconds: float = 0.0
    turns: int = 0
    backends: set[int] = field(default_factory=set)

    def watch(self, sessions: async_sessionmaker[AsyncSession]) -> None:
        """
        Time whatever the connections of *sessions* wait for.
        """
        event.listen(sessions.kw["bind"].sync_engine, "connect", self._connected)

    def _connected(self, _dbapi_connection: Any, record: Any) -> None:
        connection = record.driver_connection
        self.backends.add(connection.info.backend_pid)
        wait = connection.wait

        # All that psycopg sends and receives goes through here.
        async def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return await wait(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - start
                self.turns += 1

        connection.wait = timed


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """
    One running warehouse.

    Attributes:
        client: Asks it, with a token that may do everything.

        meter: Knows what its requests spend on the database.
    """

    client: Client
    meter: Meter


# --- sessions of the three


def _sealed(services: Services) -> async_sessionmaker[AsyncSession]:
    return services.app


def _unsealed(services: Services) -> async_sessionmaker[AsyncSession]:
    return _sessions(bind_engine(_engine(services.settings, services.settings.app_dsn, size=10)))


def _none(services: Services) -> async_sessionmaker[AsyncSession]:
    class NamesTenant(Session):
        pass

    event.listen(NamesTenant, "do_orm_execute", _name_tenant)
    return async_sessionmaker(
        _engine(services.settings, services.settings.app_dsn, size=10),
        sync_session_class=NamesTenant,
        expire_on_commit=False,
    )


_OWN_ROWS = with_loader_criteria(
    TenantRow, lambda row: row.tenant_id == _TENANT, include_aliases=True
)


def _name_tenant(state: ORMExecuteState) -> None:
    if not state.is_insert:
        state.statement = state.statement.options(_OWN_ROWS)


_Sessions = Callable[[Services], async_sessionmaker[AsyncSession]]

_WAYS: dict[str, _Sessions] = {"sealed": _sealed, "unsealed": _unsealed, "none": _none}


# --- their databases


@contextlib.contextmanager
def open_databases(server: PostgresServer) -> Iterator[dict[str, Settings]]:
    """
    Make a warehouse of one tenant, and two copies with less isolation.
    """
    with (
        temporary_warehouse(server, administrator_password_hash="") as made,
        contextlib.ExitStack() as copies,
    ):
        original = PostgresDatabase(server=server, name=urlsplit(made.app_dsn).path[1:])
        original.execute(_FILL)
        databases = {"sealed": original}
        for way, change in (("unsealed", install_sql()), ("none", _open_sql())):
            databases[way] = _copy(original, way)
            copies.callback(databases[way].drop)
            databases[way].execute(change, user=OWNER)
        for database in databases.values():
            database.execute("VACUUM ANALYZE")
        server.execute("CHECKPOINT")
        yield {way: _settings(made, database) for way, database in databases.items()}


def _copy(original: PostgresDatabase, way: str) -> PostgresDatabase:
    copy = PostgresDatabase(server=original.server, name=f"{original.name}_{way}")
    copy.server.execute(f'CREATE DATABASE "{copy.name}" TEMPLATE "{original.name}" OWNER {OWNER}')
    return copy


def _settings(made: Settings, database: PostgresDatabase) -> Settings:
    def dsn(role: str) -> str:
        near = database.server.managed
        return database.dsn(user=role, scheme="postgresql+psycopg", unix_socket=near)

    return replace(
        made, app_dsn=dsn(APP), directory_dsn=dsn(DIRECTORY), token_seconds=_TOKEN_SECONDS
    )


def _open_sql() -> str:
    """
    Take the isolation of all tables away; grants, keys and indexes stay.
    """
    return "".join(
        f"""\
DROP POLICY tenant_rows ON {table.qualified};
DROP POLICY tenant_floor ON {table.qualified};
ALTER TABLE {table.qualified}
    NO FORCE ROW LEVEL SECURITY,
    DISABLE ROW LEVEL SECURITY,
    ALTER COLUMN tenant_id SET DEFAULT '{_TENANT}';
"""
        for table in TENANT_TABLES
    )


# --- running


@contextlib.contextmanager
def open_houses(
    settings: Mapping[str, Settings], runner: asyncio.Runner, *, port: int | None = None
) -> Iterator[dict[str, House]]:
    """
    Run a warehouse on each database, in the loop of *runner*.

    Args:
        settings: What `open_databases` gave.

        runner: Runs what is asked of them, too.

        port: Of a proxy on loopback, to connect through.
    """
    stack = contextlib.AsyncExitStack()

    async def enter() -> dict[str, House]:
        return {
            way: await stack.enter_async_context(_house(_through(one, port), _WAYS[way]))
            for way, one in settings.items()
        }

    try:
        yield runner.run(enter())
    finally:
        runner.run(stack.aclose())


def _through(settings: Settings, port: int | None) -> Settings:
    if port is None:
        return settings
    parts = urlsplit(settings.app_dsn)
    login = parts.netloc.rpartition("@")[0]
    proxied = parts._replace(netloc=f"{login}@127.0.0.1:{port}", query="")
    return replace(settings, app_dsn=urlunsplit(proxied))


@contextlib.asynccontextmanager
async def _house(settings: Settings, sessions: _Sessions) -> AsyncIterator[House]:
    app = create_app(settings)
    services: Services = app.state.services
    app.state.services = replace(services, app=sessions(services))
    meter = Meter()
    meter.watch(app.state.services.app)
    token = services.tokens.for_user(tenant_id=_TENANT, user_id=_USER, role=Role.ADMIN)
    async with services.running(), connect(app, token) as client:
        try:
            yield House(client=client, meter=meter)
        finally:
            await app.state.services.app.kw["bind"].dispose()
