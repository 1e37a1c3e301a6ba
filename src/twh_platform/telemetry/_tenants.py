"""
Which tenants have a label of their own on the page, and how many series that may take.

A label value lives as long as its series does, and each tenant's series cost
memory here and in the database that scrapes them.  So the tenants with the most
traffic are told by name, and all others together are ``other``.

How the busiest are found: those with a label are counted exactly, the rest in a
table of bounded size (the frequent-items table of Misra and Gries, which space
saving is another writing of: a full table is lowered by its median, and what
falls to nothing leaves).  All counts fade, half in *half_life*.  Labels change
hands at a review every few seconds, and only for a challenger that is clearly
ahead.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from heapq import nlargest
from statistics import median_low
from typing import Any, Final, TypeVar

from .._forks import reset_after_fork
from ..errors import ConfigurationError
from ._labels import clean_label
from ._registry import Registry

__all__ = ["NO_TENANT", "OTHER_TENANTS", "TenantLabelStats", "TenantLabels", "TenantSeat"]

OTHER_TENANTS: Final = "other"
"""
The label of all tenants without one of their own.
"""

NO_TENANT: Final = ""
"""
The label of what has no tenant.
"""

_Child = TypeVar("_Child")
_Adopt = Callable[["TenantSeat", Hashable, Callable[[str], Any], int], Any]
_OnLeave = Callable[[str], None]

# Requests by which a challenger has to lead besides: at a handful, leads are chance.
_MARGIN = 8.0
# A challenger with this much more need not wait until the other's tenure is over.
_FAR_AHEAD = 8.0
# How many tenants are counted for each that has a label, and at least.
_COUNTED = 10
_COUNTED_AT_LEAST = 100
# The part of the labels that may change hands at one review.
_AT_ONCE = 10
# Counts below this have faded.
_FADED = 0.5


class TenantSeat:
    """
    What a tenant's requests are counted under: a label, and the children made for it.

    Keep it for one request at most; ask `TenantLabels.seat` again for the next.
    Attributes but the label are the bookkeeping of `TenantLabels`.

    Attributes:
        label: The label value.
    """

    __slots__ = ("_adopt", "children", "hits", "label", "lost", "score", "seen", "series", "since")

    def __init__(self, label: str, adopt: _Adopt, *, score: float, now: float) -> None:
        self.label = label
        self.children: dict[Hashable, Any] = {}
        self.hits = self.series = 0
        self.lost = False
        self.score = score
        self.seen = self.since = now
        self._adopt = adopt

    def __repr__(self) -> str:
        return f"TenantSeat({self.label!r})"

    def child(
        self, key: Hashable, make: Callable[[str], _Child], *, series: int = 1
    ) -> _Child | None:
        """
        The child kept under *key*, made by ``make(label)`` when it is first asked for.

        A seat that its tenant has lost in the meantime makes no series any
        more; what is asked of it is counted under ``other``.

        Args:
            key: Which child, out of a closed list: the metric and its other labels.

            make: Told the label, returns the bound child.

            series: How many lines of a page the child takes.

        Returns:
            The child; None where the series that were reserved for a tenant
            are used up, which is counted as refused.
        """
        found: _Child | None = self.children.get(key)
        return self._adopt(self, key, make, series) if found is None else found


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantLabelStats:
    """
    How the labels of tenants are doing.

    Args:
        labels: How many tenants have one now.

        most: How many can have one, after what metrics have reserved.

        series: How many series those tenants, ``other`` and no tenant can have.

        counted: How many tenants without a label are counted at the moment.

        overflowed: Requests that were counted under ``other``.

        given: How often a tenant was given a label.

        left: How often a tenant has lost its label.

        refused: Children that were not made, for want of reserved series.

        failures: How often an `on_leave` callback raised.
    """

    labels: int
    most: int
    series: int
    counted: int
    overflowed: int
    given: int
    left: int
    refused: int
    failures: int


class TenantLabels:
    """
    Give the busiest tenants a label of their own; all others share ``other``.

    The budget holds by construction: each metric with a tenant label reserves
    the series it takes for one tenant, and there are only as many labels as
    *max_series* pays for, ``other`` and no tenant included.  It is the budget
    of a process; workers choose for themselves.

    The first tenants get a label at once.  Afterwards a tenant gets one when
    its traffic, counted with a memory of *half_life*, is *lead* times that of
    the weakest with a label, who has had it for *tenure* seconds (or is eight
    times behind).  So tenants that take turns gain nothing, and no label
    changes hands more than once in a tenure but for a landslide.  A tenant
    without traffic for *idle* seconds gives its label back.

    No tenant can pass for another: one that is called ``other``, whose id is
    empty or begins with ``=`` is shown with a ``=`` before its id.  An id that
    is no clean label (see `clean_label`) has none and counts as ``other``.

        >>> labels = TenantLabels(top=1)
        >>> labels.label("acme"), labels.label("globex"), labels.label(None)
        ('acme', 'other', '')

    Args:
        top: How many tenants have a label at most.

        max_series: How many series all metrics with a tenant label may have
            together.

        idle: Seconds without a request after which a label is given back.

        half_life: Seconds after which a request counts half.

        lead: How many times the traffic of another one needs for its label.

        tenure: Seconds for which a label is safe from one that is only ahead.

        review: Seconds between two looks at who is ahead.

        clock: Seconds, from any moment on.

    Raises:
        twh_platform.errors.ConfigurationError: For a number that is too small.
    """

    def __init__(
        self,
        *,
        top: int = 100,
        max_series: int = 5_000,
        idle: float = 3600.0,
        half_life: float = 300.0,
        lead: float = 2.0,
        tenure: float = 300.0,
        review: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        at_least = min(top, max_series, tenure) >= 0 and lead >= 1
        if not at_least or min(idle, half_life, review) <= 0:
            message = (
                f"{top=}, {max_series=}, {idle=}, {half_life=}, {lead=}, {tenure=}, {review=}:"
                " too small"
            )
            raise ConfigurationError(message)
        self._top, self._max_series = top, max_series
        self._idle, self._half_life = idle, half_life
        self._lead, self._tenure, self._every = lead, tenure, review
        self._clock = clock
        self._per_tenant = 0
        self._counts: dict[str, float] = {}
        self._callbacks: list[_OnLeave] = []
        self._given = self._gone = self._refused = self._failures = 0
        self._lock = threading.RLock()  # a callback may ask us something
        now = clock()
        self._reviewed, self._next_review = now, now + review
        self._other = TenantSeat(OTHER_TENANTS, self._adopt, score=0.0, now=now)
        self._none = TenantSeat(NO_TENANT, self._adopt, score=0.0, now=now)
        self._seats: dict[str | None, TenantSeat] = {None: self._none}
        reset_after_fork(self)

    def label(self, tenant: str | None) -> str:
        """
        Count a request of *tenant* and return the label to show it under.

        Args:
            tenant: The tenant's id; None where there is no tenant.

        Returns:
            The label: ``other`` for a tenant without one, ``""`` for None.
        """
        return self.seat(tenant).label

    def seat(self, tenant: str | None) -> TenantSeat:
        """
        Count a request of *tenant* and return what to count it under.
        """
        try:
            seat = self._seats.get(tenant)
        except TypeError:  # an id that cannot be a key is nobody's
            seat = self._other
        if seat is None:
            seat = self._unseated(tenant)
        # Two threads may lose a count here.  It only ranks.
        seat.hits += 1
        if self._clock() >= self._next_review:
            self.review()
        return seat

    def reserve(self, series: int) -> None:
        """
        Announce a metric that takes up to *series* series for one tenant.

        A counter with one more label of three values takes 3, a histogram of
        four buckets 7: a line for each bucket, the infinite one, sum and count.
        Where there is not enough for *top* tenants, fewer have a label.

        Raises:
            twh_platform.errors.ConfigurationError: If it does not even fit
                for ``other`` and no tenant.
        """
        with self._lock:
            needed = self._per_tenant + series
            if series < 1 or needed * 2 > self._max_series:
                message = (
                    f"{series!r} series a tenant: {self._per_tenant} of {self._max_series} are"
                    " reserved, and `other` and no tenant need theirs too"
                )
                raise ConfigurationError(message)
            self._per_tenant = needed
            for tenant in self._weakest_first()[: max(0, len(self._seats) - 1 - self.most)]:
                self._leave(tenant)

    def release(self, series: int) -> None:
        """
        Give back what a metric has reserved that is no more.
        """
        with self._lock:
            self._per_tenant = max(0, self._per_tenant - series)

    def on_leave(self, callback: _OnLeave) -> None:
        """
        Call ``callback(label)`` when a tenant has lost its label, to remove its children.

        It is called inside the lock of the labels, so that nobody can get the
        same label in between.  What it raises is counted and goes no further.
        """
        self._callbacks.append(callback)

    @property
    def most(self) -> int:
        """
        How many tenants can have a label, after what metrics have reserved.
        """
        if not self._per_tenant:
            return self._top
        return max(0, min(self._top, self._max_series // self._per_tenant - 2))

    def stats(self) -> TenantLabelStats:
        """
        Say how the labels are doing, for metrics and tests.
        """
        labels = len(self._seats) - 1
        return TenantLabelStats(
            labels=labels,
            most=self.most,
            series=(labels + 2) * self._per_tenant,
            counted=len(self._counts),
            overflowed=self._other.hits,
            given=self._given,
            left=self._gone,
            refused=self._refused,
            failures=self._failures,
        )

    def tell(self, registry: Registry) -> None:
        """
        Count what overflowed on a page, in ``platform_telemetry_label_overflow_total``.

        The middleware and `twh_platform.platform.observe` do it for theirs.
        """
        child = registry.overflow("tenants")
        registry.on_render(lambda: child._reach(self._other.hits))  # noqa: SLF001 -- of the same part

    def review(self) -> None:
        """
        Let counts fade, take labels from the idle, and give them to who is ahead.

        Requests see to it; call it before a page is rendered too, so that
        labels go when requests have stopped.
        """
        if not self._lock.acquire(blocking=False):
            return  # somebody is at it, or about to be
        try:
            now = self._clock()
            self._next_review = now + self._every
            self._fade(now)
            self._evict_idle(now)
            self._promote(now)
        finally:
            self._lock.release()

    def after_fork(self) -> None:
        """
        Forget a lock that a thread of the parent held.
        """
        self._lock = threading.RLock()

    def _unseated(self, tenant: str | None) -> TenantSeat:
        with self._lock:
            seat = self._seats.get(tenant)
            if seat is not None:
                return seat  # given by another thread just now
            if tenant in self._counts and len(self._seats) > self.most:
                self._counts[tenant] += 1.0
                return self._other
            if not isinstance(tenant, str) or _shown(tenant) is None:
                return self._other
            if len(self._seats) <= self.most:
                return self._give(tenant, 0.0, self._clock())
            self._count(tenant)
            return self._other

    def _count(self, tenant: str) -> None:
        counts = self._counts
        counts[tenant] = counts.get(tenant, 0.0) + 1.0
        if len(counts) > max(_COUNTED_AT_LEAST, _COUNTED * self._top):
            # At least half of them leave, so this is paid for by as many requests.
            median = median_low(counts.values())
            self._counts = {one: count - median for one, count in counts.items() if count > median}

    def _fade(self, now: float) -> None:
        rest = 0.5 ** (max(0.0, now - self._reviewed) / self._half_life)
        self._reviewed = now
        for seat in self._held().values():
            hits, seat.hits = seat.hits, 0
            seat.score = seat.score * rest + hits
            if hits:
                seat.seen = now
        faded = {tenant: count * rest for tenant, count in self._counts.items()}
        self._counts = {tenant: count for tenant, count in faded.items() if count >= _FADED}

    def _evict_idle(self, now: float) -> None:
        for tenant, seat in self._held().items():
            if now - seat.seen >= self._idle:
                self._leave(tenant)

    def _promote(self, now: float) -> None:
        free = self.most - len(self._held())
        weakest = self._weakest_first()
        challengers = nlargest(
            max(free, self._top // _AT_ONCE, 1), self._counts.items(), key=lambda one: one[1]
        )
        for tenant, score in challengers:
            if free > 0:
                free -= 1
            elif (beaten := self._beaten(score, weakest, now)) is not None:
                weakest.remove(beaten)
                self._counts[beaten] = self._seats[beaten].score
                self._leave(beaten)
            else:
                break
            self._give(tenant, self._counts.pop(tenant), now)

    def _beaten(self, score: float, weakest: list[str], now: float) -> str | None:
        for tenant in weakest:
            seat = self._seats[tenant]
            safe = now - seat.since < self._tenure
            if score > seat.score * (_FAR_AHEAD if safe else self._lead) + _MARGIN:
                return tenant
        return None

    def _held(self) -> dict[str, TenantSeat]:
        return {tenant: seat for tenant, seat in self._seats.items() if tenant is not None}

    def _weakest_first(self) -> list[str]:
        held = self._held()
        return sorted(held, key=lambda tenant: held[tenant].score + held[tenant].hits)

    def _give(self, tenant: str, score: float, now: float) -> TenantSeat:
        label = _shown(tenant) or OTHER_TENANTS
        seat = TenantSeat(label, self._adopt, score=score, now=now)
        self._seats[tenant] = seat
        self._given += 1
        return seat

    def _leave(self, tenant: str) -> None:
        seat = self._seats.pop(tenant)
        seat.lost = True
        seat.children = {}
        self._gone += 1
        for callback in self._callbacks:
            try:
                callback(seat.label)
            except Exception:  # noqa: BLE001 -- a metric's fault is not the request's
                self._failures += 1

    def _adopt(
        self, seat: TenantSeat, key: Hashable, make: Callable[[str], Any], series: int
    ) -> Any:
        with self._lock:
            if seat.lost:
                # Its children are gone from the page; a new one would never leave it.
                seat = self._other
            found = seat.children.get(key)
            if found is not None:
                return found
            if seat.series + series > self._per_tenant:
                self._refused += 1
                return None
            seat.series += series
            seat.children[key] = made = make(seat.label)
            return made


def _shown(tenant: str) -> str | None:
    # "=" is no character of a tenant id, so what it begins is nobody else's label.
    special = tenant in {NO_TENANT, OTHER_TENANTS} or tenant.startswith("=")
    label = f"={tenant}" if special else tenant
    return label if clean_label(label) == label else None
