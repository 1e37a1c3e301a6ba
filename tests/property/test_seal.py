"""
Laws of the seal, against a real server: what is sealed is believed, and nothing else.
"""

from __future__ import annotations

import secrets
import string
import time
from collections.abc import Iterator

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twh_platform.tenancy.postgres import SealKey, install_sql, seal_sql
from twh_platform.testing import PostgresServer

tenants = st.text(string.ascii_letters + string.digits + "_-", min_size=1, max_size=64)
keys = st.builds(
    SealKey,
    id=st.from_regex(r"[0-9a-f]{4}", fullmatch=True),
    secret=st.binary(min_size=32, max_size=32),
)
# What a setting can hold: no NUL, and nothing that UTF-8 has no bytes for.
characters = st.characters(codec="utf-8", exclude_characters="\0")

ADD = "INSERT INTO twh.seal_keys (key_id, inner_pad, outer_pad) VALUES (%s, %s, %s)"
REPLACE = "DELETE FROM twh.seal_keys"
ASK = "SELECT twh.current_tenant() FROM set_config('twh.tenant_id', %s, true)"

# The server is asked for each example, one after the other, on one connection.
asked = settings(max_examples=150, deadline=None)


@pytest.fixture(scope="module")
def connection(twh_postgres: PostgresServer) -> Iterator[psycopg.Connection]:
    """
    The superuser in a sealed database; the function runs as its owner for everybody.
    """
    database = twh_postgres.create_database(f"twh_laws_{secrets.token_hex(4)}")
    database.execute(install_sql() + seal_sql())
    with psycopg.connect(database.dsn(), autocommit=True) as connection:
        yield connection
    database.drop()


def install(connection: psycopg.Connection, key: SealKey) -> None:
    """
    Make it the one key, padded as RFC 2104 has it.
    """
    padded = key.secret.ljust(64, b"\0")
    pads = [bytes(byte ^ pad for byte in padded) for pad in (0x36, 0x5C)]
    with connection.transaction():
        connection.execute(REPLACE)
        connection.execute(ADD, (f"1{key.id}", *pads))


def ask(connection: psycopg.Connection, token: str) -> str:
    """
    The tenant that the server reads from a token, or the SQLSTATE of its refusal.
    """
    try:
        return connection.execute(ASK, (token,)).fetchall()[0][0]
    except psycopg.Error as error:
        return f"refused: {error.sqlstate}"


def soon() -> int:
    """
    A Unix second that is near.
    """
    return int(time.time()) + 300


@asked
@given(key=keys, tenant=tenants)
def test_what_is_sealed_is_believed(connection, key, tenant):
    """The server's HMAC is Python's, for every key and every tenant."""
    install(connection, key)

    assert ask(connection, key.token(tenant, expires_at=soon())) == tenant


KEY = SealKey(id="a1b2", secret=bytes(range(32)))


@asked
@given(tenant=tenants, data=st.data())
def test_one_character_changed_is_refused(connection, tenant, data):
    """A token with any character replaced, left out or put in is none."""
    install(connection, KEY)
    token = KEY.token(tenant, expires_at=soon())
    place = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(characters.filter(lambda it: it != token[place]))
    assert ask(connection, token) == tenant  # the control

    for forged in (
        token[:place] + other + token[place + 1 :],
        token[:place] + token[place + 1 :],
        token[:place] + other + token[place:],
    ):
        assert ask(connection, forged) == "refused: TW003"


@asked
@given(key=keys, tenant=tenants)
def test_another_key_is_refused(connection, key, tenant):
    """A token of a key that the server does not have is none, also under the same id."""
    stranger = SealKey(id=key.id, secret=bytes(byte ^ 1 for byte in key.secret))
    install(connection, key)

    assert ask(connection, stranger.token(tenant, expires_at=soon())) == "refused: TW003"


@asked
@given(text=st.text(characters, min_size=1, max_size=150))
def test_anything_else_is_refused(connection, text):
    """No text at all gets past, and none gets another error."""
    install(connection, KEY)

    assert ask(connection, text) == "refused: TW003"
    assert ask(connection, f"1{KEY.id}{soon()}{text}") == "refused: TW003"
