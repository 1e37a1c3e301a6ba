"""
Gate G4: whatever order two sides take in a rotation, nothing valid is refused.

The sender takes three steps: it adds the new secret as pending, activates it, and
revokes the old one.  The receiver takes two: it adds the new secret, and drops the old
one.  A side is several processes, and each of them takes a step at most `SKEW` after the
first has; a delivery is on its way for at most `FLIGHT`.  What is declared, and what
the how-to asks for, is how long a step waits for one of the other side::

    the receiver drops the old one    SKEW + FLIGHT after the sender activated the new one
    the sender revokes the old one    SKEW after the receiver added the new one
    where there is room for one signature, besides:
    the sender activates the new one  SKEW after the receiver added it

All plans on a grid of times are tried, with each lag of a sending and of a receiving
process, and a delivery at each moment: which process of a side meets which of the
other is then in it, too.  A further attempt of an event is signed anew, so it is one of
these deliveries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from itertools import combinations, product
from typing import Any, NamedTuple

import pytest

from twh_platform.errors import WebhookError
from twh_platform.webhooks import (
    GITHUB,
    MESSAGE,
    SLACK,
    STANDARD,
    STRIPE,
    Key,
    Keyring,
    KeyState,
    RawSecret,
    Signer,
    StandardSecret,
    Verifier,
)

NOW, DAY = 1_700_000_000, 86_400
SKEW, FLIGHT = 1, 1
LAST = 7
CLOCKS = (-60, 0, 60)
PROFILES = {one.name: one for one in (STANDARD, STRIPE, GITHUB, SLACK, MESSAGE)}
REQUEST = {"method": "POST", "url": "https://receiver.example/hooks"}
EVENT, BODY = "msg_1", b'{"type":"order.paid"}'


class Plan(NamedTuple):
    """When the first process of a side takes each step."""

    add: int
    activate: int
    revoke: int
    learn: int
    drop: int


PLANS = [
    Plan(*sender, *receiver)
    for sender in combinations(range(LAST), 3)
    for receiver in combinations(range(LAST), 2)
]


def declared(plan: Plan, *, several: bool) -> bool:
    """Whether each step waits for the other side as it has to."""
    return (
        plan.drop >= plan.activate + SKEW + FLIGHT
        and plan.revoke >= plan.learn + SKEW
        and (several or plan.activate >= plan.learn + SKEW)
    )


class World:
    """
    What the two sides know after each step, and what really becomes of a delivery.

    Args:
        profile: The name of how it is signed.

        one_key: Whether the receiver has room for one secret, and puts the new one
            in place of the old one.
    """

    def __init__(self, profile: str, *, one_key: bool = False) -> None:
        self.profile = PROFILES[profile]
        old, new = secrets_of(profile)
        self.ids = {"old": old.fingerprint, "new": new.fingerprint}
        first = Keyring([Key(secret=old)])
        both = first.add(Key(secret=new, state=KeyState.PENDING))
        turned = both.activate(new.fingerprint)
        self.sending = [first, both, turned, turned.revoke(old.fingerprint)]
        self.receiving = [[old], [new], [new]] if one_key else [[old], [new, old], [new]]
        self.said = cache(self._said)

    def _said(self, sent: int, known: int, clock: int, later: int = 0) -> str:
        """Deliver it: the key that it was, or the code of the error."""
        at = NOW + later
        signer = Signer(self.sending[sent], profile=self.profile, clock=lambda: at)
        event = EVENT if self.profile.id_header else None
        request = signer.sign(BODY, event_id=event, **REQUEST)
        assert request.id == (event or "")
        verifier = Verifier(self.receiving[known], profile=self.profile, clock=lambda: at + clock)
        try:
            return verifier.verify(request.body, request.headers, **REQUEST).key_id
        except WebhookError as error:
            return error.code

    def refused(self, plan: Plan) -> int:
        """How many deliveries are refused, with every lag and every flight."""
        return sum(
            self.said(sent, known, clock) not in self.ids.values()
            for sent, known in moments(plan)
            for clock in CLOCKS
        )


def secrets_of(profile: str) -> tuple[Any, Any]:
    """An old secret and a new one, of the kind that fits."""
    kinds = {kind for one in PROFILES[profile].schemes.values() for kind in one.kinds}
    if "standard" in kinds:
        return StandardSecret.generate(), StandardSecret.generate()
    return RawSecret("the old secret"), RawSecret("the new secret")


@cache
def moments(plan: Plan) -> frozenset[tuple[int, int]]:
    """How many steps each side has taken, of all deliveries that there can be."""
    found = set()
    for lags in product(range(SKEW + 1), repeat=len(plan)):
        taken = [at + lag for at, lag in zip(plan, lags, strict=True)]
        for signed, flight in product(range(LAST + SKEW + 1), range(FLIGHT + 1)):
            sent = sum(at <= signed for at in in_order(taken[:3]))
            known = sum(at <= signed + flight for at in in_order(taken[3:]))
            found.add((sent, known))
    return frozenset(found)


def in_order(taken: list[int]) -> Iterator[int]:
    """One process takes its steps one after the other, however late it hears of them."""
    latest = 0
    for at in taken:
        latest = max(latest, at)
        yield latest


@pytest.fixture(params=PROFILES)
def profile(request) -> str:
    """How it is signed: with room for several signatures, or for one."""
    return request.param


def plans(profile: str, *, kept: Callable[[bool], bool] = bool) -> list[Plan]:
    """Those within what is declared, or outside."""
    several = PROFILES[profile].several
    return [one for one in PLANS if kept(declared(one, several=several))]


def test_nothing_valid_is_refused(profile):
    """Each plan within what is declared, each lag, each moment, each clock."""
    world, tried = World(profile), plans(profile)

    assert len(tried) == (301 if world.profile.several else 154)
    assert sum(map(world.refused, tried)) == 0


def test_every_order_of_steps_was_tried():
    """Of ten orders of the five steps, all that are allowed: the sender first, or the receiver."""

    def orders(profile: str) -> set[str]:
        return {
            "".join(sorted("abcxy", key=dict(zip("abcxy", one, strict=True)).get))
            for one in plans(profile)
            if len(set(one)) == len(one)
        }

    several, single = orders("standard"), orders("github")

    assert several == {"abxcy", "axbcy", "xabcy", "abxyc", "axbyc", "xabyc"}
    assert single == {"axbcy", "xabcy", "axbyc", "xabyc"}


def test_control_what_is_declared_is_needed(profile):
    """Control: outside of it, by a tick or more, each plan refuses something."""
    world = World(profile)
    outside = plans(profile, kept=lambda within: not within)

    assert len(outside) == (434 if world.profile.several else 581)
    assert [one for one in outside if not world.refused(one)] == []


def test_control_one_key_fails(profile):
    """Control: a receiver with room for one secret refuses what is genuine."""
    world, tried = World(profile, one_key=True), plans(profile)
    failing = [one for one in tried if world.refused(one)]

    # With one signature there is no moment at which it could turn.
    assert len(failing) == (274 if world.profile.several else len(tried))


def test_the_old_key_falls_silent(profile):
    """Once both sides know the new one, no delivery is reported as the old one's."""
    world = World(profile)
    told = {(sent, known): world.said(sent, known, 0) for sent in (2, 3) for known in (1, 2)}
    before = {world.said(sent, known, 0) for sent in (0, 1) for known in (0, 1)}

    assert set(told.values()) == {world.ids["new"]}
    assert before == {world.ids["old"]}


@pytest.mark.parametrize("attempt", [0, 300, 1_800, DAY])
def test_a_retry_goes_with_the_keys_of_its_time(profile, attempt):
    """The same event, signed anew a day later, wherever the rotation is by then."""
    world = World(profile)
    reached = {one for plan in plans(profile) for one in moments(plan)}

    told = {world.said(sent, known, 0, attempt) for sent, known in reached}

    assert told == set(world.ids.values())


def test_a_retry_that_was_signed_before_is_refused(profile):
    """Control: kept as it was signed first, it meets a receiver that has dropped its key."""
    world = World(profile)

    assert world.said(0, 2, 0) in {"signature_mismatch", "key_unknown"}


def test_a_rollback_refuses_nothing():
    """The old one is activated again: before it, after it and while the two sides differ."""
    world = World("standard")
    back = world.sending[2].activate(world.ids["old"])
    world.sending = [*world.sending[:3], back, back.revoke(world.ids["new"])]
    old, both = world.receiving[0], world.receiving[1]
    world.receiving = [old, both, old]

    told = {
        world.said(sent, known, clock)
        for sent in range(5)
        for known in range(3)
        for clock in CLOCKS
    }

    assert told == set(world.ids.values())
