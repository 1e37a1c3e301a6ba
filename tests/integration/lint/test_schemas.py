"""
Whole schemas: silent on what is done well, and able to mend what is not.
"""

from __future__ import annotations

import psycopg
import pytest

from examples.warehouse.database import BYPASSES, HIDES, migrate
from examples.warehouse.schema import ADMINISTRATOR, APP, DIRECTORY, OWNER, SUPPORT
from tests.support.schemas import schema_text
from twh_platform.quotas.postgres import capacity_sql
from twh_platform.quotas.postgres.overrides import overrides_sql
from twh_platform.quotas.postgres.usage import usage_sql
from twh_platform.tenancy.postgres import TenantTable, install_sql, seal_sql, tenant_sql
from twh_platform.tenancy.postgres.lint import lint

# What each bad schema has, one object for each rule that has to find something.
HELPDESK = {
    "TWH106": "desk_app",
    "TWH202": "desk.notes",
    "TWH203": "desk.agents",
    "TWH204": "desk.drafts",
    "TWH205": "desk.comments",
    "TWH206": "desk.tickets",
    "TWH210": "desk.open_tickets",
    "TWH212": "desk.ticket_counts",
    "TWH214": "desk.accounts",
    "TWH301": "for_reports on desk.macros",
    "TWH303": "mine on desk.tickets",
    "TWH305": "desk.tickets",
    "TWH307": "mine on desk.tickets",
    "TWH308": "mine on desk.tickets",
    "TWH309": "mine on desk.agents",
    "TWH310": "mine on desk.agents",
    "TWH311": "mine on desk.macros",
    "TWH403": "desk.all_tickets()",
    "TWH404": "desk.all_tickets()",
    "TWH405": "desk.all_tickets()",
    "TWH407": "desk.bind(account bigint)",
    "TWH411": "desk.tell()",
    "TWH501": "desk.notes",
    "TWH502": "desk.notes",
    "TWH503": "desk.notes",
    "TWH505": "desk",
    "TWH506": "helpdesk",
    "TWH507": "desk.tickets_id_seq",
    "TWH601": "agents_email_key on desk.agents",
    "TWH602": "tickets_pkey on desk.tickets",
    "TWH604": "tickets_agent_id_fkey on desk.tickets",
    "TWH605": "tickets_agent_id_fkey on desk.tickets",
    "TWH701": "desk.notes",
    "TWH702": "tickets_subject on desk.tickets",
}
BOARD = {
    "TWH104": "board_gateway",
    "TWH201": "board.files",
    "TWH203": "board.tasks",
    "TWH214": "board.organizations",
    "TWH302": "members on board.projects",
    "TWH303": "insert_any on board.tasks",
    "TWH305": "board.tasks",
    "TWH308": "staff on board.tasks",
    "TWH309": "own on board.memberships",
    "TWH410": "auth.uid()",
    "TWH501": "board.tasks",
    "TWH502": "board.tasks",
    "TWH503": "board.tasks",
    "TWH506": "board",
    "TWH509": "board_owner IN SCHEMA board",
    "TWH601": "projects_slug_key on board.projects",
    "TWH604": "tasks_project_id_fkey on board.tasks",
    "TWH605": "tasks_project_id_fkey on board.tasks",
    "TWH701": "board.tasks",
    "TWH702": "tasks_labels on board.tasks",
}


def test_a_good_schema_is_silent(clinic):
    """Nothing at all is said of the schema that is done well."""
    report = lint(clinic.dsn(user="clinic_web"))

    assert report.findings == ()
    assert "clinic_id" in report.text()
    assert "app.clinic()" in report.text()
    assert "clinic_web" in report.text()


@pytest.mark.parametrize(("name", "expected"), [("helpdesk", HELPDESK), ("board", BOARD)])
def test_a_bad_schema_is_named_and_mended(name, expected, lint_server):
    """Every fault is found; the remedies, one after the other, leave nothing to report."""
    database = lint_server.create_database(name)
    database.execute(schema_text(name))
    before = lint(database.dsn())

    with psycopg.connect(database.dsn(), autocommit=True) as connection:
        for _ in range(200):
            findings = lint(connection).findings
            if not findings:
                break
            connection.execute(findings[0].remedy)

    found = {(one.rule.id, one.object) for one in before.at_least("warning")}
    assert set(expected.items()) <= found
    assert {rule for rule, _ in found} == set(expected)
    assert findings == ()


def declared(server, name, *more: str):
    """
    Make a database of what `install_sql` and `tenant_sql` make, and more.
    """
    owner, app = (server.create_role(role) for role in ("lint_owner", "lint_app"))
    database = server.create_database(name, owner=owner)
    tables = [
        TenantTable(name="items", keys=[("sku",)], indexes=[("added",)]),
        TenantTable(name="shelves", column="org", column_type="bigint"),
        TenantTable(name="moves", column_type="uuid", privileges=("SELECT", "INSERT")),
    ]
    database.execute(
        "CREATE TABLE items (tenant_id text, sku text, added timestamptz);"
        "CREATE TABLE shelves (org bigint, code text, PRIMARY KEY (org, code));"
        "CREATE TABLE moves (tenant_id uuid, id uuid, PRIMARY KEY (tenant_id, id));"
        f"{install_sql()}{tenant_sql(tables, role=app)}"
        # PostgreSQL grants it to everybody; the guide on roles takes it away.
        f"REVOKE TEMPORARY ON DATABASE {name} FROM PUBLIC;" + "".join(more),
        user=owner,
    )
    return database


def test_our_own_sql_is_silent(lint_server):
    """What `install_sql` and `tenant_sql` make has no finding that counts."""
    database = declared(lint_server, "declared")

    assert lint(database.dsn(user="lint_app")).at_least("warning") == ()


def test_our_own_seal_is_silent(lint_server):
    """A database that is sealed, its login unseen, has no finding that counts."""
    database = declared(lint_server, "sealed", seal_sql())
    for setting in ("track_activities", "pg_stat_statements.track_utility"):
        database.execute(f"ALTER ROLE lint_app IN DATABASE sealed SET {setting} = off")

    assert lint(database.dsn(user="lint_app")).at_least("warning") == ()


def test_our_own_quotas_are_silent(lint_server):
    """Tables of all tenants are no tenant's, as long as row security keeps others out."""
    meter = lint_server.create_role("lint_meter")
    quotas = capacity_sql(role="lint_app") + overrides_sql(role=meter) + usage_sql(role=meter)
    database = declared(lint_server, "quotas", quotas)
    before = lint(database.dsn(user="lint_app")).at_least("warning")
    database.execute("ALTER TABLE twh.quota_usage DISABLE ROW LEVEL SECURITY")

    after = lint(database.dsn(user="lint_app")).at_least("error")
    assert before == ()
    assert {one.rule.id for one in after} == {"TWH202", "TWH301"}


def test_temporary_things_are_graver_where_there_is_a_seal(lint_server):
    """A warning becomes an error, in the report and where it is counted."""
    back = "GRANT TEMPORARY ON DATABASE {} TO PUBLIC;"
    bare = declared(lint_server, "bare_temporary", back.format("bare_temporary"))
    sealed = declared(lint_server, "sealed_temporary", seal_sql(), back.format("sealed_temporary"))
    found = [lint(one.dsn(), rules=["TWH506"]) for one in (bare, sealed)]

    assert [one.findings[0].severity for one in found] == ["warning", "error"]
    assert [len(one.at_least("error")) for one in found] == [0, 1]
    assert "error TWH506" in found[1].text()


def test_a_seal_that_is_half_done_is_named_and_mended(lint_server):
    """What is still open is found, and the remedies close it."""
    database = declared(lint_server, "half_sealed", seal_sql(allow_unsealed=True))
    database.execute("GRANT SELECT ON twh.seal_keys TO lint_app")
    before = lint(database.dsn()).at_least("warning")
    for one in before:
        database.execute(one.remedy)
    after = lint(database.dsn()).at_least("warning")
    for setting in ("track_activities", "pg_stat_statements.track_utility"):
        database.execute(f"ALTER ROLE lint_app RESET {setting}")

    assert [one.rule.id for one in before] == ["TWH511", "TWH901", "TWH902", "TWH905"]
    assert after == ()


def test_the_warehouse_is_silent(lint_server):
    """The warehouse has no finding that counts."""
    for role in (OWNER, APP, DIRECTORY, ADMINISTRATOR):
        lint_server.create_role(role)
        lint_server.execute(HIDES.format(role=role))
    lint_server.create_role(SUPPORT, attributes=BYPASSES)
    database = lint_server.create_database("warehouse", owner=OWNER)
    migrate(database.dsn(user=OWNER, scheme="postgresql+psycopg"))

    assert lint(database.dsn(user=APP)).at_least("warning") == ()


_ODD = r'''
CREATE ROLE "App ""1""" LOGIN;
CREATE SCHEMA "Da ta";
CREATE FUNCTION "Da ta"."Who?"() RETURNS text STABLE LANGUAGE sql
    RETURN nullif(current_setting($$my.tenant$$, true), $$$$);
CREATE TABLE "Da ta"."T'able" ("Te nant" text, "order" text UNIQUE);
CREATE POLICY "p 1" ON "Da ta"."T'able" TO "App ""1"""
    USING ("Te nant" = "Da ta"."Who?"());
GRANT ALL ON "Da ta"."T'able" TO "App ""1""";
'''


def test_names_that_need_quotes(lint_server):
    """Odd names are read and written as they are; the remedies run."""
    database = lint_server.create_database('od"d')
    database.execute(_ODD)
    with psycopg.connect(database.dsn(), autocommit=True) as connection:
        before = lint(connection, ignore=["TWH510"])
        for _ in range(50):
            findings = lint(connection).findings
            if not findings:
                break
            connection.execute(findings[0].remedy)

    assert {"TWH202", "TWH206", "TWH309", "TWH501", "TWH601"} <= {
        f.rule.id for f in before.findings
    }
    assert findings == ()
