"""
Attacks 14 to 18 and 23 to 25: the setting that says who the tenant is.
"""

from __future__ import annotations

from dataclasses import replace

import psycopg
import pytest
from psycopg import errors

from tests.attacks._shop import APP, MINE, A, B, attempt, run, secrets
from twh_platform.errors import TenantMismatchError
from twh_platform.tenancy import bind_tenant, unbind_tenant
from twh_platform.tenancy.postgres import UNBOUND_SQLSTATE
from twh_platform.tenancy.postgres._minors import FIRST_FIXED
from twh_platform.tenancy.postgres.lint import lint
from twh_platform.tenancy.postgres.lint._lint import lint_catalog
from twh_platform.tenancy.postgres.lint._psycopg_snapshot import read_catalog

ALL = "SELECT * FROM orders"


def answers(connection, table):
    """Count the queries that were answered where they should have failed: one or none."""
    said = ""
    try:
        run(connection, f"SELECT * FROM {table}")
    except psycopg.Error as error:
        said = error.sqlstate
        connection.rollback()
    assert said in {"", UNBOUND_SQLSTATE}
    return int(not said)


@pytest.mark.parametrize("form", ["never set", "set and gone"])
def test_14_is_answered_unbound(form, shop, twh_attack):
    """Work that has no tenant fails, also on a connection that has had one."""
    attack = twh_attack(
        number=14, title="forgets to bind a tenant and is answered with nothing", form=form
    )
    shop.plant_naive()
    with shop.connect() as connection:
        if form == "set and gone":
            run(connection, "SET LOCAL app.tenant_id = 'a'; SET LOCAL twh.tenant_id = 'a'")
            connection.commit()

        attack.control(answers(connection, "naive"))
        attack.ours(answers(connection, "orders"))


def test_14_breaks_a_cast(shop, twh_attack):
    """A setting that was reset is empty, not NULL; ours says what is wrong."""
    attack = twh_attack(
        number=14, title="meets a setting that is empty after use, and breaks a bare cast"
    )
    shop.plant(
        "CREATE TABLE cast_bare AS SELECT 1 AS tenant_id;"
        "ALTER TABLE cast_bare ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON cast_bare"
        " USING (tenant_id = current_setting('app.tenant_id', true)::int);"
        f"GRANT SELECT ON cast_bare TO {APP}"
    )
    with shop.connect() as connection:
        run(connection, "SET LOCAL app.tenant_id = '1'; SET LOCAL twh.tenant_id = 'a'")
        connection.commit()
        with pytest.raises(errors.InvalidTextRepresentation) as broken:
            run(connection, "SELECT * FROM cast_bare")
        connection.rollback()

        attack.control([broken.value])
        attack.ours(answers(connection, "orders"))


def test_15_finds_the_last_tenant(shop, twh_attack):
    """The tenant ends with its transaction."""
    attack = twh_attack(
        number=15, title="takes a connection of the pool that is still set to the last tenant"
    )
    shop.plant_naive()
    with shop.connect() as connection:
        run(connection, "SELECT set_config('app.tenant_id', 'b', false)")
        connection.commit()
        attack.control(secrets(run(connection, "SELECT * FROM naive")))
    with shop.ours(B) as connection:
        assert secrets(run(connection, ALL))
        connection.commit()
        for tenant in (A, None):
            with bind_tenant(tenant):
                attack.ours(secrets(attempt(connection, ALL)))
                connection.rollback()


def test_15_sets_the_session(shop, twh_attack):
    """What an injection set for the session does not govern the next transaction."""
    attack = twh_attack(number=15, title="sets the tenant of the session, for whoever comes next")
    poison = "SELECT set_config('{}.tenant_id', 'b', false)"
    shop.plant_naive()
    with shop.connect() as connection:
        run(connection, poison.format("app"))
        connection.commit()
        attack.control(secrets(run(connection, "SELECT * FROM naive")))
    with shop.ours(A) as connection:
        run(connection, poison.format("twh"))
        connection.commit()
        attack.ours(secrets(run(connection, ALL)))
        connection.rollback()
        with unbind_tenant():
            attack.ours(answers(connection, "orders"))


def test_16_binds_in_autocommit(shop, twh_attack):
    """A setting that lasts for its own statement binds nothing, and ours says so."""
    attack = twh_attack(
        number=16, title="binds in autocommit, which lasts for no query, and is answered"
    )
    shop.plant_naive()
    with shop.connect(autocommit=True) as connection:
        run(connection, "SELECT set_config('app.tenant_id', 'a', true)")
        attack.control(answers(connection, "naive"))
    with shop.ours(A) as connection:
        connection.autocommit = True
        run(connection, "SELECT set_config('twh.tenant_id', 'a', true)")
        attack.ours(answers(connection, "orders"))


def test_17_commits_in_between(shop, twh_attack):
    """Each BEGIN binds again, so nothing is missing after a commit in mid-request."""
    attack = twh_attack(number=17, title="commits in mid-request, and misses its rows afterwards")
    shop.plant_naive()

    def missing(connect, table):
        with connect() as connection:
            assert len(run(connection, f"SELECT * FROM {table}")) == MINE
            connection.commit()
            return MINE - len(run(connection, f"SELECT * FROM {table}"))

    attack.control(missing(shop.naive, "naive"))
    attack.ours(missing(shop.ours, "orders"))


def test_18_keeps_the_inner_tenant(shop, twh_attack):
    """No tenant is switched inside an open transaction, savepoint or not."""
    attack = twh_attack(
        number=18, title="reads on with the tenant of a savepoint that was released"
    )
    shop.plant_naive()
    inner = "SAVEPOINT inner_work; SET LOCAL app.tenant_id = 'b'; RELEASE inner_work"
    with shop.naive(A) as connection:
        attack.control(secrets(run(connection, f"{inner}; SELECT * FROM naive")))
    with shop.ours(A) as connection:
        run(connection, ALL)
        with bind_tenant(B), pytest.raises(TenantMismatchError), connection.transaction():
            attack.ours(secrets(run(connection, ALL)))
        rows = run(connection, ALL)

    attack.ours(secrets(rows))
    assert len(rows) == MINE


def test_18_goes_back_to_a_savepoint(shop, twh_attack):
    """ROLLBACK TO restores the setting of the outer work."""
    fact = twh_attack(
        number=18, title="reads on after a ROLLBACK TO the savepoint of another tenant", kind="fact"
    )
    shop.plant_naive()
    inner = "SAVEPOINT inner_work; SET LOCAL app.tenant_id = 'b'; ROLLBACK TO inner_work"
    with shop.naive(A) as connection:
        rows = run(connection, f"{inner}; SELECT * FROM naive")

    fact.ours(secrets(rows))
    assert len(rows) == MINE


@pytest.mark.parametrize("form", ["unknown to the session", "used before"])
def test_23_presets_the_tenant(form, shop, twh_attack):
    """A role may not preset for itself a setting that no extension has declared."""
    fact = twh_attack(
        number=23, title="presets the tenant for later sessions, ALTER ROLE", kind="fact", form=form
    )
    with shop.connect(autocommit=True) as attacker:
        for setting in ("app.tenant_id", "twh.tenant_id"):
            if form == "used before":
                run(attacker, f"SET {setting} = 'b'")
            for where in ("", f"IN DATABASE {shop.database.name}"):
                with pytest.raises(errors.InsufficientPrivilege):
                    run(attacker, f"ALTER ROLE {APP} {where} SET {setting} = 'b'")
    preset = run(shop.admin, "SELECT * FROM pg_db_role_setting WHERE setconfig::text ~ 'tenant'")

    fact.ours(preset)


@pytest.mark.parametrize("whose", ["ROLE {app}", "DATABASE {db}", "ROLE {app} IN DATABASE {db}"])
def test_23_finds_a_preset_tenant(whose, shop, twh_attack):
    """The lint finds sessions that begin with a tenant."""
    attack = twh_attack(
        number=23, title="works without a tenant where one is preset", form=whose.split(" {")[0]
    )
    shop.plant(f"ALTER {whose.format(app=APP, db=shop.database.name)} SET twh.tenant_id = 'b'")

    def stolen():
        with shop.connect() as connection:
            return secrets(attempt(connection, ALL))

    attack.control(stolen())
    with shop.ours(None) as connection:
        attack.ours(secrets(attempt(connection, ALL)))
    assert "setting_preset" in shop.faults()
    shop.mend("TWH111")
    attack.ours(stolen())


def test_24_reuses_a_plan(shop, twh_attack):
    """The tenant is computed anew for each execution of a cached plan."""
    attack = twh_attack(
        number=24, title="executes a prepared query that was planned for another tenant"
    )

    def stolen():
        with shop.ours(B) as connection:
            for tenant in (B, A):
                with bind_tenant(tenant):
                    connection.execute("SET LOCAL plan_cache_mode = force_generic_plan")
                    rows = connection.execute(ALL, prepare=True).fetchall()
                    connection.commit()  # psycopg forgets what it prepared on a rollback
        return secrets(rows)

    attack.ours(stolen())
    shop.plant("ALTER FUNCTION twh.current_tenant() IMMUTABLE")
    attack.control(stolen())
    shop.mend("TWH401")
    attack.ours(stolen())


def test_25_uses_a_fault_of_the_server(shop, twh_attack):
    """No known fault of row security is open in this server; the lint names those of an older."""
    residual = twh_attack(
        number=25, title="uses a fault of row security in an old minor version", kind="residual"
    )
    faults = lint(shop.admin, rules=["TWH801"]).findings
    now = read_catalog(shop.admin)
    old = replace(now, server=replace(now.server, version=150_002))
    [found] = [one for one in lint_catalog(old).findings if one.rule.id == "TWH801"]

    residual.ours(faults)
    assert faults == ()
    assert all(fault in found.message for fault, majors in FIRST_FIXED.items() if 15 in majors)
