"""
Attacks 1 to 6: what a request is charged, and to whom.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.quotas import ACME, admitted, limiter_of
from twh_platform import Tenant
from twh_platform.errors import BackendUnavailableError, ConfigurationError
from twh_platform.quotas import Calendar, Capacity, MemoryQuotaStore, Rate, SlidingWindow

MINUTE = {"limit": 100, "per": 60}
RULES = [
    Rate(name="x", **MINUTE),
    SlidingWindow(name="x", **MINUTE),
    Calendar(name="x", limit=100, period="month"),
    Capacity(name="x", limit=100),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda one: type(one).__name__)
async def test_01_locks_others_out_by_what_is_refused(rule, store, limits, twh_attack):
    """A refusal writes nothing: what was left is still there for others."""
    attack = twh_attack(
        number=1, title="locks others out by what is refused", form=type(rule).__name__
    )
    naive = limits.strategies.FixedWindowRateLimiter(limits.storage.MemoryStorage())
    hundred = limits.parse("100/minute")
    naive.hit(hundred, "acme", cost=60)
    while naive.hit(hundred, "acme", cost=50):
        pass
    attack.control(sum(not naive.hit(hundred, "acme") for _ in range(40)))

    limiter = limiter_of(store, rule)
    await limiter.take(ACME, cost=60, only=["x"])
    for cost in [50] * 100 + [1_000_000]:
        assert not (await limiter.take(ACME, cost=cost, only=["x"])).allowed
    attack.ours(40 - await admitted(limiter, 40, only=["x"]))


@pytest.mark.parametrize("cost", [-50, True, 1.5, "1", {"requests": -50}, -(2**63)], ids=repr)
async def test_02_frees_units_by_a_negative_cost(cost, store, limits, twh_attack):
    """What is no amount is refused everywhere where one is given, and changes nothing."""
    attack = twh_attack(number=2, title="frees units by a negative cost", form=repr(cost))
    naive = limits.strategies.FixedWindowRateLimiter(limits.storage.MemoryStorage())
    naive.hit(limits.parse("100/minute"), "acme", cost=100)
    naive.hit(limits.parse("100/minute"), "acme", cost=-50)
    attack.control(sum(naive.hit(limits.parse("100/minute"), "acme") for _ in range(100)))

    limiter = limiter_of(store, Rate(name="x", limit=100, per=86_400), Capacity(name="y", limit=9))
    full = await limiter.take(ACME, cost=100)
    for method in (limiter.take, limiter.peek, limiter.charge):
        with pytest.raises(ConfigurationError):
            await method(ACME, cost=cost)
    with pytest.raises(ConfigurationError):
        await full.receipt.commit(cost)
    with pytest.raises(ConfigurationError):
        await limiter.give_back(ACME, "y", cost)
    attack.ours(await admitted(limiter, 100))


OPTIMIZED = """
import asyncio
from tests.support.quotas import ACME, limiter_of
from twh_platform.quotas import MemoryQuotaStore, Rate
try:
    asyncio.run(limiter_of(MemoryQuotaStore(), Rate(name="x", limit=9, per=9)).take(ACME, cost=-5))
except Exception as error:
    print(error.code)
"""
ASSERTED = """
def hit(cost):
    assert cost > 0
    print("freed")
hit(-5)
"""


def test_02_frees_units_where_assertions_are_off(project_root, twh_attack):
    """No check is an `assert`, which ``python -O`` leaves out."""
    attack = twh_attack(number=2, title="frees units where assertions are off")

    def run(code):
        command = [sys.executable, "-O", "-c", code]
        return subprocess.run(
            command, cwd=project_root, capture_output=True, text=True, check=True
        ).stdout.strip()

    attack.control(run(ASSERTED) == "freed")
    attack.ours(run(OPTIMIZED) != "cost_invalid")


PAIRS = {
    "a separator": ("a/b", "c"),
    "our separators": ("a:u.b", "a"),
    "a percent": ("a%2Fb", "a/b"),
    "a brace": ("a}b", "a%7Db"),
    "a dot": ("a.b", "a..b"),
    "a surrogate": ("a\udc80", "a\ufffd"),
    "another form of a letter": ("\u00e9", "e\u0301"),
    "a NUL": ("a\0b", "a"),
}


@pytest.mark.parametrize("pair", PAIRS)
async def test_03_spells_its_name_as_that_of_another(pair, store, limits, twh_attack):
    """Two names are two keys, however they are spelled; and a user is no API key."""
    attack = twh_attack(number=3, title="spells its name as that of another", form=pair)
    naive = limits.strategies.FixedWindowRateLimiter(limits.storage.MemoryStorage())
    naive.hit(limits.parse("5/minute"), "a/b", "c", cost=5)
    attack.control(sum(not naive.hit(limits.parse("5/minute"), "a", "b/c") for _ in range(5)))

    rules = [Rate(name=one, limit=5, per=86_400, scope=one) for one in ("user", "api_key", "route")]
    limiter = limiter_of(store, *rules)
    first, second = PAIRS[pair]
    await limiter.take(ACME, user=first, cost=5)
    left = await admitted(limiter, 5, user=second)
    left += await admitted(limiter, 5, api_key=first)
    left += await admitted(limiter, 5, route=first)
    left += await admitted(limiter, 5, Tenant(id="globex"), user=first)
    attack.ours(20 - left)


async def test_04_pushes_its_own_count_out(clock, throttled, twh_attack):
    """A store that is full refuses new keys; what lives in it stays."""
    attack = twh_attack(number=4, title="pushes its own count out of a store that is full")
    kept = throttled.MemoryStore()
    quota = throttled.rate_limiter.per_hour(100, burst=100)
    naive = throttled.Throttled(using="fixed_window", quota=quota, store=kept)
    assert not any(naive.limit("mine").limited for _ in range(100))
    for number in range(1_100):
        naive.limit(f"junk {number}")
    attack.control(sum(not naive.limit("mine").limited for _ in range(100)))

    rule = Rate(name="x", limit=100, per=86_400, scope="user")
    limiter = limiter_of(MemoryQuotaStore(max_keys=1024, clock=clock), rule)
    assert await admitted(limiter, 100, user="mine") == 100
    for number in range(1_100):
        await _try(limiter, f"junk {number}")
    attack.ours(await admitted(limiter, 100, user="mine"))


async def test_04_fills_the_memory(clock, twh_attack):
    """Whoever is known goes on; newcomers find the store full, which a rule's policy answers."""
    attack = twh_attack(
        number=4, title="fills the store, and newcomers are refused", kind="residual"
    )
    rule = Rate(name="x", limit=100, per=86_400, scope="user")
    limiter = limiter_of(MemoryQuotaStore(max_keys=100, clock=clock), rule)
    assert await admitted(limiter, 1, user="known") == 1
    for number in range(200):
        await _try(limiter, f"junk {number}")

    attack.ours([one for one in range(10) if not await _try(limiter, f"new {one}")])
    assert await admitted(limiter, 1, user="known") == 1


async def _try(limiter, user):
    try:
        return (await limiter.take(ACME, user=user)).allowed
    except BackendUnavailableError:
        return False


async def test_06_is_charged_by_one_rule_and_refused_by_another(store, limits, twh_attack):
    """All rules are charged or none."""
    attack = twh_attack(number=6, title="is charged by one rule and refused by another")
    naive = limits.strategies.FixedWindowRateLimiter(limits.storage.MemoryStorage())
    rules = [limits.parse("100/hour"), limits.parse("5/hour")]
    served = sum(all(naive.hit(one, "acme") for one in rules) for _ in range(50))
    attack.control(100 - naive.get_window_stats(rules[0], "acme").remaining - served)

    large = Calendar(name="large", limit=100, period="year")
    limiter = limiter_of(store, large, Rate(name="small", limit=5, per=86_400))
    served = await admitted(limiter, 50)
    left = (await limiter.peek(ACME)).statuses[0].remaining
    attack.ours(100 - left - served)
    assert served == 5


@pytest.mark.parametrize("scope", ["client", "global"])
async def test_06_is_charged_by_a_common_rule(scope, store, twh_attack):
    """What lies elsewhere gets back what it gave, if the tenant's rules refuse."""
    attack = twh_attack(number=6, title="is charged by a rule that lies elsewhere", form=scope)
    counts = {"common": 0, "tenant": 0}
    for _ in range(50):
        counts["common"] += 1
        counts["tenant"] += counts["tenant"] < 5
    attack.control(counts["common"] - counts["tenant"])

    common = Calendar(name="common", limit=100, period="year", scope=scope)
    limiter = limiter_of(store, common, Rate(name="small", limit=5, per=86_400))
    served = await admitted(limiter, 50, client="192.0.2.1")
    left = (await limiter.peek(client="192.0.2.1")).statuses[0].remaining
    attack.ours(100 - left - served)
