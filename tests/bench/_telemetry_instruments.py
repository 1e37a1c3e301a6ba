"""
Counters and histograms, and the page that they are read from, beside prometheus_client.

Every instrument has its label values already.  "Shared" is over several workers:
ours in a `MetricsDirectory`, theirs in the files of its multi-process mode.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import prometheus_client
from prometheus_client import CollectorRegistry, values

from twh_platform.telemetry import MetricsApp, MetricsDirectory, Registry

from ._rows import Row, paired_row

__all__ = ["instrument_rows", "page_rows"]

_BLOCKS, _CALLS = 5, 2000
_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_IDS = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
_SHARED = 1.1
_AT_MOST = 1.1
_FEW, _MANY = 850, 34_000
_LINES = len(_BOUNDS) + 3  # of one histogram: the infinite bucket, sum and count

Call = Callable[[], object]


def instrument_rows(*, rounds: int) -> list[Row]:
    """
    One call of each.
    """
    with tempfile.TemporaryDirectory() as folder:
        calls = {
            **_ours("ours", Registry()),
            **_ours("ours, shared", Registry(shared=MetricsDirectory(Path(folder, "ours")))),
            **_theirs("theirs"),
        }
        with _multiprocess(Path(folder, "theirs")):
            calls |= _theirs("theirs, shared")
        taken = _interleaved(calls, rounds)
    return list(_rows(taken))


def _rows(taken: Mapping[str, list[float]]) -> Iterator[Row]:
    pairs = (
        ("ours", "theirs", _AT_MOST),
        ("ours, shared", "theirs, shared", _AT_MOST),
        ("ours, shared", "ours", _SHARED),
        ("theirs, shared", "theirs", None),
    )
    for one, other, target in pairs:
        for what in ("inc", "observe", "observe with exemplar"):
            if f"{one}, {what}" in taken and f"{other}, {what}" in taken:
                # No target where theirs keeps none in the files of several workers.
                yield paired_row(
                    f"instruments: {what}, {one} against {other}",
                    "label values bound before; CPU",
                    unit="ns",
                    ours=taken[f"{one}, {what}"],
                    reference=taken[f"{other}, {what}"],
                    target=target,
                )


def _ours(name: str, registry: Registry) -> dict[str, Call]:
    counter = registry.counter("bench_total", "Bench.", labels=("kind",)).labels("a")
    histogram = registry.histogram(
        "bench_seconds", "Bench.", labels=("kind",), buckets=_BOUNDS, exemplars=True
    ).labels("a")
    return {
        f"{name}, inc": counter.inc,
        f"{name}, observe": lambda: histogram.observe(0.012),
        f"{name}, observe with exemplar": lambda: histogram.observe(0.012, _IDS),
    }


def _theirs(name: str) -> dict[str, Call]:
    registry = CollectorRegistry()
    counter = prometheus_client.Counter("bench", "Bench.", ["kind"], registry=registry)
    histogram = prometheus_client.Histogram(
        "bench_seconds", "Bench.", ["kind"], registry=registry, buckets=_BOUNDS
    )
    one, other = counter.labels("a"), histogram.labels("a")
    exemplar = {"trace_id": _IDS[0], "span_id": _IDS[1]}
    calls: dict[str, Call] = {
        f"{name}, inc": one.inc,
        f"{name}, observe": lambda: other.observe(0.012),
    }
    if "shared" not in name:  # its files keep none
        calls[f"{name}, observe with exemplar"] = lambda: other.observe(0.012, exemplar)
    return calls


@contextlib.contextmanager
def _multiprocess(folder: Path) -> Iterator[None]:
    """
    Metrics that are made inside are of its multi-process mode, which it else chooses at import.
    """
    folder.mkdir()
    with mock.patch.dict(os.environ, {"PROMETHEUS_MULTIPROC_DIR": str(folder)}):
        chosen = values.MultiProcessValue()
        with mock.patch.object(values, "ValueClass", chosen):
            yield


def _interleaved(calls: Mapping[str, Call], rounds: int) -> dict[str, list[float]]:
    taken: dict[str, list[float]] = {name: [] for name in calls}
    draw = random.Random(0)
    for _ in range(rounds):
        for name in draw.sample(list(calls), len(calls)):
            taken[name].append(min(_timed(calls[name]) for _ in range(_BLOCKS)))
    return taken


def _timed(call: Call) -> float:
    begun = time.process_time()
    for _ in range(_CALLS):
        call()
    return (time.process_time() - begun) / _CALLS * 1e9


# --- the page


def page_rows(*, rounds: int) -> list[Row]:
    """
    How long the event loop cannot turn while a page is made, at the longest.
    """
    pages = {
        "ours, few": _our_page(_FEW),
        "ours, many": _our_page(_MANY),
        "theirs, few": _their_page(_FEW),
        "theirs, many": _their_page(_MANY),
    }
    taken: dict[str, list[float]] = {name: [] for name in pages}
    draw = random.Random(0)
    for _ in range(rounds):
        for name in draw.sample(list(pages), len(pages)):
            taken[name].append(min(asyncio.run(_longest_turn(pages[name])) for _ in range(3)))
    aims: tuple[tuple[str, str, float | None], ...] = (
        ("ours, many", "theirs, many", 0.1),
        ("ours, many", "ours, few", 2.0),
        ("theirs, many", "theirs, few", None),
    )
    return [
        paired_row(
            f"page: {one} series, against {other}",
            f"{_FEW} and {_MANY:,} series; the longest turn of the event loop",
            unit="ms",
            ours=taken[one],
            reference=taken[other],
            target=target,
        )
        for one, other, target in aims
    ]


def _our_page(series: int) -> Any:
    registry = Registry(max_series=_MANY)
    histogram = registry.histogram("page_seconds", "Bench.", labels=("kind",), buckets=_BOUNDS)
    for number in range(series // _LINES):
        histogram.labels(f"kind-{number}").observe(0.012)
    return MetricsApp(registry, max_age=0.0)


def _their_page(series: int) -> Any:
    registry = CollectorRegistry()
    histogram = prometheus_client.Histogram(
        "page_seconds", "Bench.", ["kind"], registry=registry, buckets=_BOUNDS
    )
    for number in range(series // _LINES):
        histogram.labels(f"kind-{number}").observe(0.012)
    return prometheus_client.make_asgi_app(registry)


async def _longest_turn(app: Any) -> float:
    serving = asyncio.create_task(_serve(app))
    longest, before = 0.0, time.perf_counter()
    while not serving.done():
        await asyncio.sleep(0)
        now = time.perf_counter()
        longest, before = max(longest, now - before), now
    await serving
    return longest * 1e3


async def _serve(app: Any) -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Mapping[str, Any]) -> None:
        if message.get("status", 200) != 200:
            raise AssertionError(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/metrics",
        "query_string": b"",
        "headers": [],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
    }
    await app(scope, receive, send)
