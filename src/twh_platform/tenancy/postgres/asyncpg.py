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

import asyncio
import re
from collections.abc import Awaitable, Callable
from functools import lru_cache
from inspect import signature
from operator import attrgetter
from typing import Any
from weakref import ref

from ..._extras import missing_extra
from ..._signals import has_listeners
from ...errors import PlatformError
from .._announcements import TenantViolation
from .._context import unbind_tenant
from ._administrator_binding import Administered
from ._asyncpg_login import verify_login
from ._binding import Configured, TransactionBinding
from ._violations import announce_error, lost_statement

try:
    import asyncpg
    from asyncpg import introspection
    from asyncpg.transaction import Transaction
except ImportError as cause:
    raise missing_extra("asyncpg", cause) from cause

__all__ = [
    "AdministratorConnection",
    "TenantConnection",
    "TenantTransaction",
    "connect",
    "verify_login",
]

# Words only: what follows in the message must not end up in a comment.
_BEGIN = re.compile(r"\s*((?:BEGIN|START\s+TRANSACTION)\b[\w\s,]*);?\s*", re.IGNORECASE)
_END = re.compile(r"\s*(?:COMMIT|END|ROLLBACK|ABORT|RELEASE)\b[^;]*;?\s*", re.IGNORECASE)
_Send = Callable[..., Awaitable[Any]]

_BIND_EXECUTE = ("state", "args", "portal_name", "limit", "return_extra", "timeout")
_SENDS = ("prepare", "bind", "bind_execute", "bind_execute_many", "execute", "copy_in", "copy_out")


class _BoundConnection(Configured, asyncpg.Connection):  # type: ignore[misc]
    __slots__ = ("binding", "folds")

    def __init__(self, protocol: Any, *args: Any, **kwargs: Any) -> None:
        startup = _startup_settings(protocol, args) if self._pooled else None
        self.binding = self._binding_kind(self._seal, pooled=self._pooled, startup=startup)
        self.folds = False
        guarded = _GuardedProtocol(protocol, self.binding, ref(self))
        super().__init__(guarded, *args, **kwargs)

    def transaction(
        self, *, isolation: str | None = None, readonly: bool = False, deferrable: bool = False
    ) -> Transaction:
        """
        Make a transaction or savepoint block, bound to the current tenant.
        """
        self._check_open()
        # Seen once on a connection, folding need not be looked for again.
        kind = _Block if self.folds else TenantTransaction
        return kind(self, isolation, readonly, deferrable)

    async def reset(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109 -- theirs
        """
        Roll back what is open, once it is known what a cancellation left open.
        """
        async with asyncio.timeout(timeout):
            await self._protocol.settle()
        await super().reset(timeout=timeout)

    def _process_notification(self, *args: Any) -> None:
        # It comes when the server likes, in the context of whoever connected.
        with unbind_tenant():
            super()._process_notification(*args)

    def get_reset_query(self) -> str:
        """
        Nothing: the next tenant's BEGIN brings the scrub with it.
        """
        return ""


class TenantConnection(_BoundConnection):
    """
    An `asyncpg.Connection` that binds each transaction to the current tenant.

    Pass it as ``connection_class`` to `asyncpg.connect` or
    `asyncpg.create_pool`.

    Raises:
        twh_platform.errors.TenantMismatchError: When used inside a
            transaction that was opened for another tenant.
    """

    __slots__ = ()


class AdministratorConnection(Administered, _BoundConnection):
    """
    An `asyncpg.Connection` of the administrators' login: it works in `administrator` only.

    Pass it as ``connection_class`` to `asyncpg.connect` or
    `asyncpg.create_pool`.

    Raises:
        twh_platform.errors.AdministratorError: When used outside of it, or
            inside a transaction that was opened in another one.
    """

    __slots__ = ()


async def connect(*args: Any, **kwargs: Any) -> TenantConnection:
    """
    Open a `TenantConnection`; takes what `asyncpg.connect` takes.
    """
    kind = kwargs.setdefault("connection_class", TenantConnection)
    if getattr(kind, "_pooled", False):
        # The next transaction may be in a session that has not prepared it.
        kwargs.setdefault("statement_cache_size", 0)
    return await asyncpg.connect(*args, **kwargs)  # type: ignore[no-any-return]


def _startup_settings(protocol: Any, given: tuple[Any, ...]) -> dict[str, str]:
    """
    What this client told the server when it connected.
    """
    parameters = next((one for one in given if hasattr(one, "server_settings")), None)
    settings = dict(getattr(parameters, "server_settings", None) or {})
    if getattr(protocol.get_settings(), "server_encoding", "UTF8") != "UTF8":
        settings["client_encoding"] = "UTF8"  # asyncpg always says so
    return settings


class _Block(Transaction):  # type: ignore[misc]
    __slots__ = ()

    # A plain function: on the way out of every transaction a coroutine more would tell.
    def __aexit__(self, kind: Any, error: BaseException | None, traceback: Any) -> Awaitable[Any]:
        if lost_statement(error):
            self._connection.terminate()
            return asyncio.sleep(0)
        left: Awaitable[Any] = super().__aexit__(kind, error, traceback)
        return left


class TenantTransaction(_Block):
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
        if self._nested:
            return
        connection.folds = connection.binding.begins != begins
        if not connection.folds:
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
    ``__getattr__`` were measured: they cost more than the binding itself.  Only
    what executes a prepared statement is always waited for here: it is where a
    statement turns out to be gone.
    """

    def __init__(
        self, inner: Any, binding: TransactionBinding, connection: Callable[[], Any]
    ) -> None:
        self._inner = inner
        self._connection = connection
        self._binding = binding
        self._may_send = self._gate()
        kind: Any = type(inner)
        for name in _methods(kind):
            setattr(self, name, getattr(inner, name))
        for name in _SENDS:
            setattr(self, name, self._guarded(getattr(inner, name)))
        if tuple(signature(inner.bind_execute).parameters) == _BIND_EXECUTE:
            self.bind_execute = self._guarded_bind_execute(inner.bind_execute)
        self.query = self._guarded_query(inner.query)

    def _gate(self) -> Callable[[], bool]:
        is_cancelling, in_transaction = self._inner._is_cancelling, self._inner.is_in_transaction  # noqa: SLF001
        check = self._binding.check

        def may_send() -> bool:
            """
            Whether there is an open transaction, which the current tenant may use.
            """
            if is_cancelling() or not in_transaction():
                return False
            check()
            return True

        return may_send

    def _guarded(self, send: _Send) -> _Send:
        may_send, make_way = self._may_send, self._make_way

        def guarded(*args: Any, **kwargs: Any) -> Awaitable[Any]:
            if may_send():
                sent = send(*args, **kwargs)
                return self._told(sent) if has_listeners(TenantViolation) else sent
            return make_way(send, *args, **kwargs)

        return guarded

    def _guarded_bind_execute(self, send: _Send) -> _Send:
        # The same for what sends most statements: to pass names on costs more
        # than to guard.
        may_send, make_way, told = self._may_send, self._make_way, self._told

        def guarded(  # noqa: PLR0917 -- theirs
            state: Any, args: Any, portal_name: Any, limit: Any, return_extra: Any, timeout: Any
        ) -> Awaitable[Any]:
            if may_send():
                return told(send(state, args, portal_name, limit, return_extra, timeout))
            return make_way(send, state, args, portal_name, limit, return_extra, timeout)

        return guarded

    def _guarded_query(self, send: _Send) -> _Send:
        may_send, make_way, begin_with = self._may_send, self._make_way, self._binding_begin(send)

        def guarded(query: str, timeout: float | None) -> Awaitable[Any]:
            # Longer ones are work; they are not worth remembering.
            begin = _begin_of(query) if len(query) <= _LONGEST_BEGIN else None
            if begin:
                return begin_with(begin, timeout)
            if begin == _ENDS or may_send():  # a transaction may be ended from anywhere
                sent = send(query, timeout)
                return self._told(sent) if has_listeners(TenantViolation) else sent
            return make_way(send, query, timeout)

        return guarded

    def _binding_begin(self, send: _Send) -> _Send:
        is_cancelling, in_transaction = self._inner._is_cancelling, self._inner.is_in_transaction  # noqa: SLF001
        binding = self._binding
        begin_message, begun = binding.begin_message, binding.begun

        async def begin_with(begin: str, timeout: float | None) -> Any:  # noqa: ASYNC109 -- theirs
            if (in_transaction() or is_cancelling()) and await self._in_transaction():
                return await send(begin, timeout)
            try:
                message = begin_message(begin)
            except PlatformError:
                # asyncpg would take the next transaction for one within this.
                self._connection()._top_xact = None  # noqa: SLF001 -- it is ours
                raise
            scrubbing = binding.scrubbing
            try:
                status = await send(message, timeout)
            except asyncpg.PostgresError:
                if scrubbing:  # what it fails on would be there the next time too
                    self._connection().terminate()
                raise
            begun()
            return status

        return begin_with

    async def _make_way(self, send: _Send, *args: Any, **kwargs: Any) -> Any:
        if not await self._in_transaction():
            await self._scrub(args)
        return await self._told(send(*args, **kwargs))

    async def _scrub(self, arguments: tuple[Any, ...]) -> None:
        if self._binding.pooled and _is_introspection(arguments):
            return  # asyncpg's own questions about types, which read no rows
        scrub = self._binding.scrub_message()
        if scrub is None:
            return
        try:
            await self._inner.query(scrub, None)
        except asyncpg.PostgresError:
            self._connection().terminate()
            raise
        self._binding.scrubbed()

    async def _told(self, sent: Awaitable[Any]) -> Any:
        """
        Wait for the server; every error of it leaves the driver here.
        """
        try:
            return await sent
        except asyncpg.PostgresError as error:
            announce_error(error)
            if lost_statement(error):
                self._connection().terminate()
            raise

    async def _in_transaction(self) -> bool:
        await self.settle()  # only the answer to what was cancelled tells
        return self._may_send()

    async def settle(self) -> None:
        """
        Wait for the answer to what was cancelled.
        """
        if self._inner._is_cancelling():  # noqa: SLF001
            # asyncpg < 0.32 does not shield it: cancelled here, no later wait would end well.
            await asyncio.shield(self._inner._wait_for_cancellation())  # noqa: SLF001

    async def bind_late(self) -> None:
        await self._inner.query(self._binding.bind_message(), None)
        self._binding.begun()


def _is_introspection(arguments: tuple[Any, ...]) -> bool:
    texts = (getattr(one, "query", one) for one in arguments[:2])
    return any(isinstance(one, str) and one in _INTROSPECTION for one in texts)


# And the ping of SQLAlchemy.
_INTROSPECTION = frozenset((introspection.INTRO_LOOKUP_TYPES, introspection.TYPE_BY_NAME, ";"))
_ENDS = ""
_LONGEST_BEGIN = 200


@lru_cache(maxsize=64)  # what asyncpg and SQLAlchemy send is one of a few strings
def _begin_of(query: str) -> str | None:
    """
    The ``BEGIN`` that *query* is, `_ENDS` if it ends one, or None.
    """
    begin = _BEGIN.fullmatch(query)
    if begin:
        return begin[1].rstrip()
    return _ENDS if _END.fullmatch(query) else None


@lru_cache(maxsize=1)
def _methods(protocol: Any) -> tuple[str, ...]:
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
