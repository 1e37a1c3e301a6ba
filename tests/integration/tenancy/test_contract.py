"""
What holds on every stack, whatever the driver.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

from tests.integration.tenancy._stacks import STACKS, Checkout, Session
from twh_platform.errors import TenantMismatchError
from twh_platform.tenancy import Tenant, bind_tenant
from twh_platform.tenancy.postgres import UNBOUND_SQLSTATE

A, B = Tenant(id="a"), Tenant(id="b")
NAMES = "SELECT name FROM things ORDER BY name"
INSERT = "INSERT INTO things (id, name) VALUES (9, 'new')"
OF_A, OF_B = [("a1",), ("a2",)], [("b1",)]


@pytest.fixture(params=STACKS)
async def checkout(request: pytest.FixtureRequest, dsn: str) -> AsyncIterator[Checkout]:
    """
    Lends the one tenant connection of a stack.
    """
    async with STACKS[request.param](dsn) as checkout:
        yield checkout


async def refusal(session: Session, sql: str, *, alone: bool = False) -> str:
    """
    Give the SQLSTATE that a statement fails with.
    """
    with pytest.raises(Exception) as caught:  # noqa: PT011 -- each driver has its own
        await (session.alone if alone else session.fetch)(sql)
    error: Any = getattr(caught.value, "orig", caught.value)
    return str(error.sqlstate)


class TestTenantConnections:
    """
    One connection, used by tenants in turn.
    """

    async def test_own_rows(self, checkout: Checkout) -> None:
        """
        Each tenant sees its own rows and no other.
        """
        seen = []
        for tenant in (A, B, A):
            with bind_tenant(tenant):
                async with checkout() as session:
                    seen.append(await session.fetch(NAMES))

        assert seen == [OF_A, OF_B, OF_A]

    async def test_unbound(self, checkout: Checkout) -> None:
        """
        Without a tenant the policies raise, also after a tenant was there.
        """
        async with checkout() as session:
            with bind_tenant(A):
                await session.fetch(NAMES)
                await session.commit()

            assert await refusal(session, NAMES) == UNBOUND_SQLSTATE

    async def test_work_without_tenant(self, checkout: Checkout) -> None:
        """
        Statements on tables that belong to no tenant need none.
        """
        async with checkout() as session:
            assert await session.fetch("SELECT 1") == [(1,)]

    @pytest.mark.parametrize("end", ["commit", "rollback"])
    async def test_rebinds(self, checkout: Checkout, end: str) -> None:
        """
        After a commit or rollback in the middle, the tenant is still bound.
        """
        with bind_tenant(A):
            async with checkout() as session:
                await session.fetch(INSERT)
                await getattr(session, end)()
                rows = await session.fetch(NAMES)

        assert rows == OF_A + [("new",)] * (end == "commit")

    async def test_rebinds_after_error(self, checkout: Checkout) -> None:
        """
        After a statement that failed, the next transaction is bound again.
        """
        with bind_tenant(A):
            async with checkout() as session:
                await session.fetch(NAMES)
                assert await refusal(session, "SELECT 1/0") == "22012"
                await session.rollback()

                assert await session.fetch(NAMES) == OF_A

    async def test_new_rows_are_the_tenants(
        self, checkout: Checkout, admin: psycopg.Connection
    ) -> None:
        """
        A row that does not say whose it is belongs to the current tenant.
        """
        with bind_tenant(B):
            async with checkout() as session:
                await session.fetch(INSERT)
                await session.commit()

        owners = admin.execute("SELECT tenant_id FROM things WHERE name = 'new'").fetchall()
        assert owners == [("b",)]

    @pytest.mark.parametrize("other", [B, None], ids=["other tenant", "no tenant"])
    @pytest.mark.parametrize("end", ["commit", "rollback"])
    async def test_switch_in_transaction(
        self, checkout: Checkout, other: Tenant | None, end: str
    ) -> None:
        """
        An open transaction serves its tenant alone; anyone may end it.
        """
        async with checkout() as session:
            with bind_tenant(A):
                await session.fetch(INSERT)
            with bind_tenant(other):
                with pytest.raises(TenantMismatchError) as caught:
                    await session.fetch(NAMES)
                await getattr(session, end)()
            with bind_tenant(B):
                assert await session.fetch(NAMES) == OF_B

        assert caught.value.code == "tenant_switched_in_transaction"

    async def test_transaction_without_tenant(self, checkout: Checkout) -> None:
        """
        A transaction that was opened for nobody serves no tenant.
        """
        async with checkout() as session:
            await session.fetch("SELECT 1")

            with bind_tenant(A), pytest.raises(TenantMismatchError):
                await session.fetch(NAMES)

    async def test_refusal_does_no_harm(self, checkout: Checkout) -> None:
        """
        The tenant of the transaction goes on after another was refused.
        """
        with bind_tenant(A):
            async with checkout() as session:
                await session.fetch(INSERT)
                with bind_tenant(B), pytest.raises(TenantMismatchError):
                    await session.fetch(NAMES)

                assert await session.fetch(NAMES) == [*OF_A, ("new",)]

    async def test_savepoints(self, checkout: Checkout) -> None:
        """
        Savepoints keep the tenant, and serve no other.
        """
        with bind_tenant(A):
            async with checkout() as session:
                await session.fetch("SAVEPOINT inner_one")
                await session.fetch(INSERT)
                with bind_tenant(B), pytest.raises(TenantMismatchError):
                    await session.fetch(NAMES)
                await session.fetch("ROLLBACK TO SAVEPOINT inner_one")
                await session.fetch("RELEASE SAVEPOINT inner_one")

                assert await session.fetch(NAMES) == OF_A

    async def test_autocommit(self, checkout: Checkout) -> None:
        """
        Outside a transaction nobody is bound, and the next transaction is right.
        """
        async with checkout() as session:
            with bind_tenant(A):
                assert await refusal(session, NAMES, alone=True) == UNBOUND_SQLSTATE
                assert await session.alone("SELECT 1") == [(1,)]
            with bind_tenant(B):
                assert await refusal(session, NAMES, alone=True) == UNBOUND_SQLSTATE
                assert await session.fetch(NAMES) == OF_B

    async def test_planted_session_setting(self, checkout: Checkout) -> None:
        """
        A tenant that was SET for the session binds no transaction.
        """
        async with checkout() as session:
            with bind_tenant(B):
                await session.fetch("SET twh.tenant_id = 'b'")
                await session.commit()
                await session.alone("SET twh.tenant_id = 'b'")
            with bind_tenant(A):
                assert await session.fetch(NAMES) == OF_A
                await session.commit()
            assert await refusal(session, NAMES) == UNBOUND_SQLSTATE

    async def test_planted_session_setting_and_autocommit(self, checkout: Checkout) -> None:
        """
        A tenant that was SET for the session serves nobody else outside a transaction.
        """
        async with checkout() as session:
            with bind_tenant(B):
                await session.alone("SET twh.tenant_id = 'b'")
                assert await session.alone(NAMES) == OF_B  # the control: the trap works
            with bind_tenant(A):
                assert await refusal(session, NAMES, alone=True) == UNBOUND_SQLSTATE
            assert await refusal(session, NAMES, alone=True) == UNBOUND_SQLSTATE

    async def test_own_session_is_kept(self, checkout: Checkout) -> None:
        """
        A tenant that follows itself finds what it left.
        """
        with bind_tenant(A):
            async with checkout() as session:
                await session.fetch("CREATE TEMP TABLE notes AS SELECT 1 AS n")
                await session.commit()
            async with checkout() as session:
                assert await session.fetch("SELECT n FROM notes") == [(1,)]

    async def test_commit_and_chain(self, checkout: Checkout) -> None:
        """
        A chained transaction is not bound, and says so.
        """
        with bind_tenant(A):
            async with checkout() as session:
                await session.fetch(NAMES)
                await session.fetch("COMMIT AND CHAIN")

                assert await refusal(session, NAMES) == UNBOUND_SQLSTATE

    async def test_connection_lost(self, checkout: Checkout, admin: psycopg.Connection) -> None:
        """
        A connection that the server ends fails with the driver's own error.
        """
        with pytest.raises(Exception) as caught, bind_tenant(A):  # noqa: PT011, PT012 -- as above
            async with checkout() as session:
                pid = (await session.fetch("SELECT pg_backend_pid()"))[0][0]
                admin.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
                with bind_tenant(B), pytest.raises(TenantMismatchError):
                    await session.fetch(NAMES)
                await session.fetch(NAMES)

        assert not isinstance(caught.value, TenantMismatchError)
