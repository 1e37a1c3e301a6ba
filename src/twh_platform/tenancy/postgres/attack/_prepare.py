"""
Finding out what there is to steal, before anybody tries.

Each tenant table is counted as the tenant whose rows they are: what that one
does not see itself proves nothing when the attacker does not see it either.
"""

# ruff: noqa: S608 -- names of the catalog, quoted; literals, quoted

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ....errors import ConfigurationError
from .._seal import Seal, SealKey
from ..lint._catalog import Relation
from ..lint._sql import literal, name_sql, qualified_sql
from ..lint._survey import Survey
from ._scene import Column, Opens, Prize, Said, Scene, Session, Table, counted, listed_values

__all__ = ["prepared"]

_SAMPLES = 20
_REFERENCES = 200
_ROLES = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class _Keys:
    """
    What the tenant column has for each of the two.
    """

    first: str
    other: str


def prepared(
    survey: Survey,
    opens: Opens,
    *,
    tenants: tuple[str, str],
    keys: tuple[str, str],
    settings: tuple[str, ...],
    schemas: Collection[str],
    seal: Seal | None,
) -> Scene:
    """
    Count what there is, and collect what an attacker can say and become.

    Raises:
        twh_platform.errors.ConfigurationError: With code ``attack_no_tables``,
            or ``attack_not_bound`` if the other tenant is refused everywhere.
    """
    relations = [one for one in _relations(survey) if not schemas or one.schema in schemas]
    if not relations:
        raise ConfigurationError(
            "no table of tenants was found: name its tenant column", code="attack_no_tables"
        )
    either = _Keys(first=keys[0], other=keys[1])
    with opens.first() as first, opens.other() as other:
        columns = _columns(first, relations)
        tables = tuple(_table(survey, one, columns, either, first, other) for one in relations)
        _ensure_bound(tables, tenants[1])
        own_token = first.attempt(f"SELECT current_setting({literal(settings[0])}, true)").text
        return Scene(
            survey=survey,
            opens=opens,
            tenant=tenants[0],
            other=tenants[1],
            tables=tables,
            children=tuple(_children(survey, tables, other)),
            views=tuple(_views(survey, tables, first, other)),
            settings=settings,
            claims=_claims(seal, own_token, tenants),
            roles=_roles(first),
            sealed=seal is not None,
        )


def _relations(survey: Survey) -> Iterator[Relation]:
    """
    The tenant tables, and the lists of tenants.
    """
    yield from survey.tenant_tables
    for oid in sorted(survey.roots):
        relation = survey.catalog.relations.get(oid)
        if relation is not None and relation.is_table and not relation.from_extension:
            yield relation


def _tenant_column(survey: Survey, relation: Relation) -> str:
    if relation.oid not in survey.roots:
        return survey.tenant_column[relation.oid]
    key = next(one for one in survey.foreign_keys if one.foreign == relation.oid)
    return survey.names(relation.oid, key.foreign_columns)[0]


def _ensure_bound(tables: Sequence[Table], other: str) -> None:
    if any(one.prize.theirs for one in tables):
        return
    problems = [one.prize.problem for one in tables if one.prize.problem]
    if problems and len(problems) == len(tables):
        raise ConfigurationError(
            f"the other tenant, {other!r}, is refused everywhere, so there is nothing to steal: "
            f"{problems[0]}",
            code="attack_not_bound",
        )


# --- tables


_COLUMNS = """
SELECT attrelid, attname, format_type(atttypid, atttypmod), attgenerated <> '',
       has_column_privilege(attrelid, attnum, 'SELECT'),
       has_column_privilege(attrelid, attnum, 'INSERT'),
       has_column_privilege(attrelid, attnum, 'UPDATE'),
       has_table_privilege(attrelid, 'SELECT')
FROM pg_attribute WHERE attrelid IN ({}) AND attnum > 0 AND NOT attisdropped
ORDER BY attrelid, attnum
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Columns:
    columns: tuple[Column, ...]
    whole: bool


def _columns(session: Session, relations: Sequence[Relation]) -> Mapping[int, _Columns]:
    found: dict[int, _Columns] = {}
    oids = ", ".join(str(one.oid) for one in relations)
    for oid, name, type_, made, selects, inserts, updates, whole in session.attempt(
        _COLUMNS.format(oids)
    ).rows:
        column = Column(
            name=name, type=type_, made=made, selects=selects, inserts=inserts, updates=updates
        )
        before = found.get(oid)
        columns = (*before.columns, column) if before else (column,)
        found[oid] = _Columns(columns=columns, whole=whole)
    return found


def _table(  # noqa: PLR0917 -- two sessions and what is known of one table
    survey: Survey,
    relation: Relation,
    columns: Mapping[int, _Columns],
    keys: _Keys,
    first: Session,
    other: Session,
) -> Table:
    known, column = columns[relation.oid], _tenant_column(survey, relation)
    type_ = next(one.type for one in known.columns if one.name == column)
    values = _values(survey, relation, column, type_, keys.other, other)
    own = _values(survey, relation, column, type_, keys.first, first)
    sql = qualified_sql(relation.schema, relation.name)
    foreign = listed_values(column, type_, values) if values else "false"
    prize = _counted(
        Prize(
            name=f"{relation.schema}.{relation.name}",
            sql=sql,
            column=column,
            foreign=foreign,
            theirs=None,
        ),
        other,
    )
    if not values and not prize.problem:
        problem = f"{keys.other!r} is nothing that column {column} ({type_}) can have here"
        prize = replace(prize, theirs=None, problem=problem)
    return Table(
        relation=relation,
        prize=prize,
        type=type_,
        values=values,
        own=own,
        columns=known.columns,
        samples=_samples(prize, known.columns, other),
        whole=known.whole,
        seen=first.attempt(prize.count).number,
    )


def _counted(prize: Prize, other: Session) -> Prize:
    said = other.attempt(prize.count)
    if said.fault is None:
        return replace(prize, theirs=said.number)
    if said.fault.state == "42501" and "policy" not in said.fault.message:
        return prize
    return replace(prize, problem=str(said.fault))


def _values(  # noqa: PLR0917 -- as above
    survey: Survey, relation: Relation, column: str, type_: str, key: str, session: Session
) -> tuple[str, ...]:
    """
    What the column has in the rows of a tenant: its key, or what refers to rows of it.
    """
    if relation.oid in survey.by_reference:
        return _referred(survey, relation, column, key, session)
    said = session.attempt(f"SELECT ({literal(key)}::{type_})::text")
    return (said.text,) if said.rows else ()


def _referred(
    survey: Survey, relation: Relation, column: str, key: str, session: Session
) -> tuple[str, ...]:
    for one in survey.foreign_keys:
        tenant = survey.tenant_column.get(one.foreign)
        named = survey.names(relation.oid, one.columns) == (column,)
        if one.relation == relation.oid and named and tenant is not None:
            parent = survey.catalog.relations[one.foreign]
            target = survey.names(parent.oid, one.foreign_columns)[0]
            said = session.attempt(
                f"SELECT {name_sql(target)}::text FROM {survey.sql(parent)} "
                f"WHERE {name_sql(tenant)}::text = {literal(key)} LIMIT {_REFERENCES}"
            )
            return tuple(str(row[0]) for row in said.rows)
    return ()


def _samples(
    prize: Prize, columns: Sequence[Column], other: Session
) -> tuple[dict[str, str | None], ...]:
    names = [one.name for one in columns if one.selects]
    if not prize.theirs or not names:
        return ()
    listed = ", ".join(f"{name_sql(name)}::text" for name in names)
    said = other.attempt(
        f"SELECT {listed} FROM {prize.sql} WHERE {prize.foreign} LIMIT {_SAMPLES}"
    )
    return tuple(dict(zip(names, row, strict=True)) for row in said.rows)


# --- what else shows rows


def _children(survey: Survey, tables: Sequence[Table], other: Session) -> Iterator[Prize]:
    by_oid = {one.relation.oid: one for one in tables}
    roots = {child: parent for child, parent in survey.catalog.parents}  # noqa: C416 -- rows
    for child, parent in survey.child_tables:
        top = parent.oid
        while top in roots:
            top = roots[top]
        table = by_oid.get(top)
        if table is not None:
            # The other tenant may see its rows through the parent alone.
            here = f"tableoid = {child.oid} AND {table.prize.foreign}"
            said = other.attempt(counted(table.sql, here))
            if said.fault is not None:
                said = other.attempt(counted(survey.sql(child), table.prize.foreign))
            yield replace(
                table.prize,
                name=f"{child.schema}.{child.name}",
                sql=survey.sql(child),
                theirs=None if said.fault else said.number,
                problem=str(said.fault) if said.fault else "",
            )


def _views(
    survey: Survey, tables: Sequence[Table], first: Session, other: Session
) -> Iterator[Prize]:
    by_oid = {one.relation.oid: one for one in tables}
    for view in survey.catalog.relations.values():
        if view.kind not in {"v", "m", "f"} or view.from_extension:
            continue
        table = next((by_oid[one] for one in _sources(survey, view.oid) if one in by_oid), None)
        readable = first.attempt(f"SELECT has_any_column_privilege({view.oid}, 'SELECT')")
        if table is not None and readable.text == "True":
            yield _view(survey, view, table, other)


def _sources(survey: Survey, view: int) -> Iterator[int]:
    seen, waiting = set[int](), [view]
    while waiting:
        at = waiting.pop()
        if at not in seen:
            seen.add(at)
            yield at
            waiting.extend(source for one, source in survey.catalog.sources if one == at)


def _view(survey: Survey, view: Relation, table: Table, other: Session) -> Prize:
    has = {one.name for one in survey.columns.get(view.oid, {}).values()}
    prize = replace(
        table.prize,
        name=f"{view.schema}.{view.name}",
        sql=survey.sql(view),
        theirs=None,
        problem="",
    )
    if table.column not in has:
        # Its rows can be told apart by nothing but that the other tenant sees them.
        return replace(prize, column="")
    return _counted(prize, other)


# --- what an attacker can say and become


def _claims(seal: Seal | None, own: str, tenants: tuple[str, str]) -> dict[str, str]:
    mine, theirs = tenants
    if seal is None or "." not in own:
        return {"the other tenant": theirs}
    payload, code = own.split(".")
    renamed = payload.removesuffix(mine) + theirs
    key, soon = seal.key, int(time.time()) + 60
    made_up = SealKey(id=key.id, secret=bytes(32))
    return {
        "the other tenant, unsealed": theirs,
        "its own token with the other name": f"{renamed}.{code}",
        "its own token behind the other name": f"{renamed}.{own}",
        "its own token with the other name appended": f"{own}{theirs}",
        "a token without a code": f"{renamed}.",
        "a token with a code of zeros": f"{renamed}.{'0' * 64}",
        "a token sealed with a key of its own": made_up.token(theirs, expires_at=soon),
        "a token of the other that has expired": key.token(
            theirs, expires_at=int(time.time()) - 3600
        ),
        "a token of another version": "2" + key.token(theirs, expires_at=soon)[1:],
    }


_MEMBERSHIPS = f"""
SELECT rolname FROM pg_roles
WHERE pg_has_role(session_user, oid, 'MEMBER') AND rolname <> current_user
  AND rolname !~ '^pg_' ORDER BY rolname LIMIT {_ROLES}
"""


def _roles(session: Session) -> tuple[str, ...]:
    rows: Iterable[tuple[str, ...]] = session.attempt(_MEMBERSHIPS).rows
    return tuple(name for (name,) in rows)
