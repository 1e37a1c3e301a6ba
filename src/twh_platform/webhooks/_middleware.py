"""
The middleware that lets a webhook in once its signature holds.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from hashlib import sha256
from typing import Any, Final, Literal, NamedTuple, TypeAlias, TypeGuard
from urllib.parse import quote

from .._asgi import ASGIApp, Message, Problem, Receive, Scope, Send, request_id
from .._signals import announce, has_listeners
from ..errors import (
    BackendUnavailableError,
    ConfigurationError,
    PlatformError,
    WebhookError,
    WebhookUsageError,
)
from ..tenancy._context import Binding, bind_again, bind_tenant, binding_here, current_tenant
from ..tenancy._tenant import Tenant
from ._announcements import ReplayStoreDown, WebhookRefused, WebhookReplayed, WebhookVerified
from ._body_length import (
    LENGTH_CODES,
    declared_length,
    length_invalid,
    length_problem,
    too_large,
)
from ._endpoint import WebhookEndpoint
from ._keyring import Keyring, Keys
from ._paths import VerifiedPaths
from ._profiles import STANDARD, Form, Profile
from ._replay import (
    Claim,
    ClaimState,
    ClaimToken,
    Delivery,
    Replay,
    ReplayStore,
    conflict,
    delivery_of,
    kept,
)
from ._secrets import RawSecret, StandardSecret, WebhookKey
from ._spool import Spool
from ._verify import Verification, Verified, Verifier

__all__ = ["Found", "WebhookMiddleware", "verified_webhook", "webhook_delivery"]

_logger = logging.getLogger("twh_platform.webhooks")

_FACTS: Final = "twh.webhook"
_DELIVERY: Final = "twh.webhook.delivery"

_REFUSED = Problem(
    status=401,
    code="webhook_refused",
    title="The webhook is refused",
    headers={"www-authenticate": "Webhook"},  # RFC 9110, section 15.5.2 wants one
)
_TOO_SLOW = Problem(status=408, code="body_timeout", title="The body did not come in time")
_CONFLICT = Problem(status=409, code="id_conflict", title="This id is known with another body")
_BUSY = Problem(
    status=409,
    code="webhook_busy",
    title="This webhook is being handled",
    headers={"retry-after": "5"},
)
_UNAVAILABLE = Problem(
    status=503,
    code="webhook_unavailable",
    title="Not available at the moment",
    headers={"retry-after": "1"},
)
# All others, but for lengths, are failures of authentication, and those have one answer.
_ANSWERS = {
    "body_timeout": _TOO_SLOW,
    "endpoint_unnamed": _UNAVAILABLE,
    "id_conflict": _CONFLICT,
    "webhook_busy": _BUSY,
}
_NOTHING: Final[Message] = {}
_ENDS = frozenset({"http.response.body", "http.response.pathsend", "http.response.zerocopysend"})


Found: TypeAlias = Keys | Verifier | WebhookEndpoint | None
"""What a resolver finds for a request; None if there is no such endpoint."""

Resolver: TypeAlias = Callable[[Scope], Awaitable[Found]]


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
            what came to one endpoint would be a replay at all others: anything else
            is refused with 503, and logged as an error, ``endpoint_unnamed``.  A
            tenant with several endpoints needs an id for each.

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
        self._limit = limit
        self._spool = spool
        self._timeout = timeout
        self._replay = _replay_of(replay)
        self._remembers = replay is not None
        self._origin = origin.rstrip("/")
        self._times = {"past": past, "future": future, "clock": clock}
        self._resolver: Resolver | None = None
        if _is_resolver(keys):
            self._resolver = keys
            self._decoy = self._decoy_endpoint()
        else:
            self._endpoint = self._ready(keys)  # type: ignore[arg-type]

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
        body = Spool(self._spool)
        arrival = _Arrival(scope, self._profile.name, self._limit)
        try:
            await self._serve(arrival, body, receive, send)
        except WebhookUsageError:
            raise
        except (WebhookError, BackendUnavailableError) as error:
            if arrival.served:  # it is the app's own
                raise
            await arrival.refusal(error)(scope, receive, send)
        finally:
            body.close()

    async def _serve(self, arrival: _Arrival, body: Spool, receive: Receive, send: Send) -> None:
        scope = arrival.scope
        declared = declared_length(scope)
        if declared is not None and declared > self._limit:
            raise too_large(self._limit)
        endpoint = arrival.endpoint = await self._endpoint_of(scope)
        arrival.profile = endpoint.verifier.profile.name
        intake = _Intake(self._begin(endpoint, scope), body, self._limit, declared)
        if self._remembers:
            intake.digest = sha256()
        if not await self._taken_in(intake, receive):
            _logger.info(
                "request %s: the sender left before its body was here, or it was read before",
                request_id(scope),
            )
            return
        verified = intake.verification.finish()
        await body.rewind()
        outer = binding_here()
        with endpoint.bound():
            scope[_FACTS] = verified
            if has_listeners(WebhookVerified):
                announce(_verified_signal(verified, endpoint))
            inside: Receive = _Released(body, receive).receive
            if endpoint.tenant is not None:
                inside, send = _outside(inside, outer), _outside(send, outer)
            if intake.digest is not None:
                scope[_DELIVERY] = delivery_of(
                    verified,
                    endpoint=endpoint.id,
                    tenant_id=endpoint.tenant_id or "",
                    fingerprint=intake.digest.digest(),
                    window=endpoint.verifier.window,
                )
            await self._hand_over(arrival, inside, send)

    async def _taken_in(self, intake: _Intake, receive: Receive) -> bool:
        deadline = asyncio.timeout(self._timeout)
        try:
            async with deadline:
                return await intake.read(receive)
        except TimeoutError:
            if not deadline.expired():
                raise
            message = f"the body was not here after {self._timeout:g} s, or was read before"
            raise WebhookError(message, code="body_timeout") from None

    async def _hand_over(self, arrival: _Arrival, receive: Receive, send: Send) -> None:
        scope = arrival.scope
        replay = self._replay
        token = None
        if replay is not None:
            claim = await _claim(replay, scope[_DELIVERY], arrival)
            if claim.state is ClaimState.DONE:
                await arrival.replayed(send)
                return
            if claim.state is ClaimState.CONFLICT:
                raise conflict()
            if claim.state is ClaimState.BUSY:
                raise WebhookError("another attempt is being handled", code="webhook_busy")
            token = claim.token
        arrival.served = True
        if replay is None or token is None:
            await self.app(scope, receive, send)
            return
        handling = _Handling(replay, token, send, arrival)
        try:
            await self.app(scope, receive, handling.send)
        finally:
            await handling.end()

    async def _endpoint_of(self, scope: Scope) -> _Endpoint:
        if self._resolver is None:
            endpoint = self._endpoint
        else:
            found = await self._resolver(scope)
            if self._remembers and not _named(found):
                message = "with replay, a resolver returns WebhookEndpoint(keys=..., id=...)"
                raise WebhookError(message, code="endpoint_unnamed")
            # One that there is not is hashed like one that has one secret.
            endpoint = self._decoy if found is None else self._ready(found)
        bound = current_tenant()
        if bound is None or endpoint.unknown:
            return endpoint
        if endpoint.tenant is not None and endpoint.tenant.id != bound.id:
            return endpoint._replace(foreign=True)
        return endpoint._replace(tenant_id=bound.id)

    def _ready(self, found: Keys | Verifier | WebhookEndpoint) -> _Endpoint:
        if not isinstance(found, WebhookEndpoint):
            found = WebhookEndpoint(keys=found)
        verifier = found.keys
        if not isinstance(verifier, Verifier):
            verifier = Verifier(verifier, profile=self._profile, **self._times)  # type: ignore[arg-type]
        if self._replay is not None:
            self._replay.retention.check_window(verifier.window)
        if verifier.profile.form is Form.MESSAGE and not self._origin:
            message = f"profile {verifier.profile.name!r} signs our address: give origin=..."
            raise ConfigurationError(message, code="origin_missing")
        tenant = found.tenant
        return _Endpoint(verifier, found.id, tenant, None if tenant is None else tenant.id)

    def _decoy_endpoint(self) -> _Endpoint:
        kinds = {kind for one in self._profile.schemes.values() for kind in one.kinds}
        secret: WebhookKey = StandardSecret.generate()
        if "standard" not in kinds:
            secret = RawSecret(secrets.token_bytes(32))
        ready = self._ready(secret if kinds & {"standard", "raw"} else Keyring())
        return ready._replace(unknown=True)

    def _begin(self, endpoint: _Endpoint, scope: Scope) -> Verification | _PutOff:
        try:
            return _begun(endpoint, scope, self._origin)
        except WebhookUsageError:
            raise
        except WebhookError as error:
            # Refused at once, an endpoint of another profile, of other times or of
            # another tenant could be told from one that there is not.
            if self._resolver is None:
                raise
            return _PutOff(error)


class _Endpoint(NamedTuple):
    """
    A `WebhookEndpoint` that is ready to verify.
    """

    verifier: Verifier
    id: str
    tenant: Tenant | None
    tenant_id: str | None
    unknown: bool = False
    foreign: bool = False

    def bound(self) -> AbstractContextManager[Any]:
        """
        Bind its tenant, if it names one.
        """
        return nullcontext() if self.tenant is None else bind_tenant(self.tenant)


class _Arrival:
    """
    One request, as far as it has come.

    Attributes:
        scope: Its scope.

        profile: The name of the profile it is verified by.

        limit: The most bytes of its body.

        endpoint: Where it came in, once that is known.

        served: Whether the app was called.
    """

    __slots__ = ("endpoint", "limit", "profile", "scope", "served")

    def __init__(self, scope: Scope, profile: str, limit: int) -> None:
        self.scope = scope
        self.profile = profile
        self.limit = limit
        self.endpoint: _Endpoint | None = None
        self.served = False

    def refusal(self, error: PlatformError) -> Problem:
        """
        Note why it is refused, and say what is answered.
        """
        problem = self._answer(error)
        endpoint = self.endpoint
        if endpoint is not None and endpoint.unknown and problem is _REFUSED:
            error = WebhookError("there is no such endpoint", code="endpoint_unknown")
        _logger.log(
            _level(error.code, problem),
            "request %s: webhook refused with %d, %s: %s",
            request_id(self.scope),
            problem.status,
            error.code,
            error,
        )
        if has_listeners(WebhookRefused):
            announce(
                WebhookRefused(
                    code=error.code,
                    status=problem.status,
                    profile=self.profile,
                    endpoint=endpoint.id if endpoint else "",
                    tenant_id=endpoint.tenant_id if endpoint else None,
                )
            )
        return problem

    def _answer(self, error: PlatformError) -> Problem:
        if isinstance(error, BackendUnavailableError):
            return _UNAVAILABLE
        if error.code in LENGTH_CODES:
            return length_problem(error, self.scope, self.limit)
        return _ANSWERS.get(error.code, _REFUSED)

    async def replayed(self, send: Send) -> None:
        """
        Answer that it was handled, as it was.
        """
        endpoint = self.endpoint
        if endpoint is not None and has_listeners(WebhookReplayed):
            announce(
                WebhookReplayed(
                    profile=self.profile, endpoint=endpoint.id, tenant_id=endpoint.tenant_id
                )
            )
        headers = [
            (b"content-length", b"0"),
            (b"x-request-id", request_id(self.scope).encode()),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    def store_down(self, step: str, error: BackendUnavailableError, policy: str) -> None:
        """
        Note that the store did not answer.
        """
        _logger.warning(
            "request %s: no %s of a webhook, %s: %s",
            request_id(self.scope),
            step,
            error.code,
            error,
        )
        announce(ReplayStoreDown(step=step, code=error.code, store_down=policy))


class _PutOff:
    """
    In place of a `Verification`: a refusal that waits for the end of the body.
    """

    __slots__ = ("_error",)

    def __init__(self, error: WebhookError) -> None:
        self._error = error

    def update(self, chunk: bytes) -> None:
        """
        Pass over the next bytes of the body.
        """

    def finish(self) -> Verified:
        """
        Refuse it.

        Raises:
            twh_platform.errors.WebhookError: Why.
        """
        raise self._error


class _Intake:
    """
    A body on its way in: verified, counted and kept, chunk by chunk.
    """

    __slots__ = ("_body", "_declared", "_limit", "digest", "verification")

    def __init__(
        self, verification: Verification | _PutOff, body: Spool, limit: int, declared: int | None
    ) -> None:
        self.verification = verification
        self.digest: Any = None
        self._body = body
        self._limit = limit
        self._declared = declared

    async def read(self, receive: Receive) -> bool:
        """
        Read all of it; False if the sender left.

        Raises:
            twh_platform.errors.WebhookError: If it is too long, or not as long as it
                was said to be.
        """
        total = 0
        message = await receive()
        while message["type"] != "http.disconnect":
            chunk = message.get("body") or b""
            total += len(chunk)
            if total > self._limit:
                raise too_large(self._limit)
            if self._declared is not None and total > self._declared:
                raise length_invalid()
            if chunk:
                self.verification.update(chunk)
                if self.digest is not None:
                    self.digest.update(chunk)
                await self._body.write(chunk)
            if not message.get("more_body", False):
                return self._checked(total)
            # Let go of it before there is another.
            message, chunk = _NOTHING, b""
            message = await receive()
        return False

    def _checked(self, total: int) -> bool:
        if self._declared is not None and total < self._declared:
            raise length_invalid() if total else _consumed()
        return True


class _Released:
    """
    The body for the app, and after it what else the server says.
    """

    __slots__ = ("_body", "_receive", "_released")

    def __init__(self, body: Spool, receive: Receive) -> None:
        self._body = body
        self._receive = receive
        self._released = False

    async def receive(self) -> Message:
        """
        The next message.
        """
        if not self._released:
            piece, more = await self._body.read()
            self._released = not more
            return {"type": "http.request", "body": piece, "more_body": more}
        message = await self._receive()
        # A body has ended: what is said to be more of it was not verified.
        return {"type": "http.disconnect"} if message["type"] == "http.request" else message


class _Handling:
    """
    A claimed webhook while the app has it.
    """

    __slots__ = ("_arrival", "_replay", "_send", "_settled", "_status", "_token")

    def __init__(self, replay: Replay, token: ClaimToken, send: Send, arrival: _Arrival) -> None:
        self._replay = replay
        self._token = token
        self._send = send
        self._arrival = arrival
        self._status = 0
        self._settled = False

    async def send(self, message: Message) -> None:
        """
        Pass a message of the app on; commit before the last one of a 2xx answer.
        """
        kind = message["type"]
        if kind == "http.response.start":
            self._status = message["status"]
        elif kind in _ENDS and not message.get("more_body") and self._handled():
            await self._settle("commit", self._replay.store.commit)
        await self._send(message)

    async def end(self) -> None:
        """
        Release it, if it was not handled.
        """
        await self._settle("release", self._replay.store.release)

    def _handled(self) -> bool:
        return 200 <= self._status < 300  # noqa: PLR2004 -- RFC 9110, section 15.3

    async def _settle(self, step: str, settle: Callable[[ClaimToken], Awaitable[bool]]) -> None:
        if self._settled:
            return
        self._settled = True
        # Carried out even if this task is cancelled meanwhile.
        await asyncio.shield(kept(self._settle_once(step, settle)))

    async def _settle_once(
        self, step: str, settle: Callable[[ClaimToken], Awaitable[bool]]
    ) -> None:
        try:
            held = await settle(self._token)
        except BackendUnavailableError as error:
            # What was done is done: the claim stands until its lease ends.
            self._arrival.store_down(step, error, self._replay.store_down)
            return
        if not held:
            _logger.warning(
                "request %s: the lease on a webhook ended before its handler did",
                request_id(self._arrival.scope),
            )


_UNCLAIMED = Claim(state=ClaimState.NEW)


async def _claim(replay: Replay, delivery: Delivery, arrival: _Arrival) -> Claim:
    claiming = kept(
        replay.store.claim(
            delivery.key, delivery.fingerprint, lease=replay.lease, ttl=replay.retention.ttl
        )
    )
    try:
        return await asyncio.shield(claiming)
    except asyncio.CancelledError:
        claiming.add_done_callback(partial(_give_back, replay.store))
        raise
    except BackendUnavailableError as error:
        arrival.store_down("claim", error, replay.store_down)
        if replay.store_down == "closed":
            raise
        return _UNCLAIMED


def _give_back(store: ReplayStore, claiming: asyncio.Task[Claim]) -> None:
    if claiming.cancelled() or claiming.exception() is not None:
        return
    token = claiming.result().token
    if token is not None:
        kept(_given_back(store, token))


async def _given_back(store: ReplayStore, token: ClaimToken) -> None:
    with suppress(BackendUnavailableError):  # then its lease ends
        await store.release(token)


def _replay_of(given: Replay | ReplayStore | str | None) -> Replay | None:
    if given is None or isinstance(given, Replay):
        return given
    if isinstance(given, str):
        if given != "handler":
            message = f"replay={given!r} is neither a store nor 'handler'"
            raise ConfigurationError(message)
        return None
    return Replay(store=given)


def _is_resolver(keys: object) -> TypeGuard[Resolver]:
    given = (Verifier, WebhookEndpoint, Keyring, WebhookKey)
    return callable(keys) and not isinstance(keys, given)


def _named(found: Found) -> bool:
    # What is claimed at one endpoint without a name is claimed at all others.
    return found is None or (
        isinstance(found, WebhookEndpoint) and bool(found.id or found.tenant is not None)
    )


def _begun(endpoint: _Endpoint, scope: Scope, origin: str) -> Verification:
    if endpoint.foreign:
        message = "the endpoint is another tenant's than the one that is bound"
        raise WebhookError(message, code="endpoint_foreign")
    verifier = endpoint.verifier
    if verifier.profile.form is not Form.MESSAGE:
        return verifier.begin(scope["headers"])
    url = origin + _target(scope)
    return verifier.begin(scope["headers"], method=scope["method"], url=url)


def _level(code: str, problem: Problem) -> int:
    if code == "endpoint_unnamed":  # nothing is taken in until it is mended
        return logging.ERROR
    return logging.WARNING if problem in (_UNAVAILABLE, _CONFLICT) else logging.INFO


def _target(scope: Scope) -> str:
    raw: bytes = (scope.get("raw_path") or quote(scope["path"]).encode()).partition(b"?")[0]
    if raw and not raw.startswith(b"/"):
        # Behind our origin it would be a part of the host, or the port.
        raise WebhookError("the target has no slash at its front", code="request_malformed")
    query: bytes = scope.get("query_string", b"")
    return (raw + (b"?" + query if query else b"")).decode("latin-1")


def _outside(call: Callable[..., Awaitable[Any]], outer: Binding) -> Callable[..., Awaitable[Any]]:
    # As in TenantMiddleware: servers keep the context that they find in these calls.
    async def called(*args: Any) -> Any:
        with bind_again(outer):
            return await call(*args)

    return called


def _verified_signal(verified: Verified, endpoint: _Endpoint) -> WebhookVerified:
    return WebhookVerified(
        profile=verified.profile,
        scheme=verified.scheme,
        key_id=verified.key_id,
        endpoint=endpoint.id,
        tenant_id=endpoint.tenant_id,
        age=verified.age,
    )


def _consumed() -> WebhookUsageError:
    message = "the body was read before, by something outside WebhookMiddleware"
    return WebhookUsageError(message, code="body_consumed")
