"""
What injected SQL of the application's login tries besides calling the function with other numbers.
"""

from __future__ import annotations

import psycopg
import pytest

from tests.integration.quotas.capacity.conftest import ACME, OTHER, rule
from twh_platform import bind_tenant
from twh_platform.errors import QuotaExceededError

ITEMS = rule(3)
TAKE = "SELECT * FROM twh.change_capacity(ARRAY['items'], ARRAY[{}]::bigint[], ARRAY[3]::bigint[])"

TEMPORARY_FIRST = "SET LOCAL search_path = pg_temp, pg_catalog"
TABLE = "(tenant_id text, rule text, level bigint)"
FUNCTION = "CREATE OR REPLACE FUNCTION pg_temp.{} LANGUAGE sql AS 'SELECT {}'"
OPERATOR = (
    "CREATE OPERATOR pg_temp.> (FUNCTION = pg_temp.more, LEFTARG = bigint, RIGHTARG = bigint)"
)

# Each is run in every transaction, in a session that keeps what is temporary.
SHADOWS = [
    [f"CREATE TEMP TABLE IF NOT EXISTS quota_levels {TABLE}"],
    ["CREATE TEMP TABLE IF NOT EXISTS pg_class (relname text)"],
    ["DROP DOMAIN IF EXISTS pg_temp.text", "CREATE DOMAIN pg_temp.text AS varchar CHECK (false)"],
    ["DROP DOMAIN IF EXISTS pg_temp.int8", "CREATE DOMAIN pg_temp.int8 AS int CHECK (false)"],
    [FUNCTION.format("unnest(text[]) RETURNS SETOF text", "NULL::text")],
    [
        FUNCTION.format("more(bigint, bigint) RETURNS bool", "false"),
        "DROP OPERATOR IF EXISTS pg_temp.> (bigint, bigint)",
        OPERATOR,
    ],
    ["SET LOCAL row_security = off"],
    ["SET LOCAL plan_cache_mode = force_generic_plan"],
    ["SET LOCAL transform_null_equals = on"],
    ["SET LOCAL standard_conforming_strings = off"],
    ["SET LOCAL array_nulls = off"],
    ["SET LOCAL enable_hashjoin = off", "SET LOCAL enable_nestloop = off"],
    ["SET LOCAL enable_indexscan = off", "SET LOCAL enable_seqscan = off"],
    ["SET LOCAL constraint_exclusion = on"],
    ["SET LOCAL session_replication_role = replica"],
]
REFUSED = {"SET LOCAL row_security = off", "SET LOCAL session_replication_role = replica"}


@pytest.mark.parametrize("shadow", SHADOWS, ids=range(len(SHADOWS)))
async def test_nothing_of_the_session_changes_the_count(shadow, house):
    """Names of its own, operators and settings: the limit holds, or there is an error."""
    with bind_tenant(OTHER):
        async with house.line() as line, line.transaction():
            await line.take(ITEMS, cost=2)
    admitted = 0
    with bind_tenant(ACME):
        async with house.line() as line:
            for _ in range(5):
                try:
                    async with line.transaction():
                        for one in (*shadow, TEMPORARY_FIRST):
                            await line.sql(one)
                        rows = await line.sql(TAKE.format(1))
                        admitted += not rows[0][3]
                except psycopg.Error:
                    continue

    assert house.level() == admitted == (0 if REFUSED & set(shadow) else 3)
    assert house.level(tenant=OTHER) == 2


async def test_two_calls_in_one_statement_see_each_other(house, acme):
    """One statement, a snapshot of its own, five calls: three are admitted."""
    calls = ", ".join(f"LATERAL ({TAKE.format(1)}) AS t{one}" for one in range(5))
    async with house.line() as line, line.transaction():
        [row] = await line.sql(f"SELECT * FROM {calls}")

    assert [row[at] for at in range(3, 20, 4)] == [False, False, False, True, True]
    assert house.level() == 3


@pytest.mark.parametrize("end", ["RELEASE", "ROLLBACK TO"])
async def test_a_savepoint_gives_back_what_it_took_and_no_more(end, house, acme):
    """A refusal within one, a cursor that outlives it: the level is what was kept."""
    async with house.line() as line, line.transaction():
        await line.take(ITEMS)
        await line.sql("SAVEPOINT before")
        await line.sql(f"DECLARE later CURSOR FOR {TAKE.format(1)}")
        await line.sql("FETCH later")
        await line.take(ITEMS)
        with pytest.raises(QuotaExceededError):
            await line.take(ITEMS)
        await line.sql(f"{end} SAVEPOINT before")

    assert house.level() == (3 if end == "RELEASE" else 1)


LOCKS = [
    "LOCK TABLE twh.quota_levels IN ROW SHARE MODE",
    "LOCK TABLE twh.quota_levels IN SHARE MODE",
    "SELECT 1 FROM twh.quota_levels FOR KEY SHARE",
    "CREATE INDEX ON twh.quota_levels (level)",
    "ALTER TABLE twh.quota_levels SET (fillfactor = 100)",
    "COMMENT ON TABLE twh.quota_levels IS 'mine'",
]


@pytest.mark.parametrize("statement", LOCKS, ids=range(len(LOCKS)))
async def test_nobody_else_waits_for_a_tenant(statement, house):
    """A transaction that stays open, and whatever it may lock, holds up its own tenant only."""
    async with house.line() as line, house.line() as others:
        with bind_tenant(ACME):
            async with line.transaction():
                await line.take(ITEMS)
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    async with line.transaction():
                        await line.sql(statement)
                with bind_tenant(OTHER):
                    async with others.transaction():
                        await others.sql("SET LOCAL lock_timeout = '5s'")
                        await others.take(ITEMS)

    assert (house.level(), house.level(tenant=OTHER)) == (1, 1)
