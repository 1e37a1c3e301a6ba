"""
TWH7xx: indexes that policies make slow.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from .._catalog import Column, Index, Relation
from .._expressions import parse, walk
from .._findings import Hit
from .._sql import literal, name_sql, qualified_sql, short_name
from .._survey import Survey
from ._make import listed, rule, table_hit

__all__ = ["RULES"]

_COMPARING = frozenset(("btree", "hash", "brin"))
_SYNTAX = frozenset(("coalesce", "nullif", "greatest", "least"))


@rule(
    "TWH701",
    "no-tenant-index",
    "warning",
    title="No index is led by the tenant column.",
    why="Every query reads the rows of all tenants; how long it takes, and what EXPLAIN ANALYZE "
    "says it removed, tells how many they have.",
    attacks=(30, 33),
)
def no_tenant_index(survey: Survey) -> Iterator[Hit]:
    """
    Look at the first column of whole and valid indexes.
    """
    for one in survey.tenant_tables:
        tenant = survey.tenant(one)
        led = [
            index
            for index in survey.indexes_of.get(one.oid, ())
            if index.valid and index.predicate is None and index.columns[:1] == (tenant.number,)
        ]
        if not led:
            yield table_hit(
                one,
                f"No index begins with {tenant.name}.",
                f"CREATE INDEX ON {survey.sql(one)} ({name_sql(tenant.name)});",
            )


@rule(
    "TWH702",
    "dead-index",
    "warning",
    title="An index that queries under a policy cannot use.",
    why="A policy is a barrier: operators and functions that are not leakproof wait behind it, "
    "so they cannot search an index. 330 to 5000 times slower, for a tenant with many rows.",
)
def dead_index(survey: Survey) -> Iterator[Hit]:
    """
    Ask the catalog whether the operators and functions of each index are leakproof.
    """
    for one in survey.tenant_tables:
        if not one.row_security or one.oid not in survey.policies_of:
            continue
        for index in survey.indexes_of.get(one.oid, ()):
            if not index.valid or index.primary or index.excludes:
                continue
            dead = [fault for fault in _dead_parts(survey, one, index) if fault]
            if dead:
                yield _index_hit(survey, one, index, dead)


def _dead_parts(survey: Survey, relation: Relation, index: Index) -> Iterator[tuple[int, str]]:
    """
    Yield the positions of key columns that cannot be searched, and why.
    """
    tenant = survey.tenant(relation).number
    for position in range(index.keys):
        if index.columns[position] == tenant:
            continue
        kind = survey.catalog.operator_classes.get(index.classes[position])
        if kind is not None and (why := _leaks(index, kind.leaky)):
            yield position, f"{why} of {kind.name}"
        elif index.columns[position] == 0 and (why := _leaky_call(survey, index, position)):
            yield position, why


def _leaks(index: Index, leaky: tuple[str, ...]) -> str | None:
    if index.method in _COMPARING:
        return "=" if "=" in leaky else None
    return listed(leaky, most=3) or None


def _leaky_call(survey: Survey, index: Index, position: int) -> str | None:
    nodes = [node for node, _ in walk(parse(index.expressions[position]).children)]
    for node in nodes:
        name = node.parts[-1] if node.kind == "call" else ""
        plain = len(node.parts) == 1 or node.parts[0] == "pg_catalog"
        if node.kind == "call" and name not in _SYNTAX:
            known = name in survey.catalog.leakproof if plain else _declared(survey, node.name)
            if not known:
                return f"{node.name}()"
        if node.kind == "operator" and node.parts[0] not in {"::", ",", "."}:
            return node.parts[0]
    return None


def _declared(survey: Survey, name: str) -> bool:
    functions = survey.functions_by_name.get(name, ())
    return bool(functions) and all(function.leakproof for function in functions)


def _index_hit(
    survey: Survey, relation: Relation, index: Index, dead: list[tuple[int, str]]
) -> Hit:
    told = listed(
        f"{_part_name(survey, relation, index, position)}: {why} is not leakproof"
        for position, why in dead
    )
    return Hit(
        kind="index",
        object=f"{index.name} on {relation.schema}.{relation.name}",
        schema=relation.schema,
        message=f"Under its table's policies it cannot search {told}.",
        remedy=_cure(survey, relation, index, [position for position, _ in dead]),
    )


def _part_name(survey: Survey, relation: Relation, index: Index, position: int) -> str:
    if index.columns[position] == 0:
        return index.expressions[position]
    return survey.columns[relation.oid][index.columns[position]].name


def _cure(survey: Survey, relation: Relation, index: Index, positions: list[int]) -> str:
    """
    Put stored columns with a leakproof type in the place of what cannot be searched.

    The column's own type could be changed instead, which is tidier, but not
    while a view or a policy depends on it.  Where there is no such type, the
    index is of no use, and dropped.
    """
    dropped = f"DROP INDEX {qualified_sql(index.schema, index.name)};"
    head, opening, keys = index.definition.partition(f" USING {index.method} (")
    lines = []
    for position in positions:
        stored = _stored(survey, relation, index, position)
        if stored is None:
            return dropped
        old, expression, kind = stored
        column = name_sql(_free_column(survey, relation, index, position))
        changed = _put(column, old, keys)
        if changed == keys:
            return dropped
        keys = changed
        lines.append(
            f"-- Queries then ask {column} in place of {old}.\n"
            f"ALTER TABLE {survey.sql(relation)} ADD COLUMN {column} {kind}\n"
            f"    GENERATED ALWAYS AS ({expression}) STORED;"
        )
    return "\n".join([*lines, dropped, f"{head}{opening}{keys};"])


def _put(new: str, old: str, keys: str) -> str:
    found = re.search(rf'(?<![\w"]){re.escape(old)}(?![\w"])', keys)
    return keys if found is None else keys[: found.start()] + new + keys[found.end() :]


def _stored(
    survey: Survey, relation: Relation, index: Index, position: int
) -> tuple[str, str, str] | None:
    """
    What stands in the index, the expression that replaces it, and its type.
    """
    if index.method not in _COMPARING:
        return None
    if index.columns[position] == 0:
        return index.expressions[position], index.expressions[position], index.types[position]
    column = survey.columns[relation.oid][index.columns[position]]
    name = name_sql(column.name)
    if column.type_kind == "e":
        arms = " ".join(f"WHEN {literal(one)} THEN {literal(one)}::text" for one in column.labels)
        return name, f"CASE {name} {arms} END", "text"
    if column.type_name == "numeric":
        return name, f"round({name} * {10 ** _scale(column)})::bigint", "bigint"
    return None


def _free_column(survey: Survey, relation: Relation, index: Index, position: int) -> str:
    taken = {column.name for column in survey.columns[relation.oid].values()}
    stem = short_name(index.name[:45], "value" if position == 0 else f"value{position}")
    return next(
        name
        for name in (stem, *(f"{stem}_{number}" for number in range(2, 1000)))
        if name not in taken
    )


def _scale(column: Column) -> int:
    # As numeric(p, s) keeps it: s in the low eleven bits; cents if it has none.
    return (column.modifier - 4) & 0x7FF if column.modifier >= 0 else 2


RULES = (no_tenant_index, dead_index)
