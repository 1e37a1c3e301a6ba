"""
TWH2xx: which tables, views and copies hold rows of tenants without a policy that holds.
"""

from __future__ import annotations

from collections.abc import Iterator

from .._catalog import Constraint, Relation
from .._findings import Hit
from .._sql import columns_sql, name_sql
from .._survey import ReadPolicy, Survey
from ._make import listed, policy_sql, rule, table_hit

__all__ = ["RULES", "free_name"]


def free_name(survey: Survey, relation: Relation, name: str) -> str:
    """
    A policy's name that the table does not have yet.
    """
    taken = {one.policy.name for one in survey.policies_of.get(relation.oid, ())}
    number = 2
    free = name
    while free in taken:
        free, number = f"{name}_{number}", number + 1
    return name_sql(free)


def _policies(survey: Survey, relation: Relation, says: str) -> str:
    roles, table = survey.app_list(relation), survey.sql(relation)
    rows, floor = (free_name(survey, relation, one) for one in ("tenant_rows", "tenant_floor"))
    return (
        f"CREATE POLICY {rows} ON {table} TO {roles}\n"
        f"    USING ({says})\n    WITH CHECK ({says});\n"
        f"CREATE POLICY {floor} ON {table} AS RESTRICTIVE TO {roles}\n"
        f"    USING ({says})\n    WITH CHECK ({says});"
    )


def _enable(survey: Survey, relation: Relation) -> str:
    return (
        f"ALTER TABLE {survey.sql(relation)} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;"
    )


@rule(
    "TWH201",
    "table-without-policy",
    "error",
    title="A table of tenants' rows has no row security at all.",
    why="Whoever forgets a WHERE, or is made to, reads and writes every tenant.",
    attacks=(2, 20),
)
def table_without_policy(survey: Survey) -> Iterator[Hit]:
    """
    Look for the tenant column, and for references to the list of tenants.
    """
    for one in survey.tenant_tables:
        bare = not one.row_security and one.oid not in survey.policies_of
        if bare and survey.usable(one):
            column = survey.tenant_column[one.oid]
            yield table_hit(
                one,
                f"It has the tenant column {column}, and neither row security nor a policy.",
                f"{_enable(survey, one)}\n{_policies(survey, one, survey.predicate(one))}",
            )


@rule(
    "TWH202",
    "inert-policies",
    "error",
    title="A table has policies, and row security was never enabled.",
    why="The policies are never asked: every row of every tenant passes.",
    attacks=(2,),
)
def inert_policies(survey: Survey) -> Iterator[Hit]:
    """
    Look for policies on tables where row security is off.
    """
    for oid, policies in survey.policies_of.items():
        relation = survey.catalog.relations.get(oid)
        if relation is not None and not relation.row_security and not relation.from_extension:
            told = listed(one.policy.name for one in policies)
            yield table_hit(
                relation,
                f"Row security was never enabled, so nothing asks its policies: {told}.",
                _enable(survey, relation),
            )


@rule(
    "TWH203",
    "not-forced",
    "warning",
    title="Row security is enabled and not forced.",
    why="The table's owner reads everything, and so do its views and SECURITY DEFINER functions.",
    attacks=(2, 3, 4),
)
def not_forced(survey: Survey) -> Iterator[Hit]:
    """
    Look at tenant tables with row security.
    """
    for one in (*survey.tenant_tables, *(child for child, _ in survey.child_tables)):
        if one.row_security and not one.forced:
            yield table_hit(
                one,
                f"Policies do not hold its owner, {survey.role_name(one.owner)}.",
                f"ALTER TABLE {survey.sql(one)} FORCE ROW LEVEL SECURITY;",
            )


@rule(
    "TWH204",
    "no-permissive-policy",
    "warning",
    title="Row security is enabled and no policy lets anything through.",
    why="The application is granted the table and every query answers with no rows, silently; "
    "the next hand to mend that may write USING (true).",
    attacks=(9,),
)
def no_permissive_policy(survey: Survey) -> Iterator[Hit]:
    """
    Look at tables that the application is granted.
    """
    children = {child.oid for child, _ in survey.child_tables}
    for oid, one in survey.catalog.relations.items():
        if not one.is_table or not one.row_security or oid in children or one.from_extension:
            continue
        if any(p.policy.permissive for p in survey.policies_of.get(oid, ())):
            continue
        if survey.granted("table", oid, "SELECT", "INSERT", "UPDATE", "DELETE"):
            granted = survey.granted("table", oid, "SELECT", "INSERT", "UPDATE", "DELETE")
            yield table_hit(
                one,
                "It is granted to the application, and no permissive policy shows it a row.",
                _policies(survey, one, survey.predicate(one))
                if oid in survey.tenant_column
                else _revoke(survey, one, {grant.grantee for grant in granted}),
            )


def _revoke(survey: Survey, relation: Relation, grantees: set[int]) -> str:
    names = ", ".join(survey.role_name(oid) for oid in sorted(grantees))
    return f"REVOKE ALL ON {survey.sql(relation)} FROM {names};"


@rule(
    "TWH205",
    "child-without-policy",
    "error",
    title="A table refers to a tenant table, and has neither a tenant column nor a policy.",
    why="Its rows belong to the tenants of the rows they refer to, and everybody reads them.",
    attacks=(2, 27),
)
def child_without_policy(survey: Survey) -> Iterator[Hit]:
    """
    Follow foreign keys into tenant tables.
    """
    for one, key, parent in _derived(survey):
        if one.row_security or one.oid in survey.policies_of or not survey.usable(one):
            continue
        pairs = zip(
            survey.names(one.oid, key.columns),
            survey.names(parent.oid, key.foreign_columns),
            strict=True,
        )
        here = name_sql(one.name)
        joined = [f"parent.{name_sql(theirs)} = {here}.{name_sql(ours)}" for ours, theirs in pairs]
        column = survey.tenant_column.get(parent.oid)
        if column:
            target = survey.column(parent.oid, column)
            joined.append(f"parent.{name_sql(column)} = {survey.bound(target)}")
        says = f"EXISTS (SELECT FROM {survey.sql(parent)} AS parent WHERE {' AND '.join(joined)})"
        yield table_hit(
            one,
            f"Its rows belong to those of {parent.schema}.{parent.name} ({key.name}), "
            "which are a tenant's.",
            f"{_enable(survey, one)}\n{_policies(survey, one, says)}",
        )


def _derived(survey: Survey) -> Iterator[tuple[Relation, Constraint, Relation]]:
    """
    Yield tables without a tenant column that refer to tenants' rows, over any number of steps.
    """
    tenants = {one.oid for one in survey.tenant_tables}
    seen: set[int] = set()
    grown = True
    while grown:
        grown = False
        for key in survey.foreign_keys:
            child = survey.catalog.relations.get(key.relation)
            fresh = key.relation not in tenants | seen | set(survey.tenant_column)
            if child is not None and fresh and key.foreign in tenants | seen:
                seen.add(key.relation)
                grown = True
                yield child, key, survey.catalog.relations[key.foreign]


@rule(
    "TWH206",
    "nullable-tenant",
    "warning",
    title="The tenant column may be NULL.",
    why="A row without a tenant is nobody's and, with IS NOT DISTINCT FROM and nothing bound, "
    "everybody's; a unique key does not hold it.",
    attacks=(11,),
)
def nullable_tenant(survey: Survey) -> Iterator[Hit]:
    """
    Look at the tenant columns.
    """
    for one in survey.tenant_tables:
        column = survey.tenant(one)
        if not column.not_null:
            yield table_hit(
                one,
                f"Its tenant column {column.name} may be NULL.",
                f"ALTER TABLE {survey.sql(one)} ALTER COLUMN {name_sql(column.name)} SET NOT NULL;",
            )


@rule(
    "TWH207",
    "open-child",
    "error",
    title="A partition or inheriting table is granted and has no row security of its own.",
    why="Asked by its own name, it does not ask its parent's policies: all tenants' rows.",
    attacks=(7,),
)
def open_child(survey: Survey) -> Iterator[Hit]:
    """
    Look at the children of tenant tables.
    """
    for child, parent in survey.child_tables:
        grants = survey.granted("table", child.oid, "SELECT", "INSERT", "UPDATE", "DELETE")
        if child.is_table and not child.row_security and grants:
            who = {grant.grantee for grant in grants}
            yield table_hit(
                child,
                f"It is a part of {parent.schema}.{parent.name} and granted by its own name to "
                f"{', '.join(map(survey.role_name, sorted(who)))}, past the parent's policies.",
                f"{_revoke(survey, child, who)}\n{_enable(survey, child)}",
            )


@rule(
    "TWH208",
    "child-without-row-security",
    "info",
    title="A partition or inheriting table has no row security of its own.",
    why="Nobody is granted it now; one GRANT ON ALL TABLES opens it.",
    attacks=(7,),
)
def child_without_row_security(survey: Survey) -> Iterator[Hit]:
    """
    Look at the children of tenant tables that are not granted.
    """
    for child, parent in survey.child_tables:
        grants = survey.granted("table", child.oid, "SELECT", "INSERT", "UPDATE", "DELETE")
        if child.is_table and not child.row_security and not grants:
            yield table_hit(
                child,
                f"It is a part of {parent.schema}.{parent.name}, and row security is off.",
                _enable(survey, child),
            )


@rule(
    "TWH209",
    "ungranted-table-without-policy",
    "info",
    title="A table with a tenant column has no row security, and the application no privilege.",
    why="One GRANT ON ALL TABLES opens it.",
    attacks=(2,),
)
def ungranted_table_without_policy(survey: Survey) -> Iterator[Hit]:
    """
    Look for the tenant column where nothing is granted.
    """
    for one in survey.tenant_tables:
        bare = not one.row_security and one.oid not in survey.policies_of
        if bare and not survey.usable(one):
            yield table_hit(
                one,
                f"It has the tenant column {survey.tenant_column[one.oid]} and no row security; "
                "the application is granted nothing on it now.",
                _enable(survey, one),
            )


@rule(
    "TWH210",
    "view-around-policies",
    "error",
    title="A view reads tenant tables with the rights of an owner whom policies do not hold.",
    why="It shows every tenant's rows to whoever may read it.",
    attacks=(3,),
)
def view_around_policies(survey: Survey) -> Iterator[Hit]:
    """
    Follow views without security_invoker down to tenant tables.
    """
    for view, tables in _definer_views(survey):
        around = [one for one, owner in tables if survey.sees_all(owner, one)]
        if around:
            told = listed(f"{one.schema}.{one.name}" for one in around)
            yield _view_hit(survey, view, f"and policies do not hold that role there: {told}")


@rule(
    "TWH211",
    "view-asks-as-owner",
    "warning",
    title="A view reads tenant tables as its owner.",
    why="The policies that hold are the owner's, not the caller's; a change of the owner, or of "
    "FORCE, opens it.",
    attacks=(3,),
)
def view_asks_as_owner(survey: Survey) -> Iterator[Hit]:
    """
    Follow views without security_invoker down to tenant tables.
    """
    for view, tables in _definer_views(survey):
        if not any(survey.sees_all(owner, one) for one, owner in tables):
            yield _view_hit(survey, view, "so the policies are those of that role")


def _view_hit(survey: Survey, view: Relation, what: str) -> Hit:
    return table_hit(
        view,
        f"It reads as its owner, {survey.role_name(view.owner)}, {what}.",
        f"ALTER VIEW {survey.sql(view)} SET (security_invoker = true);",
    )


def _definer_views(survey: Survey) -> Iterator[tuple[Relation, list[tuple[Relation, int]]]]:
    """
    Yield the views that the application may use, and the tenant tables each reads as whom.
    """
    for view in survey.catalog.relations.values():
        if view.kind != "v" or view.from_extension or _invokes(view):
            continue
        if not survey.granted("table", view.oid, "SELECT", "INSERT", "UPDATE", "DELETE"):
            continue
        tables = list(dict.fromkeys(_read_by(survey, view, set(), through_invokers=False)))
        if tables:
            yield view, tables


def _invokes(view: Relation) -> bool:
    options = dict(one.split("=", 1) for one in view.options if "=" in one)
    return options.get("security_invoker", "false").lower() in {"true", "on", "yes", "1"}


def _read_by(
    survey: Survey, view: Relation, seen: set[int], *, through_invokers: bool
) -> Iterator[tuple[Relation, int]]:
    seen.add(view.oid)
    for reader, source in survey.catalog.sources:
        if reader != view.oid or source in seen:
            continue
        relation = survey.catalog.relations.get(source)
        if relation is None:
            continue
        if relation.kind in {"v", "m"}:
            if through_invokers or not _invokes(relation):
                yield from _read_by(survey, relation, seen, through_invokers=through_invokers)
        elif source in survey.tenant_column:
            yield relation, view.owner


@rule(
    "TWH212",
    "copy-of-tenants",
    "error",
    title="The application may read a materialized view of tenant tables.",
    why="It holds the rows of all tenants and cannot carry policies.",
    attacks=(6,),
)
def copy_of_tenants(survey: Survey) -> Iterator[Hit]:
    """
    Follow materialized views down to tenant tables, and look at their columns.
    """
    for view in survey.catalog.relations.values():
        if view.kind != "m":
            continue
        grants = survey.granted("table", view.oid, "SELECT")
        tables = [one for one, _ in _read_by(survey, view, set(), through_invokers=True)]
        if grants and (tables or _has_tenant_name(survey, view)):
            told = listed(dict.fromkeys(f"{one.schema}.{one.name}" for one in tables))
            yield table_hit(
                view,
                f"It is a copy of {told or 'rows of all tenants'}, and nothing filters it.",
                _revoke(survey, view, {grant.grantee for grant in grants}),
            )


@rule(
    "TWH213",
    "foreign-table",
    "warning",
    title="The application may use a foreign table with a tenant column.",
    why="Foreign tables cannot carry policies.",
    attacks=(6,),
)
def foreign_table(survey: Survey) -> Iterator[Hit]:
    """
    Look at foreign tables with the name of a tenant column.
    """
    for one in survey.catalog.relations.values():
        grants = survey.granted("table", one.oid, "SELECT", "INSERT", "UPDATE", "DELETE")
        if one.kind == "f" and grants and _has_tenant_name(survey, one):
            yield table_hit(
                one,
                "It holds rows of all tenants, and no policy can filter it.",
                _revoke(survey, one, {grant.grantee for grant in grants}),
            )


def _has_tenant_name(survey: Survey, relation: Relation) -> bool:
    names = {column.name for column in survey.columns.get(relation.oid, {}).values()}
    return bool(names & set(survey.columns_named))


@rule(
    "TWH214",
    "open-list-of-tenants",
    "warning",
    title="The application may read the whole list of tenants.",
    why="Who else is a customer is a secret; each id is one to try.",
    attacks=(48,),
)
def open_list_of_tenants(survey: Survey) -> Iterator[Hit]:
    """
    Look at the tables that tenant columns refer to.
    """
    for oid in sorted(survey.roots):
        root = survey.catalog.relations[oid]
        if not survey.granted("table", oid, "SELECT"):
            continue
        keys = [key for key in survey.foreign_keys if key.foreign == oid and len(key.columns) == 1]
        column = survey.names(oid, keys[0].foreign_columns)[0]
        says = f"{name_sql(column)} = {survey.bound(survey.column(oid, column))}"
        open_policies = [one for one in survey.policies_of.get(oid, ()) if _shows_all(survey, one)]
        if not root.row_security:
            remedy = f"{_enable(survey, root)}\n{_policies(survey, root, says)}"
        elif open_policies:
            remedy = "\n".join(
                f"ALTER POLICY {policy_sql(one)} USING ({says});" for one in open_policies
            )
        else:
            continue
        yield table_hit(
            root, f"Tenant columns refer to it ({column}), and every row can be read.", remedy
        )


def _shows_all(survey: Survey, one: ReadPolicy) -> bool:
    return (
        one.policy.permissive
        and one.covers("r")
        and one.using is not None
        and one.using.always_true
        and any(survey.applies(one, role.oid) for role in survey.app_roles)
    )


@rule(
    "TWH215",
    "published",
    "info",
    title="A publication sends tenants' rows out.",
    why="Logical replication does not ask policies: whoever subscribes has all tenants.",
    attacks=(13,),
)
def published(survey: Survey) -> Iterator[Hit]:
    """
    Look at what publications hold.
    """
    schemas = {one.oid: one.name for one in survey.catalog.schemas}
    for one in survey.catalog.publications:
        named = {schemas.get(oid) for oid in one.schemas}
        sent = [
            table
            for table in survey.tenant_tables
            if one.all_tables or table.oid in one.relations or table.schema in named
        ]
        if sent:
            told = listed(f"{table.schema}.{table.name}" for table in sent)
            yield Hit(
                kind="publication",
                object=one.name,
                message=f"It sends the rows of all tenants out of {told}.",
                remedy=f"DROP PUBLICATION {columns_sql([one.name])};",
            )


RULES = (
    table_without_policy,
    inert_policies,
    not_forced,
    no_permissive_policy,
    child_without_policy,
    nullable_tenant,
    open_child,
    child_without_row_security,
    ungranted_table_without_policy,
    view_around_policies,
    view_asks_as_owner,
    copy_of_tenants,
    foreign_table,
    open_list_of_tenants,
    published,
)
