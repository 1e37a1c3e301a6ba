"""
What changes make of a secret's versions; all that stores share is in the contract.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("cryptography")

from twh_platform.errors import ConfigurationError, SecretError
from twh_platform.kms.secrets import RotationPolicy, SecretState, Stage
from twh_platform.kms.secrets._versions import (
    DEFAULT_OVERLAP,
    add_version,
    choose_version,
    is_due,
    promote_pending,
    read_state,
    revoke_version,
    roll_back_current,
    usable_versions,
    write_state,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
EMPTY = SecretState(name="key")
POLICY = RotationPolicy(every=100, overlap=10)


def after(seconds: float) -> datetime:
    """A moment later than NOW."""
    return NOW + timedelta(seconds=seconds)


CHANGES = {
    "put": lambda state, now: add_version(state, now=now, overlap=25),
    "pend": lambda state, now: add_version(state, now=now, stage=Stage.PENDING),
    "expiring": lambda state, now: add_version(
        state, now=now, expires_at=now + timedelta(seconds=15), policy=POLICY
    ),
    "promote": lambda state, now: promote_pending(state, now=now, overlap=25),
    "back": lambda state, now: roll_back_current(state, now=now),
    "revoke": lambda state, now: revoke_version(state, state.newest, now=now),
    "revoke older": lambda state, now: revoke_version(state, state.newest - 1, now=now),
}


@given(st.lists(st.sampled_from(list(CHANGES)), max_size=40))
def test_whatever_is_done_the_laws_hold(names):
    """One version per stage, numbers in order and never again, a revoked one never usable."""
    state, revoked, newest = EMPTY, set(), 0
    for second, name in enumerate(names):
        now = after(10 * second)
        try:
            state = CHANGES[name](state, now)
        except SecretError:
            continue
        numbers = [one.version for one in state.versions]
        assert numbers == sorted(set(numbers))
        assert state.newest >= newest
        newest = state.newest
        stages = [one.stage for one in state.versions if one.stage]
        assert len(stages) == len(set(stages))
        revoked |= {one.version for one in state.versions if one.revoked_at}
        usable = usable_versions(state, now=now)
        assert not revoked & {one.version for one in usable}
        assert read_state(json.loads(json.dumps(write_state(state)))) == state
        try:
            assert choose_version(state, now=now) == usable[0]
        except SecretError:
            assert not [one for one in usable if one.stage is Stage.CURRENT]


def test_the_overlap_is_the_calls_then_the_policys_then_a_day():
    """The narrowest word counts."""
    first = add_version(EMPTY, now=NOW)
    with_policy = add_version(EMPTY, now=NOW, policy=POLICY)

    def retires(state: SecretState, **said: float) -> datetime | None:
        return add_version(state, now=NOW, **said).versions[0].retires_at

    assert retires(with_policy, overlap=5) == after(5)
    assert retires(with_policy) == after(10)
    assert retires(first) == after(DEFAULT_OVERLAP)


def test_it_is_due_when_its_time_as_the_current_one_is_over():
    """Counted from when it became current: not from when it was made, and anew after a rollback."""
    state = add_version(EMPTY, now=NOW, policy=POLICY)
    state = add_version(state, now=NOW, stage=Stage.PENDING)
    assert not is_due(state, now=after(99))
    assert is_due(state, now=after(100))
    state = promote_pending(state, now=after(100))
    assert not is_due(state, now=after(199))
    state = roll_back_current(state, now=after(150))

    assert not is_due(state, now=after(249))
    assert is_due(state, now=after(250))


def test_without_a_policy_or_a_current_version_nothing_is_due():
    """What somebody revoked is not replaced behind his back."""
    assert not is_due(EMPTY, now=NOW)
    assert not is_due(add_version(EMPTY, now=NOW), now=after(10**9))
    only_pending = add_version(EMPTY, now=NOW, stage=Stage.PENDING, policy=POLICY)
    assert not is_due(only_pending, now=after(10**9))
    revoked = revoke_version(add_version(EMPTY, now=NOW, policy=POLICY), 1, now=NOW)
    assert not is_due(revoked, now=after(10**9))


@pytest.mark.parametrize(
    "fields",
    [
        {"every": 0},
        {"every": float("inf")},
        {"overlap": -1},
        {"overlap": 101},
        {"random_bytes": 15},
        {"form": "rot13"},
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(fields):
    """An overlap longer than the period would keep more than two values alive."""
    with pytest.raises(ConfigurationError) as caught:
        RotationPolicy(**{"every": 100, "overlap": 10} | fields)

    assert caught.value.code == "rotation_policy_invalid"


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ({"stage": Stage.PREVIOUS}, "secret_stage_invalid"),
        ({"expires_at": datetime(2027, 1, 1)}, "secret_time_invalid"),  # noqa: DTZ001 -- the fault
        ({"overlap": -1}, "secret_time_invalid"),
        ({"overlap": float("nan")}, "secret_time_invalid"),
    ],
)
def test_a_version_that_makes_no_sense_is_refused(said, code):
    """Before anything is changed."""
    with pytest.raises(ConfigurationError) as caught:
        add_version(add_version(EMPTY, now=NOW), now=NOW, **said)

    assert caught.value.code == code
