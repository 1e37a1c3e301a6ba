"""
The queue between requests and a collector: bounded, counted, with a thread of its own.

A request puts its span into a queue and is done.  What happens to the collector
happens to the thread.  The SDK's own processor does not say how much it has
dropped, and does not keep to a time when it is told to flush.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic, perf_counter

from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, Context, attach, set_value
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from ..._forks import reset_after_fork
from .._define import define, define_read
from .._names import EXPORT_DURATION, SPANS_DROPPED, SPANS_EXPORTED, SPANS_QUEUED
from .._registry import Registry
from ._values import is_sound, repaired

__all__ = ["ExportStats", "SpanQueue"]

_logger = logging.getLogger("twh_platform.telemetry")

_SECONDS_BETWEEN_COMPLAINTS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportStats:
    """
    What has become of the spans of this process.

    Args:
        exported: Spans that the collector has taken.

        queue_full: Spans dropped because too many were waiting.

        export_failed: Spans dropped because the collector did not take them.

        shutdown: Spans dropped because exporting has ended.

        failures: Batches that failed.

        queued: Spans that are waiting.
    """

    exported: int = 0
    queue_full: int = 0
    export_failed: int = 0
    shutdown: int = 0
    failures: int = 0
    queued: int = 0

    @property
    def dropped(self) -> int:
        """
        All spans that never arrived.
        """
        return self.queue_full + self.export_failed + self.shutdown


class SpanQueue(SpanProcessor):
    """
    Hand spans to an exporter in batches, from a thread of its own.

    Where the queue is full, new spans are dropped and counted.  The thread
    begins with the first span.  A forked child begins anew: with an exporter, a
    thread and an empty queue, since what waited is exported by its parent.

    Args:
        exporter: Makes the exporter, in the process that uses it.

        queue_size: How many spans may wait.

        batch_size: How many are exported at once.

        delay: Seconds that a span waits at most for others.

        exit_timeout: Seconds that the end of the process waits for the last.

        metrics: Where it is counted; None for `stats` alone.
    """

    def __init__(
        self,
        exporter: Callable[[], SpanExporter],
        *,
        queue_size: int = 2048,
        batch_size: int = 512,
        delay: float = 5.0,
        exit_timeout: float = 5.0,
        metrics: Registry | None = None,
    ) -> None:
        self._make_exporter = exporter
        self._stopping = self._cut_off = False
        self._queue_size, self._batch_size = queue_size, min(batch_size, queue_size)
        self._delay, self._exit_timeout = delay, exit_timeout
        self._count = _Counts(metrics)
        self._begin_anew()
        reset_after_fork(self)
        if metrics is not None:
            define_read(metrics, SPANS_QUEUED, lambda: len(self._queue))

    def stats(self) -> ExportStats:
        """
        Say what has become of the spans so far.
        """
        return self._count.stats(len(self._queue))

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """
        See `SpanProcessor`.
        """

    def on_end(self, span: ReadableSpan) -> None:
        """
        Put a span into the queue.
        """
        context = span.context
        if context is None or not context.trace_flags.sampled:
            return
        queue = self._queue
        if self._stopping:
            self._count.drop("shutdown", 1)
        elif len(queue) >= self._queue_size:
            self._count.drop("queue_full", 1)
        else:
            queue.append(span)
            if self._thread is None:
                self._start()
            if len(queue) == self._batch_size:
                self._wake.set()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """
        Have everything exported that waits now; False if that took too long.
        """
        thread = self._thread
        if thread is None or not thread.is_alive():
            return not self._queue
        done = threading.Event()
        self._flushes.append(done)
        self._wake.set()
        return done.wait(timeout_millis / 1000)

    def shutdown(self) -> None:
        """
        Export what waits, as far as *exit_timeout* lasts, and drop the rest.
        """
        with self._lock:
            if self._stopping:
                return
            self._stopping = True
        self._wake.set()
        thread = self._thread
        if thread is not None:
            thread.join(self._exit_timeout)
            self._cut_off = True
            self._count.drop("shutdown", len(self._queue))
            self._queue.clear()
            if self._exporter is not None:
                self._exporter.shutdown()

    def after_fork(self) -> None:
        """
        See `Forked`.
        """
        self._begin_anew()
        self._count.forget()

    def _begin_anew(self) -> None:
        self._queue: deque[ReadableSpan] = deque()
        self._flushes: deque[threading.Event] = deque()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._exporter: SpanExporter | None = None
        self._stopping = self._cut_off = False
        self._complained = float("-inf")

    def _start(self) -> None:
        with self._lock:
            if self._thread is None and not self._stopping:
                name = "twh-platform-spans"
                self._thread = threading.Thread(target=self._run, name=name, daemon=True)
                self._thread.start()

    def _run(self) -> None:
        # The exporter's own requests make no spans.
        attach(set_value(_SUPPRESS_INSTRUMENTATION_KEY, value=True))
        while not self._stopping:
            self._wake.wait(self._delay)
            self._wake.clear()
            self._drain()
        self._drain()

    def _drain(self) -> None:
        waiting = len(self._flushes)
        while self._queue and not self._cut_off:
            count = min(self._batch_size, len(self._queue))
            self._export([self._queue.popleft() for _ in range(count)])
        for _ in range(waiting):
            self._flushes.popleft().set()

    def _export(self, batch: list[ReadableSpan]) -> None:
        started = perf_counter()
        try:
            is_taken = self._hand_over(batch)
        except BaseException:  # an exporter's SystemExit would end the thread for good
            is_taken = False
            now = monotonic()
            if now - self._complained > _SECONDS_BETWEEN_COMPLAINTS:
                self._complained = now
                _logger.exception("spans could not be exported")
        self._count.batch(len(batch), perf_counter() - started, is_taken=is_taken)

    def _hand_over(self, batch: list[ReadableSpan]) -> bool:
        if self._exporter is None:
            self._exporter = self._make_exporter()
        sound = [span if is_sound(span) else repaired(span) for span in batch]
        return self._exporter.export(sound) is SpanExportResult.SUCCESS


class _Counts:
    def __init__(self, metrics: Registry | None) -> None:
        self.forget()
        self._exported = self._dropped = self._seconds = None
        if metrics is not None:
            self._exported = define(metrics, SPANS_EXPORTED)
            self._dropped = define(metrics, SPANS_DROPPED)
            self._seconds = define(metrics, EXPORT_DURATION)

    def forget(self) -> None:
        self._lock = threading.Lock()
        self._of = dict.fromkeys(ExportStats.__dataclass_fields__, 0)

    def stats(self, queued: int) -> ExportStats:
        with self._lock:
            return ExportStats(**{**self._of, "queued": queued})

    def drop(self, reason: str, count: int) -> None:
        if not count:
            return
        with self._lock:
            self._of[reason] += count
        if self._dropped is not None:
            self._dropped.labels(reason).inc(count)

    def batch(self, count: int, seconds: float, *, is_taken: bool) -> None:
        if is_taken:
            with self._lock:
                self._of["exported"] += count
            if self._exported is not None:
                self._exported.labels().inc(count)
        else:
            with self._lock:
                self._of["failures"] += 1
            self.drop("export_failed", count)
        if self._seconds is not None:
            self._seconds.labels("success" if is_taken else "failure").observe(seconds)
