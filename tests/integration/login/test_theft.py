"""
What the faults of visible tokens are about: a token is taken, or is not to be seen.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from tests.support.login_plants import APP
from twh_platform.tenancy import Tenant, bind_tenant
from twh_platform.tenancy.postgres import Seal
from twh_platform.tenancy.postgres.psycopg import TenantConnection
from twh_platform.tenancy.postgres.seal import add_seal_key

A, B = Tenant(id="a"), Tenant(id="b")
POLL = "SELECT query FROM pg_stat_activity WHERE usename = session_user AND pid <> pg_backend_pid()"


@pytest.fixture
def victim(sealed, planter):
    """
    A class of sealed connections.
    """
    planter.execute("DELETE FROM twh.seal_keys")
    return TenantConnection.using(seal=Seal(add_seal_key(planter)))


def seen(database, victim, *, attacker_in=None) -> str:
    """
    What an attacker reads while a transaction is open, on a connection of his own.
    """
    where = attacker_in or database
    with (
        victim.connect(database.dsn(user=APP), autocommit=True) as connection,
        psycopg.connect(where.dsn(user=APP), autocommit=True) as attacker,
        bind_tenant(B),
        connection.transaction(),
    ):
        return " ".join(query or "" for (query,) in attacker.execute(POLL))


def test_a_safe_login_shows_no_token(sealed, victim):
    """With track_activities off there is nothing to read."""
    assert ".tenant_id" not in seen(sealed, victim)


def test_a_visible_login_shows_its_token(sealed, victim, planter):
    """Control: with track_activities on the token stands in the text of BEGIN."""
    planter.execute(f"ALTER ROLE {APP} IN DATABASE sealed RESET track_activities")
    found = seen(sealed, victim)
    planter.execute(f"ALTER ROLE {APP} IN DATABASE sealed SET track_activities = off")

    assert "SET LOCAL twh.tenant_id = '1" in found


BAIT = """DO $$ BEGIN
    FOR i IN 1..500 LOOP EXECUTE 'CREATE TEMP TABLE t' || i || ' ()'; END LOOP;
END $$"""


def test_who_may_set_it_turns_it_on_for_the_next(sealed, victim, planter):
    """Control: one injected SET, and the message with the next tenant's token is shown."""
    # The bait needs it; a sealed database has taken it away.
    planter.execute(f"GRANT TEMPORARY ON DATABASE sealed TO {APP}")
    planter.execute(f"GRANT SET ON PARAMETER track_activities TO {APP}")
    found = seen_while_scrubbing(sealed, victim, f"SET track_activities = on; {BAIT}")
    planter.execute(f"REVOKE ALL ON PARAMETER track_activities FROM {APP}")

    hidden = seen_while_scrubbing(sealed, victim, BAIT)
    planter.execute(f"REVOKE TEMPORARY ON DATABASE sealed FROM {APP}")

    assert "SET LOCAL twh.tenant_id = '1" in found
    assert ".tenant_id" not in hidden


def seen_while_scrubbing(database, victim, injected) -> str:
    """
    What an attacker reads while a connection goes from tenant a, injected, to b.

    The scrub resets the setting first of all, but what is shown is the whole
    message, until its end; the attacker has made that last.
    """
    found = set()
    with (
        victim.connect(database.dsn(user=APP), autocommit=True) as connection,
        psycopg.connect(database.dsn(user=APP), autocommit=True) as attacker,
        ThreadPoolExecutor() as pool,
    ):
        with bind_tenant(A):
            connection.execute(injected)
        switch = pool.submit(begin_as, B, connection)
        while not switch.done():
            found.update(query or "" for (query,) in attacker.execute(POLL))
        switch.result()
    return " ".join(found)


def begin_as(tenant, connection) -> None:
    """
    Open a transaction for a tenant, and end it.
    """
    with bind_tenant(tenant), connection.transaction():
        pass


def test_another_database_shows_it_too(sealed, plain, victim, planter):
    """Control: with both functions revoked here, the token is read from next door."""
    planter.execute(f"ALTER ROLE {APP} IN DATABASE sealed RESET track_activities")
    for name in ("pg_stat_get_activity", "pg_stat_get_backend_activity"):
        planter.execute(f"REVOKE EXECUTE ON FUNCTION {name} FROM PUBLIC")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        seen(sealed, victim)
    found = seen(sealed, victim, attacker_in=plain)
    for name in ("pg_stat_get_activity", "pg_stat_get_backend_activity"):
        planter.execute(f"GRANT EXECUTE ON FUNCTION {name} TO PUBLIC")
    planter.execute(f"ALTER ROLE {APP} IN DATABASE sealed SET track_activities = off")

    assert "SET LOCAL twh.tenant_id = '1" in found
