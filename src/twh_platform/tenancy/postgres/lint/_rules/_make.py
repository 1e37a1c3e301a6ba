"""
How a rule is declared, and the hits that many rules make.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from .._catalog import Function, Relation
from .._findings import Hit, Rule, Severity
from .._sql import name_sql, qualified_sql
from .._survey import ReadPolicy, Survey

__all__ = [
    "callable_builtins",
    "function_hit",
    "function_sql",
    "listed",
    "policy_hit",
    "policy_sql",
    "revoke_execute",
    "role_hit",
    "rule",
    "table_hit",
]

Check = Callable[[Survey], Iterable[Hit]]

_KINDS = {
    "r": "table",
    "p": "table",
    "v": "view",
    "m": "materialized view",
    "f": "foreign table",
    "S": "sequence",
}


def rule(
    id: str,  # noqa: A002 -- it is what everybody calls it
    name: str,
    severity: Severity,
    *,
    title: str,
    why: str,
    attacks: tuple[int, ...] = (),
) -> Callable[[Check], Rule]:
    """
    Make a rule of the function that checks it.
    """

    def make(check: Check) -> Rule:
        return Rule(
            id=id,
            name=name,
            severity=severity,
            title=title,
            why=why,
            attacks=attacks,
            check=check,
        )

    return make


def table_hit(relation: Relation, message: str, remedy: str, *, about: str = "") -> Hit:
    """
    A hit at a table, view or sequence.
    """
    return Hit(
        kind=_KINDS[relation.kind],
        object=f"{relation.schema}.{relation.name}",
        schema=relation.schema,
        message=message,
        remedy=remedy,
        about=about,
    )


def policy_hit(one: ReadPolicy, message: str, remedy: str, *, about: str = "") -> Hit:
    """
    A hit at a policy.
    """
    return Hit(
        kind="policy",
        object=f"{one.policy.name} on {one.relation.schema}.{one.relation.name}",
        schema=one.relation.schema,
        message=message,
        remedy=remedy,
        about=about,
    )


def role_hit(name: str, message: str, remedy: str, *, about: str = "") -> Hit:
    """
    A hit at a role.
    """
    return Hit(kind="role", object=name, message=message, remedy=remedy, about=about)


def function_hit(function: Function, message: str, remedy: str, *, about: str = "") -> Hit:
    """
    A hit at a function.
    """
    return Hit(
        kind="function",
        object=f"{function.qualified}({function.arguments})",
        schema=function.schema,
        message=message,
        remedy=remedy,
        about=about,
    )


def function_sql(function: Function) -> str:
    """
    A function as ALTER and GRANT name it, with the word for its kind.
    """
    word = "PROCEDURE" if function.kind == "p" else "FUNCTION"
    return f"{word} {qualified_sql(function.schema, function.name)}({function.arguments})"


def policy_sql(one: ReadPolicy) -> str:
    """
    A policy as ALTER and DROP name it.
    """
    return f"{name_sql(one.policy.name)} ON {qualified_sql(one.relation.schema, one.relation.name)}"


def callable_builtins(survey: Survey, *names: str) -> Iterator[tuple[str, list[str]]]:
    """
    Yield functions of the system that the application may call, and who it has that from.
    """
    for oid, signature in sorted(survey.catalog.builtin.items(), key=lambda one: one[1]):
        name = signature.partition("(")[0].rpartition(".")[2]
        if name in names:
            grantees = {grant.grantee for grant in survey.granted("function", oid, "EXECUTE")}
            supers = {oid for oid in grantees if survey.bypasses(oid)}
            if who := sorted(grantees - supers):
                yield signature, [survey.role_name(oid) for oid in who]


def revoke_execute(found: list[tuple[str, list[str]]]) -> str:
    """
    The statements that take them away again.
    """
    return "\n".join(
        f"REVOKE EXECUTE ON FUNCTION {signature} FROM {', '.join(who)};" for signature, who in found
    )


def listed(names: Iterable[str], *, most: int = 5) -> str:
    """
    Join names for a message, and cut a long list short.
    """
    all_names = list(names)
    rest = len(all_names) - most
    return ", ".join(all_names[:most]) + (f" and {rest} more" if rest > 0 else "")
