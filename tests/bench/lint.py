"""
What the lint costs and finds, beside `pgrls lint` (gate G3).

Both are run as commands, from the start of the process to its end, on one
database of 20 tables in 3 schemas, in rounds that alternate.  Then each fault
that pgrls is known to be silent on is planted in a database of its own, and
both are asked whether they say more than before.

`pgrls` is looked for in `TWH_BENCH_PGRLS`, beside this interpreter, and on PATH.

Run alone, it prints its rows as JSON: `python -m tests.bench.lint`; with
`--plants` it asks pgrls about every fault that our tests plant, and prints
which of them it is silent on.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.support.lint_plants import PLANTS, Plant
from tests.support.schemas import schema_text
from twh_platform.tenancy.postgres import TenantTable, install_sql, tenant_sql
from twh_platform.tenancy.postgres.lint import lint
from twh_platform.testing import PostgresDatabase, PostgresServer

from ._rows import Row, paired_row

__all__ = ["rows"]

_ROUNDS = 15
_SCHEMAS = {"sales": 8, "stock": 7, "staff": 5}

# Some plants need the library.
_LOADED = {"shared_preload_libraries": "pg_stat_statements"}

# By the plants' ids: what pgrls lint is known to be silent on.
_SILENT = {
    "TRUNCATE granted": "TWH501",
    "FK CASCADE across tenants": "TWH605-tenant",
    "single-column FK": "TWH604",
    "readable sequence": "TWH507",
    "IS NOT DISTINCT FROM": "TWH307",
    "dead index: enum": "TWH702-enum",
    "dead index: lower()": "TWH702-expression",
    "dead index: GIN": "TWH702-gin",
    "visible activity": "TWH510",
    "LISTEN/NOTIFY": "TWH411-pg_notify",
}


def rows(*, rounds: int = _ROUNDS) -> list[dict[str, Any]]:
    """
    Measure, and return the rows as the bench runner takes them.

    Args:
        rounds: How often each is run.
    """
    with PostgresServer() as server:
        return [asdict(row) for row in (*_speed(server, rounds), *_found(server))]


# --- speed


def _speed(server: PostgresServer, rounds: int) -> Iterator[Row]:
    database = _twenty_tables(server)
    dsn = database.dsn()
    commands = {
        "ours": [sys.executable, "-m", "twh_platform.cli", "tenancy", "lint", dsn],
        "pgrls": [_pgrls(), "lint", "--database-url", dsn, "--schemas", ",".join(_SCHEMAS)],
    }
    taken: dict[str, list[float]] = {name: [] for name in commands}
    draw = random.Random(0)
    for number in range(rounds + 1):
        for name in draw.sample(list(commands), len(commands)):
            seconds = _timed(commands[name])
            if number:  # the first warms the caches of both
                taken[name].append(seconds * 1e3)
    yield paired_row(
        "lint: twh-platform tenancy lint, against pgrls lint",
        "20 tables, 3 schemas; whole command, text",
        unit="ms",
        ours=taken["ours"],
        reference=taken["pgrls"],
        target=1.0,
    )


def _twenty_tables(server: PostgresServer) -> PostgresDatabase:
    owner, app = (server.create_role(name) for name in ("bench_lint_owner", "bench_lint_app"))
    database = server.create_database("bench_lint", owner=owner)
    tables = [
        TenantTable(schema=schema, name=f"table_{number}", indexes=[("added",)])
        for schema, count in _SCHEMAS.items()
        for number in range(count)
    ]
    made = [f"CREATE SCHEMA {schema};" for schema in _SCHEMAS]
    made += [
        f"CREATE TABLE {one.qualified} (tenant_id text, id uuid, parent uuid, name text,"
        " amount bigint, added timestamptz, PRIMARY KEY (tenant_id, id),"
        f" FOREIGN KEY (tenant_id, parent) REFERENCES {one.qualified});"
        for one in tables
    ]
    database.execute(f"{''.join(made)}{install_sql()}{tenant_sql(tables, role=app)}", user=owner)
    return database


def _timed(command: Sequence[str]) -> float:
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    taken = time.perf_counter() - start
    if done.returncode not in {0, 1}:
        raise RuntimeError(done.stderr)
    return taken


def _pgrls() -> str:
    beside = Path(sys.executable).parent / "pgrls"
    found = os.environ.get("TWH_BENCH_PGRLS") or (
        str(beside) if beside.exists() else shutil.which("pgrls")
    )
    if not found:
        raise RuntimeError("pip install pgrls, or name it in TWH_BENCH_PGRLS")
    return found


# --- what is found


def _found(server: PostgresServer) -> Iterator[Row]:
    plants = {plant.id: plant for plant in PLANTS}
    told = _told(server, [plants[one] for one in _SILENT.values()])
    ours = sum(mine for mine, _ in told.values())
    theirs = sum(bool(new) for _, new in told.values())
    for name, count in (("ours", ours), ("pgrls lint", theirs)):
        yield paired_row(
            f"lint: faults found by {name}, of those planted",
            ", ".join(_SILENT),
            unit="faults",
            ours=[count],
            reference=[len(told)],
            target=1.0 if name == "ours" else None,
            direction=">=",
        )


def _told(server: PostgresServer, plants: Sequence[Plant]) -> dict[str, tuple[bool, list[str]]]:
    """
    Plant each fault, and tell whether ours names it, and what pgrls says that is new.
    """
    good = server.create_database("bench_clinic")
    good.execute(schema_text("clinic"))
    before = _pgrls_findings(good)
    result = {}
    for number, plant in enumerate(plants):
        if plant.since > server.version[0]:
            continue
        roles = _role_names(server)
        name = f"bench_clinic_{number}"
        server.execute(f"CREATE DATABASE {name} TEMPLATE bench_clinic OWNER clinic_owner")
        database = PostgresDatabase(server=server, name=name)
        # Grants on the database itself are not copied.
        database.execute(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC")
        database.execute(plant.sql.replace("{database}", name))
        mine = [one.rule.id for one in lint(database.dsn()).findings]
        new = sorted({rule for rule, _ in _pgrls_findings(database) - before})
        result[plant.id] = (plant.rule in mine, new)
        database.drop()
        _restore(server, roles)
    good.drop()
    return result


def _role_names(server: PostgresServer) -> set[str]:
    return set(server.execute("SELECT rolname FROM pg_roles").split())


def _restore(server: PostgresServer, roles: set[str]) -> None:
    """
    Take back what a plant did to roles, which belong to the whole server.
    """
    for name in _role_names(server) - roles:
        server.execute(f"DROP ROLE {name}")
    granted = server.execute(
        "SELECT r.rolname FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid"
        " WHERE m.member = 'clinic_web'::regrole"
    ).split()
    for name in granted:
        server.execute(f"REVOKE {name} FROM clinic_web")
    server.execute(
        "ALTER ROLE clinic_web NOSUPERUSER NOBYPASSRLS NOCREATEROLE NOREPLICATION;"
        "ALTER ROLE clinic_web RESET ALL; ALTER ROLE clinic_web SET track_activities = off;"
        "REVOKE ALL ON PARAMETER track_activities FROM PUBLIC"
    )


def _pgrls_findings(database: PostgresDatabase) -> set[tuple[str, str]]:
    command = [_pgrls(), "lint", "--database-url", database.dsn(), "--format", "json"]
    done = subprocess.run(
        [*command, "--schemas", "app,booking,public"], capture_output=True, text=True, check=False
    )
    if done.returncode not in {0, 1}:
        raise RuntimeError(done.stderr)
    content = json.loads(done.stdout)
    found = content["findings"] if "findings" in content else content["violations"]
    return {
        (str(one.get("rule_id") or one.get("rule") or one.get("code")), json.dumps(one))
        for one in found
    }


def _print_plants() -> None:
    with PostgresServer(settings=_LOADED) as server:
        for plant, (mine, new) in _told(server, PLANTS).items():
            said = ", ".join(new) or "silent"
            sys.stdout.write(f"{plant:24} {'found' if mine else 'MISSED':6} pgrls: {said}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    if "--plants" in sys.argv:
        _print_plants()
    else:
        sys.stdout.write(json.dumps(rows(), indent=2) + "\n")
