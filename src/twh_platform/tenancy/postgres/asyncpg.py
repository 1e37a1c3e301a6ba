"""
asyncpg connections whose every transaction belongs to the current tenant.

    >>> import asyncpg
    >>> pool = asyncpg.create_pool(
    ...     dsn, connection_class=TenantConnection
    ... )  # doctest: +SKIP

A pool of these spares asyncpg's reset query, one round trip per release:
what a tenant leaves in a session is scrubbed when another tenant comes, in
the message that opens its transaction.

Work in transactions: outside of one no tenant is bound and the policies
refuse.  Settings belong into ``server_settings`` or the role.  What is SET in
a session is reset when the tenant changes.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from functools import lru_cache
from operator import attrgetter
from typing import Any

from ..._extras import missing_extra
from ._binding import TransactionBinding

try:
    import asyncpg
    from asyncpg.transaction import Transaction
except ImportError as cause:
    raise missing_extra("asyncpg", cause) from cause

__all__ = ["TenantConnection", "TenantTransaction", "connect"]

# Words only: what follows in the message must not end up in a comment.
_BEGIN = re.compile(r"\s*((?:BEGIN|START\s+TRANSACTION)\b[\w\s,]*);?\s*", re.IGNORECASE)
_END = re.compile(r"\s*(?:COMMIT|END|ROLLBACK|ABORT|RELEASE)\b[^;]*;?\s*", re.IGNORECASE)
_Send = Callable[..., Awaitable[Any]]

_SENDS = ("prepare", "bind", "bind_execute", "bind_execute_many", "execute", "copy_in", "copy_out")


class TenantConnection(asyncpg.Connection):  # type: ignore[misc]
    """
    An `asyncpg.Connection` that binds each transaction to the current tenant.

    Pass it as ``connection_class`` to `asyncpg.connect` or
    `asyncpg.create_pool`.

    Raises:
        twh_platform.errors.TenantMismatchError: When used inside a
            transaction that was opened for another tenant.
    """

    __slots__ = ("binding",)

    def __init__(self, protocol: Any, *args: Any, **kwargs: Any) -> None:
        self.binding = TransactionBinding()
        super().__init__(_GuardedProtocol(protocol, self.binding), *args, **kwargs)

    def transaction(
        self, *, isolation: str | None = None, readonly: bool = False, deferrable: bool = False
    ) -> TenantTransaction:
        """
        Make a transaction or savepoint block, bound to the current tenant.
        """
        self._check_open()
        return TenantTransaction(self, isolation, readonly, deferrable)

    def get_reset_query(self) -> str:
        """
        Nothing: the next tenant's BEGIN brings the scrub with it.
        """
        return ""


async def connect(*args: Any, **kwargs: Any) -> TenantConnection:
    """
    Open a `TenantConnection`; takes what `asyncpg.connect` takes.
    """
    kwargs["connection_class"] = TenantConnection
    return await asyncpg.connect(*args, **kwargs)  # type: ignore[no-any-return]


class TenantTransaction(Transaction):  # type: ignore[misc]
    """
    A transaction that makes sure it was bound.

    asyncpg opens a transaction by a simple query, where the binding is folded
    in.  That is its own affair and may change; then the binding follows here,
    in a message of its own.
    """

    __slots__ = ()

    async def start(self) -> None:
        """
        Open the transaction or savepoint.
        """
        connection = self._connection
        begins = connection.binding.begins
        await super().start()
        if not self._nested and connection.binding.begins == begins:
            try:
                await connection._protocol.bind_late()  # noqa: SLF001 -- it is ours
            except BaseException:
                # Nobody else knows that there is a transaction to end.
                connection.terminate()
                raise


class _GuardedProtocol:
    """
    asyncpg's protocol object, asked about the tenant before each statement.

    All that a connection, a prepared statement or a cursor sends goes through
    these methods, so one place binds what opens a transaction and sees a
    tenant switch within one.

    What needs no message of ours is passed on by a plain function, and the
    other methods are the protocol's own.  A coroutine around each and a
    ``__getattr__`` were measured: they cost more than the binding itself.
    """

    def __init__(self, inner: Any, binding: TransactionBinding) -> None:
        self._inner = inner
        self._binding = binding
        self._query = inner.query
        for name in _methods(type(inner)):
            setattr(self, name, getattr(inner, name))
        for name in _SENDS:
            setattr(self, name, self._guarded(getattr(inner, name)))
        self.query = self._guarded_query()

    def _guarded(self, send: _Send) -> _Send:
        is_cancelling, in_transaction = self._inner._is_cancelling, self._inner.is_in_transaction  # noqa: SLF001
        check, after_cancelling = self._binding.check, self._after_cancelling
        scrub_and = self._scrub_and

        def guarded(*args: Any, **kwargs: Any) -> Awaitable[Any]:
            if is_cancelling():
                return after_cancelling(guarded, *args, **kwargs)
            if in_transaction():
                check()
                return send(*args, **kwargs)
            return scrub_and(send, *args, **kwargs)

        return guarded

    def _guarded_query(self) -> _Send:
        is_cancelling, in_transaction = self._inner._is_cancelling, self._inner.is_in_transaction  # noqa: SLF001
        send, begin_with, after_cancelling = self._query, self._begin, self._after_cancelling
        guarded = self._guarded(send)

        def guarded_query(query: str, timeout: float | None) -> Awaitable[Any]:
            if _ends_transaction(query):  # which may be done from anywhere
                return send(query, timeout)
            if is_cancelling():
                return after_cancelling(guarded_query, query, timeout)
            begin = _begin_of(query)
            if begin is None or in_transaction():
                return guarded(query, timeout)
            return begin_with(begin, timeout)

        return guarded_query

    async def bind_late(self) -> None:
        await self._query(self._binding.bind_message(), None)
        self._binding.begun()

    async def _begin(self, begin: str, timeout: float | None) -> Any:
        status = await self._query(self._binding.begin_message(begin), timeout)
        self._binding.begun()
        return status

    async def _after_cancelling(self, send: _Send, *args: Any, **kwargs: Any) -> Any:
        # Only the answer to what was cancelled tells whether a transaction is open.
        await self._inner._wait_for_cancellation()  # noqa: SLF001
        return await send(*args, **kwargs)

    async def _scrub_and(self, send: _Send, *args: Any, **kwargs: Any) -> Any:
        scrub = self._binding.scrub_message()
        if scrub is not None:
            await self._query(scrub, None)
            self._binding.scrubbed()
        return await send(*args, **kwargs)

# What asyncpg and SQLAlchemy send is one of a few strings.
@lru_cache(maxsize=64)
def _ends_transaction(query: str) -> bool:
    return _END.fullmatch(query) is not None


@lru_cache(maxsize=64)
def _begin_of(query: str) -> str | None:
    begin = _BEGIN.fullmatch(query)
    return begin and begin[1].rstrip()


@lru_cache(maxsize=1)
def _methods(protocol: type) -> tuple[str, ...]:
    """
    Names of the protocol's methods; its other attributes are read through us.
    """
    methods = []
    for name in dir(protocol):
        if name.startswith("__"):
            continue
        if callable(getattr(protocol, name)):
            methods.append(name)
        else:
            setattr(_GuardedProtocol, name, property(attrgetter(f"_inner.{name}")))
    return tuple(methods)
