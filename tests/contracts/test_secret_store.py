"""
What every secret store does.

A store joins by a parameter of `store`.  Time is told to the stores that take
it as an argument; others are not asked what needs it.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta

import pytest

from tests.support.secrets import tenant_cipher
from tests.support.vault_servers import ORIGIN as VAULT
from tests.support.vault_servers import vault_under_test
from twh_platform import subscribe
from twh_platform.errors import (
    ConfigurationError,
    NoCurrentTenantError,
    SecretConflictError,
    SecretNotFoundError,
    SecretRevokedError,
)
from twh_platform.kms._announcements import SecretChanged, SecretRead
from twh_platform.kms._secret import Secret
from twh_platform.kms.secrets._cache import CachedSecrets
from twh_platform.kms.secrets._sqlite import SqliteSecretStore
from twh_platform.kms.secrets._store import MemorySecretStore, SecretStore, accepted_values
from twh_platform.kms.secrets._versions import RotationPolicy, Stage
from twh_platform.tenancy import Tenant, bind_tenant
from twh_platform.testing import ManualClock

DAY = 86_400.0
NAME = "stripe/webhook"


@dataclass(frozen=True)
class Opened:
    """A store, the clock that it goes by, and another that sees the same secrets."""

    store: SecretStore
    clock: ManualClock
    again: Callable[[], SecretStore]


def _memory(_request: pytest.FixtureRequest, _stack: ExitStack) -> Opened:
    clock = ManualClock()
    store = MemorySecretStore(now=clock.utc)
    return Opened(store, clock, lambda: store)


def _cached(_request: pytest.FixtureRequest, _stack: ExitStack) -> Opened:
    clock = ManualClock()
    store = MemorySecretStore(now=clock.utc)
    cached = CachedSecrets(store, clock=clock.monotonic, now=clock.utc)
    return Opened(cached, clock, lambda: cached)


def _sqlite(request: pytest.FixtureRequest, stack: ExitStack) -> Opened:
    clock, path = ManualClock(), request.getfixturevalue("tmp_path") / "secrets.sqlite"
    cipher = stack.enter_context(tenant_cipher())
    return Opened(
        SqliteSecretStore(path, cipher, now=clock.utc),
        clock,
        lambda: SqliteSecretStore(path, cipher, now=clock.utc),
    )


def _vault(_request: pytest.FixtureRequest, stack: ExitStack) -> Opened:
    clock = ManualClock()
    vault = stack.enter_context(vault_under_test())
    return Opened(
        vault.secret_store(stack, now=clock.utc),
        clock,
        lambda: vault.secret_store(stack, now=clock.utc),
    )


def _aws(_request: pytest.FixtureRequest, stack: ExitStack) -> Opened:
    pytest.importorskip("boto3")
    pytest.importorskip("moto")
    from tests.support.strict_moto import shared_moto
    from twh_platform.kms.aws import AwsSecretStore

    clock, moto, prefix = ManualClock(), shared_moto(), f"twh-{secrets.token_hex(6)}/"

    def opened() -> AwsSecretStore:
        store = AwsSecretStore(
            prefix=prefix,
            session=moto.session(),
            endpoint_url=moto.url,
            timeout=20.0,
            now=clock.utc,
        )
        stack.callback(store.close)
        return store

    return Opened(opened(), clock, opened)


def _postgres(request: pytest.FixtureRequest, _stack: ExitStack) -> Opened:
    pytest.importorskip("psycopg")
    from tests.support.postgres_keys import Shifted, keys_database, tenant_connections
    from twh_platform.kms.postgres.secrets import PostgresSecretStore

    clock, connect = ManualClock(), tenant_connections(keys_database(request))

    def opened() -> PostgresSecretStore:
        return PostgresSecretStore(connect, Shifted(), now=clock.utc)

    return Opened(opened(), clock, opened)


STORES: dict[str, Callable[[pytest.FixtureRequest, ExitStack], Opened]] = {
    "memory": _memory,
    "cached": _cached,
    "sqlite": _sqlite,
    "postgres": _postgres,
    VAULT: _vault,
    "aws-moto": _aws,
}


@pytest.fixture(params=STORES)
def opened(request: pytest.FixtureRequest) -> Iterator[Opened]:
    """An empty store."""
    with ExitStack() as stack:
        yield STORES[request.param](request, stack)


@pytest.fixture
def clock(opened: Opened) -> ManualClock:
    """The time of day of the store."""
    return opened.clock


@pytest.fixture
def store(opened: Opened) -> Iterator[SecretStore]:
    """The store, while a tenant is bound."""
    with bind_tenant(Tenant(id="acme")):
        yield opened.store


def in_use(store: SecretStore, stage: Stage = Stage.CURRENT) -> tuple[int, bytes]:
    """The number and the value of a stage."""
    found = store.get(NAME, stage=stage)
    return found.version.version, found.secret.reveal()


def test_what_was_put_is_got(store):
    """The value comes back, with version 1 and the stage that it was given."""
    put = store.put(NAME, Secret("one"))
    got = store.get(NAME)

    assert got.secret == Secret("one")
    assert got.version == put
    assert (put.name, put.version, put.stage) == (NAME, 1, Stage.CURRENT)


@pytest.mark.parametrize("value", [b"\0", bytes(range(256)), b"\xff" * 65_536, b" \n"])
def test_any_bytes_come_back(value, store):
    """A value is bytes and not text: nothing of it is trimmed or changed."""
    store.put(NAME, Secret(value))

    assert store.get(NAME).secret.reveal() == value


def test_what_is_not_there_is_not_found(store):
    """A name, a stage and a version that do not exist are told alike."""
    with pytest.raises(SecretNotFoundError):
        store.get(NAME)
    store.put(NAME, Secret("one"))

    for asked in ({"stage": Stage.PREVIOUS}, {"stage": Stage.PENDING}, {"version": 2}):
        with pytest.raises(SecretNotFoundError):
            store.get(NAME, **asked)
    assert store.versions("other") == []
    assert store.policy("other") is None


def test_a_new_value_demotes_the_current_one(store):
    """The old value is the previous one, and can be had by its stage and its number."""
    store.put(NAME, Secret("one"))
    store.put(NAME, Secret("two"))

    assert in_use(store) == (2, b"two")
    assert in_use(store, Stage.PREVIOUS) == (1, b"one")
    assert store.get(NAME, version=1).secret == Secret("one")


def test_the_previous_value_goes_at_the_end_of_the_overlap(store, clock):
    """It is given up to that moment, and from then on it is expired."""
    store.put(NAME, Secret("one"))
    store.put(NAME, Secret("two"), overlap=60)
    clock.advance(59)
    assert in_use(store, Stage.PREVIOUS) == (1, b"one")
    clock.advance(1)

    with pytest.raises(SecretRevokedError) as caught:
        store.get(NAME, stage=Stage.PREVIOUS)
    assert caught.value.code == "secret_expired"
    assert in_use(store) == (2, b"two")


def test_an_expired_value_is_not_given(store, clock):
    """By its stage as little as by its number."""
    store.put(NAME, Secret("one"), expires_at=clock.utc() + timedelta(seconds=60))
    assert in_use(store) == (1, b"one")
    clock.advance(60)

    for asked in ({}, {"version": 1}):
        with pytest.raises(SecretRevokedError) as caught:
            store.get(NAME, **asked)
        assert caught.value.code == "secret_expired"


def test_a_pending_value_is_not_used_until_it_is_promoted(store):
    """It can be handed out by its stage; then it takes over, and the old one overlaps."""
    store.put(NAME, Secret("one"))
    store.put(NAME, Secret("two"), stage=Stage.PENDING)
    assert in_use(store) == (1, b"one")
    assert in_use(store, Stage.PENDING) == (2, b"two")

    promoted = store.promote(NAME, overlap=60)

    assert (promoted.version, promoted.stage) == (2, Stage.CURRENT)
    assert in_use(store) == (2, b"two")
    assert in_use(store, Stage.PREVIOUS) == (1, b"one")
    with pytest.raises(SecretNotFoundError):
        store.promote(NAME)


def test_a_rotation_can_be_rolled_back_also_after_the_overlap(store, clock):
    """The previous value is current again, and the one that failed overlaps in its place."""
    store.put(NAME, Secret("one"))
    store.put(NAME, Secret("two"), overlap=60)
    clock.advance(61)

    back = store.roll_back(NAME, overlap=60)

    assert (back.version, back.stage) == (1, Stage.CURRENT)
    assert in_use(store) == (1, b"one")
    assert in_use(store, Stage.PREVIOUS) == (2, b"two")
    store.roll_back(NAME)
    assert in_use(store) == (2, b"two")


def test_without_a_previous_version_there_is_nothing_to_roll_back_to(store):
    """It is not found, and the current one stays."""
    store.put(NAME, Secret("one"))

    with pytest.raises(SecretNotFoundError):
        store.roll_back(NAME)
    assert in_use(store) == (1, b"one")


def test_a_revoked_current_version_leaves_none(store):
    """It is refused at once by stage and number, and the previous one does not take its place."""
    store.put(NAME, Secret("one"))
    store.put(NAME, Secret("two"))

    revoked = store.revoke(NAME, 2)

    assert revoked.revoked_at is not None
    for asked in ({}, {"version": 2}):
        with pytest.raises(SecretRevokedError) as caught:
            store.get(NAME, **asked)
        assert caught.value.code == "secret_revoked"
    assert in_use(store, Stage.PREVIOUS) == (1, b"one")


def test_what_was_revoked_never_comes_back(store):
    """Not by rolling back, not by promoting; to revoke it again changes nothing."""
    store.put(NAME, Secret("one"))
    store.put(NAME, Secret("two"))
    store.put(NAME, Secret("three"), stage=Stage.PENDING)
    first = store.revoke(NAME, 1)
    store.revoke(NAME, 3)

    with pytest.raises(SecretRevokedError):
        store.roll_back(NAME)
    with pytest.raises(SecretRevokedError):
        store.promote(NAME)
    assert store.revoke(NAME, 1).revoked_at == first.revoked_at
    assert in_use(store) == (2, b"two")
    with pytest.raises(SecretNotFoundError):
        store.revoke(NAME, 4)


def test_after_a_revoked_one_the_next_does_not_push_out_the_previous(store):
    """What is no good is nobody's previous version."""
    store.put(NAME, Secret("one"))
    store.put(NAME, Secret("two"))
    store.revoke(NAME, 2)
    store.put(NAME, Secret("three"))

    assert in_use(store) == (3, b"three")
    assert in_use(store, Stage.PREVIOUS) == (1, b"one")


def test_who_expects_another_version_is_refused(store):
    """A put is a compare-and-set on the newest version where the caller asks for one."""
    store.put(NAME, Secret("one"), expected=0)
    for expected in (0, 2):
        with pytest.raises(SecretConflictError):
            store.put(NAME, Secret("lost"), expected=expected)
    store.put(NAME, Secret("two"), expected=1)

    assert in_use(store) == (2, b"two")
    assert in_use(store, Stage.PREVIOUS) == (1, b"one")


def test_of_many_that_expect_the_same_version_one_wins(opened):
    """Eight threads rotate at once: one new version, seven conflicts."""
    start = threading.Barrier(8)

    def rotate(number: int) -> str:
        with bind_tenant(Tenant(id="acme")):
            store = opened.again()
            start.wait(10)
            try:
                store.put(NAME, Secret(f"two {number}"), expected=1)
            except SecretConflictError:
                return "lost"
            return f"two {number}"

    with bind_tenant(Tenant(id="acme")), ThreadPoolExecutor(8) as pool:
        opened.store.put(NAME, Secret("one"))
        outcomes = sorted(pool.map(rotate, range(8)))

        assert outcomes[:7] == ["lost"] * 7
        assert in_use(opened.store) == (2, outcomes[7].encode())


def test_puts_at_once_are_all_kept(opened):
    """Without an expectation nobody is refused and no number is used twice."""

    def put(number: int) -> int:
        with bind_tenant(Tenant(id="acme")):
            return opened.again().put(NAME, Secret(f"{number}")).version

    with bind_tenant(Tenant(id="acme")), ThreadPoolExecutor(4) as pool:
        versions = sorted(pool.map(put, range(4)))

        assert versions == [1, 2, 3, 4]
        assert [one.version for one in opened.store.versions(NAME)] == versions


def test_versions_tell_stages_and_no_values(store):
    """Oldest first, each stage once, and nothing readable among it."""
    for value in ("marked-one", "marked-two", "marked-three"):
        store.put(NAME, Secret(value))
    store.put(NAME, Secret("marked-four"), stage=Stage.PENDING)

    listed = store.versions(NAME)

    stages = [None, Stage.PREVIOUS, Stage.CURRENT, Stage.PENDING]
    assert [(one.version, one.stage) for one in listed] == list(enumerate(stages, start=1))
    assert "marked" not in repr(listed)


def test_all_of_the_overlap_is_accepted(store, clock):
    """Who checks a signature asks for all values that may have made it, the current one first."""
    for value in ("one", "two", "three"):
        store.put(NAME, Secret(value), overlap=100)
        clock.advance(60)
    store.put(NAME, Secret("four"), stage=Stage.PENDING)
    store.revoke(NAME, 2)
    accepted = accepted_values(store, NAME, now=clock.utc())
    assert [one.secret.text() for one in accepted] == ["three"]

    store.put(NAME, Secret("five"), overlap=100)

    accepted = accepted_values(store, NAME, now=clock.utc())
    assert [one.secret.text() for one in accepted] == ["five", "three"]


def test_names_are_listed_by_prefix(store):
    """Sorted, of this tenant only."""
    for name in ("smtp/password", "stripe/webhook", "stripe/key", "stripe_old"):
        store.put(name, Secret("x"))

    assert store.names() == ["smtp/password", "stripe/key", "stripe/webhook", "stripe_old"]
    assert store.names(prefix="stripe/") == ["stripe/key", "stripe/webhook"]


def test_a_policy_stays_until_another_is_given(store):
    """It is kept with the secret, and its overlap is the one of the next put."""
    policy = RotationPolicy(every=30 * DAY, overlap=DAY, random_bytes=24, form="whsec")
    store.put(NAME, Secret("one"), policy=policy)
    store.put(NAME, Secret("two"))

    assert store.policy(NAME) == policy
    retires = store.versions(NAME)[0].retires_at
    assert retires is None or retires - store.versions(NAME)[1].created_at == timedelta(days=1)


def test_each_tenant_has_its_own(opened):
    """The same name is another secret for another tenant, who sees and changes nothing of it."""
    with bind_tenant(Tenant(id="acme")):
        opened.store.put(NAME, Secret("of acme"))
    with bind_tenant(Tenant(id="globex")):
        assert opened.store.names() == []
        with pytest.raises(SecretNotFoundError):
            opened.store.get(NAME)
        with pytest.raises(SecretNotFoundError):
            opened.store.revoke(NAME, 1)
        assert opened.store.put(NAME, Secret("of globex")).version == 1

    with bind_tenant(Tenant(id="acme")):
        assert in_use(opened.store) == (1, b"of acme")


def test_without_a_tenant_nothing_is_done(opened):
    """No default tenant: every call is refused."""
    store = opened.store
    for call in (
        lambda: store.put(NAME, Secret("x")),
        lambda: store.get(NAME),
        lambda: store.versions(NAME),
        lambda: store.revoke(NAME, 1),
        store.names,
    ):
        with pytest.raises(NoCurrentTenantError):
            call()


@pytest.mark.parametrize(
    "name", ["", "/a", "a/", "a//b", "a/../b", "a/./b", "A", "a b", "ä", "a" * 129, "a\n", "..", 7]
)
def test_a_name_that_could_be_more_than_a_name_is_refused(name, store):
    """Whatever is asked of it; and it is not repeated, for it might be the value."""
    for call in (
        lambda: store.put(name, Secret("x")),
        lambda: store.get(name),
        lambda: store.versions(name),
        lambda: store.promote(name),
        lambda: store.roll_back(name),
        lambda: store.revoke(name, 1),
    ):
        with pytest.raises(ConfigurationError) as caught:
            call()
        assert caught.value.code == "secret_name_invalid"


def test_another_opening_sees_the_same(opened):
    """What one process put, another gets."""
    with bind_tenant(Tenant(id="acme")):
        opened.store.put(NAME, Secret("one"))
        opened.store.put(NAME, Secret("two"))
        other = opened.again()

        assert in_use(other) == (2, b"two")
        assert [one.stage for one in other.versions(NAME)] == [Stage.PREVIOUS, Stage.CURRENT]


def test_every_operation_is_announced_without_a_value(store):
    """What was read and changed, of whom and in which version; failures with their code."""
    seen: list[SecretRead | SecretChanged] = []
    ends = [subscribe(SecretRead, seen.append), subscribe(SecretChanged, seen.append)]
    store.put(NAME, Secret("marked"))
    store.get(NAME)
    store.put(NAME, Secret("marked too"), stage=Stage.PENDING)
    store.promote(NAME)
    store.roll_back(NAME)
    store.revoke(NAME, 1)
    with pytest.raises(SecretRevokedError):
        store.get(NAME)
    for end in ends:
        end()

    told = [(getattr(one, "action", "read"), one.version, one.code) for one in seen]
    assert told == [
        ("put", 1, None),
        ("read", 1, None),
        ("put", 2, None),
        ("promoted", 2, None),
        ("rolled_back", 1, None),
        ("revoked", 1, None),
        ("read", None, "secret_revoked"),
    ]
    assert {one.tenant_id for one in seen} == {"acme"}
    assert "marked" not in repr(seen)


def test_the_oldest_versions_are_forgotten(store):
    """Of those without a stage ten are kept; numbers go on."""
    for number in range(1, 16):
        store.put(NAME, Secret(f"{number}"), overlap=0)

    listed = [one.version for one in store.versions(NAME)]
    assert listed == list(range(4, 16))
    assert store.put(NAME, Secret("next")).version == 16
    with pytest.raises(SecretNotFoundError):
        store.get(NAME, version=1)
