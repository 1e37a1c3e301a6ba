"""
The seal: what the database believes, whatever is done with the statement.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from uuid import UUID

import psycopg
import pytest

from tests.integration.tenancy._sealed import (
    ASK,
    OTHERS,
    answer,
    fresh_key,
    sealed_database,
    soon,
)
from tests.integration.tenancy.conftest import APP, OWNER, ROWS
from twh_platform.tenancy import Tenant, bind_tenant
from twh_platform.tenancy.postgres import (
    INVALID_SEAL_SQLSTATE,
    MALFORMED_SQLSTATE,
    UNBOUND_SQLSTATE,
    Seal,
    SealKey,
    install_sql,
    seal_sql,
)
from twh_platform.tenancy.postgres.psycopg import TenantConnection
from twh_platform.tenancy.postgres.seal import add_seal_key, enforce_seal
from twh_platform.testing import PostgresDatabase, PostgresServer

A, B = Tenant(id="a"), Tenant(id="b")


@pytest.fixture(scope="module")
def database(server: PostgresServer) -> Iterator[PostgresDatabase]:
    """
    A sealed database of this module.
    """
    with sealed_database(server) as database:
        yield database


@pytest.fixture
def key(database: PostgresDatabase) -> SealKey:
    """
    The only key that the database believes; the rows are as new.
    """
    database.execute(f"TRUNCATE things; {ROWS}")
    return fresh_key(database)


@pytest.fixture
def app(database: PostgresDatabase, key: SealKey) -> Iterator[psycopg.Connection]:
    """
    The application's login on a plain connection, as an attacker has it.
    """
    with psycopg.connect(database.dsn(user=APP)) as connection:
        yield connection


@pytest.fixture
def ours(database: PostgresDatabase, key: SealKey) -> Iterator[TenantConnection]:
    """
    A connection that seals.
    """
    with TenantConnection.using(seal=Seal(key)).connect(database.dsn(user=APP)) as connection:
        yield connection


def forged(key: SealKey) -> dict[str, str]:
    """
    Everything that resembles a token and is none.
    """
    stranger = SealKey(id=key.id, secret=bytes(32))
    unknown = SealKey(id=f"{int(key.id, 16) ^ 1:04x}", secret=key.secret)
    good, other = key.token("a", expires_at=soon()), key.token("b", expires_at=soon())
    payload, code = good.split(".")
    return {
        "the tenant alone": "a",
        "a word that is no tenant": "not a tenant; --",
        "another secret": stranger.token("a", expires_at=soon()),
        "an unknown key": unknown.token("a", expires_at=soon()),
        "expired": key.token("a", expires_at=soon(-5)),
        "expired long ago": key.token("a", expires_at=0),
        "another tenant, same code": payload[:-1] + "b." + code,
        "another tenant's code": payload + "." + other.split(".")[1],
        "a longer tenant": payload + "a." + code,
        "a later expiry": f"{payload[:5]}{soon(9999):010d}a.{code}",
        "another version": f"2{payload[1:]}.{code}",
        "no version": f"{payload[1:]}.{code}",
        "no code": payload,
        "an empty code": f"{payload}.",
        "a short code": good[:-1],
        "a long code": f"{good}0",
        "a code in capitals": f"{payload}.{code.upper()}",
        "half a code": f"{payload}.{code[:32]}",
        "a code in base64": f"{payload}.{base64.b64encode(bytes.fromhex(code)).decode()}",
        "two codes": f"{good}.{code}",
        "a point before": f".{good}",
        "a point after": f"{good}.",
        "a space before": f" {good}",
        "a space after": f"{good} ",
        "a line after": f"{good}\n",
        "no payload": f".{code}",
        "a point": ".",
        "many points": "." * 100,
        "a space": " ",
        "a pattern": f"{payload[:5]}%.%",
        "a quote": f"{payload}'.{code}",
        "other digits": good.replace("1", "\N{ARABIC-INDIC DIGIT ONE}"),
        "beyond ASCII": f"{payload}é.{code}",
        "a smile": "\N{SLIGHTLY SMILING FACE}",
        "no number for an expiry": f"{payload[:5]}abcdefghija.{code}",
        "a key's id alone": payload[:5],
        "very long": "1" * 1_000_000,
        "very long, of a key": payload + "a" * 1_000_000 + "." + code,
    }


def test_sealed_tenant_is_believed(app: psycopg.Connection, key: SealKey) -> None:
    """
    The control: a token is believed, as the tenant it names.
    """
    for tenant in ("a", "b", "A-_9", "x" * 64):
        assert answer(app, key.token(tenant, expires_at=soon())) == [(tenant,)]


def test_every_forgery_is_refused_alike(app: psycopg.Connection, key: SealKey) -> None:
    """
    Each of them gives SQLSTATE TW003, in the same words.
    """
    answers, words = {}, set()
    for kind, token in forged(key).items():
        app.execute("SELECT set_config('twh.tenant_id', %s, true)", (token,))
        with pytest.raises(psycopg.Error) as caught:
            app.execute(ASK)
        app.rollback()
        said = caught.value.diag
        answers[kind] = said.sqlstate
        words.add((said.message_primary, said.message_hint, said.message_detail))

    assert answers == dict.fromkeys(answers, INVALID_SEAL_SQLSTATE)
    assert len(words) == 1


@pytest.mark.parametrize("token", [None, ""])
def test_unbound_is_another_matter(app: psycopg.Connection, token: str | None) -> None:
    """
    Where no tenant is bound the refusal is TW001, as in a database without a seal.
    """
    assert answer(app, token) == UNBOUND_SQLSTATE


STATEMENTS = {
    "SELECT": "SELECT * FROM things",
    "count": "SELECT count(*) FROM things",
    "a tenant's id in WHERE": "SELECT * FROM things WHERE tenant_id = 'b'",
    "INSERT": "INSERT INTO things (id) VALUES (7) RETURNING *",
    "INSERT for b": "INSERT INTO things VALUES ('b', 7, 'x')",
    "INSERT for b, RETURNING": "INSERT INTO things VALUES ('b', 7, 'x') RETURNING *",
    "ON CONFLICT": "INSERT INTO things VALUES ('b', 1) ON CONFLICT DO NOTHING",
    "UPDATE": "UPDATE things SET name = 'x' RETURNING *",
    "DELETE": "DELETE FROM things RETURNING *",
    "MERGE": "MERGE INTO things t USING (SELECT 1 AS id) s ON t.id = s.id WHEN MATCHED THEN DELETE",
    "COPY out": "COPY things TO STDOUT",
    "COPY of a query": "COPY (SELECT * FROM things) TO STDOUT",
    "a cursor": "DECLARE c CURSOR FOR SELECT * FROM things; FETCH ALL FROM c",
    "a cursor WITH HOLD": "DECLARE h CURSOR WITH HOLD FOR SELECT * FROM things; COMMIT",
    "a prepared statement": "PREPARE p AS SELECT * FROM things; EXECUTE p",
    "EXPLAIN ANALYZE": "EXPLAIN ANALYZE SELECT * FROM things",
    "a DO block": "DO $$ BEGIN PERFORM * FROM things; END $$",
    "a copy of the table": "CREATE TEMP TABLE loot AS SELECT * FROM things",
    "a lock of rows": "SELECT * FROM things FOR UPDATE",
    "the function": ASK,
}


@pytest.mark.parametrize("kind", STATEMENTS)
def test_no_statement_takes_a_forgery(app: psycopg.Connection, key: SealKey, kind: str) -> None:
    """
    Whatever reads or writes is refused with TW003; the control gets through.
    """
    sql = STATEMENTS[kind]
    for name in ("the tenant alone", "another secret", "another tenant, same code", "expired"):
        assert refusal(app, forged(key)[name], sql) == INVALID_SEAL_SQLSTATE, name

    assert refusal(app, key.token("a", expires_at=soon()), sql) in {None, "42501"}


def refusal(connection: psycopg.Connection, token: str, sql: str) -> str | None:
    """
    The SQLSTATE of the refusal; several statements and COPY go too.
    """
    try:
        connection.execute("SELECT set_config('twh.tenant_id', %s, true)", (token,))
        if sql.startswith("COPY"):
            with connection.cursor().copy(sql) as copy:
                list(copy)
        else:
            connection.execute(sql)
    except psycopg.Error as error:
        return error.sqlstate
    else:
        return None
    finally:
        connection.rollback()
        connection.execute("DISCARD TEMP; DEALLOCATE ALL; CLOSE ALL")
        connection.commit()


def test_writes(ours: TenantConnection) -> None:
    """
    INSERT, UPDATE, DELETE, COPY and RETURNING are the tenant's.
    """
    with bind_tenant(A):
        added = ours.execute("INSERT INTO things (id, name) VALUES (9, 'a9') RETURNING tenant_id")
        assert added.fetchall() == [("a",)]
        assert ours.execute("UPDATE things SET name = 'x'").rowcount == 3
        with ours.cursor().copy("COPY things (tenant_id) TO STDOUT") as copy:
            assert sorted(copy.rows()) == [("a",)] * 3
        deleted = ours.execute("DELETE FROM things WHERE id = 9 RETURNING name").fetchall()
        assert deleted == [("x",)]
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            ours.execute("INSERT INTO things VALUES ('b', 9, 'planted')")
        ours.rollback()


def test_savepoints_and_cursors(ours: TenantConnection) -> None:
    """
    After ROLLBACK TO the token is as before; a cursor reads on after it.
    """
    with bind_tenant(A), ours.transaction():
        with ours.cursor("reader") as cursor:
            cursor.execute("SELECT name FROM things ORDER BY id")
            assert cursor.fetchone() == ("a1",)
            with ours.transaction(force_rollback=True):
                ours.execute("SET LOCAL twh.tenant_id = 'b'")
            assert cursor.fetchone() == ("a2",)
        assert ours.execute("SELECT count(*) FROM things").fetchall() == [(2,)]


def test_prepared_statements(ours: TenantConnection) -> None:
    """
    A statement that is planned once gives each tenant its own rows.
    """
    for _ in range(8):  # five plans of its own, then the one for all
        for tenant, names in ((A, ["a1", "a2"]), (B, ["b1"])):
            with bind_tenant(tenant):
                rows = ours.execute("SELECT name FROM things WHERE id > %s", (0,), prepare=True)
                assert [name for (name,) in rows] == names
                ours.commit()


def test_parallel_query(ours: TenantConnection, database: PostgresDatabase) -> None:
    """
    A worker process verifies the token that its leader has.
    """
    new = database.server.version >= (16, 0)
    force = "debug_parallel_query" if new else "force_parallel_mode"
    # The policies' own calls are made by the leader, before the workers start.
    query = "SELECT twh.current_tenant() FROM generate_series(1, 2)"
    with bind_tenant(A):
        ours.execute(f"SET LOCAL {force} = on")
        plan = ours.execute(f"EXPLAIN (COSTS off) {query}").fetchall()
        assert any("Gather" in line for (line,) in plan)
        assert ours.execute(query).fetchall() == [("a",), ("a",)]
        ours.execute("SET LOCAL twh.tenant_id = 'b'")
        with pytest.raises(psycopg.Error) as caught:
            ours.execute(query)
    ours.rollback()

    assert caught.value.sqlstate == INVALID_SEAL_SQLSTATE


IDS = {
    "uuid": ("0190b7f2-5c1e-7c3a-9f1e-2d3c4b5a6978", "0190B7F2-5C1E-7C3A-9F1E-2D3C4B5A6978"),
    "bigint": ("9007199254740993", "09007199254740993"),
    "integer": ("42", "042"),
}


@pytest.mark.parametrize("kind", IDS)
def test_typed_columns(app: psycopg.Connection, key: SealKey, kind: str) -> None:
    """
    The typed functions ask the same seal, and still want one spelling.
    """
    tenant, spelling = IDS[kind]
    insert = f"INSERT INTO {OTHERS[kind]} (name) VALUES ('x') RETURNING tenant_id"
    value = UUID(tenant) if kind == "uuid" else int(tenant)

    assert answer(app, key.token(tenant, expires_at=soon()), insert) == [(value,)]
    assert answer(app, key.token(spelling, expires_at=soon()), insert) == MALFORMED_SQLSTATE
    assert answer(app, key.token("a", expires_at=soon()), insert) == "22P02"  # no value at all
    for token in (tenant, forged(key)["another secret"], f"{tenant}.{'0' * 64}"):
        assert answer(app, token, insert) == INVALID_SEAL_SQLSTATE
    assert answer(app, None, insert) == UNBOUND_SQLSTATE


def test_transition(app: psycopg.Connection, database: PostgresDatabase, key: SealKey) -> None:
    """
    For the time of transition unsealed tenants are believed, and forgeries are not.
    """
    token, tokens = key.token("a", expires_at=soon()), forged(key)
    with psycopg.connect(database.dsn(user=OWNER)) as owner:
        enforce_seal(owner, allow_unsealed=True)
    assert answer(app, "b") == [("b",)]
    assert answer(app, token) == [("a",)]
    assert answer(app, None) == UNBOUND_SQLSTATE
    for kind in ("another secret", "another tenant, same code", "expired", "a point"):
        assert answer(app, tokens[kind]) == INVALID_SEAL_SQLSTATE, kind

    with psycopg.connect(database.dsn(user=OWNER)) as owner:
        enforce_seal(owner)
    assert answer(app, "b") == INVALID_SEAL_SQLSTATE
    assert answer(app, token) == [("a",)]


def test_sealing_holds_for_open_sessions(
    app: psycopg.Connection, database: PostgresDatabase, key: SealKey
) -> None:
    """
    A session that has used the unsealed function meets the sealed one in its next transaction.
    """
    with psycopg.connect(database.dsn(user=OWNER)) as owner:
        owner.execute(install_sql())
    for _ in range(8):
        assert answer(app, "b") == [("b",)]

    with psycopg.connect(database.dsn(user=OWNER)) as owner:
        enforce_seal(owner)
    assert answer(app, "b") == INVALID_SEAL_SQLSTATE
    assert answer(app, key.token("b", expires_at=soon())) == [("b",)]


READS = [
    "SELECT * FROM twh.seal_keys",
    "SELECT inner_pad FROM twh.seal_keys",
    "COPY twh.seal_keys TO STDOUT",
    "UPDATE twh.seal_keys SET not_after = 'infinity'",
    "INSERT INTO twh.seal_keys (key_id) VALUES ('1abcd')",
    "DELETE FROM twh.seal_keys",
    "TRUNCATE twh.seal_keys",
    "LOCK TABLE twh.seal_keys",
    "CREATE TRIGGER t BEFORE INSERT ON twh.seal_keys EXECUTE FUNCTION twh.raise_unsealed()",
]


def test_keys_cannot_be_read(server: PostgresServer) -> None:
    """
    Default privileges that give everything to everybody give nothing of the keys.
    """
    with sealed_database(server) as generous:
        generous.execute("DROP TABLE twh.seal_keys")
        give = "ALTER DEFAULT PRIVILEGES GRANT ALL ON {} TO PUBLIC, " + APP
        generous.execute(give.format("TABLES") + "; CREATE TABLE control (i int)", user=OWNER)
        with psycopg.connect(generous.dsn(user=OWNER)) as owner:
            enforce_seal(owner)
            key = add_seal_key(owner)
        with psycopg.connect(generous.dsn(user=APP)) as app:
            assert answer(app, None, "SELECT * FROM control") == []
            for statement in READS:
                assert answer(app, None, statement) == "42501", statement
            assert answer(app, key.token("a", expires_at=soon())) == [("a",)]


SPY = """
CREATE FUNCTION pg_temp.spy(pg_catalog.text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    seen pg_catalog.int8;
BEGIN
    SELECT count(*) INTO seen FROM twh.seal_keys;
    RAISE EXCEPTION 'spied' USING ERRCODE = 'TWSPY';
END $$;
CREATE DOMAIN pg_temp.text AS pg_catalog.text CHECK (pg_temp.spy(VALUE));
CREATE DOMAIN pg_temp.int8 AS pg_catalog.int8 CHECK (pg_temp.spy(VALUE::pg_catalog.text));
CREATE DOMAIN pg_temp.bytea AS pg_catalog.bytea CHECK (pg_temp.spy('x'));
CREATE FUNCTION pg_temp.sha256(pg_catalog.bytea) RETURNS pg_catalog.bytea LANGUAGE sql
    AS $$ SELECT pg_catalog.sha256($1) FROM twh.seal_keys $$;
CREATE FUNCTION pg_temp.left(pg_catalog.text, pg_catalog.int4) RETURNS pg_catalog.text
    LANGUAGE sql AS $$ SELECT 'x' FROM twh.seal_keys $$;
CREATE TEMP TABLE seal_keys AS SELECT 'x'::pg_catalog.text AS key_id;
"""


def test_temporary_objects_do_not_shadow(
    app: psycopg.Connection, database: PostgresDatabase, key: SealKey
) -> None:
    """
    The control, without pg_temp at the end of its path, runs the attacker's code as the owner.
    """
    naive = seal_sql().replace("pg_catalog, pg_temp", "pg_catalog")
    naive = naive.replace("twh.current_tenant()", "twh.naive()")
    database.execute(naive, user=OWNER)
    app.execute(SPY)
    app.commit()
    token = key.token("a", expires_at=soon())

    assert answer(app, token, "SELECT twh.naive()") == "TWSPY"
    database.execute(seal_sql(), user=OWNER)
    assert answer(app, token) == [("a",)]
    assert answer(app, "a") == INVALID_SEAL_SQLSTATE
    assert answer(app, token, "SELECT count(*) FROM things") == [(2,)]


def test_search_path_does_not_shadow(
    app: psycopg.Connection, database: PostgresDatabase, key: SealKey
) -> None:
    """
    What the session's search_path puts in front of the builtins, as the control shows, is not used.
    """
    database.execute(f"CREATE SCHEMA evil AUTHORIZATION {APP}")
    app.execute(SPY.replace("pg_temp.", "evil.").replace("TEMP TABLE ", "TABLE evil."))
    app.execute("SET search_path = evil, pg_catalog")
    app.commit()
    token = key.token("a", expires_at=soon())

    assert answer(app, token, "SELECT left('abc', 2)") == "42501"
    assert answer(app, token) == [("a",)]
    assert answer(app, "a") == INVALID_SEAL_SQLSTATE
    app.execute("RESET search_path")
    database.execute("DROP SCHEMA evil CASCADE")
