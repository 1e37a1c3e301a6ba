"""
What binding costs a transaction: turns on the wire, and time (gate G4).
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg

from tests.support.proxy import CountingProxy, proxy_process

from ._database import Database
from ._measure import Series, Variant, measure
from ._rows import Row, count_row, paired_row
from ._stacks import STACKS, Address, Way

__all__ = ["ROUND_TRIP", "distant", "local_rows", "remote_rows", "turn_rows"]

ROUND_TRIP = 0.00065
"""Seconds; about what lies between two zones of one region."""

UNSEALED = (Way.PLAIN, Way.USUAL, Way.OURS)
_COUNTED = 20
# So that what a client sends without waiting for an answer counts once.
_COUNTING_ROUND_TRIP = 0.008
_QUERY = "BEGIN, PK query, COMMIT"


# --- turns


def turn_rows(database: Database) -> list[Row]:
    """
    Count client-to-server turns per transaction, for each stack.
    """
    rows = []
    server = database.server
    with CountingProxy(server.host, server.port, round_trip=_COUNTING_ROUND_TRIP) as proxy:
        address = Address(dsn=lambda scheme: database.through(proxy.port, scheme))
        for name in STACKS:
            turns = {way: _turns(proxy, address, name, way) for way in UNSEALED}
            rows += [
                count_row(
                    f"turns: {name}, against {reference.value}",
                    _QUERY,
                    unit="turns",
                    ours=turns[Way.OURS],
                    reference=turns[reference],
                    target=1.0,
                )
                for reference in (Way.PLAIN, Way.USUAL)
            ]
    return rows


def _turns(proxy: CountingProxy, address: Address, name: str, way: Way) -> float:
    with STACKS[name].open(address, way) as variant:
        variant.run(_COUNTED)  # drivers prepare a statement after some uses
        with proxy.counting() as seen:
            variant.run(_COUNTED)
    return seen.client / _COUNTED


# --- time


@dataclass(frozen=True, slots=True, kw_only=True)
class _Aim:
    """
    One stack's row of targets.

    Args:
        stack: Its name in `STACKS`.

        target: For ours against the reference.

        reference: Another stack's plain way, if not its own.

        against: The way of the reference.
    """

    stack: str
    target: float | None
    reference: str = ""
    against: Way = Way.PLAIN


_LOCAL = (
    _Aim(stack="psycopg", target=1.10),
    _Aim(stack="psycopg_pool", target=1.10),
    _Aim(stack="asyncpg", target=1.10),
    _Aim(stack="asyncpg.Pool", target=None),
    _Aim(stack="SQLAlchemy psycopg", target=1.10),
    _Aim(stack="SQLAlchemy psycopg async", target=1.10),
    _Aim(stack="SQLAlchemy asyncpg", target=1.05),
)
_REMOTE = (
    _Aim(stack="psycopg", target=1.00),
    _Aim(stack="psycopg pipelined", target=0.70, reference="psycopg"),
    _Aim(stack="asyncpg", target=1.05),
    _Aim(stack="asyncpg.Pool", target=0.65, against=Way.USUAL),
    _Aim(stack="SQLAlchemy psycopg", target=1.00),
    _Aim(stack="SQLAlchemy asyncpg", target=1.05),
)


def local_rows(database: Database, *, seconds: float) -> list[Row]:
    """
    Time transactions with the server next door; *seconds* for each stack.
    """
    rows = []
    for aim in _LOCAL:
        series = _time(Address(dsn=database.local), aim, seconds=seconds, block_seconds=0.02)
        rows += _rows(aim, series, place="local")
    return rows


def remote_rows(database: Database, *, seconds: float) -> list[Row]:
    """
    Time transactions at a distance of `ROUND_TRIP`; *seconds* for each stack.
    """
    rows = []
    with distant(database) as (address, round_trip):
        place = f"at {round_trip * 1e3:.2f} ms"
        for aim in _REMOTE:
            series = _time(address, aim, seconds=seconds, block_seconds=0.06)
            rows += _rows(aim, series, place=place)
    return rows


@contextlib.contextmanager
def distant(database: Database) -> Iterator[tuple[Address, float]]:
    """
    Put the server at a distance.

    The proxy costs time of its own.  It is measured first, and the delay is
    what is left of `ROUND_TRIP`.

    Yields:
        Where to connect, and the seconds a ``SELECT 1`` takes there.
    """
    delay = ROUND_TRIP
    for _ in range(3):
        with _proxy(database, delay) as (_, taken):
            delay = max(1e-6, delay + ROUND_TRIP - taken)
    with _proxy(database, delay) as proxied:
        yield proxied


@contextlib.contextmanager
def _proxy(database: Database, delay: float) -> Iterator[tuple[Address, float]]:
    server = database.server
    with proxy_process(server.host, server.port, round_trip=delay) as port:
        address = Address(dsn=lambda scheme: database.through(port, scheme))
        yield address, _select_1_seconds(address())


def _select_1_seconds(dsn: str) -> float:
    taken = []
    with psycopg.connect(dsn, autocommit=True) as connection:
        for _ in range(300):
            start = time.perf_counter()
            connection.execute("SELECT 1")
            taken.append(time.perf_counter() - start)
    return statistics.median(taken)


_Key = tuple[str, Way]


def _time(
    address: Address, aim: _Aim, *, seconds: float, block_seconds: float
) -> dict[_Key, Series]:
    wanted: list[_Key] = [(aim.stack, way) for way in UNSEALED]
    if aim.reference:
        wanted.append((aim.reference, Way.PLAIN))
    with contextlib.ExitStack() as open_stacks:
        variants: dict[_Key, Variant] = {
            key: open_stacks.enter_context(STACKS[key[0]].open(address, key[1])) for key in wanted
        }
        return measure(variants, seconds=seconds, block_seconds=block_seconds)


def _rows(aim: _Aim, series: dict[_Key, Series], *, place: str) -> list[Row]:
    ours = series[aim.stack, Way.OURS]
    reference: _Key = (aim.reference or aim.stack, aim.against)
    others = [(aim.stack, way) for way in (Way.PLAIN, Way.USUAL)]
    rows = [_row(aim, ours, reference, series, place=place, target=aim.target)]
    rows += [
        _row(aim, ours, key, series, place=place, target=None) for key in others if key != reference
    ]
    cpu = paired_row(
        _name(aim, reference, place),
        f"{_QUERY}; CPU of client and server",
        unit="us CPU",
        ours=ours.cpu,
        reference=series[reference].cpu,
        target=None,
    )
    return [*rows, cpu]


def _row(
    aim: _Aim,
    ours: Series,
    reference: _Key,
    series: dict[_Key, Series],
    *,
    place: str,
    target: float | None,
) -> Row:
    return paired_row(
        _name(aim, reference, place),
        _QUERY,
        unit="us",
        ours=ours.wall,
        reference=series[reference].wall,
        target=target,
    )


def _name(aim: _Aim, reference: _Key, place: str) -> str:
    stack, way = reference
    other = f"{stack}, {way.value}" if stack != aim.stack else way.value
    return f"time {place}: {aim.stack}, against {other}"
