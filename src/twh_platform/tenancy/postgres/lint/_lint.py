"""
The lint from end to end: snapshot, survey, rules, baseline.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

from ....errors import ConfigurationError
from ._catalog import Catalog
from ._findings import Finding, Hit, Rule
from ._report import Report, order
from ._rules import RULES
from ._survey import Survey

if TYPE_CHECKING:
    # A driver's connection; not imported, so that the rules can be read without it.
    Connection = Any

__all__ = ["lint", "lint_catalog"]


def lint(
    source: str | Connection,
    *,
    schemas: Iterable[str] = (),
    app_roles: Iterable[str] = (),
    tenant_columns: Iterable[str] = (),
    rules: Iterable[str] = (),
    ignore: Iterable[str] = (),
    known: Collection[str] = frozenset(),
) -> Report:
    """
    Look for faults of isolation in a database's catalog.

    One transaction reads the catalog and writes nothing; no row of any table is
    read.  Any login that may connect will do.

    Args:
        source: A DSN, or a `psycopg.Connection`.  If the connection has a
            transaction open, what that has not yet committed is seen too, such
            as a migration's work, and it goes on as it was.

        schemas: Report only what is in these; roles and the database always.

        app_roles: The application's roles; without them they are inferred.

        tenant_columns: Names of tenant columns, besides those inferred.

        rules: Ask only these rules, by id or name.

        ignore: Leave these out.

        known: Fingerprints of a baseline, see `read_baseline`.

    Raises:
        twh_platform.errors.ConfigurationError: For a rule or role that does not
            exist, a DSN that cannot be read, or a server before PostgreSQL 15.
        twh_platform.errors.BackendUnavailableError: If the server cannot be
            reached or refuses.
        twh_platform.errors.MissingExtraError: Without psycopg.
    """
    asked = _chosen(rules, ignore)
    from ._psycopg_snapshot import read_catalog

    return lint_catalog(
        read_catalog(source),
        schemas=schemas,
        app_roles=app_roles,
        tenant_columns=tenant_columns,
        rules=asked,
        known=known,
    )


def lint_catalog(
    catalog: Catalog,
    *,
    schemas: Iterable[str] = (),
    app_roles: Iterable[str] = (),
    tenant_columns: Iterable[str] = (),
    rules: Iterable[Rule] = RULES,
    known: Collection[str] = frozenset(),
) -> Report:
    """
    Look for faults in a snapshot; see `lint`.
    """
    try:
        survey = Survey(catalog, app_roles=app_roles, tenant_columns=tenant_columns)
    except LookupError as error:
        raise ConfigurationError(str(error.args[0]), code="lint_role_unknown") from error
    wanted, asked = frozenset(schemas), tuple(rules)
    found = order(
        _finding(rule, hit)
        for rule in asked
        for hit in rule.check(survey)
        if not wanted or not hit.schema or hit.schema in wanted
    )
    return Report(
        database=catalog.server.database,
        server_version=f"{catalog.server.major}.{catalog.server.minor}",
        inferred=tuple(survey.inferred),
        findings=tuple(one for one in found if one.fingerprint not in known),
        known=tuple(one for one in found if one.fingerprint in known),
        rules=asked,
    )


def _chosen(rules: Iterable[str], ignore: Iterable[str]) -> tuple[Rule, ...]:
    wanted, unwanted = set(rules), set(ignore)
    known = {name for rule in RULES for name in (rule.id, rule.name)}
    if strange := sorted((wanted | unwanted) - known):
        raise ConfigurationError(f"there is no rule {strange[0]!r}", code="lint_rule_unknown")
    return tuple(
        rule
        for rule in RULES
        if (not wanted or {rule.id, rule.name} & wanted) and not {rule.id, rule.name} & unwanted
    )


def _finding(rule: Rule, hit: Hit) -> Finding:
    return Finding(
        rule=rule,
        kind=hit.kind,
        object=hit.object,
        schema=hit.schema,
        message=hit.message,
        remedy=hit.remedy,
        severity=hit.severity or rule.severity,
        about=hit.about,
    )
