"""
Attack 54: the token of another tenant, read where it may be seen, and presented.
"""

from __future__ import annotations

import re
import time
from contextlib import contextmanager

import psycopg
import pytest

from tests.attacks._shop import APP, A, B, attempt, run
from twh_platform.tenancy import bind_tenant

TOKEN = re.compile(r"1[0-9a-f]{4}\d{10}b\.[0-9a-f]{64}")


def present(shop, said):
    """Count the secrets that the tokens of tenant B bring that are in there."""
    return sum(
        shop.steal(f"SET LOCAL twh.tenant_id = '{token}'; SELECT * FROM public.orders")
        for token in set(TOKEN.findall(str(said)))
    )


@contextmanager
def at_work(shop):
    """Have another connection of the same login work for tenant B, right after its BEGIN."""
    with shop.ours(B) as victim, victim.transaction():
        yield victim


VIEWS = {
    "pg_stat_activity": "SELECT query FROM pg_stat_activity",
    "pg_stat_get_activity": "SELECT query FROM pg_stat_get_activity(NULL)",
    "pg_stat_get_backend_activity": "SELECT pg_stat_get_backend_activity(one)"
    " FROM pg_stat_get_backend_idset() AS one",
}
HIDDEN = f"ALTER ROLE {APP} SET track_activities = off"
REVOKED = (
    "REVOKE EXECUTE ON FUNCTION pg_stat_get_activity, pg_stat_get_backend_activity FROM PUBLIC"
)


@pytest.mark.parametrize("defence", [HIDDEN, REVOKED], ids=["hidden", "revoked"])
@pytest.mark.parametrize("view", VIEWS)
def test_54_polls_activity(view, defence, sealed, twh_attack):
    """Statements of the login are not shown, or nobody may ask for them."""
    attack = twh_attack(
        number=54,
        title="reads a token in the activity of other sessions",
        form=f"{view}, {defence.split()[0].lower()}",
    )
    shop = sealed.shop

    def stolen():
        with at_work(shop), shop.connect() as spy:
            said = attempt(spy, VIEWS[view])
        return present(shop, said)

    attack.control(stolen())
    shop.plant(defence)
    attack.ours(stolen())


def test_54_polls_from_another_database(sealed, server, twh_attack):
    """What is hidden is hidden in every database of the server."""
    attack = twh_attack(
        number=54, title="reads a token in the activity, from another database of the server"
    )
    shop = sealed.shop

    def stolen():
        elsewhere = psycopg.connect(server.dsn("postgres", user=APP))
        with at_work(shop), elsewhere as spy:
            said = attempt(spy, VIEWS["pg_stat_activity"])
        return present(shop, said)

    attack.control(stolen())
    assert "token_visible" in shop.faults()
    shop.plant(HIDDEN)
    assert "token_visible" not in shop.faults()
    attack.ours(stolen())


def test_54_switches_activity_on(sealed, twh_attack):
    """Only a superuser sets track_activities, so an injection cannot make a session visible."""
    fact = twh_attack(number=54, title="makes the activity of a session visible again", kind="fact")
    shop = sealed.shop
    shop.plant(HIDDEN)
    switches = ("SET {} = on", "SET LOCAL {} = on", "SELECT set_config('{}', 'on', false)")
    said = []
    for switch in (*switches, f"ALTER ROLE {APP} SET {{}} = on", f"ALTER ROLE {APP} RESET ALL"):
        with shop.ours(B) as victim:
            attempt(victim, f"{switch.format('track_activities')}; COMMIT")
            victim.commit()
            with victim.transaction(), shop.connect() as spy:
                said += attempt(spy, VIEWS["pg_stat_activity"])
    fact.ours(present(shop, said))


@pytest.mark.parametrize("defence", ["closed", "not kept"])
def test_54_reads_statements(defence, sealed, server, twh_attack):
    """Utility statements, which are kept as they came, are not kept or not shown."""
    if server.version >= (18, 0):
        pytest.skip("since PostgreSQL 18 the values of SET are not kept")
    attack = twh_attack(number=54, title="reads a token in pg_stat_statements", form=defence)
    shop = sealed.shop
    shop.plant("CREATE EXTENSION pg_stat_statements; SELECT pg_stat_statements_reset()")

    def stolen():
        with at_work(shop) as victim:
            run(victim, "SELECT 1")
        with shop.connect() as spy:
            return present(shop, attempt(spy, "SELECT query FROM pg_stat_statements(true)"))

    attack.control(stolen())
    assert "token_in_statements" in shop.faults()
    shop.plant(
        f"ALTER ROLE {APP} SET pg_stat_statements.track_utility = off"
        if defence == "not kept"
        else "REVOKE ALL ON FUNCTION pg_stat_statements, pg_stat_statements_info FROM PUBLIC;"
        "REVOKE ALL ON pg_stat_statements, pg_stat_statements_info FROM PUBLIC"
    )
    shop.plant("SELECT pg_stat_statements_reset()")
    attack.ours(stolen())


def test_54_reads_parameters_in_statements(sealed, server, twh_attack):
    """Since PostgreSQL 18 the values of SET are kept as parameters, that is, not at all."""
    if server.version < (18, 0):
        pytest.skip("before PostgreSQL 18 they are kept; see the attack")
    fact = twh_attack(
        number=54, title="reads a token in pg_stat_statements of PostgreSQL 18", kind="fact"
    )
    sealed.shop.plant("CREATE EXTENSION pg_stat_statements; SELECT pg_stat_statements_reset()")
    with at_work(sealed.shop) as victim:
        run(victim, "SELECT 1")
    with sealed.shop.connect() as spy:
        said = attempt(spy, "SELECT query FROM pg_stat_statements(true)")

    fact.ours(present(sealed.shop, said))
    assert "SET LOCAL twh.tenant_id = $1" in str(said)


COPY_FILE = (
    "CREATE TEMP TABLE loot (line text); COPY loot FROM '{}' (FORMAT csv, DELIMITER E'\\x01',"
    " QUOTE E'\\x02'); TABLE loot"
)


def test_54_reads_the_servers_log(sealed, server, twh_attack):
    """The lint finds a login that may read the server's files, its log among them."""
    attack = twh_attack(number=54, title="reads a token in the server's log")
    shop, log = sealed.shop, server._temporary / "postgres.log"
    shop.plant(f"ALTER ROLE {APP} SET log_statement = 'all'; GRANT pg_read_server_files TO {APP}")

    def stolen():
        with at_work(shop), shop.connect() as spy:
            said = attempt(spy, COPY_FILE.format(log))
            return present(shop, said)

    try:
        attack.control(stolen())
        shop.mend("TWH108")
    finally:
        shop.plant(f"REVOKE pg_read_server_files FROM {APP}")
    attack.ours(stolen())


def test_54_looks_into_a_session(sealed, twh_attack):
    """What belongs to one session is shown to that one alone."""
    fact = twh_attack(number=54, title="reads a token in what another session holds", kind="fact")
    views = ("pg_prepared_statements", "pg_cursors", "pg_settings", "pg_locks", "pg_file_settings")
    said = []
    with at_work(sealed.shop) as victim:
        run(victim, "PREPARE x AS SELECT * FROM orders; DECLARE y CURSOR FOR SELECT * FROM orders")
        for view in views:
            with sealed.shop.connect() as spy:
                said += attempt(spy, f"SELECT v::text FROM {view} AS v")

    fact.ours(present(sealed.shop, said))


TELL = "pg_notify('loot', current_setting('twh.tenant_id'))"
TRAPS = {
    "a temporary view": "CREATE FUNCTION pg_temp.tell() RETURNS text LANGUAGE sql"
    f" AS $$ SELECT {TELL}::text $$; CREATE TEMP VIEW orders AS"
    " SELECT o.* FROM public.orders AS o, pg_temp.tell() AS t WHERE t IS NOT NULL OFFSET 0",
    "a prepared statement": "DEALLOCATE _pg3_0; PREPARE _pg3_0 AS"
    f" SELECT o.* FROM public.orders AS o, (SELECT {TELL} OFFSET 0) AS x",
}


@pytest.mark.parametrize("form", TRAPS)
def test_54_leaves_a_trap(form, sealed, twh_attack):
    """What a tenant left in the session is gone before the next one's token is there."""
    attack = twh_attack(
        number=54, title="leaves a trap in the session that tells the next one's token", form=form
    )
    shop = sealed.shop

    def told(connection, bind):
        with shop.connect(autocommit=True) as listener:
            run(listener, "LISTEN loot")
            for tenant in (A, B):
                with bind_tenant(tenant):
                    bind(connection, tenant)
                    work(connection)
                    if tenant is A:
                        attempt(connection, TRAPS[form])
                        connection.commit()
            run(listener, "SELECT 1")
            return present(shop, list(listener.notifies(timeout=0.2, stop_after=1)))

    def by_hand(connection, tenant):
        run(connection, f"SET LOCAL twh.tenant_id = '{sealed.seal.token(tenant.id)}'")

    with shop.connect() as plain:
        attack.control(told(plain, by_hand))
    with shop.ours(None) as bound:
        attack.ours(told(bound, bind=lambda _connection, _tenant: None))


def work(connection):
    """Run a query that the driver prepares; a connection that was tampered with is given up."""
    try:
        connection.execute("SELECT * FROM orders", prepare=True).fetchall()
        connection.commit()
    except psycopg.Error:
        connection.close()


def test_54_reads_the_refusal(sealed, twh_attack):
    """An error that says a token was refused does not quote it, whoever gets to see it."""
    attack = twh_attack(number=54, title="reads a token in the error that refuses it")
    token = sealed.withdrawn.token("b", expires_at=int(time.time()) + 60)
    work_on = f"SET LOCAL twh.tenant_id = '{token}'; SELECT * FROM orders"

    def told():
        with sealed.shop.connect() as victim, pytest.raises(psycopg.Error) as refused:
            run(victim, work_on)
        diagnosis = refused.value.diag
        said = [getattr(diagnosis, name) for name in dir(diagnosis) if not name.startswith("_")]
        return TOKEN.findall(f"{refused.value} {said}")

    attack.ours(told())
    sealed.shop.plant(
        "CREATE OR REPLACE FUNCTION twh.raise_unsealed() RETURNS text LANGUAGE plpgsql AS $$ BEGIN"
        " RAISE 'not a tenant: %', current_setting('twh.tenant_id'); END $$"
    )
    attack.control(told())
