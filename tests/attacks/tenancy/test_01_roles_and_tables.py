"""
Attacks 1 to 13: roles, tables and what stands around them.

Where the catalog shows the fault, *ours* is the same attack after the lint has
found what was planted and its remedy has run.
"""

from __future__ import annotations

import psycopg
import pytest
from psycopg import errors

from tests.attacks._shop import APP, MINE, OWNER, THEIRS, A, B, attempt, run, secrets
from twh_platform.tenancy.postgres import TenantTable, tenant_sql

ALL = "SELECT * FROM orders"

# Where the attacker may make things of their own.
WORKSHOP = f"CREATE SCHEMA mine AUTHORIZATION {APP}"


@pytest.mark.parametrize(
    ("attribute", "rule", "code"),
    [
        ("SUPERUSER", "TWH101", "login_superuser"),
        ("BYPASSRLS", "TWH102", "login_bypasses_policies"),
    ],
)
def test_01_logs_in_unheld(attribute, rule, code, shop, twh_attack):
    """The service refuses to start with a login that no policy holds; the lint finds it."""
    attack = twh_attack(
        number=1, title="uses a service that logs in as a role no policy holds", form=attribute
    )
    login = shop.role("login", attribute)
    shop.plant(f"GRANT {APP} TO {login}")

    attack.control(shop.steal(ALL, user=login))
    assert code in shop.faults(login)
    shop.mend(rule, role=login)
    assert code not in shop.faults(login)
    attack.ours(shop.steal(ALL, user=login))


@pytest.mark.parametrize("change", ["SET ROLE {}", "SELECT set_config('role', '{}', true)"])
def test_01_becomes_unheld(change, shop, twh_attack):
    """Nor with one that can become such a role; the lint finds the membership."""
    attack = twh_attack(
        number=1,
        title="becomes a role no policy holds",
        form=change.partition("{")[0].rstrip(" ('"),
    )
    boss = shop.role("boss", "BYPASSRLS")
    shop.plant(f"GRANT SELECT ON orders TO {boss}; GRANT {boss} TO {APP}")
    injected = f"{change.format(boss)}; {ALL}"

    attack.control(shop.steal(injected))
    assert "login_bypasses_policies" in shop.faults()
    shop.mend("TWH104")
    attack.ours(shop.steal(injected))


def test_02_owns_the_table(shop, twh_attack):
    """FORCE holds the owner too."""
    attack = twh_attack(number=2, title="logs in as the owner of the tables")
    shop.plant_naive()

    with shop.naive(user=OWNER) as owner:
        attack.control(secrets(run(owner, "SELECT * FROM naive")))
        attack.ours(secrets(attempt(owner, ALL)))


@pytest.mark.parametrize("fault", ["DISABLE", "NO FORCE"])
def test_02_row_security_was_left_off(fault, shop, twh_attack):
    """The lint finds a table whose policies are never asked."""
    attack = twh_attack(
        number=2, title="reads a table whose row security is off or not forced", form=fault
    )
    rule, reader = ("TWH202", APP) if fault == "DISABLE" else ("TWH203", OWNER)
    shop.plant(f"ALTER TABLE orders {fault} ROW LEVEL SECURITY")

    attack.control(shop.steal(ALL, user=reader))
    shop.mend(rule)
    attack.ours(shop.steal(ALL, user=reader))


def test_03_reads_a_superusers_view(shop, twh_attack):
    """The lint finds a view that reads with the rights of a superuser."""
    attack = twh_attack(number=3, title="reads a view that belongs to a superuser")
    shop.plant(f"CREATE VIEW recent AS {ALL}; GRANT SELECT ON recent TO {APP}")

    attack.control(shop.steal("SELECT * FROM recent"))
    shop.mend("TWH210")
    attack.ours(shop.steal("SELECT * FROM recent"))


def test_03_reads_an_owners_view(shop, twh_attack):
    """With FORCE a view of the owner shows the tenant's own rows and no others."""
    attack = twh_attack(number=3, title="reads a view that belongs to the owner of the table")
    shop.plant_naive()
    for table in ("naive", "orders"):
        view = f"CREATE VIEW {table}_view AS SELECT * FROM {table}"
        shop.plant(f"{view}; GRANT SELECT ON {table}_view TO {APP}", owner=True)

    attack.control(shop.steal("SELECT * FROM naive_view"))
    with shop.ours() as connection:
        rows = run(connection, "SELECT * FROM orders_view")

    attack.ours(secrets(rows))
    assert len(rows) == MINE


def test_04_calls_a_definer_function(shop, twh_attack):
    """The lint finds a function that works on tenant tables as a superuser."""
    attack = twh_attack(
        number=4, title="calls a SECURITY DEFINER function of a role no policy holds"
    )
    shop.plant(
        "CREATE FUNCTION everything() RETURNS SETOF orders LANGUAGE sql SECURITY DEFINER"
        " SET search_path = pg_catalog, pg_temp AS 'SELECT * FROM public.orders'"
    )

    attack.control(shop.steal("SELECT * FROM everything()"))
    shop.mend("TWH403")
    attack.ours(shop.steal("SELECT * FROM everything()"))


def test_04_calls_what_was_meant_for_others(shop, twh_attack):
    """The lint finds the EXECUTE that every login has by default."""
    attack = twh_attack(number=4, title="calls a SECURITY DEFINER function left to PUBLIC")
    shop.plant(
        "CREATE FUNCTION everything() RETURNS SETOF orders LANGUAGE sql SECURITY DEFINER"
        " SET search_path = pg_catalog, pg_temp AS 'SELECT * FROM public.orders'"
    )
    stranger = shop.role("stranger")

    attack.control(shop.steal("SELECT * FROM everything()", user=stranger))
    shop.mend("TWH405")
    attack.ours(shop.steal("SELECT * FROM everything()", user=stranger))


TIDY = "CREATE FUNCTION {}tidy(text) RETURNS text LANGUAGE sql AS '{}'"
SHADOWS = {
    "a function on the caller's path": (
        (
            f"{TIDY.format('', 'SELECT $1')};"
            "CREATE FUNCTION greet() RETURNS text LANGUAGE plpgsql SECURITY DEFINER"
            " AS $$ BEGIN RETURN tidy('hello'); END $$"
        ),
        (
            TIDY.format("mine.", "SELECT string_agg(body, chr(10)) FROM public.orders")
            + "; SET LOCAL search_path = mine, public; SELECT greet()"
        ),
    ),
    "a temporary table": (
        (
            "CREATE TABLE staff (name text);"
            "CREATE FUNCTION greet() RETURNS SETOF text LANGUAGE sql SECURITY DEFINER"
            " SET search_path = public AS"
            " 'SELECT body FROM orders WHERE session_user IN (SELECT name FROM staff)'"
        ),
        (
            f"CREATE TEMP TABLE staff AS SELECT '{APP}' AS name;"
            "GRANT SELECT ON staff TO PUBLIC; SELECT greet()"
        ),
    ),
}


@pytest.mark.parametrize("form", SHADOWS)
def test_04_shadows_what_it_reads(form, shop, twh_attack):
    """The lint finds a function that looks names up where its caller can put things."""
    attack = twh_attack(
        number=4, title="shadows a name that a SECURITY DEFINER function looks up", form=form
    )
    plant, injected = SHADOWS[form]
    shop.plant(f"{WORKSHOP}; {plant}")

    attack.control(shop.steal(injected))
    shop.mend("TWH404")
    attack.ours(shop.steal(injected))


def test_05_fires_a_definer_trigger(shop, twh_attack):
    """The lint finds a trigger that copies rows as a superuser."""
    attack = twh_attack(number=5, title="fires a SECURITY DEFINER trigger that copies rows")
    shop.plant("CREATE TABLE notes (tenant_id text, body text)", owner=True)
    shop.plant(tenant_sql([TenantTable(name="notes")], role=APP), owner=True)
    shop.plant(
        "CREATE FUNCTION copies() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER"
        " SET search_path = public, pg_temp AS $$ BEGIN"
        " NEW.body := (SELECT string_agg(body, chr(10)) FROM orders); RETURN NEW; END $$;"
        "CREATE TRIGGER copying BEFORE INSERT ON notes FOR EACH ROW EXECUTE FUNCTION copies()"
    )
    injected = "INSERT INTO notes (body) VALUES ('') RETURNING body"

    attack.control(shop.steal(injected))
    shop.mend("TWH406")
    attack.ours(shop.steal(injected))


def test_05_adds_a_trigger(shop, twh_attack):
    """TRIGGER is never granted, so nobody's rows are spied on as they arrive."""
    attack = twh_attack(number=5, title="adds a trigger that copies what other tenants write")
    shop.plant_naive()
    shop.plant(f"GRANT TRIGGER ON naive TO {APP}; {WORKSHOP}")
    spy = (
        "CREATE TABLE mine.loot (body text); CREATE FUNCTION mine.spy() RETURNS trigger"
        " LANGUAGE plpgsql AS $$ BEGIN INSERT INTO mine.loot VALUES (NEW.body); RETURN NEW; END $$"
    )
    add = "CREATE TRIGGER spy BEFORE INSERT ON {} FOR EACH ROW EXECUTE FUNCTION mine.spy()"
    write = "INSERT INTO {} (tenant_id, id, body) VALUES ('b', 9, 'secret of b 9')"

    def spied(connect, table):
        with connect(A) as attacker:
            attempt(attacker, add.format(table))
            attacker.commit()
        with connect(B) as victim:
            run(victim, write.format(table))
            victim.commit()
        return secrets(run(shop.admin, "SELECT * FROM mine.loot; TRUNCATE mine.loot"))

    with shop.connect(autocommit=True) as attacker:
        run(attacker, spy)
    attack.control(spied(shop.naive, "naive"))
    attack.ours(spied(shop.ours, "orders"))


def test_05_refers_to_rows(shop, twh_attack):
    """REFERENCES is never granted, so no foreign key of the attacker's tells what exists."""
    attack = twh_attack(
        number=5, title="learns which rows exist by a foreign key of their own to them"
    )
    shop.plant_naive()
    shop.plant(f"GRANT REFERENCES ON naive TO {APP}; {WORKSHOP}")
    make = "CREATE TABLE mine.to_{0} (t text, id int, FOREIGN KEY (t, id) REFERENCES {0})"

    def exist(connect, table):
        with connect() as connection:
            attempt(connection, make.format(table))
            connection.commit()
        with connect() as connection:
            guess = f"INSERT INTO mine.to_{table} VALUES ('b', {{}}) RETURNING t || id"
            said = [attempt(connection, guess.format(number)) for number in range(1, 9)]
        return [rows for rows in said if str(rows).startswith("[('b")]

    attack.control(exist(shop.naive, "naive"))
    attack.ours(exist(shop.ours, "orders"))


FOREIGN = (
    "CREATE EXTENSION postgres_fdw; CREATE SERVER itself FOREIGN DATA WRAPPER postgres_fdw"
    " OPTIONS (host '{socket}', port '{port}', dbname '{dbname}');"
    "CREATE USER MAPPING FOR PUBLIC SERVER itself"
    " OPTIONS (user 'postgres', password_required 'false');"
    "CREATE FOREIGN TABLE copy (tenant_id text, id int, body text) SERVER itself"
    " OPTIONS (table_name 'orders')"
)
COPIES = {
    "a materialized view": ("TWH212", f"CREATE MATERIALIZED VIEW copy AS {ALL}"),
    "a foreign table": ("TWH213", FOREIGN),
    "a table made by CREATE TABLE AS": ("TWH201", f"CREATE TABLE copy AS {ALL}"),
}


@pytest.mark.parametrize("form", COPIES)
def test_06_reads_a_copy(form, shop, twh_attack):
    """The lint finds copies, which have no policies, and takes them away or isolates them."""
    attack = twh_attack(number=6, title="reads a copy of the table that has no policies", form=form)
    rule, plant = COPIES[form]
    [[socket]] = run(shop.admin, "SHOW unix_socket_directories")
    where = {"port": shop.database.server.port, "dbname": shop.database.name, "socket": socket}
    shop.plant(f"{plant.format(**where)}; GRANT SELECT ON copy TO {APP}")

    attack.control(shop.steal("SELECT * FROM copy"))
    shop.mend(rule)
    attack.ours(shop.steal("SELECT * FROM copy"))


CHILDREN = {
    "partition": "CREATE TABLE parent (LIKE orders) PARTITION BY LIST (tenant_id);"
    "CREATE TABLE child PARTITION OF parent FOR VALUES IN ('a', 'b', 'c');",
    "inheriting table": "CREATE TABLE parent (LIKE orders);"
    "CREATE TABLE child () INHERITS (parent);",
}


@pytest.mark.parametrize("form", CHILDREN)
def test_07_reads_a_child(form, shop, twh_attack):
    """The lint finds a child that can be read without its parent's policies."""
    attack = twh_attack(
        number=7, title="reads a partition or an inheriting table by its own name", form=form
    )
    shop.plant(f"{CHILDREN[form]} INSERT INTO child SELECT * FROM orders")
    shop.plant(tenant_sql([TenantTable(name="parent")], role=APP))
    shop.plant(f"GRANT SELECT ON child TO {APP}")

    attack.control(shop.steal("SELECT * FROM child"))
    shop.mend("TWH207")
    attack.ours(shop.steal("SELECT * FROM child"))
    attack.ours(shop.steal("SELECT * FROM parent"))


def test_08_truncates(shop, twh_attack):
    """TRUNCATE asks no policy, so it is never granted."""
    attack = twh_attack(number=8, title="empties the table with TRUNCATE")
    shop.plant_naive()
    shop.plant(f"GRANT TRUNCATE ON naive TO {APP}")
    count = "SELECT count(*) FROM {} WHERE tenant_id <> 'a'"

    lost = {}
    for table, connect in (("naive", shop.naive), ("orders", shop.ours)):
        with connect() as connection:
            attempt(connection, f"TRUNCATE {table}")
            connection.commit()
        lost[table] = THEIRS - run(shop.admin, count.format(table))[0][0]

    attack.control(lost["naive"])
    attack.ours(lost["orders"])


def test_09_profits_from_a_second_policy(shop, twh_attack):
    """The restrictive floor holds when somebody adds a permissive policy."""
    attack = twh_attack(number=9, title="reads past a second permissive policy, USING (true)")
    shop.plant_naive()
    for table in ("naive", "orders"):
        shop.plant(f"CREATE POLICY careless ON {table} TO {APP} USING (true)")

    with shop.naive() as connection:
        attack.control(secrets(run(connection, "SELECT * FROM naive")))
    attack.ours(shop.steal(ALL))


CARELESS = """
CREATE TABLE careless (LIKE naive INCLUDING ALL);
INSERT INTO careless SELECT * FROM naive;
ALTER TABLE careless ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON careless
    USING (tenant_id = current_setting('app.tenant_id', true)) WITH CHECK (true);
"""


def written(shop, connect, sql):
    """Count the rows of tenant B that a write of tenant A made."""
    with connect() as connection:
        attempt(connection, sql)
        connection.commit()
    table = sql.split()[2] if sql.startswith("INSERT") else sql.split()[1]
    return run(shop.admin, f"SELECT * FROM {table} WHERE tenant_id = 'b' AND body LIKE 'forged%'")


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO {} VALUES ('b', 9, 'forged')",
        "INSERT INTO {} SELECT 'b', 9, 'forged'",
    ],
)
def test_10_plants_a_row(sql, shop, twh_attack):
    """WITH CHECK is explicit, so no row is written for another tenant."""
    attack = twh_attack(
        number=10, title="plants a row for another tenant", form=" ".join(sql.split()[3:4])
    )
    shop.plant_naive()
    shop.plant(f"{CARELESS} GRANT ALL ON careless TO {APP}", owner=True)

    attack.control(written(shop, shop.naive, sql.format("careless")))
    attack.ours(written(shop, shop.ours, sql.format("orders")))


def test_10_moves_a_row(shop, twh_attack):
    """Nor is one moved into another tenant's hands."""
    attack = twh_attack(number=10, title="moves a row to another tenant by UPDATE")
    shop.plant_naive()
    shop.plant(f"{CARELESS} GRANT ALL ON careless TO {APP}", owner=True)
    # Without a WHERE: that reads, and then the new row has to be readable as well.
    move = "UPDATE {} SET tenant_id = 'b', id = 9, body = 'forged'"
    shop.plant("DELETE FROM careless WHERE body = 'own 2'; DELETE FROM orders WHERE body = 'own 2'")

    attack.control(written(shop, shop.naive, move.format("careless")))
    attack.ours(written(shop, shop.ours, move.format("orders")))


def test_10_takes_over_on_conflict(shop, twh_attack):
    """ON CONFLICT DO UPDATE on a row that cannot be seen is an error, with any policy."""
    fact = twh_attack(
        number=10, title="overwrites another tenant's row by ON CONFLICT DO UPDATE", kind="fact"
    )
    shop.plant_naive()
    shop.plant(f"{CARELESS} GRANT ALL ON careless TO {APP}", owner=True)
    take = (
        "INSERT INTO {} VALUES ('b', 1, 'x') ON CONFLICT (tenant_id, id)"
        " DO UPDATE SET body = 'forged'"
    )

    for connect, table in ((shop.naive, "careless"), (shop.ours, "orders")):
        with connect() as connection, pytest.raises(errors.InsufficientPrivilege):
            run(connection, take.format(table))
        fact.ours(written(shop, connect, take.format(table)))


def test_11_has_no_tenant(shop, twh_attack):
    """Rows of nobody cannot be made, and nobody is refused."""
    attack = twh_attack(number=11, title="reads rows without a tenant, where none is bound")
    orphan = "INSERT INTO {} VALUES (NULL, 7, 'secret of nobody')"
    shop.plant_naive()
    shop.plant(
        "CREATE TABLE loose (tenant_id text, id int, body text);"
        "ALTER TABLE loose ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON loose"
        " USING (tenant_id IS NOT DISTINCT FROM current_setting('app.tenant_id', true));"
        f"GRANT SELECT ON loose TO {APP}; {orphan.format('loose')}"
    )
    with pytest.raises(errors.NotNullViolation):
        shop.plant(orphan.format("orders"))

    with shop.connect() as connection:
        attack.control(secrets(run(connection, "SELECT * FROM loose")))
        attack.ours(secrets(attempt(connection, ALL)))


def test_12_switches_row_security_off(shop, twh_attack):
    """With row_security off PostgreSQL refuses what it would have to filter."""
    fact = twh_attack(number=12, title="sets row_security = off", kind="fact")
    with shop.ours() as connection:
        run(connection, "SET LOCAL row_security = off")
        with pytest.raises(errors.InsufficientPrivilege) as refused:
            run(connection, ALL)

    fact.ours(secrets([refused.value]))


def test_12_copies_in(shop, twh_attack):
    """COPY FROM is not for tables under policies."""
    fact = twh_attack(number=12, title="plants rows by COPY FROM", kind="fact")
    with (
        shop.ours() as connection,
        pytest.raises(errors.FeatureNotSupported),
        connection.cursor().copy("COPY orders FROM STDIN") as copy,
    ):
        copy.write_row(("b", 9, "forged"))

    fact.ours(run(shop.admin, "SELECT * FROM orders WHERE body = 'forged'"))


def test_12_copies_out(shop, twh_attack):
    """COPY TO writes the tenant's own rows."""
    fact = twh_attack(number=12, title="reads all rows by COPY TO", kind="fact")
    rows = []
    for what in ("orders", f"({ALL})", "orders (body)"):
        with shop.ours() as connection, connection.cursor().copy(f"COPY {what} TO STDOUT") as copy:
            rows += list(copy.rows())

    fact.ours(secrets(rows))
    assert len(rows) == 3 * MINE


@pytest.mark.parametrize("method", ["SYSTEM", "BERNOULLI"])
def test_12_samples(method, shop, twh_attack):
    """A sample is drawn before the policy filters it, and filtered it is."""
    fact = twh_attack(number=12, title="reads all rows by TABLESAMPLE", kind="fact", form=method)
    with shop.ours() as connection:
        rows = run(connection, f"{ALL} TABLESAMPLE {method} (100)")

    fact.ours(secrets(rows))
    assert len(rows) == MINE


SLOT = "SELECT slot_name FROM pg_create_logical_replication_slot('loot', 'test_decoding', true)"
CHANGES = "SELECT data FROM pg_logical_slot_get_changes('loot', NULL, NULL)"
# A temporary slot ends with its session, a little later than that says goodbye.
DROP = "SELECT pg_drop_replication_slot('loot')"


def test_13_reads_the_log(shop, twh_attack):
    """The lint finds a service that may read the write-ahead log."""
    attack = twh_attack(number=13, title="decodes the write-ahead log with REPLICATION")
    login = shop.role("login", "REPLICATION")
    shop.plant(f"GRANT {APP} TO {login}")

    def decoded():
        with shop.connect(login, autocommit=True) as attacker:
            if not attempt(attacker, SLOT)[0][0].startswith("loot"):
                return 0
            run(shop.admin, "UPDATE orders SET body = body WHERE tenant_id = 'b'")
            found = secrets(attempt(attacker, CHANGES))
            run(attacker, DROP)
        return found

    attack.control(decoded())
    shop.mend("TWH107", role=login)
    attack.ours(decoded())


def test_13_holds_a_backup(shop, twh_attack):
    """A dump by a superuser and a decoded log have every tenant's rows."""
    residual = twh_attack(
        number=13, title="gets hold of a backup, a dump or a replica", kind="residual"
    )
    with psycopg.connect(shop.database.dsn(), autocommit=True) as superuser:
        run(superuser, SLOT)
        run(superuser, "UPDATE orders SET body = body WHERE tenant_id = 'b'")
        residual.ours(secrets(run(superuser, CHANGES)))
        run(superuser, DROP)
        with superuser.cursor().copy("COPY orders TO STDOUT") as dump:
            residual.ours(secrets(dump.rows()))
