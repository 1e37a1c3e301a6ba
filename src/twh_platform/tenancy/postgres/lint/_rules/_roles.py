"""
TWH1xx: who the application is, and what it can become.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from .._catalog import Role
from .._findings import Hit
from .._sql import name_sql
from .._survey import Survey
from ._make import listed, policy_hit, policy_sql, role_hit, rule

__all__ = ["RULES"]


@rule(
    "TWH101",
    "app-is-superuser",
    "error",
    title="The application's role is a superuser.",
    why="No policy holds a superuser: every query sees every tenant.",
    attacks=(1,),
)
def app_is_superuser(survey: Survey) -> Iterator[Hit]:
    """
    Look at the application's roles.
    """
    for role in survey.app_roles:
        if role.superuser:
            name = name_sql(role.name)
            yield role_hit(
                role.name,
                f"{name} is a superuser, so no policy holds it.",
                f"ALTER ROLE {name} NOSUPERUSER;",
            )


@rule(
    "TWH102",
    "app-bypasses-policies",
    "error",
    title="The application's role has BYPASSRLS.",
    why="Policies are skipped for it, forced or not.",
    attacks=(1,),
)
def app_bypasses_policies(survey: Survey) -> Iterator[Hit]:
    """
    Look at the application's roles.
    """
    for role in survey.app_roles:
        if role.bypasses_rls:
            name = name_sql(role.name)
            yield role_hit(
                role.name,
                f"{name} has BYPASSRLS, so policies are skipped for it.",
                f"ALTER ROLE {name} NOBYPASSRLS;",
            )


@rule(
    "TWH103",
    "app-owns-tenant-tables",
    "error",
    title="The application's role owns tenant tables.",
    why="An owner can disable row security, drop policies and grant itself anything; "
    "without FORCE no policy holds it in the first place.",
    attacks=(2,),
)
def app_owns_tenant_tables(survey: Survey) -> Iterator[Hit]:
    """
    Look at the owners of tenant tables.
    """
    for role in survey.app_roles:
        owned = [one for one in survey.tenant_tables if one.owner == role.oid]
        if owned:
            name, owner = name_sql(role.name), survey.safe_owner()
            # A new owner is first, then the grants, which the old one loses.
            lines = [
                f"ALTER TABLE {survey.sql(one)} OWNER TO {owner};\n"
                f"GRANT SELECT, INSERT, UPDATE, DELETE ON {survey.sql(one)} TO {name};"
                for one in owned
            ]
            told = listed(f"{one.schema}.{one.name}" for one in owned)
            yield role_hit(role.name, f"{name} owns {told}.", "\n".join(lines))


@rule(
    "TWH104",
    "app-can-become",
    "error",
    title="The application's role can SET ROLE to one that policies do not hold.",
    why="One injected SET ROLE, or set_config('role', ...) in a SELECT, and every tenant is seen.",
    attacks=(1, 22),
)
def app_can_become(survey: Survey) -> Iterator[Hit]:
    """
    Follow memberships, to superusers, BYPASSRLS and owners of tenant tables.
    """
    owners = {one.owner for one in survey.tenant_tables}
    for role in survey.app_roles:
        for oid, way in survey.becomes(role.oid).items():
            goal = survey.catalog.roles.get(oid)
            if goal is None or len(way) == 1 or oid in survey.app_oids - {oid}:
                continue
            if what := _power(goal, owners):
                yield _membership_hit(survey, role, way, f"can become {_shown(goal)}, which {what}")


@rule(
    "TWH105",
    "app-inherits-owner",
    "error",
    title="The application's role inherits the privileges of an owner of tenant tables.",
    why="It may do what the owner may, without SET ROLE: disable row security, drop policies, "
    "and read everything where row security is not forced.",
    attacks=(2,),
)
def app_inherits_owner(survey: Survey) -> Iterator[Hit]:
    """
    Follow memberships that cannot SET ROLE and still inherit, which PostgreSQL 16 allows.
    """
    owners = {one.owner for one in survey.tenant_tables}
    for role in survey.app_roles:
        becomes = survey.becomes(role.oid)
        for oid, way in survey.holds(role.oid).items():
            if oid in owners and oid not in becomes and oid in survey.catalog.roles:
                goal = survey.catalog.roles[oid]
                yield _membership_hit(
                    survey, role, way, f"inherits from {_shown(goal)}, which owns tenant tables"
                )


def _power(role: Role, owners: set[int]) -> str | None:
    if role.superuser:
        return "is a superuser"
    if role.bypasses_rls:
        return "has BYPASSRLS"
    if role.oid in owners:
        return "owns tenant tables"
    return None


def _shown(role: Role) -> str:
    return name_sql(role.name)


def _membership_hit(survey: Survey, role: Role, way: tuple[int, ...], what: str) -> Hit:
    steps = " -> ".join(survey.role_name(oid) for oid in way)
    goal = survey.role_name(way[-1])
    return role_hit(
        role.name,
        f"{_shown(role)} {what} ({steps}).",
        f"REVOKE {survey.role_name(way[1])} FROM {_shown(role)};",
        about=goal,
    )


@rule(
    "TWH106",
    "app-creates-roles",
    "error",
    title="The application's role has CREATEROLE.",
    why="Before PostgreSQL 16 it can make itself a member of every role that is no superuser; "
    "since then of every role that it has made.",
    attacks=(1,),
)
def app_creates_roles(survey: Survey) -> Iterator[Hit]:
    """
    Look at the application's roles and what they can become.
    """
    for role in _reachable(survey):
        if role.creates_roles and not role.superuser:
            name = name_sql(role.name)
            yield role_hit(
                role.name,
                f"{name} has CREATEROLE and can widen its own memberships.",
                f"ALTER ROLE {name} NOCREATEROLE;",
            )


@rule(
    "TWH107",
    "app-replicates",
    "error",
    title="The application's role has REPLICATION.",
    why="The write-ahead log holds the rows of all tenants, and policies do not filter it.",
    attacks=(13,),
)
def app_replicates(survey: Survey) -> Iterator[Hit]:
    """
    Look at the application's roles and what they can become.
    """
    for role in _reachable(survey):
        if role.replicates and not role.superuser:
            name = name_sql(role.name)
            yield role_hit(
                role.name,
                f"{name} has REPLICATION and can stream every tenant's changes.",
                f"ALTER ROLE {name} NOREPLICATION;",
            )


_SERVER_ROLES = ("pg_execute_server_program", "pg_read_server_files", "pg_write_server_files")
_DATA_ROLES = ("pg_read_all_data", "pg_write_all_data")
_OBSERVER_ROLES = ("pg_monitor", "pg_read_all_stats")
_SIGNAL_ROLES = ("pg_signal_backend",)


@rule(
    "TWH108",
    "app-reaches-server",
    "error",
    title="The application's role reads or writes the server's files, or runs its programs.",
    why="The files of the database lie beside every policy.",
    attacks=(1,),
)
def app_reaches_server(survey: Survey) -> Iterator[Hit]:
    """
    Look for memberships in the predefined roles.
    """
    yield from _predefined(survey, _SERVER_ROLES, "so it works on the server's own files")


@rule(
    "TWH109",
    "app-watches-sessions",
    "warning",
    title="The application's role watches or ends the sessions of others.",
    why="Statements of other roles show what their tenants do, with literals; "
    "a session that is ended is a denial of service.",
    attacks=(31, 54),
)
def app_watches_sessions(survey: Survey) -> Iterator[Hit]:
    """
    Look for memberships in the predefined roles; TWH906 tells of them where tenants are sealed.
    """
    roles = _SIGNAL_ROLES if survey.sealed else (*_OBSERVER_ROLES, *_SIGNAL_ROLES)
    yield from _predefined(survey, roles, "so it sees or ends the sessions of others")


@rule(
    "TWH906",
    "watches-tokens",
    "error",
    title="The application's role watches sessions whose tenants are sealed.",
    why="The tokens of all logins are shown to it, whatever was set for its own.",
    attacks=(54,),
)
def watches_tokens(survey: Survey) -> Iterator[Hit]:
    """
    The same, where the tenant is signed.
    """
    if survey.sealed:
        yield from _predefined(survey, _OBSERVER_ROLES, "so it sees the tokens of all logins")


@rule(
    "TWH113",
    "app-is-granted-everything",
    "error",
    title="The application's role may read or write everything, by a predefined role.",
    why="Policies still hold it, but materialized views, sequences, partitions and tables "
    "without policies do not: nobody has to grant them, now or later.",
    attacks=(6, 7, 28),
)
def app_is_granted_everything(survey: Survey) -> Iterator[Hit]:
    """
    Look for memberships in the predefined roles.
    """
    yield from _predefined(survey, _DATA_ROLES, "so no grant is missing anywhere")


def _predefined(survey: Survey, names: tuple[str, ...], what: str) -> Iterator[Hit]:
    for role in survey.app_roles:
        ways = {**survey.becomes(role.oid), **survey.holds(role.oid)}
        for oid, way in ways.items():
            goal = survey.catalog.roles.get(oid)
            # Of pg_monitor's own memberships, only itself is told.
            through = {survey.catalog.roles[step].name for step in way[1:-1]}
            if goal is not None and goal.name in names and not through & set(names):
                yield _membership_hit(survey, role, way, f"is a member of {goal.name}, {what}")


def _reachable(survey: Survey) -> list[Role]:
    oids = {oid for role in survey.app_roles for oid in survey.becomes(role.oid)}
    return [survey.catalog.roles[oid] for oid in sorted(oids) if oid in survey.catalog.roles]


@rule(
    "TWH110",
    "tenant-is-role",
    "warning",
    title="A policy takes the tenant from the role.",
    why="A role per tenant is no boundary against injection: RESET ROLE, SET ROLE and "
    "set_config('role', ...) change it, and after a rollback the wrong one may stay.",
    attacks=(22, 37),
)
def tenant_is_role(survey: Survey) -> Iterator[Hit]:
    """
    Look for current_user and its like beside the tenant column.
    """
    for one in survey.policies:
        column = survey.tenant_column.get(one.relation.oid)
        ties = [tie for tie in one.ties if tie.column == column]
        if column and any(b.kind == "role" for tie in ties for b in tie.bindings):
            says = survey.predicate(one.relation)
            parts = [f"{word} ({says})" for word, _ in one.expressions]
            yield policy_hit(
                one,
                f"{column} is compared with the role, which one injected statement changes.",
                f"ALTER POLICY {policy_sql(one)} {' '.join(parts)};",
            )


@rule(
    "TWH111",
    "preset-tenant",
    "error",
    title="Sessions begin with a tenant.",
    why="Work that forgot to bind a tenant runs as this one, where it should fail.",
    attacks=(14, 23),
)
def preset_tenant(survey: Survey) -> Iterator[Hit]:
    """
    Look at ALTER ROLE ... SET and ALTER DATABASE ... SET.
    """
    for one in survey.catalog.presets:
        if one.name.lower() not in survey.settings and one.name.lower() != "row_security":
            continue
        if one.role and one.role not in survey.reach:
            continue
        role, database = survey.role_name(one.role), name_sql(survey.catalog.server.database)
        inside = f" IN DATABASE {database}" if one.role and one.database else ""
        whom = f"ROLE {role}" if one.role else f"DATABASE {database}"
        if not one.role and not one.database:
            whom = "ROLE ALL"
        yield Hit(
            kind="setting",
            object=one.name,
            message=f"{whom}{inside} presets {one.name}, so a transaction that binds nothing "
            "is still somebody's.",
            remedy=f"ALTER {whom}{inside} RESET {_setting(one.name)};",
            about=f"{whom}{inside}",
        )


def _setting(name: str) -> str:
    return ".".join(map(name_sql, name.split(".")))


@rule(
    "TWH112",
    "login-sees-all-tenants",
    "info",
    title="A login beside the application's sees every tenant.",
    why="That is how administrators work; whoever has its password needs a reason and a record.",
    attacks=(13,),
)
def login_sees_all_tenants(survey: Survey) -> Iterator[Hit]:
    """
    Look for BYPASSRLS with grants on tenant tables, and for policies that compare nothing.
    """
    for role in survey.catalog.roles.values():
        if role.oid in survey.reach or role.superuser or not role.logs_in:
            continue
        held = survey.holds(role.oid)
        if role.bypasses_rls and _granted_tenants(survey, held):
            yield role_hit(
                role.name,
                f"{name_sql(role.name)} has BYPASSRLS and may use tenant tables.",
                f"ALTER ROLE {name_sql(role.name)} NOBYPASSRLS;",
            )
            continue
        for one in survey.policies:
            open_to = set(one.policy.roles) & set(held)
            wide = any(expression.always_true for _, expression in one.expressions)
            ours = one.policy.permissive and one.relation.oid in survey.tenant_column
            if open_to and wide and ours:
                where = f"{one.policy.name} on {one.relation.schema}.{one.relation.name}"
                yield role_hit(
                    role.name,
                    f"Policy {where} shows {name_sql(role.name)} every tenant.",
                    f"DROP POLICY {policy_sql(one)};",
                    about=where,
                )


def _granted_tenants(survey: Survey, held: Collection[int]) -> bool:
    return any(
        grant.grantee in held
        for relation in survey.tenant_tables
        for grant in survey.grants_of.get(("table", relation.oid), ())
        if grant.grantee != relation.owner
    )


RULES = (
    app_is_superuser,
    app_bypasses_policies,
    app_owns_tenant_tables,
    app_can_become,
    app_inherits_owner,
    app_creates_roles,
    app_replicates,
    app_reaches_server,
    app_watches_sessions,
    watches_tokens,
    tenant_is_role,
    preset_tenant,
    login_sees_all_tenants,
    app_is_granted_everything,
)
