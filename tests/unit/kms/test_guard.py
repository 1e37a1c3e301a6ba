"""
A guarded key service: deadline, retries, breaker, budget, and what it announces.
"""

from __future__ import annotations

import os
from contextlib import suppress

import pytest

pytest.importorskip("cryptography")

from tests.support.key_faults import FaultyKeyService
from twh_platform import subscribe
from twh_platform.errors import (
    ConfigurationError,
    DecryptionError,
    KeyAccessDeniedError,
    KeyServiceThrottledError,
    KeyServiceUnavailableError,
)
from twh_platform.kms import (
    CallBudget,
    DataKey,
    GuardedKeyService,
    KeyChanged,
    KeyContext,
    KeyService,
    KeyServiceDegraded,
    KeyServiceRestored,
    Keyset,
    KeyUsed,
    LocalKeyService,
)
from twh_platform.kms._deadline import deadline, time_left
from twh_platform.testing import ManualClock


def down():
    """The service does not answer."""
    return KeyServiceUnavailableError("it is down")


def busy(seconds):
    """The service asks to wait."""
    return KeyServiceThrottledError("it is busy", retry_after=seconds)


def bound(tenant="acme"):
    """The context of a new data key."""
    return KeyContext(tenant_id=tenant, purpose="data", data_key_id=os.urandom(16))


class Bench:
    """
    A guard around a service that fails as told, on a clock that sleeping moves.
    """

    def __init__(self, **options):
        self.clock = ManualClock(start=0)
        self.service = FaultyKeyService(LocalKeyService(Keyset.new()))
        self.pauses = []
        self.guard = GuardedKeyService(
            self.service,
            clock=self.clock.monotonic,
            sleep=self.sleep,
            **{"chance": lambda: 1.0, **options},
        )

    def sleep(self, seconds):
        """Note the pause, and let it pass."""
        self.pauses.append(round(seconds, 6))
        self.clock.advance(seconds)


@pytest.fixture
def bench():
    """A guard with its defaults."""
    return Bench()


@pytest.fixture
def heard():
    """All that is announced."""
    signals = []
    kinds = (KeyUsed, KeyChanged, KeyServiceDegraded, KeyServiceRestored)
    ends = [subscribe(kind, signals.append) for kind in kinds]
    yield signals
    for end in ends:
        end()


def test_it_is_a_key_service(bench):
    """A guard stands wherever a key service does."""
    assert isinstance(bench.guard, KeyService)
    assert bench.guard.name == "local"
    assert bench.guard.capabilities == bench.service.capabilities


def test_what_does_not_answer_is_asked_again(bench):
    """After two failures the third attempt answers."""
    bench.service.faults = [down(), down()]
    (key,) = bench.guard.generate([bound()])

    assert isinstance(key, DataKey)
    assert bench.service.count("generate") == 3
    assert bench.pauses == [0.05, 0.1]


def test_pauses_have_full_jitter():
    """Each pause is anything from nothing up to twice the one before."""
    chances = iter([0.0, 0.5, 1.0])
    bench = Bench(chance=lambda: next(chances))
    bench.service.faults = [down(), down(), down()]
    bench.guard.generate([bound()])

    assert bench.pauses == [0.0, 0.05, 0.2]


def test_attempts_are_counted(bench):
    """After the last attempt the error is raised."""
    bench.service.always = down()
    with pytest.raises(KeyServiceUnavailableError):
        bench.guard.generate([bound()])

    assert bench.service.count("generate") == 4


@pytest.mark.parametrize("error", [KeyAccessDeniedError("no"), DecryptionError()])
def test_what_cannot_help_is_not_tried_again(error, bench):
    """A refusal is a refusal at once."""
    bench.service.faults = [error]
    with pytest.raises(type(error)):
        bench.guard.generate([bound()])

    assert bench.service.count("generate") == 1
    assert bench.pauses == []


def test_a_throttling_service_is_given_the_time_it_asks_for(bench):
    """Retry-After is the shortest pause; jitter comes on top."""
    bench.service.faults = [busy(1.5)]
    bench.guard.generate([bound()])

    assert bench.pauses == [1.55]


def test_a_wait_beyond_the_deadline_is_not_begun(bench):
    """Where the service asks for more time than there is, the error comes at once."""
    bench.service.faults = [busy(60)]
    with pytest.raises(KeyServiceThrottledError):
        bench.guard.generate([bound()])

    assert bench.pauses == []
    assert bench.clock.monotonic() == 0


def test_a_call_ends_within_its_deadline(bench):
    """Attempts that take long leave no time for others."""

    def slow(_name, _items):
        bench.clock.advance(2.9)
        raise down()

    bench.service.faults = [slow] * 4
    with pytest.raises(KeyServiceUnavailableError):
        bench.guard.generate([bound()])

    assert bench.service.count("generate") == 2


def test_an_attempt_is_told_what_time_is_left(bench):
    """The service sees the deadline, and an earlier one of the caller."""
    seen = []

    def look(_name, _items):
        seen.append(time_left(100))

    bench.service.faults = [look, look]
    bench.guard.generate([bound()])
    with deadline(1):
        bench.guard.generate([bound()])

    assert seen[0] == pytest.approx(5, abs=0.5)
    assert 0 < seen[1] <= 1


def test_only_what_is_undone_is_repeated(bench):
    """Of a batch, what was done is kept, and what cannot help is left."""

    def partly(_name, items):
        made = bench.service.service.generate(items)
        return [made[0], down(), DecryptionError(), busy(0.3)]

    bench.service.faults = [partly]
    asked = [bound() for _ in range(4)]
    results = bench.guard.generate(asked)

    assert [type(one) for one in results] == [DataKey, DataKey, DecryptionError, DataKey]
    assert bench.service.calls == [("generate", 4), ("generate", 2)]
    assert bench.pauses == [0.35]


def test_items_that_stay_undone_say_why(bench):
    """When attempts run out, the done are given, and the others have their error."""
    bench.service.faults = [
        lambda _name, items: [*bench.service.service.generate(items[:1]), down()],
        *[down()] * 3,
    ]
    first, second = bench.guard.generate([bound(), bound()])

    assert isinstance(first, DataKey)
    assert isinstance(second, KeyServiceUnavailableError)


def test_a_rotation_is_not_repeated_unless_nothing_was_done(bench):
    """What may have rotated is not asked to rotate again; what was throttled is."""
    bench.guard.create("acme")
    bench.service.faults = [down()]
    with pytest.raises(KeyServiceUnavailableError):
        bench.guard.rotate("acme")
    bench.service.faults = [busy(0.1)]

    assert bench.guard.rotate("acme").version == 2
    assert bench.service.count("rotate") == 3


def test_a_service_that_is_down_is_left_alone(bench):
    """After five failures callers are refused without asking."""
    bench.service.always = down()
    for _ in range(2):
        with pytest.raises(KeyServiceUnavailableError):
            bench.guard.generate([bound()])
    asked = len(bench.service.calls)
    with pytest.raises(KeyServiceUnavailableError) as caught:
        bench.guard.generate([bound()])

    assert asked == 5
    assert len(bench.service.calls) == asked
    assert caught.value.code == "key_service_resting"
    assert bench.guard.is_resting


def test_a_probe_finds_that_the_service_is_back(bench, heard):
    """After the rest one call is let through, and its answer ends the outage."""
    bench.service.always = down()
    for _ in range(2):
        with pytest.raises(KeyServiceUnavailableError):
            bench.guard.generate([bound()])
    bench.service.always = None
    bench.clock.advance(1.6)
    (key,) = bench.guard.generate([bound()])

    assert isinstance(key, DataKey)
    assert not bench.guard.is_resting
    (opened,) = [one for one in heard if isinstance(one, KeyServiceDegraded)]
    (closed,) = [one for one in heard if isinstance(one, KeyServiceRestored)]
    assert (opened.service, opened.code) == ("local", "key_service_unavailable")
    assert closed.seconds == pytest.approx(1.6)


def test_refusals_do_not_open_the_breaker(bench):
    """A service that denies answers."""
    bench.service.always = KeyAccessDeniedError("no")
    for _ in range(10):
        with pytest.raises(KeyAccessDeniedError):
            bench.guard.generate([bound()])

    assert not bench.guard.is_resting


def test_a_key_that_cannot_be_reached_does_not_open_the_breaker(bench):
    """What one tenant's key meets keeps no other tenant from the service."""
    gone = KeyServiceUnavailableError("its store is away", code="key_unavailable")
    bench.service.faults = [gone] * 10 + [lambda _name, items: [gone for _ in items]] * 10
    for _ in range(5):
        with suppress(KeyServiceUnavailableError):
            bench.guard.generate([bound("globex")])
    (key,) = bench.guard.generate([bound("acme")])

    assert bench.service.count("generate") == 5 * 4 + 1
    assert isinstance(key, DataKey)
    assert not bench.guard.is_resting


def test_a_batch_without_any_answer_counts_as_none(bench):
    """Errors in place of all items open the breaker as one raised does."""
    bench.service.faults = [lambda _name, items: [down() for _ in items]] * 5
    results = [*bench.guard.generate([bound()]), *bench.guard.generate([bound()])]

    assert all(isinstance(one, KeyServiceUnavailableError) for one in results)
    assert bench.guard.is_resting


def test_a_fault_of_the_program_is_no_failure_of_the_service(bench):
    """An unexpected exception passes, and does not wedge a probe."""
    bench.service.always = down()
    for _ in range(2):
        with pytest.raises(KeyServiceUnavailableError):
            bench.guard.generate([bound()])
    bench.service.always = None
    bench.clock.advance(2)
    with pytest.raises(ConfigurationError):
        bench.guard.wrap([(b"short", bound())])
    bench.clock.advance(4)

    assert isinstance(bench.guard.generate([bound()])[0], DataKey)


# From Python 3.12 on, if any other test has left a thread.
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_has_a_breaker_of_its_own(bench):
    """A probe that only the parent waits for does not keep the child away for ever."""
    bench.service.always = down()
    for _ in range(2):
        with pytest.raises(KeyServiceUnavailableError):
            bench.guard.generate([bound()])
    bench.service.always = None
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if isinstance(bench.guard.generate([bound()])[0], DataKey) else 2
        finally:
            os._exit(status)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert bench.guard.is_resting


def test_one_tenant_cannot_use_up_what_others_may_call():
    """A tenant beyond its budget is refused; the service hears nothing of it."""
    bench = Bench(budget=CallBudget(rate=1, burst=3))
    first = bench.guard.generate([bound("noisy") for _ in range(5)])
    mixed = bench.guard.generate([bound("noisy"), bound("quiet")])

    assert [type(one) for one in first] == [DataKey] * 3 + [KeyServiceThrottledError] * 2
    assert [type(one) for one in mixed] == [KeyServiceThrottledError, DataKey]
    assert {one.code for one in [*first[3:], mixed[0]]} == {"key_budget_exceeded"}
    assert bench.service.calls == [("generate", 3), ("generate", 1)]
    assert bench.pauses == []


def test_without_a_budget_one_tenant_takes_it_all():
    """Control: nothing but the budget holds a tenant back."""
    bench = Bench()
    results = bench.guard.generate([bound("noisy") for _ in range(1000)])

    assert {type(one) for one in results} == {DataKey}


def test_a_budget_fills_up_again():
    """What was used comes back at its rate, and never beyond the burst."""
    budget = CallBudget(rate=2, burst=2)
    assert [budget.take("acme", 0.0) > 0 for _ in range(3)] == [False, False, True]
    assert budget.take("acme", 0.0) == pytest.approx(0.5)
    assert budget.take("acme", 0.5) == 0
    assert budget.take("acme", 0.5) > 0

    assert [budget.take("acme", 100.0) > 0 for _ in range(3)] == [False, False, True]


def test_a_budget_forgets_who_has_a_full_one():
    """The number of tenants that call does not make it grow."""
    budget = CallBudget(rate=100, burst=1)
    for number in range(20_001):
        budget.take(f"t{number}", float(number))

    assert len(budget._due) <= 10_000


@pytest.mark.parametrize("options", [{"rate": 0}, {"rate": -1}, {"burst": 0.5}])
def test_a_budget_that_admits_nothing_is_refused(options):
    """A budget of nothing is a mistake."""
    with pytest.raises(ConfigurationError):
        CallBudget(**options)


@pytest.mark.parametrize("options", [{"seconds": 0}, {"attempts": 0}])
def test_a_guard_without_time_or_attempts_is_refused(options):
    """A guard that could never ask is a mistake."""
    with pytest.raises(ConfigurationError):
        Bench(**options)


def test_a_budget_refusal_of_a_change_is_raised_and_told(heard):
    """A change of a tenant's key costs a call as well."""
    bench = Bench(budget=CallBudget(rate=1, burst=1))
    bench.guard.create("acme")
    with pytest.raises(KeyServiceThrottledError):
        bench.guard.rotate("acme")

    told = [(one.action, one.key_version, one.code) for one in heard]
    assert told == [("created", 1, None), ("rotated", None, "key_budget_exceeded")]


def test_uses_are_told_once_for_each_outcome(bench, heard):
    """A batch tells who used which key, and what came of it; never a key."""
    mine, theirs = bound("acme"), bound("globex")
    one, other = bench.guard.generate([mine, theirs])
    heard.clear()
    bench.guard.unwrap([(one.wrapped, mine), (one.wrapped, mine), (one.wrapped, theirs)])

    assert [(told.operation, told.tenant_id, told.key_ref, told.code) for told in heard] == [
        ("unwrap", "acme", one.wrapped.key_ref, None),
        ("unwrap", "globex", one.wrapped.key_ref, "decryption_failed"),
    ]
    assert other.plaintext.hex() not in repr(heard)


def test_macs_and_their_refusals_are_told(bench, heard):
    """A MAC key is the platform's: its use names no tenant."""
    mac = bench.guard.mac(b"a receipt", key="receipts")
    bench.guard.verify_mac(b"a receipt", mac, key="receipts")
    with pytest.raises(DecryptionError):
        bench.guard.verify_mac(b"another", mac, key="receipts")

    told = [(one.operation, one.tenant_id, one.key_ref, one.code) for one in heard]
    assert told == [
        ("mac", None, mac.key_ref, None),
        ("verify_mac", None, mac.key_ref, None),
        ("verify_mac", None, mac.key_ref, "decryption_failed"),
    ]


def test_the_life_of_a_key_is_told(bench, heard):
    """Each change is announced with its version."""
    for call in ("create", "rotate", "disable", "enable", "destroy"):
        getattr(bench.guard, call)("acme")

    assert [one.action for one in heard] == [
        "created",
        "rotated",
        "disabled",
        "enabled",
        "destroyed",
    ]
    assert {one.tenant_id for one in heard} == {"acme"}
    assert bench.guard.describe("acme").state == "destroyed"


def test_health_is_asked_also_of_a_service_that_is_left_alone(bench):
    """The breaker does not answer for the service."""
    bench.service.always = down()
    for _ in range(2):
        with pytest.raises(KeyServiceUnavailableError):
            bench.guard.generate([bound()])
    bench.service.always = None

    assert bench.guard.is_resting
    assert bench.guard.health().ok


def test_uses_say_how_long_they_took(bench, heard):
    """Those that fail as well; a batch is told as a whole for each key."""
    bench.guard.generate([bound(), bound("globex")])
    bench.service.faults = [down()] * 9
    with pytest.raises(KeyServiceUnavailableError):
        bench.guard.mac(b"m", key="k")

    uses = [one for one in heard if isinstance(one, KeyUsed)]
    assert [one.operation for one in uses] == ["generate", "generate", "mac"]
    assert all(one.seconds > 0 for one in uses)
    assert uses[0].seconds == uses[1].seconds


def test_nobody_is_told_of_uses_and_nothing_is_measured(bench, monkeypatch):
    """Control: whoever listens pays for it, and nobody else."""
    asked = []
    monkeypatch.setattr("twh_platform.kms._guard.perf_counter", lambda: asked.append(1) or 1.0)
    bench.guard.generate([bound()])
    assert asked == []
    end = subscribe(KeyUsed, lambda _one: None)
    bench.guard.generate([bound()])
    end()

    assert len(asked) == 2
