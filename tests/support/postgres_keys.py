"""
A database with the tables of keys and secrets, one for a whole test run.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import psycopg
import pytest

from twh_platform.kms.postgres import keys_sql
from twh_platform.tenancy.postgres import install_sql
from twh_platform.tenancy.postgres.psycopg import TenantConnection
from twh_platform.testing import PostgresDatabase, PostgresServer

OWNER, APP, KEEPER, AUDITOR = (
    "twh_test_owner",
    "twh_test_app",
    "twh_test_keeper",
    "twh_test_auditor",
)
TABLES = "twh.data_keys, twh.key_tenants, twh.secret_versions, twh.secrets"
SQL = keys_sql(role=APP, administrators=[KEEPER], auditors=[AUDITOR])

Connect = Callable[[], AbstractContextManager["psycopg.Connection[Any]"]]


class Shifted:
    """
    Seals nothing: a stand-in for a cipher, where only keeping is tried.
    """

    def seal(self, plaintext: bytes, context: Mapping[str, str]) -> bytes:
        """The context and the plaintext, with every bit turned."""
        return repr(sorted(context.items())).encode() + b"\0" + turned(plaintext)

    def open(self, sealed: bytes, context: Mapping[str, str]) -> bytes:
        """The plaintext, if the context is the same."""
        said, _, rest = sealed.partition(b"\0")
        assert said == repr(sorted(context.items())).encode()
        return turned(rest)


def turned(value: bytes) -> bytes:
    """A value that no test finds in the plain."""
    return bytes(one ^ 255 for one in value)


def make_roles(server: PostgresServer) -> None:
    """Make the logins of a house of keys."""
    for role in (OWNER, APP, KEEPER):
        server.create_role(role)
    server.create_role(AUDITOR, attributes="LOGIN NOSUPERUSER BYPASSRLS")


def keys_database(request: pytest.FixtureRequest) -> PostgresDatabase:
    """
    The database of this test run, emptied; it goes with its server.
    """
    server: PostgresServer = request.getfixturevalue("twh_postgres")
    made = _made.get(id(server))
    if made is None:
        make_roles(server)
        made = server.create_database(f"twh_keys_{secrets.token_hex(4)}", owner=OWNER)
        made.execute(install_sql() + SQL, user=OWNER)
        _made[id(server)] = made
    made.execute(f"TRUNCATE {TABLES}")
    return made


def tenant_connections(database: PostgresDatabase, user: str = APP) -> Connect:
    """What gives tenant connections of a role."""
    return lambda: TenantConnection.connect(database.dsn(user=user))


def auditor_connections(database: PostgresDatabase) -> Connect:
    """What gives connections of the auditor."""
    return lambda: psycopg.connect(database.dsn(user=AUDITOR))


_made: dict[int, PostgresDatabase] = {}
