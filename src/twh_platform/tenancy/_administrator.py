"""
Work across tenants: stated in a `with`, told to whoever listens, over at its end.

It opens no door by itself.  The door is a login of its own, whose connections
(see `postgres`) serve only inside of this `with`; the application's login sees
one tenant here as anywhere.

The context variable holds an `Access` that can be ended, and not the statement
alone: tasks and threads that were started inside take the variable with them,
and must not keep the access.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar, Token
from datetime import datetime
from inspect import isawaitable
from types import TracebackType
from typing import TypeAlias

from .._signals import announce
from ..errors import AdministratorError, ConfigurationError
from ._announcements import AdministratorEntered, AdministratorLeft
from ._clock import utc_now

__all__ = ["Access", "access_here", "administrator", "current_administrator"]

Record: TypeAlias = Callable[[AdministratorEntered], object]

_LONGEST_ACTOR = 200
_LONGEST_REASON = 1000

_logger = logging.getLogger("twh_platform.tenancy.administrator")


class Access:
    """
    What a statement gives, until it ends.

    Attributes:
        entered: The statement.

        open: Whether it has not ended.

        transactions: How many were opened so far.
    """

    __slots__ = ("_lock", "entered", "open", "transactions")

    def __init__(self, entered: AdministratorEntered) -> None:
        self.entered = entered
        self.open = True
        self.transactions = 0
        self._lock = threading.Lock()

    def count(self) -> None:
        """
        Note that a transaction was opened.
        """
        with self._lock:
            self.transactions += 1


_current: ContextVar[Access | None] = ContextVar("twh_administrator", default=None)


def access_here() -> Access | None:
    """
    The access that is open here, or None.
    """
    access = _current.get()
    return access if access is not None and access.open else None


def current_administrator() -> AdministratorEntered | None:
    """
    Who works across tenants here, and why; None outside of `administrator`.
    """
    access = access_here()
    return None if access is None else access.entered


class administrator:  # noqa: N801 -- read in a with statement
    """
    Work across tenants inside a `with` or `async with`, with a name and a reason.

        >>> with administrator(
        ...     actor="ada@example.com", reason="ticket 4711: recall of lot 12"
        ... ) as entered:
        ...     current_administrator().reason
        'ticket 4711: recall of lot 12'
        >>> current_administrator() is None
        True

    Connections of the administrators' login work only in here.  Nothing else
    changes: the application's own connections serve the current tenant, or
    nobody.

    Tasks, and threads of `asyncio.to_thread`, that are started inside have the
    access too, until the `with` is left; then it is over for all of them.
    Executors and `TenantThread` take the tenant along, and not the access.

    The entry and the leave are announced as `AdministratorEntered` and
    `AdministratorLeft`, and logged.  A listener that fails stops nothing.  What
    must not fail is *record*: there is no access unless it has returned.

    Args:
        actor: Who it is: an address or an account that a person answers for.

        reason: Why: a ticket, a request, an order.  Both are told in logs and
            signals, so nothing secret belongs there.

        record: Called with the `AdministratorEntered` before there is access,
            to write it down.  What it raises is raised on, and nothing is
            opened.  It may be a coroutine function for `async with`.

        clock: The current moment, with time zone.

    Raises:
        twh_platform.errors.AdministratorError: If the actor or the reason is
            missing, is longer than 200 or 1000 characters, or has characters
            that are not printable, line breaks among them.

        TypeError: If one of them is no text.

        twh_platform.errors.ConfigurationError: On entry by `with`, if *record*
            has to be awaited.
    """

    __slots__ = ("_access", "_actor", "_clock", "_reason", "_record", "_token")

    def __init__(
        self,
        *,
        actor: str,
        reason: str,
        record: Record | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._actor, self._reason = _stated(actor, reason)
        self._record = record
        self._clock = clock
        self._access: Access | None = None
        self._token: Token[Access | None] | None = None

    def __enter__(self) -> AdministratorEntered:
        entered = self._state()
        outcome = None if self._record is None else self._record(entered)
        if isawaitable(outcome):
            getattr(outcome, "close", lambda: None)()
            message = "this record has to be awaited: use async with administrator(...)"
            raise ConfigurationError(message)
        return self._open(entered)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        access, self._access = self._access, None
        token, self._token = self._token, None
        if access is None or token is None:
            return
        access.open = False
        with suppress(ValueError):  # another context: what it still holds has ended
            _current.reset(token)
        self._tell_leave(access, None if exc_type is None else exc_type.__name__)

    async def __aenter__(self) -> AdministratorEntered:
        entered = self._state()
        outcome = None if self._record is None else self._record(entered)
        if isawaitable(outcome):
            await outcome
        return self._open(entered)

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__exit__(exc_type, exc, traceback)

    def _state(self) -> AdministratorEntered:
        if self._access is not None:
            message = "this administrator() is entered already; make another one"
            raise RuntimeError(message)
        return AdministratorEntered(
            access_id=secrets.token_hex(16),
            actor=self._actor,
            reason=self._reason,
            entered_at=self._clock(),
        )

    def _open(self, entered: AdministratorEntered) -> AdministratorEntered:
        self._access = Access(entered)
        self._token = _current.set(self._access)
        _logger.warning(
            "access %s across tenants for %s: %s", entered.access_id, entered.actor, entered.reason
        )
        announce(entered)
        return entered

    def _tell_leave(self, access: Access, error: str | None) -> None:
        entered = access.entered
        left = AdministratorLeft(
            access_id=entered.access_id,
            actor=entered.actor,
            reason=entered.reason,
            entered_at=entered.entered_at,
            duration=max(0.0, (self._clock() - entered.entered_at).total_seconds()),
            transactions=access.transactions,
            error=error,
        )
        _logger.info(
            "access %s is over after %.1f seconds and %d transactions: %s",
            left.access_id,
            left.duration,
            left.transactions,
            error or "ended well",
        )
        announce(left)


def _stated(actor: str, reason: str) -> tuple[str, str]:
    if not isinstance(actor, str) or not isinstance(reason, str):
        message = f"actor and reason are text, not {actor!r} and {reason!r}"
        raise TypeError(message)
    actor, reason = actor.strip(), reason.strip()
    if not actor:
        message = "work across tenants needs an actor: the person who answers for it"
        raise AdministratorError(message, code="administrator_actor_missing")
    if not reason:
        message = "work across tenants needs a reason"
        raise AdministratorError(message, code="administrator_reason_missing")
    _ensure_printable(actor, longest=_LONGEST_ACTOR)
    _ensure_printable(reason, longest=_LONGEST_REASON)
    return actor, reason


def _ensure_printable(text: str, *, longest: int) -> None:
    # It is written into logs, one line each, and shown to people.
    if len(text) > longest or not text.isprintable():
        message = f"no printable text of at most {longest} characters: {text[:80]!r}"
        raise AdministratorError(message, code="administrator_text_invalid")
