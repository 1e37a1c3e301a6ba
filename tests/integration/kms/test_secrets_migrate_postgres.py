"""
Readable secrets in a column of PostgreSQL are moved, and searched for.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator

import pytest

pytest.importorskip("cryptography")
pytest.importorskip("psycopg")

from twh_platform.errors import BackendUnavailableError
from twh_platform.kms import platform_owner
from twh_platform.kms.secrets import MemorySecretStore, Secret, migrate_column
from twh_platform.kms.secrets._psycopg_migrate import PostgresColumn
from twh_platform.tenancy import Tenant, bind_tenant
from twh_platform.testing import PostgresDatabase

TABLE = """
    CREATE TABLE app_suppliers (
        id int PRIMARY KEY, tenant text, iban {type}, note text, CHECK (note <> 'frozen')
    )
"""
# A global, never a local: the test's own frame is in the traceback too.
MARK = "marked-GB29"


@pytest.fixture(params=["text", "bytea"])
def dsn(request, twh_database: PostgresDatabase) -> Iterator[str]:
    """A table with two secrets, one null and one empty."""
    twh_database.execute(TABLE.format(type=request.param))
    twh_database.execute(
        f"INSERT INTO app_suppliers VALUES (1, 'acme', '{MARK}', 'a'),"
        " (2, 'globex', 'marked-DE89', 'b'), (3, 'acme', NULL, 'c'), (4, 'acme', '', 'd')"
    )
    yield twh_database.dsn()
    twh_database.execute("DROP TABLE app_suppliers")


def test_each_value_moves_to_the_tenant_of_its_row(dsn):
    """And a second run finds everything moved."""
    store = MemorySecretStore()
    source = PostgresColumn(dsn, "public.app_suppliers", "iban", owner="tenant")
    report = migrate_column(source, store, prefix="iban")
    again = migrate_column(source, store, prefix="iban")

    assert (report.moved, report.left) == (("acme:iban/1", "globex:iban/2"), ())
    assert (again.moved, again.before) == ((), 2)
    with bind_tenant(Tenant(id="globex")):
        assert store.get("iban/2").secret == Secret("marked-DE89")


def test_a_copy_in_another_column_is_found(dsn, twh_database):
    """Control: the search covers the table, not the column alone."""
    twh_database.execute(f"UPDATE app_suppliers SET note = 'paid {MARK}' WHERE id = 2")
    with platform_owner():
        source = PostgresColumn(dsn, "app_suppliers", "iban")
        report = migrate_column(source, MemorySecretStore(), prefix="iban")

    assert [(one.name, one.where, one.form) for one in report.left] == [
        ("iban/1", "row 2", "plain")
    ]


def test_what_the_server_says_of_a_row_goes_nowhere(dsn, twh_database):
    """A refused row is quoted in the server's error: ours has neither it nor its text."""
    twh_database.execute("ALTER TABLE app_suppliers ADD CHECK (length(iban) < 12) NOT VALID")
    source = PostgresColumn(dsn, "app_suppliers", "iban")
    with platform_owner(), pytest.raises(BackendUnavailableError) as caught:
        migrate_column(source, MemorySecretStore(), prefix="a-prefix-that-is-long")

    told = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    assert caught.value.code == "migration_source_unavailable"
    assert "23514" in str(caught.value)
    assert MARK not in "".join(told.format())
    assert caught.value.__context__ is None


def test_a_row_that_changes_meanwhile_is_not_overwritten(dsn, twh_database):
    """What somebody has just written stays."""
    source = PostgresColumn(dsn, "app_suppliers", "iban")
    row = next(source.rows())
    twh_database.execute("UPDATE app_suppliers SET iban = 'new' WHERE id = 1")

    assert not source.replace(row, "secret:iban/1")
