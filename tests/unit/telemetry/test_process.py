"""
What the process shows of itself.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
import weakref

import pytest

from tests.support.telemetry import Watched, answer, read, samples
from twh_platform.errors import ConfigurationError
from twh_platform.telemetry import LoopWatch, Registry, watch_loop, watch_process
from twh_platform.telemetry import _process as process
from twh_platform.telemetry._names import PROCESS_METRICS

LAG = "platform_event_loop_lag_seconds"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_process_tells_what_it_uses():
    """Plausible numbers under the names that everybody uses."""
    registry = Registry()
    watch_process(registry)

    assert 1e6 < read(registry, "process_resident_memory_bytes") < 1e11
    assert 3 <= read(registry, "process_open_fds") <= read(registry, "process_max_fds")
    assert 0 < time.time() - read(registry, "process_start_time_seconds") < 1e7
    assert read(registry, "process_threads") >= 1
    assert samples(registry, "python_info")[0][0]["implementation"] == "CPython"


def test_cpu_time_grows():
    """It is read anew for each page."""
    registry = Registry()
    watch_process(registry)
    before = read(registry, "process_cpu_seconds_total")
    until = time.process_time() + 0.05
    while time.process_time() < until:
        pass

    assert read(registry, "process_cpu_seconds_total") >= before + 0.05


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_all_of_it_is_in_the_table():
    """And nothing else."""
    registry = Registry()
    before = {one.name for one in registry.definitions()}
    watch_process(registry)
    LoopWatch(registry)
    defined = {one.name for one in registry.definitions()} - before

    assert defined == {one.name for one in PROCESS_METRICS}


def test_without_proc_the_rest_is_there(monkeypatch, tmp_path):
    """What a platform does not tell is not on the page."""
    monkeypatch.setattr(process, "_PROC", tmp_path)
    registry = Registry()
    watch_process(registry)

    assert read(registry, "process_cpu_seconds_total") > 0
    assert b"process_open_fds" not in registry.page()
    assert read(registry, "telemetry_values_dropped_total") == 0


def test_a_process_is_watched_once_on_a_registry():
    """Twice is a mistake."""
    registry = Registry()
    watch_process(registry)

    with pytest.raises(ConfigurationError, match="process_cpu"):
        watch_process(registry)


def test_garbage_collection_is_counted_and_timed():
    """Every run, and how long it took."""
    registry = Registry()
    watch_process(registry)
    before = read(registry, "python_gc_collections_total", generation="2")
    gc.collect()

    assert read(registry, "python_gc_collections_total", generation="2") > before
    assert read(registry, "python_gc_pause_seconds_count") >= 1


def test_a_registry_that_is_gone_is_not_told_of_garbage():
    """The collector's callback leaves with it."""
    callbacks = len(gc.callbacks)
    registry = Registry()
    watch_process(registry)
    kept = weakref.ref(registry)
    del registry
    gc.collect()
    gc.collect()

    assert kept() is None
    assert len(gc.callbacks) <= callbacks


def test_a_registry_that_goes_takes_no_pause_from_another():
    """The collector skips a callback when the one before leaves while it is called."""
    leaving, staying = Registry(), Registry()
    watch_process(leaving)
    watch_process(staying)
    before = read(staying, "python_gc_pause_seconds_count")
    del leaving
    gc.collect()

    assert read(staying, "python_gc_pause_seconds_count") > before


async def test_a_loop_that_is_held_up_is_late():
    """One sample as long as the delay."""
    registry = Registry()
    watch_loop(registry, interval=0.01)
    await asyncio.sleep(0.02)
    time.sleep(0.2)  # noqa: ASYNC251 -- this is what is measured
    await asyncio.sleep(0.02)

    assert read(registry, f"{LAG}_count") >= 2
    assert read(registry, f"{LAG}_sum") >= 0.15


async def test_a_loop_is_watched_once():
    """However often it is asked for."""
    registry = Registry()
    watch = LoopWatch(registry, interval=0.02)
    for _ in range(10):
        watch.start()
    await asyncio.sleep(0.03)
    watch.stop()
    await asyncio.sleep(0.05)

    assert read(registry, f"{LAG}_count") == 1


def test_a_loop_ends_without_a_word():
    """No task is left over, and no loop is kept alive."""
    registry = Registry()

    async def main():
        watch_loop(registry, interval=0.001)
        await asyncio.sleep(0.02)
        return weakref.ref(asyncio.get_running_loop())

    loop = asyncio.run(main())
    gc.collect()

    assert loop() is None
    assert read(registry, f"{LAG}_count") > 0


def test_watching_needs_a_loop():
    """It says so."""
    with pytest.raises(RuntimeError):
        watch_loop(Registry())


async def test_the_middleware_watches_its_loop():
    """From its first request on, where the server has no lifespan."""
    watched = Watched(answer())
    assert not watched.app._loop._timers
    await watched.get()

    assert len(watched.app._loop._timers) == 1
    watched.app._loop.stop()


def test_no_loop_is_needed_to_watch_requests():
    """An app may be driven by another library than asyncio."""
    watched = Watched(answer())
    sent = []

    async def send(message):
        sent.append(message)

    serving = watched.app({"type": "http", "method": "GET", "path": "/", "headers": []}, None, send)
    with pytest.raises(StopIteration):
        serving.send(None)

    assert len(sent) == 2
    assert len(watched.ended) == 1
