"""
What the policies cost a statement, against WHERE on the same rows (gate G5).

Statements go out through libpq itself, one at a time: a driver's own work
would be added to both sides and make the ratio look better than it is.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psycopg
from psycopg import pq

from ._database import ROWS_PER_TENANT, TENANT, TENANTS, Database
from ._measure import Variant, measure
from ._rows import Row, paired_row

__all__ = ["QUERIES", "Query", "open_statement", "policy_rows"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """
    A statement and the ratio that it should stay below.

    Args:
        name: As the table shows it.

        sql: With ``{table}`` and ``{tenant}``, where plain SQL names it.

        target: None for a row that only informs.

        takes_id: Whether ``$1`` is a random id of the tenant.

        scan: Whether the planner is kept from using indexes.

        prepared: Whether the statement is prepared once or parsed each time.
    """

    name: str
    sql: str
    target: float | None
    takes_id: bool = False
    scan: bool = False
    prepared: bool = True


_PK = "SELECT * FROM {table} WHERE {tenant} id = $1"
_TOP = "SELECT * FROM {table} WHERE {tenant} true ORDER BY created_at DESC LIMIT 20"
_SUM = "SELECT sum(quantity) FROM {table} WHERE {tenant} true"
_UPDATE = "UPDATE {table} SET quantity = quantity + 1 WHERE {tenant} id = $1"

QUERIES = (
    Query(name="PK lookup", sql=_PK, target=1.13, takes_id=True),
    Query(name="top 20 by created_at", sql=_TOP, target=1.10),
    Query(name=f"aggregate of {ROWS_PER_TENANT} rows", sql=_SUM, target=1.10),
    Query(name="UPDATE of one row", sql=_UPDATE, target=1.22, takes_id=True),
    Query(name="forced sequential scan", sql=_SUM, target=1.10, scan=True),
    Query(name="PK lookup, unprepared", sql=_PK, target=None, takes_id=True, prepared=False),
    Query(name="UPDATE, unprepared", sql=_UPDATE, target=None, takes_id=True, prepared=False),
)


def policy_rows(database: Database, *, seconds: float) -> list[Row]:
    """
    Time statements under policies and with WHERE; *seconds* for each.
    """
    return [row for query in QUERIES for row in _compare(database, query, seconds=seconds)]


def _compare(database: Database, query: Query, *, seconds: float) -> list[Row]:
    dsn = database.local()
    with (
        open_statement(dsn, query, ours=True) as ours,
        open_statement(dsn, query, ours=False) as plain,
    ):
        series = measure({"ours": ours, "plain": plain}, seconds=seconds)
    size = f"{TENANTS * ROWS_PER_TENANT:,} rows, {TENANTS:,} tenants"
    wall = paired_row(
        f"policy: {query.name}, against WHERE",
        size,
        unit="us",
        ours=series["ours"].wall,
        reference=series["plain"].wall,
        target=query.target,
    )
    cpu = paired_row(
        f"policy: {query.name}, against WHERE",
        f"{size}; CPU of client and server",
        unit="us CPU",
        ours=series["ours"].cpu,
        reference=series["plain"].cpu,
        target=None,
    )
    return [wall, cpu]


@contextlib.contextmanager
def open_statement(
    dsn: str, query: Query, *, ours: bool, tenant: str = TENANT.id
) -> Iterator[Variant]:
    """
    Give what runs *query* on one of the twins.

    The tenant is set for the session: what binding costs is another row.
    """
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SELECT set_config('twh.tenant_id', %s, false)", (tenant,))
        connection.execute("SET max_parallel_workers_per_gather = 0")
        if query.prepared:
            # Left alone, PostgreSQL may plan the WHERE anew each time: slower.
            connection.execute("SET plan_cache_mode = force_generic_plan")
        if query.scan:
            for kind in ("indexscan", "indexonlyscan", "bitmapscan"):
                connection.execute(f"SET enable_{kind} = off")
        run = _runner(connection.pgconn, query, ours=ours)
        yield Variant(run=run, backends=[connection.info.backend_pid])


def _runner(pgconn: pq.abc.PGconn, query: Query, *, ours: bool) -> Callable[[int], list[float]]:
    position = "$2" if query.takes_id else "$1"
    tenant = "" if ours else f"tenant_id = {position} AND"
    sql = query.sql.format(table="items" if ours else "plain_items", tenant=tenant).encode()
    suffix = [] if ours else [TENANT.id.encode()]
    pgconn.prepare(b"measured", sql)
    draw = random.Random(0)

    def run(count: int) -> list[float]:
        taken = []
        for _ in range(count):
            item = [str(draw.randrange(ROWS_PER_TENANT)).encode()] if query.takes_id else []
            parameters = item + suffix
            start = time.perf_counter()
            if query.prepared:
                result = pgconn.exec_prepared(b"measured", parameters)
            else:
                result = pgconn.exec_params(sql, parameters)
            taken.append(time.perf_counter() - start)
            assert result.status in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK)
        return taken

    return run
