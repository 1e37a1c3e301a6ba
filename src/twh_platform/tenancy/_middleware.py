"""
The middleware that finds out who is asking, binds it, or refuses.

The client of a refused request learns one of the four things in `REFUSALS`,
whatever the reason.  The reason goes to the log and to `TenantRefused`.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from datetime import datetime
from typing import Any, NamedTuple

from .._asgi import (
    INNER_SCOPE,
    RESOLUTION,
    TENANT_KNOWN,
    ASGIApp,
    Problem,
    Receive,
    Scope,
    Send,
    request_id,
)
from .._signals import announce, has_listeners
from ..errors import (
    BackendUnavailableError,
    ConfigurationError,
    CredentialsError,
    NoCurrentTenantError,
    PlatformError,
    TenantError,
    TenantMismatchError,
)
from ._announcements import TenantRefused, TenantResolved
from ._claim import TenantClaim, TenantResolver
from ._clock import utc_now
from ._context import (
    Binding,
    bind_again,
    bind_tenant,
    binding_here,
    current_tenant,
    unbind_tenant,
)
from ._directory import TenantDirectory, served_tenant
from ._lease import LeasedConnection
from ._public_paths import PublicPaths
from ._refusals import REFUSALS
from ._tenant import Tenant

__all__ = ["Resolution", "TenantMiddleware", "resolution_of"]

_logger = logging.getLogger("twh_platform.tenancy")


class Resolution(NamedTuple):
    """
    How the tenant of a request was resolved.

    One is made for each request, so it is a named tuple: as immutable as a
    frozen dataclass, and made in less time.

    Attributes:
        tenant: The tenant, as the directory has it.

        claim: What the sources said: source, user id, verified claims.
    """

    tenant: Tenant
    claim: TenantClaim

    @property
    def user_id(self) -> str | None:
        """
        The user, where a source has proved one.
        """
        return self.claim.user_id


def resolution_of(scope: Scope) -> Resolution:
    """
    How the tenant of this request was resolved: `resolution_of(request.scope)`.

    Raises:
        twh_platform.errors.NoCurrentTenantError: On a public path, or if
            `TenantMiddleware` did not see the request.
    """
    found = scope.get(RESOLUTION)
    if isinstance(found, Resolution):
        return found
    message = "TenantMiddleware resolved no tenant for this request"
    raise NoCurrentTenantError(message)


class TenantMiddleware:
    """
    Bind the tenant of each request and websocket, or refuse it.

    Inside the app `current_tenant()` is the tenant and `resolution_of(scope)`
    tells the user and the claims.  Outside, and in the server that the app
    calls by `receive` and `send`, it is not.  On public paths, and during
    lifespan, no tenant is bound.  A different tenant that is bound already, by
    an outer middleware or by a mistake, refuses the request.

    The tenant is bound with a lease.  A connection that talks renews it, so a
    tenant that is suspended meanwhile loses its streams and websockets: an
    answer that has not begun is a refusal, a stream breaks off, a websocket is
    closed with 1008.  Work that outlives its request, or is silent for longer
    than the lease, is refused at its next use of the tenant, unless it asks
    for itself: `renew_lease`.

    Unknown, suspended, expired and foreign tenants get the same answer: 403
    with code ``tenant_refused``.  An error of a resolver or directory that is
    not ours is answered with 500 and raised on; the app is not called.

    CORS preflights carry no credentials: put CORS middleware outside this one.

    Args:
        app: The ASGI app inside.

        resolver: Where the tenant is named; `Agreement` is the careful one.

        directory: Where the tenant is looked up; `CachedTenantDirectory` in
            front of anything remote.

        public_paths: Paths that need no tenant: ``/healthz`` is that path
            alone, ``/docs/*`` all below it.

        clock: The current moment, with time zone.

        lease: Seconds for which a tenant is bound on one word of the
            directory; None for as long as anything runs.

        lease_clock: Seconds that never go back.

    Raises:
        twh_platform.errors.ConfigurationError: For a lease that is not above
            zero.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        resolver: TenantResolver,
        directory: TenantDirectory,
        public_paths: Iterable[str] = (),
        clock: Callable[[], datetime] = utc_now,
        lease: float | None = 300.0,
        lease_clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if lease is not None and not lease > 0:
            message = f"lease={lease!r} is not above zero"
            raise ConfigurationError(message)
        self.app = app
        self._resolver = resolver
        self._directory = directory
        self._public = PublicPaths(public_paths)
        self._clock = clock
        self._lease = lease
        self._lease_clock = lease_clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Serve one connection scope.
        """
        if scope["type"] not in {"http", "websocket"}:
            await self.app(scope, receive, send)
            return
        scope.pop(RESOLUTION, None)
        if self._public.cover(scope):
            with unbind_tenant():
                await self.app(scope, receive, send)
            return
        claim: TenantClaim | None = None
        try:
            claim = await self._resolver.resolve(scope)
            resolution = await self._admit(claim)
        except (TenantError, BackendUnavailableError) as error:
            await _refuse(error, claim, scope)(scope, receive, send)
            return
        except Exception as error:
            # Never "no tenant, go on".  Answered here and raised for the server's log.
            await _fail(error, claim, scope)(scope, receive, send)
            raise
        outer = binding_here()
        with bind_tenant(resolution.tenant, lease=self._lease, clock=self._lease_clock):
            if TENANT_KNOWN in scope:
                scope.pop(TENANT_KNOWN)(resolution.tenant.id)
            if has_listeners(TenantResolved):
                announce(_resolved(resolution, scope))
            inner = _inner_scope(scope, resolution)
            if self._lease is None:
                await self.app(inner, _outside(receive, outer), _outside(send, outer))
            else:
                connection = LeasedConnection(
                    receive, send, outer=outer, directory=self._directory, clock=self._clock
                )
                await self._serve(inner, connection, claim)

    async def _serve(
        self, scope: Scope, connection: LeasedConnection, claim: TenantClaim | None
    ) -> None:
        try:
            await self.app(scope, connection.receive, connection.send)
        except Exception:
            # What comes out need not be what we raised: frameworks wrap it.
            if connection.refused is None:
                raise
            if not await connection.cut(_refuse(connection.refused, claim, scope), scope):
                raise

    async def _admit(self, claim: TenantClaim | None) -> Resolution:
        if claim is None:
            message = "nothing in the request names a tenant"
            raise CredentialsError(message, code="credentials_missing")
        if not claim.decides:
            message = f"source {claim.source!r} may not decide alone"
            raise CredentialsError(message, code="tenant_undecided")
        tenant = await served_tenant(self._directory, claim.tenant_id, self._clock)
        bound = current_tenant()
        if bound is not None and bound.id != tenant.id:
            message = f"resolved {tenant.id!r}, but {bound.id!r} is bound already"
            raise TenantMismatchError(message, code="tenant_already_bound")
        return Resolution(tenant, claim)


def _outside(call: Callable[..., Awaitable[Any]], outer: Binding) -> Callable[..., Awaitable[Any]]:
    # From inside these calls a server starts the connection's next request, or
    # registers its reader, and either keeps the context that it finds.
    async def called(*args: Any) -> Any:
        with bind_again(outer):
            return await call(*args)

    return called


def _inner_scope(scope: Scope, resolution: Resolution) -> Scope:
    # In the scope that we were given, so that outer middleware can read it too.
    scope[RESOLUTION] = resolution
    root = resolution.claim.root_path
    if root is None:
        return scope
    path = scope["path"]
    if not path.startswith(root):  # a server that leaves root_path out of path
        path = scope.get("root_path", "") + path
    inner = {**scope, "root_path": root, "path": path}
    scope[INNER_SCOPE] = inner
    return inner


def _resolved(resolution: Resolution, scope: Scope) -> TenantResolved:
    return TenantResolved(
        tenant=resolution.tenant,
        source=resolution.claim.source,
        user_id=resolution.claim.user_id,
        request_id=request_id(scope),
    )


def _refuse(error: PlatformError, claim: TenantClaim | None, scope: Scope) -> Problem:
    problem = _problem(error)
    _announce_refused(error.code, problem.status, claim, scope)
    _logger.log(
        logging.WARNING if isinstance(error, BackendUnavailableError) else logging.INFO,
        "request %s refused with %d, %s: %s",
        request_id(scope),
        problem.status,
        error.code,
        error,
    )
    return problem


def _fail(error: Exception, claim: TenantClaim | None, scope: Scope) -> Problem:
    problem = REFUSALS["internal_error"]
    _announce_refused("resolution_failed", problem.status, claim, scope)
    _logger.error(
        "request %s failed while its tenant was resolved",
        request_id(scope),
        exc_info=error,
    )
    return problem


def _problem(error: PlatformError) -> Problem:
    if isinstance(error, BackendUnavailableError):
        seconds = max(1, math.ceil(error.retry_after))
        return replace(REFUSALS["backend_unavailable"], headers={"retry-after": str(seconds)})
    credentials = isinstance(error, CredentialsError)
    return REFUSALS["credentials_invalid" if credentials else "tenant_refused"]


def _announce_refused(code: str, status: int, claim: TenantClaim | None, scope: Scope) -> None:
    if not has_listeners(TenantRefused):
        return
    signal = TenantRefused(
        code=code,
        status=status,
        tenant_id=claim.tenant_id if claim else None,
        source=claim.source if claim else "",
        user_id=claim.user_id if claim else None,
        request_id=request_id(scope),
        method=scope.get("method", "WEBSOCKET"),
        path=scope["path"],
    )
    announce(signal)
