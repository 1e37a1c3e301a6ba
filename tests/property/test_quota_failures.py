"""
Laws of leases and of shares: no order of events admits more than the stated bound.
"""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from twh_platform.errors import BackendUnavailableError
from twh_platform.quotas import FallbackQuotaStore, LeasingQuotaStore, MemoryQuotaStore
from twh_platform.quotas._exchange import Charge, Settlement, Take
from twh_platform.testing import ManualClock

SECOND = 1_000_000
EPOCH = 1_700_000_000
LIMIT = 60
INSTANCES = 3


class FailingStore:
    """
    STUB: a store of memory that can be switched off.
    """

    def __init__(self, clock: ManualClock) -> None:
        self.memory = MemoryQuotaStore(clock=clock)
        self.down = False

    async def take(self, take):
        """As the store of memory, while it is up."""
        await asyncio.sleep(0)
        if self.down:
            raise BackendUnavailableError("planted", code="planted")
        return await self.memory.take(take)

    async def settle(self, settlement):
        """Likewise."""
        if self.down:
            raise BackendUnavailableError("planted", code="planted")
        return await self.memory.settle(settlement)

    async def renew(self, take, at):
        """Likewise."""
        return await self.memory.renew(take, at)


def charge(kind: str) -> Charge:
    """A rule of sixty: in a day, in a window of a day, or in a minute."""
    day, start = 86_400 * SECOND, EPOCH * SECOND
    args = {
        "c": (LIMIT, start - day, start, start + day, start + 2 * day),
        "w": (LIMIT, 10**6 * SECOND),
        "r": (SECOND, 1, LIMIT),
    }[kind]
    return Charge("t.acme", f"{kind}x", kind, 1, 0, args)


instance = st.integers(0, INSTANCES - 1)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("take"), instance, st.integers(1, 40)),
        st.tuples(st.just("cancel"), instance, st.integers(1, 40)),
        st.tuples(st.just("wait"), instance, st.integers(1, 1500)),
        st.tuples(st.just("down"), instance, st.integers(0, 1)),
        st.tuples(st.just("refund"), instance, st.integers(1, 10)),
    ),
    max_size=40,
)


class Play:
    """
    Some instances, one store, and what they admitted.
    """

    def __init__(self, kind: str, *, chunk: int, fallback: bool) -> None:
        self.clock = ManualClock(start=EPOCH)
        self.chunk = chunk
        self.behind = FailingStore(self.clock)
        self.take = Take("t.acme", (charge(kind),))
        clocks = {"monotonic": self.clock.monotonic}
        self.leasing = [
            LeasingQuotaStore(self.behind, chunk=chunk, hot=1, **clocks) for _ in range(INSTANCES)
        ]
        self.stores = list(self.leasing)
        if fallback:
            self.stores = [
                FallbackQuotaStore(one, instances=INSTANCES, budget=30, clock=self.clock, **clocks)
                for one in self.leasing
            ]
        self.receipts: list = []
        self.net = 0
        self.down = 0.0

    async def run(self, story) -> None:
        """Let everything happen, one after the other."""
        for what, number, amount in story:
            await getattr(self, f"_{what}")(number, amount)
            held = [sum(key.left for key in one._keys.values()) for one in self.leasing]
            assert all(one <= max(2, self.chunk) for one in held)
        self.behind.down = False
        for store in self.stores:
            await store.aclose()

    async def _take(self, number: int, amount: int) -> None:
        store = self.stores[number]
        calls = [store.take(self.take) for _ in range(amount)]
        for outcome in await asyncio.gather(*calls, return_exceptions=True):
            if not isinstance(outcome, BaseException) and outcome.admitted:
                self.net += 1
                self.receipts.append((store, outcome))

    async def _cancel(self, number: int, amount: int) -> None:
        store = self.stores[number]
        tasks = [asyncio.ensure_future(store.take(self.take)) for _ in range(amount)]
        for _ in range(amount % 4):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            self.net += not isinstance(outcome, BaseException) and outcome.admitted

    async def _wait(self, _: int, milliseconds: int) -> None:
        self.clock.advance(milliseconds / 1000)
        for store in self.leasing:
            for key in list(store._keys.values()):
                store._at_end(key)
        await asyncio.sleep(0)

    async def _down(self, _: int, down: int) -> None:
        self.behind.down = bool(down)

    async def _refund(self, _: int, amount: int) -> None:
        for _ in range(min(amount, len(self.receipts))):
            store, outcome = self.receipts.pop()
            number = f"id{len(self.receipts)}-{self.net}"
            end = outcome.now + 10**12
            gone = Settlement(
                "t.acme", number, self.take.charges, (0,), outcome.now, end, outcome.origin
            )
            try:
                await store.settle(gone)
            except BackendUnavailableError:
                continue
            self.net -= 1


@given(steps, st.sampled_from("cw"), st.integers(2, 30))
def test_leases_never_exceed_a_limit(story, kind, chunk):
    """What is admitted and not refunded stays within the limit, whatever happens when."""
    play = Play(kind, chunk=chunk, fallback=False)
    asyncio.run(play.run(story))

    assert play.net <= LIMIT


@given(steps, st.integers(2, 30))
def test_leases_exceed_a_rate_by_no_more_than_the_bound(story, chunk):
    """Rate x time + burst + instances x chunk, without refunds."""
    play = Play("r", chunk=chunk, fallback=False)
    asyncio.run(play.run([one for one in story if one[0] != "refund"]))

    assert play.net <= LIMIT + play.clock.monotonic() + INSTANCES * chunk


@given(steps, st.sampled_from("cw"), st.integers(0, 30))
def test_outages_exceed_a_limit_by_no_more_than_the_shares(story, kind, chunk):
    """The limit by the store, and its share by each instance, over all outages together."""
    play = Play(kind, chunk=chunk, fallback=True)
    asyncio.run(play.run(story))

    assert play.net <= LIMIT + INSTANCES * (LIMIT // INSTANCES)


@given(steps, st.sampled_from("cw"))
def test_nothing_that_is_unused_stays_charged(story, kind):
    """After all leases ended, the store has counted what was admitted, and nothing else."""
    play = Play(kind, chunk=10, fallback=False)
    asyncio.run(play.run([one for one in story if one[0] in {"take", "cancel", "wait"}]))
    look = play.take._replace(dry=True)
    states = asyncio.run(play.behind.memory.take(look)).states

    assert states[0][1] - states[0][2] == play.net
