"""
Laws of the rules: what is admitted in any stretch of time, and what is told of it.

Times are microseconds, and rates are small, so that the machine that looks for
a counterexample meets boundaries.
"""

from __future__ import annotations

import math
from itertools import accumulate, pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from twh_platform.quotas._arithmetic import EMPTY, NEVER, decide, refund, status
from twh_platform.quotas._exchange import Charge, Settlement, Take
from twh_platform.quotas._rules import Rate, SlidingWindow
from twh_platform.quotas._store import MemoryQuotaStore

START = 1_700_000_000_000_000
FAR = 2**53 - 1


@st.composite
def rates(draw):
    """Numbers of a `Rate` whose units come every few microseconds."""
    period, units = draw(st.integers(1, 60)), draw(st.integers(1, 60))
    common = math.gcd(period, units)
    return period // common, units // common, draw(st.integers(1, 30))


windows = st.tuples(st.integers(1, 40), st.integers(1, 20).map(lambda ms: ms * 1000))
calendars = st.builds(
    lambda limit, lengths: (limit, *(START + one for one in accumulate((0, *lengths)))),
    st.integers(1, 30),
    st.tuples(*[st.integers(1, 5000)] * 3),
)
levels = st.tuples(st.integers(1, 40))
steps = st.lists(st.tuples(st.integers(0, 400), st.integers(1, 12)), min_size=1, max_size=40)


def run(kind, args, steps, *, state=EMPTY, now=START):
    """Ask one cost after the other; return what was admitted when, and the state."""
    admitted = []
    for pause, cost in steps:
        now += pause
        fits, after = decide(kind, state, now, cost, args)
        if fits:
            admitted.append((now, cost))
            state = after
    return admitted, state, now


def stretches(admitted):
    """Every stretch from one admission to another: its length, and what it got."""
    for first, (begin, _) in enumerate(admitted):
        total = 0
        for end, cost in admitted[first:]:
            total += cost
            yield end - begin, total


@given(rates(), steps)
def test_a_rate_admits_no_more_than_its_line(args, steps):
    """In every stretch: what refills in it, and one burst."""
    period, units, burst = args
    admitted, _, _ = run("r", args, steps)

    for length, total in stretches(admitted):
        assert total * period <= length * units + burst * period


@given(rates(), st.integers(0, 200))
def test_a_rate_admits_what_its_line_allows(args, length):
    """Control: whoever asks all the time gets every unit of it."""
    period, units, burst = args
    # No more than one a microsecond, as it is asked, and never full, which loses a fraction.
    assume(units <= period and burst > 1)
    admitted, _, _ = run("r", args, [(0, 1)] * burst + [(1, 1)] * length)

    assert len(admitted) == burst + length * units // period


@given(rates(), st.lists(st.tuples(rates(), steps), min_size=1, max_size=4))
def test_a_changed_rate_inherits_what_was_used(first, spells):
    """A change forgives no more than its own rate drains in one cycle of the old one."""
    state, now, admitted, forgiven, before = EMPTY, START, [], [], first
    for args, some in spells:
        forgiven.append((now, before[0] * args[1] / args[0]))
        got, state, now = run("r", args, some, state=state, now=now)
        admitted += [(*one, args[2]) for one in got]
        before = args
    fastest = max(units / period for (period, units, _), _ in spells)

    for index, (begin, _, _) in enumerate(admitted):
        total = 0
        for end, cost, burst in admitted[index:]:
            total += cost
            gift = sum(units for when, units in forgiven if begin <= when <= end)
            assert total <= (end - begin) * fastest + burst + gift + 1e-6


@given(rates(), steps, st.data())
def test_refunds_bend_the_line_by_less_than_a_unit(args, steps, data):
    """What is not used counts for nothing, but for the fraction of a unit that drained."""
    period, units, burst = args
    state, now, kept = EMPTY, START, []
    for pause, cost in steps:
        now += pause
        fits, after = decide("r", state, now, cost, args)
        if fits:
            state = after
            kept.append((now, cost))
        if kept and data.draw(st.booleans()):
            at, charged = kept.pop(data.draw(st.integers(0, len(kept) - 1)))
            back = data.draw(st.integers(0, charged))
            state = refund("r", state, now, back, charged, at, args)
            kept = sorted([*kept, (at, charged - back)])

    for length, total in stretches(kept):
        assert total * period < length * units + (burst + 1) * period


@given(windows, steps)
def test_a_window_admits_no_more_than_its_limit(args, steps):
    """In each window of the clock, and weighted with the one before."""
    limit, length = args
    admitted, _, _ = run("w", args, [(pause * 20, cost) for pause, cost in steps])
    totals: dict[int, int] = {}
    for now, cost in admitted:
        totals[now // length] = totals.get(now // length, 0) + cost
        before = totals.get(now // length - 1, 0) * (length - now % length) / length
        assert totals[now // length] + before <= limit + 1e-9


@given(calendars, steps)
def test_a_calendar_admits_no_more_than_its_limit(args, steps):
    """In each of its periods."""
    limit, *starts = args
    within = [(pause // 10, cost) for pause, cost in steps]
    assume(START + sum(pause for pause, _ in within) < starts[-1])
    admitted, _, _ = run("c", args, within)

    for first, last in pairwise(starts):
        assert sum(cost for now, cost in admitted if first <= now < last) <= limit


def states(kind, args):
    """States that takes lead to, with the moment of the last one."""
    return steps.map(lambda some: run(kind, args, some)[1:])


@st.composite
def spots(draw, *, kinds=("r", "w", "c", "n")):
    """A kind, its numbers, a state of it and a moment not before it."""
    kind = draw(st.sampled_from(kinds))
    args = draw({"r": rates(), "w": windows, "c": calendars, "n": levels}[kind])
    if kind == "c":
        # A state of the first period, and a moment before the last.
        now = draw(st.integers(START, args[3] - 1))
        taken = draw(st.integers(0, 2 * args[0]))
        return kind, args, (draw(st.integers(START, now)), taken, 0), now
    state, now = draw(states(kind, args))
    return kind, args, state, now + draw(st.integers(0, 30_000 if kind == "w" else 300))


@given(spots(), st.integers(1, 40))
def test_what_remains_fits_and_no_more(spot, cost):
    """*remaining* is the largest cost that is admitted now."""
    kind, args, state, now = spot
    remaining = status(kind, state, now, cost, args).remaining

    assert decide(kind, state, now, cost, args)[0] == (cost <= remaining)


@given(spots(kinds="rwc"), st.integers(1, 40))
def test_retry_is_exact(spot, cost):
    """The cost is admitted after *retry*, and not a microsecond before."""
    kind, args, state, now = spot
    retry = status(kind, state, now, cost, args).retry_us
    if retry == NEVER:
        assert cost > (args[2] if kind == "r" else args[0])
        return

    assert decide(kind, state, now + retry, cost, args)[0]
    assert not retry or not decide(kind, state, now + retry - 1, cost, args)[0]


@given(spots(kinds="rwc"))
def test_renew_is_exact(spot):
    """There is more after *renew*, and not a microsecond before."""
    kind, args, state, now = spot
    found = status(kind, state, now, 1, args)
    full = args[2] if kind == "r" else args[0]
    if not found.renew_us:
        assert found.remaining == full
        return

    assert status(kind, state, now + found.renew_us, 1, args).remaining > found.remaining
    before = status(kind, state, now + found.renew_us - 1, 1, args).remaining
    assert before == found.remaining


@given(spots(kinds="rwc"))
def test_reset_is_exact(spot):
    """All is there after *reset*, and not a microsecond before."""
    kind, args, state, now = spot
    reset = status(kind, state, now, 1, args).reset_us
    full = args[2] if kind == "r" else args[0]

    assert status(kind, state, now + reset, 1, args).remaining == full
    assert not reset or status(kind, state, now + reset - 1, 1, args).remaining < full


@given(spots(), st.integers(1, 40))
def test_a_refund_at_once_restores(spot, cost):
    """Taken and given back in the same microsecond, all is as it was."""
    kind, args, state, now = spot
    fits, taken = decide(kind, state, now, cost, args)
    assume(fits)
    back = refund(kind, taken, now, cost, cost, now, args)

    assert status(kind, back, now, 1, args) == status(kind, state, now, 1, args)


@given(spots(), st.integers(0, 9_000), st.data())
def test_a_refund_never_gives_more_than_was_taken(spot, later, data):
    """Whenever it comes, it leaves no more than if nothing had been taken."""
    kind, args, state, now = spot
    cost = data.draw(st.integers(1, 40))
    fits, taken = decide(kind, state, now, cost, args)
    then = now + later
    assume(fits and (kind != "c" or then < args[-1]))
    back = refund(kind, taken, then, cost, cost, now, args)

    without = status(kind, state, then, 1, args).remaining
    assert status(kind, back, then, 1, args).remaining <= without + (kind == "r")


FIELDS = {"r": (6_000_000, 1, 5), "w": (5, 60_000_000), "n": (7,), "l": (3, 9_000_000, 60_000_000)}


@st.composite
def takes(draw):
    """Some rules of one tenant, each of a kind, hard or not."""
    kinds = draw(st.lists(st.sampled_from(sorted(FIELDS)), min_size=1, max_size=4, unique=True))
    charges = tuple(
        Charge(
            "t.acme",
            f"{kind}x",
            kind,
            1 if kind == "l" else draw(st.integers(1, 4)),
            draw(st.sampled_from((0, 0, 0, 1, 2))),
            FIELDS[kind],
        )
        for kind in kinds
    )
    return Take("t.acme", charges, lease=draw(st.uuids()).hex if "l" in kinds else "")


@given(st.lists(st.tuples(st.integers(0, 4_000_000), takes()), max_size=30))
def test_a_denial_changes_nothing(asked):
    """Whatever a store refuses, everything in it reads as before."""
    store, now = MemoryQuotaStore(), START
    everything = tuple(Charge("t.acme", f"{one}x", one, 1, 0, FIELDS[one]) for one in FIELDS)
    for pause, take in asked:
        now += pause
        before = store.take_at(now, Take("t.acme", everything, dry=True))
        outcome = store.take_at(now, take)
        if not outcome.admitted:
            assert store.take_at(now, Take("t.acme", everything, dry=True)) == before
            assert any(
                not fit and not one.mode
                for fit, one in zip(outcome.fits, take.charges, strict=True)
            )


ENDS = ("held", "renewed", "settled", "lost")


@given(st.lists(st.tuples(st.integers(0, 4_000_000), st.sampled_from(ENDS)), max_size=40))
def test_slots_are_never_above_the_limit(asked):
    """However they end: settled, renewed, held on or lost with their process."""
    store, now, held = MemoryQuotaStore(), START, {}
    charge = Charge("t.acme", "lx", "l", 1, 0, (3, 9_000_000, 20_000_000))
    for number, (pause, end) in enumerate(asked):
        now += pause
        take = Take("t.acme", (charge,), lease=str(number))
        if store.take_at(now, take).admitted:
            held[take.lease] = (now, now + 9_000_000)
        for lease, (at, _) in list(held.items())[:1]:
            old = take._replace(lease=lease)
            if end == "renewed" and store.renew_at(now, old, at):
                held[lease] = (at, min(now + 9_000_000, at + 20_000_000))
            if end == "settled":
                gone = Settlement("t.acme", lease, (charge,), (0,), at, FAR)
                store.settle_at(now, gone)
                del held[lease]
        held = {one: times for one, times in held.items() if times[1] > now}
        count = store.take_at(now, take._replace(dry=True)).states[0][1]

        assert count == len(held) <= 3


@pytest.mark.parametrize("per", [1, 7, 60, 3600, 86_400])
@given(limit=st.integers(1, 10_000))
def test_a_rate_says_its_ratio_exactly(per, limit):
    """Units per stretch are what was written, however the fraction is shortened."""
    period, units = Rate(name="x", limit=limit, per=per, burst=1).ratio

    assert period * limit == units * per * 1_000_000
    assert SlidingWindow(name="x", limit=limit, per=per).per_us == per * 1_000_000
