"""
What was granted is taken back: on columns, passed on, by whomever, and never from the owner.

Each test plants its control first: the plain statement, which leaves the grant.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
import pytest

from twh_platform.quotas.postgres.overrides import overrides_sql
from twh_platform.quotas.postgres.usage import usage_sql
from twh_platform.tenancy.postgres import install_sql, seal_sql, sqlstate_of
from twh_platform.tenancy.postgres._grants_sql import revoke_sql
from twh_platform.tenancy.postgres.directory import directory_sql
from twh_platform.testing import PostgresDatabase

OWNER, READER = "twh_test_owner", "twh_test_grants_reader"
HELPER, STRANGER = "twh_test_grants_helper", "twh_test_grants stranger"

# Neither sees what was granted on columns, and the first stops at what was passed on.
BY_TABLE = """\
DO $$
DECLARE
    held record;
BEGIN
    FOR held IN
        SELECT acl.grantee FROM pg_class AS t, aclexplode(t.relacl) AS acl
        WHERE t.oid = '{table}'::regclass AND acl.grantee <> t.relowner
        GROUP BY acl.grantee
    LOOP
        EXECUTE format('REVOKE ALL ON {table} FROM %s{cascade}', held.grantee::regrole);
    END LOOP;
END
$$"""


@dataclass(frozen=True)
class Made:
    """A table, one column of it, and the SQL that makes it."""

    database: PostgresDatabase
    sql: str
    table: str
    column: str

    def run(self, statement: str, role: str = OWNER) -> str:
        """The SQLSTATE that a statement of a login is refused with, or nothing."""
        try:
            with psycopg.connect(self.database.dsn(user=role)) as connection:
                connection.execute(statement.encode())
        except psycopg.Error as error:
            return sqlstate_of(error) or ""
        return ""

    def plant(self, statement: str, role: str = OWNER) -> None:
        """A grant, which has to be there."""
        text = statement.format(t=self.table, c=self.column, stranger=f'"{STRANGER}"')
        assert self.run(text, role) == ""

    def by_table(self, cascade: str = "") -> str:
        """What the statement that looks at the table's grants alone is refused with."""
        return self.run(BY_TABLE.format(table=self.table, cascade=cascade))

    def reads(self, role: str = STRANGER) -> bool:
        """Whether a login may read the column."""
        return self.run(f"SELECT {self.column} FROM {self.table}", role) == ""

    def writes(self, role: str = STRANGER) -> bool:
        """Whether a login may write the column."""
        return self.run(f"UPDATE {self.table} SET {self.column} = NULL", role) == ""


TABLES = {
    "twh.quota_overrides": ("limits", overrides_sql(role=READER)),
    "twh.quota_overrides_head": ("version", overrides_sql(role=READER)),
    "twh.quota_usage": ("taken", usage_sql(role=READER)),
    "twh.quota_notices": ("of_limit", usage_sql(role=READER)),
    "twh.tenants": ("status", directory_sql(role=READER)),
    "twh.seal_keys": ("inner_pad", seal_sql()),
}


@pytest.fixture(scope="module")
def installed(twh_database: PostgresDatabase) -> PostgresDatabase:
    """A database with every table, and the logins."""
    for role in (READER, HELPER, STRANGER):
        twh_database.server.create_role(role)
    twh_database.execute(install_sql(), user=OWNER)
    for _column, sql in TABLES.values():
        twh_database.execute(sql, user=OWNER)
    twh_database.execute(f'GRANT USAGE ON SCHEMA twh TO {HELPER}, "{STRANGER}"', user=OWNER)
    return twh_database


@pytest.fixture(params=TABLES)
def made(request: pytest.FixtureRequest, installed: PostgresDatabase) -> Iterator[Made]:
    """One table after the other, as it was made."""
    column, sql = TABLES[request.param]
    yield Made(installed, sql, request.param, column)
    installed.execute(sql, user=OWNER)


def test_a_grant_on_a_column_is_taken_back(made):
    """It stands in no list of the table's grants, so the control leaves it."""
    made.plant("GRANT SELECT ({c}), UPDATE ({c}) ON {t} TO {stranger}")
    assert (made.by_table(), made.reads(), made.writes()) == ("", True, True)

    made.database.execute(made.sql, user=OWNER)

    assert (made.reads(), made.writes()) == (False, False)


PASSED_ON = [("SELECT", "SELECT", "2BP01"), ("SELECT ({c})", "SELECT ({c})", "")]


@pytest.mark.parametrize(("granted", "passed", "refused"), PASSED_ON, ids=["table", "column"])
def test_what_was_passed_on_is_taken_back(granted, passed, refused, made):
    """Control: without CASCADE it is refused for the table, and nothing is done."""
    made.plant(f"GRANT {granted} ON {{t}} TO {HELPER} WITH GRANT OPTION")
    made.plant(f"GRANT {passed} ON {{t}} TO {{stranger}}", HELPER)
    assert (made.by_table(), made.reads(HELPER), made.reads()) == (refused, True, True)

    made.database.execute(made.sql, user=OWNER)

    assert (made.reads(HELPER), made.reads()) == (False, False)


@pytest.mark.parametrize("whom", ["{stranger}", "PUBLIC"])
def test_a_column_of_a_granted_table_that_was_passed_on_is_taken_back(whom, made):
    """Control: it outlives the grant that it was made by, CASCADE or not, named or not."""
    made.plant(f"GRANT SELECT ON {{t}} TO {HELPER} WITH GRANT OPTION")
    made.plant(f"GRANT SELECT ({{c}}) ON {{t}} TO {whom}", HELPER)
    assert made.by_table(" CASCADE") == ""
    made.plant(f"REVOKE ALL ON {{t}} FROM {whom}, {HELPER} CASCADE")
    assert made.reads()

    made.database.execute(made.sql, user=OWNER)

    assert (made.reads(HELPER), made.reads()) == (False, False)


def test_nothing_is_taken_from_the_owner(made):
    """Who may pass on a column grants it to the owner.  Control: REVOKE takes all the rest too."""
    made.plant(f"GRANT SELECT ON {{t}} TO {HELPER} WITH GRANT OPTION")
    made.plant(f"GRANT SELECT ({{c}}) ON {{t}} TO {OWNER}", HELPER)
    delete = f"DELETE FROM {made.table} WHERE false"
    assert made.run(f"REVOKE ALL ON {made.table} FROM {OWNER} CASCADE; {delete}") == "42501"

    made.database.execute(made.sql, user=OWNER)

    assert made.run(delete) == ""


def test_a_function_that_was_passed_on_is_taken_back(installed):
    """Control: without CASCADE it is refused, and both keep it."""
    sql, table = overrides_sql(role=READER), "twh.quota_overrides"
    function = "twh.change_quota_override(text, jsonb, text, text, bigint)"
    made = Made(installed, sql, table, "limits")
    call = "SELECT twh.change_quota_override('acme', '{}', 'ada', 'ticket 4711')"
    made.plant(f"GRANT EXECUTE ON FUNCTION {function} TO {HELPER} WITH GRANT OPTION")
    made.plant(f"GRANT EXECUTE ON FUNCTION {function} TO {{stranger}}", HELPER)
    assert made.run(f"REVOKE ALL ON FUNCTION {function} FROM {HELPER}") == "2BP01"
    assert (made.run(call, HELPER), made.run(call, STRANGER)) == ("", "")

    installed.execute(sql, user=OWNER)

    assert (made.run(call, HELPER), made.run(call, STRANGER)) == ("42501", "42501")


def test_a_dropped_column_does_not_stop_it(installed):
    """Its grants may stay in the catalog, for a role that is gone.  Control: PUBLIC had one too."""
    reads = f"SELECT has_column_privilege('{STRANGER}', 'left_over', 'b', 'SELECT')"
    with psycopg.connect(installed.dsn()) as connection:
        connection.execute("CREATE ROLE twh_test_grants_gone")
        connection.execute("CREATE TABLE left_over (a int, b int)")
        connection.execute("GRANT SELECT (a) ON left_over TO twh_test_grants_gone")
        connection.execute("GRANT SELECT (b) ON left_over TO PUBLIC")
        connection.execute("ALTER TABLE left_over DROP a")
        connection.execute("DROP ROLE twh_test_grants_gone")
        assert connection.execute(reads).fetchone() == (True,)
        connection.execute(revoke_sql(tables=["left_over"]).encode())
        assert connection.execute(reads).fetchone() == (False,)
        connection.rollback()
