"""
The middleware that watches each request: one clock, one span, one line, one count.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import suppress

from .._asgi import TENANT_KNOWN, ASGIApp, Receive, Scope, Send
from ._exchange import Exchange, WebSocketExchange
from ._http_metrics import HttpMetrics, WebSocketMetrics
from ._methods import KnownMethods
from ._process import LoopWatch
from ._registry import Registry
from ._request_kinds import RequestKind
from ._revising import Revising
from ._routes import RouteTemplates, current_route_holder
from ._sampling import LOWER_HALF, HeadSampler
from ._tenants import TenantLabels
from ._trace_context import new_trace_number
from ._tracing import Tracing
from ._trust import NOTHING, TrustBoundary

__all__ = ["TelemetryMiddleware"]

_logger = logging.getLogger("twh_platform.telemetry")

_SEEN = "twh.telemetry"
_FASTAPI = "fastapi.telemetry"
_MOST_KINDS = 100


class TelemetryMiddleware:
    """
    Watch each request and each websocket, from its arrival to its last byte out.

        registry = Registry()
        app = TelemetryMiddleware(app, metrics=registry, tenants=TenantLabels())

    Put it outside everything else: it times refusals too.  Metrics, the span,
    the exemplar and log lines agree, because they read one clock and one set
    of ids.  A request ends with the last part of its response body; work in the
    background does not stretch it.  A client that leaves is an outcome of its
    own, and no error.  An answer with a status of 500 or more is told once the
    app has returned, with the exception where one came out.

    Names and labels are those of OpenTelemetry's semantic conventions 1.44.
    The route is a template or nothing, methods are out of a closed list, and
    tenants are shown as far as *tenants* has labels.  How late the event loop
    is, it measures as well.

    It watches each request once: inside another one of its kind it does
    nothing.  With *tracing*, FastAPI's own instrumentation is switched off for
    the request, since ours would be doubled.  Nothing here fails a request.

    Args:
        app: The ASGI app inside.

        metrics: Where requests are counted; None to count nothing.

        tenants: Which tenants have a label; None for no metrics by tenant.

        tracing: What makes spans; None for none.

        trust: Whose trace context counts; nobody's without.

        sampler: Which requests have a span; every hundredth without.

        routes: Which templates there are; those of *app* without.

        methods: Which methods are told apart.

        trace_header: A response header, such as ``traceresponse``, that tells
            the ids in the form of `traceparent`; None for none.

        excluded: Paths that are not watched, such as ``/healthz``.

        access: Called with each `Exchange` that has ended, such as an
            `AccessLog`.

    Raises:
        twh_platform.errors.ConfigurationError: If *metrics* counts requests
            already.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Registry | None = None,
        tenants: TenantLabels | None = None,
        tracing: Tracing | None = None,
        trust: TrustBoundary | None = None,
        sampler: HeadSampler | None = None,
        routes: RouteTemplates | None = None,
        methods: KnownMethods | None = None,
        trace_header: str | None = None,
        excluded: Iterable[str] = (),
        access: Callable[[Exchange], None] | None = None,
    ) -> None:
        self.app = app
        self._http = None if metrics is None else HttpMetrics(metrics, tenants)
        self._websockets = None if metrics is None else WebSocketMetrics(metrics)
        self._loop = None if metrics is None else LoopWatch(metrics)
        self._tracing = tracing
        # Without either, nobody asks what the peer said.
        judged = tracing is not None or trust is not None
        self._trust = (trust or TrustBoundary()) if judged else None
        self._sampler = sampler or HeadSampler()
        self._slow, self._highest = self._sampler.slow, self._sampler.highest
        self._revising = Revising.of(self._sampler, tracing)
        self._routes = routes or RouteTemplates(app)
        self._known = self._routes.known
        self._methods = methods or KnownMethods.of_environment()
        self.header = (trace_header or "").lower().encode("ascii")
        self._excluded = frozenset(excluded)
        self._access = access
        self._kinds: dict[tuple[str, str | None, str | None], RequestKind] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Serve one connection scope.
        """
        kind = scope["type"]
        if (
            (kind != "http" and kind != "websocket")  # noqa: PLR1714 -- half the time of a set
            or _SEEN in scope
            or scope["path"] in self._excluded
        ):
            if kind == "lifespan":
                self._measure_loop()
            await self.app(scope, receive, send)
            return
        try:
            exchange = self._open(kind, scope, receive, send)
        except Exception:
            _logger.exception("a request could not be watched")
            await self.app(scope, receive, send)
            return
        token = current_route_holder.set(exchange)
        entered = exchange.entered  # what is entered anew for a tenant is left with it
        try:
            await self.app(scope, exchange.receive, exchange.send)
        except BaseException as error:
            exchange.close(error)
            raise
        else:
            if not exchange.outcome:
                exchange.close(None)
        finally:
            if self._tracing is not None:
                self._tracing.leave(entered)
            try:  # noqa: SIM105 -- a `with` costs more
                current_route_holder.reset(token)
            except ValueError:  # closed by another task than began it
                pass

    def streaming(self, exchange: Exchange) -> None:
        """
        See `Watcher`.
        """
        try:
            exchange.route = self._routes.template(exchange.seen, exchange)
            if isinstance(exchange, WebSocketExchange):
                if self._websockets is not None:
                    self._websockets.streaming(exchange)
            elif self._http is not None:
                self._http.streaming(exchange)
        except Exception:
            _logger.exception("a stream could not be counted")

    def ended(self, exchange: Exchange) -> None:
        """
        See `Watcher`.
        """
        try:
            if exchange.route is None and exchange.template is None and exchange.scope is None:
                # Of most requests the route is known, and nobody has told another.
                exchange.route = self._known.get(id(exchange.seen.get("route")))
            if exchange.route is None:
                exchange.route = self._routes.template(exchange.seen, exchange)
            if self._tracing is not None:
                self._finish(self._tracing, exchange)
        except Exception:
            _logger.exception("a request could not be traced")
        try:
            if self._http is not None:
                if type(exchange) is Exchange:
                    self._http.ended(exchange)
                else:
                    self._ended_websocket(exchange)
        except Exception:  # a request is worth more than its count
            _logger.exception("a request could not be counted")
        if self._access is not None:
            self._say(self._access, exchange)

    def _ended_websocket(self, exchange: Exchange) -> None:
        if self._websockets is not None and isinstance(exchange, WebSocketExchange):
            self._websockets.ended(exchange)

    def _say(self, access: Callable[[Exchange], None], exchange: Exchange) -> None:
        try:
            access(exchange)
        except Exception:
            _logger.exception("a request could not be told")

    def _open(self, kind: str, scope: Scope, receive: Receive, send: Send) -> Exchange:
        if kind == "http":
            key = scope["method"], scope.get("scheme"), scope.get("http_version")
            shared = self._kinds.get(key) or self._meet(*key)
            exchange = Exchange(scope, receive, send, self, shared)
        else:
            exchange = WebSocketExchange(scope, receive, send, self)
        if self._trust is not None:
            self._trace(exchange, self._trust)
        scope[_SEEN] = True
        if exchange.active is not None:
            exchange.active.inc()
        return exchange

    def _trace(self, exchange: Exchange, trust: TrustBoundary) -> None:
        scope = exchange.seen
        if type(scope["headers"]) is not list:
            scope["headers"] = list(scope["headers"])  # ASGI has any iterable, read here once
        exchange.inbound = inbound = trust.accept(scope)
        if self._tracing is not None:
            # Where FastAPI's is under way outside of us, it is the one, and `Tracing` joins it.
            scope.setdefault(_FASTAPI, None)
            if inbound is NOTHING:
                # Most requests are judged by a number, and nobody asks for it as an id.
                number = exchange.number = new_trace_number()
                if number & LOWER_HALF < self._highest:
                    exchange.sampled = self._sampler.begins(number, scope["path"])
            else:
                exchange.sampled = self._sampler.decide(
                    exchange.trace_id, scope["path"], parent=inbound.sampled
                ).sampled
            exchange.entered = self._tracing.enter(exchange)
            if self._revising is not None:
                scope[TENANT_KNOWN] = self._revising

    def _meet(self, method: str, scheme: str | None, version: str | None) -> RequestKind:
        self._measure_loop()  # for servers without a lifespan; here, since it is seldom
        label = self._methods(method)[0]
        http = self._http
        kind = RequestKind(label) if http is None else http.kind(label, scheme, version)
        if label == method and len(self._kinds) < _MOST_KINDS:
            self._kinds[method, scheme, version] = kind
        return kind

    def _finish(self, tracing: Tracing, exchange: Exchange) -> None:
        # Most requests are neither sampled nor worth asking about.
        worth = exchange.duration >= self._slow or exchange.outcome == "server_error"
        if worth and not exchange.sampled:
            exchange.kept = self._keeps(exchange)
        if exchange.sampled or exchange.kept:
            tracing.finish(exchange, exchange.entered)

    def _measure_loop(self) -> None:
        if self._loop is not None:
            with suppress(RuntimeError):  # an event loop, but none of asyncio
                self._loop.start()

    def _keeps(self, exchange: Exchange) -> str:
        if isinstance(exchange, WebSocketExchange):
            seconds = 0.0
        else:
            seconds = exchange.first_byte or exchange.duration
        return self._sampler.keeps(
            error=exchange.outcome == "server_error", seconds=seconds, tenant=exchange.tenant_id
        )
