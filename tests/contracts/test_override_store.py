"""
What every store of overrides does, in memory and in PostgreSQL.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from twh_platform.errors import ConfigurationError, PlatformError, TenantUnresolvedError
from twh_platform.quotas._limits import Limit, Override, read_limits
from twh_platform.quotas._overrides import MemoryOverrideStore, OverrideStore
from twh_platform.quotas.postgres.overrides import PostgresOverrideStore, overrides_sql
from twh_platform.tenancy.postgres.directory import directory_pool
from twh_platform.testing import PostgresDatabase

WHO = {"actor": "ada@example.com", "reason": "ticket 4711: the fair"}


def limits(**said: int) -> dict[str, Limit]:
    """Limits by the names of rules."""
    return read_limits(said)


@pytest.fixture(scope="module")
def database(twh_database: PostgresDatabase) -> PostgresDatabase:
    """A database with the table of overrides."""
    twh_database.server.create_role("twh_test_overrides_admin")
    twh_database.server.create_role("twh_test_overrides")
    sql = overrides_sql(role="twh_test_overrides", administrators=["twh_test_overrides_admin"])
    twh_database.execute(sql, user="twh_test_owner")
    return twh_database


@pytest.fixture(params=["memory", "postgres"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[OverrideStore]:
    """An empty store."""
    if request.param == "memory":
        yield MemoryOverrideStore()
        return
    database = request.getfixturevalue("database")
    async with directory_pool(database.dsn(user="twh_test_overrides_admin")) as pool:
        yield PostgresOverrideStore(pool)
    database.execute("TRUNCATE twh.quota_overrides", user="twh_test_owner")


async def test_an_override_comes_back_as_it_went_in(store):
    """With its version, who, why and when; and what was there before."""
    change = await store.put(
        "acme", {"minute": Limit(limit=5, burst=2), "x": Limit(limit=0)}, **WHO
    )
    again = await store.put("acme", limits(minute=2**52), **WHO)

    assert change.before is None
    assert again.before == change.after
    assert again.after.version > change.after.version > 0
    assert await store.get("acme") == again.after
    assert change.after == Override(
        tenant_id="acme",
        version=change.after.version,
        limits={"minute": Limit(limit=5, burst=2), "x": Limit(limit=0)},
        changed_at=change.after.changed_at,
        **WHO,
    )
    assert abs((datetime.now(UTC) - change.after.changed_at).total_seconds()) < 3600


async def test_what_is_deleted_is_gone_and_told(store):
    """A deletion is a version too; deleting nothing is none."""
    put = await store.put("acme", limits(minute=5), **WHO)
    deleted = await store.delete("acme", **WHO)

    assert deleted.before == put.after
    assert deleted.after.deleted
    assert deleted.after.version > put.after.version
    assert await store.get("acme") is None
    assert await store.delete("acme", **WHO) is None
    assert await store.delete("globex", **WHO) is None
    assert (await store.put("acme", limits(minute=6), **WHO)).before is None


async def test_changes_are_the_newest_of_each_tenant_in_ascending_order(store):
    """Above the version that is known, deletions among them."""
    first = (await store.put("acme", limits(minute=1), **WHO)).after
    second = (await store.put("globex", limits(minute=2), **WHO)).after
    third = (await store.put("acme", limits(minute=3), **WHO)).after
    fourth = (await store.delete("globex", **WHO)).after

    assert list(await store.changes(0)) == [third, fourth]
    assert list(await store.changes(first.version)) == [third, fourth]
    assert list(await store.changes(second.version, limit=1)) == [third]
    assert list(await store.changes(third.version)) == [fourth]
    assert list(await store.changes(fourth.version)) == []


async def test_the_history_is_kept(store):
    """Every version, the newest first: who, when and why."""
    versions = [
        (await store.put("acme", limits(minute=number), actor="ada", reason=f"day {number}")).after
        for number in (1, 2, 3)
    ]
    await store.put("globex", limits(minute=1), **WHO)

    assert list(await store.history("acme")) == versions[::-1]
    assert [one.reason for one in await store.history("acme", limit=2)] == ["day 3", "day 2"]
    assert list(await store.history("nobody")) == []


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"tenant_id": "a b"}, TenantUnresolvedError),
        ({"tenant_id": ""}, TenantUnresolvedError),
        ({"actor": ""}, ConfigurationError),
        ({"actor": "a" * 201}, ConfigurationError),
        ({"actor": None}, ConfigurationError),
        ({"reason": "  "}, ConfigurationError),
        ({"reason": "a" * 1001}, ConfigurationError),
        ({"reason": "two\nlines"}, ConfigurationError),
        ({"reason": "nul \0"}, ConfigurationError),
        ({"limits": {}}, ConfigurationError),
        ({"limits": {"minute": -1}}, ConfigurationError),
        ({"limits": {"minute": True}}, ConfigurationError),
    ],
)
async def test_what_is_no_change_is_refused(change, kind, store):
    """Nothing is written, and no version is used."""
    wanted = {"tenant_id": "acme", "limits": limits(minute=1), **WHO, **change}
    with pytest.raises(kind):
        await store.put(wanted.pop("tenant_id"), wanted.pop("limits"), **wanted)

    assert list(await store.changes(0)) == []


async def test_who_reads_on_from_what_he_knows_misses_nothing(store):
    """Ten write at once, one reads on; in the end he knows what the store has."""
    known: dict[str, Override] = {}
    since = 0

    async def write(number: int) -> None:
        for _ in range(5):
            await asyncio.sleep(random.random() / 100)
            await store.put(f"t{number % 4}", limits(minute=number + 1), **WHO)

    writing = asyncio.gather(*(write(number) for number in range(10)))
    while True:
        over = writing.done()
        for one in await store.changes(since, limit=3):
            assert one.version > since
            since, known[one.tenant_id] = one.version, one
        if over and not await store.changes(since):
            break
        await asyncio.sleep(0)
    await writing

    assert known == {one: await store.get(one) for one in ("t0", "t1", "t2", "t3")}


async def test_an_id_is_exact(store):
    """No folding of case, no patterns."""
    await store.put("acme", limits(minute=1), **WHO)

    for near in ("Acme", "acm_", "acme-", "a%"):
        assert await store.get(near) is None
        assert list(await store.history(near)) == []


async def test_a_store_that_cannot_be_reached_says_so(store):
    """Control for the others: the error is of the platform, whatever the driver raised."""
    if isinstance(store, MemoryOverrideStore):
        pytest.skip("memory is always there")
    await store._pool.close()
    with pytest.raises(PlatformError) as caught:
        await store.changes(0)

    assert caught.value.code == "override_store_unavailable"


async def test_a_change_of_what_somebody_else_has_changed_is_refused(store):
    """Of many who have read the same version, one replaces it."""
    first = (await store.put("acme", limits(minute=1), **WHO, expected=0)).after

    async def change(number: int) -> str:
        try:
            await store.put("acme", limits(minute=number), **WHO, expected=first.version)
        except PlatformError as error:
            return error.code
        return "done"

    told = await asyncio.gather(*(change(number) for number in range(2, 10)))

    assert sorted(told) == ["done"] + ["override_changed"] * 7
    assert len(await store.history("acme")) == 2


async def test_a_deletion_can_expect_a_version_too(store):
    """Another one is left alone; 0 is that of no override."""
    first = (await store.put("acme", limits(minute=1), **WHO)).after
    for wrong in (0, first.version + 1):
        with pytest.raises(PlatformError) as caught:
            await store.delete("acme", **WHO, expected=wrong)
        assert caught.value.code == "override_changed"
    deleted = await store.delete("acme", **WHO, expected=first.version)

    assert deleted.after.deleted
    assert (await store.put("acme", limits(minute=2), **WHO, expected=0)).before is None
