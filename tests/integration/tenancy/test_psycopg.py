"""
Every way that psycopg has to send a statement.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import psycopg
import psycopg_pool
import pytest
from psycopg import ClientCursor, IsolationLevel, OperationalError, RawCursor, errors

from twh_platform.errors import TenantMismatchError
from twh_platform.tenancy import Tenant, bind_tenant, current_tenant
from twh_platform.tenancy.postgres import UNBOUND_SQLSTATE, _psycopg_public
from twh_platform.tenancy.postgres import psycopg as folded

A, B = Tenant(id="a"), Tenant(id="b")
NAMES = "SELECT name FROM things ORDER BY name"
OF_A, OF_B = [("a1",), ("a2",)], [("b1",)]

MODULES = {"folded": folded, "public": _psycopg_public}


@pytest.fixture(params=MODULES)
def module(request: pytest.FixtureRequest) -> Any:
    """
    The module with the tenant connections.
    """
    return MODULES[request.param]


@pytest.fixture
def connection(module: Any, dsn: str) -> Iterator[Any]:
    """
    A tenant connection.
    """
    with suppress(OperationalError), module.TenantConnection.connect(dsn) as connection:
        yield connection
        connection.rollback()


def executemany(connection: Any) -> None:
    """
    Psycopg pipelines these.
    """
    connection.cursor().executemany("SELECT %s", [(1,), (2,)])


def copy_out(connection: Any) -> None:
    """
    COPY TO STDOUT.
    """
    with connection.cursor().copy("COPY things TO STDOUT") as copy:
        for _ in copy:
            pass


def copy_in(connection: Any) -> None:
    """
    COPY FROM STDIN.
    """
    with connection.cursor().copy("COPY things FROM STDIN") as copy:
        copy.write_row(("a", 5, "copied"))


def named_cursor(connection: Any) -> None:
    """
    A server-side cursor.
    """
    with connection.cursor("named") as cursor:
        cursor.execute("SELECT 1")


def stolen_cursor(connection: Any) -> None:
    """
    A server-side cursor that somebody else declared.
    """
    with connection.cursor("loot") as cursor:
        cursor.fetchall()


def pipelined(connection: Any) -> None:
    """
    A pipeline inside the open transaction.
    """
    with connection.pipeline():
        connection.execute("SELECT 1")
        connection.execute("SELECT 1").fetchone()


def nested(connection: Any) -> None:
    """
    A savepoint block.
    """
    with connection.transaction():
        connection.execute("SELECT 1")


SENDS: dict[str, Callable[[Any], Any]] = {
    "execute": lambda it: it.execute("SELECT 1"),
    "execute, parameters": lambda it: it.execute("SELECT %s", (1,)),
    "execute, binary": lambda it: it.execute("SELECT 1", binary=True),
    "execute, several": lambda it: it.execute("SELECT 1; SELECT 2"),
    "execute, empty": lambda it: it.execute(""),
    "cursor": lambda it: it.cursor().execute("SELECT 1"),
    "executemany": executemany,
    "stream": lambda it: list(it.cursor().stream("SELECT 1")),
    "copy out": copy_out,
    "copy in": copy_in,
    "named cursor": named_cursor,
    "named cursor, stolen": stolen_cursor,
    "pipeline": pipelined,
    "savepoint block": nested,
}


class TestSends:
    """
    Another tenant inside an open transaction.
    """

    @pytest.mark.parametrize("name", SENDS)
    def test_refused(self, connection: Any, name: str) -> None:
        """
        Each way is refused, and the transaction can still be rolled back.
        """
        with bind_tenant(A):
            connection.execute("DECLARE loot CURSOR FOR SELECT name FROM things")
        with bind_tenant(B):
            with pytest.raises(TenantMismatchError):
                SENDS[name](connection)
            connection.rollback()

            assert connection.execute(NAMES).fetchall() == OF_B

    @pytest.mark.parametrize("name", [one for one in SENDS if one != "named cursor, stolen"])
    def test_bound(self, connection: Any, name: str) -> None:
        """
        Each way opens a transaction that is bound.
        """
        with bind_tenant(A):
            # COPY FROM is not for tables under policies; it is sent all the same.
            with suppress(errors.FeatureNotSupported):
                SENDS[name](connection)
                assert connection.execute(NAMES).fetchall() == OF_A
            connection.rollback()

    def test_prepared(self, connection: Any) -> None:
        """
        A prepared statement that tenants share answers each with its own rows.
        """
        seen = []
        for tenant in (A, B) * 4:
            with bind_tenant(tenant):
                seen.append(connection.execute(NAMES, prepare=True).fetchall())
                with bind_tenant(None), pytest.raises(TenantMismatchError):
                    connection.execute(NAMES, prepare=True)
                connection.commit()

        assert seen == [OF_A, OF_B] * 4

    @pytest.mark.parametrize("kind", [ClientCursor, RawCursor])
    def test_cursor_factory(self, module: Any, dsn: str, kind: type) -> None:
        """
        A cursor class of the caller's choice is bound as well.
        """
        with module.TenantConnection.connect(dsn, cursor_factory=kind) as connection:
            with bind_tenant(A):
                assert connection.execute(NAMES).fetchall() == OF_A
            with bind_tenant(B), pytest.raises(TenantMismatchError):
                connection.execute(NAMES)
            connection.rollback()

    @pytest.mark.parametrize("kind", [psycopg.Cursor, ClientCursor])
    def test_cursor_made_by_hand(self, dsn: str, kind: Any) -> None:
        """
        A cursor that the connection did not make is bound too, where BEGIN is folded.
        """
        with folded.TenantConnection.connect(dsn) as connection:
            with bind_tenant(A):
                assert kind(connection).execute(NAMES).fetchall() == OF_A
            with bind_tenant(B), pytest.raises(TenantMismatchError):
                kind(connection).execute(NAMES)
            connection.rollback()


FETCHES: dict[str, Callable[[Any], Any]] = {
    "fetchone": lambda cursor: cursor.fetchone(),
    "fetchmany": lambda cursor: cursor.fetchmany(1),
    "fetchall": lambda cursor: cursor.fetchall(),
    "iteration": list,
    "next": lambda cursor: next(iter(cursor)),
    "scroll": lambda cursor: cursor.scroll(1),
}


class TestNamedCursor:
    """
    A server-side cursor sends whenever it fetches.
    """

    @pytest.mark.parametrize("name", FETCHES)
    def test_refused(self, connection: Any, name: str) -> None:
        """
        Another tenant cannot fetch from it.
        """
        with bind_tenant(A), connection.cursor("named") as cursor:
            cursor.execute(NAMES)
            with bind_tenant(B), pytest.raises(TenantMismatchError):
                FETCHES[name](cursor)

            assert cursor.fetchall() == OF_A

    @pytest.mark.parametrize("name", FETCHES)
    def test_held(self, connection: Any, name: str) -> None:
        """
        WITH HOLD it serves its tenant after the commit, and nobody else.
        """
        with connection.cursor("named", withhold=True, scrollable=True) as cursor:
            with bind_tenant(A):
                cursor.execute(NAMES)
                connection.commit()
                assert cursor.fetchone() == OF_A[0]
                connection.commit()
            with bind_tenant(B), pytest.raises(errors.InvalidCursorName):
                FETCHES[name](cursor)
            connection.close()

    def test_pages(self, connection: Any) -> None:
        """
        Iteration page by page reads all rows.
        """
        with bind_tenant(A), connection.cursor("named") as cursor:
            cursor.itersize = 3
            cursor.execute("SELECT n FROM generate_series(1, 10) AS n")

            assert [n for (n,) in cursor] == list(range(1, 11))


class TestTransactions:
    """
    What psycopg's transactions can do, they still can.
    """

    def test_options(self, connection: Any) -> None:
        """
        Isolation level, read only and deferrable reach the server.
        """
        connection.isolation_level = IsolationLevel.SERIALIZABLE
        connection.read_only = connection.deferrable = True
        names = ("transaction_isolation", "transaction_read_only", "transaction_deferrable")
        with bind_tenant(A):
            shown = [connection.execute(f"SHOW {name}").fetchone()[0] for name in names]

            assert shown == ["serializable", "on", "on"]
            assert connection.execute(NAMES).fetchall() == OF_A

    def test_blocks(self, connection: Any) -> None:
        """
        Blocks and blocks in blocks are bound; the inner may fail.
        """
        with bind_tenant(A), connection.transaction():
            with suppress(errors.DivisionByZero), connection.transaction():
                connection.execute("SELECT 1/0")
            assert connection.execute(NAMES).fetchall() == OF_A
        with bind_tenant(B), connection.transaction(force_rollback=True):
            assert connection.execute(NAMES).fetchall() == OF_B

    def test_block_in_autocommit(self, connection: Any) -> None:
        """
        In autocommit mode a block is bound, what is outside is not.
        """
        connection.autocommit = True
        with bind_tenant(A):
            with connection.transaction():
                assert connection.execute(NAMES).fetchall() == OF_A
            with pytest.raises(psycopg.Error) as caught:
                connection.execute(NAMES)

        assert caught.value.sqlstate == UNBOUND_SQLSTATE

    def test_begin_by_hand(self, connection: Any) -> None:
        """
        A BEGIN that the driver does not know of serves nobody.
        """
        connection.autocommit = True
        with bind_tenant(A):
            connection.execute("BEGIN")
            with pytest.raises(TenantMismatchError, match="nobody"):
                connection.execute(NAMES)
            connection.rollback()
            with connection.transaction():
                assert connection.execute(NAMES).fetchall() == OF_A

    def test_begin_by_hand_and_planted_setting(self, connection: Any) -> None:
        """
        It serves nobody either where the session has a tenant planted.
        """
        connection.autocommit = True
        with bind_tenant(A), connection.transaction():
            connection.execute(NAMES)
        with bind_tenant(B):
            connection.execute("SET twh.tenant_id = 'b'")
            connection.execute("BEGIN")
        with bind_tenant(A), pytest.raises(TenantMismatchError):
            connection.execute(NAMES)
        connection.rollback()

    def test_two_phase(self, connection: Any) -> None:
        """
        A two-phase transaction is bound.
        """
        with bind_tenant(A):
            connection.tpc_begin(connection.xid(1, "global", "branch"))
            assert connection.execute(NAMES).fetchall() == OF_A
            with bind_tenant(B), pytest.raises(TenantMismatchError):
                connection.execute(NAMES)
            connection.tpc_rollback()
        with bind_tenant(B):
            assert connection.execute(NAMES).fetchall() == OF_B

    def test_closed(self, connection: Any) -> None:
        """
        A closed connection says that it is closed.
        """
        with bind_tenant(A):
            connection.execute(NAMES)
        connection.close()
        with bind_tenant(B), pytest.raises(OperationalError, match="closed"):
            connection.execute(NAMES)


class TestPipelines:
    """
    In a pipeline answers come later than statements go.
    """

    def test_bound(self, connection: Any) -> None:
        """
        Transactions in a pipeline are bound, one after the other.
        """
        seen = []
        with connection.pipeline():
            for tenant in (A, B, A):
                with bind_tenant(tenant):
                    seen.append(connection.execute(NAMES))
                    connection.commit()

        assert [cursor.fetchall() for cursor in seen] == [OF_A, OF_B, OF_A]

    def test_blocks(self, connection: Any) -> None:
        """
        So are blocks.
        """
        seen = []
        with connection.pipeline():
            for tenant in (A, B, A):
                with bind_tenant(tenant), connection.transaction():
                    seen.append(connection.execute(NAMES))

        assert [cursor.fetchall() for cursor in seen] == [OF_A, OF_B, OF_A]

    def test_switch(self, connection: Any) -> None:
        """
        Another tenant is refused while the first one's statements are under way.
        """
        with connection.pipeline():
            with bind_tenant(A):
                connection.execute(NAMES)
            with bind_tenant(B), pytest.raises(TenantMismatchError):
                connection.execute(NAMES)
            connection.rollback()
            with bind_tenant(B):
                rows = connection.execute(NAMES).fetchall()

        assert rows == OF_B

    def test_ended_by_hand(self, connection: Any) -> None:
        """
        After a COMMIT that the driver does not know of, the next tenant is bound.
        """
        with bind_tenant(A), connection.transaction():
            connection.execute("SET twh.tenant_id = 'a'")
        with connection.pipeline():
            with bind_tenant(A):
                connection.execute("COMMIT")
            with bind_tenant(B):
                rows = connection.execute(NAMES).fetchall()

        assert rows == OF_B

    def test_autocommit(self, connection: Any) -> None:
        """
        In autocommit mode a pipeline stays usable, and what is left is scrubbed.
        """
        connection.autocommit = True
        with connection.pipeline():
            with bind_tenant(A):
                connection.execute("CREATE TEMP TABLE loot AS SELECT 1 AS n")
                own = connection.execute("SELECT n FROM loot")
            with bind_tenant(B):
                others = connection.execute("SELECT to_regclass('pg_temp.loot')::text")

        assert (own.fetchall(), others.fetchall()) == ([(1,)], [(None,)])

    def test_error(self, connection: Any) -> None:
        """
        After a pipeline that broke off, the next tenant is bound.
        """
        with bind_tenant(A), suppress(psycopg.Error), connection.pipeline():
            connection.execute("CREATE TEMP TABLE loot AS SELECT 1 AS n")
            connection.commit()
            connection.execute("SELECT 1/0")
            connection.execute(NAMES)
        connection.rollback()
        with bind_tenant(B), connection.pipeline():
            found = connection.execute("SELECT to_regclass('pg_temp.loot')::text")
            rows = connection.execute(NAMES)

        assert (found.fetchall(), rows.fetchall()) == ([(None,)], OF_B)


class TestNotifications:
    """
    What LISTEN brought is residue on the client's side.
    """

    def test_backlog(self, connection: Any, admin: psycopg.Connection) -> None:
        """
        The next tenant does not read what came for the last one.
        """
        with bind_tenant(A):
            connection.execute("LISTEN news")
            connection.commit()
            admin.execute("NOTIFY news, 'of a'")
            connection.execute("SELECT 1")
            connection.commit()
        with bind_tenant(B):
            connection.execute("LISTEN news")
            connection.commit()

            assert list(connection.notifies(timeout=0.05)) == []

    def test_buffered_by_the_server(self, connection: Any, admin: psycopg.Connection) -> None:
        """
        Nor does it where it sends nothing first; control: a plain connection gives it all.
        """
        with psycopg.connect(connection.info.dsn) as plain:
            for listener in (connection, plain):
                with bind_tenant(A):
                    listener.execute("LISTEN news")
                    listener.commit()
            admin.execute("NOTIFY news, 'of a'")
            with bind_tenant(B):
                ours = list(connection.notifies(timeout=0.5))
                theirs = list(plain.notifies(timeout=5, stop_after=1))

        assert ours == []
        assert [note.payload for note in theirs] == ["of a"]

    def test_own(self, connection: Any, admin: psycopg.Connection) -> None:
        """
        The tenant that listens reads what came.
        """
        with bind_tenant(A):
            connection.execute("LISTEN news")
            connection.commit()
            admin.execute("NOTIFY news, 'of a'")
            notes = list(connection.notifies(timeout=5, stop_after=1))

        assert [note.payload for note in notes] == ["of a"]


class TestPool:
    """
    The callbacks of psycopg_pool run in contexts of their own.
    """

    def test_callbacks(self, dsn: str) -> None:
        """
        None of them binds the borrower's transaction.
        """
        contexts: dict[str, Tenant | None] = {}

        def note(name: str) -> Callable[[Any], None]:
            def callback(connection: Any) -> None:
                contexts[name] = current_tenant()
                connection.execute("SELECT 1")
                connection.rollback()

            return callback

        with (
            bind_tenant(A),
            psycopg_pool.ConnectionPool(
                dsn,
                connection_class=folded.TenantConnection,
                min_size=1,
                max_size=1,
                open=True,
                configure=note("configure"),
                check=note("check"),
                reset=note("reset"),
            ) as pool,
        ):
            for tenant, rows in ((B, OF_B), (A, OF_A), (B, OF_B)):
                with bind_tenant(tenant), pool.connection() as connection:
                    assert connection.execute(NAMES).fetchall() == rows

        assert set(contexts) == {"configure", "check", "reset"}

    def test_check_connection(self, dsn: str) -> None:
        """
        The pool's own check toggles autocommit, and harms nothing.
        """
        with psycopg_pool.ConnectionPool(
            dsn,
            connection_class=folded.TenantConnection,
            min_size=1,
            max_size=1,
            open=True,
            check=psycopg_pool.ConnectionPool.check_connection,
        ) as pool:
            for tenant, rows in ((A, OF_A), (B, OF_B)):
                with bind_tenant(tenant), pool.connection() as connection:
                    assert connection.execute(NAMES).fetchall() == rows


def test_hooks() -> None:
    """
    The installed psycopg has the private methods that folding stands on.
    """
    assert folded.hooks_present()
