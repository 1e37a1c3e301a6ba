"""
The current tenant: bound in a `with`, seen by everything called from it.

The value lives in a context variable, so it follows `await`, tasks,
`asyncio.to_thread` and anyio.  Plain threads and executors start without it, or,
where Python is told to let threads inherit (free-threaded 3.14 does by itself),
with the one of whoever started them; `_carry` has wrappers for those.
"""

from __future__ import annotations

from contextvars import ContextVar, Token
from types import TracebackType
from typing import Self

from ..errors import NoCurrentTenantError
from ._tenant import Tenant

__all__ = ["bind_tenant", "current_tenant", "require_tenant", "unbind_tenant"]

_current: ContextVar[Tenant | None] = ContextVar("twh_tenant", default=None)


def current_tenant() -> Tenant | None:
    """
    The tenant bound here, or None.
    """
    return _current.get()


def require_tenant() -> Tenant:
    """
    The tenant bound here.

    Raises:
        twh_platform.errors.NoCurrentTenantError: If there is none.
    """
    tenant = _current.get()
    if tenant is None:
        message = "no tenant is bound: wrap the call in bind_tenant(...)"
        raise NoCurrentTenantError(message)
    return tenant


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
    """

    __slots__ = ("_tenant", "_token")

    def __init__(self, tenant: Tenant | None) -> None:
        if tenant is not None and not isinstance(tenant, Tenant):
            message = f"bind_tenant() takes a Tenant, not {type(tenant).__name__}"
            raise TypeError(message)
        self._tenant = tenant
        self._token: Token[Tenant | None] | None = None

    def __enter__(self) -> Self:
        if self._token is not None:
            message = "this bind_tenant() is entered already; make another one"
            raise RuntimeError(message)
        self._token = _current.set(self._tenant)
        return self

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
            if _current.get() is self._tenant:
                before = token.old_value
                _current.set(None if before is Token.MISSING else before)


def unbind_tenant() -> bind_tenant:
    """
    Have no current tenant inside a `with`: for work that belongs to nobody.
    """
    return bind_tenant(None)
