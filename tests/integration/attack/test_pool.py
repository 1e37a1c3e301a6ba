"""
A storm over the pools of every kind: ours keep tenants apart, naive ones do not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any

import asyncpg
import psycopg_pool
import pytest
import sqlalchemy as sa
from psycopg.pq import TransactionStatus
from sqlalchemy.ext.asyncio import create_async_engine

from twh_platform.errors import ConfigurationError
from twh_platform.tenancy.postgres.asyncpg import TenantConnection as AsyncpgConnection
from twh_platform.tenancy.postgres.attack import attack_pool
from twh_platform.tenancy.postgres.psycopg import AsyncTenantConnection, TenantConnection
from twh_platform.tenancy.postgres.sqlalchemy import bind_engine

PROBE = "SELECT tenant_id FROM items"
TWO = {"pool_size": 2, "max_overflow": 0}
SIZE = {"min_size": 2, "max_size": 2}


def url(service: Any, driver: str) -> str:
    """The service's address, for SQLAlchemy."""
    return service.database.dsn(user="attacked_app", scheme=f"postgresql+{driver}")


POOLS: dict[str, Callable[[Any], Any]] = {
    "engine": lambda one: bind_engine(sa.create_engine(url(one, "psycopg"), **TWO), seal=one.seal),
    "async engine, psycopg": lambda one: bind_engine(
        create_async_engine(url(one, "psycopg"), **TWO), seal=one.seal
    ),
    "async engine, asyncpg": lambda one: bind_engine(
        create_async_engine(url(one, "asyncpg"), **TWO), seal=one.seal
    ),
    "psycopg": lambda one: psycopg_pool.ConnectionPool(
        one.dsn, connection_class=TenantConnection.using(seal=one.seal), open=False, **SIZE
    ),
    "async psycopg": lambda one: psycopg_pool.AsyncConnectionPool(
        one.dsn, connection_class=AsyncTenantConnection.using(seal=one.seal), open=False, **SIZE
    ),
    "asyncpg": lambda one: asyncpg.create_pool(
        one.dsn, connection_class=AsyncpgConnection.using(seal=one.seal), **SIZE
    ),
}


@pytest.fixture(params=[False, True], ids=["unsealed", "sealed"])
def attacked(request, service):
    """The good schema, with TEMPORARY so that tables can be left behind."""
    return service("GRANT TEMPORARY ON DATABASE {database} TO attacked_app", sealed=request.param)


@pytest.mark.parametrize("kind", POOLS)
async def test_our_pools_keep_tenants_apart(kind, attacked):
    """No foreign row, no residue, nothing stuck, whatever transactions end in."""
    report = await attack_pool(
        lambda: POOLS[kind](attacked), tenant="acme", other="globex", probe=PROBE, transactions=150
    )

    report.ensure_safe()
    assert [one.verdict for one in report.results] == ["refused"] * 3
    assert all("left" in one.detail for one in report.result("pool-residue").outcomes)


_current: ContextVar[str] = ContextVar("_current", default="")


@contextmanager
def naive_bind(tenant: str | None) -> Iterator[None]:
    """Make a tenant current, in a variable of the service's own."""
    token = _current.set(tenant or "")
    yield
    _current.reset(token)


NAIVE = (
    "CREATE TABLE naive AS TABLE items; ALTER TABLE naive ENABLE ROW LEVEL SECURITY;"
    " CREATE POLICY own ON naive USING (tenant_id = current_setting('app.tenant', true));"
    " GRANT SELECT ON naive TO attacked_app;"
    " GRANT TEMPORARY ON DATABASE {database} TO attacked_app"
)


def naive_engine(service: Any, *, local: bool) -> sa.Engine:
    """An engine that binds by a statement after BEGIN, and forgets to where nobody is bound."""
    engine = sa.create_engine(url(service, "psycopg"), **TWO)

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        if tenant := _current.get():
            connection.exec_driver_sql(f"SELECT set_config('app.tenant', '{tenant}', {local})")

    return engine


def attack_naive(engine: Any, **options: Any) -> Any:
    """Attack a pool of the naive table."""
    given = {"bind": naive_bind, "probe": "SELECT tenant_id FROM naive", "transactions": 200}
    return attack_pool(engine, tenant="acme", other="globex", **{**given, **options})


async def test_a_session_setting_leaks(service):
    """Control: a tenant that is set for the session is there for whoever binds none."""
    engine = naive_engine(service(NAIVE), local=False)

    report = await attack_naive(engine)
    engine.dispose()

    [outcome] = report.result("pool-rows").at("leaked")
    assert outcome.name == "rows where nobody was bound"
    assert outcome.rows > 0


async def test_residue_is_found(service):
    """Control: connections that nobody scrubs hand over everything that a session keeps."""
    engine = naive_engine(service(NAIVE), local=True)

    report = await attack_naive(engine)
    with engine.connect() as one:
        left = one.exec_driver_sql("SELECT count(*) FROM pg_cursors").scalar()
    engine.dispose()

    found = {one.name for one in report.result("pool-residue").at("leaked")}
    assert found == {
        "setting",
        "cursor",
        "temporary table",
        "channel",
        "advisory lock",
        "prepared statement",
    }
    assert left == 0


async def test_a_wrong_tenant_is_found(service):
    """Control: a service that binds what another request has just bound shows foreign rows."""
    engine = sa.create_engine(url(service(NAIVE), "psycopg"), **TWO)
    shared: list[str] = [""]

    @contextmanager
    def bind(tenant: str | None) -> Iterator[None]:
        shared[0] = tenant or ""
        yield

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql(f"SELECT set_config('app.tenant', '{shared[0]}', true)")

    report = await attack_naive(engine, bind=bind)
    engine.dispose()

    assert "rows of another tenant" in {one.name for one in report.result("pool-rows").at("leaked")}


async def test_a_transaction_that_stays_open_is_found(service):
    """Control: a connection that comes back within its transaction is noticed."""
    engine = naive_engine(service(NAIVE), local=True)

    def forget(connection: Any) -> None:
        if connection.driver_connection.info.transaction_status == TransactionStatus.INERROR:
            connection.rollback()

    engine.dialect.do_rollback = forget

    report = await attack_naive(engine)
    engine.dispose()

    stuck = {one.name for one in report.result("pool-stuck").at("leaked")}
    assert "transactions that were still open" in stuck


class LosingPool(psycopg_pool.AsyncConnectionPool):
    """A pool that does not get back what the first three exceptions ended."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lost: list[Any] = []

    @asynccontextmanager
    async def connection(self, timeout: float | None = None):  # noqa: ASYNC109 -- theirs
        """Lend a connection."""
        one = await self.getconn(timeout)
        try:
            yield one
            await one.commit()
        except BaseException:
            await one.rollback()
            if len(self.lost) < 3:
                self.lost.append(one)
            raise
        finally:
            if one not in self.lost:
                await self.putconn(one)


async def test_connections_that_are_lost_are_found(service):
    """Control: what an exception has kept from the pool is counted."""
    one = service(sealed=True)
    pool = LosingPool(
        one.dsn,
        connection_class=AsyncTenantConnection.using(seal=one.seal),
        min_size=8,
        max_size=8,
        open=False,
    )
    async with pool:
        report = await attack_pool(pool, tenant="acme", other="globex", probe=PROBE)
        for connection in pool.lost:
            await pool.putconn(connection)

    [outcome] = report.result("pool-stuck").at("leaked")
    assert (outcome.name, outcome.detail) == ("connections that were not given back", "3")


async def test_a_pool_that_is_too_large_proves_nothing(service):
    """Where no connection changes hands, it is said."""
    one = service(sealed=True)
    pool = POOLS["async psycopg"](one)

    report = await attack_pool(pool, tenant="acme", other="globex", probe=PROBE, transactions=1)

    assert report.result("pool-rows").verdict == "inconclusive"
    assert pool.closed


@pytest.mark.parametrize(
    ("target", "probe", "code"),
    [
        ("nothing of the kind", PROBE, "attack_pool_unknown"),
        (lambda: 5, PROBE, "attack_pool_unknown"),
        (None, "SELECT tenant_id FROM items WHERE false", "attack_not_bound"),
        (None, "SELECT 'hooli'", "attack_not_bound"),
        (None, "SELECT no_such_column FROM items", "attack_not_bound"),
    ],
)
async def test_what_cannot_be_attacked_is_an_error(target, probe, code, service):
    """Neither a stranger's object nor a probe that proves nothing is taken for safe."""
    one = service()
    pool = target or (lambda: POOLS["engine"](one))

    with pytest.raises(ConfigurationError) as caught:
        await attack_pool(pool, tenant="acme", other="globex", probe=probe)

    assert caught.value.code == code


@pytest.mark.parametrize("how", ["awaitable", "context"])
async def test_a_function_may_make_the_pool(how, service):
    """A coroutine and an async context manager bring a pool as well."""
    one = service(sealed=True)

    async def awaited() -> Any:
        return POOLS["engine"](one)

    @asynccontextmanager
    async def managed() -> Any:
        engine = POOLS["engine"](one)
        yield engine
        engine.dispose()

    make = awaited if how == "awaitable" else managed
    report = await attack_pool(make, tenant="acme", other="globex", probe=PROBE, transactions=60)

    report.ensure_safe()
