"""
Rules: how much of what, for whom, and what happens beyond it.

Five kinds.  A `Rate` refills evenly, a `SlidingWindow` looks back, a
`Calendar` starts anew with the tenant's day or month, `Concurrency` counts
what runs now, `Capacity` what is there.  All amounts are integers, and so is
all arithmetic: in whole microseconds, below 2**53, so that Lua, whose numbers
are doubles, computes the same.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import ClassVar

from ..errors import ConfigurationError
from ._quoting import shown

__all__ = [
    "Calendar",
    "Capacity",
    "Concurrency",
    "Mode",
    "OnFailure",
    "Period",
    "Rate",
    "Rule",
    "Scope",
    "SlidingWindow",
]

MICROSECONDS = 1_000_000
LARGEST = 2**53 - 1
# Above it the sixteen digits of a moment plus a year would no longer be sixteen.
LONGEST_US = 366 * 86_400 * MICROSECONDS
# A level and its limit, in whatever is counted; bytes up to 4 PiB.
LARGEST_LIMIT = 2**52

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}", re.ASCII)
_UNIT = re.compile(r"[a-z][a-z0-9-]{0,31}", re.ASCII)
# As requests are told: HEAD as GET, and parameters without their convertors.
_ROUTE = re.compile(r"((?!HEAD )[A-Z]+ )?/((?!\{\w+:)[\x21-\x7e])*", re.ASCII)


class Scope(StrEnum):
    """
    Who shares the rule's amount.

    The first four are counted inside a tenant.  The last two need none: they
    hold before anybody has said who they are.
    """

    TENANT = "tenant"
    USER = "user"
    API_KEY = "api_key"
    ROUTE = "route"
    CLIENT = "client"
    GLOBAL = "global"


# Those that need no tenant.
COMMON_SCOPES = frozenset({Scope.CLIENT, Scope.GLOBAL})


class Mode(StrEnum):
    """
    What happens to a request beyond the limit.

    ``hard`` refuses it.  ``soft`` admits and counts it, and says so.
    ``shadow`` only says that it would have been refused: for trying a rule out.
    """

    HARD = "hard"
    SOFT = "soft"
    SHADOW = "shadow"


class OnFailure(StrEnum):
    """
    What happens while the store does not answer.

    ``open`` admits without counting, ``closed`` refuses, ``share`` counts in
    this process against its share of the limit.
    """

    OPEN = "open"
    CLOSED = "closed"
    SHARE = "share"


class Period(StrEnum):
    """
    A stretch of the calendar, in the tenant's time zone.
    """

    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    YEAR = "year"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """
    What every rule has; make one of its five kinds.

    Args:
        name: Unique in a plan, and what the state is kept under: 1 to 64 of
            ``a-z 0-9 _ . -``, as it is shown in headers.

        limit: How many units.

        unit: What is counted: ``requests``, ``items``, ``bytes``.

        cost: Units that a request takes which does not say another number.

        scope: Who shares the amount.

        mode: What happens beyond it.

        on_failure: What happens while the store does not answer.

        routes: Only requests for one of these templates, such as
            ``POST /auth/login`` or ``/items/{id}``, without convertors; for all
            if empty.  ``GET`` is for ``HEAD`` too.

    Raises:
        twh_platform.errors.ConfigurationError: With code ``rule_invalid``; the
            message names the rule, the field and its value.
    """

    kind: ClassVar[str] = ""
    _least: ClassVar[int] = 0

    name: str
    limit: int
    unit: str = "requests"
    cost: int = 1
    scope: Scope = Scope.TENANT
    mode: Mode = Mode.HARD
    on_failure: OnFailure = OnFailure.SHARE
    routes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._require(isinstance(self.name, str) and _NAME.fullmatch(self.name), "name")
        self._require(isinstance(self.unit, str) and _UNIT.fullmatch(self.unit), "unit")
        self._require_integer("limit", self._least, LARGEST_LIMIT)
        self._require_integer("cost", 1, LARGEST_LIMIT)
        self._put_enum("scope", Scope)
        self._put_enum("mode", Mode)
        self._put_enum("on_failure", OnFailure)
        routes = self.routes
        self._require(not isinstance(routes, str) and isinstance(routes, Iterable), "routes")
        object.__setattr__(self, "routes", tuple(routes))
        fit = all(isinstance(one, str) and _ROUTE.fullmatch(one) for one in self.routes)
        self._require(fit, "routes")

    @property
    def capacity(self) -> int:
        """
        The largest cost that can ever be admitted.
        """
        return self.limit

    def _require(self, fits: object, name: str, why: str = "is not valid") -> None:
        if not fits:
            rule = self.name if isinstance(self.name, str) else ""
            message = f"rule {rule[:80]!r}: {name}={shown(getattr(self, name))} {why}"
            raise ConfigurationError(message, code="rule_invalid")

    def _require_integer(self, name: str, least: int, most: int) -> None:
        value = getattr(self, name)
        whole = isinstance(value, int) and not isinstance(value, bool)
        self._require(
            whole and least <= value <= most, name, f"is no integer from {least} to {most}"
        )
        object.__setattr__(self, name, int(value))  # an enumeration's text is no number

    def _put_enum(self, name: str, kind: type[StrEnum]) -> None:
        value = getattr(self, name)
        allowed = [str(one) for one in kind]
        self._require(value in allowed, name, f"is none of {', '.join(allowed)}")
        object.__setattr__(self, name, kind(value))

    def _microseconds(self, name: str) -> int:
        value = getattr(self, name)
        if isinstance(value, timedelta):
            value = value.total_seconds()
        real = isinstance(value, int | float) and not isinstance(value, bool)
        self._require(real, name, "is no number of seconds")
        within = 0 < value <= LONGEST_US // MICROSECONDS  # which no NaN is
        microseconds: int = round(value * MICROSECONDS) if within else 0
        self._require(microseconds, name, "is not from a microsecond to 366 days")
        return microseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate(Rule):
    """
    So many units per stretch of time, refilled evenly: GCRA, the virtual scheduling algorithm.

    In any stretch of *s* seconds no more than ``s * limit / per + burst`` units
    are admitted.  There is no boundary at which twice the limit fits.

        >>> Rate(name="minute", limit=10, per=60).emission_us
        6000000.0

    Args:
        per: Seconds, or a `timedelta`; at most 366 days.

        burst: How many units may be taken at once after a pause; *limit* if
            not given.

    The algorithm is that of ITU-T I.371, annex A.
    """

    kind: ClassVar[str] = "r"
    _least: ClassVar[int] = 1

    per: float | timedelta
    burst: int | None = None

    def __post_init__(self) -> None:
        Rule.__post_init__(self)
        self._microseconds("per")
        if self.burst is not None:
            self._require_integer("burst", 1, LARGEST_LIMIT)
        period, _ = self.ratio
        # Debt goes up to twice the burst, and one request's cost comes on top.
        exact = 4 * max(self.capacity, self.limit) * period <= LARGEST
        self._require(exact, "limit", "and per are too large together: take a shorter stretch")
        full = self.capacity * self.emission_us
        self._require(full <= LONGEST_US, "limit", "takes longer than 366 days to refill")

    @property
    def per_us(self) -> int:
        """
        The stretch, in microseconds.
        """
        return self._microseconds("per")

    @property
    def ratio(self) -> tuple[int, int]:
        """
        Microseconds per unit as a fraction in lowest terms.
        """
        common = math.gcd(self.per_us, self.limit)
        return self.per_us // common, self.limit // common

    @property
    def emission_us(self) -> float:
        """
        Microseconds per unit.
        """
        return self.per_us / self.limit

    @property
    def capacity(self) -> int:
        """
        The burst.
        """
        return self.limit if self.burst is None else self.burst


@dataclass(frozen=True, slots=True, kw_only=True)
class SlidingWindow(Rule):
    """
    So many units in the last stretch of time, estimated from two counters.

    The units of the window before count as if they had come evenly.  Steady
    traffic and bursts at a boundary keep the limit to about one percent; whoever
    sends everything in the last moment of a window gets up to twice the limit
    within one stretch.  Where that must not be, take a `Rate`.

    Args:
        per: Seconds, or a `timedelta`; whole milliseconds, at most 366 days.
    """

    kind: ClassVar[str] = "w"
    _least: ClassVar[int] = 1

    per: float | timedelta

    def __post_init__(self) -> None:
        Rule.__post_init__(self)
        self._require(self._microseconds("per") % 1000 == 0, "per", "is not whole milliseconds")
        exact = 2 * self.limit * (self.per_us // 1000) <= LARGEST
        self._require(exact, "limit", "and per are too large together: take a shorter stretch")

    @property
    def per_us(self) -> int:
        """
        The stretch, in microseconds.
        """
        return self._microseconds("per")


@dataclass(frozen=True, slots=True, kw_only=True)
class Calendar(Rule):
    """
    So many units per hour, day, week, month or year of the tenant's time zone.

    Args:
        period: Which.

        anchor_day: When the period starts: for a week 1 (Monday) to 7, for a
            month 1 to 31, where a shorter month starts it on its last day.
    """

    kind: ClassVar[str] = "c"

    period: Period
    anchor_day: int = 1

    def __post_init__(self) -> None:
        Rule.__post_init__(self)
        self._put_enum("period", Period)
        last = {Period.WEEK: 7, Period.MONTH: 31}.get(self.period, 1)
        self._require_integer("anchor_day", 1, last)


@dataclass(frozen=True, slots=True, kw_only=True)
class Concurrency(Rule):
    """
    So many requests at the same time; each takes one slot, whatever its cost.

    A slot is a lease: it ends when the request is settled, or when nobody
    renews it any more, as after a crash.

    Args:
        lease: Seconds after which a slot that is not renewed is free.

        maximum_hold: Seconds after which a slot is free although it is renewed.
    """

    kind: ClassVar[str] = "l"

    lease: float | timedelta = 60.0
    maximum_hold: float | timedelta = 3600.0

    def __post_init__(self) -> None:
        Rule.__post_init__(self)
        self._require(self.cost == 1, "cost", "is not 1: a request takes one slot")
        lease, hold = self._microseconds("lease"), self._microseconds("maximum_hold")
        self._require(lease <= hold, "lease", "is longer than maximum_hold")

    @property
    def lease_us(self) -> int:
        """
        The lease, in microseconds.
        """
        return self._microseconds("lease")

    @property
    def maximum_hold_us(self) -> int:
        """
        The longest hold, in microseconds.
        """
        return self._microseconds("maximum_hold")


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity(Rule):
    """
    So many units at all: a level that is taken from and given back to.

    Items, locations and stored bytes are counted exactly where they are kept:
    `twh_platform.quotas.postgres`.  A store of quotas keeps levels of what is
    in no database.
    """

    kind: ClassVar[str] = "n"
