"""
What the process itself is doing: memory, files, garbage, and how late its event loop is.
"""

from __future__ import annotations

import asyncio
import gc
import os
import platform
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from ._define import define, define_read
from ._instruments import BoundHistogram, Histogram
from ._names import (
    GC_COLLECTED,
    GC_COLLECTIONS,
    GC_PAUSE,
    GC_UNCOLLECTABLE,
    LOOP_LAG,
    PROCESS_CPU,
    PROCESS_MAX_FDS,
    PROCESS_OPEN_FDS,
    PROCESS_RESIDENT,
    PROCESS_START,
    PROCESS_THREADS,
    PYTHON_INFO,
    MetricName,
)
from ._registry import Numbers, Registry

__all__ = ["LoopWatch", "watch_loop", "watch_process"]

_PROC: Final = Path("/proc/self")
_Read = Callable[[], Numbers]


def watch_process(registry: Registry) -> None:
    """
    Show what this process uses: CPU, memory, open files, threads, garbage collection.

    Read when the page is rendered.  What the platform does not tell is left
    out: memory and open files are of Linux.

    Args:
        registry: Where the metrics are defined.

    Raises:
        twh_platform.errors.ConfigurationError: With code ``metric_duplicate``,
            if the registry has them already.
    """
    readers: list[tuple[MetricName, _Read]] = [
        (PROCESS_CPU, time.process_time),
        (PROCESS_THREADS, threading.active_count),
        (PYTHON_INFO, _python),
        (GC_COLLECTIONS, lambda: _garbage("collections")),
        (GC_COLLECTED, lambda: _garbage("collected")),
        (GC_UNCOLLECTABLE, lambda: _garbage("uncollectable")),
    ]
    of_linux: list[tuple[MetricName, _Read]] = [
        (PROCESS_RESIDENT, _resident),
        (PROCESS_OPEN_FDS, _open_fds),
        (PROCESS_MAX_FDS, _max_fds),
        (PROCESS_START, _started),
    ]
    for name, read in (*readers, *(one for one in of_linux if _works(one[1]))):
        define_read(registry, name, read)
    _watch_pauses(define(registry, GC_PAUSE))


def watch_loop(registry: Registry, *, interval: float = 0.25) -> LoopWatch:
    """
    Measure from now on how late the running event loop is.

    `TelemetryMiddleware` does it by itself; this is for processes without one.

    Args:
        registry: Where the metric is defined.

        interval: Seconds between two measurements.

    Raises:
        RuntimeError: Outside of a running event loop.

        twh_platform.errors.ConfigurationError: As in `watch_process`.
    """
    loop = asyncio.get_running_loop()
    watch = LoopWatch(registry, interval=interval)
    watch.start(loop)
    return watch


class LoopWatch:
    """
    Measure how late an event loop calls what is due.

    It is a chain of timers: no task that somebody had to cancel, and nothing
    that keeps a loop running.  It ends with its loop, or by `stop`.

    Args:
        registry: Where the metric is defined.

        interval: Seconds between two measurements.
    """

    def __init__(self, registry: Registry, *, interval: float = 0.25) -> None:
        self._lag: BoundHistogram = define(registry, LOOP_LAG).labels()
        self._interval = interval
        self._timers: weakref.WeakKeyDictionary[Any, asyncio.TimerHandle] = (
            weakref.WeakKeyDictionary()
        )

    def start(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """
        Measure this loop, or the running one, unless that is done already.

        Raises:
            RuntimeError: Without *loop*, outside of a running one.
        """
        loop = loop or asyncio.get_running_loop()
        if loop not in self._timers:
            self._next(loop)

    def stop(self) -> None:
        """
        Measure no more.
        """
        for timer in list(self._timers.values()):
            timer.cancel()
        self._timers.clear()

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        due = loop.time() + self._interval
        self._timers[loop] = loop.call_at(due, self._due, loop, due)

    def _due(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        # Loops call a timer that is due within their clock's resolution.
        self._lag.observe(max(0.0, loop.time() - due))
        self._next(loop)


def _watch_pauses(pauses: Histogram) -> None:
    # The garbage collector keeps its callbacks for good: this one leaves with its registry.
    # It does not do so when it is called: the collector would pass over the next one.
    callbacks = gc.callbacks
    began = 0.0

    def called(phase: str, info: dict[str, int]) -> None:
        nonlocal began
        del info
        if phase == "start":
            began = time.perf_counter()
        elif began and (told := seen()) is not None:
            told.observe(time.perf_counter() - began)

    def leave(_gone: object) -> None:
        if called in callbacks:
            callbacks.remove(called)

    seen = weakref.ref(pauses, leave)
    callbacks.append(called)


def _works(read: _Read) -> bool:
    try:
        read()
    except (OSError, ValueError, ImportError, LookupError, AttributeError):
        return False
    return True


def _resident() -> float:
    pages = int((_PROC / "statm").read_text("ascii").split()[1])
    return float(pages * os.sysconf("SC_PAGE_SIZE"))


def _open_fds() -> float:
    return float(sum(1 for _ in (_PROC / "fd").iterdir()) - 1)  # one of them is for looking


def _max_fds() -> float:
    import resource  # not on Windows

    return float(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def _started() -> float:
    # proc(5): field 22 of stat, in ticks since boot; the name in field 2 may hold anything.
    fields = (_PROC / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    lines = Path("/proc/stat").read_text("ascii").splitlines()
    boot = next(line.split()[1] for line in lines if line.startswith("btime "))
    return float(boot) + int(fields[19]) / os.sysconf("SC_CLK_TCK")


def _garbage(what: str) -> dict[tuple[str, ...], float]:
    return {(str(number),): float(one[what]) for number, one in enumerate(gc.get_stats())}


def _python() -> dict[tuple[str, ...], float]:
    return {(platform.python_implementation(), platform.python_version(), platform.system()): 1.0}
