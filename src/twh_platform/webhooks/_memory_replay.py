"""
Claims on deliveries in the memory of one process.

There are many of them, so each is one record of 89 bytes:

    +----------+----------+------------+------------------+----------+
    | ends (8) | key (32) | nonce (16) | fingerprint (32) | done (1) |
    +----------+----------+------------+------------------+----------+

It begins with the second in which it ends, a double in network order.  None is below
zero, so the one that ends first is the least, as bytes too.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable
from struct import Struct
from typing import Final, NamedTuple, final

from ..errors import BackendUnavailableError, ConfigurationError
from ._delivery import checked_key
from ._replay import Claim, ClaimState, ClaimToken, new_nonce

__all__ = ["MemoryReplayStore"]

_RECORD: Final = Struct(">d32s16s32s?")
# Who comes after days of silence does not clear up all of them.
_SWEPT_AT_ONCE: Final = 100
_FEW: Final = 1_000


class _Kept(NamedTuple):
    ends_at: float
    key: bytes
    nonce: bytes
    fingerprint: bytes
    done: bool


@final
class MemoryReplayStore:
    """
    Remembers deliveries in this process: for one process alone, and until it ends.

    A second replica, or the same one after a restart, knows nothing of them.

    When it is full it is unavailable, with code ``replay_store_full``: it forgets
    nothing early, as that would let a delivery in again.  `Replay.store_down` says
    what becomes of a delivery then, and is ``closed`` by default.

    It needs room for deliveries per second times `Retention.ttl`: in four days one
    a second are 345,600, so that the default is enough for 2.9 a second.  Each takes
    about 300 bytes: 1,000,000 are 300 MB, which only senders who can sign fill.

        >>> store = MemoryReplayStore()

    Args:
        most: How many are remembered.  It is for all that share the store: one
            sender's deliveries can fill it for the others.

        clock: Seconds that never go back.

    Raises:
        twh_platform.errors.ConfigurationError: If *most* is not above zero.
    """

    def __init__(
        self, *, most: int = 1_000_000, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if most < 1:
            message = f"most={most!r} is not above zero"
            raise ConfigurationError(message)
        self._most = most
        self._clock = clock
        self._began = clock()
        self._kept: dict[bytes, bytes] = {}
        # The same objects, and those that were replaced or released, until they end.
        self._ends: list[bytes] = []
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    async def claim(self, key: bytes, fingerprint: bytes, *, lease: float, ttl: float) -> Claim:
        """
        See `ReplayStore.claim`.

        Raises:
            twh_platform.errors.BackendUnavailableError: With code
                ``replay_store_full``.
        """
        checked_key(key, fingerprint)
        with self._lock:
            now = self._sweep()
            if kept := self._known(key, now):
                return Claim(state=_state(kept, fingerprint))
            if len(self._kept) >= self._most:
                message = f"{self._most} deliveries are remembered already"
                raise BackendUnavailableError(message, code="replay_store_full")
            token = ClaimToken(key=key, fingerprint=fingerprint, nonce=new_nonce(), ttl=ttl)
            self._keep(token, now + lease, done=False)
        return Claim(state=ClaimState.NEW, token=token)

    async def commit(self, token: ClaimToken) -> bool:
        """
        See `ReplayStore.commit`; what was handled is remembered by a full store, too.
        """
        with self._lock:
            now = self._sweep()
            kept = self._known(token.key, now)
            if kept and kept.nonce != token.nonce:
                return False
            self._keep(token, now + token.ttl, done=True)
        return True

    async def release(self, token: ClaimToken) -> bool:
        """
        See `ReplayStore.release`.
        """
        with self._lock:
            kept = self._known(token.key, self._sweep())
            if kept is None or kept.nonce != token.nonce or kept.done:
                return False
            del self._kept[token.key]
        return True

    def _known(self, key: bytes, now: float) -> _Kept | None:
        record = self._kept.get(key)
        if record is None:
            return None
        kept = _read(record)
        return kept if now < kept.ends_at else None

    def _keep(self, token: ClaimToken, ends_at: float, *, done: bool) -> None:
        ends_at = max(0.0, ends_at)
        record = _RECORD.pack(ends_at, token.key, token.nonce, token.fingerprint, done)
        self._kept[token.key] = record
        heapq.heappush(self._ends, record)
        # Leases are mostly over before they end.
        if len(self._ends) > 2 * len(self._kept) + _FEW:
            self._ends = list(self._kept.values())
            heapq.heapify(self._ends)

    def _sweep(self) -> float:
        now = self._clock() - self._began
        for _ in range(_SWEPT_AT_ONCE):
            if not self._ends or now < _read(self._ends[0]).ends_at:
                break
            record = heapq.heappop(self._ends)
            key = _read(record).key
            if self._kept.get(key) is record:
                del self._kept[key]
        return now


def _read(record: bytes) -> _Kept:
    return _Kept._make(_RECORD.unpack(record))


def _state(kept: _Kept, fingerprint: bytes) -> ClaimState:
    if kept.fingerprint != fingerprint:
        return ClaimState.CONFLICT
    return ClaimState.DONE if kept.done else ClaimState.BUSY
