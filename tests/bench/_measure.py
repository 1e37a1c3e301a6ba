"""
Measuring variants side by side.

A *round* runs one block of each variant, in an order that is drawn anew, so
a slow moment of the machine hits neighbours alike.  A block's wall time is
the median of its single runs: what preempts one run does not move it.  Its
CPU time is that of this process and of the server's processes that serve it,
as the scheduler counted it, divided by the runs.

What else the machine does slows the colder code more, so of the rounds only
the quieter half counts.  Which half that is, all variants decide together.
"""

from __future__ import annotations

import itertools
import random
import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

__all__ = ["Series", "Variant", "backend_cpu_seconds", "measure"]

K = TypeVar("K", bound=Hashable)

_MIN_ROUNDS = 14
_WARM_UP_RUNS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """
    One of the things compared.

    Args:
        run: Runs it so often and returns the seconds that each run took.

        backends: Process ids of the server processes that work for it; empty
            if the server's processes cannot be seen.
    """

    run: Callable[[int], Sequence[float]]
    backends: Sequence[int] = ()


@dataclass(slots=True)
class Series:
    """
    A variant's blocks, one per round that counts, in microseconds per run.

    Attributes:
        wall: Wall time.

        cpu: CPU time of this process and of the server's.

        server: CPU time of the server's processes alone.
    """

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    server: list[float] = field(default_factory=list)


def measure(
    variants: Mapping[K, Variant], *, seconds: float, block_seconds: float = 0.02
) -> dict[K, Series]:
    """
    Run rounds until the time is spent, fourteen at least, and keep the quieter half.

    Args:
        variants: What to compare.

        seconds: How long to measure, all variants together.

        block_seconds: About how long one block lasts.
    """
    size = {name: _block_size(one, block_seconds) for name, one in variants.items()}
    series = {name: Series() for name in variants}
    draw = random.Random(0)
    deadline = time.monotonic() + seconds
    rounds = 0
    while rounds < _MIN_ROUNDS or time.monotonic() < deadline:
        for name in draw.sample(list(variants), len(variants)):
            _block(variants[name], size[name], series[name])
        rounds += 1
    return _quieter_half(series)


def _quieter_half(series: dict[K, Series]) -> dict[K, Series]:
    totals = [sum(walls) for walls in zip(*(one.wall for one in series.values()), strict=True)]
    limit = statistics.median_low(totals)
    keep = [total <= limit for total in totals]
    return {
        name: Series(
            wall=list(itertools.compress(one.wall, keep)),
            cpu=list(itertools.compress(one.cpu, keep)),
            server=list(itertools.compress(one.server, keep)),
        )
        for name, one in series.items()
    }


def _block_size(variant: Variant, block_seconds: float) -> int:
    typical = statistics.median(variant.run(_WARM_UP_RUNS))
    return max(3, round(block_seconds / typical))


def _block(variant: Variant, size: int, series: Series) -> None:
    client, server = time.process_time(), _server_seconds(variant.backends)
    taken = variant.run(size)
    client, server = time.process_time() - client, _server_seconds(variant.backends) - server
    series.wall.append(statistics.median(taken) * 1e6)
    series.cpu.append((client + server) / size * 1e6)
    series.server.append(server / size * 1e6)


def _server_seconds(backends: Sequence[int]) -> float:
    return sum(map(backend_cpu_seconds, backends))


def backend_cpu_seconds(pid: int) -> float:
    """
    The CPU time that the threads of a process have taken so far.
    """
    # In nanoseconds; /proc/PID/stat counts in hundredths of a second.
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(one.read_text().split()[0]) for one in threads) / 1e9
