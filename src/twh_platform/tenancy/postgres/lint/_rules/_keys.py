"""
TWH6xx: keys that reach across tenants.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from .._catalog import Constraint, Index, Relation
from .._findings import Hit
from .._sql import columns_sql, name_sql, qualified_sql, short_name
from .._survey import Survey
from ._make import rule

__all__ = ["RULES"]


def _global_keys(survey: Survey) -> Iterator[tuple[Relation, Index]]:
    """
    Yield what is unique over all tenants.
    """
    for one in survey.tenant_tables:
        for index in survey.indexes_of.get(one.oid, ()):
            tenant = survey.tenant(one).number
            if (index.unique or index.excludes) and tenant not in index.columns[: index.keys]:
                yield one, index


def _is_uuid(survey: Survey, relation: Relation, index: Index) -> bool:
    columns = survey.columns[relation.oid]
    numbers = index.columns[: index.keys]
    return all(number in columns and columns[number].type == "uuid" for number in numbers)


@rule(
    "TWH601",
    "global-unique",
    "error",
    title="A unique or exclusion key holds over all tenants.",
    why="A conflict tells that another tenant has the value; ON CONFLICT DO NOTHING asks without "
    "an error.",
    attacks=(26,),
)
def global_unique(survey: Survey) -> Iterator[Hit]:
    """
    Look for keys without the tenant column, but for primary keys and random ids.
    """
    for one, index in _global_keys(survey):
        if not index.primary and not _is_uuid(survey, one, index):
            yield _key_hit(survey, one, index, "tells which values other tenants have")


@rule(
    "TWH602",
    "global-primary-key",
    "warning",
    title="A primary key holds over all tenants, and its values can be guessed.",
    why="Inserting an id tells whether another tenant has it, and single-column foreign keys "
    "grow on it.",
    attacks=(26, 27),
)
def global_primary_key(survey: Survey) -> Iterator[Hit]:
    """
    Look for primary keys without the tenant column.
    """
    for one, index in _global_keys(survey):
        if index.primary and not _is_uuid(survey, one, index):
            yield _key_hit(survey, one, index, "tells which ids other tenants have")


@rule(
    "TWH603",
    "global-uuid-key",
    "info",
    title="A key of UUIDs holds over all tenants.",
    why="Random ids cannot be guessed, but single-column foreign keys grow on it.",
    attacks=(27,),
)
def global_uuid_key(survey: Survey) -> Iterator[Hit]:
    """
    Look for keys of UUIDs without the tenant column.
    """
    for one, index in _global_keys(survey):
        if _is_uuid(survey, one, index):
            yield _key_hit(survey, one, index, "is not led by the tenant")


def _key_hit(survey: Survey, relation: Relation, index: Index, what: str) -> Hit:
    column = survey.tenant_column[relation.oid]
    constraint = survey.constraint_of_index.get(index.oid)
    kind = "constraint" if constraint else "index"
    return Hit(
        kind=kind,
        object=f"{index.name} on {relation.schema}.{relation.name}",
        schema=relation.schema,
        message=f"It lacks {column}, so it {what}.",
        remedy=_led(survey, relation, index, constraint, name_sql(column)),
    )


def _led(
    survey: Survey, relation: Relation, index: Index, constraint: Constraint | None, column: str
) -> str:
    """
    Make a key anew, led by the tenant, and the foreign keys that refer to it with it.
    """
    keys = [key for key in survey.foreign_keys if key.index == index.oid]
    table = survey.sql(relation)
    dropped = [_drop(survey, key) for key in keys]
    if constraint is None:
        lines = [
            f"DROP INDEX {qualified_sql(index.schema, index.name)};",
            re.sub(r" USING (\w+) \(", rf" USING \1 ({column}, ", index.definition, count=1) + ";",
        ]
    else:
        lead = f"({column} WITH =, " if constraint.kind == "x" else f"({column}, "
        definition = constraint.definition.replace("(", lead, 1)
        lines = [
            f"ALTER TABLE {table} DROP CONSTRAINT {name_sql(constraint.name)};",
            f"ALTER TABLE {table} ADD CONSTRAINT {name_sql(constraint.name)} {definition};",
        ]
        if constraint.kind == "x" and index.method == "gist":
            lines.insert(0, "CREATE EXTENSION IF NOT EXISTS btree_gist;")
    return "\n".join([*dropped, *lines, *(_again(survey, key) for key in keys)])


def _drop(survey: Survey, key: Constraint) -> str:
    child = survey.catalog.relations[key.relation]
    return f"ALTER TABLE {survey.sql(child)} DROP CONSTRAINT {name_sql(key.name)};"


def _again(survey: Survey, key: Constraint) -> str:
    child = survey.catalog.relations[key.relation]
    if key.relation in survey.tenant_column and key.relation not in survey.by_reference:
        return _add_paired(survey, key)
    return (
        f"-- {survey.sql(child)} has no tenant column to refer with: give it one, then\n"
        f"-- add {name_sql(key.name)} again: {key.definition}"
    )


def _add_paired(survey: Survey, key: Constraint) -> str:
    child, parent = (survey.catalog.relations[oid] for oid in (key.relation, key.foreign))
    ours, theirs = (name_sql(survey.tenant_column[one.oid]) for one in (child, parent))
    definition = key.definition.replace("(", f"({ours}, ", 1)
    head, references, rest = definition.partition(" REFERENCES ")
    rest = rest.replace("(", f"({theirs}, ", 1)
    columns = columns_sql(survey.names(child.oid, key.columns))
    # Only the reference becomes empty; the tenant column cannot.
    rest = re.sub(r"ON DELETE SET (NULL|DEFAULT)(?! \()", rf"ON DELETE SET \1 ({columns})", rest)
    rest = re.sub(r" ON UPDATE SET (NULL|DEFAULT)", "", rest)
    add = f"ALTER TABLE {survey.sql(child)} ADD CONSTRAINT {name_sql(key.name)} "
    return f"{add}{head}{references}{rest};"


def _unpaired(survey: Survey) -> Iterator[tuple[Constraint, Relation, Relation]]:
    """
    Yield the foreign keys between tenant tables that leave the tenant out.
    """
    tenants = {one.oid: one for one in survey.tenant_tables}
    for key in survey.foreign_keys:
        if key.relation not in tenants or key.foreign not in tenants:
            continue
        ours, theirs = (survey.tenant_column[oid] for oid in (key.relation, key.foreign))
        pairs = zip(
            survey.names(key.relation, key.columns),
            survey.names(key.foreign, key.foreign_columns),
            strict=True,
        )
        if key.relation in survey.by_reference or (ours, theirs) in pairs:
            continue
        if survey.tenant(tenants[key.relation]).type == survey.tenant(tenants[key.foreign]).type:
            yield key, tenants[key.relation], tenants[key.foreign]


def _paired(survey: Survey, key: Constraint, parent: Relation) -> str:
    names = (survey.tenant_column[parent.oid], *survey.names(parent.oid, key.foreign_columns))
    index = short_name(parent.name, *names, "key")
    made = (
        f"CREATE UNIQUE INDEX IF NOT EXISTS {name_sql(index)} ON {survey.sql(parent)} "
        f"({columns_sql(names)});"
    )
    has = {
        frozenset(survey.names(parent.oid, one.columns[: one.keys]))
        for one in survey.indexes_of.get(parent.oid, ())
        if one.unique and one.predicate is None and not one.expressions
    }
    lines = [] if frozenset(names) in has else [made]
    return "\n".join([*lines, _drop(survey, key), _add_paired(survey, key)])


def _fk_hit(key: Constraint, child: Relation, message: str, remedy: str) -> Hit:
    return Hit(
        kind="constraint",
        object=f"{key.name} on {child.schema}.{child.name}",
        schema=child.schema,
        message=message,
        remedy=remedy,
    )


@rule(
    "TWH604",
    "key-across-tenants",
    "error",
    title="A foreign key between tenant tables leaves the tenant out.",
    why="The server checks it without policies: a row may refer to another tenant's, and whether "
    "that works tells which ids exist.",
    attacks=(27,),
)
def key_across_tenants(survey: Survey) -> Iterator[Hit]:
    """
    Look for foreign keys that do not pair the tenant columns.
    """
    for key, child, parent in _unpaired(survey):
        yield _fk_hit(
            key,
            child,
            f"It refers to {parent.schema}.{parent.name} without "
            f"{survey.tenant_column[child.oid]}, so a row may point at another tenant's.",
            _paired(survey, key, parent),
        )


_ACTS = {"c": "CASCADE", "n": "SET NULL", "d": "SET DEFAULT"}


def _action(key: Constraint) -> str | None:
    if key.on_delete in _ACTS:
        return f"ON DELETE {_ACTS[key.on_delete]}"
    return f"ON UPDATE {_ACTS[key.on_update]}" if key.on_update in _ACTS else None


@rule(
    "TWH605",
    "cascade-across-tenants",
    "error",
    title="A foreign key carries a change over into other tenants.",
    why="CASCADE and SET NULL are done without policies: one tenant's DELETE takes another's rows.",
    attacks=(27,),
)
def cascade_across_tenants(survey: Survey) -> Iterator[Hit]:
    """
    Look for actions of keys that leave the tenant out, and of those to shared tables.
    """
    for key, child, parent in _unpaired(survey):
        if action := _action(key):
            yield _fk_hit(
                key,
                child,
                f"{action}, and it does not ask whose row in {parent.schema}.{parent.name} it is.",
                _paired(survey, key, parent),
            )
    yield from _shared_cascades(survey)


def _shared_cascades(survey: Survey) -> Iterator[Hit]:
    tenants = {one.oid: one for one in survey.tenant_tables}
    for key in survey.foreign_keys:
        parent = survey.catalog.relations.get(key.foreign)
        action = _action(key)
        if parent is None or action is None or key.relation not in tenants:
            continue
        if key.foreign in survey.tenant_column or key.foreign in survey.roots:
            continue
        privilege = action.split()[1]
        if survey.usable(parent, privilege):
            child = tenants[key.relation]
            kept = re.sub(
                r" ON (DELETE|UPDATE) (CASCADE|SET NULL|SET DEFAULT)( \([^)]*\))?",
                "",
                key.definition,
            )
            yield _fk_hit(
                key,
                child,
                f"{action}, and the application may {privilege} rows of the shared table "
                f"{parent.schema}.{parent.name}.",
                f"{_drop(survey, key)}\nALTER TABLE {survey.sql(child)} "
                f"ADD CONSTRAINT {name_sql(key.name)} {kept};",
            )


RULES = (
    global_unique,
    global_primary_key,
    global_uuid_key,
    key_across_tenants,
    cascade_across_tenants,
)
