"""
Administrators cross tenants by a login of their own, inside `administrator` and nowhere else.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine, text

from tests.integration.tenancy import _administrator_stacks as administrators
from tests.integration.tenancy import _stacks as tenants
from tests.integration.tenancy._stacks import Checkout
from tests.integration.tenancy.conftest import APP, OWNER
from tests.support.tenancy import heard
from twh_platform.errors import AdministratorError, ConfigurationError, PlatformError
from twh_platform.tenancy import (
    AdministratorLeft,
    Tenant,
    TenantViolation,
    administrator,
    bind_tenant,
)
from twh_platform.tenancy.postgres import (
    UNBOUND_SQLSTATE,
    TenantTable,
    administrator_sql,
    install_sql,
    seal_sql,
)
from twh_platform.tenancy.postgres import psycopg as ours
from twh_platform.tenancy.postgres.sqlalchemy import bind_administrator_engine, bind_engine
from twh_platform.testing import PostgresDatabase

A, B = Tenant(id="a"), Tenant(id="b")
NAMES = "SELECT name FROM things ORDER BY name"
OF_A, OF_ALL = [("a1",), ("a2",)], [("a1",), ("a2",), ("b1",), ("c1",)]
SUPPORT = "twh_test_support"
BYPASSES = "LOGIN NOSUPERUSER BYPASSRLS NOCREATEDB NOCREATEROLE NOREPLICATION"
THINGS = TenantTable(name="things")


def access(reason: str = "ticket 4711") -> administrator:
    """
    A statement that nothing is wrong with.
    """
    return administrator(actor="ada@example.com", reason=reason)


@pytest.fixture(scope="module")
def support(database: PostgresDatabase) -> str:
    """
    Where the administrators' login logs in.
    """
    database.server.create_role(SUPPORT, attributes=BYPASSES)
    sql = administrator_sql([THINGS], role=SUPPORT, privileges=("SELECT", "UPDATE"))
    database.execute(sql, user=OWNER)
    return database.dsn(user=SUPPORT)


@pytest.fixture(params=administrators.STACKS)
async def checkout(
    request: pytest.FixtureRequest, support: str, admin: psycopg.Connection
) -> AsyncIterator[Checkout]:
    """
    Lends the one connection of a stack, which was opened outside of an access.
    """
    async with administrators.STACKS[request.param](support) as checkout:
        yield checkout


async def first_of(checkout: Checkout, sql: str) -> Any:
    """
    The first value that a statement gives, in a session of its own.
    """
    async with checkout() as session:
        return (await session.fetch(sql))[0][0]


class TestAdministratorConnections:
    """
    One connection of the administrators' login, on every stack.
    """

    async def test_all_tenants_are_seen_inside(self, checkout: Checkout) -> None:
        """
        Whichever tenant is current: it neither decides nor limits anything.
        """
        seen = []
        with access():
            async with checkout() as session:
                seen.append(await session.fetch(NAMES))
            with bind_tenant(A):
                async with checkout() as session:
                    seen.append(await session.fetch(NAMES))

        assert seen == [OF_ALL, OF_ALL]

    @pytest.mark.parametrize("tenant", [None, A], ids=["no tenant", "a tenant"])
    async def test_nothing_is_seen_outside(self, checkout: Checkout, tenant: Tenant | None) -> None:
        """
        Before an access and after one; the login could, so it is the connection that refuses.
        """
        with bind_tenant(tenant), heard(TenantViolation) as told:
            for _ in range(2):
                with pytest.raises(AdministratorError) as caught:
                    await first_of(checkout, NAMES)
                with access():
                    assert await first_of(checkout, NAMES) == "a1"

        assert caught.value.code == "administrator_access_missing"
        assert {one.code for one in told} == {"administrator_access_missing"}

    async def test_statements_of_their_own_are_refused_outside(self, checkout: Checkout) -> None:
        """
        A statement that opens no transaction needs the access as well.
        """
        with access():
            async with checkout() as session:
                assert await session.alone(NAMES) == OF_ALL
        with pytest.raises(AdministratorError):
            async with checkout() as session:
                await session.alone(NAMES)

    async def test_a_transaction_ends_with_its_access(self, checkout: Checkout) -> None:
        """
        Left open it serves nobody: not outside, not another access; anyone may end it.
        """
        with access():
            lent = checkout()
            session = await lent.__aenter__()
            await session.fetch(NAMES)
            with access(), pytest.raises(AdministratorError) as nested:
                await session.fetch(NAMES)
            assert await session.fetch(NAMES) == OF_ALL
        with pytest.raises(AdministratorError) as outside:
            await session.fetch(NAMES)
        await session.rollback()
        await lent.__aexit__(None, None, None)

        codes = [nested.value.code, outside.value.code]
        assert codes == ["administrator_switched_in_transaction", "administrator_access_missing"]

    async def test_no_tenant_is_bound(self, checkout: Checkout) -> None:
        """
        What asks for the current tenant is told that there is none.
        """
        with bind_tenant(A), access():
            async with checkout() as session:
                setting = await session.fetch("SELECT current_setting('twh.tenant_id')")
                with pytest.raises(Exception) as caught:  # noqa: PT011 -- each driver has its own
                    await session.fetch("SELECT twh.current_tenant()")

        assert setting == [("",)]
        error: Any = getattr(caught.value, "orig", caught.value)
        assert error.sqlstate == UNBOUND_SQLSTATE

    async def test_the_server_knows_the_access(self, checkout: Checkout) -> None:
        """
        The session is named after it while a transaction lasts, for the server's log.
        """
        with access() as entered:
            async with checkout() as session:
                named = await session.fetch("SHOW application_name")
                await session.commit()
                after = await session.fetch("SHOW application_name")

        assert named == after == [(f"twh-administrator-{entered.access_id}",)]

    async def test_residue_is_scrubbed_between_accesses(self, checkout: Checkout) -> None:
        """
        Within one access the session is kept; the next one, of whomever, finds it clean.
        """
        keeps = "SELECT count(*) FROM pg_class WHERE relname = 'notes' AND relpersistence = 't'"
        with access():
            async with checkout() as session:
                await session.fetch("CREATE TEMP TABLE notes AS SELECT 1 AS n")
                await session.commit()
            kept = await first_of(checkout, keeps)
        with access():
            after = await first_of(checkout, keeps)

        assert (kept, after) == (1, 0)

    async def test_transactions_are_counted(self, checkout: Checkout) -> None:
        """
        The leave says how many there were.
        """
        with access():
            await first_of(checkout, NAMES)  # an engine's first connection asks a few things
        with heard(AdministratorLeft) as signals, access():
            for _ in range(3):
                await first_of(checkout, NAMES)

        assert [left.transactions for left in signals] == [3]

    async def test_grants_hold_it(self, checkout: Checkout) -> None:
        """
        It skips policies and not privileges: only what was granted.
        """
        with access():
            async with checkout() as session:
                with pytest.raises(Exception) as caught:  # noqa: PT011 -- each driver has its own
                    await session.fetch("DELETE FROM things")

        error: Any = getattr(caught.value, "orig", caught.value)
        assert error.sqlstate == "42501"


@pytest.fixture
def support_connection(support: str, admin: psycopg.Connection) -> Iterator[psycopg.Connection]:
    """
    A connection of the administrators' login.
    """
    with ours.AdministratorConnection.connect(support) as connection:
        yield connection
        connection.rollback()


class TestTheApplication:
    """
    What its own login can do while somebody works across tenants: what it always can.
    """

    @pytest.fixture(params=tenants.STACKS)
    async def checkout(self, request: pytest.FixtureRequest, dsn: str) -> AsyncIterator[Checkout]:
        """
        Lends the one tenant connection of a stack.
        """
        async with tenants.STACKS[request.param](dsn) as checkout:
            yield checkout

    async def test_it_sees_one_tenant_or_none(self, checkout: Checkout) -> None:
        """
        An open access changes nothing on the application's connections.
        """
        with access():
            with bind_tenant(A):
                async with checkout() as session:
                    assert await session.fetch(NAMES) == OF_A
            async with checkout() as session:
                with pytest.raises(Exception) as caught:  # noqa: PT011 -- each driver has its own
                    await session.fetch(NAMES)

        error: Any = getattr(caught.value, "orig", caught.value)
        assert error.sqlstate == UNBOUND_SQLSTATE

    def test_no_setting_opens_a_table(self, dsn: str, admin: psycopg.Connection) -> None:
        """
        Control: where a setting lets administrators pass, one injected SELECT sets it.
        """
        injected = (
            "WITH flag AS MATERIALIZED (SELECT set_config('app.bypass', 'on', true) AS set) "
            "SELECT count(DISTINCT tenant_id) FROM flag, LATERAL "
            "(SELECT tenant_id FROM {} WHERE flag.set = 'on') AS rows"
        )
        admin.execute(
            "CREATE TABLE flagged AS SELECT * FROM things;"
            "ALTER TABLE flagged ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;"
            "CREATE POLICY p ON flagged USING (current_setting('app.bypass', true) = 'on' "
            "OR tenant_id = (SELECT twh.current_tenant()));"
            f"GRANT SELECT ON flagged TO {APP}"
        )
        with ours.TenantConnection.connect(dsn) as connection, bind_tenant(A), access():
            seen = [
                connection.execute(injected.format(table)).fetchall()
                for table in ("flagged", "things")
            ]
        admin.execute("DROP TABLE flagged")

        assert seen == [[(3,)], [(1,)]]

    def test_it_cannot_become_the_administrators(self, dsn: str, support: str) -> None:
        """
        The other login is no role that the application's could take.
        """
        with (
            ours.TenantConnection.connect(dsn) as connection,
            bind_tenant(A),
            access(),
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            connection.execute(f"SET ROLE {SUPPORT}")


class TestGrants:
    """
    `administrator_sql` on a real server.
    """

    def test_a_row_needs_a_tenant(self, support_connection: psycopg.Connection) -> None:
        """
        Nothing is written for a tenant that was not named.
        """
        with access():
            with pytest.raises(psycopg.Error) as caught:
                support_connection.execute("UPDATE things SET tenant_id = DEFAULT")
            support_connection.rollback()
            update = "UPDATE things SET name = 'recalled' WHERE id = 1 RETURNING tenant_id"
            changed = support_connection.execute(update).fetchall()

        assert caught.value.sqlstate == UNBOUND_SQLSTATE
        assert sorted(changed) == [("a",), ("b",), ("c",)]

    def test_it_can_be_run_again(self, database: PostgresDatabase, support: str) -> None:
        """
        With fewer privileges too: what was granted before is taken back.
        """
        held = (
            "SELECT string_agg(privilege_type, ',') FROM information_schema.table_privileges "
            f"WHERE grantee = '{SUPPORT}' AND table_name = 'things'"
        )
        before = database.execute(held)
        database.execute(administrator_sql([THINGS], role=SUPPORT), user=OWNER)
        after = database.execute(held)
        again = administrator_sql([THINGS], role=SUPPORT, privileges=("SELECT", "UPDATE"))
        database.execute(again, user=OWNER)

        assert (sorted(before.split(",")), after) == (["SELECT", "UPDATE"], "SELECT")

    @pytest.mark.parametrize(
        ("name", "attributes", "more"),
        [
            ("twh_test_reader", BYPASSES, "GRANT pg_read_all_data TO twh_test_reader"),
            ("twh_test_super", "LOGIN SUPERUSER", "SELECT 1"),
        ],
    )
    def test_who_may_use_the_seals_keys_is_refused(
        self, server: Any, name: str, attributes: str, more: str
    ) -> None:
        """
        A membership or more than BYPASSRLS would make it any tenant; a grant is taken back.
        """
        server.create_role(OWNER)
        server.create_role(name, attributes=attributes)
        sealed = server.create_database(f"sealed_{name}", owner=OWNER)
        sealed.execute(install_sql() + seal_sql(), user=OWNER)
        sealed.execute(f"GRANT ALL ON twh.seal_keys TO {SUPPORT}; {more}")
        sql = administrator_sql([], role=SUPPORT)
        try:
            sealed.execute(sql, user=OWNER)
            with pytest.raises(PlatformError, match="may use the keys of the seal"):
                sealed.execute(administrator_sql([], role=name), user=OWNER)
            reads = f"SELECT has_table_privilege('{SUPPORT}', 'twh.seal_keys', 'SELECT')"
            assert sealed.execute(reads) == "f"
        finally:
            sealed.drop()

    def test_names_are_quoted(self, database: PostgresDatabase) -> None:
        """
        An odd role is granted what it was meant to have.
        """
        odd = """o'dd "$$ {role}; %s"""
        database.server.create_role(odd, attributes=BYPASSES)
        database.execute(administrator_sql([THINGS], role=odd), user=OWNER)
        grantees = database.execute(
            "SELECT count(*) FROM information_schema.role_table_grants WHERE grantee LIKE 'o''dd%'"
        )

        database.execute(administrator_sql([THINGS], role=odd, privileges=()), user=OWNER)
        assert grantees == "1"


class TestEngines:
    """
    `bind_administrator_engine`.
    """

    def test_its_first_connection_needs_the_access_too(self, support: str) -> None:
        """
        Refused once, the engine works inside afterwards.
        """
        url = support.replace("postgresql://", "postgresql+psycopg://", 1)
        engine = bind_administrator_engine(create_engine(url))
        with pytest.raises(AdministratorError), engine.connect() as connection:
            connection.execute(text(NAMES))
        with access(), engine.connect() as connection:
            assert len(connection.execute(text(NAMES)).all()) == 4
        engine.dispose()

    @pytest.mark.parametrize("binds", [bind_engine, bind_administrator_engine])
    def test_connections_of_the_other_kind_are_refused(self, support: str, binds: Any) -> None:
        """
        A `creator` of its own that brings the wrong ones, or plain ones.
        """
        url = support.replace("postgresql://", "postgresql+psycopg://", 1)
        wrong = {
            bind_engine: ours.AdministratorConnection,
            bind_administrator_engine: ours.TenantConnection,
        }[binds]
        for kind in (wrong, psycopg.Connection):
            engine = binds(create_engine(url, creator=partial(kind.connect, support)))
            with access(), pytest.raises(ConfigurationError, match="creator"):
                engine.connect()
            engine.dispose()
