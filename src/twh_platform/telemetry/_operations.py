"""
Business operations: what a service is for, timed and counted under names of its own.
"""

from __future__ import annotations

import re
from asyncio import CancelledError
from collections.abc import Callable, Iterable
from contextlib import suppress
from contextvars import ContextVar, Token
from functools import wraps
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from time import perf_counter
from types import TracebackType
from typing import Any, Self, TypeVar

from ..errors import (
    AdministratorError,
    ConfigurationError,
    NoCurrentTenantError,
    QuotaExceededError,
    TenantError,
    WebhookError,
    WebhookUsageError,
)
from ._define import define
from ._exchange import current_exchange
from ._instruments import BoundCounter, Histogram
from ._names import OPERATION_DURATION
from ._registry import Registry
from ._tracing import OpenSpan, SpanSource
from ._who import add_who

__all__ = ["Operation", "Operations", "current_operation"]

_NAME = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*")
_LONGEST = 64
_CANCELLED = (CancelledError, GeneratorExit)
# The caller's fault.  What our own code did wrong is among their subclasses.
_REFUSALS = (TenantError, QuotaExceededError, WebhookError)
_FAULTS = (AdministratorError, NoCurrentTenantError, WebhookUsageError)
# RFC 9110, section 15.5
_CLIENT_ERRORS = range(400, 500)

_F = TypeVar("_F", bound=Callable[..., Any])

_current: ContextVar[str] = ContextVar("twh_platform.telemetry.operation", default="")


def current_operation() -> str:
    """
    The name of the innermost operation that is under way here; empty outside of one.
    """
    return _current.get()


class Operations:
    """
    Time business operations, as a decorator or in a `with`.

        operation = Operations(registry, spans=telemetry.tracing)


        @operation("order.place", counter=orders.labels("shop"))
        async def place(order): ...


        with operation("order.refund"):
            ...

    Each is an observation of ``platform_operation_duration_seconds`` with the
    outcome ``success``, ``refused``, ``error`` (another exception came out) or
    ``cancelled``, and a span where the request has one.

    What is the caller's fault is ``refused``, and on a span no error: a tenant
    or a quota that says no, a webhook that is not what it claims to be, and an
    ``HTTPException`` of a web framework with a status of 400 to 499.

    Args:
        metrics: Where they are counted; None to count nothing.

        spans: What makes spans, such as `OtelTracing`; None for none.

        refusals: Classes of exceptions of your own that are no error either,
            such as one that says that the stock is short.

    Raises:
        twh_platform.errors.ConfigurationError: If *metrics* has been given to
            another one of these.
    """

    def __init__(
        self,
        metrics: Registry | None = None,
        *,
        spans: SpanSource | None = None,
        refusals: Iterable[type[Exception]] = (),
    ) -> None:
        self._duration: Histogram | None = None
        if metrics is not None:
            self._duration = define(metrics, OPERATION_DURATION)
        self._spans = spans
        self._refusals = tuple(refusals)

    def __call__(self, name: str, *, counter: BoundCounter | None = None) -> Operation:
        """
        Name an operation.

        Args:
            name: Out of a closed list: words in lower case with dots between.

            counter: A figure of the business, counted at each success.

        Raises:
            twh_platform.errors.ConfigurationError: For another form of a name.
        """
        if len(name) > _LONGEST or not _NAME.fullmatch(name):
            message = f"operation={name[:_LONGEST]!r} is not like 'order.place'"
            raise ConfigurationError(message)
        return Operation(name, self._duration, self._spans, counter, self._refusals)


class Operation:
    """
    One business operation: a decorator for functions, or a `with` for one time.
    """

    __slots__ = (
        "_counter",
        "_duration",
        "_name",
        "_refusals",
        "_span",
        "_spans",
        "_started",
        "_token",
    )

    def __init__(
        self,
        name: str,
        duration: Histogram | None,
        spans: SpanSource | None,
        counter: BoundCounter | None,
        refusals: tuple[type[Exception], ...] = (),
    ) -> None:
        self._name, self._duration, self._spans, self._counter = name, duration, spans, counter
        self._refusals = refusals

    def __call__(self, function: _F) -> _F:
        """
        Make each call of a function, or of a coroutine function, this operation.

        Raises:
            twh_platform.errors.ConfigurationError: For a generator function,
                which goes on after its call: use a `with` inside.
        """
        if isgeneratorfunction(function) or isasyncgenfunction(function):
            message = f"operation={self._name!r} decorates a generator: use a with inside it"
            raise ConfigurationError(message)
        if iscoroutinefunction(function):

            @wraps(function)
            async def operating(*args: Any, **options: Any) -> Any:
                with self._again():
                    return await function(*args, **options)

        else:

            @wraps(function)
            def operating(*args: Any, **options: Any) -> Any:
                with self._again():
                    return function(*args, **options)

        return operating  # type: ignore[return-value]

    def __enter__(self) -> Self:
        """
        Begin it.
        """
        name = self._name
        self._token: Token[str] = _current.set(name)
        exchange = current_exchange()
        if exchange is not None and not exchange.operation:
            exchange.operation = name
        self._span: OpenSpan | None = None
        if self._spans is not None:
            told: dict[str, Any] = {"platform.operation": name}
            add_who(exchange, told)
            self._span = self._spans.begin(name, attributes=told)
        self._started = perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """
        End it.
        """
        seconds = perf_counter() - self._started
        outcome = "success" if error is None else self._outcome(error)
        if self._span is not None:
            if outcome == "error":
                self._span.end(error)
            else:
                self._span.end(None, {"platform.outcome": outcome} if error else None)
        if self._duration is not None:
            self._duration.labels(self._name, outcome).observe(seconds, _exemplar())
        if self._counter is not None and error is None:
            self._counter.inc()
        with suppress(ValueError):  # closed by another task than began it
            _current.reset(self._token)

    def _again(self) -> Operation:
        return Operation(self._name, self._duration, self._spans, self._counter, self._refusals)

    def _outcome(self, error: BaseException) -> str:
        if isinstance(error, _CANCELLED):
            return "cancelled"
        refused = isinstance(error, self._refusals) or _is_refusal(error)
        return "refused" if refused else "error"


def _is_refusal(error: BaseException) -> bool:
    if isinstance(error, _REFUSALS):
        return not isinstance(error, _FAULTS)
    # Of Starlette, FastAPI, Litestar and aiohttp; of Werkzeug, and so of Quart, it is the code.
    # A client's error for an answer that it got may have the same attributes: that one is ours.
    if not any(kind.__name__ == "HTTPException" for kind in type(error).__mro__):
        return False
    status = getattr(error, "status_code", None) or getattr(error, "code", None)
    return isinstance(status, int) and status in _CLIENT_ERRORS


def _exemplar() -> tuple[str, str] | None:
    exchange = current_exchange()
    if exchange is None or not exchange.sampled:
        return None
    return exchange.trace_id, exchange.span_id
