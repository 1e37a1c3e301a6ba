"""
The database of the benchmarks: the same million rows with policies and without.
"""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg

from twh_platform.tenancy import Tenant
from twh_platform.tenancy.postgres import Seal, TenantTable, install_sql, tenant_sql
from twh_platform.tenancy.postgres.seal import add_seal_key, enforce_seal
from twh_platform.testing import PostgresDatabase, PostgresServer

__all__ = [
    "ROWS_PER_TENANT",
    "TENANT",
    "TENANTS",
    "Database",
    "conditions",
    "open_database",
    "sealed_twin",
]

TENANTS = 1000
ROWS_PER_TENANT = 1000
TENANT = Tenant(id="tenant-500")

_OWNER = "twh_bench_owner"
_APP = "twh_bench_app"
_SETTINGS = {
    "jit": "off",
    "shared_buffers": "512MB",
    "max_wal_size": "4GB",
    # Nothing of the server's own housekeeping in the middle of a block.
    "autovacuum": "off",
    "checkpoint_timeout": "1h",
}

# Clustered by tenant: fetching scattered rows would drown what a policy costs.
_TABLE = """
CREATE TABLE {name} (
    tenant_id text NOT NULL,
    id bigint NOT NULL,
    quantity bigint NOT NULL,
    created_at timestamptz NOT NULL
) WITH (fillfactor = 70);
INSERT INTO {name}
    SELECT 'tenant-' || tenant, row, row % 7,
           timestamptz '2025-01-01 00:00Z' + row * interval '1 minute'
    FROM generate_series(0, {tenants} - 1) AS tenant,
         generate_series(0, {rows} - 1) AS row;
ALTER TABLE {name} ADD PRIMARY KEY (tenant_id, id);
CREATE INDEX ON {name} (tenant_id, created_at);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """
    Where the benchmarks connect.

    Two tables hold the same rows: ``plain_items`` without policies, and
    ``items`` with ours.

    Args:
        database: The database.

        seal: What it demands, if it is sealed.
    """

    database: PostgresDatabase
    seal: Seal | None = None

    @property
    def server(self) -> PostgresServer:
        """
        The server it is on.
        """
        return self.database.server

    def local(self, scheme: str = "postgresql") -> str:
        """
        The nearest way for the application's role: the Unix socket, where there is one.
        """
        return self.database.dsn(user=_APP, scheme=scheme, unix_socket=self.server.managed)

    def through(self, port: int, scheme: str = "postgresql") -> str:
        """
        The way through a proxy on a loopback port.
        """
        parts = urlsplit(self.database.dsn(user=_APP, scheme=scheme))
        login = parts.netloc.rpartition("@")[0]
        return urlunsplit(parts._replace(netloc=f"{login}@127.0.0.1:{port}"))


@contextlib.contextmanager
def open_database() -> Iterator[Database]:
    """
    Start a server, or use the one that is named, and fill the tables.
    """
    with PostgresServer(settings=_SETTINGS) as server:
        server.create_role(_OWNER)
        server.create_role(_APP)
        server.execute(f"ALTER ROLE {_APP} SET jit = off")
        database = server.create_database(f"twh_bench_{os.getpid()}", owner=_OWNER)
        try:
            _fill(database)
            yield Database(database=database)
        finally:
            database.drop()


@contextlib.contextmanager
def sealed_twin(database: Database) -> Iterator[Database]:
    """
    Copy the database, and seal the copy.

    Nobody may be connected to it.
    """
    server, original = database.server, database.database.name
    name = f"{original}_sealed"
    server.execute(f'CREATE DATABASE "{name}" TEMPLATE "{original}" OWNER {_OWNER}')
    twin = PostgresDatabase(server=server, name=name)
    try:
        with psycopg.connect(twin.dsn(user=_OWNER)) as connection:
            enforce_seal(connection)
            key = add_seal_key(connection)
        twin.execute("VACUUM ANALYZE twh.seal_keys")
        server.execute("CHECKPOINT")
        yield Database(database=twin, seal=Seal(key))
    finally:
        twin.drop()


def _fill(database: PostgresDatabase) -> None:
    for name in ("plain_items", "items"):
        table = _TABLE.format(name=name, tenants=TENANTS, rows=ROWS_PER_TENANT)
        database.execute(table, user=_OWNER)
    database.execute(f"GRANT SELECT, UPDATE ON plain_items TO {_APP}", user=_OWNER)
    database.execute(install_sql(), user=_OWNER)
    database.execute(tenant_sql([TenantTable(name="items")], role=_APP), user=_OWNER)
    database.execute("VACUUM ANALYZE")
    database.execute("CHECKPOINT")


def conditions(database: Database) -> list[str]:
    """
    What the figures depend on, in lines.
    """
    server = database.server
    kind = "Unix socket" if server.managed else "TCP"
    return [
        *machine(),
        "PostgreSQL {}.{}".format(*server.version)
        + f" ({server.source}), {kind}, jit and fsync off",
        versions(_PACKAGES),
    ]


def machine() -> list[str]:
    """
    What every figure depends on, in lines.
    """
    return [
        f"{os.cpu_count()} CPUs, {_cpu_model()}, load {os.getloadavg()[0]:.1f}",
        f"Python {platform.python_version()}, {platform.system()} {platform.release()}",
    ]


def versions(names: Iterable[str]) -> str:
    """
    Which of these packages are installed, in one line.
    """
    return ", ".join(f"{name} {_version(name)}" for name in names)


_PACKAGES = ("psycopg", "psycopg-binary", "psycopg-pool", "asyncpg", "SQLAlchemy", "starlette")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
