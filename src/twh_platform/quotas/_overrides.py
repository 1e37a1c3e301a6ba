"""
Overrides: where tenants' own limits are kept, with their history.

A store has one ascending sequence of versions, and no version becomes visible
after a larger one: so whoever reads what is newer than the newest it knows
misses nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple, Protocol

from ..errors import PlatformError
from ._limits import Limit, Override, check_statement, read_limits

__all__ = ["MemoryOverrideStore", "OverrideChange", "OverrideStore"]

# How many a reading asks for at a time.
PAGE = 1000


class OverrideChange(NamedTuple):
    """
    What a change has done.

    Attributes:
        before: What the tenant had; None if nothing.

        after: What it has now; its `Override.deleted` says whether nothing.
    """

    before: Override | None
    after: Override


def changed_since(tenant_id: str) -> PlatformError:
    """
    The error that says that somebody else has changed an override.
    """
    message = f"the override of tenant {tenant_id!r} is of another version"
    return PlatformError(message, code="override_changed")


class OverrideStore(Protocol):
    """
    Where overrides are kept, with their history.

    Every method raises `twh_platform.errors.BackendUnavailableError` if it
    cannot be known whether it was done.  A change that expects a version, 0 for
    none, raises a `twh_platform.errors.PlatformError` with code
    ``override_changed`` if the tenant has another.
    """

    async def put(
        self,
        tenant_id: str,
        limits: Mapping[str, Limit],
        *,
        actor: str,
        reason: str,
        expected: int | None = None,
    ) -> OverrideChange:
        """
        Replace all of a tenant's own limits, as the next version.

        Raises:
            twh_platform.errors.ConfigurationError: With code
                ``override_invalid``, if there are no limits, or the actor or the
                reason is missing, is longer than 200 or 1000 characters, or has
                some that are not printable.
        """
        ...

    async def delete(
        self, tenant_id: str, *, actor: str, reason: str, expected: int | None = None
    ) -> OverrideChange | None:
        """
        Take a tenant's own limits away, as the next version; None if it has none.
        """
        ...

    async def get(self, tenant_id: str) -> Override | None:
        """
        Return what a tenant has now.
        """
        ...

    async def changes(self, since: int, *, limit: int = PAGE) -> Sequence[Override]:
        """
        Return the newest version of each tenant, as far as it is above *since*.

        In ascending order, deletions among them, at most *limit*.  What is
        committed later has a larger version than all that is returned.
        """
        ...

    async def history(self, tenant_id: str, *, limit: int = 100) -> Sequence[Override]:
        """
        Return a tenant's versions, the newest first, at most *limit*.
        """
        ...


class MemoryOverrideStore:
    """
    Overrides in this process: for tests, and for a service of one process.

        >>> import asyncio
        >>> store = MemoryOverrideStore()
        >>> change = asyncio.run(
        ...     store.put("acme", {"minute": Limit(limit=50)}, actor="ada", reason="ticket 7")
        ... )
        >>> change.after.version
        1

    Args:
        clock: The current moment, with time zone.
    """

    def __init__(self, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._clock = clock
        self._version = 0
        self._histories: dict[str, list[Override]] = {}

    async def put(
        self,
        tenant_id: str,
        limits: Mapping[str, Limit],
        *,
        actor: str,
        reason: str,
        expected: int | None = None,
    ) -> OverrideChange:
        """
        Replace all of a tenant's own limits.
        """
        check_statement(tenant_id=tenant_id, actor=actor, reason=reason)
        self._expect(tenant_id, expected)
        return self._append(tenant_id, read_limits(limits), actor, reason)

    async def delete(
        self, tenant_id: str, *, actor: str, reason: str, expected: int | None = None
    ) -> OverrideChange | None:
        """
        Take a tenant's own limits away.
        """
        check_statement(tenant_id=tenant_id, actor=actor, reason=reason)
        self._expect(tenant_id, expected)
        if self._current(tenant_id) is None:
            return None
        return self._append(tenant_id, {}, actor, reason)

    async def get(self, tenant_id: str) -> Override | None:
        """
        Return what a tenant has now.
        """
        return self._current(tenant_id)

    async def changes(self, since: int, *, limit: int = PAGE) -> Sequence[Override]:
        """
        Return the newest version of each tenant, as far as it is above *since*.
        """
        newest = (versions[-1] for versions in self._histories.values())
        found = sorted((one for one in newest if one.version > since), key=lambda one: one.version)
        return found[:limit]

    async def history(self, tenant_id: str, *, limit: int = 100) -> Sequence[Override]:
        """
        Return a tenant's versions, the newest first.
        """
        return self._histories.get(tenant_id, [])[::-1][:limit]

    def _append(
        self, tenant_id: str, limits: Mapping[str, Limit], actor: str, reason: str
    ) -> OverrideChange:
        before = self._current(tenant_id)
        self._version += 1
        after = Override(
            tenant_id=tenant_id,
            version=self._version,
            limits=limits,
            actor=actor,
            reason=reason,
            changed_at=self._clock(),
        )
        self._histories.setdefault(tenant_id, []).append(after)
        return OverrideChange(before, after)

    def _expect(self, tenant_id: str, expected: int | None) -> None:
        current = self._current(tenant_id)
        if expected is not None and expected != (current.version if current else 0):
            raise changed_since(tenant_id)

    def _current(self, tenant_id: str) -> Override | None:
        versions = self._histories.get(tenant_id)
        return None if not versions or versions[-1].deleted else versions[-1]
