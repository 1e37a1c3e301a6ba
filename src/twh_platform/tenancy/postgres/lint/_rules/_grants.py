"""
TWH5xx: privileges that policies do not restrain.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from .._catalog import PUBLIC, Relation
from .._findings import Hit
from .._sql import name_sql
from .._survey import COMMANDS, Survey
from ._make import callable_builtins, listed, revoke_execute, rule, table_hit
from ._shown import Shown, elsewhere, hidden_sql, makers, shown

__all__ = ["RULES"]


def _held_tables(survey: Survey) -> Iterator[Relation]:
    """
    Yield the tables with tenants' rows, and all others that carry policies.
    """
    for oid, one in survey.catalog.relations.items():
        if one.is_table and (oid in survey.tenant_column or one.row_security):
            yield one


def _table_privilege(survey: Survey, privilege: str, what: str) -> Iterator[Hit]:
    for one in _held_tables(survey):
        who = {grant.grantee for grant in survey.granted("table", one.oid, privilege)}
        if who:
            names = ", ".join(sorted(map(survey.role_name, who)))
            yield table_hit(
                one,
                f"{privilege} is granted to {names}: {what}.",
                f"REVOKE {privilege} ON {survey.sql(one)} FROM {names};",
                about=names,
            )


@rule(
    "TWH501",
    "truncate-granted",
    "error",
    title="The application may TRUNCATE a table of tenants.",
    why="TRUNCATE asks no policy: one statement empties the table for all tenants.",
    attacks=(8,),
)
def truncate_granted(survey: Survey) -> Iterator[Hit]:
    """
    Look at the grants, PUBLIC's too.
    """
    yield from _table_privilege(survey, "TRUNCATE", "it empties the table for all tenants")


@rule(
    "TWH502",
    "trigger-granted",
    "error",
    title="The application may add triggers to a table of tenants.",
    why="A trigger of one tenant's runs in the statements of all others and sees their rows.",
    attacks=(5,),
)
def trigger_granted(survey: Survey) -> Iterator[Hit]:
    """
    Look at the grants, PUBLIC's too.
    """
    yield from _table_privilege(survey, "TRIGGER", "its triggers run for all tenants")


@rule(
    "TWH503",
    "references-granted",
    "warning",
    title="The application may point foreign keys at a table of tenants.",
    why="A foreign key asks no policy: it tells which keys of other tenants exist, and keeps "
    "their rows from being deleted.",
    attacks=(5, 27),
)
def references_granted(survey: Survey) -> Iterator[Hit]:
    """
    Look at the grants, PUBLIC's too.
    """
    yield from _table_privilege(survey, "REFERENCES", "foreign keys tell which keys exist")


@rule(
    "TWH504",
    "granted-to-everybody",
    "warning",
    title="Everybody is granted a table of tenants.",
    why="Every login of the server that may connect works on it, whoever it was made for.",
    attacks=(1,),
)
def granted_to_everybody(survey: Survey) -> Iterator[Hit]:
    """
    Look for PUBLIC.
    """
    for one in _held_tables(survey):
        words = [
            grant.privilege
            for grant in survey.grants_of.get(("table", one.oid), ())
            if grant.grantee == PUBLIC and grant.privilege in COMMANDS and not grant.column
        ]
        if words:
            told = ", ".join(words)
            yield table_hit(
                one,
                f"PUBLIC has {told}.",
                f"REVOKE {told} ON {survey.sql(one)} FROM PUBLIC;\n"
                f"GRANT {told} ON {survey.sql(one)} TO {survey.app_list()};",
            )


@rule(
    "TWH505",
    "schema-create",
    "warning",
    title="The application may create things in a schema.",
    why="What it makes has no policy and can stand in the way of what others look up; "
    "an injected statement gets functions of its own.",
    attacks=(29, 35),
)
def schema_create(survey: Survey) -> Iterator[Hit]:
    """
    Look at the grants on schemas and on the database.
    """
    for schema in survey.catalog.schemas:
        for grant in survey.grants_of.get(("schema", schema.oid), ()):
            if grant.privilege != "CREATE" or grant.grantee not in survey.reach:
                continue
            name, sql = survey.role_name(grant.grantee), name_sql(schema.name)
            owns = grant.grantee == schema.owner
            yield Hit(
                kind="schema",
                object=schema.name,
                schema=schema.name,
                message=f"{name} {'owns it' if owns else 'has CREATE'}.",
                remedy=f"ALTER SCHEMA {sql} OWNER TO {survey.safe_owner()};\n"
                f"GRANT USAGE ON SCHEMA {sql} TO {survey.app_list()};"
                if owns
                else f"REVOKE CREATE ON SCHEMA {sql} FROM {name};",
                about=name,
            )
    yield from _database_privilege(survey, "CREATE", "it makes schemas of its own")


@rule(
    "TWH506",
    "temporary-tables",
    "warning",
    title="The application may make temporary tables.",
    why="They live in the session, not in a tenant: the next tenant on the connection reads them, "
    "and one with a real table's name stands before it. With it come temporary types and "
    "functions, code within the reach of a seal. PostgreSQL grants this to everybody.",
    attacks=(35,),
)
def temporary_tables(survey: Survey) -> Iterator[Hit]:
    """
    Look at the grants on the database; where it is sealed, it is an error.
    """
    what = "temporary tables outlive a tenant's turn"
    for hit in _database_privilege(survey, "TEMPORARY", what):
        yield replace(hit, severity="error") if survey.sealed else hit


def _database_privilege(survey: Survey, privilege: str, what: str) -> Iterator[Hit]:
    server = survey.catalog.server
    for grant in survey.grants_of.get(("database", server.database_oid), ()):
        ours = grant.grantee in survey.reach and grant.grantee != server.database_owner
        if grant.privilege == privilege and ours:
            name = survey.role_name(grant.grantee)
            yield Hit(
                kind="database",
                object=server.database,
                message=f"{name} has {privilege}: {what}.",
                remedy=f"REVOKE {privilege} ON DATABASE {name_sql(server.database)} FROM {name};",
                about=f"{privilege} {name}",
            )


@rule(
    "TWH507",
    "sequence-readable",
    "warning",
    title="The application may read or set a sequence.",
    why="last_value tells how much all tenants do together; setval() stops them all.",
    attacks=(28,),
)
def sequence_readable(survey: Survey) -> Iterator[Hit]:
    """
    Look for SELECT and UPDATE on sequences.
    """
    for one in survey.catalog.relations.values():
        if one.kind != "S":
            continue
        found: dict[int, list[str]] = {}
        for grant in survey.granted("table", one.oid, "SELECT", "UPDATE"):
            found.setdefault(grant.grantee, []).append(grant.privilege)
        for grantee, words in found.items():
            name, told = survey.role_name(grantee), ", ".join(words)
            yield table_hit(
                one,
                f"{name} has {told}: last_value tells what all tenants do together.",
                f"REVOKE {told} ON SEQUENCE {survey.sql(one)} FROM {name};",
                about=name,
            )


@rule(
    "TWH508",
    "sequence-usable",
    "info",
    title="The application takes numbers from a sequence that all tenants share.",
    why="The distance between two of a tenant's own numbers tells how much the others do; "
    "a UUID does not.",
    attacks=(28,),
)
def sequence_usable(survey: Survey) -> Iterator[Hit]:
    """
    Look for USAGE on sequences.
    """
    for one in survey.catalog.relations.values():
        if one.kind == "S":
            for grant in survey.granted("table", one.oid, "USAGE"):
                name = survey.role_name(grant.grantee)
                yield table_hit(
                    one,
                    f"{name} has USAGE; nextval() tells what all tenants do together.",
                    f"REVOKE USAGE ON SEQUENCE {survey.sql(one)} FROM {name};",
                    about=name,
                )


_OBJECTS = {"r": "TABLES", "S": "SEQUENCES", "f": "FUNCTIONS", "n": "SCHEMAS"}
_WIDE = {
    "r": frozenset(("TRUNCATE", "TRIGGER", "REFERENCES")),
    "S": frozenset(("SELECT", "UPDATE")),
    "n": frozenset(("CREATE",)),
}


@rule(
    "TWH509",
    "wide-default-privileges",
    "warning",
    title="New tables or sequences will be granted more than policies restrain.",
    why="ALTER DEFAULT PRIVILEGES gives TRUNCATE, TRIGGER, REFERENCES or sequences away with "
    "each table that is still to come.",
    attacks=(5, 8, 28),
)
def wide_default_privileges(survey: Survey) -> Iterator[Hit]:
    """
    Look at the default privileges of each role that makes things.
    """
    found: dict[tuple[int, str | None, str, int], list[str]] = {}
    for one in survey.catalog.default_grants:
        ours = one.grantee in survey.reach - {one.creator}
        if ours and one.privilege in _WIDE.get(one.kind, frozenset()):
            key = (one.creator, one.schema, one.kind, one.grantee)
            found.setdefault(key, []).append(one.privilege)
    for (creator, schema, kind, grantee), words in found.items():
        inside = f" IN SCHEMA {name_sql(schema)}" if schema else ""
        maker, name, told = survey.role_name(creator), survey.role_name(grantee), ", ".join(words)
        yield Hit(
            kind="default privileges",
            object=f"{maker}{inside}",
            schema=schema or "",
            message=f"{_OBJECTS[kind]} that {maker} makes give {name} {told}.",
            remedy=f"ALTER DEFAULT PRIVILEGES FOR ROLE {maker}{inside} "
            f"REVOKE {told} ON {_OBJECTS[kind]} FROM {name};",
            about=f"{kind} {name}",
        )


_ACTIVITY = ("pg_stat_get_activity", "pg_stat_get_backend_activity")
_ENDING = ("pg_cancel_backend", "pg_terminate_backend")


@rule(
    "TWH510",
    "visible-activity",
    "info",
    title="Sessions of the application see each other's statements.",
    why="All tenants share a role, so pg_stat_activity shows each the statements of the others, "
    "with their literals. Bind parameters are not shown.",
    attacks=(31,),
)
def visible_activity(survey: Survey) -> Iterator[Hit]:
    """
    Look at track_activities of the application's logins, and at who may ask.
    """
    logins = [one for one in shown(survey, "track_activities") if one.on]
    found = list(callable_builtins(survey, *_ACTIVITY))
    if logins and found and not survey.sealed:
        yield _activity(survey, logins, found, "statements of one tenant can be read by another")


@rule(
    "TWH511",
    "stealable-token",
    "error",
    title="A tenant's sealed token can be read by other sessions of the application.",
    why="The token stands in the text of BEGIN: whoever polls pg_stat_activity takes it and is "
    "that tenant until it expires. It shows the sessions of all databases in each.",
    attacks=(54,),
)
def stealable_token(survey: Survey) -> Iterator[Hit]:
    """
    The same where the tenant is signed, and also from other databases.
    """
    logins = shown(survey, "track_activities")
    found = list(callable_builtins(survey, *_ACTIVITY))
    if logins and survey.sealed and (found or elsewhere(survey) or makers(survey)):
        yield _activity(survey, logins, found, "the token in BEGIN can be stolen")


def _activity(
    survey: Survey, logins: list[Shown], found: list[tuple[str, list[str]]], what: str
) -> Hit:
    others = revoke_execute(found).splitlines()
    places = [f"{signature.partition('(')[0]} can be called" for signature, _ in found]
    if survey.sealed:
        names = elsewhere(survey)
        roles = ", ".join(name_sql(one.role.name) for one in logins)
        others += [
            f"REVOKE CONNECT ON DATABASE {name_sql(one)} FROM PUBLIC, {roles};" for one in names
        ]
        others += [f"ALTER ROLE {name} NOCREATEDB;" for name in makers(survey)]
        places = (
            places
            or [f"{one} can be connected to" for one in names]
            or [f"{name} can make a database" for name in makers(survey)]
        )
    hidden = "\n".join(hidden_sql(survey, logins, "track_activities"))
    return Hit(
        kind="database",
        object=survey.catalog.server.database,
        message=f"The statements of {', '.join(one.told for one in logins)} are shown and "
        f"{listed(places)}: {what}.",
        remedy=f"{hidden}\n-- or, which takes the view from all others too:\n"
        + "\n".join(f"-- {line}" for line in others),
    )


@rule(
    "TWH512",
    "visible-statements",
    "warning",
    title="The application may read pg_stat_statements.",
    why="It keeps the statements of the application's own role, of all tenants; utility "
    "statements, BEGIN with a token among them, word for word.",
    attacks=(31, 54),
)
def visible_statements(survey: Survey) -> Iterator[Hit]:
    """
    Look for the extension's view, and the function behind it.
    """
    for one in survey.catalog.relations.values():
        grants = survey.granted("table", one.oid, "SELECT")
        if one.name == "pg_stat_statements" and one.kind == "v" and one.from_extension and grants:
            who = ", ".join(sorted({survey.role_name(grant.grantee) for grant in grants}))
            yield table_hit(
                one,
                f"{who} has SELECT.",
                f"REVOKE ALL ON {survey.sql(one)} FROM {who};",
            )
    found = list(callable_builtins(survey, "pg_stat_statements"))
    if found:
        yield Hit(
            kind="function",
            object=found[0][0],
            message="The function behind the view can be called.",
            remedy=revoke_execute(found),
        )


@rule(
    "TWH513",
    "ends-sessions",
    "info",
    title="Sessions of the application may end each other.",
    why="pg_terminate_backend and pg_cancel_backend work on all sessions of the same role: "
    "a denial of service to other tenants.",
    attacks=(31,),
)
def ends_sessions(survey: Survey) -> Iterator[Hit]:
    """
    Look at who may call them.
    """
    found = list(callable_builtins(survey, *_ENDING))
    if found:
        told = listed(sorted({one.partition("(")[0] for one, _ in found}))
        yield Hit(
            kind="database",
            object=survey.catalog.server.database,
            message=f"The application may call {told}.",
            remedy=revoke_execute(found),
        )


_LARGE = (
    "lo_creat",
    "lo_create",
    "lo_from_bytea",
    "lo_get",
    "lo_open",
    "lo_put",
    "loread",
    "lowrite",
)


@rule(
    "TWH514",
    "large-objects",
    "info",
    title="The application may work with large objects.",
    why="They have an owner and no policies: what one tenant's request writes all others read.",
    attacks=(32,),
)
def large_objects(survey: Survey) -> Iterator[Hit]:
    """
    Look at who may call the functions.
    """
    found = list(callable_builtins(survey, *_LARGE))
    if found:
        told = listed(one.partition("(")[0] for one, _ in found)
        yield Hit(
            kind="database",
            object=survey.catalog.server.database,
            message=f"The application may call {told}.",
            remedy=revoke_execute(found),
        )


@rule(
    "TWH515",
    "stored-large-objects",
    "warning",
    title="There are large objects in the database, and the application may read them.",
    why="They have an owner and no policies: what one tenant's request wrote all others read.",
    attacks=(32,),
)
def stored_large_objects(survey: Survey) -> Iterator[Hit]:
    """
    Look whether there are any.
    """
    found = list(callable_builtins(survey, *_LARGE))
    if found and survey.catalog.server.has_large_objects:
        yield Hit(
            kind="database",
            object=survey.catalog.server.database,
            message="Large objects are stored here; no policy holds them.",
            remedy=revoke_execute(found),
        )


RULES = (
    truncate_granted,
    trigger_granted,
    references_granted,
    granted_to_everybody,
    schema_create,
    temporary_tables,
    sequence_readable,
    sequence_usable,
    wide_default_privileges,
    visible_activity,
    stealable_token,
    visible_statements,
    ends_sessions,
    large_objects,
    stored_large_objects,
)
