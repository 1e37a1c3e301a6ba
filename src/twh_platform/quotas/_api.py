"""
The quotas over HTTP: what a tenant has, what an administrator changes, what is billed.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from .._asgi import Problem, Receive, Scope, Send, request_id, route_path
from ..errors import (
    BackendUnavailableError,
    ConfigurationError,
    CredentialsError,
    PlatformError,
    TenantError,
    TenantUnresolvedError,
)
from ..tenancy._context import require_tenant
from ..tenancy._tenant import Tenant, valid_tenant_id
from ._api_export import send_export
from ._api_requests import (
    RefusedError,
    changed_since,
    expected_version,
    invalid,
    read_body,
    read_change,
    read_export,
    read_reason,
)
from ._api_views import override_view, rule_views
from ._limiter import Limiter
from ._limits import LONGEST_ACTOR, Limit, Override, overridden
from ._middleware import Identity, resolved_identity
from ._overridden_plans import OverriddenPlans
from ._plan import Plan
from ._usage_ledger import UsageLedger

__all__ = ["Administrator", "Levels", "QuotaApp"]

Administrator = Callable[[Scope], Awaitable[str]]
"""
What tells who administers: an account that a person answers for.

It raises a `twh_platform.errors.PlatformError` for everybody else: a
`CredentialsError` is answered 401, others 403.
"""

Levels = Callable[[Tenant], Awaitable[Mapping[str, int]]]
"""
What tells the levels of a tenant's `Capacity` rules, by name.
"""

_ADMIN = "/admin/"
_TENANTS = "/admin/quotas/"
_MOST_HISTORY = 20

_logger = logging.getLogger("twh_platform.quotas")

_NOT_FOUND = Problem(status=404, code="not_found", title="There is nothing here")
_UNKNOWN = Problem(status=404, code="tenant_unknown", title="There is no such tenant")
_NO_TENANT = Problem(status=403, code="tenant_refused", title="This tenant is not available to you")
_NO_CREDENTIALS = Problem(
    status=401,
    code="credentials_invalid",
    title="Valid credentials are required",
    headers={"www-authenticate": "Bearer"},
)
_NO_ADMINISTRATOR = Problem(
    status=403, code="administrator_refused", title="This is for administrators"
)


class QuotaApp:
    """
    An ASGI app: quotas for tenants to see, for administrators to change, and usage to bill.

    ========== ========================== ==============================================
    GET        ``/quotas``                the current tenant's limits, and what it has used
    GET        ``/admin/quotas/{tenant}`` a tenant's plan, override, limits and use
    PUT        ``/admin/quotas/{tenant}`` limits of its own, with a reason
    DELETE     ``/admin/quotas/{tenant}`` back to the plan, with a reason
    GET        ``/admin/usage``           what was used in a period, as CSV or NDJSON
    ========== ========================== ==============================================

    It can be served as it is, or mounted: ``Mount("/api", app=QuotaApp(...))``.
    ``/quotas`` belongs inside `TenantMiddleware`; what is under ``/admin`` has no
    tenant and is one of its public paths.  There is no administrators' part
    unless *administrator* says who they are; it is asked before anything else
    about such a request.

    Nothing here is charged to anybody.  Changes are announced as
    `QuotaOverrideChanged`, and kept in the history of the store of overrides.

    Args:
        limiter: The rules and their store.

        administrator: Given the connection scope, says who administers: an account
            that a person answers for.  For everybody else it raises: a
            `CredentialsError` is answered 401, another `PlatformError` 403.

        overrides: The limiter's plans, whose limits can be changed.

        ledger: Where usage is written down.

        directory: What looks a tenant up by its id, or answers None.

        identity: What tells the ids of the user and the API key, whose own use
            ``/quotas`` shows.

        levels: Given a tenant, says the levels of those `Capacity` rules, by
            name, that another source knows better than the limiter's store,
            such as PostgreSQL.

        clock: The current moment, with time zone.

    Raises:
        twh_platform.errors.ConfigurationError: If *overrides* or *ledger* are
            given without *administrator*, or *overrides* without *directory*.
    """

    def __init__(
        self,
        limiter: Limiter,
        *,
        administrator: Administrator | None = None,
        overrides: OverriddenPlans | None = None,
        ledger: UsageLedger | None = None,
        directory: Callable[[str], Awaitable[Tenant | None]] | None = None,
        identity: Identity = resolved_identity,
        levels: Levels | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        if administrator is None and not (overrides is None and ledger is None):
            message = "overrides and ledger are for administrators: say who they are"
            raise ConfigurationError(message)
        if directory is not None and not callable(directory):
            message = "directory is no function: give its get"
            raise ConfigurationError(message)
        if overrides is not None and directory is None:
            message = "overrides need a directory: a tenant's plan is that of its tier"
            raise ConfigurationError(message)
        self._limiter = limiter
        self._administrator = administrator
        self._overrides = overrides
        self._ledger = ledger
        self._directory = directory
        self._identity = identity
        self._levels = levels
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Serve one request; there is nothing for websockets.
        """
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "websocket":
            await _NOT_FOUND(scope, receive, send)
        elif scope["type"] == "http":
            send = _without_body(send) if scope["method"] == "HEAD" else send
            try:
                await self._serve(scope, receive, send)
            except RefusedError as refused:
                await refused.problem(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = route_path(scope)
        if path == "/quotas":
            _ensure_method(scope, "GET", "HEAD")
            await _answer(send, await self._own(scope))
            return
        if self._administrator is None or not path.startswith(_ADMIN):
            raise RefusedError(_NOT_FOUND)
        actor = await self._actor(scope, self._administrator)
        if path == "/admin/usage" and self._ledger is not None:
            await self._export(scope, receive, send, self._ledger, actor)
        elif path.startswith(_TENANTS) and self._directory is not None:
            tenant = await self._tenant(path.removeprefix(_TENANTS), self._directory)
            await self._administer(scope, receive, send, tenant, actor)
        else:
            raise RefusedError(_NOT_FOUND)

    # --- a tenant's own

    async def _own(self, scope: Scope) -> _Answer:
        try:
            tenant = require_tenant()
        except TenantError as error:
            _logger.info("request %s refused, %s: %s", request_id(scope), error.code, error)
            raise RefusedError(_NO_TENANT) from error
        user, api_key = self._identity(scope)
        views = await self._views(scope, tenant, user=user, api_key=api_key)
        return _Answer({"tenant": tenant.id, **views})

    async def _views(
        self, scope: Scope, tenant: Tenant, *, shadow: bool = False, **who: str | None
    ) -> dict[str, Any]:
        try:
            levels = {} if self._levels is None else await self._levels(tenant)
            plan = self._limiter.plan_of(tenant)
            rules, exact = await rule_views(
                self._limiter, tenant, levels=levels, shadow=shadow, **who
            )
        except BackendUnavailableError as error:
            raise _unavailable(scope, error) from error
        return {"plan": getattr(plan, "name", None), "exact": exact, "rules": rules}

    # --- administrators'

    async def _actor(self, scope: Scope, administrator: Administrator) -> str:
        try:
            actor = await administrator(scope)
        except BackendUnavailableError as error:
            raise _unavailable(scope, error) from error
        except PlatformError as error:
            _logger.warning("request %s refused, %s: %s", request_id(scope), error.code, error)
            known = not isinstance(error, CredentialsError)
            raise RefusedError(_NO_ADMINISTRATOR if known else _NO_CREDENTIALS) from error
        fits = isinstance(actor, str) and actor.strip() and actor.isprintable()
        if not fits or len(actor) > LONGEST_ACTOR:
            _logger.error("request %s refused: administrator() named nobody", request_id(scope))
            raise RefusedError(_NO_ADMINISTRATOR)
        return actor

    async def _tenant(
        self, tenant_id: str, directory: Callable[[str], Awaitable[Tenant | None]]
    ) -> Tenant:
        try:
            tenant = await directory(valid_tenant_id(tenant_id))
        except TenantUnresolvedError as error:
            raise RefusedError(_UNKNOWN) from error
        if tenant is None or tenant.id != tenant_id:
            raise RefusedError(_UNKNOWN)
        return tenant

    async def _administer(
        self, scope: Scope, receive: Receive, send: Send, tenant: Tenant, actor: str
    ) -> None:
        if self._overrides is None:
            _ensure_method(scope, "GET", "HEAD")
        else:
            _ensure_method(scope, "GET", "HEAD", "PUT", "DELETE")
        try:
            if self._overrides is not None and scope["method"] == "PUT":
                await self._put(scope, receive, self._overrides, tenant, actor)
            elif self._overrides is not None and scope["method"] == "DELETE":
                await self._delete(scope, self._overrides, tenant, actor)
            answer = await self._state(scope, tenant)
        except BackendUnavailableError as error:
            raise _unavailable(scope, error) from error
        await _answer(send, answer)

    async def _state(self, scope: Scope, tenant: Tenant) -> _Answer:
        views = await self._views(scope, tenant, shadow=True)
        body = {"tenant": tenant.id, "tier": tenant.tier, "time_zone": tenant.time_zone, **views}
        if self._overrides is None:
            return _Answer(body)
        history = await self._overrides.store.history(tenant.id, limit=_MOST_HISTORY)
        current = None if not history or history[0].deleted else history[0]
        body["override"] = None if current is None else override_view(current)
        body["history"] = [override_view(one) for one in history]
        return _Answer(body, etag=_version(current))

    async def _put(
        self,
        scope: Scope,
        receive: Receive,
        overrides: OverriddenPlans,
        tenant: Tenant,
        actor: str,
    ) -> None:
        body = await read_body(scope, receive)
        plan = overrides.for_tenant(tenant)
        change = read_change(body, lambda name, limit: _ensure_fits(plan, name, limit))
        expected = expected_version(scope, _version(await overrides.store.get(tenant.id)))
        try:
            await overrides.put(
                tenant, change.limits, actor=actor, reason=change.reason, expected=expected
            )
        except ConfigurationError as error:
            raise invalid(("limits", str(error))) from error
        except PlatformError as error:
            raise _conflict(error) from error

    async def _delete(
        self, scope: Scope, overrides: OverriddenPlans, tenant: Tenant, actor: str
    ) -> None:
        reason = read_reason(scope)
        expected = expected_version(scope, _version(await overrides.store.get(tenant.id)))
        try:
            await overrides.delete(tenant.id, actor=actor, reason=reason, expected=expected)
        except PlatformError as error:
            raise _conflict(error) from error

    async def _export(
        self, scope: Scope, receive: Receive, send: Send, ledger: UsageLedger, actor: str
    ) -> None:
        _ensure_method(scope, "GET", "HEAD")
        asked = read_export(scope)
        _logger.info("request %s: %s exports usage, %s", request_id(scope), actor, asked)
        started = False

        async def send_noting(message: Any) -> None:
            nonlocal started
            started = True
            await send(message)

        head = scope["method"] == "HEAD"
        try:
            await send_export(
                ledger, asked, receive, send_noting, now=self._clock(), headers_only=head
            )
        except BackendUnavailableError as error:
            if started:
                raise
            raise _unavailable(scope, error) from error


class _Answer:
    __slots__ = ("body", "etag")

    def __init__(self, body: dict[str, Any], *, etag: int | None = None) -> None:
        self.body = body
        self.etag = etag


async def _answer(send: Send, answer: _Answer) -> None:
    body = json.dumps(answer.body).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
    ]
    if answer.etag is not None:
        headers.append((b"etag", f'"{answer.etag}"'.encode()))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _without_body(send: Send) -> Send:
    async def send_headers(message: Any) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await send(message)

    return send_headers


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return


def _ensure_method(scope: Scope, *methods: str) -> None:
    if scope["method"] not in methods:
        raise RefusedError(
            Problem(
                status=405,
                code="method_not_allowed",
                title="This cannot be done here",
                headers={"allow": ", ".join(methods)},
            )
        )


def _ensure_fits(plan: Plan, name: str, limit: Limit) -> None:
    overridden(plan, {name: limit}, strict=True)


def _version(override: Override | None) -> int:
    return 0 if override is None else override.version


def _conflict(error: PlatformError) -> Exception:
    return changed_since() if error.code == "override_changed" else error


def _unavailable(scope: Scope, error: BackendUnavailableError) -> RefusedError:
    _logger.warning("request %s refused, %s: %s", request_id(scope), error.code, error)
    wait = max(1, math.ceil(error.retry_after))
    return RefusedError(
        Problem(
            status=503,
            code="backend_unavailable",
            title="Not available at the moment",
            headers={"retry-after": str(wait)},
        )
    )
