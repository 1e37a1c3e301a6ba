"""
The current tenant: bound in a `with`, seen by everything called from it.

The value lives in a context variable, so it follows `await`, tasks,
`asyncio.to_thread` and anyio.  Plain threads and executors start without it, or,
where Python is told to let threads inherit (free-threaded 3.14 does by itself),
with the one of whoever started them; `_carry` has wrappers for those.

A tenant that is bound with a lease is held there as a `LeasedTenant`, which
has nothing but an id, and gives it while the lease lasts.  So whoever reads
the variable itself, as the database bindings do for every statement, pays for
a lease only where there is one and cannot overlook that it is over.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any, Self, TypeAlias, final

from ..errors import ConfigurationError, NoCurrentTenantError, TenantSuspendedError
from ._tenant import Tenant

__all__ = [
    "Binding",
    "Lease",
    "LeasedTenant",
    "bind_again",
    "bind_tenant",
    "binding_here",
    "current_tenant",
    "known_id",
    "require_tenant",
    "unbind_tenant",
]


class Lease:
    """
    Until when a binding holds; shared by all who took the binding over.

    Attributes:
        seconds: How long it holds from each renewal on.

        endings: How often it was ended.

        ends_at: From this moment of its clock on it does not hold.

        renew_at: From this moment on a connection that talks renews it.
    """

    __slots__ = ("clock", "endings", "ends_at", "renew_at", "seconds")

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self.seconds = seconds
        self.clock = clock
        self.endings = 0
        self.ends_at = self.renew_at = float("-inf")
        self.renew(clock())

    def renew(self, asked_at: float) -> None:
        """
        Let it hold anew, on the word of a directory that was asked at that moment.
        """
        self.ends_at = max(self.ends_at, asked_at + self.seconds)
        self.renew_at = max(self.renew_at, asked_at + self.seconds / 2)

    def postpone(self) -> None:
        """
        Try to renew it later, in the middle of what is left.
        """
        self.renew_at = (self.clock() + self.ends_at) / 2

    def end(self) -> None:
        """
        Let it hold no longer.
        """
        self.endings += 1
        self.ends_at = self.renew_at = float("-inf")


@final
class LeasedTenant:
    """
    A tenant whose id can be had only while a lease lasts.
    """

    __slots__ = ("lease", "tenant")

    def __init__(self, tenant: Tenant, lease: Lease) -> None:
        self.tenant = tenant
        self.lease = lease

    @property
    def id(self) -> str:
        """
        The tenant's id.

        Raises:
            twh_platform.errors.TenantSuspendedError: With code
                ``tenant_lease_expired``, once the lease is over.
        """
        lease = self.lease
        if lease.clock() >= lease.ends_at:
            message = (
                f"the lease on tenant {self.tenant.id!r} is over: this work has outlived its "
                "request, or has to renew_lease(...)"
            )
            raise TenantSuspendedError(message, code="tenant_lease_expired")
        return self.tenant.id

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process has another clock: it gets what is left.
        lease = self.lease
        return _leased_here, (self.tenant, lease.seconds, lease.ends_at - lease.clock())


def _leased_here(tenant: Tenant, seconds: float, left: float) -> LeasedTenant:
    lease = Lease(seconds, time.monotonic)
    lease.ends_at = time.monotonic() + left
    return LeasedTenant(tenant, lease)


Binding: TypeAlias = Tenant | LeasedTenant | None

_current: ContextVar[Binding] = ContextVar("twh_tenant", default=None)

# Found once: measured, it pays for half of asking whether there is a lease.
_get = _current.get


def current_tenant() -> Tenant | None:
    """
    The tenant bound here, or None.

    Raises:
        twh_platform.errors.TenantSuspendedError: With code
            ``tenant_lease_expired``, if it was bound with a lease that is over.
    """
    bound = _get()
    if type(bound) is LeasedTenant:
        return _held(bound)
    return bound


def require_tenant() -> Tenant:
    """
    The tenant bound here.

    Raises:
        twh_platform.errors.NoCurrentTenantError: If there is none.

        twh_platform.errors.TenantSuspendedError: As `current_tenant`.
    """
    bound = _get()
    if bound is None:
        message = "no tenant is bound: wrap the call in bind_tenant(...)"
        raise NoCurrentTenantError(message)
    if type(bound) is LeasedTenant:
        return _held(bound)
    return bound


def _held(bound: LeasedTenant) -> Tenant:
    _ = bound.id
    return bound.tenant


def binding_here() -> Binding:
    """
    What is bound here, its lease included and not judged: to be bound again elsewhere.
    """
    return _get()


def known_id(bound: Binding) -> str | None:
    """
    Whose binding this is, also when its lease is over: to note what happened, never to allow it.
    """
    if isinstance(bound, LeasedTenant):
        return bound.tenant.id
    return None if bound is None else bound.id


class bind_tenant:  # noqa: N801 -- read as a verb in a with statement
    """
    Make *tenant* the current one inside a `with`; the leave restores the one before.

        >>> with bind_tenant(Tenant(id="acme")):
        ...     require_tenant().id
        'acme'

    Do not hold it open across a `yield` of a generator: what the generator
    sets, its caller sees.  Binds must be left in the reverse order of their
    entry, as nested `with` are: each puts back what it found, so of two
    generators closed in the order of their start, the second leaves the tenant
    of the first bound, though nobody holds it any more.  Left from another task
    or thread than it was entered in, it takes back only its own binding.

    Args:
        tenant: The tenant, or None to have no tenant inside.

        lease: Seconds for which it is bound.  Afterwards `current_tenant`,
            `require_tenant` and the database bindings raise
            `twh_platform.errors.TenantSuspendedError` until `renew_lease` has
            asked whether the tenant is still served.  Tasks, threads and
            executors that take the tenant over take the lease over, and are
            renewed with it.  Without one of its own, a nested bind of the same
            tenant keeps the lease that it finds.

        clock: Seconds that never go back, for the lease.

    Raises:
        twh_platform.errors.ConfigurationError: For a lease that is not above
            zero, or without a tenant.
    """

    __slots__ = ("_bound", "_clock", "_lease", "_token")

    def __init__(
        self,
        tenant: Tenant | None,
        *,
        lease: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if tenant is not None and not isinstance(tenant, Tenant):
            message = f"bind_tenant() takes a Tenant, not {type(tenant).__name__}"
            raise TypeError(message)
        if lease is not None and not (tenant is not None and lease > 0):
            message = f"lease={lease!r} is not above zero, or there is no tenant to lease"
            raise ConfigurationError(message)
        self._bound: Binding = tenant
        self._lease = lease
        self._clock = clock
        self._token: Token[Binding] | None = None

    def __enter__(self) -> Self:
        if self._token is not None:
            message = "this bind_tenant() is entered already; make another one"
            raise RuntimeError(message)
        if self._lease is not None or type(_get()) is LeasedTenant:
            self._bound = self._leased()
        self._token = _current.set(self._bound)
        return self

    def _leased(self) -> Binding:
        bound, outer = self._bound, _get()
        if not isinstance(bound, Tenant):
            return bound
        if self._lease is not None:
            return LeasedTenant(bound, Lease(self._lease, self._clock))
        if isinstance(outer, LeasedTenant) and outer.tenant.id == bound.id:
            return LeasedTenant(bound, outer.lease)
        return bound

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        token, self._token = self._token, None
        if token is None:
            return
        try:
            _current.reset(token)
        except ValueError:  # another context: its binding may not be ours
            if _get() is self._bound:
                before = token.old_value
                _current.set(None if before is Token.MISSING else before)


class bind_again(bind_tenant):  # noqa: N801 -- as bind_tenant
    """
    Bind what `binding_here` gave elsewhere: the same tenant, under the same lease.
    """

    __slots__ = ()

    def __init__(self, bound: Binding) -> None:
        # Twice for every message of a connection, so without the checks above.
        self._bound = bound
        self._token = None

    def __enter__(self) -> Self:
        self._token = _current.set(self._bound)
        return self


def unbind_tenant() -> bind_tenant:
    """
    Have no current tenant inside a `with`: for work that belongs to nobody.
    """
    return bind_tenant(None)
