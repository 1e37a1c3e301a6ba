"""
The SERVER span of `configure_telemetry`'s provider: a fifth of the time of the SDK's own.

It is the SDK's `ReadableSpan`, which processors and exporters take, and can be
written to until it ends.  Its ids, its start and the decision to record it were
there before it.  What is written into it is made exportable at once: a number
of more than 64 bits, or a text that UTF-8 cannot say, would cost a whole batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import time_ns
from typing import Any, cast

from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import Link, Span, SpanContext, Status, StatusCode

from ._attributes import Capture, clean

__all__ = ["ServerSpan"]

_MOST = 128  # attributes, events and links: the SDK's limits
_WIDEST = 2**63


class ServerSpan(ReadableSpan, Span):
    """
    A span that is read by processors and written to by the app.

    Args:
        capture: Describes exceptions.

        options: As of `ReadableSpan`; *attributes* are taken as they are.
    """

    def __init__(self, capture: Capture, **options: Any) -> None:
        super().__init__(**options)
        self._capture = capture
        self._written: dict[str, Any] = options["attributes"]
        self._events: list[Event] = []
        self._links: list[Link] = list(options["links"])

    def get_span_context(self) -> SpanContext:
        """
        See `Span`.
        """
        return cast("SpanContext", self._context)

    def is_recording(self) -> bool:
        """
        See `Span`.
        """
        return self._end_time is None

    def set_attribute(self, key: str, value: Any) -> None:
        """
        See `Span`; after the end it does nothing.
        """
        written = self._written
        if self._end_time is None and key and (key in written or len(written) < _MOST):
            exportable = _exportable(value)
            if exportable is not None:
                written[clean(key)] = exportable

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """
        See `Span`.
        """
        for key, value in attributes.items():
            self.set_attribute(key, value)

    def add_event(
        self,
        name: str,
        attributes: Mapping[str, Any] | None = None,
        timestamp: int | None = None,
    ) -> None:
        """
        See `Span`.
        """
        if self._end_time is None and len(self._events) < _MOST:
            self._events.append(Event(clean(name), _all(attributes), timestamp or time_ns()))

    def add_link(self, context: SpanContext, attributes: Mapping[str, Any] | None = None) -> None:
        """
        See `Span`.
        """
        if self._end_time is None and len(self._links) < _MOST and context.is_valid:
            self._links.append(Link(context, _all(attributes)))

    def update_name(self, name: str) -> None:
        """
        See `Span`; the route's name replaces it at the end.
        """
        if self._end_time is None:
            self._name = clean(name)

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """
        See `Span`.
        """
        if isinstance(status, StatusCode):
            status = Status(status, description)
        settled = self._status.status_code is StatusCode.OK
        if self._end_time is None and not settled and status.status_code is not StatusCode.UNSET:
            self._status = status

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
        told = {**self._capture.of_error(exception), **(attributes or {})}
        self.add_event("exception", told, timestamp)

    def end(self, end_time: int | None = None) -> None:
        """
        See `Span`; only the exchange ends it, at its own end.
        """

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


def _all(attributes: Mapping[str, Any] | None) -> dict[str, Any]:
    found = {clean(key): _exportable(value) for key, value in (attributes or {}).items()}
    return {key: value for key, value in found.items() if value is not None}


def _exportable(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return int(value) if -_WIDEST <= value < _WIDEST else str(value)[:_MOST]
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")[:1024]
    if isinstance(value, Sequence):
        found = (_exportable(one) for one in value[:_MOST])
        return tuple(one for one in found if one is not None)
    return None
