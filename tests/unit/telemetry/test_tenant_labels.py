"""
Tenant labels: the busiest by name, the others together, and a budget that holds.
"""

from __future__ import annotations

import random
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import pytest

from twh_platform.errors import ConfigurationError
from twh_platform.telemetry import Registry, TenantLabels
from twh_platform.testing import ManualClock


@pytest.fixture
def clock():
    """Time stands still until it is moved."""
    return ManualClock()


def _serve(labels, clock, requests, *, seconds=10.0):
    # As many requests of each tenant as are named, spread a little, and then a review.
    order = [tenant for tenant, count in requests.items() for _ in range(count)]
    random.Random(1).shuffle(order)
    shown = [labels.label(tenant) for tenant in order]
    clock.advance(seconds)
    labels.review()
    return shown


def test_the_first_tenants_are_shown_at_once():
    """The next one counts with the others, and no tenant with none."""
    labels = TenantLabels(top=2)

    shown = [labels.label(one) for one in ("acme", "globex", "initech", "acme", None)]

    assert shown == ["acme", "globex", "other", "acme", ""]
    assert labels.stats().overflowed == 1


def test_the_busiest_get_the_labels(clock):
    """Wherever they come in the queue."""
    labels = TenantLabels(top=3, clock=clock)
    _serve(labels, clock, {"early": 1, "also-early": 1, "third": 1})
    for _ in range(3):
        _serve(labels, clock, {"a": 300, "b": 200, "c": 100, "early": 1, "tail": 3})

    assert [labels.label(one) for one in "abc"] == ["a", "b", "c"]
    assert labels.label("early") == "other"


def test_the_busiest_are_found_in_a_long_tail(clock):
    """A hundred thousand others do not hide ten that have a tenth of the traffic."""
    labels = TenantLabels(top=20, clock=clock)
    chance = random.Random(7)
    for number in range(60_000):
        big = chance.random() < 0.1
        labels.label(f"big-{chance.randrange(10)}" if big else f"t-{chance.randrange(100_000)}")
        if number % 1000 == 999:
            clock.advance(10)

    assert all(labels.label(f"big-{one}") == f"big-{one}" for one in range(10))


def test_tenants_that_take_turns_gain_nothing(clock):
    """Labels do not flap: after the first, none changes hands."""
    labels = TenantLabels(top=10, clock=clock)
    for turn in range(100):
        for number in range(1000):
            labels.label(f"t-{(number + turn) % 1000}")
        clock.advance(10)

    assert labels.stats().given == 10
    assert labels.stats().left == 0


def test_bursts_in_turn_change_few_labels(clock):
    """An hour of them: fewer than once in a tenure for each label. Control: without, far more."""
    found = []
    for options in ({}, {"tenure": 0.0, "lead": 1.0, "half_life": 10.0}):
        labels = TenantLabels(top=10, clock=clock, **options)
        for turn in range(360):
            burst = {f"t-{(turn % 4) * 10 + number}": 50 for number in range(10)}
            _serve(labels, clock, burst)
        found.append(labels.stats().left)

    assert found[0] <= 10 * 3600 / 300
    assert found[1] > 3 * found[0]


def test_an_idle_tenant_gives_its_label_back(clock):
    """Who was counted with the others gets it."""
    labels = TenantLabels(top=1, idle=60.0, clock=clock)
    labels.label("acme")
    assert labels.label("globex") == "other"
    clock.advance(30)
    labels.label("acme")
    clock.advance(59)
    labels.review()
    assert labels.label("acme") == "acme"
    labels.review()
    clock.advance(61)
    labels.review()

    assert labels.stats().left == 1
    assert labels.label("globex") == "globex"


@pytest.mark.parametrize(
    ("tenant", "label"),
    [("other", "=other"), ("", "="), ("=other", "==other"), ("=", "=="), ("Other", "Other")],
)
def test_no_tenant_passes_for_another(tenant, label):
    """What the labels mean by themselves is nobody's name."""
    labels = TenantLabels()

    assert labels.label(tenant) == label
    assert labels.label(tenant) == label


@pytest.mark.parametrize(
    "tenant", ["a\nb", "a\ud800", "x" * 129, "\N{SNOWMAN}" * 43, "=" + "x" * 127, 7, b"x", [], {}]
)
def test_what_is_no_clean_label_has_none(tenant):
    """It counts with the others, so that two of them cannot share a series."""
    assert TenantLabels().label(tenant) == "other"


def test_a_budget_bounds_the_labels():
    """Others and no tenant have their part."""
    labels = TenantLabels(top=100, max_series=500)
    labels.reserve(3)
    labels.reserve(7)
    for number in range(1000):
        labels.label(f"t-{number}")

    stats = labels.stats()
    assert (stats.most, stats.labels, stats.series) == (48, 48, 500)


def test_a_reservation_takes_labels_back():
    """The weakest lose theirs, and whoever listens is told."""
    labels = TenantLabels(top=10, max_series=100)
    gone = []
    labels.on_leave(gone.append)
    for number in range(10):
        for _ in range(number + 1):
            labels.label(f"t-{number}")
    labels.reserve(20)

    assert labels.most == 3
    assert sorted(gone) == [f"t-{number}" for number in range(7)]
    labels.release(20)
    assert labels.most == 10


@pytest.mark.parametrize("series", [0, -1, 251, 10_000])
def test_a_reservation_that_never_fits_is_refused(series):
    """When the metric is defined."""
    with pytest.raises(ConfigurationError):
        TenantLabels(max_series=500).reserve(series)


def test_children_are_made_once_and_within_what_is_reserved():
    """What would be more is refused and counted, also under `other`."""
    labels = TenantLabels(top=1)
    labels.reserve(2)
    made = []

    def make(label):
        made.append(label)
        return f"child of {label}"

    for tenant in ("acme", "acme", "globex"):
        seat = labels.seat(tenant)
        children = [seat.child(key, make) for key in ("ok", "error", "more")]
        assert children[2] is None
    assert made == ["acme", "acme", "other", "other"]
    assert labels.stats().refused == 3


def test_a_lost_seat_makes_no_series(clock):
    """A request that was under way counts under `other`; control: before, it had its own."""
    labels = TenantLabels(top=1, idle=60.0, clock=clock)
    labels.reserve(2)
    seat = labels.seat("acme")
    assert seat.child("ok", str.upper) == "ACME"
    labels.review()
    clock.advance(61)
    labels.review()

    assert seat.child("ok", str.upper) == "OTHER"
    assert seat.child("error", str.upper) == "OTHER"
    assert labels.seat("acme").child("ok", str.upper) == "ACME"


def test_series_leave_the_page_with_the_label(clock):
    """A request that was under way does not bring them back."""
    labels, orders = (
        TenantLabels(top=1, idle=60.0, clock=clock),
        Registry().counter("orders_total", "Orders placed.", labels=("tenant",)),
    )
    labels.reserve(1)
    labels.on_leave(orders.remove)
    seat = labels.seat("acme")
    kept = seat.child("orders", orders.labels)
    kept.inc()
    labels.review()
    clock.advance(61)
    labels.review()
    kept.inc()
    seat.child("orders", orders.labels).inc()

    assert orders.children() == {("other",)}


def test_a_lock_of_the_parent_is_not_the_childs():
    """A thread that held it at the fork is not there to let it go."""
    labels = TenantLabels()
    holder = threading.Thread(target=labels._lock.acquire)
    holder.start()
    holder.join()
    labels.after_fork()

    assert labels.label("acme") == "acme"


def test_a_callback_that_fails_stops_nothing(clock):
    """It is counted, and the next one is called."""
    labels = TenantLabels(top=2, max_series=100)
    gone = []
    labels.on_leave(lambda label: {}[label])
    labels.on_leave(gone.append)
    labels.label("acme")
    labels.reserve(50)

    assert gone == ["acme"]
    assert labels.stats().failures == 1


def test_a_callback_may_ask_the_labels(clock):
    """It runs inside their lock, on the same thread."""
    labels = TenantLabels(top=1, max_series=100)
    found = []
    labels.on_leave(lambda _: found.append(labels.stats().labels))
    labels.label("acme")
    labels.reserve(50)

    assert found == [0]


def test_memory_is_bounded(clock):
    """A hundred thousand tenants leave no more behind than a few thousand."""
    labels = TenantLabels(clock=clock)
    labels.reserve(11)
    tracemalloc.start()
    try:
        for number in range(120_000):
            labels.label(f"tenant-{number % 100_000}")
            if number % 10_000 == 0:
                clock.advance(10)
        used, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert used < 500_000
    assert peak < 1_000_000
    assert labels.stats().counted <= 1000
    assert labels.stats().series <= 5000


def test_threads_share_the_labels():
    """From many at once, with labels coming and going, each gets its own or `other`."""
    labels = TenantLabels(top=20, tenure=0.0, lead=1.0, review=0.001, idle=0.002)
    labels.reserve(1)
    live, lock = set(), threading.Lock()

    def make(label):
        with lock:
            assert label not in live
            live.add(label)
        return label

    def gone(label):
        with lock:
            live.discard(label)

    labels.on_leave(gone)

    def work(seed):
        chance = random.Random(seed)
        for _ in range(5000):
            tenant = f"t-{int(chance.paretovariate(0.7)) % 500}"
            assert labels.label(tenant) in {tenant, "other"}
            assert labels.seat(tenant).child("x", make) in {tenant, "other"}

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert len(live - {"other"}) <= labels.stats().labels <= 20


@pytest.mark.parametrize(
    "fault",
    [
        {"top": -1},
        {"max_series": -1},
        {"lead": 0.5},
        {"idle": 0},
        {"half_life": 0},
        {"tenure": -1},
        {"review": 0},
    ],
)
def test_labels_that_are_none_are_refused(fault):
    """When they are made."""
    (said,) = (f"{name}={value}" for name, value in fault.items())
    with pytest.raises(ConfigurationError, match=said):
        TenantLabels(**fault)


def test_there_may_be_no_labels_at_all():
    """Then all tenants are one."""
    labels = TenantLabels(top=0)

    assert [labels.label(one) for one in ("a", "b", None)] == ["other", "other", ""]
    labels.review()
    assert labels.stats().labels == 0


def test_what_overflows_is_on_the_page():
    """From zero on, as far as it has come, and once for those who tell it twice."""
    registry, labels = Registry(), TenantLabels(top=1)
    metric = 'platform_telemetry_label_overflow_total{of="tenants"}'
    labels.tell(registry)
    labels.tell(registry)
    assert f"{metric} 0.0\n" in registry.page().decode()
    for tenant in ("acme", "globex", "initech", "globex", "acme", None):
        labels.label(tenant)

    assert f"{metric} 3.0\n" in registry.page().decode()
    assert labels.stats().overflowed == 3
