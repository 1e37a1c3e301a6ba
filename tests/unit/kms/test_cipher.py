"""
Sealing and opening for the current tenant.
"""

from __future__ import annotations

import asyncio
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

pytest.importorskip("cryptography")

from tests.support.memory_keys import SwitchedKeyService
from twh_platform.errors import (
    ConfigurationError,
    DecryptionError,
    KeyDestroyedError,
    KeyServiceError,
    KeyServiceUnavailableError,
    KeyUnsupportedError,
    NoCurrentTenantError,
    TenantMismatchError,
)
from twh_platform.kms import (
    AsyncTenantCipher,
    CachePolicy,
    Keyset,
    LocalKeyService,
    MemoryDataKeyStore,
    SealLimits,
    Suite,
    TenantCipher,
    _tails,
    parse,
    platform_owner,
    replace_inline,
)
from twh_platform.kms._cipher_keys import HARD_STOP
from twh_platform.kms._envelope import bound_tail
from twh_platform.kms._tails import quick_tail, tail_prefix
from twh_platform.tenancy import Tenant, bind_tenant
from twh_platform.testing import ManualClock

ACME, GLOBEX = Tenant(id="acme"), Tenant(id="globex")
ROW = {"table": "suppliers", "column": "iban", "row": "42"}


class House:
    """A cipher with all that it stands on."""

    def __init__(self, **options: object) -> None:
        self.clock = ManualClock()
        self.service = SwitchedKeyService()
        self.store = MemoryDataKeyStore(now=self.clock.utc)
        self.cipher = self.another(**options)

    def another(self, **options: object) -> TenantCipher:
        """A cipher as another process has it."""
        return TenantCipher(
            self.service, self.store, clock=self.clock.monotonic, now=self.clock.utc, **options
        )


@pytest.fixture
def house() -> House:
    """An empty house."""
    return House()


@pytest.mark.parametrize("suite", Suite)
@pytest.mark.parametrize("plaintext", [b"", b"x", b"x" * 100_000])
def test_what_is_sealed_opens(house, suite, plaintext):
    """Every suite gives back what it was given, nothing included."""
    with bind_tenant(ACME):
        sealed = house.cipher.seal(plaintext, ROW, suite=suite)

        assert parse(sealed).suite is suite
        assert house.cipher.open(sealed, ROW) == plaintext


@pytest.mark.parametrize("suite", Suite)
def test_another_tenants_is_refused_before_any_call(house, suite):
    """What A sealed does not open for B, and the key service is not even asked."""
    with bind_tenant(ACME):
        sealed = house.cipher.seal(b"x", ROW, suite=suite)
    house.cipher.clear()
    house.service.calls.clear()

    with bind_tenant(GLOBEX), pytest.raises(DecryptionError):
        house.cipher.open(sealed, ROW)
    assert house.service.calls == {}


@pytest.mark.parametrize("suite", Suite)
@pytest.mark.parametrize(
    "moved", [{}, {**ROW, "row": "43"}, {**ROW, "column": "bic"}, {**ROW, "more": "x"}]
)
def test_what_is_moved_does_not_open(house, suite, moved):
    """A value that is copied to another row or column stays closed there."""
    with bind_tenant(ACME):
        sealed = house.cipher.seal(b"x", ROW, suite=suite)

        with pytest.raises(DecryptionError):
            house.cipher.open(sealed, moved)


def test_without_a_tenant_nothing_is_sealed_or_opened(house):
    """There is no default tenant."""
    with pytest.raises(NoCurrentTenantError):
        house.cipher.seal(b"x")
    with pytest.raises(NoCurrentTenantError):
        house.cipher.open(b"x")


def test_the_platform_seals_for_itself(house):
    """What the platform owns opens for it, and for no tenant."""
    with platform_owner():
        sealed = house.cipher.seal(b"x")
        assert house.cipher.open(sealed) == b"x"

    with bind_tenant(ACME), pytest.raises(DecryptionError):
        house.cipher.open(sealed)


@pytest.mark.parametrize(
    "impostor", [Tenant(id="_platform"), pickle.loads(pickle.dumps(platform_owner()._bound))]
)
def test_a_tenant_with_the_platforms_id_is_refused(house, impostor):
    """A tenant that is called like the platform is not the platform, cold or warm."""
    with platform_owner():
        sealed = house.cipher.seal(b"x")

    with bind_tenant(impostor), pytest.raises(TenantMismatchError) as refused:
        house.cipher.open(sealed)
    assert refused.value.code == "tenant_reserved"


def test_processes_share_the_data_keys_of_suite_2(house):
    """A second process adopts what the first has made."""
    other = house.another()
    with bind_tenant(ACME):
        ids = {parse(one.seal(b"x")).data_key_id for one in (house.cipher, other)}

    assert len(ids) == 1


def test_processes_do_not_share_those_of_suite_1(house):
    """Nonces are random there, so that each process counts what it seals."""
    other = house.another()
    with bind_tenant(ACME):
        sealed = [one.seal(b"x", suite=Suite.FIELD) for one in (house.cipher, other)]

        assert len({parse(one).data_key_id for one in sealed}) == 2
        assert other.open(sealed[0]) == b"x"


def test_equal_values_are_equal_in_suite_3_only(house):
    """Deterministic seals are equal in all processes, within one context."""
    other = house.another()
    with bind_tenant(ACME):
        one = house.cipher.seal(b"x", ROW, suite=Suite.DETERMINISTIC)

        assert other.seal(b"x", ROW, suite=Suite.DETERMINISTIC) == one
        assert other.seal(b"x", {}, suite=Suite.DETERMINISTIC) != one
        assert house.cipher.seal(b"x", ROW) != house.cipher.seal(b"x", ROW)


def test_purposes_are_apart(house):
    """What was sealed for one purpose does not open for another, cold or warm."""
    secrets = house.another(purpose="secrets")
    with bind_tenant(ACME):
        sealed = house.cipher.seal(b"x")

        for _ in range(2):
            with pytest.raises(DecryptionError):
                secrets.open(sealed)


@pytest.mark.parametrize("purpose", ["", "Data", "x" * 29])
def test_a_purpose_that_is_none_is_refused_at_once(house, purpose):
    """What a key service could not be told is said when the cipher is made."""
    with pytest.raises(ConfigurationError):
        house.another(purpose=purpose)


def test_a_shared_data_key_rolls_after_its_age(house):
    """After 30 days another is made, and the old one goes on to open."""
    with bind_tenant(ACME):
        old = house.cipher.seal(b"x")
        house.clock.advance(30 * 86_400)
        new = house.cipher.seal(b"x")

        assert parse(new).data_key_id != parse(old).data_key_id
        assert house.cipher.open(old) == b"x"


def test_a_deterministic_data_key_does_not_age(house):
    """Values of a year ago are equal to those of today."""
    with bind_tenant(ACME):
        old = house.cipher.seal(b"x", suite=Suite.DETERMINISTIC)
        house.clock.advance(366 * 86_400)

        assert house.cipher.seal(b"x", suite=Suite.DETERMINISTIC) == old


@pytest.mark.parametrize(
    ("limits", "size", "sealed", "keys"),
    [
        (SealLimits(field_messages=10), 1, 30, 3),
        (SealLimits(field_bytes=1000), 100, 30, 3),
        (SealLimits(), 100, 30, 1),
    ],
)
def test_a_data_key_of_suite_1_rolls_by_use(limits, size, sealed, keys):
    """After so many values, or so many bytes, another data key is made."""
    house = House(limits=limits)
    with bind_tenant(ACME):
        made = [house.cipher.seal(b"x" * size, suite=Suite.FIELD) for _ in range(sealed)]

    assert keys <= len({parse(one).data_key_id for one in made}) <= keys + 1


def test_no_use_of_a_data_key_is_lost_between_threads():
    """However many threads seal, no data key of suite 1 seals more than it may."""
    house = House(limits=SealLimits(field_messages=500))

    def seal(_: int) -> bytes:
        with bind_tenant(ACME):
            return parse(house.cipher.seal(b"x", suite=Suite.FIELD)).data_key_id

    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(seal, range(4000)))

    assert max(ids.count(one) for one in set(ids)) <= 500


def test_a_worn_data_key_goes_on_while_no_other_is_to_be_had():
    """With the key service down suite 1 seals beyond its limit, up to the hard stop."""
    house = House(limits=SealLimits(field_messages=10))
    with bind_tenant(ACME):
        house.cipher.seal(b"x", suite=Suite.FIELD)
        house.service.down = True
        for _ in range(100):
            house.cipher.seal(b"x", suite=Suite.FIELD)
        entry = house.cipher.data_keys.cache.tenants["acme"].sealing[Suite.FIELD]
        entry.take = iter(range(HARD_STOP, HARD_STOP + 100)).__next__
        with pytest.raises(KeyServiceError) as refused:
            house.cipher.seal(b"x", suite=Suite.FIELD)

    assert refused.value.code == "data_key_exhausted"


def test_a_wall_clock_that_goes_back_keeps_nothing_alive(house):
    """Ages of the cache do not ask the wall clock: set back a year, a key ends on time."""
    cipher = TenantCipher(
        house.service, house.store, clock=house.clock.monotonic, now=ManualClock(0).utc
    )
    with bind_tenant(ACME):
        sealed = cipher.seal(b"x")
        house.service.destroy("acme")
        house.clock.advance(301)

        with pytest.raises(KeyDestroyedError):
            cipher.open(sealed)


def test_an_envelope_with_its_keys_opens_without_the_store(house):
    """What carries its wrapped data key opens where the store has none of it."""
    elsewhere = TenantCipher(house.service, MemoryDataKeyStore())
    with bind_tenant(ACME):
        sealed = house.cipher.seal(b"x", ROW, inline=True)

        assert parse(sealed).inline
        assert elsewhere.open(sealed, ROW) == b"x"
        assert house.cipher.open(sealed, ROW) == b"x"


def test_an_envelope_with_its_keys_is_refused_after_shredding(house):
    """The store remembers who was shredded, whatever an envelope carries along."""
    with bind_tenant(ACME):
        sealed = house.cipher.seal(b"x", inline=True)
        house.store.destroy("acme")
        house.cipher.evict("acme")

        with pytest.raises(KeyDestroyedError):
            house.cipher.open(sealed)


def test_a_shredded_tenant_gets_no_master_key(house):
    """A key service that makes missing master keys is not asked for one."""
    house.store.destroy("acme")

    with bind_tenant(ACME), pytest.raises(KeyDestroyedError) as refused:
        house.cipher.seal(b"x")
    assert refused.value.code == "tenant_shredded"
    assert house.service.calls == {}


def test_while_data_keys_move_two_services_open(house):
    """What the old service wrapped opens beside the new one, and without it is refused."""
    new = SwitchedKeyService("vault")
    moving = TenantCipher(new, house.store, also=[house.service])
    moved = TenantCipher(new, house.store)
    with bind_tenant(ACME):
        sealed = house.cipher.seal(b"x")

        assert moving.open(sealed) == b"x"
        with pytest.raises(KeyUnsupportedError) as refused:
            moved.open(sealed)
    assert refused.value.code == "key_service_unknown"


def test_a_key_service_that_gives_a_short_key_is_refused(house):
    """What is not 32 bytes seals nothing."""
    generate = house.service.generate

    def short(contexts: object) -> list[object]:
        (made,) = generate(contexts)
        object.__setattr__(made, "plaintext", b"short")
        return [made]

    house.service.generate = short
    with bind_tenant(ACME), pytest.raises(ConfigurationError):
        house.cipher.seal(b"x")


def test_streams_are_sealed_and_opened_piece_by_piece(house):
    """A stream opens as a whole and from pieces of any size, for the tenant of the call."""
    plaintext = bytes(range(256)) * 400
    with bind_tenant(ACME):
        pieces = house.cipher.seal_stream([plaintext[:70_000], b"", plaintext[70_000:]], ROW)
    with bind_tenant(GLOBEX):
        sealed = b"".join(pieces)
    with bind_tenant(ACME):
        assert house.cipher.open(sealed, ROW) == plaintext
        for size in (1, 1000, len(sealed)):
            cut = [sealed[at : at + size] for at in range(0, len(sealed), size)]
            assert b"".join(house.cipher.open_stream(cut, ROW)) == plaintext


@pytest.mark.parametrize("length", [0, 10, 18, 19, 60, 100_000])
def test_a_cut_stream_is_refused_at_its_end(house, length):
    """What is cut anywhere gives authentic pieces at most, and then an error."""
    plaintext = bytes(120_000)
    with bind_tenant(ACME):
        sealed = b"".join(house.cipher.seal_stream([plaintext]))
        stream = house.cipher.open_stream([sealed[:length]])
        found: list[bytes] = []
        with pytest.raises(DecryptionError):
            found.extend(stream)

    assert plaintext.startswith(b"".join(found))


async def test_the_twin_seals_and_opens(house):
    """What one of the two sealed, the other opens, large things included."""
    twin = AsyncTenantCipher(house.cipher)
    with bind_tenant(ACME):
        for plaintext in (b"x", bytes(3_000_000)):
            sealed = await twin.seal(plaintext, ROW)

            assert house.cipher.open(sealed, ROW) == plaintext
            assert await twin.open(sealed, ROW) == plaintext


async def test_the_twin_streams(house):
    """Asynchronous and plain pieces go in, asynchronous ones come out."""
    twin = AsyncTenantCipher(house.cipher)

    async def pieces():
        yield b"one "
        await asyncio.sleep(0)
        yield b"two"

    with bind_tenant(ACME):
        sealed = [piece async for piece in twin.seal_stream(pieces(), ROW)]
        opened = [piece async for piece in twin.open_stream(sealed, ROW)]

        assert b"".join(opened) == b"one two"
        with pytest.raises(DecryptionError):
            [piece async for piece in twin.open_stream(sealed[:1], ROW)]


async def test_the_twin_serves_several_event_loops(house):
    """One cipher serves the loops of several threads at once."""
    twin = AsyncTenantCipher(house.cipher)
    house.service.slow = 0.05
    start = threading.Barrier(4)

    async def work() -> bytes:
        with bind_tenant(ACME):
            return await twin.open(await twin.seal(b"x"))

    def run() -> bytes:
        start.wait()
        return asyncio.run(work())

    found = await asyncio.gather(*[asyncio.to_thread(run) for _ in range(4)])
    assert found == [b"x"] * 4
    assert house.service.calls == {"generate": 1}


async def test_a_warm_cipher_has_its_data_keys_ready(house):
    """After `warm` a seal works though the key service is down."""
    twin = AsyncTenantCipher(house.cipher)
    with bind_tenant(ACME):
        await twin.warm(Suite.FIELD, Suite.STREAM)
        house.service.down = True

        assert await twin.open(await twin.seal(b"x", suite=Suite.FIELD)) == b"x"
        with pytest.raises(KeyServiceUnavailableError):
            await twin.seal(b"x", suite=Suite.DETERMINISTIC)


@pytest.mark.parametrize(
    "context",
    [
        {},
        {"a": "1"},
        {"b": "1", "a": "2"},
        {"a": ""},
        {"a": "x" * 127},
        {"a": "x" * 128},
        {"a": "é"},
        {"é": "a"},
        {"ab": "c", "a": "bc"},
        {"a\0": "b\0"},
        {f"key {number}": "v" for number in range(32)},
    ],
)
def test_the_quick_encoding_is_the_encoding(context):
    """Contexts are bound to the same bytes, whether quickly or not, the second time too."""
    prefix = tail_prefix("acme")
    for _ in range(3):
        assert quick_tail(prefix, context) == bound_tail("acme", context)


def test_the_quick_encoding_keeps_a_bounded_number():
    """A shape with a value per row is encoded each time, and keeps nothing."""
    prefix = tail_prefix("acme")
    for row in map(str, range(1000)):
        context = {"table": "bounded", "row": row}
        assert quick_tail(prefix, context) == bound_tail("acme", context)

    assert _tails._shapes["table", "row"].kept is None


@pytest.mark.parametrize("context", [{"a": 1}, {"a": b"x"}, {"a": ["x"]}, {"a": None}, {"": "x"}])
def test_the_quick_encoding_refuses_what_is_not_text(context):
    """Something else under a key that is known is refused as by the slow way."""
    quick_tail(tail_prefix("acme"), {"a": "x"})
    with pytest.raises(ConfigurationError) as refused:
        quick_tail(tail_prefix("acme"), context)
    assert refused.value.code == "seal_context_invalid"


def test_nothing_shows_a_data_key(house):
    """Neither the cipher nor what it holds can be shown or pickled with a key in it."""
    with bind_tenant(ACME):
        house.cipher.seal(b"x")
    entry = house.cipher.data_keys.cache.tenants["acme"].sealing[Suite.STREAM]
    shown = f"{house.cipher!r} {entry!r} {entry.keys!r} {house.cipher.stats!r} {entry.record!r}"

    assert entry.data_key.hex() not in shown
    assert repr(entry.data_key) not in shown
    with pytest.raises(TypeError):
        pickle.dumps(entry)


@pytest.mark.parametrize("fault", [{"field_messages": 0}, {"field_messages": 2**33}])
def test_limits_that_make_no_sense_are_refused(fault):
    """More than 2**32 values are sealed with no data key of suite 1."""
    with pytest.raises(ConfigurationError) as refused:
        SealLimits(**fault)
    assert refused.value.code == "seal_limits_invalid"


def test_the_policy_can_be_read(house):
    """What others have to wait for is known from the cipher."""
    assert house.cipher.policy == CachePolicy()


async def test_a_coroutine_is_its_makers(house):
    """Whoever awaits it: the tenant is the one of the call.  Control: made there, it is theirs."""
    twin = AsyncTenantCipher(house.cipher)
    with bind_tenant(ACME):
        made = twin.seal(b"x", ROW)
    with bind_tenant(GLOBEX):
        sealed, theirs = await made, await twin.seal(b"x", ROW)
        with pytest.raises(DecryptionError):
            await twin.open(sealed, ROW)
        assert await twin.open(theirs, ROW) == b"x"
    with bind_tenant(ACME):
        opening = twin.open(sealed, ROW)

    assert await opening == b"x"
    with pytest.raises(NoCurrentTenantError):
        twin.seal(b"x")


def test_a_plain_number_of_a_suite_is_counted_too():
    """What suite 1 seals is counted by each data key, and its data keys are shared with nobody."""
    house = House(limits=SealLimits(field_messages=3))
    with bind_tenant(ACME):
        sealed = [house.cipher.seal(b"x", suite=1) for _ in range(7)]
        ids = {parse(one).data_key_id for one in sealed}

        assert len(ids) >= 3
        assert not any(house.store.get(ACME.id, one).shared for one in ids)


def test_a_version_that_was_changed_is_refused_from_the_cache_too():
    """As it is without a cache: the list of wrapped keys is looked at whole."""
    cipher = TenantCipher(LocalKeyService(Keyset.new()), MemoryDataKeyStore())
    with bind_tenant(ACME):
        sealed = cipher.seal(b"x", inline=True)
        wrapped = parse(sealed).inline[0]
        other = replace_inline(sealed, [replace(wrapped, key_version=wrapped.key_version + 1)])
        assert cipher.open(sealed) == b"x"

        with pytest.raises(KeyServiceError):
            cipher.open(other)
