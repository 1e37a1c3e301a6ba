"""
What it costs that a connection changes tenant.

Ours sends the scrub in the message that opens the transaction.  The usual way
is ``DISCARD ALL``, a message of its own outside of any transaction.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

from tests.support.proxy import CountingProxy
from twh_platform.tenancy import Tenant, bind_tenant
from twh_platform.tenancy.postgres.psycopg import TenantConnection

from ._database import Database
from ._measure import Series, Variant, measure
from ._rows import Row, count_row, paired_row
from ._stacks import timed
from ._transactions import distant

__all__ = ["scrub_rows"]

_TENANTS = (Tenant(id="tenant-1"), Tenant(id="tenant-2"))
_QUERY = "psycopg: BEGIN, PK query, COMMIT"
_COUNTED = 20


def scrub_rows(database: Database, *, seconds: float) -> list[Row]:
    """
    Compare a transaction that changes tenant with one that does not, and with DISCARD ALL.
    """
    rows = [_turn_row(database)]
    near = _time(database.local(), seconds=seconds)
    rows.append(_row("local", near, against="stay", target=1.14))
    rows.append(_row("local", near, against="discard", target=0.86))
    with distant(database) as (address, round_trip):
        far = _time(address("postgresql"), seconds=seconds)
    place = f"at {round_trip * 1e3:.2f} ms"
    return [*rows, _row(place, far, against="discard", target=0.75)]


def _row(place: str, series: dict[str, Series], *, against: str, target: float) -> Row:
    other = {"stay": "the same tenant", "discard": "DISCARD ALL"}[against]
    return paired_row(
        f"scrub {place}: another tenant, against {other}",
        _QUERY,
        unit="us",
        ours=series["switch"].wall,
        reference=series[against].wall,
        target=target,
    )


def _turn_row(database: Database) -> Row:
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
    return count_row(
        "scrub turns: another tenant, against the same tenant",
        _QUERY,
        unit="turns",
        ours=turns["switch"],
        reference=turns["stay"],
        target=1.0,
    )


def _time(dsn: str, *, seconds: float) -> dict[str, Series]:
    with _variants(dsn) as variants:
        return measure(variants, seconds=seconds)


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


def _transaction(connection: Any, *, discard: bool) -> Callable[[], None]:
    def once() -> None:
        if discard:
            connection.autocommit = True
            connection.execute("DISCARD ALL")
            connection.autocommit = False
        connection.execute("SELECT quantity FROM items WHERE id = %s", (7,)).fetchone()
        connection.commit()

    return once
