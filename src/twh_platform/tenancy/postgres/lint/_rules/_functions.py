"""
TWH4xx: functions that say who the tenant is, and functions that act as somebody else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from .._catalog import PUBLIC, Function, Relation
from .._expressions import Node, parse, replace, walk
from .._findings import Hit
from .._predicates import settings_of
from .._sql import columns_sql
from .._survey import Survey
from ._make import function_hit, function_sql, listed, rule

__all__ = ["RULES"]

_TRIGGERS = frozenset(("trigger", "event_trigger"))
_STRINGS = frozenset(("text", "character varying", "name", "character", "void", "trigger"))
_SET = re.compile(
    r"(?:^|[;\s'])set\s+(?P<session>session\s+)?(?P<name>[a-z_]\w*\.[a-z_]\w*)\s*(?:=|\bto\b)",
    re.IGNORECASE,
)


@rule(
    "TWH401",
    "immutable-tenant",
    "error",
    title="A function that says who the tenant is is IMMUTABLE.",
    why="Its answer is folded into a cached plan: the next tenant on the connection gets the "
    "rows of the last.",
    attacks=(24,),
)
def immutable_tenant(survey: Survey) -> Iterator[Hit]:
    """
    Look at the functions of policies that depend on the session, and what they call.
    """
    for one in _session_functions(survey):
        if one.volatility == "i":
            yield function_hit(
                one,
                "It reads the session and is IMMUTABLE, so plans keep its answer.",
                f"ALTER {function_sql(one)} STABLE;",
            )


@rule(
    "TWH402",
    "volatile-tenant",
    "warning",
    title="A function that says who the tenant is is VOLATILE.",
    why="It is called for every row and no index can be used with it: a lookup by primary key "
    "took 14 ms in place of 16 us.",
    attacks=(33,),
)
def volatile_tenant(survey: Survey) -> Iterator[Hit]:
    """
    Look at the functions that policies call.
    """
    for one in survey.policy_functions:
        if one.volatility == "v":
            yield function_hit(
                one,
                "Policies call it, and it is VOLATILE.",
                f"ALTER {function_sql(one)} STABLE;",
            )


def _session_functions(survey: Survey) -> Iterator[Function]:
    seen = {one.oid: one for one in (*survey.policy_functions, *survey.reached_functions)}
    for one in seen.values():
        reads = any(settings_of(one.text)) or "current_user" in one.text.lower()
        if reads or one in survey.tenant_functions:
            yield one


@rule(
    "TWH403",
    "definer-around-policies",
    "error",
    title="A SECURITY DEFINER function works on tenant tables as a role whom policies do not hold.",
    why="Whoever calls it reaches every tenant's rows.",
    attacks=(4,),
)
def definer_around_policies(survey: Survey) -> Iterator[Hit]:
    """
    Look for the names of tenant tables, and for EXECUTE, in what the application may call.
    """
    for one in _callable_definers(survey):
        touched = _touched(survey, one)
        around = [table for table in touched if survey.sees_all(one.owner, table)]
        if around:
            told = listed(f"{table.schema}.{table.name}" for table in around)
            yield function_hit(
                one,
                f"It runs as {survey.role_name(one.owner)}, whom policies do not hold, and names "
                f"{told}.",
                f"ALTER {function_sql(one)} SECURITY INVOKER;",
            )
        elif _is_dynamic(one) and survey.bypasses(one.owner):
            yield function_hit(
                one,
                f"It runs as {survey.role_name(one.owner)}, whom policies do not hold, and "
                "executes SQL that is put together at run time.",
                f"ALTER {function_sql(one)} SECURITY INVOKER;",
            )


@rule(
    "TWH404",
    "definer-search-path",
    "warning",
    title="A SECURITY DEFINER function looks names up where its caller can put things.",
    why="A table, type or function of the caller stands in for the one that was meant, and runs "
    "with the owner's rights. pg_temp is searched first, unless it is named.",
    attacks=(4, 35),
)
def definer_search_path(survey: Survey) -> Iterator[Hit]:
    """
    Look at the search_path of what the application may call, and of triggers.
    """
    for one in survey.catalog.functions.values():
        if not one.definer or one.resolved or one.language in {"c", "internal"}:
            continue
        if one.returns not in _TRIGGERS and not _callable(survey, one):
            continue
        fault = _path_fault(survey, one)
        if fault:
            what, path = fault
            yield function_hit(
                one, what, f"ALTER {function_sql(one)} SET search_path = {columns_sql(path)};"
            )


def _path_of(function: Function) -> list[str] | None:
    for setting in function.config:
        name, _, value = setting.partition("=")
        if name.lower() == "search_path":
            parts = re.findall(r'"((?:[^"]|"")*)"|([^\s,"]+)', value)
            # What was not quoted is folded when it is looked up.
            return [quoted.replace('""', '"') or plain.lower() for quoted, plain in parts]
    return None


def _path_fault(survey: Survey, function: Function) -> tuple[str, list[str]] | None:
    path = _path_of(function)
    if path is None:
        own = ["pg_catalog", function.schema, "pg_temp"]
        return "It has no search_path of its own: the caller's is used.", own
    open_schemas = _creatable(survey)
    bad = [one for one in path if one == "$user" or one in open_schemas]
    if bad:
        rest = [one for one in path if one not in {*bad, "pg_temp"}]
        told = f"On its search_path the application can make things: {listed(bad)}."
        return told, ["pg_catalog", *(one for one in rest if one != "pg_catalog"), "pg_temp"]
    # Left out it is searched first, for tables and types: DECLARE v text runs its checks.
    if "pg_temp" not in path or path.index("pg_temp") < len(path) - 1:
        rest = [one for one in path if one not in {"pg_temp", ""}]
        told = "What is temporary comes before its search_path: pg_temp is not named last."
        return told, [*(rest or ["pg_catalog"]), "pg_temp"]
    return None


def _creatable(survey: Survey) -> set[str]:
    return {
        schema.name
        for schema in survey.catalog.schemas
        if any(
            grant.privilege == "CREATE" and grant.grantee in survey.reach
            for grant in survey.grants_of.get(("schema", schema.oid), ())
        )
    }


@rule(
    "TWH405",
    "definer-for-everybody",
    "warning",
    title="A SECURITY DEFINER function may be executed by PUBLIC.",
    why="EXECUTE is granted to everybody unless it is revoked; who needs it should be named.",
    attacks=(4,),
)
def definer_for_everybody(survey: Survey) -> Iterator[Hit]:
    """
    Look at the grants; triggers are not called, so theirs do not matter.
    """
    for one in survey.catalog.functions.values():
        grants = survey.grants_of.get(("function", one.oid), ())
        public = any(grant.grantee == PUBLIC for grant in grants)
        # Whoever meets a policy has to be able to ask who the tenant is.
        asked = one in survey.reached_functions and not one.arguments
        if one.definer and public and one.returns not in _TRIGGERS and not asked:
            yield function_hit(
                one,
                "Everybody may execute it, with the rights of its owner, "
                f"{survey.role_name(one.owner)}.",
                f"REVOKE EXECUTE ON {function_sql(one)} FROM PUBLIC;\n"
                f"GRANT EXECUTE ON {function_sql(one)} TO {survey.app_list()};",
            )


@rule(
    "TWH406",
    "definer-trigger",
    "error",
    title="A trigger works as a role whom policies do not hold.",
    why="It reads and copies other tenants' rows on behalf of whoever writes one of his own.",
    attacks=(5,),
)
def definer_trigger(survey: Survey) -> Iterator[Hit]:
    """
    Look at triggers whose function is SECURITY DEFINER, on tables the application writes.
    """
    for one in survey.catalog.triggers:
        function = survey.catalog.functions.get(one.function)
        table = survey.catalog.relations.get(one.relation)
        if function is None or table is None or not function.definer:
            continue
        if not survey.usable(table, "INSERT", "UPDATE", "DELETE"):
            continue
        around = [t for t in _touched(survey, function) if survey.sees_all(function.owner, t)]
        if around or (survey.bypasses(function.owner) and table.oid in survey.tenant_column):
            yield Hit(
                kind="trigger",
                object=f"{one.name} on {table.schema}.{table.name}",
                schema=table.schema,
                message=f"Its function {function.qualified}() runs as "
                f"{survey.role_name(function.owner)}, whom policies do not hold.",
                remedy=f"ALTER {function_sql(function)} SECURITY INVOKER;",
            )


@rule(
    "TWH407",
    "session-level-setter",
    "error",
    title="A function sets a value for the whole session.",
    why="It stays on the pooled connection after the transaction: the next request, of another "
    "tenant, runs with it.",
    attacks=(15, 53),
)
def session_level_setter(survey: Survey) -> Iterator[Hit]:
    """
    Look for set_config(..., false), and for SET without LOCAL of a setting with a dot.
    """
    for one in survey.catalog.functions.values():
        changed = _made_local(one)
        if changed != one.text:
            names = listed(sorted(_set_names(one.text))) or "a setting"
            yield function_hit(
                one,
                f"It sets {names} for the session, not for the transaction.",
                _rewritten(one, changed),
            )


def _made_local(function: Function) -> str:
    text = function.text
    changes = {}
    for node, _ in walk(parse(text).children):
        if node.kind == "call" and node.parts[-1] == "set_config" and node.children:
            last = node.children[-1]
            custom = node.children[0].kind != "string" or "." in node.children[0].parts[0]
            if last.is_word("false") and custom:
                changes[last.start, last.end] = "true"
    text = replace(text, changes)
    if function.language not in {"plpgsql", "sql"}:
        return text
    return _SET.sub(_local, text)


def _local(match: re.Match[str]) -> str:
    start = match.start("session") if match["session"] else match.start("name")
    at = match.start()
    return f"{match[0][: start - at]}LOCAL {match[0][match.start('name') - at :]}"


def _set_names(text: str) -> set[str]:
    names = {match["name"].lower() for match in _SET.finditer(text)}
    for node, _ in walk(parse(text).children):
        if node.kind == "call" and node.parts[-1] == "set_config" and node.children:
            first, last = node.children[0], node.children[-1]
            if first.kind == "string" and last.is_word("false"):
                names.add(first.parts[0].lower())
    return names


def _rewritten(function: Function, text: str) -> str:
    definition = function.definition.replace(function.text, text, 1)
    if not function.definition or definition == function.definition:
        return f"-- Write this into {function_sql(function)}:\n" + "\n".join(
            f"-- {line}" for line in text.splitlines()
        )
    return definition.rstrip().rstrip(";") + ";"


@rule(
    "TWH408",
    "leakproof-function",
    "error",
    title="Somebody declared a function LEAKPROOF.",
    why="The planner may then run it before the policies, on rows of other tenants; "
    "what it says of its arguments, in an error or a notice, gets out.",
    attacks=(29,),
)
def leakproof_function(survey: Survey) -> Iterator[Hit]:
    """
    Look at the functions of users.
    """
    for one in survey.catalog.functions.values():
        if one.leakproof and one.language != "internal":
            yield function_hit(
                one,
                "It is LEAKPROOF, so it may see rows before the policies do.",
                f"ALTER {function_sql(one)} NOT LEAKPROOF;",
            )


@rule(
    "TWH409",
    "tenant-function-cast",
    "warning",
    title="A function that says who the tenant is breaks on the empty string.",
    why="A setting that was used once in a session reads '' afterwards, not NULL, and the cast "
    "raises an error that says nothing of tenants.",
    attacks=(14,),
)
def tenant_function_cast(survey: Survey) -> Iterator[Hit]:
    """
    Look for functions that return another type than text and have no guard.
    """
    for one in survey.reached_functions:
        if one.qualified in survey.unguarded and one.returns not in _STRINGS:
            calls = {
                (node.start, node.end): f"nullif({one.text[node.start : node.end]}, '')"
                for node in _reads_setting(one.text)
            }
            yield function_hit(
                one,
                f"It casts a setting to {one.returns} with no guard against the empty string.",
                _rewritten(one, replace(one.text, calls)),
            )


def _reads_setting(text: str) -> Iterator[Node]:
    for node, _ in walk(parse(text).children):
        if node.kind == "call" and node.parts[-1] == "current_setting":
            yield node


@rule(
    "TWH410",
    "tenant-function-search-path",
    "warning",
    title="A function that policies call looks names up where its caller can put things.",
    why="A schema of the caller's, put before pg_catalog, answers in the place of "
    "current_setting(); a temporary type called text or uuid makes another tenant of this one.",
    attacks=(4, 35),
)
def tenant_function_search_path(survey: Survey) -> Iterator[Hit]:
    """
    Look at what policies call and what that calls, where the body is kept as text.
    """
    seen = {one.oid: one for one in (*survey.policy_functions, *survey.reached_functions)}
    for one in seen.values():
        # TWH404 tells of those that are SECURITY DEFINER.
        if one.definer or one.resolved or one.language in {"c", "internal"}:
            continue
        fault = _path_fault(survey, one)
        if fault:
            what, path = fault
            yield function_hit(
                one,
                f"Policies depend on it. {what}",
                f"ALTER {function_sql(one)} SET search_path = {columns_sql(path)};",
            )


@rule(
    "TWH411",
    "shared-channel",
    "warning",
    title="A function notifies all tenants on one channel.",
    why="LISTEN is not asked by any policy: each session hears what the rows of others caused.",
    attacks=(32,),
)
def shared_channel(survey: Survey) -> Iterator[Hit]:
    """
    Look for NOTIFY and pg_notify with a fixed name, in triggers of tenant tables and beside them.
    """
    on_tenants = {
        one.function for one in survey.catalog.triggers if one.relation in survey.tenant_column
    }
    for one in survey.catalog.functions.values():
        if one.oid in on_tenants or _touched(survey, one):
            changed, channels = _own_channels(survey, one)
            if channels:
                yield function_hit(
                    one,
                    f"Sessions of all tenants hear channel {listed(channels)}.",
                    _rewritten(one, changed),
                )


_NOTIFY = re.compile(
    r"\bnotify\s+(?P<channel>[a-z_]\w*)(?:\s*,\s*(?P<payload>'(?:[^']|'')*'))?", re.IGNORECASE
)


def _own_channels(survey: Survey, function: Function) -> tuple[str, list[str]]:
    own = f" || '_' || md5({_tenant_text(survey)}::text)"
    changes, channels = {}, []
    for node, _ in walk(parse(function.text).children):
        if node.kind == "call" and node.parts[-1] == "pg_notify" and node.children:
            first, second = node.children[0], node.children[1:2]
            if first.kind == "string" and second and second[0].is_operator(","):
                channels.append(first.parts[0])
                changes[first.end, first.end] = own
    text = replace(function.text, changes)

    def call(match: re.Match[str]) -> str:
        channels.append(match["channel"])
        return f"PERFORM pg_notify('{match['channel']}'{own}, {match['payload'] or chr(39) * 2})"

    if function.language == "plpgsql":
        text = _NOTIFY.sub(call, text)
    return text, list(dict.fromkeys(channels))


def _tenant_text(survey: Survey) -> str:
    for bound in survey.bindings:
        for function in survey.functions_by_name.get(bound.name, ()):
            if bound.kind == "function" and not function.arguments:
                return f"{function_sql(function).removeprefix('FUNCTION ')}"
    names = sorted(survey.settings) or ["app.tenant_id"]
    return f"current_setting('{names[0]}', true)"


def _callable(survey: Survey, function: Function) -> bool:
    return function.returns not in _TRIGGERS and (
        bool(survey.granted("function", function.oid, "EXECUTE")) or function.owner in survey.reach
    )


def _callable_definers(survey: Survey) -> Iterator[Function]:
    for one in survey.catalog.functions.values():
        if one.definer and _callable(survey, one):
            yield one


def _touched(survey: Survey, function: Function) -> list[Relation]:
    """
    The tenant tables whose names stand in a body.
    """
    words = {
        node.parts[-2:] if len(node.parts) > 1 else node.parts
        for node, _ in walk(parse(function.text).children)
        if node.kind in {"name", "call"}
    }
    return [
        survey.catalog.relations[oid]
        for oid in survey.tenant_column
        if (name := survey.catalog.relations[oid].name)
        and ((name,) in words or (survey.catalog.relations[oid].schema, name) in words)
    ]


def _is_dynamic(function: Function) -> bool:
    if function.language == "plpgsql":
        nodes = walk(parse(function.text).children)
        return any(node.is_word("execute") for node, _ in nodes)
    return function.language not in {"sql", "internal"}


RULES = (
    immutable_tenant,
    volatile_tenant,
    definer_around_policies,
    definer_search_path,
    definer_for_everybody,
    definer_trigger,
    session_level_setter,
    leakproof_function,
    tenant_function_cast,
    tenant_function_search_path,
    shared_channel,
)
