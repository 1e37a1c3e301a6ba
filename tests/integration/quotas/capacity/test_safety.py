"""
What the application's role cannot do to levels, and that the guards see nothing wrong.
"""

from __future__ import annotations

import psycopg
import pytest

from tests.integration.quotas.capacity.conftest import (
    ACME,
    APP,
    OTHER,
    OWNER,
    RECONCILER,
    rule,
)
from twh_platform import bind_tenant
from twh_platform.errors import ConfigurationError
from twh_platform.quotas.postgres import QUOTA_LEVELS, capacity_sql
from twh_platform.tenancy.postgres import sqlstate_of
from twh_platform.tenancy.postgres.lint import lint
from twh_platform.tenancy.postgres.psycopg import verify_login

ITEMS = rule(3)

FORBIDDEN = [
    "UPDATE twh.quota_levels SET level = 0",
    "UPDATE twh.quota_levels SET tenant_id = 'other'",
    "DELETE FROM twh.quota_levels",
    "TRUNCATE twh.quota_levels",
    "INSERT INTO twh.quota_levels (rule, level) VALUES ('items', 0)",
    "INSERT INTO twh.quota_levels (tenant_id, rule) VALUES ('other', 'items')",
    "SELECT twh.correct_capacity('items', 0)",
    "LOCK TABLE twh.quota_levels",
    "SELECT 1 FROM twh.quota_levels FOR UPDATE",
    "ALTER FUNCTION twh.change_capacity(text[], bigint[], bigint[]) SECURITY INVOKER",
]


@pytest.mark.parametrize("statement", FORBIDDEN)
async def test_the_application_cannot_write_levels(statement, house, acme):
    """Nothing but the function that takes and gives back moves one."""
    async with house.line() as line:
        async with line.transaction():
            await line.take(ITEMS)
        with pytest.raises(psycopg.Error) as caught:
            async with line.transaction():
                await line.sql(statement)

    assert sqlstate_of(caught.value) == "42501"
    assert house.level() == 1


async def test_another_tenants_levels_are_neither_seen_nor_moved(house):
    """All that one tenant calls and reads is its own."""
    async with house.line() as line:
        with bind_tenant(OTHER):
            async with line.transaction():
                await line.take(ITEMS, cost=3)
        with bind_tenant(ACME):
            async with line.transaction():
                seen = await line.sql("SELECT * FROM twh.quota_levels")
                await line.sql(
                    "SELECT twh.change_capacity(ARRAY['items'], ARRAY[-3]::bigint[], '{NULL}')"
                )

    assert (seen, house.level(tenant=OTHER)) == ([], 3)


async def test_a_tenant_that_was_set_by_sql_is_refused_in_a_sealed_database(house, acme):
    """Injected SQL becomes no other tenant on its way into the functions."""
    if house.seal is None:
        pytest.skip("an unsealed database believes the setting")
    async with house.line() as line:
        await line.sql("SELECT set_config('twh.tenant_id', 'other', true)")
        with pytest.raises(psycopg.Error) as caught:
            await line.take(ITEMS)

    assert sqlstate_of(caught.value) == "TW003"
    assert house.level(tenant=OTHER) == 0


MALFORMED = [
    "ARRAY['items', 'items'], ARRAY[1, 1]::bigint[], ARRAY[9, 9]::bigint[]",
    "ARRAY['items'], ARRAY[NULL]::bigint[], ARRAY[9]::bigint[]",
    "ARRAY['items'], ARRAY[1, 2]::bigint[], ARRAY[9]::bigint[]",
    "ARRAY['items'], ARRAY[1]::bigint[], NULL",
    "NULL, NULL, NULL",
    "ARRAY['It''ems'], ARRAY[1]::bigint[], ARRAY[9]::bigint[]",
    "ARRAY['items'], ARRAY[9223372036854775807]::bigint[], ARRAY[NULL]::bigint[]",
    "ARRAY[NULL], ARRAY[1]::bigint[], ARRAY[9]::bigint[]",
]


@pytest.mark.parametrize("arguments", MALFORMED)
async def test_the_function_takes_no_nonsense(arguments, house, acme):
    """What Python would have refused the database refuses too, with an error."""
    async with house.line() as line:
        async with line.transaction():
            await line.take(ITEMS)
        with pytest.raises(psycopg.Error):
            async with line.transaction():
                await line.sql(f"SELECT * FROM twh.change_capacity({arguments})")

    assert house.level() == 1


def test_what_was_granted_before_is_taken_back(house):
    """A grant by hand is gone after the next run, and the levels are not."""
    house.database.execute(
        f"GRANT ALL ON twh.quota_levels TO PUBLIC, {RECONCILER};"
        f"GRANT UPDATE (level) ON twh.quota_levels TO {RECONCILER};"
        f"GRANT EXECUTE ON FUNCTION twh.correct_capacity(text, bigint) TO PUBLIC, {APP};"
        "INSERT INTO twh.quota_levels VALUES ('acme', 'items', 7)"
    )

    house.database.execute(capacity_sql(role=APP), user=OWNER)

    may = f"has_any_column_privilege('{RECONCILER}', 'twh.quota_levels', 'SELECT, UPDATE')"
    assert not house.look(f"SELECT {may}")
    function = "'twh.correct_capacity(text, bigint)', 'EXECUTE'"
    assert not house.look(f"SELECT has_function_privilege('{APP}', {function})")
    assert house.level() == 7
    house.database.execute(capacity_sql(role=APP, reconcilers=[RECONCILER]), user=OWNER)


def looked_at(house) -> set[str]:
    """The kinds of objects that the lint has something to say of."""
    with psycopg.connect(house.database.dsn()) as connection:
        return {one.kind for one in lint(connection, app_roles=[APP, RECONCILER]).findings}


def test_the_lint_finds_nothing(house):
    """But that the server's own functions are open to all, as PostgreSQL makes them."""
    function = "FUNCTION twh.change_capacity(text[], bigint[], bigint[])"

    assert looked_at(house) == {"database"}
    house.database.execute(f"ALTER {function} OWNER TO postgres")
    controls = looked_at(house)
    house.database.execute(f"ALTER {function} OWNER TO {OWNER}")
    assert "function" in controls


def test_the_login_verifies(house):
    """`verify_login` finds no more than that nothing of the server was closed."""
    accept = ["temporary_allowed", "token_visible"] if house.seal else []
    for user in (APP, RECONCILER):
        with psycopg.connect(house.dsn(user)) as connection:
            verify_login(connection, sealed=house.seal is not None, accept=accept)


@pytest.mark.parametrize("role", ["public", "none"])
def test_everybody_is_no_role(role):
    """Neither may take or put right."""
    with pytest.raises(ConfigurationError):
        capacity_sql(role=role)
    with pytest.raises(ConfigurationError):
        capacity_sql(role="app", reconcilers=[role])


def test_the_declaration_can_be_granted_to_administrators():
    """They read levels across tenants, as any tenant table."""
    assert QUOTA_LEVELS.qualified == '"twh"."quota_levels"'
