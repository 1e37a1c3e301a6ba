"""
Renewing a lease: asking the directory again whether a tenant is still served.

A connection that talks is renewed by the middleware, half-way through its
lease, at a message that comes or goes.  What has outlived its connection is
renewed by nobody, and what works in silence asks for itself.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from .._asgi import Message, Problem, Receive, Scope, Send
from ..errors import BackendUnavailableError, NoCurrentTenantError, PlatformError, TenantError
from ._clock import utc_now
from ._context import Binding, LeasedTenant, bind_again, binding_here
from ._directory import TenantDirectory, served_tenant
from ._tenant import Tenant

__all__ = ["LeasedConnection", "renew_lease"]

_POLICY_VIOLATION = 1008  # RFC 6455, section 7.4.1


async def renew_lease(
    directory: TenantDirectory, *, clock: Callable[[], datetime] = utc_now
) -> Tenant:
    """
    Ask whether the current tenant may still be served, and let its lease begin anew.

    A lease that is over can be renewed too.  Where the directory refuses, it
    ends at once, for all who share it.  Bound without a lease, the tenant is
    asked for all the same.

        >>> import asyncio
        >>> from twh_platform.tenancy import MemoryTenantDirectory, bind_tenant
        >>> acme = Tenant(id="acme")
        >>> with bind_tenant(acme, lease=60):
        ...     asyncio.run(renew_lease(MemoryTenantDirectory([acme]))).id
        'acme'

    Args:
        directory: Where the tenant is looked up.

        clock: The current moment, with time zone.

    Returns:
        The tenant as the directory has it now.  What is bound stays as it was.

    Raises:
        twh_platform.errors.NoCurrentTenantError: If none is bound.

        twh_platform.errors.TenantSuspendedError: If it may not be served now.

        twh_platform.errors.TenantUnresolvedError: If it is gone.

        twh_platform.errors.BackendUnavailableError: If that cannot be known
            now; the lease runs on to its end.
    """
    bound = binding_here()
    if bound is None:
        message = "no tenant is bound: there is no lease to renew"
        raise NoCurrentTenantError(message)
    if isinstance(bound, Tenant):
        return await served_tenant(directory, bound.id, clock)
    return await _renew(bound, directory, clock)


async def _renew(
    bound: LeasedTenant, directory: TenantDirectory, clock: Callable[[], datetime]
) -> Tenant:
    lease = bound.lease
    endings, asked_at = lease.endings, lease.clock()  # the answer is no younger than the question
    try:
        tenant = await served_tenant(directory, bound.tenant.id, clock)
    except TenantError:
        lease.end()
        raise
    if lease.endings == endings:
        lease.renew(asked_at)
    else:
        _ = bound.id  # ended since the question: the answer is too old to revive it
    return tenant


class LeasedConnection:
    """
    The two ends of one connection, which renew its lease when they are used.

    Attributes:
        refused: Why the lease could not be renewed, if it could not.
    """

    def __init__(
        self,
        receive: Receive,
        send: Send,
        *,
        outer: Binding,
        directory: TenantDirectory,
        clock: Callable[[], datetime],
    ) -> None:
        self._receive, self._send, self._outer = receive, send, outer
        self._directory, self._clock = directory, clock
        bound = binding_here()
        assert isinstance(bound, LeasedTenant)  # noqa: S101 -- the middleware has just bound it
        self._bound = bound
        self.refused: PlatformError | None = None
        self._has_received = False
        self._last_sent = ""

    async def receive(self) -> Message:
        """
        Receive, and see that the app may have what came.
        """
        with bind_again(self._outer):
            message = await self._receive()
        self._has_received = True
        if not message["type"].endswith(".disconnect"):  # it ends by itself
            await self._keep()
        return message

    async def send(self, message: Message) -> None:
        """
        See that the app may still speak, and send.
        """
        await self._keep()
        self._last_sent = message["type"]
        with bind_again(self._outer):
            await self._send(message)

    async def cut(self, refusal: Problem, scope: Scope) -> bool:
        """
        Answer in place of the app; False if it has begun to answer itself.
        """
        with bind_again(self._outer):
            if self._last_sent in {"websocket.accept", "websocket.send"}:
                await self._send({"type": "websocket.close", "code": _POLICY_VIOLATION})
            elif not self._last_sent:
                await refusal(scope, self._first, self._send)
        return self._last_sent in {"", "websocket.accept", "websocket.send", "websocket.close"}

    async def _first(self) -> Message:
        # What the app has received already does not come again.
        return {"type": "websocket.connect"} if self._has_received else await self._receive()

    async def _keep(self) -> None:
        lease = self._bound.lease
        if lease.clock() < lease.renew_at:
            return
        try:
            await _renew(self._bound, self._directory, self._clock)
        except BackendUnavailableError as error:
            if lease.clock() >= lease.ends_at:
                self.refused = error
                raise
            lease.postpone()
        except TenantError as error:
            self.refused = error
            raise
