"""
Takes in the memory of this process, against the public alternatives.

The reference is an awaited increment of a number in a dict.  With the loop
yielding between hits, as in a server, what a library does in the background
counts too.
"""

from __future__ import annotations

import asyncio
import importlib.util
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping

from twh_platform import Tenant
from twh_platform.quotas import Limiter, MemoryQuotaStore, Plan, Plans, Rate
from twh_platform.quotas._exchange import Charge, Take

from ._rows import Row, paired_row

__all__ = ["memory_rows"]

_HUGE = 10_000_000
_ROUNDS = 9

Hit = Callable[[int], Awaitable[object]]


def memory_rows(*, seconds: float) -> list[Row]:
    """
    Measure all.
    """
    rows = asyncio.run(_rate_rows(hits=max(500, round(300 * seconds))))
    rows += asyncio.run(_flat_rows())
    return rows


async def _rate_rows(*, hits: int) -> list[Row]:
    contenders = {"increment": _increment(), **_ours(1), **_others()}
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    draw = random.Random(0)
    for _ in range(_ROUNDS):
        for name in draw.sample(list(contenders), len(contenders)):
            taken[name].append(await _block(contenders[name], hits))
    rows = [
        paired_row(
            f"memory, {name}",
            "one key, awaited; hits/s of an awaited dict increment",
            unit="hits/s",
            ours=rates,
            reference=taken["increment"],
            target=0.50 if name == "store, 1 rule" else None,
            direction=">=",
        )
        for name, rates in taken.items()
        if name != "increment"
    ]
    return rows + [
        paired_row(
            f"memory, {mine} against {other}",
            "one key, awaited",
            unit="hits/s",
            ours=taken[mine],
            reference=taken[other],
            target=1.0,
            direction=">=",
        )
        for mine in ("limiter, 1 rule", "store, 1 rule")
        for other in ("limits fixed", "throttled GCRA", "aiolimiter")
        if other in taken and not (mine.startswith("limiter") and other == "aiolimiter")
    ]


async def _flat_rows() -> list[Row]:
    rows = []
    contenders: dict[str, Callable[[int], Mapping[str, Hit]]] = {
        "store, 1 rule": _ours,
        "limits fixed": lambda _: _others(),
    }
    for name, make in contenders.items():
        hits = {keys: make(keys).get(name) for keys in (100, 100_000)}
        if None in hits.values():
            continue
        taken: dict[int, list[float]] = {keys: [] for keys in hits}
        for keys, hit in hits.items():
            assert hit is not None
            for n in range(keys):
                await hit(n)
        for _ in range(_ROUNDS):
            for keys, hit in hits.items():
                assert hit is not None
                taken[keys].append(await _yielding(hit, keys))
        rows.append(
            paired_row(
                f"memory, {name} at 100,000 keys",
                "the loop yields between hits; time per hit against 100 keys",
                unit="us",
                ours=taken[100_000],
                reference=taken[100],
                target=1.2 if name == "store, 1 rule" else None,
            )
        )
    return rows


def _increment() -> Hit:
    counts: dict[int, int] = {}

    async def increment(n: int) -> int:
        counts[n] = found = counts.get(n, 0) + 1
        return found

    return increment


def _ours(keys: int) -> dict[str, Hit]:
    rule = Rate(name="second", limit=_HUGE, per=1)
    store = MemoryQuotaStore()
    args = (*rule.ratio, rule.capacity)
    takes = [Take(f"t.{n}", (Charge(f"t.{n}", "rsecond", "r", 1, 0, args),)) for n in range(keys)]
    limiter = Limiter(MemoryQuotaStore(), plans=Plans([Plan(name="bench", rules=[rule])]))
    tenant = Tenant(id="acme", tier="bench")
    return {
        "store, 1 rule": lambda n: store.take(takes[n]),
        "limiter, 1 rule": lambda _: limiter.take(tenant),
    }


def _others() -> dict[str, Hit]:
    hits: dict[str, Hit] = {}
    if importlib.util.find_spec("limits"):
        from limits import RateLimitItemPerSecond
        from limits.aio import storage, strategies

        fixed = strategies.FixedWindowRateLimiter(storage.MemoryStorage())
        # An hour, so that no key runs out while it is measured.
        item = RateLimitItemPerSecond(_HUGE, 3600)
        hits["limits fixed"] = lambda n: fixed.hit(item, f"tenant-{n}")
    if importlib.util.find_spec("throttled"):
        from throttled.asyncio import MemoryStore, RateLimiterType, Throttled, rate_limiter

        gcra = Throttled(
            using=RateLimiterType.GCRA.value,
            quota=rate_limiter.per_sec(_HUGE, burst=_HUGE),
            store=MemoryStore(),
        )
        hits["throttled GCRA"] = lambda n: gcra.limit(f"tenant-{n}")
    if importlib.util.find_spec("aiolimiter"):
        from aiolimiter import AsyncLimiter

        leaky = AsyncLimiter(_HUGE, 1)
        hits["aiolimiter"] = lambda _: leaky.acquire()
    return hits


async def _block(hit: Hit, hits: int) -> float:
    begun = time.process_time()
    for _ in range(hits):
        await hit(0)
    return hits / (time.process_time() - begun)


async def _yielding(hit: Hit, keys: int) -> float:
    draw = random.Random(keys)
    taken = []
    for _ in range(60):
        n = draw.randrange(keys)
        begun = time.perf_counter()
        await hit(n)
        await asyncio.sleep(0)
        taken.append((time.perf_counter() - begun) * 1e6)
    return statistics.median(taken)
