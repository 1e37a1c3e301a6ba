"""
What it costs that a connection changes tenant.

Ours sends the scrub in the message that opens the transaction.  The usual way
is ``DISCARD ALL``, a message of its own.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator

import psycopg
from tests.support.proxy import CountingProxy
from twh_platform.tenancy import Tenant, bind_tenant
from twh_platform.tenancy.postgres.psycopg import TenantConnection

from ._database import Database
from ._measure import Variant, measure
from ._rows import Row, count_row, paired_row
from ._stacks import timed

__all__ = ["scrub_rows"]

_TENANTS = (Tenant(id="tenant-1"), Tenant(id="tenant-2"))
_WORKLOAD = "psycopg, what a switch adds to a transaction"
_COUNTED = 20


def scrub_rows(database: Database, *, seconds: float) -> list[Row]:
    """
    Compare what a switch adds to a transaction with what DISCARD ALL adds.
    """
    with _variants(database.local()) as variants:
        series = measure(variants, seconds=seconds)
    stay, switch, discard = (series[name].wall for name in ("stay", "switch", "discard"))
    time_row = paired_row(
        "scrub: on tenant switch, against DISCARD ALL",
        _WORKLOAD,
        unit="us",
        ours=[a - b for a, b in zip(switch, stay, strict=True)],
        reference=[a - b for a, b in zip(discard, stay, strict=True)],
        target=0.43,
    )
    turns = _turns(database)
    turn_row = count_row(
        "scrub: turns on tenant switch, against no switch",
        "psycopg, BEGIN, PK query, COMMIT",
        unit="turns",
        ours=turns["switch"],
        reference=turns["stay"],
        target=1.0,
    )
    return [time_row, turn_row]


def _turns(database: Database) -> dict[str, float]:
    server = database.server
    turns = {}
    with (
        CountingProxy(server.host, server.port) as proxy,
        _variants(database.through(proxy.port)) as variants,
    ):
        for name, variant in variants.items():
            with proxy.counting() as seen:
                variant.run(_COUNTED)
            turns[name] = seen.client / _COUNTED
    return turns


@contextlib.contextmanager
def _variants(dsn: str) -> Iterator[dict[str, Variant]]:
    with contextlib.ExitStack() as opened:
        yield {
            "stay": opened.enter_context(_variant(dsn, _TENANTS[:1])),
            "switch": opened.enter_context(_variant(dsn, _TENANTS)),
            "discard": opened.enter_context(_variant(dsn, _TENANTS[:1], discard=True)),
        }


@contextlib.contextmanager
def _variant(dsn: str, tenants: tuple[Tenant, ...], *, discard: bool = False) -> Iterator[Variant]:
    turn = itertools.cycle(tenants)
    # DISCARD ALL drops prepared statements: without any, all three do the same query.
    with TenantConnection.connect(dsn, prepare_threshold=None) as connection:
        once = _transaction(connection, discard=discard)

        def run(count: int) -> list[float]:
            taken = []
            for _ in range(count):
                with bind_tenant(next(turn)):
                    taken.append(timed(once))
            return taken

        yield Variant(run=run, backends=[connection.info.backend_pid])


def _transaction(connection: psycopg.Connection, *, discard: bool) -> Callable[[], None]:
    def once() -> None:
        if discard:
            connection.pgconn.exec_(b"DISCARD ALL")
        connection.execute("SELECT quantity FROM items WHERE id = %s", (7,)).fetchone()
        connection.commit()

    return once
