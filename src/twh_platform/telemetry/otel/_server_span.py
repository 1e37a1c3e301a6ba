"""
The SERVER span of `configure_telemetry`'s provider: a fifth of the time of the SDK's own.

It is the SDK's `ReadableSpan`, which processors and exporters take, and can be
written to until it ends.  Its ids, its start and the decision to record it were
there before it.  What is written into it is made exportable at once, and what
cannot be written is left out and counted: no request fails for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, Concatenate, ParamSpec, cast

from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import Link, Span, SpanContext, Status, StatusCode

from ._attributes import Capture
from ._values import MOST, all_exportable, clean, exportable, moment, status_of

__all__ = ["ServerSpan"]

_Given = ParamSpec("_Given")


def _guarded(
    write: Callable[Concatenate[ServerSpan, _Given], None],
) -> Callable[Concatenate[ServerSpan, _Given], None]:
    # The app hands in what it likes, of classes of its own.
    @wraps(write)
    def guarded(span: ServerSpan, /, *args: _Given.args, **options: _Given.kwargs) -> None:
        try:
            write(span, *args, **options)
        except Exception:  # noqa: BLE001 -- no request fails for what it says
            span.failed("written to")

    return guarded


class ServerSpan(ReadableSpan, Span):
    """
    A span that is read by processors and written to by the app.

    Args:
        capture: Describes exceptions.

        failed: Told of what could not be done, while that is being handled.

        options: As of `ReadableSpan`; *attributes* are taken as they are.

    Attributes:
        was_asked: Whether anybody has its place in the trace.
    """

    def __init__(self, capture: Capture, failed: Callable[[str], None], **options: Any) -> None:
        super().__init__(**options)
        self._capture = capture
        self.failed = failed
        self._written: dict[str, Any] = options["attributes"]
        self._events: list[Event] = []
        self._links: list[Link] = list(options["links"])
        self.was_asked = False

    def get_span_context(self) -> SpanContext:
        """
        See `Span`; asked for a span below, or for what is sent to others.
        """
        self.was_asked = True
        return cast("SpanContext", self._context)

    def is_recording(self) -> bool:
        """
        See `Span`.
        """
        return self._end_time is None

    @_guarded
    def set_attribute(self, key: str, value: Any) -> None:
        """
        See `Span`; after the end it does nothing.
        """
        written = self._written
        if self._end_time is None and key and (key in written or len(written) < MOST):
            told = exportable(value)
            if told is not None:
                written[clean(key)] = told

    @_guarded
    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """
        See `Span`.
        """
        for key, value in attributes.items():
            self.set_attribute(key, value)

    @_guarded
    def add_event(
        self,
        name: str,
        attributes: Mapping[str, Any] | None = None,
        timestamp: int | None = None,
    ) -> None:
        """
        See `Span`.
        """
        self._happened(clean(name), all_exportable(attributes), timestamp)

    @_guarded
    def add_link(self, context: SpanContext, attributes: Mapping[str, Any] | None = None) -> None:
        """
        See `Span`.
        """
        if self._end_time is None and len(self._links) < MOST and context.is_valid:
            self._links.append(Link(context, all_exportable(attributes)))

    @_guarded
    def update_name(self, name: str) -> None:
        """
        See `Span`; the route's name replaces it at the end.
        """
        if self._end_time is None:
            self._name = clean(name)

    @_guarded
    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """
        See `Span`.
        """
        if isinstance(status, StatusCode):
            status = Status(status, description)
        settled = self._status.status_code is StatusCode.OK
        if self._end_time is None and not settled and status.status_code is not StatusCode.UNSET:
            self._status = status_of(status)

    @_guarded
    def record_exception(
        self,
        exception: BaseException,
        attributes: Mapping[str, Any] | None = None,
        timestamp: int | None = None,
        escaped: bool = False,  # noqa: ARG002, FBT001, FBT002 -- the API's signature
    ) -> None:
        """
        See `Span`; its text is told as far as `OtelTracing` was told to.
        """
        told = {**self._capture.of_error(exception), **all_exportable(attributes)}
        self._happened("exception", told, timestamp)

    def end(self, end_time: int | None = None) -> None:
        """
        See `Span`; only the exchange ends it, at its own end.
        """

    def give_up(self, context: SpanContext) -> None:
        """
        Record nothing any more, and be exported by nobody.

        Args:
            context: The same ids, not sampled.
        """
        self._context = context
        self._end_time = self._start_time

    def _happened(self, name: str, attributes: Mapping[str, Any], timestamp: int | None) -> None:
        if self._end_time is None and len(self._events) < MOST:
            self._events.append(Event(name, attributes, moment(timestamp)))

    def finish(
        self, name: str, attributes: Mapping[str, Any], end_time: int, status: Status | None
    ) -> None:
        """
        End it: what was found out by ourselves counts more than what the app has written.
        """
        self._name = name
        self._written.update(attributes)
        if status is not None:
            self._status = status
        self._end_time = end_time
