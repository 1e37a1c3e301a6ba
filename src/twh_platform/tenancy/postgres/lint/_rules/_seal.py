"""
TWH9xx: the seal, where the server believes a tenant only with a signature.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..._seal_functions import TENANT_FUNCTION, difference, is_transition, made_by_us
from .._catalog import PUBLIC, Function, Relation
from .._expressions import parse, walk
from .._findings import Hit
from .._sql import name_sql, qualified_sql
from .._survey import ReadPolicy, Survey
from ._make import (
    callable_builtins,
    function_hit,
    listed,
    policy_hit,
    policy_sql,
    revoke_execute,
    rule,
    table_hit,
)
from ._shown import elsewhere, hidden_sql, makers, shown

__all__ = ["RULES"]

_EVERYTHING = (
    "SELECT",
    "INSERT",
    "UPDATE",
    "DELETE",
    "TRUNCATE",
    "REFERENCES",
    "TRIGGER",
    "MAINTAIN",
)


@rule(
    "TWH901",
    "seal-keys-reachable",
    "error",
    title="The application has privileges on the keys of the seal.",
    why="Whoever reads or writes a key makes tokens for every tenant.",
    attacks=(19, 20, 54),
)
def seal_keys_reachable(survey: Survey) -> Iterator[Hit]:
    """
    Look at the tables that are named by what checks signatures and have no tenant column.
    """
    for one in _key_tables(survey):
        sql = survey.sql(one)
        if one.owner in survey.reach:
            owner = survey.role_name(one.owner)
            yield table_hit(
                one,
                f"{owner} owns it, and makes tokens for every tenant.",
                f"ALTER TABLE {sql} OWNER TO {survey.safe_owner()};",
                about="owner",
            )
        grants = survey.granted("table", one.oid, *_EVERYTHING)
        if grants:
            who = ", ".join(sorted({survey.role_name(grant.grantee) for grant in grants}))
            words = ", ".join(sorted({grant.privilege for grant in grants}))
            yield table_hit(
                one,
                f"{who} has {words}, and makes tokens for every tenant.",
                f"REVOKE ALL ON {sql} FROM {who};",
            )


def _key_tables(survey: Survey) -> list[Relation]:
    checking = [one for one in survey.reached_functions if survey.seals(one)]
    words = {
        node.parts[-2:]
        for function in checking
        for node, _ in walk(parse(function.text).children)
        if node.kind in {"name", "call"}
    }
    return [
        relation
        for relation in survey.catalog.relations.values()
        if relation.is_table
        and relation.oid not in survey.tenant_column
        and {(relation.name,), (relation.schema, relation.name)} & words
    ]


@rule(
    "TWH902",
    "unsealed-tenants-believed",
    "error",
    title="Tenants are believed without a seal too.",
    why="That is for the time in which a running service is changed over; until it ends, one "
    "injected statement switches the tenant.",
    attacks=(19, 20),
)
def unsealed_tenants_believed(survey: Survey) -> Iterator[Hit]:
    """
    Look at the function of `seal_sql`.
    """
    function = _ours(survey).get(TENANT_FUNCTION)
    if function is not None and is_transition(function.text):
        yield function_hit(
            function,
            "It was made with allow_unsealed, and believes what any statement sets.",
            made_by_us(allow_unsealed=False)[TENANT_FUNCTION],
        )


@rule(
    "TWH903",
    "seal-altered",
    "error",
    title="A function of the seal is not the one that the seal needs.",
    why="What stands in its place may believe a tenant without a seal, or run what others put in "
    "its way. Running install_sql() alone on a sealed database does it too.",
    attacks=(19, 20, 35),
)
def seal_altered(survey: Survey) -> Iterator[Hit]:
    """
    Compare the functions with those of `install_sql` and `seal_sql`.
    """
    ours = _ours(survey)
    current = ours.get(TENANT_FUNCTION)
    transition = current is not None and is_transition(current.text)
    for signature, statement in made_by_us(allow_unsealed=transition).items():
        function = ours.get(signature)
        if function is not None:
            what = difference(
                statement,
                body=function.text,
                definer=function.definer,
                config=function.config,
                language=function.language,
                volatility=function.volatility,
                parallel=function.parallel,
                leakproof=function.leakproof,
            )
            if what:
                yield function_hit(function, f"It {what}.", statement)
        elif ours:
            yield Hit(
                kind="function",
                object=signature,
                schema="twh",
                message="It is missing, and others call it.",
                remedy=statement,
            )


def _ours(survey: Survey) -> dict[str, Function]:
    """
    The functions of our seal, by signature; none in a database that has no keys.
    """
    tables = survey.catalog.relations.values()
    if not any((one.schema, one.name) == ("twh", "seal_keys") for one in tables):
        return {}
    return {
        f"twh.{one.name}({one.arguments})": one
        for one in survey.catalog.functions.values()
        if one.schema == "twh"
    }


@rule(
    "TWH904",
    "policy-around-seal",
    "error",
    title="A policy believes a tenant without the seal.",
    why="Others ask a function that checks a signature; this one believes what any statement sets.",
    attacks=(19, 20),
)
def policy_around_seal(survey: Survey) -> Iterator[Hit]:
    """
    Look for policies that compare the tenant with something unsigned, where no floor holds.
    """
    if not survey.sealed:
        return
    for one in survey.policies:
        column = survey.tenant_column.get(one.relation.oid)
        bare = [word for word, _ in one.expressions if column and _is_bare(survey, one, word)]
        if bare and not (one.policy.permissive and _has_sealed_floor(survey, one.relation)):
            says = _sealed_predicate(survey, one.relation)
            parts = " ".join(f"{word} ({says})" for word in bare)
            yield policy_hit(
                one,
                f"It compares {column} with what any statement can set.",
                f"ALTER POLICY {policy_sql(one)} {parts};",
            )


def _is_bare(survey: Survey, one: ReadPolicy, word: str) -> bool:
    column = survey.tenant_column.get(one.relation.oid)
    for name, expression in one.expressions:
        ties = [tie for tie in expression.ties if tie.column == column]
        bound = [b for tie in ties for b in tie.bindings]
        if name == word and bound:
            return not any(b.name in survey.sealing for b in bound)
    return False


def _has_sealed_floor(survey: Survey, relation: Relation) -> bool:
    return any(
        not one.policy.permissive
        and one.policy.command == "*"
        and PUBLIC in one.policy.roles
        and all(
            expression.restricts and not _is_bare(survey, one, word)
            for word, expression in one.expressions
        )
        for one in survey.policies_of.get(relation.oid, ())
    )


def _sealed_predicate(survey: Survey, relation: Relation) -> str:
    target = survey.tenant(relation)
    schemas = {name.partition(".")[0] for name in survey.sealing}
    usual = [one for one in survey.tenant_functions if one.qualified in survey.sealing]
    same_type = [
        one
        for one in survey.catalog.functions.values()
        if one.schema in schemas
        and not one.arguments
        and one.returns == target.type
        and survey.seals(one)
    ]
    function = (same_type or usual)[0]
    cast = "" if function.returns == target.type else f"::{target.type}"
    call = f"{qualified_sql(function.schema, function.name)}()"
    return f"{name_sql(target.name)} = (SELECT {call}{cast})"


@rule(
    "TWH905",
    "token-in-statements",
    "error",
    title="A tenant's sealed token is kept by pg_stat_statements, where the application may read.",
    why="It keeps utility statements, SET LOCAL with a token among them: before PostgreSQL 18 word "
    "for word, since then where an entry was crowded out. It shows those of all databases in each.",
    attacks=(54,),
)
def token_in_statements(survey: Survey) -> Iterator[Hit]:
    """
    Look whether it is loaded, keeps utility statements, and can be read here or elsewhere.
    """
    utility = "pg_stat_statements.track_utility"
    if not survey.sealed or utility not in survey.catalog.server.settings:
        return
    kept = {one.role.oid for one in shown(survey, "pg_stat_statements.track")}
    logins = [one for one in shown(survey, utility) if one.role.oid in kept]
    found = list(callable_builtins(survey, "pg_stat_statements"))
    others = [f"{one} can be connected to" for one in elsewhere(survey)]
    others += [f"{name} can make a database" for name in makers(survey)]
    if logins and (found or others):
        places = [f"{name.partition('(')[0]} can be called" for name, _ in found]
        revoked = "\n".join(f"-- {line}" for line in revoke_execute(found).splitlines())
        yield Hit(
            kind="database",
            object=survey.catalog.server.database,
            message=f"Utility statements of {', '.join(one.told for one in logins)} are kept and "
            f"{listed(places or others)}.",
            remedy="\n".join(hidden_sql(survey, logins, utility))
            + (f"\n-- and, for what is kept already:\n{revoked}" if revoked else ""),
        )


RULES = (
    seal_keys_reachable,
    unsealed_tenants_believed,
    seal_altered,
    policy_around_seal,
    token_in_statements,
)
