"""
Handling a webhook once: how long a delivery is remembered, and by whom.

A delivery is claimed before it is handled and committed after.  What was claimed and
is neither committed nor released, because its process died, is free again when its
lease ends.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Coroutine
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, Literal, Protocol, TypeVar, runtime_checkable

from ..errors import BackendUnavailableError, ConfigurationError, WebhookError

__all__ = [
    "NONCE_BYTES",
    "Claim",
    "ClaimState",
    "ClaimToken",
    "Replay",
    "ReplayStore",
    "Retention",
    "conflict",
    "kept",
    "new_nonce",
    "replayed",
    "store_unavailable",
]

T = TypeVar("T")

NONCE_BYTES: Final = 16

_DAY: Final = 86_400.0
# The ten attempts of Standard Webhooks' example take 75 h 35 min, and a tenth for jitter.
_HORIZON: Final = 3.5 * _DAY


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """
    For how long a handled delivery is remembered, and why that is long enough.

    Whoever has seen a webhook can send it again while its timestamp is good; its
    sender tries again for longer.  Both have to find it remembered.

    Args:
        ttl: Seconds for which it is remembered after it was handled.

        horizon: Seconds over which the sender tries again.  By default the 75.6
            hours of Standard Webhooks with a tenth for jitter; Stripe's are three days.

        window: Seconds for which a signature is good, before and after its time.

        skew: Seconds by which clocks may differ.

    Raises:
        twh_platform.errors.ConfigurationError: With code ``retention_too_short``.
    """

    ttl: float = 4 * _DAY
    horizon: float = _HORIZON
    window: float = 600.0
    skew: float = 60.0

    def __post_init__(self) -> None:
        for name in ("horizon", "window", "skew"):
            if not 0 <= getattr(self, name) < float("inf"):
                message = f"{name}={getattr(self, name)!r} is no number of seconds"
                raise ConfigurationError(message, code="retention_too_short")
        least = max(self.horizon, self.window + self.skew)
        if not least <= self.ttl < float("inf") or not self.ttl:
            message = f"ttl={self.ttl!r} is below {least:g} s: a delivery could come again unknown"
            raise ConfigurationError(message, code="retention_too_short")

    def check_window(self, window: float) -> None:
        """
        Return if signatures are good for no longer than this was made for.

        Raises:
            twh_platform.errors.ConfigurationError: With code ``retention_too_short``.
        """
        if window > self.window:
            message = f"signatures are good for {window:g} s, window={self.window!r}"
            raise ConfigurationError(message, code="retention_too_short")


class ClaimState(Enum):
    """
    What a store says to a claim.
    """

    NEW = "new"
    """Nobody has it: it is claimed now, until it is committed or the lease ends."""

    DONE = "done"
    """It was handled."""

    BUSY = "busy"
    """Somebody else is handling it."""

    CONFLICT = "conflict"
    """It is known with another body."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimToken:
    """
    What commits or releases one claim; stores make it and read it.

    Attributes:
        key: The delivery's.

        fingerprint: The delivery's.

        nonce: Whose claim it is.

        ttl: Seconds for which it is remembered once committed.
    """

    key: bytes
    fingerprint: bytes
    nonce: bytes = field(repr=False)
    ttl: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """
    A store's answer.

    Attributes:
        state: What it is.

        token: For `ClaimState.NEW`, what commits or releases it.
    """

    state: ClaimState
    token: ClaimToken | None = None


@runtime_checkable
class ReplayStore(Protocol):
    """
    Remembers deliveries; each call is one atomic step.

    Whatever cannot be reached raises
    `twh_platform.errors.BackendUnavailableError`, in bounded time.
    """

    async def claim(self, key: bytes, fingerprint: bytes, *, lease: float, ttl: float) -> Claim:
        """
        Claim a delivery, if nobody has.

        Args:
            key: `Delivery.key`.

            fingerprint: `Delivery.fingerprint`.

            lease: Seconds after which the claim ends by itself.

            ttl: Seconds for which it is remembered once committed.
        """
        ...

    async def commit(self, token: ClaimToken) -> bool:
        """
        Remember that it was handled; also if the lease has ended and nobody came since.

        Returns:
            False if somebody else has claimed it since: it was handled twice.
        """
        ...

    async def release(self, token: ClaimToken) -> bool:
        """
        Forget the claim, so that the next attempt is handled.

        Returns:
            False if there was nothing to forget, or it is somebody else's by now.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """
    How a receiver keeps from handling a webhook twice.

    Args:
        store: Who remembers.

        retention: For how long.

        lease: Seconds after which a claim ends whose handler has not answered.  Let
            it be longer than any handler takes: one that takes longer may run twice.

        store_down: ``closed`` refuses what cannot be claimed with 503, so that the
            sender tries again; ``open`` handles it, maybe a second time.

    Raises:
        twh_platform.errors.ConfigurationError: For a store that is none, a lease that
            is not above zero or above the retention's ttl, or another *store_down*.
    """

    store: ReplayStore
    retention: Retention = field(default_factory=Retention)
    lease: float = 60.0
    store_down: Literal["closed", "open"] = "closed"

    def __post_init__(self) -> None:
        if not isinstance(self.store, ReplayStore):
            message = f"store={self.store!r} cannot claim, commit and release"
            raise ConfigurationError(message)
        if not 0 < self.lease <= self.retention.ttl:
            message = f"lease={self.lease!r} is not between 0 and ttl={self.retention.ttl!r}"
            raise ConfigurationError(message)
        if self.store_down not in {"closed", "open"}:
            message = f"store_down={self.store_down!r} is neither 'closed' nor 'open'"
            raise ConfigurationError(message)


def new_nonce() -> bytes:
    """
    Whose claim it is: 16 random bytes.
    """
    return secrets.token_bytes(NONCE_BYTES)


def store_unavailable(what: str, cause: BaseException) -> BackendUnavailableError:
    """
    Say that a store did not answer, without what a driver's message may hold.
    """
    error = BackendUnavailableError(
        f"{what}: {type(cause).__name__}", code="replay_store_unavailable"
    )
    error.__cause__ = cause
    return error


def replayed() -> WebhookError:
    """
    The error for what was handled already.
    """
    return WebhookError("it was handled already", code="replayed")


def conflict() -> WebhookError:
    """
    The error for an id that is known with another body.
    """
    return WebhookError("its id is known with another body", code="id_conflict")


# The loop keeps only weak references to tasks.
_settling: set[asyncio.Task[Any]] = set()


def kept(step: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """
    Begin a step of a store, which ends even if whoever awaits it is cancelled.
    """
    task = asyncio.ensure_future(step)
    _settling.add(task)
    task.add_done_callback(_settling.discard)
    return task
