"""
TWH3xx: what policies say, and what they let through together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from .._expressions import Clause, Node, replace
from .._findings import Hit
from .._predicates import Binding, Expression, settings_of
from .._sql import name_sql
from .._survey import COMMANDS, READS, WRITES, ReadPolicy, Survey
from ._make import policy_hit, policy_sql, rule, table_hit
from ._tables import free_name

__all__ = ["RULES"]

_WORDS = {command: privilege for privilege, command in COMMANDS.items()}


def _tenant_policies(survey: Survey) -> Iterator[ReadPolicy]:
    for one in survey.policies:
        if one.relation.oid in survey.tenant_column:
            yield one


def _alter(one: ReadPolicy, changed: Mapping[str, str]) -> str:
    """
    Write the expressions of a policy anew; those that are not named stay.
    """
    parts = [f"{word} ({text})" for word, text in changed.items()]
    return f"ALTER POLICY {policy_sql(one)}\n    " + "\n    ".join(parts) + ";"


@rule(
    "TWH301",
    "always-true",
    "error",
    title="A permissive policy lets every row through.",
    why="PostgreSQL joins permissive policies with OR: this one undoes all the others.",
    attacks=(9,),
)
def always_true(survey: Survey) -> Iterator[Hit]:
    """
    Look for USING (true) and its like that are for the application and have no floor.
    """
    for one in _tenant_policies(survey):
        if one.using is not None and one.using.always_true and survey.open_to(one, READS):
            says = survey.predicate(one.relation)
            yield policy_hit(
                one,
                f"USING ({one.using.text}) shows the application every tenant.",
                _alter(one, {"USING": says}),
            )


@rule(
    "TWH302",
    "untied-branch",
    "error",
    title="A permissive policy has a branch that does not look at the tenant.",
    why="Rows of all tenants pass by that branch, whatever the others say.",
    attacks=(9,),
)
def untied_branch(survey: Survey) -> Iterator[Hit]:
    """
    Look for branches of an OR, or whole expressions, that compare no column with the tenant.
    """
    for one in _tenant_policies(survey):
        changed, told = {}, []
        for word, expression in one.expressions:
            loose = [branch for branch in expression.loose if branch not in expression.flags]
            if loose and survey.open_to(one, READS if word == "USING" else WRITES):
                says = survey.predicate(one.relation)
                changed[word] = f"({expression.text}) AND ({says})"
                told += [_text(expression, branch) for branch in loose]
        if changed:
            branches = "; ".join(dict.fromkeys(told))
            yield policy_hit(
                one, f"Rows of every tenant pass where: {branches}.", _alter(one, changed)
            )


@rule(
    "TWH303",
    "check-always-true",
    "error",
    title="A policy lets every row be written.",
    why="A row can be planted for another tenant, or moved to it.",
    attacks=(10,),
)
def check_always_true(survey: Survey) -> Iterator[Hit]:
    """
    Look for WITH CHECK (true) that is for the application and has no floor.
    """
    for one in _tenant_policies(survey):
        if one.check is not None and one.check.always_true and survey.open_to(one, WRITES):
            says = survey.predicate(one.relation)
            yield policy_hit(
                one,
                f"WITH CHECK ({one.check.text}) takes rows for any tenant.",
                _alter(one, {"WITH CHECK": says}),
            )


@rule(
    "TWH304",
    "check-left-out",
    "info",
    title="A policy for writing has no WITH CHECK.",
    why="The server takes USING for it, which is sound as long as nobody widens USING for reading.",
    attacks=(10,),
)
def check_left_out(survey: Survey) -> Iterator[Hit]:
    """
    Look at policies for ALL and UPDATE.
    """
    for one in _tenant_policies(survey):
        writes = one.policy.command in {"*", "w"}
        if writes and one.check is None and one.using is not None and one.using.restricts:
            yield policy_hit(
                one,
                "What may be written is left to USING.",
                _alter(one, {"WITH CHECK": one.using.text}),
            )


@rule(
    "TWH305",
    "missing-floor",
    "warning",
    title="No restrictive policy holds the tenant's column.",
    why="One more permissive policy, for whatever purpose, and all tenants pass by it.",
    attacks=(9,),
)
def missing_floor(survey: Survey) -> Iterator[Hit]:
    """
    Ask for a floor for each command that the application is granted.
    """
    for one in survey.tenant_tables:
        policies = survey.policies_of.get(one.oid, ())
        if not one.row_security or not any(p.policy.permissive for p in policies):
            continue
        gaps: dict[str, list[str]] = {}
        for role in survey.app_roles:
            for command in survey.commands(one, role.oid):
                if not all(
                    survey.floored(one, role.oid, command, side)
                    for side in (READS, WRITES)
                    if command in side
                ):
                    gaps.setdefault(name_sql(role.name), []).append(_WORDS[command])
        if gaps:
            says, name = survey.predicate(one), free_name(survey, one, "tenant_floor")
            told = "; ".join(f"{role}: {', '.join(words)}" for role, words in gaps.items())
            yield table_hit(
                one,
                f"A second permissive policy would open it, for {told}.",
                f"CREATE POLICY {name} ON {survey.sql(one)} AS RESTRICTIVE TO {', '.join(gaps)}\n"
                f"    USING ({says})\n    WITH CHECK ({says});",
            )


@rule(
    "TWH306",
    "several-permissive",
    "info",
    title="Several permissive policies are joined with OR.",
    why="The widest of them decides, and each is evaluated for each row.",
    attacks=(9,),
)
def several_permissive(survey: Survey) -> Iterator[Hit]:
    """
    Look for permissive policies of the same role and command, with no floor.
    """
    for one in survey.tenant_tables:
        told: dict[str, str] = {}
        for role in survey.app_roles:
            for command in survey.commands(one, role.oid):
                names = [
                    p.policy.name
                    for p in survey.policies_of.get(one.oid, ())
                    if p.policy.permissive and p.covers(command) and survey.applies(p, role.oid)
                ]
                side = WRITES if command == "a" else READS
                if len(names) > 1 and not survey.floored(one, role.oid, command, side):
                    told[name_sql(role.name)] = ", ".join(names)
        if told:
            says, name = survey.predicate(one), free_name(survey, one, "tenant_floor")
            joined = "; ".join(f"{role}: {names}" for role, names in told.items())
            yield table_hit(
                one,
                f"Joined with OR, for {joined}.",
                f"CREATE POLICY {name} ON {survey.sql(one)} AS RESTRICTIVE TO {', '.join(told)}\n"
                f"    USING ({says})\n    WITH CHECK ({says});",
            )


@rule(
    "TWH307",
    "not-distinct",
    "error",
    title="A policy compares the tenant with IS NOT DISTINCT FROM.",
    why="With nothing bound it compares NULL with NULL, and shows the rows that have no tenant.",
    attacks=(11,),
)
def not_distinct(survey: Survey) -> Iterator[Hit]:
    """
    Look for it in both expressions.
    """
    yield from _rewritten(
        survey,
        lambda expression: [tie.clause for tie in expression.ties if tie.form == "distinct"],
        "IS NOT DISTINCT FROM lets NULL be equal to NULL.",
        negated=True,
    )


def _rewritten(
    survey: Survey,
    find: Callable[[Expression], list[Clause]],
    message: str,
    *,
    negated: bool = False,
) -> Iterator[Hit]:
    """
    Put the plain comparison in the place of some clauses.
    """
    for one in _tenant_policies(survey):
        changed = {}
        for word, expression in one.expressions:
            clauses = find(expression)
            if negated:
                clauses = _with_not(expression.clause, clauses)
            if clauses:
                says = survey.predicate(one.relation)
                spans = {clause.span: f"({says})" for clause in clauses}
                changed[word] = replace(expression.text, spans)
        if changed:
            yield policy_hit(one, message, _alter(one, changed))


def _with_not(clause: Clause, wanted: list[Clause]) -> list[Clause]:
    if clause.kind == "not" and clause.parts[0] in wanted:
        return [clause]
    return [found for part in clause.parts for found in _with_not(part, wanted)]


@rule(
    "TWH308",
    "bypass-flag",
    "error",
    title="A policy has a flag that opens it.",
    why="Whoever can send one SELECT sets the flag: set_config('...', 'on', true).",
    attacks=(21,),
)
def bypass_flag(survey: Survey) -> Iterator[Hit]:
    """
    Look for branches that ask a setting or a function, and nothing of the row.
    """
    for one in _tenant_policies(survey):
        changed, told = {}, []
        for word, expression in one.expressions:
            commands = READS if word == "USING" else WRITES
            if expression.flags and survey.open_to(one, commands):
                says = survey.predicate(one.relation)
                changed[word] = _without(expression, says)
                told += [_text(expression, flag) for flag in expression.flags]
        if changed:
            flags = "; ".join(dict.fromkeys(told))
            yield policy_hit(
                one, f"It opens, for all tenants, when: {flags}.", _alter(one, changed)
            )


def _without(expression: Expression, instead: str) -> str:
    """
    An expression with each flag made false, or *instead* if nothing else is in it.
    """
    if expression.clause in expression.flags or not expression.ties:
        return instead
    return replace(expression.text, {flag.span: "false" for flag in expression.flags})


@rule(
    "TWH309",
    "unwrapped-call",
    "warning",
    title="A policy asks for the tenant once per row.",
    why="Outside of a sub-select it is computed for every row that a scan meets: 5 to 11 times "
    "slower. In (SELECT ...) it is computed once.",
)
def unwrapped_call(survey: Survey) -> Iterator[Hit]:
    """
    Look for calls outside of sub-selects, where their arguments have no column.
    """
    for one in _tenant_policies(survey):
        changed = {
            word: replace(
                expression.text,
                {
                    (n.start, n.end): f"(SELECT {_node(expression, n)})"
                    for n in expression.unwrapped
                },
            )
            for word, expression in one.expressions
            if expression.unwrapped
        }
        if changed:
            calls = {
                _node(expression, node)
                for _, expression in one.expressions
                for node in expression.unwrapped
            }
            yield policy_hit(
                one, f"Computed for every row: {', '.join(sorted(calls))}.", _alter(one, changed)
            )


@rule(
    "TWH310",
    "empty-string-cast",
    "warning",
    title="A cast breaks on the empty string.",
    why="A setting that was used once in a session reads '' afterwards, not NULL, and the cast "
    "raises an error that says nothing of tenants.",
    attacks=(14,),
)
def empty_string_cast(survey: Survey) -> Iterator[Hit]:
    """
    Look for settings that are cast without nullif or the like, in policies.
    """
    for one in _tenant_policies(survey):
        changed = {
            word: replace(expression.text, _guards(expression, expression.bare_casts))
            for word, expression in one.expressions
            if expression.bare_casts
        }
        if changed:
            yield policy_hit(
                one,
                "A setting is cast with no guard against the empty string.",
                _alter(one, changed),
            )


def _guards(expression: Expression, nodes: tuple[Node, ...]) -> dict[tuple[int, int], str]:
    return {
        (node.start, node.end): f"NULLIF({_node(expression, node)}, ''::text)" for node in nodes
    }


@rule(
    "TWH311",
    "column-cast",
    "warning",
    title="A policy casts the tenant column.",
    why="No index on the column can be used: every query reads the rows of all tenants and drops "
    "them one by one.",
    attacks=(33,),
)
def column_cast(survey: Survey) -> Iterator[Hit]:
    """
    Look for casts of the tenant column, but for those between text and varchar, which cost nothing.
    """

    def find(survey: Survey, one: ReadPolicy, expression: Expression) -> list[Clause]:
        column = survey.tenant(one.relation)
        free = column.type_name == "varchar"
        return [
            tie.clause
            for tie in expression.ties
            if tie.cast is not None
            and tie.column == column.name
            and not (free and tie.cast == "text")
            and tie.form == "equal"
        ]

    for one in _tenant_policies(survey):
        changed = {}
        for word, expression in one.expressions:
            clauses = find(survey, one, expression)
            if clauses:
                says = survey.predicate(one.relation)
                changed[word] = replace(
                    expression.text, {clause.span: f"({says})" for clause in clauses}
                )
        if changed:
            column = survey.tenant(one.relation)
            yield policy_hit(
                one,
                f"{column.name} ({column.type}) is cast for each row, so no index on it is used.",
                _alter(one, changed),
            )


@rule(
    "TWH312",
    "other-setting",
    "warning",
    title="A policy takes the tenant from another setting than the rest.",
    why="After a rename nobody sets the old one: the table is empty for everybody, or worse, "
    "it can be set apart from the tenant.",
    attacks=(15, 17),
)
def other_setting(survey: Survey) -> Iterator[Hit]:
    """
    Compare the settings behind each policy with those behind most policies.
    """
    usual = _settings_behind(survey, survey.bindings[:1])
    for one in _tenant_policies(survey):
        column = survey.tenant_column[one.relation.oid]
        other: dict[str, set[str]] = {}
        for word, expression in one.expressions:
            bound = [b for tie in expression.ties if tie.column == column for b in tie.bindings]
            behind = _settings_behind(survey, bound)
            if usual and behind and not usual & behind:
                other[word] = behind
        if other:
            says, asked = survey.predicate(one.relation), sorted(set().union(*other.values()))
            yield policy_hit(
                one,
                f"It asks {', '.join(asked)}; the others ask {', '.join(sorted(usual))}.",
                _alter(one, dict.fromkeys(other, says)),
            )


def _settings_behind(survey: Survey, bound: Iterable[Binding]) -> set[str]:
    found = {one.name for one in bound if one.kind == "setting"}
    for one in bound:
        for function in survey.functions_by_name.get(one.name, ()):
            found.update(settings_of(function.text))
    return found


def _text(expression: Expression, clause: Clause) -> str:
    start, end = clause.span
    return expression.text[start:end]


def _node(expression: Expression, node: Node) -> str:
    return expression.text[node.start : node.end]


RULES = (
    always_true,
    untied_branch,
    check_always_true,
    check_left_out,
    missing_floor,
    several_permissive,
    not_distinct,
    bypass_flag,
    unwrapped_call,
    empty_string_cast,
    column_cast,
    other_setting,
)
