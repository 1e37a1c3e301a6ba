"""
A transaction through PgBouncer in transaction mode, with one server session.

*Plain* knows nothing of tenants and names the tenant in WHERE.  *Pooled* has
the scrub in every transaction; without it a session's residue would be
another's.  All prepare nothing, because the pooler allows none.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import asyncpg
import psycopg

from tests.support.pgbouncer import PgBouncer, find_pgbouncer
from twh_platform.tenancy import bind_tenant
from twh_platform.tenancy.postgres import asyncpg as tenant_asyncpg
from twh_platform.tenancy.postgres import psycopg as tenant_psycopg

from ._database import TENANT, Database, sealed_twin
from ._measure import Variant, measure
from ._rows import Row, paired_row

__all__ = ["pooler_rows"]

_ID = 7
_APP = "twh_bench_app"
_PLAIN = "SELECT quantity FROM plain_items WHERE tenant_id = {} AND id = {}"
_POLICED = "SELECT quantity FROM items WHERE id = {}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Way:
    """
    How a transaction learns its tenant behind the pooler.
    """

    bound: bool = True
    sealed: bool = False
    pooled: bool = False


_WAYS = {
    "no RLS": _Way(bound=False),
    "unsealed": _Way(),
    "sealed": _Way(sealed=True),
    "unsealed, pooled=True": _Way(pooled=True),
    "sealed, pooled=True": _Way(sealed=True, pooled=True),
}


def pooler_rows(database: Database, *, seconds: float) -> list[Row]:
    """
    Time transactions of both drivers; *seconds* for each driver.
    """
    if find_pgbouncer() is None:
        sys.stdout.write("no pgbouncer here: apt-get install pgbouncer\n")
        return []
    with (
        sealed_twin(database) as twin,
        PgBouncer(database.server, users=[_APP]) as pooler,
    ):
        return [
            row
            for driver, opened in (("psycopg", _psycopg), ("asyncpg", _asyncpg))
            for row in _driver_rows(driver, opened, database, twin, pooler, seconds=seconds)
        ]


_Open = Callable[[Database, PgBouncer, _Way], contextlib.AbstractContextManager[Variant]]


def _driver_rows(
    driver: str,
    opened: _Open,
    database: Database,
    twin: Database,
    pooler: PgBouncer,
    *,
    seconds: float,
) -> Iterator[Row]:
    with contextlib.ExitStack() as stack:
        variants = {
            name: stack.enter_context(opened(twin if way.sealed else database, pooler, way))
            for name, way in _WAYS.items()
        }
        series = measure(variants, seconds=seconds)
    pairs = [(name, "no RLS") for name in list(_WAYS)[1:]]
    pairs += [(f"{name}, pooled=True", name) for name in ("unsealed", "sealed")]
    for ours, reference in pairs:
        yield paired_row(
            f"through PgBouncer: {driver}, {ours}, against {reference}",
            "BEGIN, PK query, COMMIT; unprepared",
            unit="us",
            ours=series[ours].wall,
            reference=series[reference].wall,
            target=None,
        )


def _settings(database: Database, way: _Way) -> dict[str, Any]:
    return {"seal": database.seal if way.sealed else None, "pooled": way.pooled}


@contextlib.contextmanager
def _psycopg(database: Database, pooler: PgBouncer, way: _Way) -> Iterator[Variant]:
    kind: Any = psycopg.Connection
    if way.bound:
        kind = tenant_psycopg.TenantConnection.using(**_settings(database, way))
    statement = (_POLICED if way.bound else _PLAIN).format("%s", "%s")
    arguments = (_ID,) if way.bound else (TENANT.id, _ID)
    with kind.connect(database.through(pooler.port), prepare_threshold=None) as connection:

        def run(count: int) -> list[float]:
            taken = []
            with bind_tenant(TENANT if way.bound else None):
                for _ in range(count):
                    start = time.perf_counter()
                    connection.execute(statement, arguments).fetchone()
                    connection.commit()
                    taken.append(time.perf_counter() - start)
            return taken

        yield Variant(run=run, backends=[pooler.pid])


@contextlib.contextmanager
def _asyncpg(database: Database, pooler: PgBouncer, way: _Way) -> Iterator[Variant]:
    kind: Any = asyncpg.Connection
    if way.bound:
        kind = tenant_asyncpg.TenantConnection.using(**_settings(database, way))
    options: Mapping[str, Any] = {"connection_class": kind, "statement_cache_size": 0}
    statement = _POLICED.format("$1") if way.bound else _PLAIN.format("$1", "$2")
    arguments = (_ID,) if way.bound else (TENANT.id, _ID)

    async def run(connection: Any, count: int) -> list[float]:
        taken = []
        with bind_tenant(TENANT if way.bound else None):
            for _ in range(count):
                start = time.perf_counter()
                async with connection.transaction():
                    await connection.fetchrow(statement, *arguments)
                taken.append(time.perf_counter() - start)
        return taken

    with asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(database.through(pooler.port), **options))
        try:
            yield Variant(
                run=lambda count: runner.run(run(connection, count)), backends=[pooler.pid]
            )
        finally:
            runner.run(connection.close())
