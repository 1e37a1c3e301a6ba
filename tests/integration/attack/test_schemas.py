"""
Schemas of others, with settings, functions and columns of any name; and the warehouse.
"""

from __future__ import annotations

import asyncio

import pytest

from examples.warehouse.database import temporary_warehouse
from examples.warehouse.passwords import hash_password
from examples.warehouse.vault import Vault
from tests.support.attacked import SWITCHES
from tests.support.schemas import schema_text
from tests.support.warehouse import PASSWORD, fill
from twh_platform.tenancy.postgres.attack import attack

ONE, TWO = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
USERS = ("33333333-1111-4111-8111-111111111111", "44444444-2222-4222-8222-222222222222")

CLINIC = """
BEGIN;
SET LOCAL clinic.current = '{0}';
INSERT INTO app.clinics VALUES ('{0}', 'clinic');
INSERT INTO booking.patients (email) VALUES ('somebody@{0}');
INSERT INTO booking.rooms (room) VALUES ('room of {0}');
INSERT INTO booking.appointments (patient_id, room, begins)
    SELECT patient_id, 'room of {0}', now() FROM booking.patients WHERE clinic_id = '{0}';
INSERT INTO booking.visits (happened) VALUES ('2025-05-05');
COMMIT;
"""
HELPDESK = """
INSERT INTO desk.accounts VALUES (1, 'a'), (2, 'b');
INSERT INTO desk.agents (account_ref, email) VALUES (1, 'a@a'), (2, 'b@b');
INSERT INTO desk.tickets (account_ref, agent_id, subject) VALUES (1, 1, 'x'), (2, 2, 'y');
INSERT INTO desk.comments (ticket_id, body) VALUES (1, 'x'), (2, 'y');
INSERT INTO desk.notes VALUES (1, 'x'), (2, 'y');
INSERT INTO desk.macros VALUES (1, 'x', 'x'), (2, 'y', 'y');
REFRESH MATERIALIZED VIEW desk.ticket_counts;
ANALYZE;
"""
BOARD = f"""
INSERT INTO board.organizations VALUES ('{ONE}', 'a'), ('{TWO}', 'b');
INSERT INTO board.memberships VALUES ('{ONE}', '{USERS[0]}'), ('{TWO}', '{USERS[1]}');
INSERT INTO board.projects (org_id, slug) VALUES ('{ONE}', 'a'), ('{TWO}', 'b');
INSERT INTO board.tasks (org_id, project_id) SELECT org_id, id FROM board.projects;
INSERT INTO board.files (org_id, path) VALUES ('{ONE}', '/a'), ('{TWO}', '/b');
"""


@pytest.fixture
def made(attacked_server):
    """Make a database of one of the schemas."""
    databases = []

    def make(name, rows):
        database = attacked_server.create_database(f"{name}_attacked")
        databases.append(database)
        database.execute(schema_text(name))
        database.execute(rows)
        return database

    yield make
    for one in databases:
        one.drop()


def leaks(report) -> dict[str, set[str]]:
    """The objects at which something leaked, by attack."""
    return {one.attack.id: {outcome.name for outcome in one.at("leaked")} for one in report.leaked}


def test_a_good_schema_of_others(made):
    """The setting is inferred; only what no unsealed tenant withstands succeeds."""
    database = made("clinic", CLINIC.format(ONE) + CLINIC.format(TWO))

    report = attack(database.dsn(user="clinic_web"), tenant=ONE, other=TWO)

    assert set(leaks(report)) == SWITCHES
    assert report.inconclusive == ()
    assert report.changed == ()
    assert set(report.tables.values()) == {1}
    assert len(report.tables) == 5


def test_a_bad_schema_of_others(made):
    """Nearly everything succeeds on the help desk, each at the object that has the fault."""
    database = made("helpdesk", HELPDESK)

    report = attack(database.dsn(user="desk_app"), tenant="1", other="2")
    found = leaks(report)

    assert found["TWHA02"] == {"desk.accounts", "desk.comments", "desk.macros", "desk.notes"}
    assert found["TWHA03"] == {"desk.agents", "desk.tickets"}
    assert found["TWHA07"] == {"desk.tickets"}
    assert found["TWHA11"] == {"desk.open_tickets"}
    assert found["TWHA12"] == {"desk.ticket_counts"}
    assert found["TWHA13"] == {"desk.all_tickets()"}
    assert {"desk.tickets", "desk.notes"} <= found["TWHA20"]
    assert found["TWHA31"] == {"tickets_agent_id_fkey on desk.tickets"}
    assert "desk.tickets_id_seq" in found["TWHA32"]
    assert report.changed == ()


def test_a_schema_of_claims_and_roles(made):
    """A user's claims are bound, the column has the organisation, and the gateway switches role."""
    database = made("board", BOARD)
    claims = [f'{{"sub": "{user}"}}' for user in USERS]

    report = attack(
        database.dsn(user="board_gateway"),
        tenant=claims[0],
        other=claims[1],
        tenant_key=ONE,
        other_key=TWO,
        role="board_user",
    )
    found = leaks(report)

    assert report.login == "board_user"
    assert "board.tasks" not in found["TWHA02"]
    assert found["TWHA03"] == found["TWHA08"] == {"board.projects", "board.tasks"}
    [outcome] = report.result("role-switch").at("leaked")[:1]
    assert "board_service" in outcome.detail
    assert found["TWHA31"] == {"tasks_project_id_fkey on board.tasks"}


def test_only_what_is_asked_for(made):
    """Schemas and attacks can be chosen, by id and by name."""
    database = made("clinic", CLINIC.format(ONE) + CLINIC.format(TWO))
    dsn = database.dsn(user="clinic_web")

    report = attack(
        dsn,
        tenant=ONE,
        other=TWO,
        schemas=["app"],
        attacks=["plain-read", "TWHA03"],
        ignore=["stacked-statements"],
    )

    assert list(report.tables) == ["app.clinics"]
    assert [one.attack.id for one in report.results] == ["TWHA02"]


def test_the_warehouse(attacked_server):
    """Nothing leaks; where its demo has no rows, that is said."""
    digest = asyncio.run(hash_password(PASSWORD))
    with temporary_warehouse(attacked_server, administrator_password_hash=digest) as settings:
        asyncio.run(fill(settings))
        seal = Vault.of(settings).seal()
        report = attack(settings.app_dsn, tenant="acme", other="globex", seal=seal)

    assert report.leaked == (), report.text()
    assert report.changed == ()
    assert (report.tables["public.items"], report.tables["public.passwords"]) == (3, None)
    empty = {name for name, count in report.tables.items() if not count}
    open_ = {one for result in report.results for one in result.at("inconclusive")}
    assert {one.name for one in open_ if one.name.startswith("public.")} <= empty
