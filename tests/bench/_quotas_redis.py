"""
Takes on a real Redis, against a bare EVALSHA and the public alternatives.

A *round* runs one block of each contender, in an order that is drawn anew.
The reference of a ratio is the EVALSHA of `return 1` in the same round, on a
pool of as many connections as there are clients.  Server and client have a
processor each, if there are two.

Ours is the whole `Limiter.take` of a tenant's plan, with the decision that it
answers; the others answer with a boolean, or with one rule's result.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.exceptions import RedisError

from twh_platform import Tenant
from twh_platform.errors import BackendUnavailableError
from twh_platform.quotas import (
    Calendar,
    Concurrency,
    LeasingQuotaStore,
    Limiter,
    Plan,
    Plans,
    Rate,
    Rule,
)
from twh_platform.quotas.redis import RedisQuotaStore
from twh_platform.testing import RedisServer

from ._rows import Row, count_row, paired_row

__all__ = ["redis_rows"]

_HUGE = 10_000_000
_KEYS = 10_000
_CLIENTS = 50

Hit = Callable[[int], Awaitable[object]]
"""One hit by the n-th identity."""

ONE = (Rate(name="second", limit=_HUGE, per=1),)
THREE = (
    Rate(name="second", limit=_HUGE, per=1),
    Calendar(name="hour", limit=2**40, period="hour"),
    Calendar(name="month", limit=2**40, period="month"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Aim:
    """
    A row: a contender of ours, a setting, and what of an EVALSHA it has to reach.
    """

    contender: str
    clients: int
    keys: int
    target: float | None


_AIMS = [
    _Aim(contender="1 rule", clients=1, keys=1, target=0.67),
    _Aim(contender="1 rule", clients=1, keys=_KEYS, target=0.81),
    _Aim(contender="1 rule", clients=_CLIENTS, keys=1, target=1.75),
    _Aim(contender="1 rule", clients=_CLIENTS, keys=_KEYS, target=1.75),
    _Aim(contender="3 rules", clients=1, keys=1, target=None),
    _Aim(contender="3 rules", clients=_CLIENTS, keys=1, target=1.15),
    _Aim(contender="3 rules", clients=_CLIENTS, keys=_KEYS, target=1.15),
]
_LEASES = {10: 2.9, 50: 13.9, 100: 24.0, 500: 104.0}


def redis_rows(*, seconds: float) -> list[Row]:
    """
    Start a server, measure, stop it.
    """
    with RedisServer() as server, _apart(server.pid):
        rows = asyncio.run(_rows(server, seconds))
        if importlib.util.find_spec("uvloop"):
            import uvloop

            rows += uvloop.run(_uvloop_rows(server, seconds))
        rows += asyncio.run(_server_rows(server))
        rows += asyncio.run(_frozen_rows(server))
    return rows


async def _rows(server: RedisServer, seconds: float) -> list[Row]:
    rows = []
    async with AsyncExitStack() as stack:
        bare, contenders = await _contenders(server.url, stack)
        for clients, keys in ((1, 1), (1, _KEYS), (_CLIENTS, 1), (_CLIENTS, _KEYS)):
            some = {
                name: hit for name, hit in contenders.items() if keys == 1 or "pyrate" not in name
            }
            rates = await _measure({"bare": bare, **some}, clients, keys, seconds)
            rows += _rows_of(rates, clients, keys)
        rows += await _lease_rows(server.url, bare, stack, seconds)
    return rows


def _rows_of(rates: Mapping[str, list[float]], clients: int, keys: int) -> Iterator[Row]:
    workload = f"{clients} at once, {keys} keys; hits/s of bare EVALSHA"
    aims = {
        one.contender: one.target for one in _AIMS if (one.clients, one.keys) == (clients, keys)
    }
    for name in rates:
        if name != "bare":
            yield paired_row(
                f"redis, {name}" if name in {"1 rule", "3 rules"} else f"redis, by {name}",
                workload,
                unit="hits/s",
                ours=rates[name],
                reference=rates["bare"],
                target=aims.get(name),
                direction=">=",
            )
    pairs = [("1 rule", "limits fixed", 1.0 if clients > 1 else None)]
    pairs += [("3 rules", "limits, 3 rules", 2.7 if clients > 1 else None)]
    for mine, other, target in pairs:
        if other in rates:
            yield paired_row(
                f"redis, {mine} against {other}",
                f"{clients} at once, {keys} keys",
                unit="hits/s",
                ours=rates[mine],
                reference=rates[other],
                target=target,
                direction=">=",
            )


async def _contenders(url: str, stack: AsyncExitStack) -> tuple[Hit, dict[str, Hit]]:
    client = _client(url, stack)
    sha = await client.script_load("return 1")

    async def bare(n: int) -> object:
        return await client.evalsha(sha, 1, f"bare:{n}")

    contenders: dict[str, Hit] = {
        "1 rule": _ours(RedisQuotaStore(_client(url, stack), timeout=2.0), ONE),
        "3 rules": _ours(RedisQuotaStore(_client(url, stack), timeout=2.0), THREE),
    }
    for make in (_limits, _throttled, _pyrate):
        contenders.update(await make(url, stack))
    return bare, contenders


def _client(url: str, stack: AsyncExitStack, connections: int = _CLIENTS) -> Any:
    pool = BlockingConnectionPool.from_url(url, max_connections=connections, timeout=30)
    client = Redis(connection_pool=pool)
    stack.push_async_callback(pool.disconnect)
    stack.push_async_callback(client.aclose)
    return client


def _ours(store: Any, rules: tuple[Rule, ...]) -> Hit:
    limiter = Limiter(store, plans=Plans([Plan(name="bench", rules=rules)]))
    tenants = [Tenant(id=f"tenant-{n}", tier="bench") for n in range(_KEYS)]

    async def hit(n: int) -> object:
        decision = await limiter.take(tenants[n])
        assert decision.allowed
        return decision

    return hit


async def _limits(url: str, stack: AsyncExitStack) -> dict[str, Hit]:
    if not importlib.util.find_spec("limits"):
        return {}
    from limits import RateLimitItemPerHour, RateLimitItemPerMonth, RateLimitItemPerSecond
    from limits.aio import storage, strategies

    store = storage.RedisStorage(f"async+{url}", implementation="redispy")
    stack.push_async_callback(store.storage.aclose if hasattr(store, "storage") else _nothing)
    fixed = strategies.FixedWindowRateLimiter(store)
    sliding = strategies.SlidingWindowCounterRateLimiter(store)
    items = [
        RateLimitItemPerSecond(_HUGE),
        RateLimitItemPerHour(_HUGE),
        RateLimitItemPerMonth(_HUGE),
    ]

    async def three(n: int) -> object:
        return [await fixed.hit(one, f"tenant-{n}") for one in items]

    return {
        "limits fixed": lambda n: fixed.hit(items[0], f"tenant-{n}"),
        "limits sliding": lambda n: sliding.hit(items[0], f"s-tenant-{n}"),
        "limits, 3 rules": three,
    }


async def _throttled(url: str, _stack: AsyncExitStack) -> dict[str, Hit]:
    if not importlib.util.find_spec("throttled"):
        return {}
    from throttled.asyncio import RateLimiterType, RedisStore, Throttled, rate_limiter

    gcra = Throttled(
        using=RateLimiterType.GCRA.value,
        quota=rate_limiter.per_sec(_HUGE, burst=_HUGE),
        store=RedisStore(server=url),
    )
    return {"throttled GCRA": lambda n: gcra.limit(f"tenant-{n}")}


async def _pyrate(url: str, stack: AsyncExitStack) -> dict[str, Hit]:
    if not importlib.util.find_spec("pyrate_limiter"):
        return {}
    import pyrate_limiter as pyrate

    store = pyrate.RedisStateStore(_client(url, stack), "pyrate:bench")
    bucket = pyrate.StateBucket(
        [pyrate.Rate(_HUGE, pyrate.Duration.SECOND)], algorithm=pyrate.GCRA(), store=store
    )
    limiter = pyrate.Limiter(bucket)
    return {"pyrate GCRA": lambda _: limiter.try_acquire_async("tenant", blocking=False)}


async def _nothing() -> None:
    return None


async def _measure(
    contenders: Mapping[str, Hit], clients: int, keys: int, seconds: float
) -> dict[str, list[float]]:
    """
    Hits per second of each, block by block.
    """
    draw = random.Random(0)
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    size = {}
    for name, hit in contenders.items():
        await _block(hit, clients, keys, 10 * clients, draw)
        size[name] = max(
            clients, round(0.08 * await _block(hit, clients, keys, 10 * clients, draw))
        )
    deadline = time.monotonic() + seconds
    rounds = 0
    while rounds < 7 or time.monotonic() < deadline:
        for name in draw.sample(list(contenders), len(contenders)):
            rates[name].append(await _block(contenders[name], clients, keys, size[name], draw))
        rounds += 1
    return rates


async def _block(hit: Hit, clients: int, keys: int, hits: int, draw: random.Random) -> float:
    each = max(1, hits // clients)
    chosen = [[draw.randrange(keys) for _ in range(each)] for _ in range(clients)]
    begun = time.perf_counter()
    await asyncio.gather(*(_run(hit, numbers) for numbers in chosen))
    return clients * each / (time.perf_counter() - begun)


async def _run(hit: Hit, numbers: Sequence[int]) -> None:
    for n in numbers:
        await hit(n)


async def _lease_rows(url: str, bare: Hit, stack: AsyncExitStack, seconds: float) -> list[Row]:
    contenders: dict[str, Hit] = {"bare": bare}
    for chunk in _LEASES:
        store = LeasingQuotaStore(RedisQuotaStore(_client(url, stack), timeout=2.0), chunk=chunk)
        stack.push_async_callback(store.aclose)
        limiter = Limiter(store, plans=Plans([Plan(name="bench", rules=ONE)]))
        tenant = Tenant(id=f"leased-{chunk}", tier="bench")
        await limiter.take(tenant)
        [prepared] = limiter._known.values()
        [take] = [take for one in prepared.prepared.values() for _, take in one.parts]
        contenders[f"lease of {chunk}"] = lambda _, store=store, take=take: store.take(take)
    rates = await _measure(contenders, _CLIENTS, 1, seconds)
    return [
        paired_row(
            f"redis, lease of {chunk}",
            f"{_CLIENTS} at once, one key; store.take; hits/s of bare EVALSHA",
            unit="hits/s",
            ours=rates[f"lease of {chunk}"],
            reference=rates["bare"],
            target=target,
            direction=">=",
        )
        for chunk, target in _LEASES.items()
    ]


async def _uvloop_rows(server: RedisServer, seconds: float) -> list[Row]:
    async with AsyncExitStack() as stack:
        bare, contenders = await _contenders(server.url, stack)
        rates = await _measure({"bare": bare, "1 rule": contenders["1 rule"]}, _CLIENTS, 1, seconds)
        return [
            paired_row(
                "redis, 1 rule, uvloop",
                f"{_CLIENTS} at once, 1 keys; hits/s of bare EVALSHA",
                unit="hits/s",
                ours=rates["1 rule"],
                reference=rates["bare"],
                target=1.39,
                direction=">=",
            )
        ]


async def _server_rows(server: RedisServer) -> list[Row]:
    """
    What a take costs the server, as it counts itself, and what it keeps.
    """
    async with AsyncExitStack() as stack:
        client = _client(server.url, stack)
        sha = await client.script_load("return 1")
        rounds: dict[str, list[float]] = {}
        hits: dict[str, Hit] = {
            "bare": lambda _: client.evalsha(sha, 1, "bare"),
            "1 rule": _ours(RedisQuotaStore(_client(server.url, stack), timeout=2.0), ONE),
            "3 rules": _ours(RedisQuotaStore(_client(server.url, stack), timeout=2.0), THREE),
        }
        for _ in range(7):
            for name, hit in hits.items():
                rounds.setdefault(name, []).append(await _server_us(client, hit))
        rows = [
            paired_row(
                f"redis, server time of {name}",
                "one at a time; INFO commandstats; of EVALSHA return 1",
                unit="us",
                ours=rounds[name],
                reference=rounds["bare"],
                target=target,
            )
            for name, target in (("1 rule", 7.1), ("3 rules", 8.4))
        ]
        return [
            *rows,
            *await _slot_rows(server.url, client, stack),
            await _memory_row(server, client),
        ]


async def _server_us(client: Any, hit: Hit, count: int = 2000) -> float:
    await hit(0)
    before = await _script_us(client)
    for _ in range(count):
        await hit(0)
    return (await _script_us(client) - before) / count


async def _script_us(client: Any) -> float:
    stats = await client.info("commandstats")
    names = ("cmdstat_evalsha", "cmdstat_eval", "cmdstat_fcall")
    return float(sum(stats[name]["usec"] for name in names if name in stats))


async def _slot_rows(url: str, client: Any, stack: AsyncExitStack) -> list[Row]:
    store = RedisQuotaStore(_client(url, stack), timeout=2.0)
    plan = Plan(name="bench", rules=[Concurrency(name="slots", limit=5000)])
    limiter = Limiter(store, plans=Plans([plan]))
    tenants = {n: Tenant(id=f"slots-{n}", tier="bench") for n in (1, 1000)}
    for n, tenant in tenants.items():
        await asyncio.gather(*(limiter.take(tenant) for _ in range(n)))

    async def acquire(tenant: Tenant) -> float:
        taken = 0.0
        for _ in range(300):
            before = await _script_us(client)
            decision = await limiter.take(tenant)
            taken += await _script_us(client) - before
            await decision.receipt.release()
        return taken / 300

    pairs = [[await acquire(tenants[n]) for n in (1000, 1)] for _ in range(5)]
    return [
        paired_row(
            "redis, slot taken with 1,000 in flight",
            "server time; against 1 in flight",
            unit="us",
            ours=[many for many, _ in pairs],
            reference=[few for _, few in pairs],
            target=1.2,
        )
    ]


async def _memory_row(server: RedisServer, client: Any) -> Row:
    async with AsyncExitStack() as stack:
        hit = _ours(RedisQuotaStore(_client(server.url, stack), timeout=2.0), THREE)
        await hit(0)  # connections and scripts are not what is measured
        await client.flushall()
        before = await _used(client)
        pipe = client.pipeline(transaction=False)
        for n in range(_KEYS):
            for rule in THREE:
                pipe.set(f"twh:q:{{t.tenant-{n:05}}}:{rule.name}", 1764000000000000 + n, ex=3600)
        await pipe.execute()
        strings = await _used(client) - before
        await client.flushall()
        before = await _used(client)
        for start in range(0, _KEYS, 100):
            await asyncio.gather(*(hit(n) for n in range(start, start + 100)))
        ours = await _used(client) - before
    return count_row(
        "redis, memory of 3 rules",
        f"growth of used_memory, {_KEYS} tenants; against 3 strings",
        unit="bytes",
        ours=ours / _KEYS,
        reference=strings / _KEYS,
        target=0.40,
    )


async def _used(client: Any) -> int:
    found = await client.info("memory")
    return int(found["used_memory"])


async def _frozen_rows(server: RedisServer) -> list[Row]:
    """
    How long a caller waits for an answer when the server does not give one.
    """
    async with AsyncExitStack() as stack:
        store = RedisQuotaStore(_client(server.url, stack))
        hit = _ours(store, ONE)
        plain = Redis.from_url(server.url, socket_timeout=5)
        stack.push_async_callback(plain.aclose)
        await hit(0)
        await plain.ping()
        with server.frozen():
            ours = [await _wait(hit(0)) for _ in range(5)]
            theirs = await _wait(plain.incr("x"))
    return [
        paired_row(
            "redis frozen, time to an answer",
            "store alone; against redis-py's own timeout of 5 s",
            unit="ms",
            ours=ours,
            reference=[theirs] * len(ours),
            target=0.01,
        )
    ]


async def _wait(call: Awaitable[object]) -> float:
    begun = time.perf_counter()
    with suppress(BackendUnavailableError, RedisError):
        await call
    return (time.perf_counter() - begun) * 1000


@contextmanager
def _apart(pid: int) -> Iterator[None]:
    """
    Give the server and this process a processor each.
    """
    mine = os.sched_getaffinity(0)
    if len(mine) < 2:
        yield
        return
    first, second, *_ = sorted(mine)
    os.sched_setaffinity(pid, {second})
    os.sched_setaffinity(0, {first})
    try:
        yield
    finally:
        os.sched_setaffinity(0, mine)
