"""
Plans in which tenants have limits of their own, and how every instance learns of them.

Each instance reads what is newer than the newest version it knows, once a
second, and keeps all of it in memory: a request only looks a dictionary up.
That is exact because no version becomes visible after a larger one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Protocol, Self

from .._signals import announce
from ..errors import BackendUnavailableError
from ..tenancy._carry import create_clean_task
from ..tenancy._tenant import Tenant
from ._announcements import QuotaOverrideChanged, QuotaOverridesStale
from ._limits import Override, limits_as_json, overridden, read_limits
from ._options import require_positive
from ._overrides import PAGE, OverrideChange, OverrideStore
from ._plan import Plan

__all__ = ["OverriddenPlans"]

_logger = logging.getLogger("twh_platform.quotas")


class _Plans(Protocol):
    def for_tenant(self, tenant: Tenant, /) -> Plan: ...


class _Entry:
    # What is known of a tenant, and the plan that it makes of that tenant's own.
    __slots__ = ("made", "override", "plan")

    def __init__(self, override: Override) -> None:
        self.override = override
        self.plan: Plan | None = None
        self.made: Plan | None = None


class OverriddenPlans:
    """
    Plans in which each tenant has its own limits, changed while the service runs.

    Give it to the `Limiter` in the place of the plans, and open it with
    ``async with`` in the app's lifespan::

        async with OverriddenPlans(Plans.example(), PostgresOverrideStore(pool)) as plans:
            limiter = Limiter(store, plans=plans)

    A change that is made here counts at once; one that another instance makes,
    after the next reading.  While the store cannot be read, what was known goes
    on to hold; that is announced as `QuotaOverridesStale`.  Now and then
    everything is read anew, which mends what a restored or replaced database
    has lost.  One instance belongs to one event loop.

    Args:
        plans: The plans by tier.

        store: Where the overrides are kept.

        interval: Seconds between two readings.

        reload_after: Seconds after which everything is read anew.

        timeout: Seconds after which a question to the store is given up.

        clock: Seconds that never go back.

    Raises:
        twh_platform.errors.ConfigurationError: If a number is not above zero.
    """

    def __init__(
        self,
        plans: _Plans,
        store: OverrideStore,
        *,
        interval: float = 1.0,
        reload_after: float = 300.0,
        timeout: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        require_positive(interval=interval, reload_after=reload_after, timeout=timeout)
        self.store = store
        """Where the overrides are kept."""
        self.failures = 0
        """How many readings in a row have failed."""
        self._plans = plans
        self._interval, self._reload_after, self._timeout = interval, reload_after, timeout
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._since = 0
        self._read_at = self._reloaded_at = float("-inf")
        self._written: dict[str, Override] = {}
        self._reading: asyncio.Task[Exception | None] | None = None
        self._asking: asyncio.Task[Sequence[Override] | Exception] | None = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """
        Read all overrides, and go on reading what changes.

        Raises:
            twh_platform.errors.BackendUnavailableError: If they cannot be read:
                nobody is served on limits that are not the tenant's.
        """
        await self.refresh()
        self._task = create_clean_task(self._run(), name="quota overrides")
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for task in (self._task, self._reading, self._asking):
            if task is not None:
                task.cancel()
                await asyncio.wait((task,), timeout=self._timeout)
        self._task = None

    @property
    def age(self) -> float:
        """
        Seconds since the reading began that what is known comes from.
        """
        return self._clock() - self._read_at

    def for_tenant(self, tenant: Tenant, /) -> Plan:
        """
        Return the tenant's plan with its own limits.

        The same object for as long as neither changes.

        Raises:
            twh_platform.errors.ConfigurationError: As `Plans.for_tenant`.
        """
        plan = self._plans.for_tenant(tenant)
        entry = self._entries.get(tenant.id)
        if entry is None:
            return plan
        if entry.plan is not plan or entry.made is None:
            entry.plan, entry.made = plan, overridden(plan, entry.override.limits)
        return entry.made

    def override_of(self, tenant_id: str) -> Override | None:
        """
        Return what is known here of a tenant's own limits.
        """
        entry = self._entries.get(tenant_id)
        return None if entry is None or entry.override.deleted else entry.override

    async def put(
        self,
        tenant: Tenant,
        limits: Mapping[str, object],
        *,
        actor: str,
        reason: str,
        expected: int | None = None,
    ) -> Override:
        """
        Replace all of a tenant's own limits; announced as `QuotaOverrideChanged`.

        Args:
            tenant: Whose; its plan must have the rules.

            limits: By the name of the rule a number, a `Limit`, or a mapping with
                ``limit`` and perhaps ``burst``, as it comes from JSON.

            actor: Who changes them.

            reason: Why.

            expected: The version that is to be replaced, 0 for none; any if it
                is not given.

        Raises:
            twh_platform.errors.ConfigurationError: With code
                ``override_invalid``, ``rule_unknown`` or ``rule_invalid``;
                nothing was changed.

            twh_platform.errors.PlatformError: With code ``override_changed``, if
                another version is there; nothing was changed.

            twh_platform.errors.BackendUnavailableError: If the store does not
                answer; whether it was done is seen at the next reading.
        """
        read = read_limits(limits)
        overridden(self._plans.for_tenant(tenant), read, strict=True)
        change = await self.store.put(
            tenant.id, read, actor=actor, reason=reason, expected=expected
        )
        self._changed(change)
        return change.after

    async def delete(
        self, tenant_id: str, *, actor: str, reason: str, expected: int | None = None
    ) -> Override | None:
        """
        Take a tenant's own limits away; announced as `QuotaOverrideChanged`.

        Returns:
            The version that took them away; None if there were none.

        Raises:
            twh_platform.errors.ConfigurationError: With code
                ``override_invalid``.

            twh_platform.errors.BackendUnavailableError: As `put`.
        """
        change = await self.store.delete(tenant_id, actor=actor, reason=reason, expected=expected)
        if change is None:
            return None
        self._changed(change)
        return change.after

    async def refresh(self) -> None:
        """
        Read what has changed; joins a reading that is under way.

        Raises:
            twh_platform.errors.BackendUnavailableError: If it cannot be read.
                What was known goes on to hold.
        """
        if self._reading is None or self._reading.done():
            self._reading = create_clean_task(self._read(), name="reading quota overrides")
        reading = self._reading
        # wait() leaves the task alone when one who waits is cancelled.
        await asyncio.wait((reading,))
        if reading.cancelled():
            raise _late("was given up")
        error = reading.result()
        if error is not None:
            raise error

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            try:
                await self.refresh()
            except BackendUnavailableError as error:
                self._failed(error.code)
            except Exception as error:  # the next reading may do better
                _logger.exception("the overrides cannot be read")
                self._failed(type(error).__name__)
            else:
                self.failures = 0

    def _failed(self, code: str) -> None:
        self.failures += 1
        announce(QuotaOverridesStale(code=code, failures=self.failures, age=self.age))

    async def _read(self) -> Exception | None:
        started = self._clock()
        everything = started - self._reloaded_at >= self._reload_after
        if everything:
            self._written = {}
        try:
            found = await self._pages(0 if everything else self._since)
        except Exception as error:  # noqa: BLE001 -- handed to whoever waits
            return error
        if everything:
            self._replace(found)
            self._reloaded_at = started
        for override in found:
            self._note(override)
        if everything or found:
            self._since = found[-1].version if found else 0
        self._read_at = started
        return None

    async def _pages(self, since: int) -> list[Override]:
        found: list[Override] = []
        while True:
            page = await self._changes(since)
            found.extend(page)
            if len(page) < PAGE:
                return found
            since = page[-1].version

    async def _changes(self, since: int) -> Sequence[Override]:
        # In a task of its own: a driver may take its time to notice a cancellation.
        # Until it has, there is no second one.
        if self._asking is not None and not self._asking.done():
            raise _late("has not ended")
        self._asking = create_clean_task(self._ask(since), name="asking for quota overrides")
        done, _ = await asyncio.wait((self._asking,), timeout=self._timeout)
        if not done:
            self._asking.cancel()
            raise _late(f"took more than {self._timeout} s")
        answer = self._asking.result()
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def _ask(self, since: int) -> Sequence[Override] | Exception:
        try:
            return await self.store.changes(since, limit=PAGE)
        except Exception as error:  # noqa: BLE001 -- one that nobody waits for is not reported
            return error

    def _replace(self, found: Sequence[Override]) -> None:
        # What was written meanwhile is newer than what the reading saw.
        newest = {one.tenant_id: one for one in found} | self._written
        known = self._entries
        self._entries = {
            one.tenant_id: entry
            for one in newest.values()
            # An entry of the same version goes on to hold, with the plan that was made.
            if (entry := known.get(one.tenant_id)) is not None and entry.override == one
        }
        for one in newest.values():
            self._note(one)

    def _changed(self, change: OverrideChange) -> None:
        after = change.after
        self._written[after.tenant_id] = after
        self._note(after)
        before = change.before
        announce(
            QuotaOverrideChanged(
                tenant_id=after.tenant_id,
                version=after.version,
                actor=after.actor,
                reason=after.reason,
                before=limits_as_json(before.limits) if before is not None else {},
                after=limits_as_json(after.limits),
            )
        )

    def _note(self, override: Override) -> None:
        # Deletions stay: a reading that began before them must not bring the old one back.
        entry = self._entries.get(override.tenant_id)
        if entry is None or entry.override.version < override.version:
            self._entries[override.tenant_id] = _Entry(override)


def _late(what: str) -> BackendUnavailableError:
    return BackendUnavailableError(
        f"the reading of the overrides {what}", code="override_store_timeout"
    )
