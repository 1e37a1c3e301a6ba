"""
Attacks 19 to 22: SQL that was injected into a transaction of the attacker's own tenant.

Each form is tried on ``naive`` with the plain name of the other tenant, and on
a sealed database with everything that an attacker can make of what they know:
their own token, the format, keys of their own, tokens that are no longer good.
"""

from __future__ import annotations

import hashlib
import re
import time
from contextlib import suppress

import asyncpg
import psycopg
import pytest
from alembic.autogenerate import produce_migrations
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import MetaData, create_engine

from tests.attacks._sealed import sql_of
from tests.attacks._shop import APP, MINE, OWNER, A, attempt, run, secrets
from twh_platform.errors import TenantError
from twh_platform.tenancy import Tenant, bind_tenant
from twh_platform.tenancy.postgres import TenantTable, seal_sql, tenant_sql
from twh_platform.tenancy.postgres._alembic_operations import InstallTenancyOp
from twh_platform.tenancy.postgres.alembic import declare_tenancy
from twh_platform.tenancy.postgres.asyncpg import TenantConnection as AsyncpgConnection
from twh_platform.tenancy.postgres.asyncpg import connect as connect_asyncpg

STACKED = {
    "SET LOCAL": "SET LOCAL [s] = '[v]'; SELECT * FROM [t]",
    "SET": "SET [s] = '[v]'; SELECT * FROM [t]",
    "SET SESSION, COMMIT": "SET SESSION [s] = '[v]'; COMMIT; SELECT * FROM [t]",
    "COMMIT, BEGIN": "COMMIT; BEGIN; SET LOCAL [s] = '[v]'; SELECT * FROM [t]",
    "ROLLBACK AND CHAIN": "ROLLBACK AND CHAIN; SET LOCAL [s] = '[v]'; SELECT * FROM [t]",
    "SAVEPOINT": "SAVEPOINT x; SET LOCAL [s] = '[v]'; RELEASE x; SELECT * FROM [t]",
    "RESET, SET": "RESET [s]; SET LOCAL [s] = '[v]'; SELECT * FROM [t]",
    "RESET ALL, SET": "RESET ALL; SET LOCAL [s] = '[v]'; SELECT * FROM [t]",
    "set_config": "SELECT set_config('[s]', '[v]', true); SELECT * FROM [t]",
    "DO": "DO $$ BEGIN SET LOCAL [s] = '[v]'; END $$; SELECT * FROM [t]",
    "DO, EXECUTE": "DO $$ BEGIN EXECUTE 'SET [s] = ''[v]'''; END $$; SELECT * FROM [t]",
    "DO, error": "DO $$ BEGIN SET LOCAL [s] = '[v]';"
    " RAISE '%', (SELECT string_agg(body, ',') FROM [t]); END $$",
    "PREPARE, EXECUTE": "PREPARE x AS SELECT * FROM [t]; EXECUTE x; SET LOCAL [s] = '[v]';"
    " EXECUTE x; EXECUTE x; EXECUTE x; EXECUTE x; EXECUTE x; EXECUTE x",
    "PREPARE of set_config": "PREPARE x AS SELECT set_config('[s]', '[v]', true); EXECUTE x;"
    " SELECT * FROM [t]",
    "cursor before the change": "DECLARE x CURSOR FOR SELECT * FROM [t];"
    " SET LOCAL [s] = '[v]'; FETCH ALL FROM x",
    "cursor in mid-change": "DECLARE x CURSOR FOR SELECT * FROM [t]; FETCH 1 FROM x;"
    " SET LOCAL [s] = '[v]'; FETCH ALL FROM x",
    "cursor after the change": "SET LOCAL [s] = '[v]'; DECLARE x CURSOR FOR SELECT * FROM [t];"
    " FETCH ALL FROM x",
    "cursor WITH HOLD": "SET LOCAL [s] = '[v]'; DECLARE x CURSOR WITH HOLD FOR"
    " SELECT * FROM [t]; COMMIT; FETCH ALL FROM x",
    "CREATE TEMP TABLE AS": "SET LOCAL [s] = '[v]'; CREATE TEMP TABLE loot AS SELECT * FROM [t];"
    " TABLE loot",
    "temporary view": "CREATE TEMP VIEW loot AS SELECT * FROM [t]; SET LOCAL [s] = '[v]';"
    " TABLE loot",
    "function that sets": "CREATE FUNCTION mine.become() RETURNS text LANGUAGE sql"
    " AS $$ SELECT set_config('[s]', '[v]', true) $$; SELECT mine.become(); SELECT * FROM [t]",
    "procedure": "CREATE PROCEDURE mine.become() LANGUAGE plpgsql AS $$ BEGIN"
    " SET LOCAL [s] = '[v]'; RAISE '%', (SELECT string_agg(body, ',') FROM [t]); END $$;"
    " CALL mine.become()",
    "RETURNING": "SET LOCAL [s] = '[v]'; UPDATE [t] SET body = body RETURNING *",
    "DELETE": "SET LOCAL [s] = '[v]'; DELETE FROM [t] RETURNING *",
    "rule": "CREATE TABLE mine.x (i int); CREATE RULE r AS ON INSERT TO mine.x DO ALSO"
    " SELECT set_config('[s]', '[v]', true); INSERT INTO mine.x VALUES (1); SELECT * FROM [t]",
    "read only": "COMMIT; START TRANSACTION READ ONLY; SET LOCAL [s] = '[v]'; SELECT * FROM [t]",
    "serializable": "COMMIT; BEGIN ISOLATION LEVEL SERIALIZABLE; SET LOCAL [s] = '[v]';"
    " SELECT * FROM [t]",
}

WITH = "WITH x AS MATERIALIZED (SELECT set_config('[s]', '[v]', true) AS v)"

ONE_SELECT = {
    "materialized, LATERAL": f"{WITH} SELECT o.* FROM x,"
    " LATERAL (SELECT * FROM [t] WHERE x.v IS NOT NULL OFFSET 0) AS o",
    "materialized, joined": f"{WITH} SELECT o.* FROM x, [t] AS o",
    "sub-select in the list": "SELECT set_config('[s]', '[v]', true),"
    " (SELECT string_agg(body, ',') FROM [t])",
    "sub-select in FROM": "SELECT o.* FROM (SELECT set_config('[s]', '[v]', true) OFFSET 0) AS x,"
    " LATERAL (SELECT * FROM [t] WHERE x.set_config <> 'never' OFFSET 0) AS o",
    "WHERE": "SELECT * FROM [t] WHERE set_config('[s]', '[v]', true) IS NOT NULL",
    "UNION ALL": "SELECT set_config('[s]', '[v]', true) UNION ALL SELECT body FROM [t]",
    "CASE": "SELECT CASE WHEN set_config('[s]', '[v]', true) IS NOT NULL"
    " THEN (SELECT string_agg(body, ',') FROM [t]) END",
    "ARRAY": "SELECT ARRAY[set_config('[s]', '[v]', true),"
    " (SELECT string_agg(body, ',') FROM [t])]",
    "changing WITH": "WITH x AS MATERIALIZED (INSERT INTO [t] (tenant_id, id) VALUES ('a', 77)"
    " RETURNING set_config('[s]', '[v]', true) AS v)"
    " SELECT o.* FROM x, LATERAL (SELECT * FROM [t] WHERE x.v <> 'never' OFFSET 0) AS o",
    "recursive": "WITH RECURSIVE x (n, v, b) AS (SELECT 1, set_config('[s]', '[v]', true), NULL"
    " UNION ALL SELECT n + 1, v, (SELECT string_agg(body, ',') FROM [t]) FROM x WHERE n < 3)"
    " SELECT * FROM x",
    "query_to_xml": "SELECT set_config('[s]', '[v]', true), query_to_xml('TABLE [t]', true, true,"
    " '')",
    "table_to_xml": "SELECT set_config('[s]', '[v]', true), table_to_xml('[t]', true, true, '')",
}


@pytest.mark.parametrize("form", STACKED)
def test_19_stacks_statements(form, sealed, twh_attack):
    """Statements behind the app's own change the setting, and not who the server believes."""
    attack = twh_attack(number=19, title="switches tenant by stacked statements", form=form)

    attack.control(sealed.control(STACKED[form]))
    attack.ours(sealed.ours(STACKED[form]))


@pytest.mark.parametrize("form", ONE_SELECT)
def test_20_switches_in_one_select(form, sealed, twh_attack):
    """Nor does one statement that changes the setting while it reads."""
    needs_xml(sealed.shop, form)
    attack = twh_attack(number=20, title="switches tenant within one SELECT", form=form)

    attack.control(sealed.control(ONE_SELECT[form]))
    attack.ours(sealed.ours(ONE_SELECT[form]))


@pytest.mark.parametrize("form", ["materialized, LATERAL", "sub-select in FROM", "changing WITH"])
def test_20_is_ahead_of_the_init_plan(form, sealed, twh_attack):
    """That the tenant is computed once per statement is no defence: it is computed late."""
    attack = twh_attack(
        number=20, title="switches tenant before the policy computes it once", form=form
    )
    sealed.shop.plant(
        "ALTER POLICY own ON naive USING"
        " (tenant_id = (SELECT nullif(current_setting('app.tenant_id', true), '')))"
    )

    attack.control(sealed.control(ONE_SELECT[form]))
    attack.ours(sealed.ours(ONE_SELECT[form]))


def needs_xml(shop, form):
    """Skip what asks for XML where the server has none, as the wheel's."""
    try:
        run(shop.admin, "SELECT xmlcomment('')" if "xml" in form else "SELECT 1")
    except psycopg.errors.FeatureNotSupported:
        pytest.skip("this PostgreSQL was built without XML")


DECLARED = {
    "UPDATE pg_settings": "UPDATE pg_settings SET setting = '[v]' WHERE name = '[s]'",
    "CREATE FUNCTION ... SET": "CREATE FUNCTION mine.loot() RETURNS SETOF [t] LANGUAGE sql"
    " SET [s] = '[v]' AS 'SELECT * FROM [t]'; SELECT * FROM mine.loot()",
    "ALTER ROLE ... SET": f"ALTER ROLE {APP} SET [s] = '[v]'",
    "ALTER DATABASE ... SET": "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET [s] = %L',"
    " current_database(), '[v]'); END $$",
    "ALTER SYSTEM": "COMMIT; ALTER SYSTEM SET [s] = '[v]'",
}


@pytest.mark.parametrize("form", DECLARED)
def test_19_declares_the_setting(form, sealed, twh_attack):
    """PostgreSQL lets only a superuser declare a setting that it does not know."""
    fact = twh_attack(
        number=19, title="switches tenant by a declared setting", kind="fact", form=form
    )
    injected = f"{DECLARED[form]}; SELECT * FROM [t]"

    fact.ours(sealed.control(injected))
    fact.ours(sealed.ours(injected))


RAISING = "DO $x$ BEGIN RAISE '%', (SELECT string_agg(body, ',') FROM [t]); END $x$"


@pytest.mark.parametrize("form", ["SET LOCAL", "set_config", "DO, error"])
async def test_19_stacks_by_asyncpg(form, sealed, twh_attack):
    """What is sent through asyncpg without arguments can be stacked too."""
    attack = twh_attack(
        number=19, title="switches tenant by stacked statements through asyncpg", form=form
    )
    injected = STACKED[form].replace("SELECT * FROM [t]", RAISING)
    dsn, values = sealed.shop.database.dsn(user=APP), sealed.forgeries().values()
    plain = await asyncpg.connect(dsn)
    bound = await connect_asyncpg(dsn, connection_class=AsyncpgConnection.using(seal=sealed.seal))

    attack.control(await told(plain, sql_of(injected, "app", "naive", "b")))
    with bind_tenant(A):
        for value in values:
            attack.ours(await told(bound, sql_of(injected, "twh", "orders", value)))
    await plain.close()
    await bound.close()


async def told(connection, sql):
    """Count the secrets in what asyncpg raises."""
    try:
        async with connection.transaction():
            await connection.execute(sql)
    except (asyncpg.PostgresError, TenantError) as error:
        return secrets([error])
    return 0


@pytest.mark.parametrize("form", ["materialized, LATERAL", "UNION ALL", "WHERE"])
def test_20_copies_one_select(form, sealed, twh_attack):
    """COPY of such a query brings no more than the query."""
    attack = twh_attack(number=20, title="switches tenant within a query that COPY runs", form=form)

    def copied(connect, *names):
        sql = f"COPY ({sql_of(ONE_SELECT[form], *names)}) TO STDOUT"
        with connect(A) as connection, suppress(psycopg.Error), connection.cursor().copy(sql) as it:
            return secrets(list(it.rows()))
        return 0

    attack.control(copied(sealed.shop.naive, "app", "naive", "b"))
    for value in sealed.forgeries().values():
        attack.ours(copied(sealed.shop.ours, "twh", "orders", value))


@pytest.mark.parametrize("form", ["materialized, LATERAL", "materialized, joined"])
def test_20_counts_by_explain(form, sealed, twh_attack):
    """EXPLAIN ANALYZE runs the query, and is refused as the query is."""
    attack = twh_attack(
        number=20, title="switches tenant within EXPLAIN ANALYZE, and counts rows", form=form
    )

    def counted(connect, *names):
        with connect(A) as connection:
            explain = "EXPLAIN (ANALYZE, FORMAT JSON) "
            said = attempt(connection, explain + sql_of(ONE_SELECT[form], *names))
        counts = re.findall(r"'Actual Rows': ([0-9.]+)", str(said))
        return max(0, int(float(counts[0])) - MINE) if counts else 0

    attack.control(counted(sealed.shop.naive, "app", "naive", "b"))
    for value in sealed.forgeries().values():
        attack.ours(counted(sealed.shop.ours, "twh", "orders", value))


WRITES = {
    "INSERT ... SELECT": "INSERT INTO [t] SELECT 'b', 9, 'forged'"
    " FROM (SELECT set_config('[s]', '[v]', true) OFFSET 0) AS x",
    "INSERT, WITH": f"{WITH} INSERT INTO [t] SELECT 'b', 9, 'forged' FROM x",
    "INSERT of what it sets": "INSERT INTO [t] VALUES"
    " (left(set_config('[s]', '[v]', true), 0) || 'b', 9, 'forged')",
    "UPDATE": "UPDATE [t] SET tenant_id = 'b', id = 9, body = 'forged'"
    " WHERE id = 1 AND set_config('[s]', '[v]', true) IS NOT NULL",
    "UPDATE of what it sets": "UPDATE [t] SET id = id + ascii(tenant_id), body = 'forged',"
    " tenant_id = left(set_config('[s]', '[v]', true), 0) || 'b' WHERE id = 1",
    "MERGE": f"{WITH} MERGE INTO [t] USING x ON false"
    " WHEN NOT MATCHED THEN INSERT VALUES ('b', 9, 'forged')",
    "SET, INSERT": "SET LOCAL [s] = '[v]'; INSERT INTO [t] VALUES ('b', 9, 'forged')",
    "ON CONFLICT": f"{WITH} INSERT INTO [t] SELECT 'b', 1, 'x' FROM x"
    " ON CONFLICT (tenant_id, id) DO UPDATE SET body = 'forged'",
    "UPDATE of theirs": "UPDATE [t] SET body = 'forged'"
    " WHERE id >= (SELECT length(set_config('[s]', '[v]', true)) * 0)",
}


@pytest.mark.parametrize("form", WRITES)
def test_20_writes_in_one_statement(form, sealed, twh_attack):
    """No row is planted or changed by a statement that changes the setting as it writes."""
    attack = twh_attack(
        number=20, title="writes for another tenant within one statement", form=form
    )
    if form == "ON CONFLICT":
        sealed.shop.plant("ALTER TABLE naive ADD PRIMARY KEY (tenant_id, id)")

    def forged(connect, *names):
        with connect(A) as connection:
            attempt(connection, sql_of(WRITES[form], *names))
            connection.commit()
        found = f"SELECT * FROM {names[1]} WHERE tenant_id = 'b' AND body = 'forged'"
        return run(sealed.shop.admin, found)

    attack.control(forged(sealed.shop.naive, "app", "naive", "b"))
    for value in sealed.forgeries().values():
        attack.ours(forged(sealed.shop.ours, "twh", "orders", value))


def test_20_replays_an_old_token(sealed, twh_attack):
    """A token is good for its lifetime; a plain name is good for ever."""
    attack = twh_attack(number=20, title="replays a token of their own that has expired")
    old = sealed.key.token("a", expires_at=int(time.time()) - 1)
    read = "SET LOCAL [s] = '[v]'; SELECT * FROM [t] WHERE tenant_id = 'a'"
    with sealed.shop.connect() as connection:
        rows = attempt(connection, sql_of(read, "app", "naive", "a"))
        attack.control(str(rows).count("own"))
        rows = attempt(connection, sql_of(read, "twh", "orders", old))
        attack.ours(str(rows).count("own"))


KEY = {
    "SELECT": "SELECT inner_pad FROM [k]",
    "query_to_xml": "SELECT query_to_xml('SELECT inner_pad::text FROM [k]', true, true, '')",
    "one value": "SELECT (SELECT inner_pad FROM [k] LIMIT 1)",
    "FOR UPDATE": "SELECT inner_pad FROM [k] FOR UPDATE",
    "DO, error": "DO $$ BEGIN RAISE '%', (SELECT inner_pad FROM [k] LIMIT 1); END $$",
    "an error of the type": "SELECT inner_pad::text::int FROM [k]",
    "a view of theirs": "CREATE VIEW mine.w AS SELECT inner_pad FROM [k]; SELECT * FROM mine.w",
    "a copy": "CREATE TABLE mine.w AS SELECT inner_pad FROM [k]; SELECT * FROM mine.w",
    "statistics": "SELECT most_common_vals, histogram_bounds FROM pg_stats"
    " WHERE format('%s.%s', schemaname, tablename) = '[k]'",
}


@pytest.mark.parametrize("form", KEY)
def test_20_reads_the_key(form, sealed, twh_attack):
    """The keys can be read by their owner alone."""
    needs_xml(sealed.shop, form)
    attack = twh_attack(number=20, title="reads the key of the seal", form=form)
    shop = sealed.shop
    shop.plant(
        "CREATE TABLE public.open_keys AS SELECT k.* FROM twh.seal_keys AS k,"
        f" generate_series(1, 2); GRANT SELECT, UPDATE ON public.open_keys TO {APP}; ANALYZE"
    )
    [[pad]] = run(shop.admin, "SELECT encode(inner_pad, 'hex') FROM twh.seal_keys")

    def read(table):
        with shop.ours(A) as connection:
            return in_hex(attempt(connection, KEY[form].replace("[k]", table)), pad)

    attack.control(read("public.open_keys"))
    attack.ours(read("twh.seal_keys"))


def in_hex(rows, pad):
    """Count how often the key is in there, as bytes or as text."""
    return sum(str(row).count(pad) + str(row).count(str(bytes.fromhex(pad))) for row in rows)


def test_20_reads_the_key_from_code(sealed, twh_attack):
    """The function that checks the seal has no key in its text, which everybody may read."""
    attack = twh_attack(number=20, title="reads the key of the seal from a function's text")
    shop = sealed.shop
    [[pad]] = run(shop.admin, "SELECT encode(inner_pad, 'hex') FROM twh.seal_keys")
    shop.plant(f"CREATE FUNCTION careless() RETURNS text RETURN '{pad}'")
    texts = "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE prokind = 'f' AND proname"
    with shop.ours(A) as connection:
        attack.control(in_hex(run(connection, f"{texts} = 'careless'"), pad))
        attack.ours(in_hex(run(connection, f"{texts} <> 'careless'"), pad))


def installed_anew(shop, sql):
    """Run what is to seal the database again, as its owner."""
    with shop.connect(OWNER) as owner:
        run(owner, sql)
        owner.commit()


def upgraded(shop):
    """Carry out what Alembic's autogenerate finds, as its owner."""
    metadata = MetaData()
    declare_tenancy(metadata, role=APP, sealed=True)
    engine = create_engine(shop.database.dsn(user=OWNER, scheme="postgresql+psycopg"))
    with engine.begin() as connection:
        context = MigrationContext.configure(connection)
        for change in produce_migrations(context, metadata).upgrade_ops.ops:
            if isinstance(change, InstallTenancyOp):
                Operations(context).invoke(change)
    engine.dispose()


HEALED = {
    "seal_sql": lambda shop: installed_anew(shop, seal_sql()),
    "Alembic": upgraded,
}


@pytest.mark.parametrize("reader", [APP, "PUBLIC"])
@pytest.mark.parametrize("form", HEALED)
def test_20_reads_the_columns_of_the_key(form, reader, sealed, twh_attack):
    """A grant on columns shows in no list of the table's grants; it is taken back all the same."""
    attack = twh_attack(
        number=20,
        title="reads the key of the seal by a grant on its columns",
        form=f"{form}, {reader}",
    )
    shop = sealed.shop
    shop.plant(f"GRANT SELECT (key_id, inner_pad, outer_pad) ON twh.seal_keys TO {reader}")
    [[pad]] = run(shop.admin, "SELECT encode(inner_pad, 'hex') FROM twh.seal_keys")

    def read():
        with shop.ours(A) as connection:
            assert len(run(connection, "SELECT * FROM orders")) == MINE
            return in_hex(attempt(connection, "SELECT inner_pad FROM twh.seal_keys"), pad)

    installed_anew(shop, re.sub(r"UNION\b.*?(?=LOOP)", "", seal_sql(), count=1, flags=re.DOTALL))
    attack.control(read())
    HEALED[form](shop)
    attack.ours(read())


def forge(payload):
    """Seal with a key whose paddings are zeros, as an attacker would plant it."""
    inner = hashlib.sha256(bytes(64) + payload.encode()).digest()
    return f"{payload}.{hashlib.sha256(bytes(64) + inner).hexdigest()}"


ZEROS = "decode(repeat('00', 64), 'hex')"
YES = (
    "CREATE FUNCTION mine.yes(text, text) RETURNS boolean RETURN true;"
    "CREATE OPERATOR mine.= (LEFTARG = text, RIGHTARG = text, FUNCTION = mine.yes);"
)
THEIR_PATH = "GRANT USAGE ON SCHEMA mine TO PUBLIC; SET LOCAL search_path = mine, pg_catalog"
UNPINNED = {"'pg_catalog', 'pg_temp'": "'mine', 'pg_catalog'"}
SHADOWS = {
    "a temporary table of keys": (
        {"twh.seal_keys": "seal_keys", "'pg_catalog', 'pg_temp'": "'twh'"},
        (
            f"CREATE TEMP TABLE seal_keys AS SELECT left('[v]', 5) AS key_id, {ZEROS} AS inner_pad,"
            f" {ZEROS} AS outer_pad, now() + '1 day' AS not_after;"
            "GRANT SELECT ON seal_keys TO PUBLIC"
        ),
    ),
    "a sha256 of their own": (
        UNPINNED,
        (
            "CREATE FUNCTION mine.sha256(bytea) RETURNS bytea"
            f" RETURN pg_catalog.sha256({ZEROS} || pg_catalog.sha256({ZEROS}"
            f" || pg_catalog.convert_to(split_part('[v]', '.', 1), 'UTF8'))); {THEIR_PATH}"
        ),
    ),
    "an operator of their own": (UNPINNED, f"{YES} {THEIR_PATH}"),
}


@pytest.mark.parametrize("form", SHADOWS)
def test_20_shadows_what_the_seal_uses(form, sealed, twh_attack):
    """The search_path of the check is pinned, and its names are of schemas that are closed."""
    attack = twh_attack(number=20, title="shadows what the check of the seal uses", form=form)
    changes, injected = SHADOWS[form]
    token = forge(f"1{sealed.key.id}{int(time.time()) + 60}b")
    injected += "; SET LOCAL twh.tenant_id = '[v]'; SELECT * FROM public.orders"
    injected = injected.replace("[v]", token)

    attack.ours(sealed.shop.steal(injected))
    [[text]] = run(sealed.shop.admin, "SELECT pg_get_functiondef('twh.current_tenant'::regproc)")
    for found, put in changes.items():
        assert found in text
        text = text.replace(found, put)
    sealed.shop.plant(f"{text}; GRANT USAGE ON SCHEMA mine TO {OWNER}")
    attack.control(sealed.shop.steal(injected))


# A type of their own in place of the one that a function names, and casts that tell lies.
UUIDS = ("11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222")
THEIR_UUID = """
CREATE TYPE pg_temp.uuid AS (told integer);
CREATE FUNCTION pg_temp.take(pg_catalog.text) RETURNS pg_temp.uuid
    LANGUAGE sql AS 'SELECT ROW(1)::pg_temp.uuid';
CREATE FUNCTION pg_temp.lie(pg_temp.uuid) RETURNS pg_catalog.uuid
    LANGUAGE sql AS $$ SELECT '[theirs]'::pg_catalog.uuid $$;
CREATE FUNCTION pg_temp.pass(pg_temp.uuid) RETURNS pg_catalog.text
    LANGUAGE sql AS $$ SELECT '[own]'::pg_catalog.text $$;
CREATE CAST (pg_catalog.text AS pg_temp.uuid) WITH FUNCTION pg_temp.take(pg_catalog.text);
CREATE CAST (pg_temp.uuid AS pg_catalog.uuid) WITH FUNCTION pg_temp.lie(pg_temp.uuid) AS ASSIGNMENT;
CREATE CAST (pg_temp.uuid AS pg_catalog.text) WITH FUNCTION pg_temp.pass(pg_temp.uuid);
"""
THEIR_TEXT = """
CREATE TYPE pg_temp.text AS ENUM ('x');
CREATE FUNCTION pg_temp.take(pg_catalog.text) RETURNS pg_temp.text
    LANGUAGE sql AS $$ SELECT 'x'::pg_temp.text $$;
CREATE FUNCTION pg_temp.pass([kind]) RETURNS pg_temp.text
    LANGUAGE sql AS $$ SELECT 'x'::pg_temp.text $$;
CREATE FUNCTION pg_temp.lie(pg_temp.text) RETURNS [kind]
    LANGUAGE sql AS $$ SELECT [theirs]::[kind] $$;
CREATE CAST (pg_catalog.text AS pg_temp.text) WITH FUNCTION pg_temp.take(pg_catalog.text)
    AS ASSIGNMENT;
CREATE CAST ([kind] AS pg_temp.text) WITH FUNCTION pg_temp.pass([kind]);
CREATE CAST (pg_temp.text AS [kind]) WITH FUNCTION pg_temp.lie(pg_temp.text);
"""
LIES = {
    "uuid": (THEIR_UUID, UUIDS),
    "bigint": (THEIR_TEXT, ("7", "8")),
    "integer": (THEIR_TEXT, ("7", "8")),
}


@pytest.mark.parametrize("form", LIES)
def test_20_puts_a_type_before_the_real_one(form, sealed, twh_attack):
    """For types pg_temp is searched first, unless the function's search_path names it last."""
    attack = twh_attack(number=20, title="puts a type of its own before the real one", form=form)
    shop, (plant, (own, theirs)) = sealed.shop, LIES[form]
    table = TenantTable(name="parcels", column_type=form)
    shop.plant(
        f"CREATE TABLE parcels (tenant_id {form}, body text);"
        f"INSERT INTO parcels VALUES ('{own}', 'own'), ('{theirs}', 'secret of b');"
        + tenant_sql([table], role=APP),
        owner=True,
    )
    for found, put in (("[theirs]", theirs), ("[own]", own), ("[kind]", form)):
        plant = plant.replace(found, put)
    forge = "INSERT INTO parcels (body) VALUES ('secret of b, forged') RETURNING tenant_id, body"

    def stolen():
        with shop.ours(Tenant(id=own)) as connection:
            run(connection, plant)
            rows = run(connection, f"SELECT tenant_id, body FROM parcels; {forge}")
        return [row for row in rows if str(row[0]) == theirs]

    attack.ours(stolen())
    function = f"'twh.current_tenant_{form}'::regproc"
    [[pinned]] = run(shop.admin, f"SELECT pg_get_functiondef({function})")
    shop.plant(pinned.replace("'pg_catalog', 'pg_temp'", "'pg_catalog'"), owner=True)
    attack.control(stolen())


REPLACEMENTS = {
    "replaces the function": "CREATE OR REPLACE FUNCTION twh.current_tenant() RETURNS text"
    " LANGUAGE sql STABLE AS $$ SELECT 'b'::text $$",
    "takes its search_path away": "ALTER FUNCTION twh.current_tenant() SET search_path = mine,"
    f" pg_catalog; {YES} {THEIR_PATH}; SET LOCAL twh.tenant_id = '[v]'",
    "adds a key": "INSERT INTO twh.seal_keys (key_id, inner_pad, outer_pad)"
    f" VALUES (left('[v]', 5), {ZEROS}, {ZEROS}); SET LOCAL twh.tenant_id = '[v]'",
    "changes a key": f"UPDATE twh.seal_keys SET inner_pad = {ZEROS}, outer_pad = {ZEROS},"
    " key_id = left('[v]', 5); SET LOCAL twh.tenant_id = '[v]'",
    "changes the policies": "ALTER POLICY tenant_rows ON orders USING (true);"
    "ALTER POLICY tenant_floor ON orders USING (true)",
    "switches the policies off": "ALTER TABLE orders DISABLE ROW LEVEL SECURITY",
}


@pytest.mark.parametrize("form", REPLACEMENTS)
def test_20_changes_the_defence(form, sealed, twh_attack):
    """The application owns nothing, so it cannot change what holds it."""
    attack = twh_attack(number=20, title="changes the defence itself", form=form)
    shop, key = sealed.shop, sealed.key.id if "search_path" in form else "0000"
    token = forge(f"1{key}{int(time.time()) + 60}b")
    injected = f"{REPLACEMENTS[form]}; SELECT * FROM public.orders".replace("[v]", token)

    attack.ours(shop.steal(injected))
    shop.plant(f"GRANT {OWNER} TO {APP}; GRANT USAGE ON SCHEMA mine TO {OWNER}")
    try:
        attack.control(shop.steal(injected))
    finally:
        shop.plant(f"REVOKE {OWNER} FROM {APP}")


FLAGS = ("app.bypass", "twh.bypass", "twh.bypass_rls", "rls.bypass_rls", "twh.admin")


@pytest.mark.parametrize("form", ["SET LOCAL {} = 'on'", "SELECT set_config('{}', 'on', true)"])
def test_21_flips_a_flag(form, sealed, twh_attack):
    """No setting lets anybody past the policies."""
    attack = twh_attack(
        number=21, title="flips a flag that switches the policies off", form=form.split("(")[0]
    )
    sealed.shop.plant(
        "ALTER POLICY own ON naive USING (tenant_id = current_setting('app.tenant_id', true)"
        " OR current_setting('app.bypass', true) = 'on')"
    )
    with sealed.shop.naive(A) as connection:
        injected = f"{form.format(FLAGS[0])}; SELECT * FROM naive"
        attack.control(secrets(attempt(connection, injected)))
    for flag in (*FLAGS, "row_security", "session_replication_role"):
        attack.ours(sealed.shop.steal(f"{form.format(flag)}; SELECT * FROM orders"))


def test_21_finds_a_flag(shop, twh_attack):
    """The lint finds a policy that a setting opens, and its remedy closes it."""
    attack = twh_attack(number=21, title="flips a flag that somebody added to the policies")
    shop.plant("DROP POLICY tenant_floor ON orders")
    shop.plant(
        "ALTER POLICY tenant_rows ON orders USING (tenant_id = (SELECT twh.current_tenant())"
        " OR current_setting('app.bypass', true) = 'on')"
    )
    injected = "SET LOCAL app.bypass = 'on'; SELECT * FROM orders"

    attack.control(shop.steal(injected))
    shop.mend("TWH308")
    attack.ours(shop.steal(injected))


BECOME = {
    "SET ROLE": "SET ROLE {role}; SELECT * FROM {table}",
    "RESET ROLE": "RESET ROLE; SELECT * FROM {table}",
    "set_config": "SELECT set_config('role', '{role}', true); SELECT * FROM {table}",
    "SET SESSION AUTHORIZATION": "SET SESSION AUTHORIZATION DEFAULT; SELECT * FROM {table}",
    "one SELECT, then another": "SELECT set_config('role', '{role}', false); COMMIT;"
    " SELECT * FROM {table}",
}


@pytest.mark.parametrize("form", BECOME)
def test_22_becomes_the_role_of_a_tenant(form, sealed, twh_attack):
    """The role says nothing about the tenant, so becoming another is of no use."""
    attack = twh_attack(number=22, title="becomes the role of another tenant", form=form)
    shop = sealed.shop
    mine, theirs = shop.role("of_a"), shop.role("of_b")
    for role in (mine, theirs):
        shop.plant(f"GRANT {role} TO {APP}; GRANT SELECT ON orders, naive TO {role}")
    shop.plant(
        f"ALTER POLICY own ON naive USING (current_user IN ('{APP}', '{mine[:-1]}' || tenant_id))"
    )

    def stolen(connect, table):
        with connect(A) as connection:
            run(connection, f"SET ROLE {mine}")
            return secrets(attempt(connection, BECOME[form].format(role=theirs, table=table)))

    attack.control(stolen(shop.naive, "naive"))
    attack.ours(stolen(shop.ours, "orders"))
