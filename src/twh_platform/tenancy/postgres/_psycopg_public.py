"""
The tenant connections of psycopg on public methods alone.

Used when a psycopg lacks the private methods that folding stands on.  The
binding is a message of its own after BEGIN, and so is the scrub before it: one
or two more round trips a transaction, the same guarantees for every cursor
that the connection makes.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from ..._extras import missing_extra
from ...errors import ConfigurationError
from ._administrator_binding import Administered
from ._binding import Configured
from ._violations import announce_error, lost_statement

try:
    import psycopg
    from psycopg import Notify, pq
except ImportError as error:
    raise missing_extra("psycopg", error) from error

__all__ = [
    "AdministratorConnection",
    "AsyncAdministratorConnection",
    "AsyncTenantConnection",
    "TenantConnection",
]

_UNPOOLED = (
    "behind a pooler the scrub has to be in one message with BEGIN, and this psycopg "
    "has not the methods that takes: install another version of it"
)

_Status = pq.TransactionStatus
_IN_TRANSACTION = (_Status.INTRANS, _Status.INERROR)


# Mixins in front of a cursor class.  A client-side cursor sends when it
# executes, a server-side one when it fetches too.


class _Sends:
    connection: Any

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        self.connection.admit()
        return super().execute(*args, **kwargs)  # type: ignore[misc]

    def executemany(self, *args: Any, **kwargs: Any) -> None:
        self.connection.admit()
        super().executemany(*args, **kwargs)  # type: ignore[misc]

    def stream(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        self.connection.admit()
        yield from super().stream(*args, **kwargs)  # type: ignore[misc]

    @contextmanager
    def copy(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        self.connection.admit()
        with super().copy(*args, **kwargs) as copy:  # type: ignore[misc]
            yield copy


class _Fetches(_Sends):
    itersize: int

    def fetchone(self) -> Any:
        self.connection.admit()
        return super().fetchone()  # type: ignore[misc]

    def fetchmany(self, size: int = 0) -> Any:
        self.connection.admit()
        return super().fetchmany(size)  # type: ignore[misc]

    def fetchall(self) -> Any:
        self.connection.admit()
        return super().fetchall()  # type: ignore[misc]

    def scroll(self, *args: Any, **kwargs: Any) -> None:
        self.connection.admit()
        super().scroll(*args, **kwargs)  # type: ignore[misc]

    def __iter__(self) -> Iterator[Any]:
        while rows := self.fetchmany(self.itersize):
            yield from rows

    def __next__(self) -> Any:
        row = self.fetchone()
        if row is None:
            raise StopIteration
        return row


class _AsyncSends:
    connection: Any

    async def execute(self, *args: Any, **kwargs: Any) -> Any:
        await self.connection.admit()
        return await super().execute(*args, **kwargs)  # type: ignore[misc]

    async def executemany(self, *args: Any, **kwargs: Any) -> None:
        await self.connection.admit()
        await super().executemany(*args, **kwargs)  # type: ignore[misc]

    async def stream(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        await self.connection.admit()
        async for row in super().stream(*args, **kwargs):  # type: ignore[misc]
            yield row

    @asynccontextmanager
    async def copy(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        await self.connection.admit()
        async with super().copy(*args, **kwargs) as copy:  # type: ignore[misc]
            yield copy


class _AsyncFetches(_AsyncSends):
    itersize: int

    async def fetchone(self) -> Any:
        await self.connection.admit()
        return await super().fetchone()  # type: ignore[misc]

    async def fetchmany(self, size: int = 0) -> Any:
        await self.connection.admit()
        return await super().fetchmany(size)  # type: ignore[misc]

    async def fetchall(self) -> Any:
        await self.connection.admit()
        return await super().fetchall()  # type: ignore[misc]

    async def scroll(self, *args: Any, **kwargs: Any) -> None:
        await self.connection.admit()
        await super().scroll(*args, **kwargs)  # type: ignore[misc]

    async def __aiter__(self) -> AsyncIterator[Any]:
        while rows := await self.fetchmany(self.itersize):
            for row in rows:
                yield row

    async def __anext__(self) -> Any:
        row = await self.fetchone()
        if row is None:
            raise StopAsyncIteration
        return row


class _FactoryOf:
    """
    A connection's cursor class, always with the mixin in front of it.
    """

    def __init__(self, mixin: type) -> None:
        self._mixin = mixin

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = f"_{name}"

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return getattr(instance, self._name)

    def __set__(self, instance: Any, factory: type) -> None:
        if not issubclass(factory, self._mixin):
            factory = type(factory.__name__, (self._mixin, factory), {})
        setattr(instance, self._name, factory)


class _BoundConnection(Configured, psycopg.Connection[Any]):
    cursor_factory: Any = _FactoryOf(_Sends)
    server_cursor_factory: Any = _FactoryOf(_Fetches)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if self._pooled:
            raise ConfigurationError(_UNPOOLED)
        super().__init__(*args, **kwargs)
        self.binding = self._binding_kind(self._seal)

    def wait(self, *args: Any, **kwargs: Any) -> Any:
        """
        Wait for the server; every error of it leaves the driver here.
        """
        try:
            result = super().wait(*args, **kwargs)
        except psycopg.Error as error:
            announce_error(error)
            if lost_statement(error):
                self.binding.lost = True
                _give_up(self)
            raise
        if self.binding.lost:
            _give_up(self)
        return result

    def admit(self, *, begin: bool = True) -> None:
        """
        Let the current tenant send; outside a transaction, scrub and begin.
        """
        if self.info.transaction_status == _Status.ACTIVE and _pipelined(self):
            with self.pipeline():
                pass  # leaving it waits for what is on the way
        status = self.info.transaction_status
        if status == _Status.IDLE:
            self._scrub()
            if begin and not self.autocommit:
                self._bind()
        elif status in _IN_TRANSACTION:
            self.binding.check()

    @contextmanager
    def transaction(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        """
        Open a transaction or savepoint block, bound to the current tenant.
        """
        outer = self.info.transaction_status == _Status.IDLE
        self.admit(begin=False)
        with super().transaction(*args, **kwargs) as transaction:
            if outer:
                self._bind()
            yield transaction

    def notifies(self, *args: Any, **kwargs: Any) -> Generator[Notify]:
        """
        Yield the notifications of the current tenant's LISTEN.
        """
        self.admit(begin=False)
        yield from super().notifies(*args, **kwargs)

    def tpc_begin(self, xid: Any) -> None:
        """
        Begin a two-phase transaction, bound to the current tenant.
        """
        self.admit(begin=False)
        super().tpc_begin(xid)
        self._bind()

    def _bind(self) -> None:
        self._run(self.binding.bind_message())
        self.binding.begun()

    def _scrub(self) -> None:
        scrub = self.binding.scrub_message()
        if scrub is None:
            return
        autocommit, self.autocommit = self.autocommit, True
        try:
            self._run(scrub)
            self.binding.scrubbed()
            _forget_notifications(self)
        except psycopg.Error:
            self.close()  # what it fails on would be there the next time too
            raise
        finally:
            if not self.closed:
                self.rollback()  # sends nothing, unless the scrub broke off
                self.autocommit = autocommit

    def _run(self, message: str) -> None:
        if not _pipelined(self):
            psycopg.Cursor(self).execute(message.encode())
            return
        with self.pipeline():
            for statement in message.split("; "):
                psycopg.Cursor(self).execute(statement.encode())


class _AsyncBoundConnection(Configured, psycopg.AsyncConnection[Any]):
    cursor_factory: Any = _FactoryOf(_AsyncSends)
    server_cursor_factory: Any = _FactoryOf(_AsyncFetches)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if self._pooled:
            raise ConfigurationError(_UNPOOLED)
        super().__init__(*args, **kwargs)
        self.binding = self._binding_kind(self._seal)

    async def wait(self, *args: Any, **kwargs: Any) -> Any:
        """
        Wait for the server; every error of it leaves the driver here.
        """
        try:
            result = await super().wait(*args, **kwargs)
        except psycopg.Error as error:
            announce_error(error)
            if lost_statement(error):
                self.binding.lost = True
                _give_up(self)
            raise
        if self.binding.lost:
            _give_up(self)
        return result

    async def admit(self, *, begin: bool = True) -> None:
        """
        Let the current tenant send; outside a transaction, scrub and begin.
        """
        if self.info.transaction_status == _Status.ACTIVE and _pipelined(self):
            async with self.pipeline():
                pass  # leaving it waits for what is on the way
        status = self.info.transaction_status
        if status == _Status.IDLE:
            await self._scrub()
            if begin and not self.autocommit:
                await self._bind()
        elif status in _IN_TRANSACTION:
            self.binding.check()

    @asynccontextmanager
    async def transaction(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        """
        Open a transaction or savepoint block, bound to the current tenant.
        """
        outer = self.info.transaction_status == _Status.IDLE
        await self.admit(begin=False)
        async with super().transaction(*args, **kwargs) as transaction:
            if outer:
                await self._bind()
            yield transaction

    async def notifies(self, *args: Any, **kwargs: Any) -> AsyncGenerator[Notify]:
        """
        Yield the notifications of the current tenant's LISTEN.
        """
        await self.admit(begin=False)
        async for notify in super().notifies(*args, **kwargs):
            yield notify

    async def tpc_begin(self, xid: Any) -> None:
        """
        Begin a two-phase transaction, bound to the current tenant.
        """
        await self.admit(begin=False)
        await super().tpc_begin(xid)
        await self._bind()

    async def _bind(self) -> None:
        await self._run(self.binding.bind_message())
        self.binding.begun()

    async def _scrub(self) -> None:
        scrub = self.binding.scrub_message()
        if scrub is None:
            return
        autocommit = self.autocommit
        await self.set_autocommit(True)
        try:
            await self._run(scrub)
            self.binding.scrubbed()
            _forget_notifications(self)
        except psycopg.Error:
            await self.close()  # what it fails on would be there the next time too
            raise
        finally:
            if not self.closed:
                await self.rollback()  # sends nothing, unless the scrub broke off
                await self.set_autocommit(autocommit)

    async def _run(self, message: str) -> None:
        if not _pipelined(self):
            await psycopg.AsyncCursor(self).execute(message.encode())
            return
        async with self.pipeline():
            for statement in message.split("; "):
                await psycopg.AsyncCursor(self).execute(statement.encode())


class TenantConnection(_BoundConnection):
    """
    A `psycopg.Connection` that binds each transaction to the current tenant.
    """


class AsyncTenantConnection(_AsyncBoundConnection):
    """
    The same for `psycopg.AsyncConnection`.
    """


class AdministratorConnection(Administered, _BoundConnection):
    """
    A `psycopg.Connection` of the administrators' login: it works in `administrator` only.
    """


class AsyncAdministratorConnection(Administered, _AsyncBoundConnection):
    """
    The same for `psycopg.AsyncConnection`.
    """


def _pipelined(connection: Any) -> bool:
    return bool(connection.pgconn.pipeline_status != pq.PipelineStatus.OFF)


def _give_up(connection: Any) -> None:
    # In a transaction it would lose what may still be committed.
    if connection.pgconn.transaction_status == _Status.IDLE:
        connection.pgconn.finish()


def _forget_notifications(connection: Any) -> None:
    (getattr(connection, "_notifies_backlog", None) or []).clear()
