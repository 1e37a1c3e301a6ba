"""
What the catalog means: who the application is, which column is the tenant's, what binds it.

All of it is inferred, from policies and grants, and `Survey.inferred` says from
what, so that a reader can object.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from ._catalog import (
    PUBLIC,
    Catalog,
    Column,
    Constraint,
    Function,
    Grant,
    Index,
    Membership,
    Policy,
    Relation,
    Role,
)
from ._expressions import parse, walk
from ._predicates import FORMS, Binding, Expression, Tie, read_expression, settings_of
from ._sql import name_sql, qualified_sql

__all__ = ["COMMANDS", "READS", "WRITES", "ReadPolicy", "Survey"]

COMMANDS: Mapping[str, str] = {"SELECT": "r", "INSERT": "a", "UPDATE": "w", "DELETE": "d"}
"""The privileges that policies restrain, as `Policy.command` writes them."""

READS = "rwd"
"""The commands that meet rows which are there."""

WRITES = "aw"
"""The commands that make new rows."""

K = TypeVar("K")
V = TypeVar("V")

# What a tenant's column is called, for a database that has no policy to learn from.
_CONVENTIONAL = [
    "tenant_id",
    "tenant",
    "org_id",
    "organization_id",
    "organisation_id",
    "account_id",
    "workspace_id",
    "company_id",
    "team_id",
    "customer_id",
    "client_id",
    "tenant_uuid",
    "tenantid",
]

# The platform's own: they say something of tenants, and are read and written by logins
# that have none.  Row security keeps all others out.
_PLATFORM = {
    ("twh", "quota_overrides"),
    ("twh", "quota_usage"),
    ("twh", "quota_notices"),
}

_GUARD = re.compile(r"\bnullif\b|\braise\b|=\s*''|''\s*=|<>\s*''", re.IGNORECASE)
_HASHES = re.compile(r"\b(sha256|sha512|hmac|digest)\s*\(", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadPolicy:
    """
    A policy with its expressions read.
    """

    policy: Policy
    relation: Relation
    using: Expression | None
    check: Expression | None

    @property
    def expressions(self) -> Iterator[tuple[str, Expression]]:
        """
        What it has of USING and WITH CHECK.
        """
        if self.using is not None:
            yield "USING", self.using
        if self.check is not None:
            yield "WITH CHECK", self.check

    @property
    def ties(self) -> Iterator[Tie]:
        """
        The ties of both.
        """
        for _, expression in self.expressions:
            yield from expression.ties

    def covers(self, command: str) -> bool:
        """
        Whether it is for this command: ``r``, ``a``, ``w`` or ``d``.
        """
        return self.policy.command in {"*", command}

    def reading(self, command: str) -> Expression | None:
        """
        What a row that is there has to satisfy.
        """
        return self.using if command in READS else None

    def writing(self, command: str) -> Expression | None:
        """
        What a new row has to satisfy; a WITH CHECK that is missing is the USING.
        """
        return (self.check or self.using) if command in WRITES else None


class Survey:
    """
    The catalog, and what was inferred from it.

    Args:
        catalog: The snapshot.

        app_roles: Names of the application's roles; inferred if empty.

        tenant_columns: Names of the tenant's column, besides the inferred.

    Raises:
        LookupError: If one of *app_roles* does not exist.
    """

    def __init__(
        self,
        catalog: Catalog,
        *,
        app_roles: Iterable[str] = (),
        tenant_columns: Iterable[str] = (),
    ) -> None:
        self.catalog = catalog
        self.inferred: list[str] = []
        self._named_columns = tuple(tenant_columns)
        self.columns = _columns_by_relation(catalog)
        self.policies = tuple(map(self._read, catalog.policies))
        self.columns_named = self._tenant_names()
        self.roots: frozenset[int] = frozenset()
        self.by_reference: set[int] = set()
        self._become: dict[int, Mapping[int, tuple[int, ...]]] = {}
        self._held: dict[int, Mapping[int, tuple[int, ...]]] = {}
        self.tenant_column = self._tenant_columns()
        self.bindings = self._bindings()
        self.app_roles = self._app_roles(tuple(app_roles))

    # --- reading

    @cached_property
    def functions_by_name(self) -> Mapping[str, tuple[Function, ...]]:
        """
        The functions of users by their qualified names.
        """
        return _grouped((one.qualified, one) for one in self.catalog.functions.values())

    @cached_property
    def unguarded(self) -> frozenset[str]:
        """
        Functions that read a setting and may return ``''``.
        """
        return frozenset(
            function.qualified
            for function in self.catalog.functions.values()
            if any(settings_of(function.text)) and not _GUARD.search(function.text)
        )

    def _read(self, policy: Policy) -> ReadPolicy:
        relation = self.catalog.relations.get(policy.relation) or _unknown(policy.relation)
        columns = [one.name for one in self.columns.get(policy.relation, {}).values()]

        def read(text: str | None) -> Expression | None:
            if text is None:
                return None
            return read_expression(
                text, table=relation.name, columns=columns, unguarded=self.unguarded
            )

        return ReadPolicy(
            policy=policy, relation=relation, using=read(policy.using), check=read(policy.check)
        )

    @cached_property
    def policies_of(self) -> Mapping[int, tuple[ReadPolicy, ...]]:
        """
        The policies by their tables.
        """
        return _grouped((one.relation.oid, one) for one in self.policies)

    # --- the tenant's column

    def _tenant_names(self) -> tuple[str, ...]:
        votes: Counter[str] = Counter()
        for one in self.policies:
            direct = [tie for tie in one.ties if tie.form != "exists"]
            best = _best({tie.column: FORMS.index(tie.form) for tie in direct})
            if best and not self._is_whole_key(one.relation.oid, best):
                votes[best] += 1
        if votes:
            most = max(votes.values())
            # A column of one odd policy says nothing about other tables.
            names = [name for name, count in votes.most_common() if count * 5 >= most]
            told = ", ".join(f"{name} ({votes[name]})" for name in names)
            self.inferred.append(f"tenant column, from the policies that compare it: {told}")
        else:
            names = self._conventional_names()
        return tuple(dict.fromkeys((*self._named_columns, *names)))

    def _conventional_names(self) -> list[str]:
        if self._named_columns:
            return []
        count = Counter(
            column.name
            for oid, columns in self.columns.items()
            if self._is_own_table(oid)
            for column in columns.values()
            if column.name in _CONVENTIONAL
        )
        if not count:
            return []
        name, tables = max(count.items(), key=lambda one: (one[1], -_CONVENTIONAL.index(one[0])))
        self.inferred.append(
            f"tenant column, from its name alone, for no policy compares one: {name} "
            f"({tables} tables)"
        )
        return [name]

    def _is_own_table(self, oid: int) -> bool:
        relation = self.catalog.relations.get(oid)
        return relation is not None and relation.is_table and not relation.from_extension

    def _is_whole_key(self, relation: int, column: str) -> bool:
        """
        Whether the column alone is the key: then its table lists the tenants.
        """
        return any(
            index.primary and self.names(relation, index.columns[: index.keys]) == (column,)
            for index in self.indexes_of.get(relation, ())
        )

    def _tenant_columns(self) -> Mapping[int, str]:
        found: dict[int, str] = {}
        for oid, relation in self.catalog.relations.items():
            if not relation.is_table or relation.from_extension:
                continue
            if (relation.schema, relation.name) in _PLATFORM and relation.row_security:
                continue
            column = self._column_by_policy(oid) or self._column_by_name(oid)
            if column:
                found[oid] = column
        self.roots = self._find_roots(found)
        for key in self.foreign_keys:
            if key.foreign in self.roots and len(key.columns) == 1 and key.relation not in found:
                found[key.relation] = self.names(key.relation, key.columns)[0]
        for child, parent in self.catalog.parents:
            if parent in found and child in self.columns:
                found.setdefault(child, found[parent])
        return found

    def _column_by_policy(self, oid: int) -> str | None:
        ties = [tie for one in self.policies_of.get(oid, ()) for tie in one.ties]
        ranks = {tie.column: FORMS.index(tie.form) for tie in ties}
        named = [name for name in self.columns_named if name in ranks]
        found = named[0] if named else _best(ranks)
        # It points at the row that has the tenant, and is none itself.
        if found and not named and all(t.form == "exists" for t in ties if t.column == found):
            self.by_reference.add(oid)
        return found

    def _column_by_name(self, oid: int) -> str | None:
        names = {column.name for column in self.columns.get(oid, {}).values()}
        return next((name for name in self.columns_named if name in names), None)

    def _find_roots(self, tenants: Mapping[int, str]) -> frozenset[int]:
        """
        The tables that list the tenants: tenant columns refer to their whole key.
        """
        return frozenset(
            key.foreign
            for key in self.foreign_keys
            if len(key.columns) == 1
            and key.foreign != key.relation
            and self.names(key.relation, key.columns) == (tenants.get(key.relation),)
            and tenants.get(key.foreign) in {None, *self.names(key.foreign, key.foreign_columns)}
        )

    @cached_property
    def tenant_tables(self) -> tuple[Relation, ...]:
        """
        The tables with a tenant column, but for the list of tenants and for children.
        """
        children = {child for child, _ in self.catalog.parents}
        return tuple(
            sorted(
                (
                    self.catalog.relations[oid]
                    for oid in self.tenant_column
                    if oid not in self.roots and oid not in children
                ),
                key=lambda one: (one.schema, one.name),
            )
        )

    @cached_property
    def child_tables(self) -> tuple[tuple[Relation, Relation], ...]:
        """
        Partitions and inheriting tables of tenant tables, each with its parent.
        """
        found = []
        for child, parent in self.catalog.parents:
            if child in self.catalog.relations and parent in self.tenant_column:
                found.append((self.catalog.relations[child], self.catalog.relations[parent]))
        return tuple(sorted(found, key=lambda one: (one[0].schema, one[0].name)))

    def column(self, relation: int, name: str) -> Column:
        """
        Find a column by its name.
        """
        return next(one for one in self.columns[relation].values() if one.name == name)

    def tenant(self, relation: Relation) -> Column:
        """
        The tenant column of a tenant table.
        """
        return self.column(relation.oid, self.tenant_column[relation.oid])

    def names(self, relation: int, numbers: Iterable[int]) -> tuple[str, ...]:
        """
        The names of columns; an expression of an index has none.
        """
        columns = self.columns.get(relation, {})
        return tuple(columns[number].name for number in numbers if number in columns)

    # --- what binds the tenant

    def _bindings(self) -> tuple[Binding, ...]:
        votes: Counter[Binding] = Counter()
        for one in self.policies:
            tenant = self.tenant_column.get(one.relation.oid)
            votes.update(
                {bound for tie in one.ties if tie.column == tenant for bound in tie.bindings}
            )
        if votes:
            told = ", ".join(f"{bound} ({count})" for bound, count in votes.most_common())
            self.inferred.append(f"the tenant is bound by, in so many policies: {told}")
        return tuple(bound for bound, _ in votes.most_common())

    @cached_property
    def tenant_functions(self) -> tuple[Function, ...]:
        """
        The functions that policies ask for the tenant.
        """
        return tuple(
            function
            for bound in self.bindings
            if bound.kind == "function"
            for function in self.functions_by_name.get(bound.name, ())
        )

    @cached_property
    def policy_functions(self) -> tuple[Function, ...]:
        """
        All functions that are called in policies.
        """
        names = {
            node.name
            for one in self.policies
            for _, expression in one.expressions
            for node, _ in walk(parse(expression.text).children)
            if node.kind == "call"
        }
        return tuple(
            function for name in sorted(names) for function in self.functions_by_name.get(name, ())
        )

    @cached_property
    def settings(self) -> frozenset[str]:
        """
        The settings that hold the tenant, also those that the functions read.
        """
        named = {bound.name for bound in self.bindings if bound.kind == "setting"}
        for function in self.reached_functions:
            named.update(settings_of(function.text))
        return frozenset(name for name in named if "." in name)

    @cached_property
    def reached_functions(self) -> tuple[Function, ...]:
        """
        The tenant functions and what they call.
        """
        return self.called_from(self.tenant_functions)

    def called_from(self, functions: Iterable[Function]) -> tuple[Function, ...]:
        """
        Functions and what they call, as far as their bodies tell.
        """
        seen: dict[int, Function] = {}
        waiting = list(functions)
        while waiting:
            function = waiting.pop()
            if function.oid in seen:
                continue
            seen[function.oid] = function
            calls = {n.name for n, _ in walk(parse(function.text).children) if n.kind == "call"}
            for name in calls:
                full = name if "." in name else f"{function.schema}.{name}"
                waiting.extend(self.functions_by_name.get(full, ()))
        return tuple(seen.values())

    @cached_property
    def sealed(self) -> bool:
        """
        Whether the tenant is believed only with a signature that the server checks.
        """
        return bool(self.sealing)

    @cached_property
    def sealing(self) -> frozenset[str]:
        """
        The tenant functions that check a signature, or call one that does.
        """
        return frozenset(one.qualified for one in self.tenant_functions if self.seals(one))

    def seals(self, function: Function) -> bool:
        """
        Whether a function checks a signature, or calls one that does.
        """
        return any(_HASHES.search(one.text) for one in self.called_from((function,)))

    # --- roles

    def role_name(self, oid: int) -> str:
        """
        A role's name, as it is written in SQL.
        """
        if oid == PUBLIC:
            return "PUBLIC"
        role = self.catalog.roles.get(oid)
        return name_sql(role.name) if role else str(oid)

    def _app_roles(self, named: tuple[str, ...]) -> tuple[Role, ...]:
        if named:
            by_name = {role.name: role for role in self.catalog.roles.values()}
            if missing := [name for name in named if name not in by_name]:
                raise LookupError(f"there is no role {missing[0]!r}")
            self.inferred.append(f"application roles, as named: {', '.join(named)}")
            return tuple(by_name[name] for name in named)
        found = self._roles_by_policy()
        for oid, why in self._roles_by_grant(named=bool(found)).items():
            found.setdefault(oid, why)
        # If all who are granted anything bypass policies, they are the application.
        found = found or self._roles_by_grant(named=False, all_of_them=True) or self._owners()
        for oid in tuple(found):
            found.update(self._logins_behind(oid, found))
        told = "; ".join(f"{self.role_name(oid)} ({why})" for oid, why in found.items())
        self.inferred.append(f"application roles: {told or 'none'}")
        return tuple(self.catalog.roles[oid] for oid in found if oid in self.catalog.roles)

    def _roles_by_policy(self) -> dict[int, str]:
        count: Counter[int] = Counter()
        for one in self.policies:
            if any(tie.column == self.tenant_column.get(one.relation.oid) for tie in one.ties):
                count.update(set(one.policy.roles) - {PUBLIC})
        return {oid: f"named by {number} policies" for oid, number in count.most_common()}

    def _roles_by_grant(self, *, named: bool, all_of_them: bool = False) -> dict[int, str]:
        owners = {relation.owner for relation in self.tenant_tables}
        public = any(PUBLIC in one.policy.roles for one in self.policies)
        count: Counter[int] = Counter()
        for relation in self.tenant_tables:
            count.update(
                {
                    grant.grantee
                    for grant in self.grants_of.get(("table", relation.oid), ())
                    if grant.privilege in COMMANDS
                }
            )
        # Whoever is no policy's subject and sees everything is an administrator.
        return {
            oid: f"granted {number} tenant tables"
            for oid, number in count.most_common()
            if oid not in owners
            and oid in self.catalog.roles
            and (public or not named or self.catalog.roles[oid].logs_in)
            and not self.catalog.roles[oid].name.startswith("pg_")
            and (all_of_them or not self._administers(self.catalog.roles[oid], named=named))
        }

    def _administers(self, role: Role, *, named: bool) -> bool:
        if role.superuser or role.bypasses_rls:
            return True
        # Named by policies that compare nothing: a door for a login of its own.
        return named and any(role.oid in one.policy.roles for one in self.policies)

    def _owners(self) -> dict[int, str]:
        count = Counter(relation.owner for relation in self.tenant_tables)
        return {
            oid: f"owns {number} tenant tables, and nobody else is granted any"
            for oid, number in count.most_common()
        }

    def _logins_behind(self, oid: int, found: Collection[int]) -> dict[int, str]:
        """
        The logins that take an application role on: they are the application too.
        """
        return {
            one.member: f"logs in and becomes {self.role_name(oid)}"
            for one in self.catalog.memberships
            if one.role == oid
            and one.member not in found
            and (role := self.catalog.roles.get(one.member)) is not None
            and role.logs_in
            and not role.superuser
            and one.sets
            and not any(relation.owner == role.oid for relation in self.tenant_tables)
        }

    @cached_property
    def app_oids(self) -> frozenset[int]:
        """
        The application's roles.
        """
        return frozenset(role.oid for role in self.app_roles)

    def becomes(self, role: int) -> Mapping[int, tuple[int, ...]]:
        """
        The roles that it can SET ROLE to or make itself a member of, with the way there.
        """
        if role not in self._become:
            self._become[role] = self._closure(role, lambda one: one.sets or one.administers)
        return self._become[role]

    def holds(self, role: int) -> Mapping[int, tuple[int, ...]]:
        """
        The roles whose privileges it has without doing anything, with the way there.
        """
        if role not in self._held:
            self._held[role] = self._closure(role, lambda one: one.inherits)
        return self._held[role]

    def _closure(
        self, role: int, follows: Callable[[Membership], bool]
    ) -> Mapping[int, tuple[int, ...]]:
        ways: dict[int, tuple[int, ...]] = {role: (role,)}
        waiting = deque([role])
        while waiting:
            at = waiting.popleft()
            for one in self._memberships_of.get(at, ()):
                if follows(one) and one.role not in ways:
                    ways[one.role] = (*ways[at], one.role)
                    waiting.append(one.role)
        return ways

    @cached_property
    def _memberships_of(self) -> Mapping[int, tuple[Membership, ...]]:
        return _grouped((one.member, one) for one in self.catalog.memberships)

    @cached_property
    def reach(self) -> frozenset[int]:
        """
        Everybody that the application is, has the privileges of, or can become; PUBLIC too.
        """
        found = {PUBLIC}
        for role in self.app_roles:
            found.update(self.becomes(role.oid), self.holds(role.oid))
        if self.catalog.server.database_owner in found:
            found.update(
                role.oid for role in self.catalog.roles.values() if role.name == "pg_database_owner"
            )
        return frozenset(found)

    def bypasses(self, owner: int) -> bool:
        """
        Whether policies do not hold a role, forced or not.
        """
        role = self.catalog.roles.get(owner)
        return role is not None and (role.superuser or role.bypasses_rls)

    def sees_all(self, owner: int, relation: Relation) -> bool:
        """
        Whether policies do not hold a view's or function's owner at a table that has them.
        """
        unforced = not relation.forced and relation.owner in self.holds(owner)
        return relation.row_security and (self.bypasses(owner) or unforced)

    # --- who gets past which policy

    def applies(self, one: ReadPolicy, role: int) -> bool:
        """
        Whether a policy is for a role.
        """
        return PUBLIC in one.policy.roles or any(
            oid in self.holds(role) for oid in one.policy.roles
        )

    def commands(self, relation: Relation, role: int) -> tuple[str, ...]:
        """
        What a role may do with a table, as `Policy.command` writes it.
        """
        held = {PUBLIC, *self.holds(role)}
        return tuple(
            command
            for privilege, command in COMMANDS.items()
            if relation.owner in held
            or any(
                grant.privilege == privilege and grant.grantee in held
                for grant in self.grants_of.get(("table", relation.oid), ())
            )
        )

    def floored(self, relation: Relation, role: int, command: str, side: str = READS) -> bool:
        """
        Whether a restrictive policy ties each row that a role touches with a command.

        Args:
            relation: The table.

            role: The role.

            command: As `Policy.command` writes it.

            side: `READS` for the rows that are there, `WRITES` for the new ones.
        """
        floors = [
            one.reading(command) if side == READS else one.writing(command)
            for one in self.policies_of.get(relation.oid, ())
            if not one.policy.permissive and one.covers(command) and self.applies(one, role)
        ]
        return any(floor.restricts for floor in floors if floor is not None)

    def open_to(self, one: ReadPolicy, side: str) -> bool:
        """
        Whether the application gets past a permissive policy, where no floor holds it.
        """
        return one.policy.permissive and any(
            not self.floored(one.relation, role.oid, command, side)
            for role in self.app_roles
            if self.applies(one, role.oid)
            for command in self.commands(one.relation, role.oid)
            if command in side and one.covers(command)
        )

    # --- privileges

    @cached_property
    def grants_of(self) -> Mapping[tuple[str, int], tuple[Grant, ...]]:
        """
        The grants by kind and object.
        """
        return _grouped(((grant.kind, grant.oid), grant) for grant in self.catalog.grants)

    def granted(self, kind: str, oid: int, *privileges: str) -> tuple[Grant, ...]:
        """
        The grants by which the application has one of these privileges; none of an owner.
        """
        owner = self._owner_of(kind, oid)
        return tuple(
            grant
            for grant in self.grants_of.get((kind, oid), ())
            if grant.privilege in privileges
            and grant.grantee in self.reach
            and grant.grantee != owner
        )

    def _owner_of(self, kind: str, oid: int) -> int | None:
        if kind == "table":
            relation = self.catalog.relations.get(oid)
            return relation.owner if relation else None
        if kind == "function":
            function = self.catalog.functions.get(oid)
            return function.owner if function else None
        return None

    def usable(self, relation: Relation, *privileges: str) -> bool:
        """
        Whether the application has one of these privileges, also as the owner.
        """
        asked = privileges or tuple(COMMANDS)
        return relation.owner in self.reach or bool(self.granted("table", relation.oid, *asked))

    # --- keys

    @cached_property
    def foreign_keys(self) -> tuple[Constraint, ...]:
        """
        The foreign keys, but for those that partitions have from their parents.
        """
        return tuple(
            one for one in self.catalog.constraints if one.kind == "f" and not one.inherited
        )

    @cached_property
    def indexes_of(self) -> Mapping[int, tuple[Index, ...]]:
        """
        The indexes by their tables.
        """
        return _grouped((one.relation, one) for one in self.catalog.indexes)

    @cached_property
    def constraint_of_index(self) -> Mapping[int, Constraint]:
        """
        The primary, unique or exclusion constraint that an index stands for.
        """
        return {one.index: one for one in self.catalog.constraints if one.kind != "f"}

    # --- writing remedies

    def sql(self, relation: Relation) -> str:
        """
        A relation's name, as it is written in SQL.
        """
        return qualified_sql(relation.schema, relation.name)

    def app_list(self, relation: Relation | None = None) -> str:
        """
        The application's roles, as a list in SQL; those that a table is granted to, if any is.
        """
        granted = [
            role.oid
            for role in self.app_roles
            if relation is None or self._is_granted(role.oid, relation)
        ]
        return (
            ", ".join(self.role_name(oid) for oid in granted or sorted(self.app_oids)) or "PUBLIC"
        )

    def _is_granted(self, role: int, relation: Relation) -> bool:
        return any(
            grant.grantee in self.holds(role)
            for grant in self.grants_of.get(("table", relation.oid), ())
        )

    def safe_owner(self) -> str:
        """
        A role that may own tables: the database's owner, unless the application is that.
        """
        owner = self.catalog.server.database_owner
        if owner in self.reach or owner not in self.catalog.roles:
            supers = [role for role in self.catalog.roles.values() if role.superuser]
            owner = min(role.oid for role in supers)
        return self.role_name(owner)

    def predicate(self, relation: Relation, column: str | None = None) -> str:
        """
        What a policy of this table should say.
        """
        name = column or self.tenant_column[relation.oid]
        target = self.column(relation.oid, name)
        if borrowed := self._borrowed(target):
            return borrowed
        return f"{name_sql(name)} = {self.bound(target)}"

    def _borrowed(self, target: Column) -> str | None:
        """
        Take a membership's sub-select over from another policy, if that is the house's way.
        """
        if self.bindings and self._compared_directly():
            return None
        for one in self.policies:
            tenant = self.tenant_column.get(one.relation.oid)
            for tie in one.ties:
                if tie.form == "in" and tie.column == tenant == target.name:
                    text = (one.policy.using or one.policy.check) or ""
                    start, end = tie.clause.span
                    return text[start:end]
        return None

    def _compared_directly(self) -> bool:
        forms = Counter(tie.form for one in self.policies for tie in one.ties)
        return forms["equal"] + forms["distinct"] + forms["call"] >= forms["in"]

    def bound(self, target: Column) -> str:
        """
        The bound tenant in a column's type, computed once per statement.
        """
        for bound in self.bindings:
            if bound.kind == "function" and self._takes_nothing(bound):
                function = self.functions_by_name[bound.name][0]
                call = f"{qualified_sql(function.schema, function.name)}()"
                cast = "" if function.returns == target.type else f"::{target.type}"
                if bound.name in self.unguarded:
                    call = f"nullif({call}::text, '')"
                    cast = f"::{target.type}"
                return f"(SELECT {call}{cast})"
        names = sorted(bound.name for bound in self.bindings if bound.kind == "setting")
        setting = names[0] if names else "app.tenant_id"
        cast = "" if target.type == "text" else f"::{target.type}"
        return f"(SELECT nullif(current_setting('{setting}', true), ''){cast})"

    def _takes_nothing(self, bound: Binding) -> bool:
        return any(not one.arguments for one in self.functions_by_name.get(bound.name, ()))


def _grouped(pairs: Iterable[tuple[K, V]]) -> Mapping[K, tuple[V, ...]]:
    result: defaultdict[K, list[V]] = defaultdict(list)
    for key, value in pairs:
        result[key].append(value)
    return {key: tuple(values) for key, values in result.items()}


def _columns_by_relation(catalog: Catalog) -> Mapping[int, Mapping[int, Column]]:
    result: defaultdict[int, dict[int, Column]] = defaultdict(dict)
    for column in catalog.columns:
        result[column.relation][column.number] = column
    return dict(result)


def _best(ranks: Mapping[str, int]) -> str | None:
    return min(ranks, key=lambda name: ranks[name], default=None)


def _unknown(oid: int) -> Relation:
    """
    Stand in for a table that the snapshot leaves out, such as a system catalog's.
    """
    return Relation(
        oid=oid,
        schema="pg_catalog",
        name=str(oid),
        kind="r",
        owner=0,
        row_security=False,
        forced=False,
        options=(),
        is_partition=False,
        from_extension=True,
    )
