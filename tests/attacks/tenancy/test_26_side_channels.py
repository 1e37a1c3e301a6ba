"""
Attacks 26 to 33: what can be inferred, and what knows no tenant.

The policies are the same on both sides; the fault is a key, a grant, a function
or a name.  Where the catalog shows it, *ours* is the remedy of the lint.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from tests.attacks._shop import APP, MINE, A, B, attempt, run, secrets
from twh_platform.tenancy import bind_tenant
from twh_platform.tenancy.postgres import (
    TenantTable,
    tenant_channel,
    tenant_lock_key,
    tenant_sql,
)
from twh_platform.tenancy.postgres.psycopg import TenantConnection

GUESSES = ["free 1", "b's 1", "free 2", "b's 2"]


def isolated(*tables: TenantTable | str) -> str:
    """The SQL that isolates these tables for the app."""
    return tenant_sql(
        [TenantTable(name=one) if isinstance(one, str) else one for one in tables], role=APP
    )


def plant_codes(shop) -> None:
    """Plant codes of b under a key across tenants, and under one within the tenant."""
    columns = "(tenant_id text, code text)"
    rows = "VALUES ('b', 'b''s 1'), ('b', 'b''s 2')"
    shop.plant(
        f"CREATE TABLE naive_codes {columns}; INSERT INTO naive_codes {rows};"
        f"CREATE TABLE codes {columns}; INSERT INTO codes {rows};"
        "CREATE UNIQUE INDEX ON naive_codes (code);"
        + isolated("naive_codes", TenantTable(name="codes", keys=[("code",)])),
        owner=True,
    )


def test_26_inserts_keys_to_learn_which_exist(shop, twh_attack):
    """A key across tenants answers with an error where another tenant has it."""
    attack = twh_attack(number=26, title="inserts keys, and learns from errors which others have")
    plant_codes(shop)

    def learned(table: str) -> list[str]:
        insert = f"INSERT INTO {table} (code) VALUES (%s)"
        told = []
        for guess in GUESSES:
            with shop.ours(A) as connection:
                try:
                    connection.execute(insert, [guess])
                except psycopg.errors.UniqueViolation:
                    told.append(guess)
        return told

    attack.control(learned("naive_codes"))
    attack.ours(learned("codes"))


def test_26_inserts_quietly_to_learn_which_keys_exist(shop, twh_attack):
    """ON CONFLICT DO NOTHING asks the same without an error; the lint knows the key."""
    attack = twh_attack(number=26, title="the same quietly, with ON CONFLICT DO NOTHING")
    plant_codes(shop)
    insert = "INSERT INTO {} (code) VALUES ('{}') ON CONFLICT DO NOTHING RETURNING code"

    def learned(table: str) -> list[str]:
        with shop.ours(A) as connection:
            asked = {guess: guess.replace("'", "''") for guess in GUESSES}
            return [
                one for one, sql in asked.items() if not run(connection, insert.format(table, sql))
            ]

    attack.control(learned("naive_codes"))
    attack.ours(learned("codes"))
    shop.mend("global-unique")
    attack.ours(learned("naive_codes"))


PARENT, LATER = "00000000-0000-0000-0000-00000000000b", "00000000-0000-0000-0000-00000000000c"


def plant_items(shop) -> None:
    """Plant items and their notes twice: referenced by id alone, and with the tenant."""
    shop.plant(
        "CREATE TABLE naive_items (tenant_id text, id uuid PRIMARY KEY);"
        "CREATE TABLE naive_notes (tenant_id text, item_id uuid REFERENCES naive_items);"
        "CREATE TABLE naive_tags (tenant_id text,"
        " item_id uuid REFERENCES naive_items ON DELETE CASCADE);"
        "CREATE TABLE items (tenant_id text, id uuid, PRIMARY KEY (tenant_id, id));"
        "CREATE TABLE notes (tenant_id text, item_id uuid,"
        " FOREIGN KEY (tenant_id, item_id) REFERENCES items);"
        "CREATE TABLE tags (tenant_id text, item_id uuid,"
        " FOREIGN KEY (tenant_id, item_id) REFERENCES items ON DELETE CASCADE);"
        f"INSERT INTO naive_items VALUES ('b', '{PARENT}');"
        f"INSERT INTO items VALUES ('b', '{PARENT}');"
        + isolated("naive_items", "naive_notes", "naive_tags", "items", "notes", "tags"),
        owner=True,
    )


def accepted(shop, table: str) -> list[str]:
    """Reference an item of b, and one that nobody has, as a; tell which went through."""
    done = []
    for item in (PARENT, LATER):
        with shop.ours(A) as connection:
            insert = f"INSERT INTO {table} (item_id) VALUES ('{item}') RETURNING 'secret of b'"
            done += [item] * secrets(attempt(connection, insert))
            connection.commit()
    return done


def test_27_references_a_row_to_learn_whether_it_exists(shop, twh_attack):
    """A foreign key without the tenant is checked past the policies."""
    attack = twh_attack(number=27, title="references a row of another tenant, and learns it exists")
    plant_items(shop)

    attack.control(accepted(shop, "naive_notes"))
    attack.ours(accepted(shop, "notes"))


def test_27_hangs_its_row_onto_that_of_another(shop, twh_attack):
    """The owner of the row can then not delete it any more."""
    attack = twh_attack(number=27, title="pins a row of another tenant by referencing it")
    plant_items(shop)

    def pinned(table: str) -> int:
        with shop.ours(B) as connection:
            told = attempt(connection, f"DELETE FROM {table}")
            return len([one for one in told if "violates foreign key" in str(one)])

    for table in ("naive_notes", "notes"):
        accepted(shop, table)
    attack.control(pinned("naive_items"))
    attack.ours(pinned("items"))


def test_27_deletes_rows_of_others_by_cascade(shop, twh_attack):
    """A deletes an item of its own; B's tags hung on it, by an id that A had given out."""
    attack = twh_attack(number=27, title="deletes rows of another tenant by ON DELETE CASCADE")
    plant_items(shop)

    def lost(items: str, tags: str) -> int:
        run(shop.admin, f"INSERT INTO {items} VALUES ('a', '{LATER}')")
        with shop.ours(B) as connection:
            attempt(connection, f"INSERT INTO {tags} (item_id) VALUES ('{PARENT}'), ('{LATER}')")
            attempt(connection, f"INSERT INTO {tags} (item_id) VALUES ('{PARENT}')")
            connection.commit()
        count = f"SELECT count(*) FROM {tags} WHERE tenant_id = 'b'"
        before = run(shop.admin, count)[0][0]
        with shop.ours(A) as connection:
            run(connection, f"DELETE FROM {items}")
            connection.commit()
        return before - run(shop.admin, count)[0][0]

    attack.control(lost("naive_items", "naive_tags"))
    attack.ours(lost("items", "tags"))


SEQUENCE_READS = {
    "relation": "SELECT last_value FROM tickets_id_seq",
    "pg_sequences": "SELECT last_value FROM pg_sequences WHERE sequencename = 'tickets_id_seq'",
    "function": "SELECT pg_sequence_last_value('tickets_id_seq'::regclass)",
    "nextval": "SELECT nextval('tickets_id_seq')",
}


@pytest.mark.parametrize("form", SEQUENCE_READS)
def test_28_reads_the_last_value_of_a_sequence(shop, twh_attack, form):
    """How far a sequence has gone tells how much all others did."""
    attack = twh_attack(number=28, title="reads how far a sequence has gone", form=form)
    shop.plant(
        "CREATE TABLE tickets (tenant_id text, id bigserial, PRIMARY KEY (tenant_id, id));"
        "INSERT INTO tickets (tenant_id) SELECT 'b' FROM generate_series(1, 5);"
        + isolated("tickets")
        + f"GRANT SELECT, USAGE ON SEQUENCE tickets_id_seq TO {APP}",
        owner=True,
    )

    def told() -> int:
        with shop.ours(A) as connection:
            rows = attempt(connection, SEQUENCE_READS[form])
            return sum(row[0] for row in rows if isinstance(row[0], int))

    attack.control(told())
    shop.mend("sequence-readable", "sequence-usable")
    attack.ours(told())


def test_28_counts_others_by_the_gap_in_its_own_ids(shop, twh_attack):
    """Between two ids of its own lie those that others drew; between two UUIDs nothing does."""
    attack = twh_attack(number=28, title="counts what others did by the gap between its own ids")
    shop.plant(
        "CREATE TABLE naive_tickets (tenant_id text, id bigint GENERATED ALWAYS AS IDENTITY);"
        "CREATE TABLE tickets (tenant_id text, id uuid DEFAULT gen_random_uuid());"
        + isolated("naive_tickets", "tickets"),
        owner=True,
    )

    def told(table: str) -> int:
        drawn = []
        for _ in range(2):
            with shop.ours(A) as connection:
                drawn += run(connection, f"INSERT INTO {table} DEFAULT VALUES RETURNING id")
                connection.commit()
            run(
                shop.admin, f"INSERT INTO {table} (tenant_id) SELECT 'b' FROM generate_series(1, 5)"
            )
        first, second = (getattr(one, "int", one) for (one,) in drawn)
        return second - first - 1 if second - first - 1 == 5 else 0

    attack.control(told("naive_tickets"))
    attack.ours(told("tickets"))


# An index led by the tenant would already spare the attacker the others' rows.
NO_INDEX = "SET LOCAL enable_indexscan = off; SET LOCAL enable_bitmapscan = off"

TELL = """
CREATE FUNCTION tell(body text) RETURNS boolean LANGUAGE plpgsql COST 0.0001 {} AS $$
BEGIN RAISE NOTICE '%', body; RETURN true; END $$;
"""


def overheard(connection: Any, sql: str) -> int:
    """Count the secrets in what a statement gives, in its rows, its error and its notices."""
    heard: list[Any] = []
    connection.add_notice_handler(lambda one: heard.append(one.message_primary))
    return secrets([*attempt(connection, sql), *heard])


def test_29_has_a_function_tell_rows_it_filters(shop, twh_attack):
    """The barrier lets a function see own rows alone, unless it is LEAKPROOF."""
    attack = twh_attack(number=29, title="filters by a function that tells what it sees")
    shop.plant(TELL.format("LEAKPROOF"))
    peek = "SELECT id FROM orders WHERE tell(body)"

    with shop.ours(A) as connection:
        attack.control(overheard(connection, f"{NO_INDEX}; {peek}"))
    shop.mend("leakproof-function")
    with shop.ours(A) as connection:
        attack.ours(overheard(connection, f"{NO_INDEX}; {peek}"))
        assert len(run(connection, peek)) == MINE


ERRORS = {
    "cast": "SELECT id FROM {} WHERE tenant_id <> 'a' AND body::int = 0",
    "division": "SELECT id FROM {} WHERE tenant_id <> 'a' AND 1 / (length(body) - 13) > 9",
}


@pytest.mark.parametrize("form", ERRORS)
def test_29_makes_rows_fail_that_it_filters(shop, twh_attack, form):
    """Control: a view that filters is no barrier, so the condition meets others' rows first."""
    attack = twh_attack(number=29, title="makes rows of others raise an error", form=form)
    shop.plant(
        "CREATE FUNCTION naive_tenant() RETURNS text LANGUAGE plpgsql STABLE AS"
        " $$ BEGIN RETURN current_setting('app.tenant_id'); END $$;"
        "CREATE VIEW naive_orders AS SELECT * FROM orders WHERE tenant_id = naive_tenant();"
        f"GRANT SELECT ON naive_orders TO {APP}"
    )

    way = ERRORS[form]

    def failed(told: list[Any]) -> int:
        return len([one for one in told if "secret of" in str(one) or "by zero" in str(one)])

    with shop.naive(A) as connection:
        attack.control(failed(attempt(connection, f"{NO_INDEX}; {way.format('naive_orders')}")))
    with shop.ours(A) as connection:
        attack.ours(failed(attempt(connection, f"{NO_INDEX}; {way.format('orders')}")))


def test_29_declares_a_function_leakproof(shop, twh_attack):
    """Only a superuser may; a role that may create functions may not create such."""
    attack = twh_attack(number=29, title="makes a LEAKPROOF function of its own", kind="fact")
    shop.plant(f"GRANT CREATE ON SCHEMA public TO {APP}")
    leakproof = "SELECT 1 FROM pg_proc WHERE proname = 'tell' AND proleakproof"

    with shop.ours(A) as connection:
        refused = attempt(connection, TELL.format("LEAKPROOF"))
        run(connection, TELL.format(""))
        refused += attempt(connection, "ALTER FUNCTION tell(text) LEAKPROOF")
        attack.ours(run(connection, leakproof))
    assert "only superuser can define a leakproof function" in str(refused[0])


def removed(connection: Any, table: str) -> int:
    """Count the rows that a plan says its filter took away."""
    plan = run(connection, f"EXPLAIN (ANALYZE, FORMAT JSON) SELECT * FROM {table}")[0][0]
    return int(plan[0]["Plan"].get("Rows Removed by Filter", 0))


def test_30_counts_rows_of_others_by_explain(shop, twh_attack):
    """Whoever can send EXPLAIN can also turn index scans off: no index hides the count."""
    attack = twh_attack(
        number=30, title="counts rows of others by EXPLAIN ANALYZE", kind="residual"
    )
    with shop.ours(A) as connection:
        run(connection, "SET LOCAL enable_seqscan = off")
        assert removed(connection, "orders") == 0
        run(connection, f"SET LOCAL enable_seqscan = on; {NO_INDEX}")
        attack.ours(removed(connection, "orders"))


def test_30_reads_the_planners_statistics(shop, twh_attack):
    """They hold values of all tenants, and PostgreSQL hides them where policies hold."""
    attack = twh_attack(number=30, title="reads values of others in the statistics", kind="fact")
    shop.plant(
        "CREATE TABLE naive_copy AS SELECT * FROM orders, generate_series(1, 9);"
        "INSERT INTO orders SELECT tenant_id, id + 9 * n, body"
        " FROM orders, generate_series(1, 9) AS n;"
        f"GRANT SELECT ON naive_copy TO {APP};"
        "CREATE STATISTICS several (mcv) ON tenant_id, body FROM orders;"
        "ANALYZE naive_copy; ANALYZE orders"
    )
    read = "SELECT most_common_vals::text FROM {} WHERE tablename = '{}'"

    with shop.ours(A) as connection:
        attack.control(secrets(run(connection, read.format("pg_stats", "naive_copy"))))
        for view in ("pg_stats", "pg_stats_ext"):
            attack.ours(secrets(run(connection, read.format(view, "orders"))))


def test_30_reads_how_large_a_table_is(shop, twh_attack):
    """Sizes and row counts are of all tenants together; the catalog cannot be closed."""
    attack = twh_attack(
        number=30, title="reads how many rows all tenants have together", kind="residual"
    )
    shop.plant("ANALYZE orders")

    with shop.ours(A) as connection:
        count = run(connection, "SELECT reltuples::int FROM pg_class WHERE relname = 'orders'")
    assert count == [(6,)]
    attack.ours(count[0][0])


ACTIVITY = "SELECT query FROM pg_stat_activity WHERE pid <> pg_backend_pid()"


def test_31_reads_the_statements_of_others(shop, twh_attack):
    """`track_activities` is for superusers to turn on again."""
    attack = twh_attack(number=31, title="reads literals in the statements of other sessions")

    def told() -> int:
        with shop.ours(B) as victim:
            run(victim, "SELECT 1 WHERE 'secret of b' = ''")
            attempt(victim, "SET track_activities = on")
            run(victim, "SELECT 1 WHERE 'secret of b' = ''")
            with shop.ours(A) as connection:
                return secrets(run(connection, ACTIVITY))

    attack.control(told())
    shop.mend("visible-activity")
    attack.ours(told())


def test_31_reads_the_parameters_of_others(shop, twh_attack):
    """What is sent as a parameter is not shown; the control writes it into the text."""
    attack = twh_attack(
        number=31, title="reads parameters in the statements of other sessions", kind="fact"
    )
    with shop.ours(B) as victim, shop.connect() as spy:
        victim.execute("SELECT %s::text WHERE 'secret of b' = ''", ["x"])
        attack.control(secrets(run(spy, ACTIVITY)))
        spy.rollback()  # a transaction sees one state of the view
        victim.execute("SELECT 1 WHERE %s = ''", ["secret of b"])
        attack.ours(secrets(run(spy, ACTIVITY)))


@pytest.mark.parametrize("function", ["pg_terminate_backend", "pg_cancel_backend"])
def test_31_ends_the_sessions_of_others(shop, twh_attack, function):
    """They share a role, which may end its own; the functions can be taken away."""
    attack = twh_attack(number=31, title="ends the sessions of others", form=function)

    def ended() -> int:
        with shop.ours(B) as victim:
            pid = run(victim, "SELECT pg_backend_pid()")[0][0]
            with shop.ours(A) as connection:
                told = attempt(connection, f"SELECT {function}({pid})")
            return told.count((True,))

    attack.control(_even_if_the_victim_is_gone(ended))
    shop.mend("ends-sessions")
    attack.ours(_even_if_the_victim_is_gone(ended))


def _even_if_the_victim_is_gone(ended: Any) -> int:
    try:
        return ended()
    except psycopg.OperationalError:  # the victim found out when it said goodbye
        return 1


SECRET = b"a secret of the service, thirty-two bytes"


@contextmanager
def listening(shop, tenant, *channels: str) -> Any:
    """A tenant's session that listens, with what it hears."""
    dsn = shop.database.dsn(user=APP)
    with TenantConnection.connect(dsn, autocommit=True) as connection:
        with bind_tenant(tenant):
            for channel in channels:
                connection.execute(f'LISTEN "{channel}"')
        yield connection


def heard(connection, tenant) -> list[str]:
    """What came so far."""
    with bind_tenant(tenant):
        return [one.payload for one in connection.notifies(timeout=0.2)]


def test_32_listens_to_the_channel_of_others(shop, twh_attack):
    """A channel's name that cannot be computed cannot be listened to."""
    attack = twh_attack(number=32, title="listens to what others are told on their channel")
    with bind_tenant(B):
        channel = tenant_channel("orders", secret=SECRET)
        guesses = ["orders", "orders_b", tenant_channel("orders", secret=b"\0" * 32)]
    with bind_tenant(A):
        guesses += [tenant_channel("orders", secret=SECRET)]

    with listening(shop, A, *guesses) as attacker, listening(shop, B, channel) as victim:
        with shop.ours(B) as connection:
            run(connection, "NOTIFY orders, 'secret of b'")
            run(connection, f"NOTIFY {channel}, 'secret of b, again'")
            connection.commit()
        got = heard(attacker, A)
        assert heard(victim, B) == ["secret of b, again"]

    attack.control(got.count("secret of b"))
    attack.ours(got.count("secret of b, again"))


def test_32_notifies_the_listeners_of_others(shop, twh_attack):
    """Nor can anything be said on it."""
    attack = twh_attack(number=32, title="tells the listeners of others what is not true")
    with bind_tenant(B):
        channel = tenant_channel("orders", secret=SECRET)
        guesses = ["orders_b", tenant_channel("orders", secret=b"\0" * 32)]
    with bind_tenant(A):
        guesses += [tenant_channel("orders", secret=SECRET)]

    with listening(shop, B, "orders", channel) as victim, shop.ours(A) as connection:
        run(connection, "NOTIFY orders, 'lie'")
        connection.commit()
        attack.control(heard(victim, B))
        run(connection, "; ".join(f"NOTIFY \"{one}\", 'lie'" for one in guesses))
        connection.commit()
        attack.ours(heard(victim, B))


def test_32_holds_the_advisory_lock_that_others_wait_for(shop, twh_attack):
    """Two tenants that lock the same name do not meet, if the tenant is in the key."""
    attack = twh_attack(number=32, title="makes others wait by taking a lock of the same name")
    take = "SELECT pg_try_advisory_xact_lock({})"

    def stopped(key: Any) -> int:
        with shop.ours(A) as first:
            assert run(first, take.format(key())) == [(True,)]
            with shop.ours(B) as second:
                return run(second, take.format(key())).count((False,))

    attack.control(stopped(lambda: "hashtext('nightly')"))
    attack.ours(stopped(lambda: tenant_lock_key("nightly")))


def test_32_takes_the_advisory_lock_of_others_by_its_number(shop, twh_attack):
    """Who can run SQL sees the numbers of the locks, and may take any."""
    attack = twh_attack(
        number=32, title="takes the advisory lock of others by its number", kind="residual"
    )
    with bind_tenant(B):
        key = tenant_lock_key("nightly")

    with shop.ours(A) as first:
        run(first, f"SELECT pg_advisory_xact_lock({key})")
        with shop.ours(B) as second:
            attack.ours(run(second, f"SELECT pg_try_advisory_xact_lock({key})").count((False,)))


def test_32_reads_the_large_objects_of_others(shop, twh_attack):
    """They know no tenant, so nobody of the application may work with them."""
    attack = twh_attack(number=32, title="reads the large objects of others")

    def stolen() -> int:
        with shop.ours(B) as victim:
            attempt(victim, "SELECT lo_from_bytea(7, 'secret of b')")
            victim.commit()
        with shop.ours(A) as connection:
            ways = ["SELECT convert_from(lo_get(7), 'UTF8')"]
            ways += ["SELECT convert_from(loread(lo_open(7, 262144), 99), 'UTF8')"]
            return sum(secrets(attempt(connection, way)) for way in ways)

    attack.control(stolen())
    shop.mend("large-objects")
    attack.ours(stolen())


def test_32_locks_a_table_for_all(shop, twh_attack):
    """Whoever may update may lock; timeouts let the others fail and not hang."""
    attack = twh_attack(number=32, title="locks a table that all tenants use", kind="residual")

    with shop.ours(A) as first:
        run(first, "LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
        with shop.ours(B) as second:
            run(second, "SET LOCAL lock_timeout = '10ms'")
            told = attempt(second, "SELECT count(*) FROM orders")
    attack.ours([one for one in told if "lock timeout" in str(one)])
