"""
How long a cached data key is believed.

    validated            soft                     hard                 dead
        |------ fresh -----|----- still good ------|------ stale -------|
                           one refresh begins,     served only while the
                           nobody waits for it     backend is unavailable

Ages are measured from the moment at which the question was asked.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, fields

from ..errors import ConfigurationError

__all__ = ["CachePolicy", "Entry"]

_PAUSE = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CachePolicy:
    """
    How long data keys are kept open, and how many.

    Args:
        max_age: Seconds after which a data key is asked for again before it is
            used.  A key that was disabled or destroyed works no longer than
            this where no notice of it arrives.

        stale_if_error: Seconds since it was last asked for with success, for
            which a data key goes on to work while its store or key service
            does not answer.

        early: After this part of `max_age` it is asked for in the background.

        capacity: How many data keys are kept for all tenants together.

        per_tenant: How many are kept for one tenant, besides those it seals with.

        negative_age: Seconds for which a refusal is remembered.

    Raises:
        twh_platform.errors.ConfigurationError: With code
            ``cache_policy_invalid``.
    """

    max_age: float = 300.0
    stale_if_error: float = 900.0
    early: float = 0.8
    capacity: int = 10_000
    per_tenant: int = 100
    negative_age: float = 5.0

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if not 0 < value < math.inf:
                raise _invalid(f"{one.name}={value!r} is not above zero")
        if self.early > 1:
            raise _invalid(f"early={self.early!r} is above 1")
        if self.stale_if_error < self.max_age:
            raise _invalid(f"stale_if_error={self.stale_if_error!r} is less than max_age")


def _invalid(what: str) -> ConfigurationError:
    return ConfigurationError(what, code="cache_policy_invalid")


class Entry:
    """
    Something that was loaded, and until when it is believed.

    Attributes:
        key: Under which it is found among its tenant's.

        validated_at: When it was last asked for with success.

        fresh_until: Until then it is used without a thought.

        slot: In which it is sealed with, or None.
    """

    __slots__ = (
        "__weakref__",
        "dead_at",
        "failing",
        "fresh_until",
        "hard_at",
        "key",
        "seal_fresh_until",
        "seal_until",
        "slot",
        "validated_at",
    )

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.validated_at = self.fresh_until = self.hard_at = self.dead_at = -math.inf
        self.seal_until = math.inf
        self.seal_fresh_until = -math.inf
        self.failing = False
        self.slot: int | None = None

    def believe(self, asked_at: float, policy: CachePolicy, chance: float) -> None:
        """
        Take it as validated at that moment; *chance* (0 to 1) brings its refresh forward.
        """
        soft = policy.early * policy.max_age * (1 - 0.1 * chance)
        self.hard_at = asked_at + policy.max_age
        self.dead_at = asked_at + policy.stale_if_error
        self.failing = False
        self.validated_at = asked_at
        self._fresh(asked_at + soft)

    def fail(self, now: float) -> None:
        """
        Note that its backend is unavailable: use it for a moment before asking again.
        """
        self.failing = True
        self._fresh(min(now + _PAUSE, self.dead_at))

    def stop_sealing(self, at: float) -> None:
        """
        Do not seal with it from that moment on, or from an earlier one that is set.
        """
        self.seal_until = min(self.seal_until, at)
        self.seal_fresh_until = min(self.fresh_until, self.seal_until)

    def usable(self, now: float) -> bool:
        """
        Whether it may be used now without waiting for anybody.
        """
        end = self.dead_at if self.failing else self.hard_at
        return self.validated_at <= now < end

    def alive(self, now: float) -> bool:
        """
        Whether it may be used now if its backend is unavailable.
        """
        return self.validated_at <= now < self.dead_at

    def _fresh(self, until: float) -> None:
        self.fresh_until = until
        self.seal_fresh_until = min(until, self.seal_until)
