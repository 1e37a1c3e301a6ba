"""
Every way that asyncpg has to send a statement.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import asyncpg
import psycopg
import pytest

from tests.support.proxy import CountingProxy
from twh_platform.errors import TenantMismatchError
from twh_platform.tenancy import Tenant, bind_tenant, current_tenant
from twh_platform.tenancy.postgres.asyncpg import TenantConnection, connect
from twh_platform.testing import PostgresServer

A, B = Tenant(id="a"), Tenant(id="b")
NAMES = "SELECT name FROM things ORDER BY name"
OF_A, OF_B = ["a1", "a2"], ["b1"]


async def names(connection: Any) -> list[str]:
    """
    Read the names of the things that can be seen.
    """
    return [row["name"] for row in await connection.fetch(NAMES)]


@pytest.fixture
async def connection(dsn: str) -> AsyncIterator[TenantConnection]:
    """
    A tenant connection.
    """
    connection = await connect(dsn)
    yield connection
    connection.terminate()


async def nested(connection: Any) -> None:
    """
    A savepoint block.
    """
    async with connection.transaction():
        await connection.execute("SELECT 1")


async def iterate(connection: Any) -> None:
    """
    A cursor in a loop.
    """
    async for _ in connection.cursor("SELECT 1"):
        pass


SENDS: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "execute": lambda it: it.execute("SELECT 1"),
    "execute, parameters": lambda it: it.execute("SELECT $1::int", 1),
    "execute, several": lambda it: it.execute("SELECT 1; SELECT 2"),
    "execute, end and more": lambda it: it.execute("COMMIT; SELECT 1"),
    "execute, begin": lambda it: it.execute("BEGIN"),
    "fetch": lambda it: it.fetch("SELECT 1"),
    "fetchrow": lambda it: it.fetchrow("SELECT 1"),
    "fetchval": lambda it: it.fetchval("SELECT 1"),
    "fetchmany": lambda it: it.fetchmany("SELECT $1::int", [(1,), (2,)]),
    "executemany": lambda it: it.executemany("SELECT $1::int", [(1,), (2,)]),
    "prepare": lambda it: it.prepare("SELECT 1"),
    "cursor": lambda it: it.cursor("SELECT 1"),
    "cursor, iterated": iterate,
    "copy_from_query": lambda it: it.copy_from_query("SELECT 1", output=io.BytesIO()),
    "copy_from_table": lambda it: it.copy_from_table("things", output=io.BytesIO()),
    "copy_to_table": lambda it: it.copy_to_table("things", source=io.BytesIO(b"a\t5\tx\n")),
    "copy_records_to_table": lambda it: it.copy_records_to_table("things", records=[("a", 5, "x")]),
    "add_listener": lambda it: it.add_listener("news", print),
    "set_type_codec": lambda it: it.set_type_codec(
        "things", encoder=str, decoder=str, schema="public"
    ),
    "savepoint block": nested,
}


class TestSends:
    """
    Another tenant inside an open transaction.
    """

    @pytest.mark.parametrize("name", SENDS)
    async def test_refused(self, connection: TenantConnection, name: str) -> None:
        """
        Each way is refused, and the transaction can still be rolled back.
        """
        with bind_tenant(A):
            transaction = connection.transaction()
            await transaction.start()
            await names(connection)
        with bind_tenant(B):
            with pytest.raises(TenantMismatchError):
                await SENDS[name](connection)
            await transaction.rollback()
            async with connection.transaction():
                assert await names(connection) == OF_B

    @pytest.mark.parametrize("end", ["commit", "rollback"])
    async def test_ended_from_anywhere(self, connection: TenantConnection, end: str) -> None:
        """
        Whoever holds the transaction may end it.
        """
        with bind_tenant(A):
            transaction = connection.transaction()
            await transaction.start()
        with bind_tenant(B):
            await getattr(transaction, end)()

        assert not connection.is_in_transaction()

    async def test_prepared(self, connection: TenantConnection) -> None:
        """
        A prepared statement that tenants share answers each with its own rows.
        """
        statement = await connection.prepare(NAMES)
        seen = []
        for tenant in (A, B) * 4:
            with bind_tenant(tenant):
                async with connection.transaction():
                    seen.append([row["name"] for row in await statement.fetch()])
                    with bind_tenant(None), pytest.raises(TenantMismatchError):
                        await statement.fetch()

        assert seen == [OF_A, OF_B] * 4

    @pytest.mark.parametrize("send", ["fetch", "fetchrow", "forward"])
    async def test_cursor(self, connection: TenantConnection, send: str) -> None:
        """
        Another tenant cannot read on from a cursor.
        """
        with bind_tenant(A):
            async with connection.transaction():
                cursor = await connection.cursor(NAMES)
                await cursor.fetchrow()
                with bind_tenant(B), pytest.raises(TenantMismatchError):
                    await getattr(cursor, send)(*([] if send == "fetchrow" else [1]))
                rest = await cursor.fetch(5)

        assert [row["name"] for row in rest] == OF_A[1:]


class TestTransactions:
    """
    What asyncpg's transactions can do, they still can.
    """

    async def test_options(self, connection: TenantConnection) -> None:
        """
        Isolation level, read only and deferrable reach the server.
        """
        names_ = ("transaction_isolation", "transaction_read_only", "transaction_deferrable")
        with bind_tenant(A):
            async with connection.transaction(
                isolation="serializable", readonly=True, deferrable=True
            ):
                shown = [await connection.fetchval(f"SHOW {name}") for name in names_]

                assert await names(connection) == OF_A
        assert shown == ["serializable", "on", "on"]

    async def test_blocks(self, connection: TenantConnection) -> None:
        """
        Blocks in blocks are bound; the inner may fail.
        """
        with bind_tenant(A):
            async with connection.transaction():
                with suppress(asyncpg.DivisionByZeroError):
                    async with connection.transaction():
                        await connection.execute("SELECT 1/0")
                assert await names(connection) == OF_A

    @pytest.mark.parametrize(
        "begin",
        [
            "BEGIN",
            "begin;",
            " Begin Work ; ",
            "START TRANSACTION READ ONLY",
            "BEGIN ISOLATION LEVEL SERIALIZABLE, READ ONLY",
        ],
    )
    async def test_begin_by_hand(self, connection: TenantConnection, begin: str) -> None:
        """
        A BEGIN in SQL is bound as well.
        """
        with bind_tenant(A):
            await connection.execute(begin)
            assert await names(connection) == OF_A
            with bind_tenant(B), pytest.raises(TenantMismatchError):
                await names(connection)
            await connection.execute("ROLLBACK")

    @pytest.mark.parametrize(
        "begin", ["BEGIN -- note", "/* note */ BEGIN", "BEGIN; SELECT 1", "SELECT 1; BEGIN"]
    )
    async def test_begin_in_disguise(self, connection: TenantConnection, begin: str) -> None:
        """
        One that is not recognised serves nobody, whatever is planted.
        """
        with bind_tenant(A):
            async with connection.transaction():
                await connection.execute("SET twh.tenant_id = 'a'")
            await connection.execute(begin)
            for tenant in (A, B, None):
                with bind_tenant(tenant), pytest.raises(TenantMismatchError):
                    await names(connection)
            await connection.execute("ROLLBACK")

    async def test_begin_as_a_query(self, connection: TenantConnection) -> None:
        """
        Nor does one that was sent as a query.
        """
        with bind_tenant(A):
            await connection.fetch("BEGIN")
            with pytest.raises(TenantMismatchError, match="nobody"):
                await names(connection)


class TestCancellation:
    """
    A cancelled statement may have been carried out all the same.
    """

    @pytest.mark.parametrize("begin", ["execute", "transaction"])
    async def test_begin(
        self, dsn: str, server: PostgresServer, admin: psycopg.Connection, begin: str
    ) -> None:
        """
        What a cancelled BEGIN has opened serves nobody until it is rolled back.
        """
        with CountingProxy(server.host, server.port) as proxy:
            connection = await connect(dsn, host=proxy.host, port=proxy.port)
            with bind_tenant(A):
                await connection.fetchval("SELECT 1")
                proxy.delay = 0.4
                await cancel_begin(connection, begin, admin)
            with bind_tenant(B), pytest.raises(TenantMismatchError, match="nobody"):
                await names(connection)
            proxy.delay = 0
            await connection.reset()
            with bind_tenant(B):
                async with connection.transaction():
                    assert await names(connection) == OF_B
            await connection.close()

    async def test_reset(self, dsn: str, server: PostgresServer, admin: psycopg.Connection) -> None:
        """
        A reset right after the cancellation rolls back what BEGIN has opened.
        """
        with CountingProxy(server.host, server.port) as proxy:
            connection = await connect(dsn, host=proxy.host, port=proxy.port)
            proxy.delay = 0.4
            with bind_tenant(A):
                await cancel_begin(connection, "execute", admin)
            proxy.delay = 0
            await connection.reset(timeout=10)

            assert not connection.is_in_transaction()
            with bind_tenant(B):
                async with connection.transaction():
                    assert await names(connection) == OF_B
            await connection.close()

    async def test_cancelled_while_waiting(
        self, dsn: str, server: PostgresServer, admin: psycopg.Connection
    ) -> None:
        """
        Who is cancelled while waiting for a cancellation leaves a usable connection.
        """
        with CountingProxy(server.host, server.port) as proxy:
            connection = await connect(dsn, host=proxy.host, port=proxy.port)
            proxy.delay = 0.4
            with bind_tenant(A):
                await cancel_begin(connection, "execute", admin)
            waiting = asyncio.create_task(names(connection))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            proxy.delay = 0
            await connection.reset(timeout=10)
            with bind_tenant(B):
                async with connection.transaction():
                    assert await names(connection) == OF_B
            await connection.close()

    async def test_plain_connection(
        self, dsn: str, server: PostgresServer, admin: psycopg.Connection
    ) -> None:
        """
        The control: a plain connection sends the next statement into that transaction.
        """
        with CountingProxy(server.host, server.port) as proxy:
            connection = await asyncpg.connect(dsn, host=proxy.host, port=proxy.port)
            proxy.delay = 0.4
            await cancel_begin(connection, "bound by hand", admin)

            assert await names(connection) == OF_A
            proxy.delay = 0
            await connection.close()


async def cancel_begin(connection: Any, begin: str, admin: psycopg.Connection) -> None:
    """
    Cancel a BEGIN that the server has carried out, before its answer arrives.
    """
    ways: dict[str, Callable[[], Awaitable[Any]]] = {
        "execute": lambda: connection.execute("BEGIN"),
        "transaction": lambda: connection.transaction().start(),
        "bound by hand": lambda: connection.execute("BEGIN; SET LOCAL twh.tenant_id = 'a'"),
    }
    task = asyncio.ensure_future(ways[begin]())
    while not admin.execute(  # noqa: ASYNC110 -- the server has no event to wait for
        "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND state = 'idle in transaction'",
        (connection.get_server_pid(),),
    ).fetchall():
        await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


class TestPool:
    """
    The callbacks of a pool run in contexts of their own.
    """

    async def test_callbacks(self, dsn: str) -> None:
        """
        None of them binds the borrower's transaction.
        """
        contexts: dict[str, Tenant | None] = {}

        def note(name: str) -> Callable[[Any], Awaitable[None]]:
            async def callback(connection: Any) -> None:
                contexts[name] = current_tenant()
                async with connection.transaction():
                    await connection.execute("SELECT 1")

            return callback

        with bind_tenant(A):
            pool = await asyncpg.create_pool(
                dsn,
                connection_class=TenantConnection,
                min_size=1,
                max_size=1,
                init=note("init"),
                setup=note("setup"),
                reset=note("reset"),
            )
        for tenant, rows in ((B, OF_B), (A, OF_A), (B, OF_B)):
            with bind_tenant(tenant):
                async with pool.acquire() as connection, connection.transaction():
                    assert await names(connection) == rows
        await pool.close()

        assert set(contexts) == {"init", "setup", "reset"}

    async def test_release_with_open_transaction(self, dsn: str) -> None:
        """
        A transaction that was forgotten is rolled back on release, by whomever.
        """
        async with asyncpg.create_pool(
            dsn, connection_class=TenantConnection, min_size=1, max_size=1
        ) as pool:
            connection = await pool.acquire()
            with bind_tenant(A):
                await connection.execute("BEGIN")
                await connection.execute("INSERT INTO things (id) VALUES (9)")
            asyncio.get_running_loop().set_exception_handler(lambda *_: None)
            with bind_tenant(B):
                await pool.release(connection)
                async with pool.acquire() as connection, connection.transaction():
                    assert await names(connection) == OF_B

    async def test_connect_function(self, dsn: str) -> None:
        """
        `connect` may be given to a pool that has the choice.
        """
        async with asyncpg.create_pool(
            dsn, connect=connect, connection_class=TenantConnection, min_size=1, max_size=1
        ) as pool:
            with bind_tenant(A):
                async with pool.acquire() as connection, connection.transaction():
                    assert await names(connection) == OF_A


async def test_shared_by_mistake(connection: TenantConnection) -> None:
    """
    A task that barges in while another one begins does not get its transaction.
    """

    async def barge() -> list[str]:
        with bind_tenant(B):
            while True:
                with suppress(asyncpg.InterfaceError):
                    return await names(connection)
                await asyncio.sleep(0)

    with bind_tenant(A):
        begin = asyncio.create_task(connection.execute("BEGIN"))
        await asyncio.sleep(0)
    with pytest.raises(TenantMismatchError):
        await barge()
    await begin
    with bind_tenant(A):
        assert await names(connection) == OF_A


class TestListeners:
    """
    Notifications come when the server likes, not when a tenant asks.
    """

    async def test_context(self, dsn: str, admin: psycopg.Connection) -> None:
        """
        A listener belongs to nobody; control: asyncpg's has the tenant that connected.
        """
        seen: dict[bool, Tenant | None] = {}
        with bind_tenant(A):
            connections = {True: await connect(dsn), False: await asyncpg.connect(dsn)}
        for is_ours, connection in connections.items():
            heard = asyncio.Event()

            def hear(*_: Any, is_ours: bool = is_ours, heard: asyncio.Event = heard) -> None:
                seen[is_ours] = current_tenant()
                heard.set()

            await connection.add_listener("news", hear)
            admin.execute("NOTIFY news")
            await asyncio.wait_for(heard.wait(), 30)
            connection.terminate()

        assert seen == {True: None, False: A}
