"""
Each fault of a login is found where it was planted, and gone when its remedy has run.
"""

from __future__ import annotations

import psycopg
import pytest

from tests.support.login_plants import APP, PLANTS
from twh_platform.errors import BackendUnavailableError, ConfigurationError, UnsafeLoginError
from twh_platform.tenancy.postgres import LOGIN_FAULTS, install_sql, seal_sql
from twh_platform.tenancy.postgres.psycopg import TenantConnection, verify_login

ACTIVITY = ("pg_stat_get_activity", "pg_stat_get_backend_activity")


def look(database, **options):
    """
    Verify the application's login on a new connection.
    """
    with TenantConnection.connect(database.dsn(user=APP)) as connection:
        return verify_login(connection, **options)


def faults(database, **options):
    """
    The faults of the application's login.
    """
    try:
        look(database, **options)
    except UnsafeLoginError as error:
        return error.faults
    return ()


@pytest.mark.parametrize("plant", PLANTS, ids=lambda one: one.id)
def test_a_planted_fault_is_found_and_remedied(plant, sealed, planter):
    """Exactly that fault is told, and a new connection is safe after its remedy."""
    if not plant.since <= planter.info.server_version // 10_000 < plant.before:
        pytest.skip("this PostgreSQL has no such fault")
    before = faults(sealed)
    planter.execute(plant.sql)
    try:
        found = faults(sealed)
        for fault in found:
            planter.execute(fault.remedy)
        after = faults(sealed)
    finally:
        planter.execute(plant.undo)

    assert before == after == ()
    assert {fault.code for fault in found} == {plant.code, *plant.also}
    assert any(plant.says in fault.message for fault in found)
    assert faults(sealed) == ()


def test_every_fault_has_a_test():
    """No code is left out."""
    elsewhere = {"server_outdated", "seal_missing", "unsealed_tenants_believed"}

    assert {plant.code for plant in PLANTS} | elsewhere == set(LOGIN_FAULTS)


def test_a_safe_login_is_described(sealed, login_server):
    """What was looked at is returned."""
    verified = look(sealed, sealed=True)

    assert (verified.login, verified.database, verified.sealed) == (APP, "sealed", True)
    assert verified.roles == (APP,)
    assert verified.server_version == ".".join(map(str, login_server.version))
    assert verified.accepted == ()


def test_a_plain_database_needs_no_seal(plain):
    """Without a seal there is nothing to steal: as PostgreSQL makes it is well."""
    assert look(plain).sealed is False


def test_a_missing_seal_is_found_and_made(plain):
    """Where a seal was demanded there has to be one; the remedy makes it."""
    found = faults(plain, sealed=True)
    plain.execute(found[0].remedy)
    borne = ["token_visible", "token_in_statements", "temporary_allowed"]
    after = faults(plain, sealed=True, accept=borne)
    plain.execute(f"DROP TABLE twh.seal_keys; {install_sql()}")

    assert [fault.code for fault in found] == ["seal_missing"]
    assert after == ()


def test_the_time_of_transition_has_to_be_accepted(sealed):
    """Unsealed tenants are a fault unless that was said, and the remedy ends them."""
    sealed.execute(seal_sql(allow_unsealed=True), user="login_owner")
    found = faults(sealed)
    accepted = look(sealed, accept=["unsealed_tenants_believed"]).accepted
    sealed.execute(found[0].remedy)

    assert [fault.code for fault in found] == ["unsealed_tenants_believed"]
    assert accepted == found
    assert faults(sealed) == ()


def test_installing_again_breaks_the_seal(sealed):
    """`install_sql` puts the function back that believes everybody: that is noticed."""
    sealed.execute(install_sql(), user="login_owner")
    found = faults(sealed)
    sealed.execute(seal_sql(), user="login_owner")

    assert [fault.code for fault in found] == ["seal_altered"]
    assert faults(sealed) == ()


def test_hiding_the_views_will_do_too(sealed, planter):
    """The other defence: neither function, and no database from which to call them."""
    planter.execute(f"ALTER ROLE {APP} IN DATABASE sealed RESET track_activities")
    (fault,) = faults(sealed)
    other = [line.removeprefix("-- ") for line in fault.remedy.splitlines()]
    lines = other[other.index("or, all of these:") + 1 :]
    counts = []
    for line in lines:
        counts.append(len(faults(sealed)))
        planter.execute(line)
    counts.append(len(faults(sealed)))
    for line in reversed(lines):
        undo = line.replace("REVOKE", "GRANT").replace(" FROM ", " TO ").replace(f", {APP}", "")
        planter.execute(undo)
    planter.execute(f"ALTER ROLE {APP} IN DATABASE sealed SET track_activities = off")

    assert counts == [1] * len(lines) + [0]
    assert faults(sealed) == ()


def test_who_makes_databases_calls_both_there(sealed, planter):
    """The other defence does not hold a login with CREATEDB, whose databases have both."""
    others = ["postgres", "template1", "plain"]
    hidden = [f"FUNCTION {name}(int)" for name in ACTIVITY]
    planter.execute(f"ALTER ROLE {APP} IN DATABASE sealed RESET track_activities")
    for one in hidden:
        planter.execute(f"REVOKE EXECUTE ON {one} FROM PUBLIC")
    for one in others:
        planter.execute(f"REVOKE CONNECT ON DATABASE {one} FROM PUBLIC")
    before = faults(sealed)
    planter.execute(f"ALTER ROLE {APP} CREATEDB")
    (fault,) = faults(sealed)
    planter.execute(fault.remedy.rpartition("-- ")[2])
    after = faults(sealed)
    for one in hidden:
        planter.execute(f"GRANT EXECUTE ON {one} TO PUBLIC")
    for one in others:
        planter.execute(f"GRANT CONNECT ON DATABASE {one} TO PUBLIC")
    planter.execute(f"ALTER ROLE {APP} IN DATABASE sealed SET track_activities = off")

    assert before == after == faults(sealed) == ()
    assert (fault.code, "login_app makes" in fault.message) == ("token_visible", True)


def test_all_faults_are_told_at_once(sealed, planter):
    """The error has each fault with its code and its remedy in the message."""
    planter.execute(f"ALTER ROLE {APP} BYPASSRLS REPLICATION")
    with pytest.raises(UnsafeLoginError, match="login_bypasses_policies") as caught:
        look(sealed)
    planter.execute(f"ALTER ROLE {APP} NOBYPASSRLS NOREPLICATION")

    assert caught.value.code == "login_unsafe"
    assert [one.code for one in caught.value.faults] == [
        "login_bypasses_policies",
        "login_replicates",
    ]
    assert all(one.remedy in str(caught.value) for one in caught.value.faults)


def test_an_accepted_code_has_to_exist(sealed):
    """A misspelt code is no fault that anybody bears."""
    with pytest.raises(ConfigurationError) as caught:
        look(sealed, accept=["login_superusr"])

    assert caught.value.code == "login_fault_unknown"


def test_a_role_that_is_set_is_looked_at_too(sealed, planter):
    """Both the login and the role that it works as are asked about."""
    planter.execute(f"CREATE ROLE login_mid BYPASSRLS; GRANT login_mid TO {APP}")
    connection = psycopg.connect(sealed.dsn(user=APP), options="-c role=login_mid")
    with connection, pytest.raises(UnsafeLoginError) as caught:
        verify_login(connection)
    planter.execute("DROP ROLE login_mid")

    assert [one.code for one in caught.value.faults] == ["login_bypasses_policies"]


def test_row_security_from_the_connection_string_is_found(sealed):
    """What nobody preset in the catalog is seen in the session."""
    connection = psycopg.connect(sealed.dsn(user=APP), options="-c row_security=off")
    with connection, pytest.raises(UnsafeLoginError, match="in this session") as caught:
        verify_login(connection)

    assert [one.code for one in caught.value.faults] == ["row_security_off"]


def test_an_open_transaction_goes_on(sealed):
    """It is looked at in a savepoint, and nothing is left of that."""
    with TenantConnection.connect(sealed.dsn(user=APP)) as connection:
        connection.execute("SET LOCAL lock_timeout = '7s'")
        verify_login(connection)

        assert connection.execute("SHOW lock_timeout").fetchone() == ("7s",)


def test_a_server_that_is_gone_is_no_fault(sealed):
    """What cannot be looked at is neither safe nor unsafe."""
    with psycopg.connect(sealed.dsn(user=APP)) as connection:
        connection.close()
        with pytest.raises(BackendUnavailableError) as caught:
            verify_login(connection)

    assert caught.value.code == "login_unverified"
