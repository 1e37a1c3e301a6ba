"""
Secrets get a new value when their policy says so, once, whoever runs it.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

pytest.importorskip("cryptography")

from twh_platform import subscribe
from twh_platform.errors import (
    BackendUnavailableError,
    ConfigurationError,
    SecretConflictError,
    SecretNotFoundError,
)
from twh_platform.kms import (
    Keyset,
    LocalKeyService,
    MemoryDataKeyStore,
    TenantCipher,
    platform_owner,
)
from twh_platform.kms.lifecycle import MemoryShredJournal, shred
from twh_platform.kms.secrets import (
    FileElection,
    MemorySecretStore,
    RotationPolicy,
    RotationTask,
    Secret,
    SecretChanged,
    SqliteSecretStore,
    Stage,
    rotate_due,
    rotate_secret,
)
from twh_platform.tenancy import Tenant, bind_tenant
from twh_platform.testing import ManualClock

POLICY = RotationPolicy(every=100, overlap=10, form="hex")


@pytest.fixture
def clock():
    """The time of day."""
    return ManualClock()


@pytest.fixture
def store(clock):
    """A store with one secret that rotates and one that does not, of the platform."""
    store = MemorySecretStore(now=clock.utc)
    with platform_owner():
        store.put("a/key", Secret("one"), policy=POLICY)
        store.put("b/key", Secret("one"))
        yield store


def test_what_is_due_gets_a_new_value(store, clock):
    """Random, in the policy's form; the old one overlaps; nothing else changes."""
    assert rotate_due(store, now=clock.utc()).rotated == ()
    clock.advance(100)
    report = rotate_due(store, now=clock.utc())

    assert [(one.name, one.version) for one in report.rotated] == [("a/key", 2)]
    assert (report.failed, report.looked) == ((), 2)
    assert len(store.get("a/key").secret.text()) == 64
    assert store.get("a/key", stage=Stage.PREVIOUS).secret == Secret("one")
    assert rotate_due(store, now=clock.utc()).rotated == ()


def test_a_pending_value_is_taken_first(store, clock):
    """Who prepared the next one meant it."""
    store.put("a/key", Secret("prepared"), stage=Stage.PENDING)
    clock.advance(100)
    rotate_due(store, now=clock.utc())

    assert store.get("a/key").secret == Secret("prepared")


def test_a_revoked_pending_value_is_passed_over(store, clock):
    """A value is made as if it had not been."""
    store.put("a/key", Secret("leaked"), stage=Stage.PENDING)
    store.revoke("a/key", 2)
    clock.advance(100)
    report = rotate_due(store, now=clock.utc())

    assert [one.version for one in report.rotated] == [3]


def test_makers_are_chosen_by_name_and_their_faults_are_their_own(store, clock):
    """One that fails leaves its secret as it was; others are rotated; both are announced."""
    store.put("c/key", Secret("one"), policy=POLICY)
    seen: list[SecretChanged] = []
    end = subscribe(SecretChanged, seen.append)
    clock.advance(100)

    def fail(_name: str, _policy: RotationPolicy) -> Secret:
        raise RuntimeError("marked-value")

    made = {"a/*": fail, "c/*": lambda _name, _policy: Secret("made"), "*": fail}
    report = rotate_due(store, now=clock.utc(), makers=made)
    end()

    assert report.failed == (("a/key", "RuntimeError"),)
    assert store.get("a/key").secret == Secret("one")
    assert store.get("c/key").secret == Secret("made")
    told = [(one.name, one.code) for one in seen if one.action == "rotated"]
    assert told == [("a/key", "RuntimeError"), ("c/key", None)]


def test_of_runners_at_once_one_rotates(store, clock):
    """Eight of them, without any election: one new version."""
    clock.advance(100)

    def run(_: int) -> int:
        with platform_owner():
            return len(rotate_due(store, now=clock.utc()).rotated)

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(run, range(8))) == [0] * 7 + [1]
    assert store.get("a/key").version.version == 2


def test_whose_pending_version_was_promoted_by_another_does_not_rotate_again(store):
    """It is a conflict, not a second rotation."""
    store.put("a/key", Secret("two"), stage=Stage.PENDING)
    versions = store.versions("a/key")
    store.promote("a/key")

    class Late(MemorySecretStore):
        def __getattribute__(self, name: str):
            return (lambda _: versions) if name == "versions" else getattr(store, name)

    with pytest.raises(SecretConflictError):
        rotate_secret(Late(), "a/key")
    assert store.get("a/key").version.version == 2


def test_one_secret_is_rotated_when_it_is_asked_for(store):
    """Due or not; without a policy nobody knows how, and without a secret there is none."""
    assert rotate_secret(store, "a/key").version == 2
    with pytest.raises(ConfigurationError) as caught:
        rotate_secret(store, "b/key")
    with pytest.raises(SecretNotFoundError):
        rotate_secret(store, "c/key")

    assert caught.value.code == "rotation_policy_missing"


def test_an_election_by_file_has_one_winner(tmp_path):
    """While it lasts; then another may win."""
    one, two = (FileElection(tmp_path / "lock") for _ in range(2))
    with one.lead() as first, two.lead() as second:
        assert (first, second) == (True, False)
    with two.lead() as again:
        assert again

    with pytest.raises(BackendUnavailableError), FileElection(tmp_path / "no" / "lock").lead():
        pass


def test_a_round_is_done_by_who_leads(store, tmp_path):
    """For each owner; who does not lead does nothing."""
    election = FileElection(tmp_path / "lock")
    owners = lambda: [platform_owner(), bind_tenant(Tenant(id="acme"))]  # noqa: E731
    task = RotationTask(store, election, owners=owners)

    assert [one.looked for one in task.run_once() or []] == [2, 0]
    with election.lead():
        assert task.run_once() is None


async def test_the_task_rotates_until_it_is_left(store, clock, monkeypatch):
    """At once, then every interval; it ends with the `async with`."""
    clock.advance(100)
    monkeypatch.setattr("twh_platform.kms.secrets._rotation.utc_now", clock.utc)

    async with RotationTask(store, interval=0.01, chance=lambda: 0.5):
        for version in (2, 3):
            while store.get("a/key").version.version < version:  # noqa: ASYNC110 -- a thread does it
                await asyncio.sleep(0.01)
            clock.advance(100)
    last = store.get("a/key").version.version
    clock.advance(100)
    await asyncio.sleep(0.05)

    assert store.get("a/key").version.version == last


async def test_a_round_that_fails_is_logged_and_not_the_last(store, caplog):
    """By the code of the error, without what it said."""
    caplog.set_level(logging.INFO, "twh_platform.kms")
    rounds = []

    class Failing:
        @contextmanager
        def lead(self):
            rounds.append(1)
            raise RuntimeError("marked-value")
            yield

    async with RotationTask(store, Failing(), interval=0.01):
        while len(rounds) < 3:  # noqa: ASYNC110 -- a thread does it
            await asyncio.sleep(0.01)

    assert "RuntimeError" in caplog.text
    assert "marked" not in caplog.text


def test_what_is_shredded_is_no_failure(clock, caplog, monkeypatch, tmp_path):
    """It is counted apart in each round, and logged as nothing that somebody has to mend."""
    monkeypatch.setattr("twh_platform.kms.secrets._rotation.utc_now", clock.utc)
    service, keys = LocalKeyService(Keyset.new()), MemoryDataKeyStore()
    cipher = TenantCipher(service, keys, purpose="secrets")
    kept = SqliteSecretStore(tmp_path / "secrets.sqlite", cipher, now=clock.utc)
    owners = [Tenant(id="acme"), Tenant(id="globex")]
    for tenant in owners:
        with bind_tenant(tenant):
            kept.put("a/key", Secret("one"), policy=POLICY)
    shred("acme", service=service, store=keys, journal=MemoryShredJournal(), cipher=cipher)
    clock.advance(100)

    reports = RotationTask(kept, owners=lambda: map(bind_tenant, owners)).run_once() or []

    assert [(one.failed, one.shredded, len(one.rotated)) for one in reports] == [
        ((), ("a/key",), 0),
        ((), (), 1),
    ]
    assert [one for one in caplog.records if one.levelno >= logging.WARNING] == []


def test_an_owner_whose_secrets_cannot_be_listed_does_not_stop_the_others(store, caplog):
    """It is reported and logged."""

    class Partly(MemorySecretStore):
        def names(self, *, prefix: str = "") -> list[str]:
            if prefix == "" and not rounds:
                rounds.append(1)
                raise BackendUnavailableError("away")
            return store.names(prefix=prefix)

    rounds: list[int] = []
    owners = lambda: [bind_tenant(Tenant(id="acme")), platform_owner()]  # noqa: E731
    reports = RotationTask(Partly(), owners=owners).run_once()

    assert reports is not None
    assert reports[0].failed == (("", "backend_unavailable"),)
    assert reports[1].looked == 2
    assert "rotation for acme failed: backend_unavailable" in caplog.text


def test_an_interval_is_above_zero(store):
    """Else it would rotate without a pause."""
    with pytest.raises(ConfigurationError):
        RotationTask(store, interval=0)
