"""
Which requests are recorded: decided at their start, before any span exists.

At the start of a request little is known: its trace id, its path, and what a
trusted peer has decided.  Its route is known when the router has matched, its
tenant when somebody has authenticated it, its fate at the end.  So there are
three moments:

1. `HeadSampler.decide` at the start, by trusted parent, path and ratio, or
   `begins`, where nobody stands above and the id is a mere number yet.  Nothing
   else is waited for: log lines, spans and outgoing requests need the answer.
2. `HeadSampler.revise` when the tenant becomes known, which is before the
   handler runs.  A no can still become a yes: the SERVER span begins then, with
   the ids and the start that the request had.  A yes can become a no only as
   long as nobody has asked for the place of its span: a child span or a request
   to somebody else would be the half of a trace that is not there.
3. `HeadSampler.keeps` at the end: an error or a slow request that was not
   recorded is worth a span all the same, made afterwards with the ids that
   it had while it ran.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, NamedTuple, final

from ..errors import ConfigurationError
from ._buckets import KeyedBuckets, TokenBucket
from ._path_ratios import PathRatios

__all__ = ["LOWER_HALF", "HeadSampler", "Keep", "SamplerStats", "TenantRate", "Verdict"]

LOWER_HALF: Final = 2**64 - 1
"""
The bits of a trace id that a ratio is compared with.
"""


class Verdict(NamedTuple):
    """
    Whether a request is recorded, and why; a tuple, because each request has one.

    Args:
        sampled: Whether it is.

        reason: ``parent``, ``ratio``, ``path``, ``tenant`` (its own ratio),
            ``tenant_rate`` (its rate is used up) or ``rate`` (everybody's is).
    """

    sampled: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantRate:
    """
    How many recorded requests a tenant may have.

    Args:
        rate: Recorded requests a second, above 0.

        burst: How many at once, at least 1; without, a second's worth.

        most: How many tenants are told apart; see `HeadSampler`.
    """

    rate: float
    burst: float | None = None
    most: int = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """
    What is recorded at its end although it was not sampled at its start.

    Errors and slow requests have rates of their own: how long a request takes
    is up to the client as well, who may send its body slowly, and that must not
    hide what fails.

    Args:
        errors: Requests that end with an error, slow or not.

        slow: Requests that take this many seconds or more, from their arrival
            on; None for none.

        rate: How many of either a second, so that a storm of errors does not
            become a storm of spans; 0 keeps nothing.

        burst: How many of either at once; without, a second's worth.

        tenant_rate: How many of either for one tenant, so that one tenant's
            errors do not hide another's; None for no such limit.
    """

    errors: bool = True
    slow: float | None = 1.0
    rate: float = 10.0
    burst: float | None = None
    tenant_rate: TenantRate | None = None


_KEEP: Final = Keep()
_PARENT, _RATIO, _PATH, _TENANT = (
    {sampled: Verdict(sampled=sampled, reason=reason) for sampled in (True, False)}
    for reason in ("parent", "ratio", "path", "tenant")
)
_TENANT_RATE: Final = Verdict(sampled=False, reason="tenant_rate")
_RATE: Final = Verdict(sampled=False, reason="rate")


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerStats:
    """
    What a sampler has done since it was made.

    Args:
        sampled: Requests to be recorded from their start.

        limited: Requests that a rate has kept from it.

        kept: Requests recorded at their end.

        dropped: Errors and slow requests that a rate of `Keep` has left out.
    """

    sampled: int
    limited: int
    kept: int
    dropped: int


@final
class HeadSampler:
    """
    Decide at its start whether a request is recorded; not to be subclassed.

    The ratio is compared with the trace id in the same way as by
    OpenTelemetry's ``TraceIdRatioBased``: services that use the same ratio
    agree about every trace, and a higher ratio adds to what a lower one
    records.  What a trusted peer has decided is followed; what a stranger has
    decided is never asked for (see `TrustBoundary`).

    Rates bound what costs money.  They depend on the moment and not on the
    trace id, so they are for the service where a trace begins.  Tenants are
    told apart up to a number: a tenant's bucket is forgotten only when it is
    full again, and while all are in use, further tenants share one.

        >>> sampler = HeadSampler(ratio=0.0, paths={"/checkout/*": 1.0})
        >>> sampler.decide("0af7651916cd43dd8448eb211c80319c", "/checkout/7")
        Verdict(sampled=True, reason='path')

    Args:
        ratio: The part of all requests that is recorded, 0 to 1.

        paths: Ratios of their own for paths, matched at the start: templates
            such as ``/items/{id}``, and with ``/*`` at the end everything
            below too.  The most particular one counts.  This is about the path
            that was sent, not about the route that will be found for it:
            ``/checkout/*`` is also what no route answers.

        tenants: Ratios of their own for tenants, by id.  They replace the
            other ratios once the tenant is known: `TelemetryMiddleware` asks
            again when `TenantMiddleware` has resolved one.

        rate: How many requests a second are recorded at most, over all; None
            for no limit.  What a trusted peer has decided is not counted.

        tenant_rate: How many of one tenant, once it is known.

        keep: What is recorded at its end all the same.

        clock: Seconds, from any moment on.

    Attributes:
        slow: Seconds from which on a request is kept for them; infinite for never.

        highest: A number whose lower half is not below it is recorded for no
            path; see `begins`.

    Raises:
        twh_platform.errors.ConfigurationError: For a ratio that is not from 0
            to 1, a rate that is not above 0, or a path that is no template.
    """

    def __init__(
        self,
        *,
        ratio: float = 0.01,
        paths: Mapping[str, float] = MappingProxyType({}),
        tenants: Mapping[str, float] = MappingProxyType({}),
        rate: float | None = None,
        tenant_rate: TenantRate | None = None,
        keep: Keep = _KEEP,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bound = _bound("ratio", ratio)
        bounds = {path: _bound(f"paths[{path!r}]", one) for path, one in paths.items()}
        self._paths = PathRatios(bounds) if bounds else None
        self.highest = max([self._bound, *bounds.values()])
        self._tenants = {one: _bound(f"tenants[{one!r}]", share) for one, share in tenants.items()}
        self._rate = None if rate is None else TokenBucket(rate, clock=clock)
        self._tenant_rate = _keyed(tenant_rate, clock)
        self._errors = keep.errors and keep.rate > 0
        self.slow = math.inf if keep.slow is None or keep.rate <= 0 else keep.slow
        self._rooms = {reason: _Room(keep, clock) for reason in ("error", "slow")}
        self._counts = _Counts()

    @property
    def minds_tenants(self) -> bool:
        """
        Whether it makes a difference who the tenant is, so that `revise` is to be asked.
        """
        return bool(self._tenants) or self._tenant_rate is not None

    def decide(
        self,
        trace_id: str,
        path: str = "",
        *,
        parent: bool | None = None,
        tenant: str | None = None,
    ) -> Verdict:
        """
        Decide at the start of a request.

        Args:
            trace_id: The id that the request will have, ours or a trusted peer's.

            path: The path that was sent.

            parent: What a trusted peer has decided, `Inbound.sampled`; None
                for a request that begins its trace or was left to us.

            tenant: The tenant, where it is already known.

        Raises:
            ValueError: For an id that is not hexadecimal.
        """
        if parent is not None:
            return self._counted(_PARENT[parent])
        return self._judge(int(trace_id, 16), path, tenant)

    def begins(self, number: int, path: str) -> bool:
        """
        As `decide`, where a trace begins, for an id that is not written out yet.

        Args:
            number: The trace id as a number.

            path: The path that was sent.
        """
        return self._judge(number, path, None).sampled

    def revise(
        self, verdict: Verdict, trace_id: str, tenant: str, *, settled: bool = False
    ) -> Verdict:
        """
        Decide again, now that the tenant is known; what a parent said stands.

        Ask once for a request.  It may turn either way: a tenant's own ratio
        adds or takes away, its rate takes away.

        Args:
            verdict: What `decide` said without a tenant.

            trace_id: The same id.

            tenant: The verified tenant's id.

            settled: Whether the first answer cannot be taken back any more.  It
                stands then, and is counted against the tenant's rate.
        """
        if verdict.reason == "parent":
            return verdict
        if settled:
            if verdict.sampled and self._tenant_rate is not None:
                self._tenant_rate.take(tenant)
            return verdict
        share = self._tenants.get(tenant)
        if share is None:
            return self._within(verdict, tenant) if verdict.sampled else verdict
        if int(trace_id, 16) & LOWER_HALF >= share:
            self._counts.sampled -= verdict.sampled
            return _TENANT[False]
        if verdict.sampled:  # everybody's rate has counted it already
            return self._within(_TENANT[True], tenant)
        return self._rated(_TENANT[True], tenant)

    def keeps(self, *, error: bool, seconds: float, tenant: str | None = None) -> str:
        """
        Say at the end why a request that was not sampled is recorded all the same.

        Give the seconds to the first byte for a stream, whose whole duration
        says nothing, and 0 for a websocket.

        Args:
            error: Whether it ended with an error.

            seconds: How long it took.

            tenant: The tenant, where it is known.

        Returns:
            ``error`` or ``slow``; ``""`` where it is not to be recorded.
        """
        reason = "error" if error and self._errors else "slow" if seconds >= self.slow else ""
        if not reason:
            return ""
        if self._rooms[reason].take(tenant):
            self._counts.kept += 1
            return reason
        self._counts.dropped += 1
        return ""

    def stats(self) -> SamplerStats:
        """
        Say what was decided so far, for metrics and tests.

        With several threads a count may be a little low.
        """
        counts = self._counts
        return SamplerStats(
            sampled=counts.sampled,
            limited=counts.limited,
            kept=counts.kept,
            dropped=counts.dropped,
        )

    def _judge(self, number: int, path: str, tenant: str | None) -> Verdict:
        bound, verdicts = self._bound, _RATIO
        if self._paths is not None and (own := self._paths.find(path)) is not None:
            bound, verdicts = own, _PATH
        if tenant is not None and (share := self._tenants.get(tenant)) is not None:
            bound, verdicts = share, _TENANT
        if number & LOWER_HALF >= bound:
            return verdicts[False]
        return self._rated(verdicts[True], tenant)

    def _rated(self, verdict: Verdict, tenant: str | None) -> Verdict:
        if self._rate is not None and not self._rate.take():
            self._counts.limited += 1
            return _RATE
        self._counts.sampled += 1
        return verdict if tenant is None else self._within(verdict, tenant)

    def _within(self, verdict: Verdict, tenant: str) -> Verdict:
        if self._tenant_rate is None or self._tenant_rate.take(tenant):
            return verdict
        self._counts.sampled -= 1
        self._counts.limited += 1
        return _TENANT_RATE

    def _counted(self, verdict: Verdict) -> Verdict:
        self._counts.sampled += verdict.sampled
        return verdict


class _Room:
    """
    How much is kept for one reason: of everybody, and of one tenant.
    """

    __slots__ = ("_all", "_tenants")

    def __init__(self, keep: Keep, clock: Callable[[], float]) -> None:
        self._all = TokenBucket(keep.rate or 1.0, burst=keep.burst, clock=clock)
        self._tenants = _keyed(keep.tenant_rate, clock)

    def take(self, tenant: str | None) -> bool:
        # The tenant's first: what it has too much of must not use up everybody's.
        if tenant is not None and self._tenants is not None and not self._tenants.take(tenant):
            return False
        return self._all.take()


@dataclass(slots=True)
class _Counts:
    sampled: int = 0
    limited: int = 0
    kept: int = 0
    dropped: int = 0


def _bound(name: str, ratio: float) -> int:
    # What OpenTelemetry compares the lower 64 bits of the id with.
    if not isinstance(ratio, int | float) or not 0 <= ratio <= 1:
        message = f"{name}={ratio!r} is not from 0 to 1"
        raise ConfigurationError(message)
    return round(ratio * 2**64)


def _keyed(given: TenantRate | None, clock: Callable[[], float]) -> KeyedBuckets | None:
    if given is None:
        return None
    return KeyedBuckets(given.rate, burst=given.burst, most=given.most, clock=clock)
