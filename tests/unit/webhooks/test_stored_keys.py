"""
Keys of endpoints out of the secret stores of `twh_platform.kms.secrets`.
"""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta

import pytest

pytest.importorskip("cryptography")

from twh_platform import Tenant, bind_tenant
from twh_platform.errors import (
    BackendUnavailableError,
    ConfigurationError,
    NoCurrentTenantError,
    WebhookError,
)
from twh_platform.kms import Keyset, LocalKeyService, MemoryDataKeyStore, TenantCipher
from twh_platform.kms.secrets import (
    AsyncCachedSecrets,
    AsyncSecretStore,
    CachedSecrets,
    MemorySecretStore,
    Secret,
    SqliteSecretStore,
    Stage,
)
from twh_platform.webhooks import (
    KeyState,
    RawSecret,
    StandardSecret,
    StoredKeys,
    sign,
    stored_keyring,
)
from twh_platform.webhooks._stored_keyring import keyring_of

ACME, GLOBEX = Tenant(id="acme"), Tenant(id="globex")
NAME = "webhooks/orders"
START = datetime(2026, 1, 1, tzinfo=UTC)


class Time:
    """All clocks of a test."""

    def __init__(self) -> None:
        self.passed = 0.0

    def __call__(self) -> float:
        """Seconds, for ages."""
        return self.passed

    def unix(self) -> float:
        """Unix seconds."""
        return START.timestamp() + self.passed

    def now(self) -> datetime:
        """The time of day."""
        return START + timedelta(seconds=self.passed)


@pytest.fixture
def time() -> Time:
    """A clock that stands."""
    return Time()


@pytest.fixture(params=["memory", "sqlite"])
def store(request, tmp_path, time):
    """A store that blocks."""
    if request.param == "memory":
        return MemorySecretStore(now=time.now)
    cipher = TenantCipher(LocalKeyService(Keyset.new()), MemoryDataKeyStore(), purpose="secrets")
    return SqliteSecretStore(tmp_path / "secrets.sqlite", cipher, now=time.now)


def put(store, tenant=ACME, name: str = NAME, **more) -> StandardSecret:
    """Keep a new secret, and return it."""
    secret = StandardSecret.generate()
    with bind_tenant(tenant):
        store.put(name, Secret(secret.reveal()), **more)
    return secret


def states(keyring) -> dict[str, KeyState]:
    """What each key is good for."""
    return {key.id: key.state for key in keyring}


def accepts(verifier, secret, time) -> bool:
    """Whether a webhook that this secret signs is let in."""
    request = sign(b"{}", secret, timestamp=int(time.unix()))
    try:
        verifier.verify(request.body, request.headers)
    except WebhookError:
        return False
    return True


def test_stages_become_states(store, time):
    """Current is active, previous retiring, pending pending."""
    first, second = put(store), put(store)
    third = put(store, stage=Stage.PENDING)

    with bind_tenant(ACME):
        keyring = stored_keyring(store, NAME, now=time.unix())

    assert list(states(keyring).items()) == [
        (second.fingerprint, KeyState.ACTIVE),
        (third.fingerprint, KeyState.PENDING),
        (first.fingerprint, KeyState.RETIRING),
    ]


def test_an_overlap_ends_to_the_moment(store, time):
    """Good before it is over, and not at its end."""
    old = put(store)
    put(store, overlap=60)

    with bind_tenant(ACME):
        keyring = stored_keyring(store, NAME, now=time.unix())

    assert old.fingerprint in [one.id for one in keyring.accepted(time.unix() + 59.999)]
    assert old.fingerprint not in [one.id for one in keyring.accepted(time.unix() + 60)]


def test_what_is_revoked_or_over_is_not_there(store, time):
    """Neither a revoked version, nor one whose overlap or time is over."""
    put(store)
    put(store, overlap=5)
    put(store, stage=Stage.PENDING, expires_at=time.now() + timedelta(seconds=5))
    time.passed = 6
    with bind_tenant(ACME):
        current = store.get(NAME).secret.text()
        assert [one.secret.reveal() for one in stored_keyring(store, NAME, now=time.unix())] == [
            current
        ]
        store.revoke(NAME, 2)

        assert len(stored_keyring(store, NAME, now=time.unix())) == 0


def test_a_rolled_back_secret_is_active_again(store, time):
    """And the one that failed is retiring."""
    first, second = put(store), put(store)
    with bind_tenant(ACME):
        store.roll_back(NAME)

        keyring = stored_keyring(store, NAME, now=time.unix())

    assert states(keyring) == {
        first.fingerprint: KeyState.ACTIVE,
        second.fingerprint: KeyState.RETIRING,
    }


def test_a_version_that_is_no_key_does_not_stop_the_others(store, time, caplog):
    """It is logged without its value."""
    good = put(store)
    with bind_tenant(ACME):
        store.put(NAME, Secret("marked, no key"), stage=Stage.PENDING)
        store.put(NAME, Secret(b"\xff\xfe marked"), stage=Stage.PENDING)

        keyring = stored_keyring(store, NAME, now=time.unix())

    assert list(states(keyring)) == [good.fingerprint]
    assert "version 3, is no key: secret_not_text" in caplog.text
    assert "marked" not in caplog.text


def test_the_same_value_twice_is_one_key(store, time):
    """In the state of the newer version."""
    with bind_tenant(ACME):
        for _ in range(2):
            store.put(NAME, Secret("the same raw secret"))

        keyring = stored_keyring(store, NAME, read=RawSecret, now=time.unix())

    assert [key.state for key in keyring] == [KeyState.ACTIVE]


def test_of_many_versions_there_are_the_newest(store, time):
    """As many as a keyring has room for."""
    secrets = [put(store) for _ in range(10)]

    with bind_tenant(ACME):
        keyring = stored_keyring(store, NAME, now=time.unix())

    assert len(keyring) <= 10
    assert next(iter(keyring)).id == secrets[-1].fingerprint


def wrapped(kind: str, store, time):
    """The store as a service has it."""
    if kind == "blocking":
        return store
    if kind == "awaited":
        return AsyncSecretStore(store)
    cached = CachedSecrets(store, max_age=10, clock=time, now=time.now)
    return cached if kind == "cached" else AsyncCachedSecrets(cached)


@pytest.mark.parametrize("kind", ["blocking", "awaited", "cached", "awaited cache"])
async def test_what_is_revoked_is_refused_within_the_bound(kind, store, time):
    """30 seconds, and the cache's own 10 where only that is asked; before that, remembered."""
    keys = StoredKeys(wrapped(kind, store, time), clock=time, now=time.unix)
    old, new = put(store), put(store)
    coming = put(store, stage=Stage.PENDING)
    before = await keys.verifier("orders", tenant=ACME)
    with bind_tenant(ACME):
        store.revoke(NAME, 1)
    assert all(accepts(before, one, time) for one in (old, new, coming))
    assert await keys.verifier("orders", tenant=ACME) is before

    time.passed = 40
    after = await keys.verifier("orders", tenant=ACME)

    assert [accepts(after, one, time) for one in (old, new, coming)] == [False, True, True]


async def test_what_is_told_is_refused_at_once(store, time):
    """`forget` is for a listener."""
    keys = StoredKeys(store, clock=time, now=time.unix)
    put(store)
    secret = put(store)
    assert accepts(await keys.verifier("orders", tenant=ACME), secret, time)
    with bind_tenant(ACME):
        store.revoke(NAME, 2)

    keys.forget(NAME, tenant_id="globex")
    keys.clear(tenant_id="globex")
    assert accepts(await keys.verifier("orders", tenant=ACME), secret, time)

    keys.forget(NAME, tenant_id="acme")

    assert not accepts(await keys.verifier("orders", tenant=ACME), secret, time)


async def test_endpoints_of_tenants_are_apart(store, time):
    """The same name, and another secret; whoever is bound is asked for."""
    keys = StoredKeys(store, clock=time, now=time.unix)
    mine, theirs = put(store), put(store, GLOBEX)

    with bind_tenant(GLOBEX):
        bound = await keys.keyring("orders")
    given = await keys.keyring("orders", tenant=ACME)

    assert list(states(bound)) == [theirs.fingerprint]
    assert list(states(given)) == [mine.fingerprint]


async def test_an_endpoint_has_its_name_and_its_owner(store, time):
    """What came to one is no replay at another; None if there is no such endpoint."""
    keys = StoredKeys(store, clock=time, now=time.unix)
    put(store)
    with bind_tenant(ACME):
        bound = await keys.endpoint("orders")
    found = await keys.endpoint("orders", tenant=ACME)

    assert (found.id, found.tenant) == (bound.id, bound.tenant) == ("orders", ACME)
    assert found.keys is await keys.verifier("orders", tenant=ACME)
    assert await keys.endpoint("orders", tenant=GLOBEX) is None


async def test_without_a_tenant_nothing_is_read(store):
    """Nobody's endpoint has no keys."""
    with pytest.raises(NoCurrentTenantError):
        await StoredKeys(store).verifier("orders")


@pytest.mark.parametrize("endpoint", ["../smtp/password", "a/b", "a.b", "", "A", "x" * 65, "a\n"])
async def test_a_name_reaches_no_other_secret(endpoint, store, time):
    """What is no endpoint's name is not asked for."""
    put(store, name="smtp/password")
    keys = StoredKeys(store, name="smtp/{endpoint}", clock=time, now=time.unix)

    assert await keys.verifier(endpoint, tenant=ACME) is None
    assert await keys.verifier("password", tenant=ACME) is not None


class Slow:
    """A store that answers when it is let, counts, and can be down."""

    def __init__(self, store) -> None:
        self.store, self.calls, self.down = store, 0, False
        self.go = threading.Event()
        self.go.set()

    def versions(self, name):
        """See `SecretStore`."""
        self.calls += 1
        self.go.wait(10)
        if self.down:
            raise BackendUnavailableError("down", code="secret_store_unavailable")
        return self.store.versions(name)

    def get(self, name, *, version):
        """See `SecretStore`."""
        return self.store.get(name, version=version)


async def test_many_who_ask_at_once_share_one_reading(store, time):
    """And one that is cancelled does not disturb the others."""
    slow = Slow(store)
    put(store)
    keys = StoredKeys(slow, clock=time, now=time.unix)
    slow.go.clear()
    asking = [asyncio.create_task(keys.verifier("orders", tenant=ACME)) for _ in range(20)]
    await asyncio.sleep(0.01)
    asking[0].cancel()
    slow.go.set()

    found = await asyncio.gather(*asking[1:])

    assert slow.calls == 1
    assert len({id(one) for one in found}) == 1


async def test_a_store_that_is_down_is_served_from_memory_for_its_time(store, time):
    """Then refused; and it is not asked again at once."""
    slow = Slow(store)
    put(store)
    keys = StoredKeys(slow, stale_if_error=100, clock=time, now=time.unix)
    known = await keys.verifier("orders", tenant=ACME)
    slow.down, time.passed = True, 50

    assert await keys.verifier("orders", tenant=ACME) is known
    assert await keys.verifier("orders", tenant=ACME) is known
    assert slow.calls == 2
    time.passed = 100
    with pytest.raises(BackendUnavailableError):
        await keys.verifier("orders", tenant=ACME)


async def test_asking_for_what_is_not_there_drives_nothing_out(store, time):
    """Endpoints that there are not have room of their own."""
    slow = Slow(store)
    put(store)
    keys = StoredKeys(slow, capacity=2, clock=time, now=time.unix)
    known = await keys.verifier("orders", tenant=ACME)
    for number in range(5):
        assert await keys.verifier(f"guess-{number}", tenant=ACME) is None
    asked = slow.calls

    assert await keys.verifier("orders", tenant=ACME) is known
    assert await keys.verifier("guess-4", tenant=ACME) is None
    assert slow.calls == asked


class Crowd:
    """A labelled stand-in for a store that is awaited: it holds up guesses, and counts them."""

    def __init__(self, store) -> None:
        self.store, self.asked, self.inside, self.most = store, 0, 0, 0
        self.go, self.down = asyncio.Event(), False

    async def versions(self, name):
        """See `SecretStore`; of what is guessed there is nothing."""
        self.asked += 1
        if self.down:
            raise BackendUnavailableError("down", code="secret_store_unavailable")
        if "guess" not in name:
            return self.store.versions(name)
        self.inside += 1
        self.most = max(self.most, self.inside)
        await self.go.wait()
        self.inside -= 1
        return []

    async def get(self, name, *, version):
        """See `SecretStore`."""
        return self.store.get(name, version=version)


def guesses(keys, many: int, *, begin: int = 0) -> list[asyncio.Task]:
    """Ask for endpoints that there are not, all at once."""
    names = [f"guess-{number}" for number in range(begin, begin + many)]
    return [asyncio.create_task(keys.verifier(name, tenant=ACME)) for name in names]


async def test_invented_names_open_few_readings(store, time):
    """Some run, some wait, the rest are refused.  Control: without a bound all run."""
    crowd, naive = Crowd(store), Crowd(store)
    keys = StoredKeys(crowd, readings=2, waiting=3, clock=time, now=time.unix)
    reads = [keyring_of(naive, f"guess-{n}", read=StandardSecret, now=0) for n in range(50)]
    asked = [*guesses(keys, 50), *(asyncio.create_task(one) for one in reads)]
    await asyncio.sleep(0.01)
    crowd.go.set()
    naive.go.set()
    answers = (await asyncio.gather(*asked, return_exceptions=True))[:50]

    assert (naive.most, crowd.most, crowd.asked) == (50, 2, 5)
    assert answers[:5] == [None] * 5
    assert {one.code for one in answers[5:]} == {"secret_store_busy"}
    assert await keys.verifier("guess-49", tenant=ACME) is None


@pytest.mark.parametrize("forgotten", [False, True])
async def test_a_known_endpoint_does_not_wait_among_strangers(store, time, forgotten):
    """Its keys are read again while strangers fill their line, also when told to forget."""
    crowd = Crowd(store)
    keys = StoredKeys(crowd, readings=1, waiting=1, clock=time, now=time.unix)
    put(store)
    old = await keys.verifier("orders", tenant=ACME)
    put(store, name="webhooks/new")
    strangers = guesses(keys, 2)
    await asyncio.sleep(0.01)
    if forgotten:
        keys.clear()
    time.passed = 31

    assert await keys.verifier("orders", tenant=ACME) not in {None, old}
    with pytest.raises(BackendUnavailableError):
        await keys.verifier("new", tenant=ACME)
    crowd.go.set()
    await asyncio.gather(*strangers)
    assert await keys.verifier("new", tenant=ACME) is not None


async def test_what_is_told_while_it_is_read_is_read_again(store, time):
    """What a reading from before brings is for who waited for it, and is not kept."""
    slow = Slow(store)
    secret = put(store)
    keys = StoredKeys(slow, clock=time, now=time.unix)
    slow.go.clear()
    waiting = asyncio.create_task(keys.verifier("orders", tenant=ACME))
    await asyncio.sleep(0.01)
    keys.forget(NAME)
    with bind_tenant(ACME):
        store.revoke(NAME, 1)
    slow.go.set()
    await waiting
    after = await keys.verifier("orders", tenant=ACME)

    assert slow.calls == 2
    assert after is None or not accepts(after, secret, time)


async def test_what_is_told_to_forget_is_not_served_stale(store, time):
    """Also by who had it in hand when the store went down."""
    slow = Slow(store)
    put(store)
    keys = StoredKeys(slow, clock=time, now=time.unix)
    await keys.verifier("orders", tenant=ACME)
    slow.down, time.passed = True, 50
    slow.go.clear()
    waiting = asyncio.create_task(keys.verifier("orders", tenant=ACME))
    await asyncio.sleep(0.01)
    keys.forget(NAME)
    slow.go.set()

    with pytest.raises(BackendUnavailableError):
        await waiting


async def test_a_store_that_hangs_holds_nobody_up(store, time):
    """Who is known is served what was read; others are refused, and join no second reading."""
    slow = Slow(store)
    put(store)
    keys = StoredKeys(slow, timeout=0.05, clock=time, now=time.unix)
    known = await keys.verifier("orders", tenant=ACME)
    slow.go.clear()
    time.passed = 50
    served = [await keys.verifier("orders", tenant=ACME) for _ in range(2)]
    with pytest.raises(BackendUnavailableError) as late:
        await keys.verifier("new", tenant=ACME)
    slow.go.set()

    assert served == [known, known]
    assert late.value.code == "secret_store_timeout"
    assert slow.calls == 3


async def test_invented_names_ask_a_store_that_is_down_no_more_often(store, time):
    """That a known endpoint is not asked for at once again is not theirs to drive out."""
    crowd = Crowd(store)
    put(store)
    keys = StoredKeys(crowd, capacity=2, clock=time, now=time.unix)
    known = await keys.verifier("orders", tenant=ACME)
    crowd.down, time.passed = True, 50
    await keys.verifier("orders", tenant=ACME)
    await asyncio.gather(*guesses(keys, 5), return_exceptions=True)
    asked = crowd.asked

    assert await keys.verifier("orders", tenant=ACME) is known
    assert crowd.asked == asked


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_age": 0},
        {"capacity": 0},
        {"readings": 0},
        {"timeout": 0},
        {"waiting": -1},
        {"retry_after": -1},
        {"name": "webhooks"},
    ],
)
def test_what_makes_no_sense_is_refused(wrong):
    """When the service is put together."""
    with pytest.raises(ConfigurationError):
        StoredKeys(MemorySecretStore(), **wrong)
