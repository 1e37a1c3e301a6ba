"""
What is known about pools of connections, read when a page is rendered.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple
from weakref import ref

from ._define import define, define_read
from ._instruments import BoundCounter, BoundHistogram
from ._names import (
    POOL_CONNECTIONS,
    POOL_MOST,
    POOL_PENDING,
    POOL_TIMEOUTS,
    POOL_USE,
    POOL_WAIT,
)
from ._registry import Registry

__all__ = ["PoolMetrics", "PoolState"]

_Numbers = dict[tuple[str, ...], float]


class PoolState(NamedTuple):
    """
    How it stands with one pool.

    Args:
        used: Connections that are out.

        idle: Connections that wait to be used.

        most: How many there may be; 0 for no bound.

        pending: Who waits for one.
    """

    used: int
    idle: int
    most: int = 0
    pending: int = 0


class PoolMetrics:
    """
    The metrics of all pools that one `ClientCalls` watches.

    Pools of the same name are counted together.  A pool that is gone, or
    closed, is on no page.  Given twice with a name, a pool is counted once.

    Args:
        registry: Where the metrics are defined.

    Raises:
        twh_platform.errors.ConfigurationError: With code ``metric_duplicate``,
            if the registry has them already.
    """

    def __init__(self, registry: Registry) -> None:
        self._wait = define(registry, POOL_WAIT)
        self._use = define(registry, POOL_USE)
        self._timeouts = define(registry, POOL_TIMEOUTS)
        self._pools: list[tuple[str, Callable[[], Any], Callable[[Any], PoolState | None]]] = []
        define_read(registry, POOL_CONNECTIONS, self._connections)
        define_read(registry, POOL_MOST, lambda: self._sum(lambda state: state.most))
        define_read(registry, POOL_PENDING, lambda: self._sum(lambda state: state.pending))

    def add(self, name: str, pool: Any, read: Callable[[Any], PoolState | None]) -> None:
        """
        Show a pool from now on.

        Args:
            name: As on the page.

            pool: The pool; held weakly, if it can be.

            read: Reads it; None while it is closed.
        """
        if any(held() is pool and known == name for known, held, _ in self._pools):
            return
        held: Callable[[], Any]
        try:
            held = ref(pool)
        except TypeError:
            held = lambda: pool  # noqa: E731
        self._pools.append((name, held, read))

    def forget(self, pool: Any) -> None:
        """
        Show a pool no more.
        """
        self._pools = [entry for entry in self._pools if entry[1]() not in {None, pool}]

    def wait(self, name: str) -> BoundHistogram:
        """
        How long it took to get a connection.
        """
        found: BoundHistogram = self._wait.labels(name)
        return found

    def use(self, name: str) -> BoundHistogram:
        """
        How long a connection was out.
        """
        found: BoundHistogram = self._use.labels(name)
        return found

    def timeouts(self, name: str) -> BoundCounter:
        """
        How often there was no connection in time.
        """
        found: BoundCounter = self._timeouts.labels(name)
        return found

    def _states(self) -> list[tuple[str, PoolState]]:
        states = []
        for name, held, read in self._pools:
            pool = held()
            with suppress(Exception):  # the other pools are shown
                state = None if pool is None else read(pool)
                if state is not None:
                    states.append((name, state))
        return states

    def _connections(self) -> _Numbers:
        numbers: _Numbers = {}
        for name, state in self._states():
            for label, count in (("used", state.used), ("idle", state.idle)):
                numbers[name, label] = numbers.get((name, label), 0.0) + count
        return numbers

    def _sum(self, number: Callable[[PoolState], int]) -> _Numbers:
        numbers: _Numbers = {}
        for name, state in self._states():
            numbers[name,] = numbers.get((name,), 0.0) + number(state)
        return numbers
