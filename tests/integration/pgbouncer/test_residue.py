"""
What one client leaves in a server session, another does not find there.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import psycopg
import pytest

from tests.integration.pgbouncer._every import EVERY, OPTIONS
from tests.integration.pgbouncer.conftest import House, built
from tests.integration.tenancy._storm import NONE
from tests.integration.tenancy.test_residue import RESIDUES, Residue, found
from twh_platform.tenancy import Tenant, bind_tenant
from twh_platform.testing import PostgresServer

B = Tenant(id="b")
UNPREPARED: dict[str, dict[str, Any]] = {
    "psycopg": {"prepare_threshold": None},
    "psycopg_pool": {"prepare_threshold": None},
    "SQLAlchemy + psycopg": {"prepare_threshold": None},
}


def leave(hut: House, residue: Residue) -> int:
    """
    Leave it as a client that knows nothing of tenants; gives the server session.
    """
    with psycopg.connect(hut.dsn, prepare_threshold=None) as client:
        client.execute(residue.leave)
        return client.execute("SELECT pg_backend_pid()").fetchall()[0][0]


async def meets(hut: House, stack: Any) -> dict[str, bool]:
    """
    Tell of each kind of residue whether a tenant's next transaction meets it.
    """
    met = {}
    async with stack(hut.dsn) as checkout:
        for kind, residue in RESIDUES.items():
            with bind_tenant(B):
                async with checkout() as session:
                    await session.fetch("SELECT 1")  # a connection's first transaction scrubs
                    await session.commit()
                    process = leave(hut, residue)
                    met[kind] = await found(session, residue)
                    assert await session.fetch("SELECT pg_backend_pid()") == [(process,)]
                    await session.commit()
            forget(hut)
    return met


def forget(hut: House) -> None:
    """
    Make the server session as new, for the next kind.
    """
    with psycopg.connect(hut.dsn, autocommit=True) as client:
        client.execute("DISCARD ALL")


@pytest.mark.parametrize("name", EVERY)
async def test_pooled_meets_nothing(hut: House, name: str) -> None:
    """
    With `pooled=True` each transaction begins in a session without residue.
    """
    options = OPTIONS.get(name, NONE)
    met = await meets(hut, partial(EVERY[name], pooled=True, options=options))

    assert met == dict.fromkeys(RESIDUES, False)


@pytest.mark.parametrize("name", ["psycopg", "asyncpg", "SQLAlchemy + psycopg"])
async def test_not_pooled_meets_it(hut: House, name: str) -> None:
    """
    The control: a connection that believes the session its own finds every kind.
    """
    options = UNPREPARED.get(name, {"statement_cache_size": 0})
    met = await meets(hut, partial(EVERY[name], options=options))

    assert met == dict.fromkeys(RESIDUES, True)


async def test_pooler_that_resets(roles: PostgresServer) -> None:
    """
    PgBouncer can clean its sessions itself: that holds for clients that are not ours too.
    """
    settings = {"server_reset_query_always": "1"}
    with built(roles, sessions=1, sealed=False, settings=settings) as tidy:
        met = await meets(tidy, partial(EVERY["psycopg"], options=UNPREPARED["psycopg"]))

    assert met == dict.fromkeys(RESIDUES, False)


async def test_session_setting_crosses(hut: House) -> None:
    """
    Attack 53: bound to the session, one client's tenant is another's; bound by us, it is not.
    """
    with (
        psycopg.connect(hut.dsn, prepare_threshold=None) as first,
        psycopg.connect(hut.dsn, prepare_threshold=None) as second,
    ):
        first.execute("SELECT set_config('twh.tenant_id', 'a', false)")
        first.commit()
        assert second.execute("SELECT twh.current_tenant()").fetchall() == [("a",)]

    async with EVERY["psycopg"](hut.dsn, pooled=True) as checkout, checkout() as session:
        with bind_tenant(B):
            assert await session.fetch("SELECT twh.current_tenant()") == [("b",)]
        await session.rollback()
    assert {tenant for _, tenant, *_ in hut.look()} == {""}
