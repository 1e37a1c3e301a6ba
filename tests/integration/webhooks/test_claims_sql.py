"""
The table of claims: in a migration, and before the eyes of the lint.
"""

from __future__ import annotations

from io import StringIO

import pytest

pytest.importorskip("psycopg_pool")
pytest.importorskip("alembic")

import psycopg
from alembic.migration import MigrationContext
from alembic.operations import Operations

from tests.support.postgres_webhooks import APP, webhooks_database
from twh_platform.errors import ConfigurationError
from twh_platform.tenancy.postgres.lint import lint
from twh_platform.webhooks.postgres import alembic as _registered
from twh_platform.webhooks.postgres import webhooks_sql


def test_a_migration_makes_and_drops_the_table():
    """The operations write out the SQL of the functions."""
    written = StringIO()
    options = {"as_sql": True, "output_buffer": written}
    context = MigrationContext.configure(dialect_name="postgresql", opts=options)
    with Operations.context(context) as operations:
        operations.install_webhooks(role="app")
        operations.uninstall_webhooks()

    assert _registered.InstallWebhooksOp(role="app").role == "app"
    for statement in ("CREATE TABLE IF NOT EXISTS twh.webhook_claims", "FORCE ROW LEVEL SECURITY"):
        assert statement in written.getvalue()
    assert "DROP TABLE twh.webhook_claims" in written.getvalue()


@pytest.mark.parametrize("role", ["public", "none"])
def test_a_role_that_is_none_is_refused(role):
    """Even between quotes they mean no role."""
    with pytest.raises(ConfigurationError):
        webhooks_sql(role=role)


def test_the_lint_finds_nothing(request):
    """It has nothing to say of the table; control: it has when a policy is not forced."""
    database, found = webhooks_database(request), []
    for change in ("NO FORCE", "FORCE"):
        database.execute(f"ALTER TABLE twh.webhook_claims {change} ROW LEVEL SECURITY")
        with psycopg.connect(database.dsn()) as connection:
            findings = lint(connection, app_roles=[APP]).findings
        found.append("twh.webhook_claims" in {one.object for one in findings})

    assert found == [True, False]
