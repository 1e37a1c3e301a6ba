"""
psycopg connections whose every transaction belongs to the current tenant.

    >>> import psycopg_pool
    >>> pool = psycopg_pool.AsyncConnectionPool(
    ...     dsn, connection_class=AsyncTenantConnection, open=False
    ... )  # doctest: +SKIP

Use a plain `psycopg.connect` nowhere: `TenantConnection.connect` takes the
same arguments.  Work in transactions: in autocommit mode, outside of
`Connection.transaction()`, no tenant is bound and the policies refuse.

Settings belong into the connection string (``options='-c lock_timeout=2s'``)
or the role.  What is SET in a session is reset when the tenant changes.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ..._extras import missing_extra
from ._administrator_binding import Administered
from ._binding import KEPT, Configured
from ._psycopg_login import verify_login, verify_login_async
from ._violations import announce_error, lost_statement

try:
    import psycopg
    from psycopg import errors, generators, pq, sql
except ImportError as cause:
    raise missing_extra("psycopg", cause) from cause

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator

    from psycopg import Notify
    from psycopg.abc import PQGen
    from psycopg.pq.abc import PGresult

__all__ = [
    "AdministratorConnection",
    "AsyncAdministratorConnection",
    "AsyncTenantConnection",
    "TenantConnection",
    "verify_login",
    "verify_login_async",
]

_TEXT = pq.Format.TEXT
_IDLE = int(pq.TransactionStatus.IDLE)
_ACTIVE = int(pq.TransactionStatus.ACTIVE)
_IN_TRANSACTION = (int(pq.TransactionStatus.INTRANS), int(pq.TransactionStatus.INERROR))
_FATAL_ERROR = int(pq.ExecStatus.FATAL_ERROR)
_SAID_BY = {"DateStyle": "PGDATESTYLE", "TimeZone": "PGTZ"}  # libpq reads them itself


class _FoldedBegin(Configured):
    """
    Folds the binding into the message that has ``BEGIN``: no extra round trip.

    It stands on private methods of psycopg's connections, all of them
    generators that the sync and the async connection share.
    """

    if TYPE_CHECKING:
        pgconn: Any
        _autocommit: bool
        _pipeline: Any

        def _get_tx_start_command(self) -> bytes: ...

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        startup = startup_settings(self.pgconn) if self._pooled else None
        self.binding = self._binding_kind(self._seal, pooled=self._pooled, startup=startup)

    if not TYPE_CHECKING:  # the signature is psycopg's

        @classmethod
        def connect(cls, *args: Any, **kwargs: Any) -> Any:
            if cls._pooled:
                # The next transaction may be in a session that has not prepared it.
                kwargs.setdefault("prepare_threshold", None)
            return super().connect(*args, **kwargs)

    # These run for every transaction, so they return generators rather than
    # wrap them, and compare integers: measured, that is half of what they cost.

    def _start_query(self) -> PQGen[Any]:
        # Every cursor comes through here before it sends.
        if self.pgconn.transaction_status == _IDLE and not self._autocommit:
            return self._begin()
        return self._admit()

    def _exec_command(self, command: Any, result_format: pq.Format = _TEXT) -> PQGen[Any]:
        if isinstance(command, bytes):
            if command == self._get_tx_start_command():
                return self._begin()
        elif isinstance(command, sql.Composable) and _reads_cursor(command, self):
            return self._exec_admitted(command, result_format)
        return super()._exec_command(command, result_format)  # type: ignore[misc, no-any-return]

    def _exec_admitted(self, command: Any, result_format: pq.Format) -> PQGen[Any]:
        yield from self._admit()
        return (yield from super()._exec_command(command, result_format))  # type: ignore[misc]

    def _begin(self) -> PQGen[PGresult | None]:
        begin = self._get_tx_start_command().decode()
        return self._tell(self.binding.begin_message(begin), self.binding.begun)

    def _admit(self) -> PQGen[None]:
        status = self.pgconn.transaction_status
        if status == _ACTIVE and self._pipeline and not self.binding.settled:
            # Only the answers to what is on the way tell whose turn it is.
            yield from self._pipeline._sync_gen()  # noqa: SLF001
            status = self.pgconn.transaction_status
        if status == _IDLE and not self._autocommit and self._pipeline:
            yield from self._begin()
        elif status == _IDLE:
            scrub = self.binding.scrub_message()
            if scrub is not None:
                yield from self._tell(scrub, self.binding.scrubbed)
        elif status in _IN_TRANSACTION:
            self.binding.check()

    def _tell(self, message: str, done: Callable[[], None]) -> PQGen[PGresult | None]:
        result = None
        scrubbing = self.binding.scrubbing
        if self._pipeline:
            yield from self._queue(message, sync=scrubbing)
        else:
            self.pgconn.send_query(message.encode())
            result = (yield from generators.execute(self.pgconn))[-1]
            if result.status == _FATAL_ERROR:
                if scrubbing:  # what it fails on would be there the next time too
                    self.pgconn.finish()
                raise errors.error_from_result(result, encoding=self.pgconn._encoding)  # noqa: SLF001
        if scrubbing:
            # What the last tenant's LISTEN brought; psycopg 3.2.1 keeps none.
            (getattr(self, "_notifies_backlog", None) or []).clear()
        done()
        return result

    def _give_up(self) -> None:
        # In a transaction it would lose what may still be committed.
        if self.pgconn.transaction_status == _IDLE:
            self.pgconn.finish()

    def _queue(self, message: str, *, sync: bool) -> PQGen[None]:
        for statement in message.split("; "):
            yield from super()._exec_command(statement)  # type: ignore[misc]
        # Without a sync nobody waits: if BEGIN fails, the server skips what is
        # queued behind it.  Of a scrub it has to be known that it was done.
        if sync:
            yield from self._pipeline._sync_gen()  # noqa: SLF001


def startup_settings(pgconn: Any) -> dict[str, str]:
    """
    What this client told the server when it connected, as far as a pooler lets it.
    """
    said = {option.keyword.decode() for option in pgconn.info if option.val}
    if "fallback_application_name" in said:
        said.add("application_name")
    said |= {name for name, variable in _SAID_BY.items() if os.environ.get(variable)}
    values = {name: pgconn.parameter_status(name.encode()) for name in KEPT if name in said}
    return {name: value.decode() for name, value in values.items() if value}


def _reads_cursor(command: sql.Composable, connection: Any) -> bool:
    return command.as_bytes(connection).startswith((b"FETCH", b"MOVE"))


_HOOKS = ("_start_query", "_exec_command", "_get_tx_start_command")


def hooks_present() -> bool:
    """
    Whether this psycopg has the private methods that folding stands on.
    """
    return all(hasattr(psycopg.Connection, name) for name in _HOOKS)


if TYPE_CHECKING or hooks_present():

    class _BoundConnection(_FoldedBegin, psycopg.Connection[Any]):
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
                    self._give_up()
                raise
            if self.binding.lost:
                self._give_up()
            return result

        def notifies(self, *args: Any, **kwargs: Any) -> Generator[Notify]:
            """
            Yield the notifications of the current tenant's LISTEN.
            """
            with self.lock:  # it sends nothing, so nothing else would scrub
                self.wait(self._admit())
            yield from super().notifies(*args, **kwargs)

    class _AsyncBoundConnection(_FoldedBegin, psycopg.AsyncConnection[Any]):
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
                    self._give_up()
                raise
            if self.binding.lost:
                self._give_up()
            return result

        async def notifies(self, *args: Any, **kwargs: Any) -> AsyncGenerator[Notify]:
            """
            Yield the notifications of the current tenant's LISTEN.
            """
            async with self.lock:
                await self.wait(self._admit())
            async for notify in super().notifies(*args, **kwargs):
                yield notify

    class TenantConnection(_BoundConnection):
        """
        A `psycopg.Connection` that binds each transaction to the current tenant.

        Raises:
            twh_platform.errors.TenantMismatchError: When used inside a
                transaction that was opened for another tenant.
        """

    class AsyncTenantConnection(_AsyncBoundConnection):
        """
        The same for `psycopg.AsyncConnection`.
        """

    class AdministratorConnection(Administered, _BoundConnection):
        """
        A `psycopg.Connection` of the administrators' login: it works in `administrator` only.

        Raises:
            twh_platform.errors.AdministratorError: When used outside of it,
                or inside a transaction that was opened in another one.
        """

    class AsyncAdministratorConnection(Administered, _AsyncBoundConnection):
        """
        The same for `psycopg.AsyncConnection`.
        """

else:  # pragma: no cover -- no released psycopg lacks the hooks
    from ._psycopg_public import (
        AdministratorConnection,
        AsyncAdministratorConnection,
        AsyncTenantConnection,
        TenantConnection,
    )
