"""
The script of the Redis store and the store in memory say and keep the same.

A sequence of operations, with changing limits and a clock that goes on, stands
still and goes back, is asked of both: the script in a real Redis, in one
pipeline, with the time as an argument.  Every reply and every stored state is
compared.  Planted faults in the script show that differences are found.
"""

from __future__ import annotations

import math
from operator import itemgetter
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

redis = pytest.importorskip("redis")

from twh_platform.quotas import Calendar, Rate, SlidingWindow  # noqa: E402
from twh_platform.quotas._exchange import Charge, Outcome, Settled, Settlement, Take  # noqa: E402
from twh_platform.quotas._store import MemoryQuotaStore  # noqa: E402
from twh_platform.quotas._takes import charge_of  # noqa: E402
from twh_platform.quotas.redis._wire import SCRIPT, Codec  # noqa: E402

SEQUENCES = 2500
START = 1_700_000_000_000_000
PARTITION = "t.a"
LARGE = 2**40

EXTREME_RATES = [
    Rate(name="x", limit=2**26, per=30),
    Rate(name="x", limit=1, per=366 * 86_400),
    Rate(name="x", limit=7, per=86_400, burst=2000),
    Rate(name="x", limit=1_000_000, per=1),
    Rate(name="x", limit=999_983, per=59.999983),
]
EXTREME_WINDOWS = [
    SlidingWindow(name="x", limit=142_000, per=366 * 86_400),
    SlidingWindow(name="x", limit=2**51, per=0.001),
    SlidingWindow(name="x", limit=75_059_993_789, per=60),
]
MONTH = Calendar(name="x", limit=5, period="month")


class Step(NamedTuple):
    """
    One operation; its letter says which.

    The clock goes on by *advance*; or, if there is a *mark*, by one of the
    rules' own lengths, a microsecond less or more.
    """

    letter: str
    advance: int
    mark: int
    charges: tuple[tuple[int, int, int, int], ...]
    past: int
    more: int
    joined: bool


# Which of a kind's numbers are lengths of time.
LENGTHS = {"r": (0,), "w": (1,), "c": (), "n": (), "l": (1, 2)}


def lengths_of(numbers):
    """The short lengths of time in the numbers of rules; one at least."""
    found = [
        args[index]
        for field, variants in numbers.items()
        for args in variants
        for index in LENGTHS[FIELDS[field][1][0]]
    ]
    return [one for one in found if one < 10**7] or [700]


def _numbers(rule):
    return charge_of(rule, PARTITION, 1, "UTC", START).args


@st.composite
def small_rates(draw):
    """Numbers of a `Rate` whose units come every few microseconds."""
    period, units = draw(st.integers(1, 60)), draw(st.integers(1, 60))
    common = math.gcd(period, units)
    return period // common, units // common, draw(st.integers(1, 30))


def periods(first):
    """Four starts of short periods, of which the clock may be in none."""
    return tuple(START + 700 * (first + one) for one in range(4))


RATES = small_rates() | small_rates() | st.sampled_from([_numbers(one) for one in EXTREME_RATES])
WINDOWS = st.tuples(
    st.integers(1, 40), st.integers(1, 5).map(lambda ms: ms * 1000)
) | st.sampled_from([_numbers(one) for one in EXTREME_WINDOWS])
CALENDARS = st.builds(
    lambda limit, first: (limit, *periods(first)), st.integers(0, 30), st.integers(-2, 1)
) | st.just(_numbers(MONTH))
LEVELS = st.tuples(st.integers(0, 40) | st.just(LARGE))
SLOTS = st.builds(
    lambda limit, lease, more: (limit, lease, lease + more),
    st.integers(0, 4),
    st.integers(1, 1000),
    st.integers(0, 300),
)

# What there is to be charged: two hashes and two sets, and the numbers that each may have.
FIELDS = [
    ("", "rminute", RATES),
    ("", "wminute", WINDOWS),
    ("", "cday", CALENDARS),
    ("", "nitems", LEVELS),
    (":u.7", "rminute", RATES),
    (":u.7", "cday", CALENDARS),
    ("", "lopen", SLOTS),
    (":u.7", "lopen", SLOTS),
]
FIRST_SLOTS = 6
VARIANTS = 3

COSTS = st.integers(1, 12) | st.sampled_from([1, 1, 1, 30, 1000, LARGE])
ADVANCES = (
    st.integers(0, 60)
    | st.integers(0, 60)
    | st.integers(0, 3000)
    | st.sampled_from([0, 0, 700, 1000, 10**6, 40 * 86_400 * 10**6])
)
LETTERS = st.sampled_from("ttttttddfsssrrr")


@st.composite
def sequences(draw):
    """Numbers for every field, whether the clock goes back, and the steps."""
    back = draw(st.sampled_from([False, False, True]))
    known = draw(
        st.lists(st.integers(0, (FIRST_SLOTS if back else len(FIELDS)) - 1), min_size=1, max_size=4)
    )
    numbers = {one: draw(st.lists(FIELDS[one][2], min_size=1, max_size=VARIANTS)) for one in known}
    part = st.tuples(
        st.sampled_from(known),
        st.integers(0, VARIANTS - 1),
        COSTS,
        st.sampled_from([0, 0, 0, 1, 2]),
    )
    steps = st.builds(
        Step,
        LETTERS,
        ADVANCES | st.integers(-3000, 0) if back else ADVANCES,
        st.integers(-6, 6),
        st.lists(part, min_size=1, max_size=4, unique_by=itemgetter(0)).map(tuple),
        st.integers(0, 5),
        st.integers(-1, 40),
        st.booleans(),
    )
    return numbers, draw(st.lists(steps, min_size=1, max_size=14))


class Forgetful(MemoryQuotaStore):
    """
    Keeps what has run out, as Redis does until its own time has come.
    """

    def _sweep(self, now, count):
        """Drop nothing."""


class Pair:
    """
    The two that are compared: asks both the same, first the one in memory.
    """

    def __init__(self, client, script):
        self.client = client
        self.script = script
        self.sha = client.script_load(script)
        self.codec = Codec("twh:q")
        self.keys = set()

    def run(self, numbers, steps):
        """Ask all steps of both; return the twin, the answers, and the clock."""
        self.keys.clear()
        twin, past, calls, expected = Forgetful(), [], [], []
        now = START
        lengths = lengths_of(numbers)
        for index, step in enumerate(steps):
            now += step.advance
            if step.mark > 0:
                now += lengths[step.mark % len(lengths)] + step.advance % 3 - 1 - step.advance
            answer, operation = self.step(twin, now, index, step=step, numbers=numbers, past=past)
            expected.append(answer)
            if not (step.joined and calls):
                calls.append(([], [], []))
            keys, args, read = calls[-1]
            keys += operation.keys
            args += [b"@%d" % now, *operation.args]
            read.append((now, operation))
            self.keys.update(operation.keys)
        return twin, expected, calls, now

    def step(self, twin, now, index, *, step, numbers, past):
        """Do one step in memory; return its answer, and the operation for Redis."""
        earlier = [one for one in past if one[0].lease] if step.letter == "r" else past
        if step.letter in "sr" and earlier:
            take, at, charges = earlier[-1 - step.past % len(earlier)]
            if step.letter == "r":
                return twin.renew_at(now, take, at), self.codec.renewal(take, at)
            if charges:
                return self.settle(twin, now, step, take=take, at=at, charges=charges)
        take = self.take(index, step, numbers)
        outcome = twin.take_at(now, take)
        charged = zip(take.charges, outcome.fits, strict=False)
        kept = tuple(one for one, fits in charged if fits or take.force or one.mode != 2)
        if outcome.admitted and not take.dry:
            past.append((take, now, kept))
        return outcome, self.codec.take(take)

    @staticmethod
    def take(index, step, numbers):
        """The take of a step."""
        charges = tuple(
            Charge(
                PARTITION + FIELDS[field][0],
                FIELDS[field][1],
                FIELDS[field][1][0],
                cost if field < FIRST_SLOTS else 1,
                mode,
                numbers[field][variant % len(numbers[field])],
            )
            for field, variant, cost, mode in step.charges
        )
        slots = any(one.kind == "l" for one in charges)
        return Take(
            PARTITION,
            charges,
            force=step.letter == "f",
            dry=step.letter == "d",
            lease=f"lease{index}" if slots else "",
        )

    def settle(self, twin, now, step, *, take, at, charges):
        """Settle an earlier take, perhaps again, perhaps too late."""
        settlement = Settlement(
            PARTITION,
            take.lease or ("" if step.more == 0 else f"id{at}"),
            charges,
            tuple(max(0, min(2 * one.cost, one.cost - 3 + step.more)) for one in charges),
            at,
            at + 2000 if step.more % 2 else 2**53 - 1,
        )
        return twin.settle_at(now, settlement), self.codec.settlement(settlement)

    def ask(self, calls):
        """Have the script answer all calls; return the answers, and what it keeps."""
        pipeline = self.client.pipeline(transaction=False)
        pipeline.unlink("none", *self.keys)
        for keys, args, _ in calls:
            pipeline.evalsha(self.sha, len(keys), *keys, *args)
        names = sorted(self.keys)
        for name in names:
            pipeline.type(name)
            pipeline.pttl(name)
        replies = pipeline.execute()[1:]
        answers = []
        for reply, (_, _, read) in zip(replies, calls, strict=False):
            words, position = reply.decode().split(), 1
            for now, operation in read:
                answer, position = operation.read(now, words, position)
                answers.append(answer)
        return answers, self.kept(names, replies[len(calls) :])

    def kept(self, names, facts):
        """What each key holds, all of which end some day."""
        kept = {}
        pipeline = self.client.pipeline(transaction=False)
        types = facts[::2]
        for name, kind in zip(names, types, strict=True):
            if kind == b"hash":
                pipeline.hgetall(name)
            elif kind == b"zset":
                pipeline.zrange(name, 0, -1, withscores=True)
        both = (b"hash", b"zset")
        there = [name for name, kind in zip(names, types, strict=True) if kind in both]
        for name, value in zip(there, pipeline.execute(), strict=True):
            kept[name] = dict(value)
        assert all(ttl != -1 for ttl in facts[1::2])
        return kept

    def check(self, numbers, steps):
        """Compare every answer, and every state that is kept."""
        twin, expected, calls, now = self.run(numbers, steps)
        answers, kept = self.ask(calls)

        assert answers == expected
        assert states_of(kept, now) == states_in(twin, now)


def states_of(kept, now):
    """What Redis keeps, as `states_in` has it."""
    states = {}
    for name, value in kept.items():
        bucket = name.decode().replace("twh:q:{t.a}", PARTITION)
        if b":l" in name:
            held = {one.decode(): int(until) for one, until in value.items() if until > now}
            states[bucket] = held
        else:
            states |= {f"{bucket} {field.decode()}": one for field, one in value.items()}
    return {key: value for key, value in states.items() if value}


def states_in(twin, now):
    """What the twin keeps: texts of states, and the leases that are held."""
    states = {}
    for (bucket, field), (held, charge) in twin._kept.items():
        if charge is None:
            continue
        if charge.kind == "l":
            live = {one: until for one, until in held._held.items() if until > now}
            states[f"{bucket}:{field}"] = live
        else:
            first, second, third = held
            end = f".{third}" if third else ""
            states[f"{bucket} {field}"] = f"{first:016d}{second}{end}".encode()
    return {key: value for key, value in states.items() if value}


@pytest.fixture(scope="module")
def client(redis_url):
    """A client that waits for its answers."""
    with redis.Redis.from_url(redis_url) as client:
        yield client


def bounded(count, *, shrink=True):
    """Always the same examples, so many."""
    phases = (Phase.generate, Phase.shrink) if shrink else (Phase.generate,)
    return settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        phases=phases,
        suppress_health_check=list(HealthCheck),
    )


def test_the_script_and_the_twin_are_equal(client):
    """Thousands of sequences over all kinds: the same answers, the same states."""
    pair = Pair(client, SCRIPT)
    seen = []

    @bounded(SEQUENCES)
    @given(sequences())
    def compare(sequence):
        pair.check(*sequence)
        seen.append(len(sequence[1]))

    compare()
    assert len(seen) >= SEQUENCES


FAULTS = {
    "a rate admits one less": ("- burst) * period <= drained", "- burst) * period < drained"),
    "a rate forgets late": ("since >= period then", "since > period then"),
    "a debt has no end": ("if a > most then a = most end\n          else", "else"),
    "a refund ignores time": ("if drained < cost * period then", "if true then"),
    "a window without the one before": ("a + weight + cost", "a + cost"),
    "a window begins late": ("t == opens - length", "t == opens + length"),
    "a month is one too many": ("fits = a - b + cost <= one", "fits = a - b + cost < one"),
    "a period ends late": ("elseif now >= closes then", "elseif now > closes then"),
    "a refund of yesterday": ("at >= t then\n            b", "at > t then\n            b"),
    "a slot too many": ("raw < limit + 0", "raw <= limit + 0"),
    "a refusal writes": ("word = ' 0' .. before", "admitted = true"),
    "a look writes": ("elseif op == 100 then", "elseif op == 0 then"),
    "a settlement without end": ("elseif now > expires then", "elseif now > 1e17 then"),
    "a settlement twice": ("then word = ' 0' end", "then end"),
    "a renewal too long": ("if at + hold < expiry then", "if false then"),
    "a shadow that is charged": ("fits or mode ~= 2 or op == 102 or settles", "true"),
}


@pytest.mark.parametrize(("old", "new"), FAULTS.values(), ids=FAULTS)
def test_a_planted_fault_is_found(client, old, new):
    """The control: the comparison sees a script that differs in one place."""
    assert SCRIPT.count(old) == 1
    pair = Pair(client, SCRIPT.replace(old, new))
    compare = bounded(SEQUENCES, shrink=False)(
        given(sequences())(lambda sequence: pair.check(*sequence))
    )

    with pytest.raises((AssertionError, redis.ResponseError)):
        compare()


def test_answers_have_the_types_of_the_protocol(client):
    """What is compared are outcomes and settlements, not words."""
    pair = Pair(client, SCRIPT)
    numbers = {0: [(6, 1, 10)] * VARIANTS}
    take = Step("t", 0, 0, ((0, 0, 1, 0),), 0, 3, joined=False)
    _, _, calls, _ = pair.run(numbers, [take, take._replace(letter="s")])

    answers, _ = pair.ask(calls)
    assert [type(one) for one in answers] == [Outcome, Settled]
