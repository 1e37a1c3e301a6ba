"""
What a seal costs: a statement, and a transaction of one query (gate G2).

The sealed database is a copy of the other; the reference is WHERE without
policies on the one that is not sealed, in the same run.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg

from ._database import ROWS_PER_TENANT, TENANT, TENANTS, Database, sealed_twin
from ._measure import Variant, measure
from ._policies import QUERIES, Query, open_statement
from ._rows import Row, paired_row
from ._stacks import STACKS, Address, Way

__all__ = ["sealed_rows"]

_LIFETIME = 86400.0
_ID = 7
_SIZE = f"{TENANTS * ROWS_PER_TENANT:,} rows, {TENANTS:,} tenants"

_STATEMENTS = {"PK lookup": 1.50, "UPDATE of one row": None}
_TRANSACTIONS = {
    "psycopg": None,
    "psycopg_pool": None,
    "asyncpg": None,
    "SQLAlchemy psycopg": 1.25,
    "SQLAlchemy psycopg async": 1.25,
    "SQLAlchemy asyncpg": 1.25,
}


def sealed_rows(database: Database, *, seconds: float) -> list[Row]:
    """
    Time sealed statements and transactions; *seconds* for each.
    """
    with sealed_twin(database) as sealed:
        # First: the statements change what the transactions read.
        rows = [
            row
            for stack, target in _TRANSACTIONS.items()
            for row in _transaction_rows(database, sealed, stack, target, seconds=seconds)
        ]
        rows += [
            row
            for query in QUERIES
            if query.name in _STATEMENTS
            for row in _statement_rows(database, sealed, query, seconds=seconds)
        ]
    return rows


def _statement_rows(
    database: Database, sealed: Database, query: Query, *, seconds: float
) -> Iterator[Row]:
    places = {"sealed": sealed, "policies": database, "plain": database}
    for how, open_one in (("psycopg", _through_psycopg), ("libpq", _through_libpq)):
        with contextlib.ExitStack() as opened:
            series = measure(
                {
                    name: opened.enter_context(open_one(place, query, ours=name != "plain"))
                    for name, place in places.items()
                },
                seconds=seconds,
            )
        for reference in ("plain", "policies"):
            other = {"plain": "WHERE", "policies": "policies unsealed"}[reference]
            target = _STATEMENTS[query.name] if (how, reference) == ("psycopg", "plain") else None
            yield paired_row(
                f"sealed statement: {query.name}, {how}, against {other}",
                _SIZE,
                unit="us",
                ours=series["sealed"].wall,
                reference=series[reference].wall,
                target=target,
            )


def _tenant_text(database: Database) -> str:
    if database.seal is None:
        return TENANT.id
    return database.seal.key.token(TENANT.id, expires_at=int(time.time() + _LIFETIME))


def _through_libpq(
    database: Database, query: Query, *, ours: bool
) -> contextlib.AbstractContextManager[Variant]:
    return open_statement(database.local(), query, ours=ours, tenant=_tenant_text(database))


@contextlib.contextmanager
def _through_psycopg(database: Database, query: Query, *, ours: bool) -> Iterator[Variant]:
    """
    Give what runs *query* as a service would, by a cursor in autocommit mode.
    """
    tenant = "" if ours else "tenant_id = %s AND"
    table = "items" if ours else "plain_items"
    sql: Any = query.sql.replace("$1", "%s").format(table=table, tenant=tenant)
    parameters = (_ID,) if ours else (TENANT.id, _ID)
    with psycopg.connect(database.local(), autocommit=True) as connection:
        bind = "SELECT set_config('twh.tenant_id', %s, false)"
        connection.execute(bind, (_tenant_text(database),))
        cursor = connection.cursor()
        yield Variant(
            run=_runs(lambda: cursor.execute(sql, parameters)),
            backends=[connection.info.backend_pid],
        )


def _runs(once: Callable[[], Any]) -> Callable[[int], list[float]]:
    def run(count: int) -> list[float]:
        taken = []
        for _ in range(count):
            start = time.perf_counter()
            once()
            taken.append(time.perf_counter() - start)
        return taken

    return run


def _transaction_rows(
    database: Database, sealed: Database, stack: str, target: float | None, *, seconds: float
) -> Iterator[Row]:
    plain = Address(dsn=database.local)
    with contextlib.ExitStack() as opened:
        variants = {
            way: opened.enter_context(STACKS[stack].open(address, way))
            for way, address in (
                (Way.PLAIN, plain),
                (Way.OURS, plain),
                (Way.SEALED, Address(dsn=sealed.local, seal=sealed.seal)),
            )
        }
        series = measure(variants, seconds=seconds)
    for reference in (Way.PLAIN, Way.OURS):
        yield paired_row(
            f"sealed transaction: {stack}, against {reference.value}",
            "BEGIN, PK query, COMMIT",
            unit="us",
            ours=series[Way.SEALED].wall,
            reference=series[reference].wall,
            target=target if reference is Way.PLAIN else None,
        )
