"""
What the application's role cannot do to data keys, and that the guards see nothing wrong.
"""

from __future__ import annotations

import threading

import psycopg
import pytest

from tests.integration.kms._house import ACME, OTHER, STRANGER, record
from tests.support.postgres_keys import APP, AUDITOR, KEEPER, OWNER, SQL
from twh_platform import bind_tenant
from twh_platform.errors import ConfigurationError
from twh_platform.kms.postgres import keys_sql
from twh_platform.tenancy.postgres import sqlstate_of
from twh_platform.tenancy.postgres.lint import lint
from twh_platform.tenancy.postgres.psycopg import verify_login

SECRET = "INSERT INTO twh.secrets (name) VALUES ('smtp')"
VERSION = (
    "INSERT INTO twh.secret_versions (name, version, stage, sealed, created_at) "
    "VALUES ('smtp', {}, {}, 'x', now())"
)


@pytest.fixture
def kept(house, acme):
    """A data key of the tenant, kept."""
    return house.store().add(record())


@pytest.fixture
def secret(house, acme):
    """A secret of one version."""
    house.sql(SECRET)
    house.sql(VERSION.format(1, "'current'"))


def refused(house, statement, user=APP, tenant=ACME) -> str:
    """The SQLSTATE that a statement is refused with."""
    with pytest.raises(psycopg.Error) as caught:
        house.sql(statement, tenant, user)
    return sqlstate_of(caught.value)


FORBIDDEN = [
    "DELETE FROM twh.data_keys",
    "TRUNCATE twh.data_keys",
    "UPDATE twh.data_keys SET tenant_id = 'other'",
    "UPDATE twh.data_keys SET data_key_id = decode(repeat('00', 16), 'hex')",
    "UPDATE twh.data_keys SET purpose = 'index'",
    "UPDATE twh.data_keys SET shared = true",
    "UPDATE twh.data_keys SET created_at = now()",
    "INSERT INTO twh.data_keys (tenant_id) VALUES ('other')",
    "SELECT twh.shred_tenant()",
    "SELECT * FROM twh.key_tenants",
    "UPDATE twh.key_tenants SET shredded_at = NULL",
    "DELETE FROM twh.secrets",
    "UPDATE twh.secrets SET last_version = 0",
    "LOCK TABLE twh.data_keys",
    "ALTER TABLE twh.data_keys DISABLE TRIGGER data_key_changing",
    "ALTER FUNCTION twh.shred_tenant() SECURITY INVOKER",
    "SELECT twh.data_key_added()",
]


@pytest.mark.parametrize("statement", FORBIDDEN)
def test_the_application_cannot(statement, house, kept):
    """Its grants end where a data key's life would be rewritten."""
    assert refused(house, statement) == "42501"
    assert house.store().get(ACME.id, kept.data_key_id) == kept


@pytest.mark.parametrize("user", [APP, KEEPER])
def test_another_tenants_keys_are_not_seen(user, house, kept):
    """Control: its own tenant sees the row, and a superuser sees it without a tenant."""
    other = house.sql("SELECT * FROM twh.data_keys", OTHER, user)
    changed = house.sql(
        "UPDATE twh.data_keys SET wrapped = 'x', revision = revision + 1 RETURNING 1", OTHER, user
    )

    assert (other, changed) == ([], [])
    assert len(house.sql("SELECT * FROM twh.data_keys", ACME, user)) == 1
    assert house.look("SELECT count(*) FROM twh.data_keys") == 1


@pytest.mark.parametrize("user", [APP, KEEPER, OWNER])
def test_without_a_tenant_nothing_is_seen(user, house, kept):
    """Not even by the owner of the tables."""
    assert refused(house, "SELECT * FROM twh.data_keys", user, None) == "TW001"


def test_another_role_reads_no_wrapped_bytes(house, kept):
    """Control: granted by hand it reads its own tenant's; the next run takes that back."""
    query = "SELECT wrapped FROM twh.data_keys"
    assert refused(house, query, STRANGER) == "42501"
    house.database.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA twh TO {STRANGER}", user=OWNER)
    assert house.sql(query, ACME, STRANGER) == [(b"wrapped",)]
    assert house.sql(query, OTHER, STRANGER) == []

    house.database.execute(SQL, user=OWNER)

    assert refused(house, query, STRANGER) == "42501"


CHANGE = "UPDATE twh.data_keys SET {}, revision = revision + 1"


@pytest.mark.parametrize("user", [KEEPER, OWNER])
@pytest.mark.parametrize("what", ["state = 'active'", "wrapped = 'kept'", "not_after = now()"])
def test_a_destroyed_key_is_not_revived(what, user, house, kept):
    """Control: before it was destroyed, the same statement changed it."""
    house.sql(CHANGE.format(what), ACME, user)
    house.store(KEEPER).destroy(ACME.id)

    assert refused(house, CHANGE.format(what), user) == "TW022"
    assert house.look("SELECT wrapped FROM twh.data_keys") == b"\x00"


OVERWRITTEN = [
    "wrapped = 'x'",
    "key_ref = 'another'",
    "key_version = key_version + 1",
    "provider = 'vault'",
    "state = 'destroyed', wrapped = '\\x00'",
]


@pytest.mark.parametrize("what", OVERWRITTEN)
def test_the_application_cannot_overwrite_a_data_key(what, house, kept):
    """Injected SQL makes nothing unreadable.  Control: an administrator's statement changes it."""
    assert refused(house, CHANGE.format(what)) == "42501"
    assert house.store().get(ACME.id, kept.data_key_id) == kept

    house.sql(CHANGE.format(what), ACME, KEEPER)

    assert house.store().get(ACME.id, kept.data_key_id) != kept


def test_the_application_retires_a_data_key_and_cannot_take_that_back(house, kept):
    """A key that was given up for leaked seals no more.  Control: an administrator may."""
    house.sql(CHANGE.format("state = 'decrypt'"))

    assert refused(house, CHANGE.format("state = 'active'")) == "42501"
    assert refused(house, CHANGE.format(OVERWRITTEN[-1])) == "42501"
    house.sql(CHANGE.format("state = 'active'"), ACME, KEEPER)


def test_the_application_destroys_what_was_retired_of_a_blind_index(house, acme):
    """As the end of its rotation does.  Control: not before it was retired."""
    house.store().add(record(purpose="index.0123"))
    assert refused(house, CHANGE.format(OVERWRITTEN[-1])) == "42501"

    house.sql(CHANGE.format("state = 'decrypt'"))
    house.sql(CHANGE.format(OVERWRITTEN[-1]))

    assert house.look("SELECT state FROM twh.data_keys") == "destroyed"


def test_a_change_without_a_new_revision_is_refused(house, kept):
    """So that no compare-and-set of somebody else takes it for what he has read."""
    assert refused(house, "UPDATE twh.data_keys SET wrapped = 'x'") == "TW022"
    assert refused(house, "UPDATE twh.data_keys SET revision = revision + 2") == "TW022"
    assert refused(house, "UPDATE twh.data_keys SET revision = revision - 1") == "TW022"


INSERT = (
    "INSERT INTO twh.data_keys SELECT '{}', '\\x00112233445566778899aabbccddeeff', 'data',"
    " 'local', 'k', 1, 'w', 'active', false, now(), NULL, 1"
)


@pytest.mark.parametrize("user", [APP, KEEPER, OWNER])
def test_a_shredded_tenant_gets_no_new_key(user, house, acme):
    """Not by plain SQL either.  Control: another tenant gets one."""
    house.store(KEEPER).destroy(ACME.id)

    assert refused(house, INSERT.format("acme"), user) == "TW021"
    house.sql(INSERT.format("other"), OTHER, user)
    assert house.look("SELECT string_agg(tenant_id, ' ') FROM twh.data_keys") == "other"


def test_nobody_learns_that_another_tenant_was_shredded(house, acme):
    """A row for it is refused as any row of another tenant is."""
    before = refused(house, INSERT.format("acme"), tenant=OTHER)
    house.store(KEEPER).destroy(ACME.id)

    assert refused(house, INSERT.format("acme"), tenant=OTHER) == before == "42501"
    assert house.sql("SELECT twh.tenant_shredded()", OTHER) == [(False,)]
    assert house.sql("SELECT twh.tenant_shredded()") == [(True,)]


def test_a_key_that_is_being_added_is_destroyed_too(house, acme):
    """Shredding waits for it.  Control: the row was not to be seen when it began."""
    added = record()
    with house.connect() as adding:
        adding.execute("SELECT 1")
        house.store_on(adding).add(added)
        shredding = threading.Thread(target=house.as_tenant(house.store(KEEPER).destroy, ACME.id))
        shredding.start()
        house.until(WAITING)
        assert house.look("SELECT count(*) FROM twh.data_keys") == 0
    shredding.join()

    assert house.look("SELECT state FROM twh.data_keys") == "destroyed"


def test_a_key_is_not_added_behind_a_shredding(house, acme):
    """Who comes second waits, and is refused."""
    told: list[str] = []

    def add() -> None:
        told.append(refused(house, INSERT.format("acme")))

    with house.connect(KEEPER) as shredding:
        shredding.execute("SELECT twh.shred_tenant()")
        adding = threading.Thread(target=house.as_tenant(add))
        adding.start()
        house.until(WAITING)
    adding.join()

    assert told == ["TW021"]
    assert house.look("SELECT count(*) FROM twh.data_keys") == 0


WAITING = (
    "SELECT count(*) > 0 FROM pg_stat_activity "
    "WHERE datname = current_database() AND wait_event_type = 'Lock'"
)


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_tenant_is_not_shredded_in_an_old_snapshot(level, house, kept):
    """It would leave keys alive that were committed since; nothing is destroyed."""
    begin = f"SET TRANSACTION ISOLATION LEVEL {level}; SELECT twh.shred_tenant()"

    assert refused(house, begin, KEEPER) == "25000"
    assert house.look("SELECT state FROM twh.data_keys") == "active"


def test_a_tenant_that_was_set_by_sql_is_refused_in_a_sealed_database(house, kept):
    """Injected SQL shreds no other tenant."""
    if house.seal is None:
        pytest.skip("an unsealed database believes the setting")
    statement = "SELECT set_config('twh.tenant_id', 'acme', true); SELECT twh.{}()"

    for function in ("shred_tenant", "lock_data_keys", "tenant_shredded"):
        assert refused(house, statement.format(function), KEEPER, OTHER) == "TW003"
    assert house.look("SELECT state FROM twh.data_keys") == "active"


MALFORMED = [
    ("data_key_id", "'\\x00'"),
    ("purpose", "'Data'"),
    ("provider", "''"),
    ("key_ref", "repeat('k', 513)"),
    ("key_version", "-1"),
    ("wrapped", "''"),
    ("wrapped", "convert_to(repeat('w', 1025), 'UTF8')"),
    ("state", "'asleep'"),
    ("state", "'destroyed'"),
    ("created_at", "'infinity'"),
    ("not_after", "'-infinity'"),
    ("revision", "-1"),
]


@pytest.mark.parametrize(("column", "value"), MALFORMED)
def test_the_table_holds_only_what_a_data_key_can_be(column, value, house):
    """Every row can be read, because the rest is refused."""
    row = {
        "tenant_id": "'acme'",
        "data_key_id": "'\\x00112233445566778899aabbccddeeff'",
        "purpose": "'data'",
        "provider": "'local'",
        "key_ref": "'k'",
        "key_version": "1",
        "wrapped": "'w'",
        "state": "'active'",
        "shared": "true",
        "created_at": "now()",
        "revision": "1",
    }
    insert = "INSERT INTO twh.data_keys ({}) VALUES ({})"
    bad = {**row, column: value}

    assert refused(house, insert.format(", ".join(bad), ", ".join(bad.values()))) == "23514"
    house.sql(insert.format(", ".join(row), ", ".join(row.values())))


def test_a_revoked_version_stays_revoked(house, secret):
    """Neither changed, nor deleted and put back; nor has it a value."""
    house.sql("UPDATE twh.secret_versions SET revoked_at = now(), sealed = NULL")

    assert refused(house, "UPDATE twh.secret_versions SET revoked_at = NULL") == "TW022"
    assert refused(house, "UPDATE twh.secret_versions SET sealed = 'x'") == "23514"
    house.sql("DELETE FROM twh.secret_versions")
    assert refused(house, VERSION.format(1, "NULL")) == "TW022"
    house.sql(VERSION.format(2, "'current'"))


def test_a_stage_has_one_version(house, secret):
    """And another tenant has its own, which this one does not see."""
    assert refused(house, VERSION.format(2, "'current'")) == "23505"
    house.sql(SECRET, OTHER)
    house.sql(VERSION.format(1, "'current'"), OTHER)

    assert house.sql("SELECT tenant_id FROM twh.secret_versions") == [("acme",)]
    assert house.look("SELECT count(*) FROM twh.secret_versions") == 2


def test_the_sql_may_run_again_for_others(house, kept):
    """The keys stay; who is named no more has nothing left."""
    house.database.execute(keys_sql(role=STRANGER), user=OWNER)
    try:
        for role, query in ((APP, "TABLE twh.data_keys"), (AUDITOR, "TABLE twh.key_tenants")):
            assert refused(house, query, role) == "42501"
        assert refused(house, "SELECT twh.shred_tenant()", KEEPER) == "42501"
        assert house.sql("SELECT count(*) FROM twh.data_keys", ACME, STRANGER) == [(1,)]
    finally:
        house.database.execute(SQL, user=OWNER)
    assert house.store().get(ACME.id, kept.data_key_id) == kept


def looked_at(house) -> set[str]:
    """The objects that the lint has something to say of."""
    with psycopg.connect(house.database.dsn()) as connection:
        return {one.object for one in lint(connection, app_roles=[APP, KEEPER]).findings}


def test_the_lint_finds_nothing(house):
    """But that the server's own functions are open to all, and what an auditor is."""
    assert looked_at(house) == {house.database.name, AUDITOR}
    house.database.execute("ALTER TABLE twh.data_keys NO FORCE ROW LEVEL SECURITY")
    controls = looked_at(house)
    house.database.execute("ALTER TABLE twh.data_keys FORCE ROW LEVEL SECURITY")
    assert "twh.data_keys" in controls


def test_the_login_verifies(house):
    """`verify_login` finds no more than that nothing of the server was closed."""
    accept = ["temporary_allowed", "token_visible"] if house.seal else []
    for user in (APP, KEEPER):
        with psycopg.connect(house.dsn(user)) as connection:
            verify_login(connection, sealed=house.seal is not None, accept=accept)


@pytest.mark.parametrize("role", ["public", "none"])
def test_everybody_is_no_role(role):
    """Neither may keep keys."""
    with pytest.raises(ConfigurationError):
        keys_sql(role=role)
    with pytest.raises(ConfigurationError):
        keys_sql(role="app", administrators=[role])
    with pytest.raises(ConfigurationError):
        keys_sql(role="app", auditors=[role])


def test_an_auditor_sees_all_but_wrapped_bytes(house):
    """Which tenants have keys or had; who wrapped what; and changes nothing."""
    for tenant in (OTHER, ACME):
        with bind_tenant(tenant):
            house.store().add(record(tenant))
    with bind_tenant(ACME):
        house.store(KEEPER).destroy(ACME.id)
    inventory = "SELECT tenant_id, key_version FROM twh.data_keys WHERE state <> 'destroyed'"

    assert house.sql(inventory, None, AUDITOR) == [("other", 1)]
    for statement in (
        "SELECT wrapped FROM twh.data_keys",
        "SELECT * FROM twh.data_keys",
        "TABLE twh.secret_versions",
        "DELETE FROM twh.key_tenants",
        "SELECT twh.shred_tenant()",
    ):
        assert refused(house, statement, AUDITOR) == "42501"
