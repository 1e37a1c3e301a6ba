"""
How a table is isolated, as values that can be compared, written down and put back.

Expressions are PostgreSQL's own words: they come from `pg_get_expr`, never from
text that somebody wrote, so two that mean the same are equal.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Self

from ._policies import TenantTable, quote_name, tenant_sql

__all__ = [
    "POLICIES",
    "TableGrant",
    "TableIndex",
    "TablePolicy",
    "TableState",
    "Target",
    "TenancyFunction",
    "differences",
    "isolating_statements",
    "restoring_statements",
    "statements_of",
    "wanted_indexes",
]

POLICIES = ("tenant_rows", "tenant_floor")
"""The policies that are ours."""

# What may hold a semicolon that ends nothing.
_TOKEN = re.compile(
    r"""(?s:\$(?P<tag>\w*)\$.*?\$(?P=tag)\$|'[^']*'|"[^"]*"|--[^\n]*|(?P<end>;)|.)"""
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TablePolicy:
    """
    A policy as PostgreSQL describes it.

    Args:
        name: Its name.

        permissive: Whether it is PERMISSIVE; False is RESTRICTIVE.

        command: ``ALL``, ``SELECT``, ``INSERT``, ``UPDATE`` or ``DELETE``.

        roles: Whom it is for; none means everybody.

        using: The expression of USING.

        check: The expression of WITH CHECK.
    """

    name: str
    permissive: bool = True
    command: str = "ALL"
    roles: Iterable[str] = ()
    using: str | None = None
    check: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "roles", tuple(self.roles))


@dataclass(frozen=True, slots=True, kw_only=True)
class TableGrant:
    """
    What one role may do with a table, or with one of its columns.

    Args:
        role: The role; None is PUBLIC.

        privileges: Such as ``SELECT``.

        column: The column; None is the whole table.

        grantable: Whether the role may grant them on.
    """

    role: str | None
    privileges: Iterable[str]
    column: str | None = None
    grantable: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "privileges", tuple(self.privileges))


@dataclass(frozen=True, slots=True, kw_only=True)
class TableIndex:
    """
    An index that a declaration asks for, as it is found.

    Attributes:
        sound: Whether it is a valid B-tree over plain columns and all rows.

        definition: The statement that makes it.
    """

    name: str
    unique: bool
    columns: tuple[str, ...]
    sound: bool = True
    definition: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class TableState:
    """
    All that isolates a table; by default, nothing does.

    Autogenerate writes it into the downgrade of a migration, as it was found.

    Args:
        enabled: Whether row security is ENABLED.

        forced: Whether it is FORCED on the owner too.

        not_null: Whether the tenant column is NOT NULL; None leaves it as it is.

        default: The default of the tenant column.

        policies: Its policies.

        grants: What the application's role and PUBLIC may do.

        indexes: The statements that make indexes which were replaced.
    """

    enabled: bool = False
    forced: bool = False
    not_null: bool | None = None
    default: str | None = None
    policies: Iterable[TablePolicy] = ()
    grants: Iterable[TableGrant] = ()
    indexes: Iterable[str] = ()

    def __post_init__(self) -> None:
        for one in ("policies", "grants", "indexes"):
            object.__setattr__(self, one, tuple(getattr(self, one)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """
    The table that is changed or looked at, and its tenant column if it has one.
    """

    schema: str
    name: str
    column: str | None

    @classmethod
    def of(cls, table: TenantTable) -> Self:
        """
        Take the table of a declaration.
        """
        return cls(schema=table.schema, name=table.name, column=table.column)

    @property
    def qualified(self) -> str:
        """
        The quoted name with its schema.
        """
        return f"{quote_name(self.schema)}.{quote_name(self.name)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TenancyFunction:
    """
    A function of the schema `twh`, as it was found.

    Args:
        name: Its name with the types of its arguments.

        definition: The statement that makes it; None if it was not there.

        public: Whether everybody may execute it.
    """

    name: str
    definition: str | None = None
    public: bool = True


def statements_of(sql: str) -> list[str]:
    """
    Split a script into statements; some drivers take one at a time.
    """
    found, start = [], 0
    for token in _TOKEN.finditer(sql):
        if token["end"]:
            found.append(sql[start : token.start()].strip())
            start = token.end()
    return [one for one in (*found, sql[start:].strip()) if one]


def wanted_indexes(table: TenantTable) -> list[TableIndex]:
    """
    List the indexes that a declaration asks for.
    """
    return [
        TableIndex(
            name=name[1:-1].replace('""', '"'),
            unique=kind.startswith("UNIQUE"),
            columns=(table.column, *columns),
        )
        for name, kind, columns in table._indexes  # noqa: SLF001 -- it is ours
    ]


def isolating_statements(
    table: TenantTable,
    *,
    role: str,
    drop_policies: Iterable[str] = (),
    drop_indexes: Iterable[str] = (),
) -> Iterator[str]:
    """
    Yield the SQL that isolates a table, less the policies and indexes that are in the way.
    """
    target = Target.of(table)
    yield from _drop_policies(target, drop_policies)
    yield from _drop_indexes(target, drop_indexes)
    yield from statements_of(tenant_sql([table], role=role))


def restoring_statements(
    target: Target,
    state: TableState,
    *,
    role: str,
    drop_indexes: Iterable[str] = (),
) -> Iterator[str]:
    """
    Yield the SQL that puts a table into *state*, whatever isolates it now.
    """
    names = dict.fromkeys((*POLICIES, *(policy.name for policy in state.policies)))
    yield from _drop_policies(target, names)
    for policy in state.policies:
        yield _create_policy(target, policy)
    yield _alter_table(target, state)
    yield f"REVOKE ALL ON {target.qualified} FROM PUBLIC, {quote_name(role)}"
    for grant in state.grants:
        yield _grant(target, grant)
    yield from _drop_indexes(target, drop_indexes)
    yield from state.indexes


def _drop_policies(target: Target, names: Iterable[str]) -> Iterator[str]:
    for name in names:
        yield f"DROP POLICY IF EXISTS {quote_name(name)} ON {target.qualified}"


def _drop_indexes(target: Target, names: Iterable[str]) -> Iterator[str]:
    for name in names:
        yield f"DROP INDEX IF EXISTS {quote_name(target.schema)}.{quote_name(name)}"


def _create_policy(target: Target, policy: TablePolicy) -> str:
    kind = "PERMISSIVE" if policy.permissive else "RESTRICTIVE"
    roles = ", ".join(map(quote_name, policy.roles)) or "PUBLIC"
    lines = [
        f"CREATE POLICY {quote_name(policy.name)} ON {target.qualified}",
        f"    AS {kind} FOR {policy.command} TO {roles}",
    ]
    if policy.using is not None:
        lines.append(f"    USING ({policy.using})")
    if policy.check is not None:
        lines.append(f"    WITH CHECK ({policy.check})")
    return "\n".join(lines)


def _alter_table(target: Target, state: TableState) -> str:
    changes = [
        f"{'ENABLE' if state.enabled else 'DISABLE'} ROW LEVEL SECURITY",
        f"{'FORCE' if state.forced else 'NO FORCE'} ROW LEVEL SECURITY",
    ]
    if target.column is not None:
        column = f"ALTER COLUMN {quote_name(target.column)}"
        if state.not_null is not None:
            changes.append(f"{column} {'SET' if state.not_null else 'DROP'} NOT NULL")
        given = "DROP DEFAULT" if state.default is None else f"SET DEFAULT {state.default}"
        changes.append(f"{column} {given}")
    return f"ALTER TABLE {target.qualified}\n    " + ",\n    ".join(changes)


def _grant(target: Target, grant: TableGrant) -> str:
    column = "" if grant.column is None else f" ({quote_name(grant.column)})"
    privileges = ", ".join(f"{one}{column}" for one in grant.privileges)
    role = "PUBLIC" if grant.role is None else quote_name(grant.role)
    on = " WITH GRANT OPTION" if grant.grantable else ""
    return f"GRANT {privileges} ON {target.qualified} TO {role}{on}"


def differences(live: TableState, wanted: TableState, *, column: str) -> list[str]:
    """
    Say in words what of *live* is not as it is wanted; one short phrase each.
    """
    found = []
    if live.enabled != wanted.enabled:
        found.append("row security is not enabled")
    if live.forced != wanted.forced:
        found.append("row security is not forced on the owner")
    if live.not_null != wanted.not_null:
        found.append(f"{column!r} may be NULL")
    if live.default != wanted.default:
        found.append(f"the default of {column!r} is {live.default!r}")
    return [*found, *_policy_differences(live, wanted), *_grant_differences(live, wanted)]


def _policy_differences(live: TableState, wanted: TableState) -> Iterator[str]:
    there = {policy.name: policy for policy in live.policies}
    asked = {policy.name: policy for policy in wanted.policies}
    for name in sorted(there.keys() | asked.keys()):
        if name not in asked:
            yield f"policy {name!r} is extra"
        elif name not in there:
            yield f"policy {name!r} is missing"
        elif there[name] != asked[name]:
            parts = ("permissive", "command", "roles", "using", "check")
            one, other = there[name], asked[name]
            changed = [part for part in parts if getattr(one, part) != getattr(other, part)]
            yield f"policy {name!r} is changed: {', '.join(changed)}"


def _grant_differences(live: TableState, wanted: TableState) -> Iterator[str]:
    there, asked = set(_single_grants(live)), set(_single_grants(wanted))
    for who, what in sorted(there - asked):
        yield f"{who} has {what}"
    for who, what in sorted(asked - there):
        yield f"{who} lacks {what}"


def _single_grants(state: TableState) -> Iterator[tuple[str, str]]:
    for grant in state.grants:
        who = "PUBLIC" if grant.role is None else repr(grant.role)
        what = "" if grant.column is None else f" on {grant.column!r}"
        what += " with grant option" if grant.grantable else ""
        yield from ((who, f"{privilege}{what}") for privilege in grant.privileges)
