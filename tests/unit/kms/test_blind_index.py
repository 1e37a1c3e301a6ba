"""
Finding sealed values without opening them.
"""

from __future__ import annotations

import pytest

pytest.importorskip("cryptography")

from tests.support.memory_keys import SwitchedKeyService
from twh_platform.errors import ConfigurationError, KeyServiceUnavailableError, NoCurrentTenantError
from twh_platform.kms import AsyncBlindIndex, BlindIndex, MemoryDataKeyStore, TenantCipher
from twh_platform.tenancy import Tenant, bind_tenant
from twh_platform.testing import ManualClock

ACME, GLOBEX = Tenant(id="acme"), Tenant(id="globex")
EMAIL = "Ada@Example.com"


class House:
    """Processes over one key service and store, with a common clock."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.service = SwitchedKeyService()
        self.store = MemoryDataKeyStore(now=self.clock.utc)

    def index(self, column: str = "customers.email", **options: object) -> BlindIndex:
        """The index as a process of its own has it."""
        cipher = TenantCipher(
            self.service, self.store, clock=self.clock.monotonic, now=self.clock.utc
        )
        return BlindIndex(cipher, column, **options)


@pytest.fixture
def house() -> House:
    """An empty house."""
    return House()


def test_equal_texts_have_equal_values_in_all_processes(house):
    """What one process writes, another finds; the way of writing does not matter."""
    one, other = house.index(), house.index()
    with bind_tenant(ACME):
        value = one.value(EMAIL)

        assert other.candidates(" ada@example.COM ") == (value,)
        assert one.value("bob@example.com") != value


def test_tenants_and_columns_cannot_be_compared(house):
    """The same text has another value in each column and for each tenant."""
    email, billing = house.index(), house.index("customers.billing_email")
    values = set()
    for tenant in (ACME, GLOBEX):
        with bind_tenant(tenant):
            values |= {email.value(EMAIL), billing.value(EMAIL)}

    assert len(values) == 4


@pytest.mark.parametrize("bits", [8, 64, 256])
def test_a_value_has_as_many_bits_as_asked_for(house, bits):
    """Fewer bits make a shorter value, the beginning of the longer one."""
    with bind_tenant(ACME):
        value = house.index(bits=bits).value(EMAIL)

        assert len(value) == bits // 8
        assert house.index(bits=256).value(EMAIL).startswith(value)


@pytest.mark.parametrize("fault", [{"bits": 0}, {"bits": 12}, {"bits": 512}, {"column": ""}])
def test_an_index_that_cannot_be_is_refused(house, fault):
    """What makes no sense is said when the index is made."""
    with pytest.raises(ConfigurationError) as refused:
        house.index(**fault)
    assert refused.value.code == "blind_index_invalid"


def test_without_a_tenant_there_is_no_value(house):
    """There is no index of everybody."""
    with pytest.raises(NoCurrentTenantError):
        house.index().value(EMAIL)


def test_a_rotation_misses_no_row(house):
    """Each process finds what each has written, also one that has not noticed yet."""
    aware, unaware = house.index(), house.index()
    with bind_tenant(ACME):
        written = [unaware.value(EMAIL)]
        settled = aware.begin_rotation()
        for _ in range(12):
            written += [aware.value(EMAIL), unaware.value(EMAIL)]
            assert set(written) <= set(aware.candidates(EMAIL))
            assert set(written[-2:]) <= set(unaware.candidates(EMAIL))
            house.clock.advance(100)

        assert house.clock.utc() >= settled
        assert len(aware.candidates(EMAIL)) == 2
        assert len(set(written)) == 2


def test_an_index_that_writes_anew_at_once_would_miss_rows(house):
    """Control: the new key's value is not among what a process that has noticed nothing seeks."""
    aware, unaware = house.index(), house.index()
    with bind_tenant(ACME):
        old = unaware.value(EMAIL)
        aware.begin_rotation()
        (new,) = set(aware.candidates(EMAIL)) - {old}

        assert new not in unaware.candidates(EMAIL)
        assert aware.value(EMAIL) == old


def test_a_rotation_ends_with_one_value(house):
    """After the end the old key is destroyed and only the new value is sought."""
    index = house.index()
    with bind_tenant(ACME):
        old = index.value(EMAIL)
        index.begin_rotation()
        house.clock.advance(961)

        assert index.end_rotation() == 1
        assert index.candidates(EMAIL) == (index.value(EMAIL),)
        assert index.value(EMAIL) != old
        assert index.end_rotation() == 0


def test_a_rotation_does_not_end_before_all_have_noticed(house):
    """Too early its end is refused, and nothing is destroyed."""
    index = house.index()
    with bind_tenant(ACME):
        index.value(EMAIL)
        index.begin_rotation()
        house.clock.advance(959)

        with pytest.raises(ConfigurationError) as refused:
            index.end_rotation()
        assert refused.value.code == "rotation_not_settled"
        assert len(index.candidates(EMAIL)) == 2


def test_a_rotation_begins_once(house):
    """Who begins again is told the same moment, and no third key is made."""
    one, other = house.index(), house.index()
    with bind_tenant(ACME):
        one.value(EMAIL)
        settled = one.begin_rotation()
        house.clock.advance(10)

        assert other.begin_rotation() == settled
        assert len(house.store.page("acme", purpose=one.purpose)) == 2


def test_a_rotation_of_one_column_leaves_the_others(house):
    """Another column, and another tenant, keep their one value."""
    email, phone = house.index(), house.index("customers.phone")
    with bind_tenant(GLOBEX):
        email.value(EMAIL)
    with bind_tenant(ACME):
        before = phone.value("1")
        email.value(EMAIL)
        email.begin_rotation()

        assert phone.candidates("1") == (before,)
    with bind_tenant(GLOBEX):
        assert len(email.candidates(EMAIL)) == 1


async def test_the_twin_gives_the_same_values(house):
    """Awaited or not, the values are the same, and cold callers cost one call."""
    index = house.index()
    twin = AsyncBlindIndex(index)
    with bind_tenant(ACME):
        value = await twin.value(EMAIL)

        assert await twin.candidates(EMAIL) == (value,)
        assert index.value(EMAIL) == value
    assert house.service.calls == {"generate": 1}


async def test_the_twin_rotates(house):
    """Begun and ended through the twin, for the tenant that is bound where it is awaited."""
    index = house.index()
    twin = AsyncBlindIndex(index)
    with bind_tenant(ACME):
        old = await twin.value(EMAIL)
        settled = await twin.begin_rotation()

        assert (await twin.candidates(EMAIL))[1] == old
        with pytest.raises(ConfigurationError):
            await twin.end_rotation()
        house.clock.advance(961)
        assert house.clock.utc() >= settled
        assert await twin.end_rotation() == 1
        assert old not in await twin.candidates(EMAIL)


async def test_the_twin_rotates_nothing_without_a_tenant(house):
    """The tenant follows into the thread, and so does its absence."""
    with pytest.raises(NoCurrentTenantError):
        await AsyncBlindIndex(house.index()).begin_rotation()


def test_a_warm_index_survives_an_outage(house):
    """With the keys at hand values go on for 900 s, and then end clearly."""
    index = house.index()
    with bind_tenant(ACME):
        value = index.value(EMAIL)
        house.service.down = True
        house.clock.advance(899)
        assert index.value(EMAIL) == value
        house.clock.advance(2)

        with pytest.raises(KeyServiceUnavailableError):
            index.value(EMAIL)
