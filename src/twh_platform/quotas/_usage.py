"""
The meter: takes down what calendars count, and writes it into a ledger.

Each answer of a store is kept in memory until the next batch; why writing it
twice or late changes nothing, `_usage_ledger` says.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from itertools import islice
from types import TracebackType
from typing import Any, NamedTuple, Self

from .._signals import announce
from ..errors import BackendUnavailableError, ConfigurationError, PlatformError
from ..tenancy._carry import create_clean_task
from ._announcements import UsageLedgerDegraded, UsageLedgerRestored
from ._decision import Part
from ._exchange import SHADOW, Charge, QuotaStore, Take
from ._notices import THRESHOLDS, Notices, checked_thresholds, scope_of
from ._options import require_positive
from ._periods import period_of_birth
from ._rules import LARGEST, Calendar
from ._usage_ledger import UsageCounter, UsageLedger

__all__ = ["UsageMeter"]

# In the memory of one process alone, so another's with the same birth is another counter.
_LOCAL = "local"
# Of these the states are missing or old.
_UNCOUNTED = frozenset({"open", "closed", "cache"})
_BATCH = 1000
_LOOKS = 100

_new = tuple.__new__

_logger = logging.getLogger("twh_platform.quotas")


class _Seen(NamedTuple):
    """
    A counter as it was last seen: what of it is to be written down.
    """

    taken: int
    refunded: int
    rule: Calendar
    charge: Charge
    time_zone: str
    store: QuotaStore


_Key = tuple[str, str, int, str]


class UsageMeter:
    """
    Take down what calendars count, and write it into a ledger once a second.

    Give it to a `Limiter`, and hold it open with `async with` for as long as
    the service runs; at the end it writes what is left.

        >>> from twh_platform.quotas import MemoryUsageLedger, UsageMeter
        >>> UsageMeter(MemoryUsageLedger())
        UsageMeter(pending=0, lost=0)

    It takes each answer of the store down, in memory, and one batch a second
    goes to the ledger.  If the ledger fails, nothing is lost until *max_pending*
    counters wait; what comes then is not kept, counted in `lost` and announced.
    A counter that is seen again is written with all that it has counted, so
    what a process takes with it when it is killed is only what nobody sees
    again before the period ends.

    It also announces `QuotaNotice`, when the ledger says that nobody has.

    Args:
        ledger: Where it is written.

        interval: Seconds between two batches.

        timeout: Seconds after which writing a batch is given up, and tried
            again with the next.

        look_after: Seconds after which, once or twice as many, it looks at a
            counter again that nothing was heard of since.

        max_pending: How many counters may wait.

        thresholds: The percentages of a limit that are noticed.

    Raises:
        twh_platform.errors.ConfigurationError: If a number is not above zero,
            or a threshold is no integer from 1 to 100.
    """

    def __init__(
        self,
        ledger: UsageLedger,
        *,
        interval: float = 1.0,
        timeout: float = 10.0,
        look_after: float = 10.0,
        max_pending: int = 100_000,
        thresholds: Iterable[int] = THRESHOLDS,
    ) -> None:
        require_positive(
            interval=interval, timeout=timeout, look_after=look_after, max_pending=max_pending
        )
        self._ledger = ledger
        self._interval = interval
        self._timeout = timeout
        self._most = max_pending
        self._notices = Notices(checked_thresholds(thresholds))
        self._pending: dict[_Key, _Seen] = {}
        # What was written since the last look, and between that and the one before.
        self._fresh: dict[_Key, _Seen] = {}
        self._aging: dict[_Key, _Seen] = {}
        self._look_after = look_after
        self._instance = ""
        self._task: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()
        self._told_idle = self._told_loss = False
        self.failures = 0
        """Batches in a row that could not be written."""
        self.lost = 0
        """Notes that were not kept because too many counters waited."""

    def __repr__(self) -> str:
        return f"UsageMeter(pending={self.pending}, lost={self.lost})"

    @property
    def pending(self) -> int:
        """
        Counters that wait to be written.
        """
        return len(self._pending)

    async def __aenter__(self) -> Self:
        if self._task is not None:
            message = "this UsageMeter is open already"
            raise RuntimeError(message)
        self._task = create_clean_task(self._run(), name="twh-usage-meter")
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await self.flush()
        if self._pending:
            _logger.error("%d counters of usage could not be written", len(self._pending))

    def note(self, part: Part, /) -> None:
        """
        Take down what a store has said of a tenant's rules.
        """
        # By position, and without a call for what is known already: it is a part of each take.
        rules, take, outcome, tenant, store = part
        origin = outcome[4]
        if origin in _UNCOUNTED or take[0][:2] != "t." or tenant is None:
            return
        exact = origin != _LOCAL
        wrote = outcome[1] and not take[3]
        if not (wrote or exact):
            return  # it may tell what it knows of the store, and not what it counts itself
        instance = "" if exact and getattr(store, "shared", True) else self._own_instance()
        pending, least = self._pending, self._notices.least
        rule: Any  # of the kind that its charge says
        for rule, charge, fit, state in zip(rules, take[1], outcome[2], outcome[3], strict=True):
            kind = charge[2]
            if kind == "c" and state[0]:
                birth, taken, refunded = state
                key = charge[0], charge[1], birth, instance
                seen = _new(_Seen, (taken, refunded, rule, charge, tenant.time_zone, store))
                old = pending.get(key)
                if old is not None and taken >= old[0] and refunded >= old[1]:
                    pending[key] = seen
                else:
                    self._counter(key, seen)
                if exact and 100 * (taken - refunded) >= least * charge[5][0]:
                    added = _added(take, charge, fit, wrote=wrote)
                    self._notices.look(rule, charge, tenant.time_zone, state, added)
            elif kind == "n" and exact and (added := _added(take, charge, fit, wrote=wrote)):
                self._notices.announce_level(rule, charge, state[1], added)

    async def flush(self) -> bool:
        """
        Write what is pending, and announce what was noticed.

        Returns:
            Whether all that was pending at the start is written.  If not, it
            stays, and goes with the next batch.
        """
        async with self._lock:
            try:
                async with asyncio.timeout(self._timeout):
                    await self._write()
                    await self._notices.publish(self._ledger)
            except Exception as error:  # noqa: BLE001 -- whatever a ledger raises, usage is kept
                self._failed(error)
                return False
            self._worked()
            return True

    async def _run(self) -> None:
        turned = time.monotonic()
        while True:
            await asyncio.sleep(self._interval)
            await self.flush()
            if time.monotonic() - turned >= self._look_after:
                turned = time.monotonic()
                await self.look_again()

    async def look_again(self) -> None:
        """
        Look at the counters that nobody has written anything of for a while.

        What a store gives back by itself, because whoever asked had gone, is
        told to nobody; what another instance had counted when it was killed,
        neither.  Nothing is taken.
        """
        quiet = [(key, seen) for key, seen in self._aging.items() if key not in self._fresh]
        self._aging, self._fresh = self._fresh, {}
        for start in range(0, len(quiet), _LOOKS):
            looks = (self._look(key, seen) for key, seen in quiet[start : start + _LOOKS])
            if not all(await asyncio.gather(*looks)):
                return  # the store has other worries

    async def _look(self, key: _Key, seen: _Seen) -> bool:
        take = Take(seen.charge.bucket.partition(":")[0], (seen.charge,), dry=True)
        try:
            outcome = await seen.store.take(take)
        except BackendUnavailableError:
            return False
        except Exception:
            _logger.exception("a store failed when a meter looked")
            return False
        if outcome.stale or outcome.origin == _LOCAL or outcome.origin in _UNCOUNTED:
            return outcome.stale
        birth, taken, refunded = outcome.states[0]
        if birth == key[2] and (taken > seen.taken or refunded > seen.refunded):
            self._counter(key, seen._replace(taken=taken, refunded=refunded))
        return True

    async def _write(self) -> None:
        left = len(self._pending)
        while left > 0:
            batch = list(islice(self._pending.items(), min(left, _BATCH)))
            left -= len(batch)
            await self._ledger.record([one for one in map(self._readable, batch) if one])
            for key, seen in batch:
                if len(self._fresh) < self._most:
                    self._fresh[key] = seen
                if self._pending.get(key) is seen:  # else it has counted on meanwhile
                    del self._pending[key]
                else:
                    # To the end, so that the next batch begins with others.
                    self._pending[key] = self._pending.pop(key)

    def _readable(self, item: tuple[_Key, _Seen]) -> UsageCounter | None:
        """
        The counter as it is written; None for what no store of ours can have said.
        """
        (bucket, _, birth, instance), seen = item
        rule, charge, time_zone = seen.rule, seen.charge, seen.time_zone
        period = _period(rule, charge, time_zone, birth)
        if period is None or not 0 <= seen.refunded <= seen.taken <= LARGEST:
            _logger.error("usage of %s %s is no usage: %s, %s", bucket, rule.name, birth, seen[:2])
            self.lost += 1
            return None
        tenant_id, scope = scope_of(bucket)
        return UsageCounter(
            tenant_id=tenant_id,
            rule=rule.name,
            scope=scope,
            birth=birth,
            instance=instance,
            unit=rule.unit,
            period_start=period[0],
            period_end=period[1],
            taken=seen.taken,
            refunded=seen.refunded,
        )

    def _counter(self, key: _Key, seen: _Seen) -> None:
        old = self._pending.get(key)
        if old is not None:  # an answer that another has overtaken
            taken, refunded = max(seen.taken, old.taken), max(seen.refunded, old.refunded)
            self._pending[key] = seen._replace(taken=taken, refunded=refunded)
        elif len(self._pending) < self._most:
            self._pending[key] = seen
        else:
            self._lose()
        if self._task is None and not self._told_idle:
            self._told_idle = True
            _logger.warning("a UsageMeter takes notes and writes none: hold it in async with")

    def _own_instance(self) -> str:
        # Not made before it is needed: a process that forks before it serves shares nothing.
        self._instance = self._instance or os.urandom(8).hex()
        return self._instance

    def _lose(self) -> None:
        self.lost += 1
        if not self._told_loss:
            self._told_loss = True
            _logger.error("usage is lost: %d counters wait to be written", len(self._pending))
            self._announce_degraded("usage_meter_full")

    def _failed(self, error: Exception) -> None:
        reason = error.code if isinstance(error, PlatformError) else type(error).__name__
        self.failures += 1
        if self.failures == 1:
            _logger.warning("usage is not written, %s: it is kept in memory", reason)
            self._announce_degraded(reason)
        if not isinstance(error, PlatformError | TimeoutError):
            _logger.error("a ledger of usage failed", exc_info=error)

    def _worked(self) -> None:
        if self.failures or self._told_loss:
            _logger.warning("usage is written again, after %d attempts", self.failures)
            announce(UsageLedgerRestored(failures=self.failures, lost=self.lost))
        self.failures = 0
        self._told_loss = False

    def _announce_degraded(self, reason: str) -> None:
        announce(UsageLedgerDegraded(reason=reason, pending=len(self._pending), lost=self.lost))


def _added(take: Take, charge: Charge, fit: bool, *, wrote: bool) -> int:  # noqa: FBT001 -- one of a row
    charged = wrote and (fit or take.force or charge.mode != SHADOW)
    return charge.cost if charged else 0


def _period(
    rule: Calendar, charge: Charge, time_zone: str, birth: int
) -> tuple[datetime, datetime] | None:
    with suppress(ConfigurationError):
        return period_of_birth(rule, charge.args[1:], time_zone=time_zone, birth=birth)
    return None
