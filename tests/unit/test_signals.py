"""
Announcements.
"""

from __future__ import annotations

from dataclasses import dataclass

from twh_platform._signals import announce, has_listeners, subscribe


@dataclass(frozen=True)
class Shipped:
    """Something that happened."""

    order: int


@dataclass(frozen=True)
class ShippedLate(Shipped):
    """A class of its own."""


def test_whoever_subscribed_is_told():
    """In the order of subscription, of exactly this class, until they leave."""
    told: list[object] = []
    ends = [subscribe(Shipped, told.append), subscribe(Shipped, lambda one: told.append(one.order))]
    announce(Shipped(1))
    announce(ShippedLate(2))
    for end in ends:
        end()
        end()
    announce(Shipped(3))

    assert told == [Shipped(1), 1]


def test_a_listener_that_fails_disturbs_nobody(caplog):
    """It is logged, and the next one is told."""
    told: list[Shipped] = []

    def fail(_signal: Shipped) -> None:
        raise RuntimeError("boom")

    ends = [subscribe(Shipped, fail), subscribe(Shipped, told.append)]
    announce(Shipped(1))
    for end in ends:
        end()

    assert told == [Shipped(1)]
    assert "a listener failed on Shipped" in caplog.text


def test_without_listeners_a_signal_need_not_be_built():
    """`has_listeners` tells."""
    assert not has_listeners(Shipped)
    end = subscribe(Shipped, lambda _signal: None)
    assert has_listeners(Shipped)
    end()
    assert not has_listeners(Shipped)
