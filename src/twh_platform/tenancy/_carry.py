"""
The current tenant in threads and executors, and workers that start without one.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, Future
from contextvars import Context
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from ._context import Binding, bind_again, binding_here

__all__ = ["TenantExecutor", "TenantThread", "carry_tenant", "create_clean_task"]

P = ParamSpec("P")
T = TypeVar("T")


def carry_tenant(call: Callable[P, T]) -> Callable[P, T]:
    """
    Return *call* tied to the tenant that is current now, wherever it runs.

    For callbacks and for `loop.run_in_executor`, which start in an empty
    context.  Only the tenant is carried, with its lease if it has one, and no
    other context variable.
    """
    bound = binding_here()

    @wraps(call)
    def carried(*args: P.args, **kwargs: P.kwargs) -> T:
        with bind_again(bound):
            return call(*args, **kwargs)

    return carried


def _run_bound(bound: Binding, call: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    with bind_again(bound):
        return call(*args, **kwargs)


class TenantExecutor(Executor):
    """
    An executor whose calls run as the tenant that submitted them.

        >>> from concurrent.futures import ThreadPoolExecutor
        >>> from twh_platform.tenancy import Tenant, bind_tenant, current_tenant
        >>> with bind_tenant(Tenant(id="acme")), TenantExecutor(
        ...     ThreadPoolExecutor()
        ... ) as pool:
        ...     pool.submit(current_tenant).result().id
        'acme'

    Args:
        inner: Any executor, of threads or of processes; shut down with this.
    """

    def __init__(self, inner: Executor) -> None:
        self._inner = inner

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """
        Schedule a call as the current tenant, or as none if none is bound.
        """
        # A module-level function, so that a process pool can pickle the call.
        return self._inner.submit(_run_bound, binding_here(), fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 -- the base class's signature
        """
        Shut the inner executor down.
        """
        self._inner.shutdown(wait=wait, cancel_futures=cancel_futures)


class TenantThread(threading.Thread):
    """
    A thread that runs as the tenant that was current when it was made.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._bound = binding_here()

    def run(self) -> None:
        """
        Run the target as that tenant.
        """
        with bind_again(self._bound):
            super().run()


def create_clean_task(
    coroutine: Coroutine[Any, Any, T], *, name: str | None = None
) -> asyncio.Task[T]:
    """
    Start *coroutine* as a task in an empty context, so without any tenant.

    For workers that are started on first use.  A plain task would keep, for
    its whole life, the tenant of the request that happened to start it.
    """
    return asyncio.get_running_loop().create_task(coroutine, name=name, context=Context())
