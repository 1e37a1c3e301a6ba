"""
The middleware that takes a request's cost from the quotas it meets, or refuses it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any

from .._asgi import ASGIApp, Message, Problem, Receive, Scope, Send, request_id
from ..errors import BackendUnavailableError, ConfigurationError
from ..tenancy._context import current_tenant
from ._decision import Cost, Decision, Receipt, checked_cost
from ._headers import HeaderEmitter, RateLimitHeaders, RetryAfter
from ._limiter import Limiter
from ._problems import quota_problem
from ._routes import RouteOf, RouteTable

__all__ = ["Identity", "QuotaMiddleware", "charge_actual", "quota_receipt"]

_logger = logging.getLogger("twh_platform.quotas")

Identity = Callable[[Scope], tuple[str | None, str | None]]
"""
What tells the user and the API key of a request, by id.
"""

_EXCHANGE = "twh.quotas"
_RESOLUTION = "twh.resolution"
_UNMATCHED = "unmatched"
_MOST_LAYERS = 100
_MOST_ROUTES = 4096
# Answers that may be to somebody else than the quotas are of.
_UNTOLD = frozenset({401, 403})
_STARTS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})
_ENDS = frozenset(
    {"http.response.body", "websocket.http.response.body"}
    | {"http.response.pathsend", "http.response.zerocopysend"}
)
_NOT_FOUND = Problem(status=404, code="not_found", title="There is nothing here")
_HEADERS = RateLimitHeaders()
_RETRY_AFTER = RetryAfter()

# The loop keeps only weak references to tasks.
_settling: set[asyncio.Task[None]] = set()


def quota_receipt(scope: Scope) -> Receipt | None:
    """
    What was taken for this request, to be settled by its handler; None if nothing was.

    Of several middlewares it is the innermost's.
    """
    exchange = scope.get(_EXCHANGE)
    return exchange.decision.receipt if isinstance(exchange, _Exchange) else None


def charge_actual(scope: Scope, cost: Cost) -> bool:
    """
    State what this request really cost: `charge_actual(request.scope, 7)`.

    It is charged with the last byte of the answer, or later if it is stated
    later, as by a background task.  It replaces what was taken for the request,
    even beyond a limit.  The last word before it is charged counts.

    Of a unit of which nothing was taken nothing is charged: what is only known
    afterwards costs 1 before, not 0.

    Args:
        scope: The request's.

        cost: Units of requests, or units for each unit.

    Returns:
        Whether it will be charged.  It will not if nothing of it was taken for
        the request, or if that is settled already.

    Raises:
        twh_platform.errors.ConfigurationError: For a cost that is none.
    """
    cost = checked_cost(cost)
    exchange = scope.get(_EXCHANGE)
    if not isinstance(exchange, _Exchange):
        return False
    if exchange.settled or exchange.decision.receipt.settled:
        return False
    taken = {rule.unit for part in exchange.decision.parts for rule in part.rules}
    if not (taken & cost.keys() if isinstance(cost, Mapping) else taken):
        return False
    exchange.actual = cost
    exchange.pending = True
    return True


def resolved_identity(scope: Scope) -> tuple[str | None, str | None]:
    """
    The user that `TenantMiddleware` has resolved, and no API key.
    """
    resolution = scope.get(_RESOLUTION)
    return None if resolution is None else getattr(resolution, "user_id", None), None


class QuotaMiddleware:
    """
    Take the cost of each request and websocket, or refuse it.

    It asks the rules of whoever is known.  Inside `TenantMiddleware` those of
    the tenant, its user, API key and route.  Where *client_address* is given,
    also those of the client address and the global ones, which hold before
    anybody has said who they are: put one middleware with it outside, for
    logins and all that is refused later, and one without it inside.

    A refusal is 429 with code ``quota_exceeded``, or 413 with
    ``quota_cost_too_large`` if no waiting helps; 503 with
    ``quota_store_unavailable`` if a rule must be asked and cannot.  A websocket
    is refused before it is accepted.  A path that ends in a line break is 404
    with ``not_found``: frameworks differ in what they make of it.

    What was taken is kept when the response has begun or the app failed.  It
    is given back if the app ended or was cancelled without an answer.  Slots of
    `Concurrency` rules are renewed for as long as the request runs, and free
    when its last byte is sent, or however else it ends.

    Responses carry the RateLimit fields, but for 401 and 403, whose reader may
    be somebody else than the quotas' owner.

    Args:
        app: The ASGI app inside.

        limiter: The rules.

        routes: What tells the route: a `RouteTable`, or a function that
            returns one of few keys or None.  If not given, the routes of the
            Starlette or FastAPI app inside.

        costs: What a request costs, by route: ``POST /reports`` for one
            method, ``/reports`` for all.  Others cost what each rule says.

        exempt: Routes that take nothing, such as ``/healthz``.

        client_address: What tells the address that a client is counted under:
            a `ClientAddress`.

        identity: What tells the ids of the user and the API key; by default the
            user that `TenantMiddleware` resolved.

        headers: What writes the quota fields of responses; None for none.

        retry_after: What turns a wait into whole seconds for `Retry-After`.

        refund_unanswered: Whether what an unanswered request has taken is given
            back.

    Raises:
        twh_platform.errors.ConfigurationError: If no routes are found, a cost is
            none, or *costs* or *exempt* name a route that there is not.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        limiter: Limiter,
        routes: RouteOf | None = None,
        costs: Mapping[str, Cost] | None = None,
        exempt: Iterable[str] = (),
        client_address: Callable[[Scope], str] | None = None,
        identity: Identity = resolved_identity,
        headers: HeaderEmitter | None = _HEADERS,
        retry_after: Callable[[float], int] = _RETRY_AFTER,
        refund_unanswered: bool = True,
    ) -> None:
        self.app = app
        self._limiter = limiter
        self._routes = routes or _routes_inside(app)
        self._costs = {route: checked_cost(cost) for route, cost in (costs or {}).items()}
        self._exempt = frozenset(exempt)
        self._terms: dict[str, _Terms] = {}
        self._client_address = client_address
        self._identity = identity
        self._headers = headers
        self._retry_after = retry_after
        self._refunds = refund_unanswered
        self._check_routes()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Serve one connection scope.
        """
        if scope["type"] not in {"http", "websocket"}:
            await self.app(scope, receive, send)
            return
        if scope["path"][-1:] == "\n":
            # Starlette asks mounted routes with another path then: no table tells which it takes.
            await _NOT_FOUND(scope, receive, send)
            return
        taking = self._taking(scope)
        if taking is None:
            await self.app(scope, receive, send)
            return
        try:
            decision = await taking
        except BackendUnavailableError as error:
            await self._unavailable(error, scope)(scope, receive, send)
            return
        if not decision.allowed:
            await self._refusal(decision)(scope, receive, send)
            return
        exchange = scope[_EXCHANGE] = _Exchange(decision, send, self._headers)
        try:
            await self.app(scope, receive, exchange.send)
        except asyncio.CancelledError:
            await exchange.end(refund=self._refunds)
            raise
        except BaseException:
            await exchange.end(refund=False)
            raise
        if exchange.pending or not exchange.answered:
            await exchange.end(refund=self._refunds)

    def _taking(self, scope: Scope) -> Awaitable[Decision] | None:
        route = self._routes(scope) or _UNMATCHED
        terms = self._terms.get(route) or self._read_terms(route)
        if terms.exempt:
            return None
        tenant = current_tenant()
        client = None if self._client_address is None else self._client_address(scope)
        if tenant is None:
            if client is None:
                return None
            return self._limiter.take(route=route, client=client, cost=terms.cost)
        user, api_key = self._identity(scope)
        return self._limiter.take(
            tenant, user=user, api_key=api_key, route=route, client=client, cost=terms.cost
        )

    def _read_terms(self, route: str) -> _Terms:
        template = route.partition(" ")[2]
        exempt = route in self._exempt or template in self._exempt
        terms = _Terms(exempt, self._costs.get(route, self._costs.get(template)))
        if len(self._terms) < _MOST_ROUTES:  # a function of the service's may return anything
            self._terms[route] = terms
        return terms

    def _refusal(self, decision: Decision) -> Problem:
        wait = decision.retry_after
        known = decision.code != "quota_store_unavailable"
        return quota_problem(
            decision.code,
            violated=[one.rule.name for one in decision.violated],
            retry_after=None if wait is None else self._retry_after(wait),
            fields=self._headers(decision) if self._headers and known else (),
        )

    def _unavailable(self, error: BackendUnavailableError, scope: Scope) -> Problem:
        _logger.warning("request %s refused, %s: %s", request_id(scope), error.code, error)
        return quota_problem(
            "quota_store_unavailable", retry_after=self._retry_after(error.retry_after)
        )

    def _check_routes(self) -> None:
        if not isinstance(self._routes, RouteTable):
            return
        keys = self._routes.names()
        known = keys | {key.partition(" ")[2] for key in keys} | {_UNMATCHED}
        if unknown := sorted({*self._costs, *self._exempt} - known):
            there = ", ".join(sorted(keys))
            message = f"costs or exempt name routes that there are not: {', '.join(unknown)}"
            raise ConfigurationError(f"{message}; there are {there}", code="route_unknown")
        # No error: a limiter may serve several apps, each with routes of its own.
        named = {route for rule in self._limiter.rules for route in rule.routes}
        if elsewhere := sorted(named - known):
            _logger.warning("rules name routes that this app has not: %s", ", ".join(elsewhere))


@dataclass(frozen=True, slots=True)
class _Terms:
    """
    What a route costs.
    """

    exempt: bool
    cost: Cost | None


class _Exchange:
    """
    One admitted request: what was taken for it, and how far its answer is.

    Attributes:
        decision: What was taken.

        answered: Whether the answer has begun.

        pending: Whether there is something to settle when the request is over.

        settled: Whether the charges are.

        actual: What it really cost, if its handler has said so.
    """

    __slots__ = (
        "_began",
        "_headers",
        "_heart",
        "_send",
        "actual",
        "answered",
        "decision",
        "pending",
        "settled",
    )

    def __init__(self, decision: Decision, send: Send, headers: HeaderEmitter | None) -> None:
        self.decision = decision
        self.answered = self.settled = False
        self.actual: Cost | None = None
        self._began = monotonic()
        self._send = send
        self._headers = headers
        self._heart = _heart_of(decision) if decision.holds else None
        self.pending = self._heart is not None

    def send(self, message: Message) -> Awaitable[None]:
        """
        Pass a message of the app on, with the quota fields where an answer begins.

        Most need nothing afterwards: what passes them on is awaited by the app itself.
        """
        kind = message["type"]
        if kind in _STARTS:
            self.answered = True
            if self._headers is not None and message.get("status") not in _UNTOLD:
                fields = self._headers(self.decision)
                given = message.get("headers", ())
                message = {**message}
                message["headers"] = [*given, *fields]
        elif kind == "websocket.close":
            self.answered = True
        elif self.pending and kind in _ENDS and not message.get("more_body"):
            return self._send_last(message)
        return self._send(message)

    async def _send_last(self, message: Message) -> None:
        await self._send(message)
        if self.pending:
            await self._settle(self._settlement())

    async def end(self, *, refund: bool) -> None:
        """
        Settle, if that is not done: the app has returned, failed or been cancelled.
        """
        if refund and not self.answered and self.actual is None:
            await self._settle(self._receipt().refund())
        elif self.pending:
            await self._settle(self._settlement())

    def _settlement(self) -> Awaitable[object]:
        if self.actual is None:
            return self.decision.receipt.free()
        return self._receipt().commit(self.actual)

    def _receipt(self) -> Receipt:
        # It expires from now on: a request may take longer, and is settled once.
        receipt = self.decision.receipt
        receipt.expires += monotonic() - self._began
        self.settled = True
        return receipt

    async def _settle(self, settlement: Awaitable[object]) -> None:
        # Carried out even if this task is cancelled meanwhile.
        self.pending = False
        if self._heart is not None:
            self._heart.stop()
        task = asyncio.ensure_future(_carry_out(settlement))
        _settling.add(task)
        task.add_done_callback(_settling.discard)
        await asyncio.shield(task)


class _Heart:
    """
    Renews the slots of a receipt until it is stopped, or they are gone.
    """

    __slots__ = ("_interval", "_receipt", "_task", "_timer")

    def __init__(self, receipt: Receipt, interval: float) -> None:
        self._receipt = receipt
        self._interval = interval
        self._task: asyncio.Task[None] | None = None
        self._set()

    def _set(self) -> None:
        # A timer costs less than a task, and most requests are over before it rings.
        self._timer = asyncio.get_running_loop().call_later(self._interval, self._start)

    def stop(self) -> None:
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _start(self) -> None:
        self._task = asyncio.ensure_future(self._beat())

    async def _beat(self) -> None:
        held = True
        try:
            held = await self._receipt.renew()
        except BackendUnavailableError as error:
            _logger.warning("slots are not renewed, %s: %s", error.code, error)
        if held:
            self._set()


def _heart_of(decision: Decision) -> _Heart | None:
    leases = []
    for part in decision.parts:
        if part.take.lease:
            leases += [one.args[1] for one in part.charged() if one.kind == "l"]
    # After a third of the lease, so that two attempts may fail.
    return _Heart(decision.receipt, min(leases) / 3e6) if leases else None


async def _carry_out(settlement: Awaitable[object]) -> None:
    try:
        await settlement
    except BackendUnavailableError as error:
        # What was taken stays taken, and slots end with their lease.
        _logger.warning("a request is not settled, %s: %s", error.code, error)


def _routes_inside(app: Any) -> RouteTable:
    for _ in range(_MOST_LAYERS):
        routes = getattr(app, "routes", None)
        if routes is not None:
            table = RouteTable.of_starlette(routes)
            table.names()
            return table
        app = getattr(app, "app", None)
    message = "no app with routes is inside: list its templates, routes=RouteTable([...])"
    raise ConfigurationError(message, code="routes_missing")
