"""
Attacks from end to end: survey, control, attacks, and a look at what is left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace

from ....errors import ConfigurationError
from .._binding import SETTING
from .._seal import Seal
from ..lint._catalog import Catalog
from ..lint._sql import name_sql
from ..lint._survey import Survey
from ._all import chosen
from ._kinds import Attack, AttackResult, Outcome, inconclusive
from ._prepare import prepared
from ._report import AttackReport
from ._scene import Scene, Table

__all__ = ["attack"]

_OURS = "twh.current_tenant"


def attack(
    dsn: str,
    *,
    tenant: str,
    other: str,
    tenant_key: str | None = None,
    other_key: str | None = None,
    settings: Iterable[str] = (),
    seal: Seal | None = None,
    role: str | None = None,
    schemas: Iterable[str] = (),
    tenant_columns: Iterable[str] = (),
    attacks: Iterable[str] = (),
    ignore: Iterable[str] = (),
    statement_timeout: float = 10.0,
    lock_timeout: float = 0.2,
) -> AttackReport:
    """
    Attack a database as one who can run SQL of his own in a transaction of a tenant.

    The attacker tries to read, count and write what belongs to another tenant.
    That one is asked first what there is: where it has nothing, nothing is
    proved, and the report says so.

    All is done in transactions that are rolled back, with a savepoint for each
    attempt; nothing is committed.  Sequences are not drawn from.  Triggers do
    run, and what they do outside of the database stays.  Use a copy, or
    staging: rows are locked for a moment, and so is a table that the login may
    truncate.

    Args:
        dsn: The service's own login; straight to the server, not by a pooler.

        tenant: The attacker's tenant: what the service binds for it.

        other: The tenant to steal from; both have to exist, and to have rows.

        tenant_key: What the tenant column has for the first one, if that is
            not what is bound.

        other_key: The same for the other one.

        settings: The settings that bind a tenant, for a schema of others.
            Without them tenant connections are used where the database has
            `install_sql`, or else the setting that the policies read.

        seal: Seals the tenants, for a sealed database.

        role: What the service becomes after it has logged in.

        schemas: Attack only tables in these.

        tenant_columns: Names of tenant columns, besides those inferred.

        attacks: Only these, by id or name.

        ignore: Leave these out.

        statement_timeout: Seconds after which a statement is given up.

        lock_timeout: Seconds to wait for a lock.

    Raises:
        twh_platform.errors.ConfigurationError: For an attack or role that does
            not exist, a DSN that cannot be read, tenants that cannot be bound,
            or a database without tables of tenants.
        twh_platform.errors.BackendUnavailableError: If the server cannot be
            reached or goes away.
        twh_platform.errors.MissingExtraError: Without psycopg.
    """
    asked = chosen(attacks, ignore)
    if tenant == other:
        raise ConfigurationError(
            f"two tenants are needed, not {tenant!r} twice", code="attack_not_bound"
        )
    from ..lint._psycopg_snapshot import read_catalog
    from ._psycopg_scene import Login, Sessions

    login = Login(
        dsn=dsn,
        seal=seal,
        role=role,
        statement_timeout=round(statement_timeout * 1000),
        lock_timeout=round(lock_timeout * 1000),
    )
    before = read_catalog(login.conninfo())
    with Sessions(login, tenant=tenant, other=other) as sessions, sessions.nobody() as nobody:
        who = nobody.say("SELECT current_user").text
    survey = _survey(before, who, tenant_columns)
    named = _settings(survey, tuple(settings), seal)
    ours = named == (SETTING,) and not settings
    login = replace(login, settings=() if ours else named)
    with Sessions(login, tenant=tenant, other=other) as sessions:
        scene = prepared(
            survey,
            sessions,
            tenants=(tenant, other),
            keys=(tenant_key or tenant, other_key or other),
            settings=named,
            schemas=frozenset(schemas),
            seal=seal,
        )
        rows = _rows(scene)
        results = tuple(
            AttackResult(attack=one, outcomes=_carried_out(one, scene))
            for one in asked
            if one.target == "database"
        )
        changed = _difference(rows, _rows(scene))
    if _facts(read_catalog(login.conninfo())) != _facts(before):
        changed = [*changed, "the catalog is not what it was before the attacks"]
    return AttackReport(
        database=before.server.database,
        server_version=f"{before.server.major}.{before.server.minor}",
        login=who,
        tenants=(tenant, other),
        inferred=tuple(survey.inferred),
        tables={one.name: one.prize.theirs for one in scene.tables},
        results=results,
        changed=tuple(changed),
        probe=_probe(scene, rows),
    )


def _survey(catalog: Catalog, login: str, tenant_columns: Iterable[str]) -> Survey:
    try:
        return Survey(catalog, app_roles=[login], tenant_columns=tenant_columns)
    except LookupError as error:  # pragma: no cover -- the login that has just logged in
        raise ConfigurationError(str(error.args[0]), code="lint_role_unknown") from error


def _settings(survey: Survey, named: tuple[str, ...], seal: Seal | None) -> tuple[str, ...]:
    """
    The settings that bind a tenant: as named, ours, or those that policies read.
    """
    if named:
        return named
    if seal is not None or _OURS in survey.functions_by_name or SETTING in survey.settings:
        return (SETTING,)
    if not survey.settings:
        raise ConfigurationError(
            "no policy reads a setting: name the one that binds a tenant", code="attack_not_bound"
        )
    return tuple(sorted(survey.settings))


def _carried_out(one: Attack, scene: Scene) -> tuple[Outcome, ...]:
    try:
        return tuple(one.run(scene))
    except ConfigurationError as error:
        return (inconclusive("", str(error)),)


def _probe(scene: Scene, rows: Mapping[str, int | None]) -> str:
    for table in scene.tables:
        if (
            not table.by_reference
            and not table.seen
            and table.prize.theirs
            and rows[_of(table, scene.tenant)]
        ):
            column = name_sql(table.column)
            return f"SELECT {column}::text FROM {table.sql} LIMIT 50"  # noqa: S608 -- as below
    return ""


def _of(table: Table, tenant: str) -> str:
    return f"{table.name} of {tenant!r}"


def _facts(catalog: Catalog) -> dict[str, object]:
    """
    A catalog's content, whatever order the server gave its rows in.
    """
    values = {one.name: getattr(catalog, one.name) for one in fields(catalog)}
    return {
        name: Counter(map(repr, value)) if isinstance(value, tuple) else value
        for name, value in values.items()
    }


def _rows(scene: Scene) -> Mapping[str, int | None]:
    """
    What each tenant sees of its own rows.
    """
    found: dict[str, int | None] = {}
    with scene.opens.first() as first, scene.opens.other() as other:
        for table in scene.tables:
            for who, session in ((scene.tenant, first), (scene.other, other)):
                said = session.attempt(f"SELECT count(*) FROM {table.sql}")  # noqa: S608 -- a name of the catalog, quoted
                found[_of(table, who)] = None if said.fault else said.number
    return found


def _difference(before: Mapping[str, int | None], after: Mapping[str, int | None]) -> list[str]:
    return [
        f"{name} had {count} rows and has {after[name]}"
        for name, count in before.items()
        if after[name] != count
    ]
