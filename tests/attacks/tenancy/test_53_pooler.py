"""
Attack 53: clients that share a server session, behind PgBouncer in transaction mode.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import psycopg
import pytest

from tests.attacks._shop import APP, A, B, attempt, run, secrets
from tests.support.pgbouncer import PgBouncer, require_pgbouncer
from twh_platform.errors import TenantMismatchError
from twh_platform.tenancy import bind_tenant
from twh_platform.tenancy.postgres import _binding, install_sql
from twh_platform.tenancy.postgres.asyncpg import TenantConnection as AsyncpgConnection
from twh_platform.tenancy.postgres.asyncpg import connect as connect_asyncpg
from twh_platform.tenancy.postgres.psycopg import TenantConnection

ALL = "SELECT * FROM orders"
READ_TEMP = "SELECT body FROM loot"


@pytest.fixture
def pooler(server) -> Iterator[PgBouncer]:
    """
    A pooler that lends one server session to all its clients.
    """
    require_pgbouncer()
    with PgBouncer(server, users=[APP], pool_size=1) as pooler:
        yield pooler


@contextmanager
def clients(pooler: PgBouncer, shop, kind: Any = psycopg.Connection) -> Iterator[list[Any]]:
    """
    Two clients of one server session.
    """
    dsn = pooler.dsn(shop.database.name, user=APP)
    with (
        kind.connect(dsn, prepare_threshold=None) as one,
        kind.connect(dsn, prepare_threshold=None) as other,
    ):
        yield [one, other]
        one.rollback()
        other.rollback()


def ours(seal) -> Any:
    """
    The class of connections that belongs behind a pooler.
    """
    return TenantConnection.using(seal=seal, pooled=True)


@pytest.mark.parametrize("form", ["unsealed", "sealed"])
def test_53_is_served_the_last_clients_session(form, sealed, pooler, twh_attack):
    """The tenant ends with the transaction, so the next client finds nothing."""
    attack = twh_attack(
        number=53, title="is lent a server session that is still set to another tenant", form=form
    )
    shop = sealed.shop
    if form == "unsealed":
        shop.plant(install_sql())
    with clients(pooler, shop) as (one, other):
        run(one, "SELECT set_config('app.tenant_id', 'b', false)")
        one.commit()
        attack.control(secrets(run(other, "SELECT * FROM naive")))
    with clients(pooler, shop, ours(shop.seal if form == "sealed" else None)) as (one, other):
        with bind_tenant(B):
            assert secrets(run(one, ALL))
            run(one, "SELECT set_config('twh.tenant_id', current_setting('twh.tenant_id'), false)")
            one.commit()
        for tenant in (A, None):
            with bind_tenant(tenant):
                attack.ours(secrets(attempt(other, ALL)))
                other.rollback()


LEFT = {
    "a temporary table": ("CREATE TEMP TABLE loot AS SELECT * FROM {}", READ_TEMP),
    "a cursor WITH HOLD": ("DECLARE loot CURSOR WITH HOLD FOR SELECT * FROM {}", "FETCH ALL loot"),
    "a setting": (
        "SELECT set_config('app.note', (SELECT max(body) FROM {}), false)",
        "SELECT current_setting('app.note', true)",
    ),
}


@pytest.mark.parametrize("form", LEFT)
def test_53_finds_what_the_last_client_left(form, sealed, pooler, twh_attack):
    """Behind a pooler each transaction begins with the scrub."""
    attack = twh_attack(
        number=53, title="finds what another tenant left in the server session", form=form
    )
    shop, (leave, find) = sealed.shop, LEFT[form]
    with clients(pooler, shop) as (one, other):
        run(one, f"SET LOCAL app.tenant_id = 'b'; {leave.format('naive')}")
        one.commit()
        attack.control(secrets(run(other, find)))
        run(other, "CLOSE ALL; DISCARD TEMP; RESET ALL")
        other.commit()
    with clients(pooler, shop, ours(shop.seal)) as (one, other):
        with bind_tenant(B):
            run(one, leave.format("orders"))
            one.commit()
        with bind_tenant(A):
            attack.ours(secrets(attempt(other, find)))


PRIVATE = "INSERT INTO orders (id, body) VALUES (9, 'secret of b, told in trust')"
LEAVE_TOKEN = "SELECT set_config('twh.tenant_id', current_setting('twh.tenant_id'), false)"


def trusting_scrub(binding: _binding.TransactionBinding) -> str:
    """The control: scrub some session, and have the statement run in whichever comes next."""
    return binding._scrub


async def by_psycopg(dsn: str, seal: Any) -> None:
    """Write outside of a transaction."""
    with ours(seal).connect(dsn, autocommit=True) as connection:
        connection.execute(PRIVATE)


async def by_asyncpg(dsn: str, seal: Any) -> None:
    """Write outside of a transaction."""
    kind = AsyncpgConnection.using(seal=seal, pooled=True)
    connection = await connect_asyncpg(dsn, connection_class=kind)
    try:
        await connection.execute(PRIVATE)
    finally:
        await connection.close()


OUTSIDE: dict[str, Callable[[str, Any], Awaitable[None]]] = {
    "psycopg": by_psycopg,
    "asyncpg": by_asyncpg,
}


@pytest.mark.parametrize("form", OUTSIDE)
async def test_53_waits_for_who_opens_no_transaction(form, sealed, server, twh_attack, monkeypatch):
    """A statement outside of a transaction may run where a left its token; it is not sent."""
    attack = twh_attack(
        number=53, title="has others write into its rows outside of a transaction", form=form
    )
    require_pgbouncer()
    shop = sealed.shop
    turns = {"server_round_robin": "1"}

    async def told(pooler: PgBouncer, said: Any) -> int:
        with bind_tenant(A), clients(pooler, shop, ours(shop.seal)) as both:
            for client in both:
                run(client, LEAVE_TOKEN)
            for client in both:
                client.commit()
        with bind_tenant(B), said:
            await OUTSIDE[form](pooler.dsn(shop.database.name, user=APP), shop.seal)
        with shop.ours(A) as connection:
            return secrets(run(connection, ALL))

    with PgBouncer(server, users=[APP], pool_size=2, settings=turns) as pooler:
        attack.ours(await told(pooler, pytest.raises(TenantMismatchError, match="transaction")))
        monkeypatch.setattr(_binding.TransactionBinding, "scrub_message", trusting_scrub)
        attack.control(await told(pooler, nullcontext()))
