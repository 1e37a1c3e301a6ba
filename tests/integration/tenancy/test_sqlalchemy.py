"""
Every layer of SQLAlchemy, on every driver.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import asyncpg
import psycopg
import pytest
from sqlalchemy import Engine, create_engine, func, insert, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import AsyncAdaptedQueuePool, NullPool, QueuePool, StaticPool

from twh_platform.errors import ConfigurationError, TenantMismatchError
from twh_platform.tenancy import Tenant, bind_tenant
from twh_platform.tenancy.postgres import UNBOUND_SQLSTATE
from twh_platform.tenancy.postgres import asyncpg as tenant_asyncpg
from twh_platform.tenancy.postgres import psycopg as tenant_psycopg
from twh_platform.tenancy.postgres.sqlalchemy import bind_engine

A, B = Tenant(id="a"), Tenant(id="b")
OF_A, OF_B = ["a1", "a2"], ["b1"]
TENANTS = [(A, OF_A), (B, OF_B), (A, OF_A)]


class Base(DeclarativeBase):
    """
    The declarative base.
    """


class Thing(Base):
    """
    A row of the test's table; who owns it is the server's business.
    """

    __tablename__ = "things"

    tenant_id: Mapped[str] = mapped_column(
        primary_key=True, server_default=func.twh.current_tenant()
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


NAMES = select(Thing.name).order_by(Thing.name)


def url(dsn: str, driver: str) -> str:
    """
    The DSN for a driver.
    """
    return dsn.replace("postgresql://", f"postgresql+{driver}://", 1)


@pytest.fixture
def engine(dsn: str) -> Iterator[Engine]:
    """
    A sync engine with one connection.
    """
    engine = bind_engine(create_engine(url(dsn, "psycopg"), pool_size=1, max_overflow=0))
    yield engine
    engine.dispose()


@pytest.fixture(params=["psycopg", "asyncpg"])
async def async_engine(request: pytest.FixtureRequest, dsn: str) -> AsyncIterator[AsyncEngine]:
    """
    An async engine with one connection.
    """
    engine = create_async_engine(url(dsn, request.param), pool_size=1, max_overflow=0)
    yield bind_engine(engine)
    await engine.dispose()


class TestSync:
    """
    ORM, Core and raw SQL on a sync engine.
    """

    def test_orm(self, engine: Engine) -> None:
        """
        A session reads and writes its tenant's rows, before and after a commit.
        """
        for tenant, rows in TENANTS:
            with bind_tenant(tenant), Session(engine) as session:
                assert list(session.scalars(NAMES)) == rows
                session.commit()
                session.add(Thing(id=9, name="new"))
                session.flush()
                session.rollback()
                assert list(session.scalars(NAMES)) == rows

    def test_nested(self, engine: Engine) -> None:
        """
        Savepoints of the ORM keep the tenant.
        """
        with bind_tenant(A), Session(engine) as session:
            with suppress(DBAPIError), session.begin_nested():
                session.execute(text("SELECT 1/0"))

            assert list(session.scalars(NAMES)) == OF_A

    def test_connection_of_a_session(self, engine: Engine) -> None:
        """
        The connection below a session is the same transaction.
        """
        for tenant, rows in TENANTS:
            with bind_tenant(tenant), Session(engine) as session:
                assert list(session.connection().execute(NAMES).scalars()) == rows

    def test_raw_driver_connection(self, engine: Engine) -> None:
        """
        So is the driver's own connection.
        """
        for tenant, rows in TENANTS:
            with bind_tenant(tenant):
                raw = engine.raw_connection()
                cursor = raw.cursor()
                cursor.execute("SELECT name FROM things ORDER BY name")
                assert [name for (name,) in cursor.fetchall()] == rows
                raw.close()

    def test_many(self, engine: Engine) -> None:
        """
        A batch of inserts is the tenant's, and refused to another.
        """
        rows = [{"id": n, "name": f"n{n}"} for n in range(10, 13)]
        with bind_tenant(A), engine.connect() as connection:
            connection.execute(insert(Thing), rows)
            assert len(connection.execute(NAMES).all()) == len(OF_A) + 3
            with bind_tenant(B), pytest.raises(TenantMismatchError):
                connection.execute(insert(Thing), rows)

    def test_streaming(self, engine: Engine) -> None:
        """
        Another tenant cannot read on from a server-side cursor.
        """
        with bind_tenant(A), engine.connect() as connection:
            streaming = connection.execution_options(stream_results=True, max_row_buffer=1)
            result = streaming.execute(text("SELECT generate_series(1, 100)"))
            assert result.fetchone() == (1,)
            with bind_tenant(B), pytest.raises(TenantMismatchError):
                result.fetchall()

    def test_session_used_by_another(self, engine: Engine) -> None:
        """
        A session that has a transaction open serves nobody else.
        """
        with bind_tenant(A), Session(engine) as session:
            session.scalars(NAMES).all()
            with bind_tenant(B), pytest.raises(TenantMismatchError):
                session.scalars(NAMES).all()
            with bind_tenant(B):
                session.rollback()
                assert list(session.scalars(NAMES)) == OF_B

    @pytest.mark.parametrize("level", ["SERIALIZABLE", "REPEATABLE READ", "READ COMMITTED"])
    def test_isolation_level(self, engine: Engine, level: str) -> None:
        """
        An isolation level keeps the binding.
        """
        with bind_tenant(A), engine.connect() as connection:
            bound = connection.execution_options(isolation_level=level)
            assert bound.scalar(text("SHOW transaction_isolation")) == level.lower()
            assert list(bound.scalars(NAMES)) == OF_A

    def test_autocommit(self, engine: Engine) -> None:
        """
        AUTOCOMMIT has no transaction to bind, and the policies say so.
        """
        with bind_tenant(A), engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT")
            with pytest.raises(DBAPIError) as caught:
                connection.execute(NAMES)

        assert caught.value.orig.sqlstate == UNBOUND_SQLSTATE  # type: ignore[union-attr]

    def test_two_phase(self, engine: Engine) -> None:
        """
        A two-phase transaction is bound.
        """
        with bind_tenant(A), engine.connect() as connection:
            transaction = connection.begin_twophase()
            assert list(connection.scalars(NAMES)) == OF_A
            transaction.rollback()

    def test_options_share_the_binding(self, engine: Engine) -> None:
        """
        An engine derived with other options opens tenant connections too.
        """
        derived = engine.execution_options(isolation_level="REPEATABLE READ")
        for tenant, rows in TENANTS:
            with bind_tenant(tenant), derived.connect() as connection:
                assert list(connection.scalars(NAMES)) == rows

    def test_after_dispose(self, engine: Engine) -> None:
        """
        So does the pool that replaces a disposed one.
        """
        for tenant, rows in TENANTS:
            with bind_tenant(tenant), engine.connect() as connection:
                assert list(connection.scalars(NAMES)) == rows
            engine.dispose()

    def test_connection_lost(self, engine: Engine, admin: psycopg.Connection) -> None:
        """
        A connection that the server ended is noticed, and the next one is bound.
        """
        with bind_tenant(A), engine.connect() as connection:
            pid = connection.scalar(text("SELECT pg_backend_pid()"))
            admin.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
            with pytest.raises(DBAPIError) as caught:
                connection.execute(NAMES)
        with bind_tenant(B), engine.connect() as connection:
            assert list(connection.scalars(NAMES)) == OF_B

        assert caught.value.connection_invalidated


class TestAsync:
    """
    The same on async engines.
    """

    async def test_orm(self, async_engine: AsyncEngine) -> None:
        """
        A session reads and writes its tenant's rows, before and after a commit.
        """
        for tenant, rows in TENANTS:
            with bind_tenant(tenant):
                async with AsyncSession(async_engine) as session:
                    assert list(await session.scalars(NAMES)) == rows
                    await session.commit()
                    session.add(Thing(id=9, name="new"))
                    await session.flush()
                    await session.rollback()
                    assert list(await session.scalars(NAMES)) == rows

    async def test_nested(self, async_engine: AsyncEngine) -> None:
        """
        Savepoints of the ORM keep the tenant.
        """
        with bind_tenant(A):
            async with AsyncSession(async_engine) as session:
                with suppress(DBAPIError):
                    async with session.begin_nested():
                        await session.execute(text("SELECT 1/0"))

                assert list(await session.scalars(NAMES)) == OF_A

    async def test_run_sync(self, async_engine: AsyncEngine) -> None:
        """
        Sync code in an async session is bound.
        """

        def read(session: Session) -> list[str]:
            return list(session.scalars(NAMES))

        for tenant, rows in TENANTS:
            with bind_tenant(tenant):
                async with AsyncSession(async_engine) as session:
                    assert await session.run_sync(read) == rows

    async def test_bound_inside_run_sync(self, async_engine: AsyncEngine) -> None:
        """
        A tenant that is bound within sync code counts there.
        """

        def read(session: Session) -> list[str]:
            with bind_tenant(B):
                rows = list(session.scalars(NAMES))
                session.rollback()
            return rows

        with bind_tenant(A):
            async with AsyncSession(async_engine) as session:
                assert await session.run_sync(read) == OF_B
                assert list(await session.scalars(NAMES)) == OF_A

    async def test_streaming(self, async_engine: AsyncEngine) -> None:
        """
        Another tenant cannot read on from a server-side cursor.
        """
        with bind_tenant(A):
            async with async_engine.connect() as connection:
                streaming = await connection.execution_options(max_row_buffer=1)
                result = await streaming.stream(text("SELECT generate_series(1, 100)"))
                assert await result.fetchone() == (1,)
                with bind_tenant(B), pytest.raises(TenantMismatchError):
                    await result.fetchall()

    async def test_session_used_by_another(self, async_engine: AsyncEngine) -> None:
        """
        A session that has a transaction open serves nobody else.
        """
        with bind_tenant(A):
            async with AsyncSession(async_engine) as session:
                (await session.scalars(NAMES)).all()
                with bind_tenant(B), pytest.raises(TenantMismatchError):
                    await session.scalars(NAMES)
                with bind_tenant(B):
                    await session.rollback()
                    assert list(await session.scalars(NAMES)) == OF_B

    async def test_isolation_level(self, async_engine: AsyncEngine) -> None:
        """
        An isolation level keeps the binding, and AUTOCOMMIT has none.
        """
        with bind_tenant(A):
            async with async_engine.connect() as connection:
                await connection.execution_options(isolation_level="SERIALIZABLE")
                assert await connection.scalar(text("SHOW transaction_isolation")) == "serializable"
                assert list(await connection.scalars(NAMES)) == OF_A
                await connection.rollback()
                await connection.execution_options(isolation_level="AUTOCOMMIT")
                with pytest.raises(DBAPIError, match="no tenant is bound"):
                    await connection.execute(NAMES)

    async def test_connection_lost(
        self, async_engine: AsyncEngine, admin: psycopg.Connection
    ) -> None:
        """
        A connection that the server ended is noticed, and the next one is bound.
        """
        with bind_tenant(A):
            async with async_engine.connect() as connection:
                pid = await connection.scalar(text("SELECT pg_backend_pid()"))
                admin.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
                with pytest.raises(DBAPIError) as caught:
                    await connection.execute(NAMES)
        with bind_tenant(B):
            async with async_engine.connect() as connection:
                assert list(await connection.scalars(NAMES)) == OF_B

        assert caught.value.connection_invalidated


POOLS: list[dict[str, Any]] = [
    {"pool_pre_ping": True, "pool_size": 1, "max_overflow": 0},
    {"poolclass": NullPool},
    {"poolclass": StaticPool},
    {"pool_reset_on_return": None, "pool_size": 1, "max_overflow": 0},
]


class TestPools:
    """
    Whatever lends the connections.
    """

    @pytest.mark.parametrize("options", [*POOLS, {"poolclass": QueuePool, "pool_size": 1}], ids=str)
    def test_sync(self, dsn: str, options: dict[str, Any]) -> None:
        """
        Each pool of a sync engine has bound connections.
        """
        engine = bind_engine(create_engine(url(dsn, "psycopg"), **options))
        for tenant, rows in TENANTS:
            with bind_tenant(tenant), engine.connect() as connection:
                assert list(connection.scalars(NAMES)) == rows
                connection.rollback()
        engine.dispose()

    @pytest.mark.parametrize(
        "options", [*POOLS, {"poolclass": AsyncAdaptedQueuePool, "pool_size": 1}], ids=str
    )
    @pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
    async def test_async(self, dsn: str, driver: str, options: dict[str, Any]) -> None:
        """
        Each pool of an async engine has bound connections.
        """
        engine = bind_engine(create_async_engine(url(dsn, driver), **options))
        for tenant, rows in TENANTS:
            with bind_tenant(tenant):
                async with engine.connect() as connection:
                    assert list(await connection.scalars(NAMES)) == rows
                    await connection.rollback()
        await engine.dispose()


class TestRefusedEngines:
    """
    Engines that would not open tenant connections.
    """

    @pytest.mark.parametrize("pool", [None, NullPool, StaticPool])
    def test_used_before(self, dsn: str, pool: Any) -> None:
        """
        An engine that has connected already is refused, whatever its pool.
        """
        engine = create_engine(url(dsn, "psycopg"), poolclass=pool)
        with engine.connect():
            pass

        with pytest.raises(ConfigurationError, match="first connection"):
            bind_engine(engine)
        engine.dispose()

    def test_creator(self, dsn: str) -> None:
        """
        An engine whose creator opens plain connections never lends one.
        """
        engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn))
        bind_engine(engine)

        with pytest.raises(ConfigurationError, match="creator"), engine.connect():
            pass
        engine.dispose()

    def test_creator_of_tenant_connections(self, dsn: str) -> None:
        """
        One whose creator opens tenant connections is fine.
        """
        connect = tenant_psycopg.TenantConnection.connect
        engine = create_engine("postgresql+psycopg://", creator=lambda: connect(dsn))
        bind_engine(engine)
        with bind_tenant(A), engine.connect() as connection:
            assert list(connection.scalars(NAMES)) == OF_A
        engine.dispose()

    async def test_async_creator(self, dsn: str) -> None:
        """
        An async creator is held to the same.
        """

        async def plain() -> Any:
            return await asyncpg.connect(dsn)

        async def bound() -> Any:
            return await tenant_asyncpg.connect(dsn)

        engines = [
            bind_engine(create_async_engine("postgresql+asyncpg://", async_creator=creator))
            for creator in (plain, bound)
        ]
        with pytest.raises(ConfigurationError, match="creator"):
            async with engines[0].connect():
                pass
        with bind_tenant(A):
            async with engines[1].connect() as connection:
                assert list(await connection.scalars(NAMES)) == OF_A
        for engine in engines:
            await engine.dispose()

    def test_other_driver(self) -> None:
        """
        A driver that is not known is refused by name.
        """
        with pytest.raises(ConfigurationError, match=r"sqlite\+pysqlite"):
            bind_engine(create_engine("sqlite://"))

    def test_other_listener(self, dsn: str) -> None:
        """
        A listener that connects in our place is noticed at the first connection.
        """
        from sqlalchemy import event

        engine = create_engine(url(dsn, "psycopg"))
        event.listen(engine, "do_connect", lambda *_: psycopg.connect(dsn))
        bind_engine(engine)

        with pytest.raises(ConfigurationError, match="creator"), engine.connect():
            pass
        engine.dispose()
