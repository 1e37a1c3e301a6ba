"""
Head sampling: decided before there is a span, bounded, and put right at the end.
"""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from twh_platform.errors import ConfigurationError
from twh_platform.telemetry import (
    HeadSampler,
    Keep,
    TenantRate,
    TraceContext,
    TrustBoundary,
    new_trace_id,
)
from twh_platform.telemetry._buckets import KeyedBuckets
from twh_platform.telemetry._sampling import LOWER_HALF
from twh_platform.telemetry._trace_context import new_trace_number
from twh_platform.testing import ManualClock

LOW = "f" * 16 + "0" * 15 + "1"
HIGH = "0" * 16 + "f" * 16


@pytest.fixture
def clock():
    """Time stands still until it is moved."""
    return ManualClock()


@pytest.mark.parametrize("ratio", [0.0, 0.01, 0.25, 0.5, 1 / 3, 0.999, 1.0])
def test_the_ratio_is_that_of_opentelemetry(ratio):
    """Services with the same ratio agree about every trace."""
    sampling = pytest.importorskip("opentelemetry.sdk.trace.sampling")
    theirs = sampling.TraceIdRatioBased(ratio)
    ours = HeadSampler(ratio=ratio)

    for trace_id in [LOW, HIGH, *(new_trace_id() for _ in range(500))]:
        wanted = theirs.should_sample(None, int(trace_id, 16), "x").decision.is_sampled()
        assert ours.decide(trace_id).sampled is wanted


def test_a_ratio_is_a_part_of_all():
    """And a higher one adds to what a lower one records."""
    ids = [f"{random.Random(number).getrandbits(128):032x}" for number in range(10_000)]
    few, many = HeadSampler(ratio=0.1), HeadSampler(ratio=0.3)
    some = {one for one in ids if few.decide(one).sampled}

    assert 850 < len(some) < 1150
    assert all(many.decide(one).sampled for one in some)


@pytest.mark.parametrize("path", ["/", "/quiet", "/loud"])
@pytest.mark.parametrize("ratio", [0.0, 0.01, 0.5, 1.0])
def test_a_number_is_judged_as_its_id_is(ratio, path):
    """And what is above the highest bound, by that alone."""
    sampler = HeadSampler(ratio=ratio, paths={"/quiet": ratio / 2, "/loud": ratio**0.5})
    for number in [1, 2**128 - 1, *(new_trace_number() for _ in range(500))]:
        found = sampler.begins(number, path)

        assert found is sampler.decide(f"{number:032x}", path).sampled
        assert not found or number & LOWER_HALF < sampler.highest


@pytest.mark.parametrize("ratio", [0.0, 1.0])
@pytest.mark.parametrize("parent", [True, False])
def test_a_trusted_parent_is_followed(ratio, parent):
    """Whatever the ratio is, and whoever the tenant turns out to be."""
    sampler = HeadSampler(ratio=ratio, tenants={"acme": 1.0 - ratio}, rate=0.001)
    verdict = sampler.decide(LOW, parent=parent)

    assert verdict == (parent, "parent")
    assert sampler.revise(verdict, LOW, "acme") is verdict


def test_a_stranger_forces_no_sample():
    """Control: OpenTelemetry's usual sampler obeys whoever sends the flag."""
    sampling = pytest.importorskip("opentelemetry.sdk.trace.sampling")
    propagation = pytest.importorskip("opentelemetry.trace.propagation.tracecontext")
    theirs = sampling.ParentBased(sampling.TraceIdRatioBased(0.0))
    boundary, ours, control = TrustBoundary(networks=["10.0.0.0/8"]), HeadSampler(ratio=0.0), 0
    for _ in range(300):
        sent = TraceContext.root(sampled=True).traceparent
        scope = {"client": ("203.0.113.9", 4711), "headers": [(b"traceparent", sent.encode())]}
        context = propagation.TraceContextTextMapPropagator().extract({"traceparent": sent})
        control += theirs.should_sample(context, 1, "x").decision.is_sampled()
        found = boundary.accept(scope)
        assert found.parent is None
        assert not ours.decide(new_trace_id(), parent=found.sampled).sampled

    assert control == 300


@pytest.mark.parametrize(
    ("path", "sampled"),
    [
        ("/items/7", True),
        ("/items/search", False),
        ("/items/7/parts", False),
        ("/items/7/", False),
        ("/items/", False),
        ("/orders", True),
        ("/orders/7/lines/9", True),
        ("/orders/7/cancel", False),
        ("/ordersome", False),
        ("/files/a/b", True),
        ("", False),
        ("items/7", False),
        ("/" * 100_000, False),
        ("/orders" + "/x" * 100_000, True),
    ],
)
def test_a_path_can_have_its_own_ratio(path, sampled):
    """The most particular template counts."""
    sampler = HeadSampler(
        ratio=0.0,
        paths={
            "/items/{id}": 1.0,
            "/items/search": 0.0,
            "/orders/*": 1.0,
            "/orders/{id:int}/cancel": 0.0,
            "/files/{name:path}": 1.0,
        },
    )

    assert sampler.decide(HIGH, path).sampled is sampled


def test_a_tenant_can_have_its_own_ratio():
    """At the start where it is known, afterwards where it is not; in both directions."""
    sampler = HeadSampler(ratio=0.5, tenants={"watched": 1.0, "silent": 0.0})

    assert sampler.decide(HIGH, tenant="watched") == (True, "tenant")
    assert sampler.revise(sampler.decide(HIGH), HIGH, "watched") == (True, "tenant")
    assert sampler.revise(sampler.decide(LOW), LOW, "silent") == (False, "tenant")
    assert sampler.revise(sampler.decide(LOW), LOW, "acme") == (True, "ratio")


def test_a_tenant_can_have_a_rate(clock):
    """What is above it is not recorded; other tenants are."""
    rate = TenantRate(rate=1.0, burst=2)
    sampler = HeadSampler(ratio=1.0, tenant_rate=rate, clock=clock)

    def ask(tenant):
        return sampler.revise(sampler.decide(LOW), LOW, tenant)

    assert [ask("noisy").sampled for _ in range(4)] == [True, True, False, False]
    assert ask("noisy").reason == "tenant_rate"
    assert ask("quiet").sampled
    clock.advance(1)
    assert [ask("noisy").sampled for _ in range(2)] == [True, False]


def test_all_together_have_a_rate(clock):
    """A flood of requests is not a flood of spans."""
    sampler = HeadSampler(ratio=1.0, rate=10.0, clock=clock)

    verdicts = [sampler.decide(new_trace_id()) for _ in range(1000)]

    assert sum(one.sampled for one in verdicts) == 10
    assert verdicts[-1] == (False, "rate")
    assert sampler.stats().limited == 990


def test_made_up_tenants_win_nothing(clock):
    """Control: a bucket for whoever comes, forgotten when there are too many, admits them all."""
    buckets = KeyedBuckets(1.0, burst=1, most=10, clock=clock)
    control = 0
    for number in range(10_000):
        control += KeyedBuckets(1.0, burst=1, clock=clock).take(number % 1000)

    taken = sum(buckets.take(number % 1000) for number in range(10_000))

    assert control == 10_000
    assert taken == 11
    assert len(buckets) == 11


def test_a_full_bucket_makes_room(clock):
    """Who has not come for as long as it takes to fill it is forgotten."""
    buckets = KeyedBuckets(1.0, burst=2, most=2, clock=clock)
    assert [buckets.take(one) for one in "aabb"] == [True] * 4
    clock.advance(1)
    assert [buckets.take(one) for one in "aab"] == [True, False, True]
    clock.advance(2)

    assert [buckets.take(one) for one in "cc"] == [True, True]
    assert [buckets.take(one) for one in "cab"] == [False, True, True]
    assert len(buckets) <= 3


@pytest.mark.parametrize(
    ("error", "seconds", "reason"),
    [(True, 0.1, "error"), (True, 2.0, "error"), (False, 1.0, "slow"), (False, 0.9, "")],
)
def test_errors_and_slow_requests_are_kept(error, seconds, reason):
    """Although they were not sampled at their start."""
    assert HeadSampler(ratio=0.0).keeps(error=error, seconds=seconds) == reason


def test_what_is_kept_is_a_choice():
    """Errors, slow ones, both or nothing."""
    neither = HeadSampler(keep=Keep(errors=False, slow=None))
    nothing = HeadSampler(keep=Keep(rate=0))

    assert neither.keeps(error=True, seconds=100.0) == ""
    assert nothing.keeps(error=True, seconds=100.0) == ""
    assert nothing.stats().dropped == 0


def test_a_storm_of_errors_is_not_one_of_spans(clock):
    """What is left out is counted."""
    sampler = HeadSampler(keep=Keep(rate=5.0), clock=clock)

    kept = [sampler.keeps(error=True, seconds=0.0) for _ in range(1000)]
    clock.advance(0.2)

    assert kept.count("error") == 5
    assert sampler.stats().dropped == 995
    assert sampler.keeps(error=True, seconds=0.0) == "error"


def test_slow_requests_hide_no_errors(clock):
    """Who sends slowly makes as many slow ones as they like; nor do errors hide those."""
    slow, failing = (HeadSampler(keep=Keep(rate=5.0), clock=clock) for _ in range(2))
    hides = [slow.keeps(error=False, seconds=9.0) for _ in range(100)]
    storm = [failing.keeps(error=True, seconds=9.0) for _ in range(100)]

    assert (hides.count("slow"), storm.count("error")) == (5, 5)
    assert slow.keeps(error=True, seconds=0.0) == "error"
    assert failing.keeps(error=False, seconds=9.0) == "slow"
    assert (slow.stats().kept, slow.stats().dropped) == (6, 95)


def test_one_tenants_storm_hides_no_other(clock):
    """Control: without a rate of its own it does."""
    keep = Keep(rate=5.0, tenant_rate=TenantRate(rate=1.0))
    sampler = HeadSampler(keep=keep, clock=clock)
    control = HeadSampler(keep=Keep(rate=5.0), clock=clock)
    for one in (sampler, control):
        for _ in range(100):
            one.keeps(error=True, seconds=0.0, tenant="noisy")

    assert control.keeps(error=True, seconds=0.0, tenant="quiet") == ""
    assert sampler.keeps(error=True, seconds=0.0, tenant="quiet") == "error"


def test_threads_take_no_more_than_there_is(clock):
    """However many ask at once."""
    sampler = HeadSampler(ratio=1.0, rate=50.0, clock=clock)

    with ThreadPoolExecutor(8) as pool:
        verdicts = list(pool.map(lambda _: sampler.decide(LOW).sampled, range(2000)))

    assert sum(verdicts) == 50


def test_a_clock_that_goes_back_is_harmless():
    """Nothing is taken away, and nothing given."""
    now = [100.0]
    sampler = HeadSampler(ratio=1.0, rate=1.0, clock=lambda: now[0])
    assert sampler.decide(LOW).sampled
    now[0] = 0.0

    assert not sampler.decide(LOW).sampled
    now[0] = 1.0
    assert sampler.decide(LOW).sampled


@pytest.mark.parametrize(
    "fault",
    [
        {"ratio": 1.1},
        {"ratio": -0.1},
        {"ratio": float("nan")},
        {"ratio": "0.5"},
        {"paths": {"/x": 2}},
        {"paths": {"x": 0.1}},
        {"paths": {"/x/{id}y": 0.1}},
        {"paths": {"/x*": 0.1}},
        {"tenants": {"acme": 7}},
        {"rate": 0},
        {"rate": float("inf")},
        {"tenant_rate": TenantRate(rate=-1)},
        {"tenant_rate": TenantRate(rate=1, burst=0)},
        {"keep": Keep(rate=-1)},
    ],
)
def test_a_sampler_that_is_none_is_refused(fault):
    """When it is made, and not when the first request comes."""
    with pytest.raises(ConfigurationError):
        HeadSampler(**fault)
