"""
The middleware that lets a webhook in once its signature holds.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, Literal

from .._asgi import ASGIApp, Receive, Scope, Send
from .._signals import has_listeners
from ..errors import (
    BackendUnavailableError,
    ConfigurationError,
    WebhookError,
    WebhookUsageError,
)
from ..tenancy._context import Binding, bind_again, bind_tenant, binding_here
from ._announcements import WebhookVerified
from ._arrival import Arrival
from ._delivery import Delivery
from ._endpoint import WebhookEndpoint
from ._handling import handle_once
from ._intake import Intake, Released, Terms
from ._keyring import Keys
from ._paths import VerifiedPaths
from ._profiles import STANDARD, Profile
from ._replay import Replay, ReplayStore
from ._resolving import Endpoints, Resolver, unnamed
from ._verify import Verified, Verifier

__all__ = ["WebhookMiddleware", "verified_webhook", "webhook_delivery"]

_FACTS: Final = "twh.webhook"
_DELIVERY: Final = "twh.webhook.delivery"


def verified_webhook(scope: Scope) -> Verified:
    """
    What is true about the webhook of this request.

    Call it first in the handler: if the middleware was not asked, because a path or
    the order of the middleware is wrong, this is where it shows.

    Raises:
        twh_platform.errors.WebhookUsageError: With code ``webhook_unverified``, if
            nothing was verified.
    """
    facts = scope.get(_FACTS)
    if not isinstance(facts, Verified):
        message = "this request was not verified: is WebhookMiddleware outside, with its path?"
        raise WebhookUsageError(message, code="webhook_unverified")
    return facts


def webhook_delivery(scope: Scope) -> Delivery:
    """
    What this webhook is remembered by, to be claimed in the handler's own transaction.

    Raises:
        twh_platform.errors.WebhookUsageError: With code ``webhook_unverified``, if
            nothing was verified, or the middleware has no *replay*.
    """
    delivery = scope.get(_DELIVERY)
    if not isinstance(delivery, Delivery):
        message = "WebhookMiddleware was not asked, or has no replay=..."
        raise WebhookUsageError(message, code="webhook_unverified")
    return delivery


class WebhookMiddleware:
    """
    Verify each webhook while its body comes, and call the app once it holds.

        app = WebhookMiddleware(app, StandardSecret(text), paths=["/hooks/orders"])

    The app gets the bytes as they came, never a part of them, and none before the
    signature holds: what is not a tenant's own never reaches a parser.  The body is
    kept in memory up to *spool* bytes, then in a file without a name.  The facts are
    `verified_webhook(scope)`.

    Every failure of authentication is one answer: 401 with code ``webhook_refused``.
    What it was is in the log and in `WebhookRefused`.  With a function for *keys* it
    comes after the body, so that nobody learns which endpoints there are.  A body
    beyond *limit* is 413, before it is read if its length is declared; one that is not
    as long as was said 400; one that does not come in time 408; 503 if keys or the
    store of claims cannot be had.  If the client leaves, the app is not called.  A
    resolver that fails in another way raises, and the app is not called either.

    With *replay*, a delivery is claimed before the app is called, and committed with
    the last byte of a 2xx answer.  After any other answer, an exception or a
    cancellation it is released, so that the sender's next attempt is handled.  One
    that was handled is answered 200, so that the sender stops; one that is being
    handled 409 with ``webhook_busy``; one with another body 409 with ``id_conflict``.
    Between the effect of a handler and the commit a process may die: only a claim in
    the handler's own transaction is handled exactly once.  With ``replay="handler"``
    that is the handler's: see `webhook_delivery`.

    Put it outside whatever reads, decodes or times the body.  Websockets pass.

    Args:
        app: The ASGI app inside.

        keys: The keys of the one endpoint, a `Verifier`, a `WebhookEndpoint`, which
            names it where several share a store of claims, or what finds them for a
            request: a function that returns keys, a `Verifier`, a
            `WebhookEndpoint`, or None for an endpoint that there is not.  With
            *replay* only a `WebhookEndpoint` with an id or a tenant will do, since
            what came to one endpoint would be a replay at all others: what holds
            anywhere else is refused with 503, and logged as an error,
            ``endpoint_unnamed``.  A tenant with several endpoints needs an id for
            each.

        profile: How the sender signs, where a `Verifier` does not say it.

        paths: What is verified: ``/hooks/orders`` is that path, ``/hooks/*`` all
            below it; everything if None.

        limit: The most bytes of a body.

        spool: How many bytes of it are kept in memory.

        timeout: Seconds in which a body has to come; None for any number.

        replay: A `Replay`, or a store to make one of; ``"handler"`` if the handler
            claims; None to remember nothing.

        origin: What the sender calls us, such as ``https://hooks.example.com``: for
            a profile that signs the address of the request.

        past: How many seconds old a signature may be; the profile's if None.

        future: How many seconds ahead of our clock; the profile's if None.

        clock: Unix seconds.

    Raises:
        twh_platform.errors.ConfigurationError: For a limit or a spool that is none,
            or with code ``retention_too_short`` if deliveries are forgotten while
            their signature is good.

        twh_platform.errors.WebhookUsageError: With code ``secret_type_invalid``, if
            keys are of a kind that the profile does not verify with.
    """

    def __init__(
        self,
        app: ASGIApp,
        keys: Keys | Verifier | WebhookEndpoint | Resolver,
        *,
        profile: Profile = STANDARD,
        paths: Iterable[str] | None = None,
        limit: int = 1_048_576,
        spool: int = 65_536,
        timeout: float | None = 30.0,
        replay: Replay | ReplayStore | Literal["handler"] | None = None,
        origin: str = "",
        past: int | None = None,
        future: int | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        for name, value in (("limit", limit), ("spool", spool)):
            if value < 0:
                message = f"{name}={value!r} is below zero"
                raise ConfigurationError(message)
        self.app = app
        self._profile = profile
        self._paths = None if paths is None else VerifiedPaths(paths)
        self._terms = Terms(limit, spool, timeout, remembers=replay is not None)
        self._replay = _replay_of(replay)
        self._endpoints = Endpoints(
            keys,
            profile=profile,
            times={"past": past, "future": future, "clock": clock},
            origin=origin,
            replay=self._replay,
            remembers=self._terms.remembers,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Serve one connection scope.
        """
        if scope["type"] != "http" or (self._paths and not self._paths.cover(scope)):
            await self.app(scope, receive, send)
            return
        # What an outer one of us found is about other keys.
        scope.pop(_FACTS, None)
        scope.pop(_DELIVERY, None)
        arrival = Arrival(scope, self._profile.name, self._terms.limit)
        try:
            await self._serve(arrival, receive, send)
        except WebhookUsageError:
            raise
        except (WebhookError, BackendUnavailableError) as error:
            if arrival.served:  # it is the app's own
                raise
            await arrival.refusal(error)(scope, receive, send)

    async def _serve(self, arrival: Arrival, receive: Receive, send: Send) -> None:
        intake = Intake(arrival.scope, self._terms)
        endpoint = arrival.endpoint = await self._endpoints.of(arrival.scope)
        arrival.profile = endpoint.verifier.profile.name
        try:
            if not await intake.take(receive, endpoint):
                arrival.left()
                return
            if endpoint.unnamed:
                raise unnamed()
            receive = Released(intake.body, receive).receive
            if endpoint.tenant is None:
                await self._let_in(arrival, intake, receive, send)
                return
            outer = binding_here()
            receive, send = _outside(receive, outer), _outside(send, outer)
            with bind_tenant(endpoint.tenant):
                await self._let_in(arrival, intake, receive, send)
        finally:
            if intake.spool is not None:
                intake.spool.close()

    async def _let_in(self, arrival: Arrival, intake: Intake, receive: Receive, send: Send) -> None:
        scope = arrival.scope
        scope[_FACTS] = intake.verified
        if self._terms.remembers:
            scope[_DELIVERY] = intake.delivery()
        if has_listeners(WebhookVerified):
            arrival.verified(intake.verified)
        if self._replay is None:
            arrival.served = True
            await self.app(scope, receive, send)
            return
        delivery = scope[_DELIVERY]
        await handle_once(self.app, self._replay, delivery, arrival, receive=receive, send=send)


def _replay_of(given: Replay | ReplayStore | str | None) -> Replay | None:
    if given is None or isinstance(given, Replay):
        return given
    if isinstance(given, str):
        if given != "handler":
            message = f"replay={given!r} is neither a store nor 'handler'"
            raise ConfigurationError(message)
        return None
    return Replay(store=given)


def _outside(call: Callable[..., Awaitable[Any]], outer: Binding) -> Callable[..., Awaitable[Any]]:
    # As in TenantMiddleware: servers keep the context that they find in these calls.
    async def called(*args: Any) -> Any:
        with bind_again(outer):
            return await call(*args)

    return called
