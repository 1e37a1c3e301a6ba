"""
Decisions that are announced: every take, what refused it or let it through, and how long it took.
"""

from __future__ import annotations

import pytest

from tests.support.quotas import ACME, limiter_of
from twh_platform import subscribe
from twh_platform.quotas import (
    FallbackQuotaStore,
    MemoryQuotaStore,
    Mode,
    QuotaDecided,
    QuotaRefused,
    Rate,
)
from twh_platform.telemetry import Registry
from twh_platform.telemetry import _announced as listeners
from twh_platform.telemetry._define import define
from twh_platform.telemetry._names import QUOTA_BACKEND, QUOTA_DECISIONS
from twh_platform.testing import ManualClock


@pytest.fixture
def clock():
    """Everybody's."""
    return ManualClock()


@pytest.fixture
def store(clock):
    """In memory."""
    return MemoryQuotaStore(clock=clock)


@pytest.fixture
def heard():
    """Every decision that is announced."""
    found: list[QuotaDecided] = []
    end = subscribe(QuotaDecided, found.append)
    yield found
    end()


def rate(name="minute", limit=1, **options):
    """One a minute, or more."""
    return Rate(name=name, limit=limit, per=60, **options)


async def test_what_is_admitted_is_announced(store, heard):
    """On the short way, and where a route and several partitions are asked."""
    limiter = limiter_of(store, rate(limit=9), rate("everybody", 9, scope="global"))
    await limiter.take(ACME)
    await limiter.take(ACME, route="GET /", client="::1")

    assert [one[:4] for one in heard] == [
        (None, ("minute",), "acme", "store"),
        (None, ("everybody", "minute"), "acme", "store"),
    ]
    assert all(one.seconds > 0 for one in heard)


async def test_what_is_refused_is_announced_twice(store, heard):
    """As a decision, and with its reasons; the rules are those that had enough left."""
    limiter, refusals = limiter_of(store, rate(), rate("day", 9)), []
    end = subscribe(QuotaRefused, refusals.append)
    for _ in range(2):
        await limiter.take(ACME)
    await limiter.take(ACME, cost=7)
    end()

    assert [(one.code, one.rules, one.origin) for one in heard] == [
        (None, ("minute", "day"), "store"),
        ("quota_exceeded", ("day",), "store"),
        ("quota_cost_too_large", (), "limiter"),
    ]
    assert [one.rules for one in refusals] == [("minute",), ("minute",)]
    assert heard[2].seconds is None


async def test_a_soft_rule_without_enough_is_not_among_them(store, heard):
    """It was exceeded, which is announced by itself."""
    limiter = limiter_of(store, rate(mode=Mode.SHADOW), rate("day", 9))
    for _ in range(2):
        await limiter.take(ACME)

    assert [one.rules for one in heard] == [("minute", "day"), ("day",)]


async def test_looking_is_no_decision(store, heard):
    """A charge is one: it is made whatever is left."""
    limiter = limiter_of(store, rate())
    await limiter.peek(ACME)
    await limiter.charge(ACME)

    assert len(heard) == 1


async def test_nothing_is_built_for_nobody(store, monkeypatch):
    """Control: with a listener it is."""
    built = []
    monkeypatch.setattr("twh_platform.quotas._limiter.announce", built.append)
    limiter = limiter_of(store, rate(limit=9))
    await limiter.take(ACME)
    assert built == []
    end = subscribe(QuotaDecided, lambda _one: None)
    await limiter.take(ACME)
    end()

    assert len(built) == 1


class Down(MemoryQuotaStore):
    """A store that does not answer."""

    async def take(self, take):
        """No take."""
        raise OSError


async def test_decisions_become_metrics():
    """By rule and result; those that were made without the store are told apart."""
    registry, clock = Registry(), ManualClock()
    seconds = define(registry, QUOTA_BACKEND)
    listener = listeners.Decided(registry, define(registry, QUOTA_DECISIONS), seconds)
    end = subscribe(QuotaDecided, listener)
    opens = rate(limit=9, on_failure="open")
    await limiter_of(MemoryQuotaStore(clock=clock), opens).take(ACME)
    await limiter_of(
        FallbackQuotaStore(Down(), instances=1, clock=clock.now, monotonic=clock.monotonic), opens
    ).take(ACME)
    end()

    page = registry.page().decode()
    assert 'decisions_total{policy="minute",result="allowed"} 1.0\n' in page
    assert 'decisions_total{policy="minute",result="degraded"} 1.0\n' in page
    assert 'backend_seconds_count{origin="store"} 1.0\n' in page
    assert 'backend_seconds_count{origin="open"} 1.0\n' in page
