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
from ..lint._catalog import Constraint, Relation
from ..lint._rules._tables import _derived
from ..lint._sql import literal, name_sql, qualified_sql
from ..lint._survey import Survey
from ._scene import Column, Opens, Prize, Scene, Session, Table, counted, listed_values

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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tied:
    """
    A table, and the column that tells whose a row is; with a key, by what it refers to.
    """

    relation: Relation
    column: str
    key: Constraint | None = None


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
    ties = {one.relation.oid: one for one in _relations(survey)}
    asked = [one for one in ties.values() if not schemas or one.relation.schema in schemas]
    if not asked:
        raise ConfigurationError(
            "no table of tenants was found: name its tenant column", code="attack_no_tables"
        )
    either = _Keys(first=keys[0], other=keys[1])
    with opens.first() as first, opens.other() as other:
        columns = _columns(first, [one.relation for one in ties.values()])
        known = _Known(survey=survey, ties=ties, columns=columns, keys=either)
        tables = tuple(_table(known, one, first, other) for one in asked)
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


def _relations(survey: Survey) -> Iterator[_Tied]:
    """
    The tenant tables, those that refer to their rows, and the lists of tenants.
    """
    for one in survey.tenant_tables:
        column = survey.tenant_column[one.oid]
        yield _Tied(relation=one, column=column, key=_reference(survey, one, column))
    for one, key, _ in _derived(survey):
        yield _Tied(relation=one, column=survey.names(one.oid, key.columns)[0], key=key)
    for oid in sorted(survey.roots):
        root = survey.catalog.relations.get(oid)
        if root is not None and root.is_table and not root.from_extension:
            key = next(key for key in survey.foreign_keys if key.foreign == oid)
            yield _Tied(relation=root, column=survey.names(oid, key.foreign_columns)[0])


def _reference(survey: Survey, relation: Relation, column: str) -> Constraint | None:
    if relation.oid not in survey.by_reference:
        return None
    return next(
        (
            one
            for one in survey.foreign_keys
            if one.relation == relation.oid
            and survey.names(relation.oid, one.columns)[:1] == (column,)
        ),
        None,
    )


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
       has_column_privilege(attrelid, attnum, 'UPDATE') AND attidentity <> 'a',
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    survey: Survey
    ties: Mapping[int, _Tied]
    columns: Mapping[int, _Columns]
    keys: _Keys

    def type(self, tied: _Tied) -> str:
        """
        The type of the column that tells whose a row is.
        """
        columns = self.columns[tied.relation.oid].columns
        return next(one.type for one in columns if one.name == tied.column)


def _table(known: _Known, tied: _Tied, first: Session, other: Session) -> Table:
    relation, column, type_ = tied.relation, tied.column, known.type(tied)
    columns = known.columns[relation.oid]
    values = _values(known, tied, known.keys.other, other)
    own = _values(known, tied, known.keys.first, first)
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
        problem = f"{known.keys.other!r} is nothing that column {column} ({type_}) can have here"
        prize = replace(prize, theirs=None, problem=problem)
    return Table(
        relation=relation,
        prize=prize,
        by_reference=tied.key is not None or relation.oid in known.survey.by_reference,
        values=values,
        own=own,
        columns=columns.columns,
        samples=_samples(prize, columns.columns, foreign, other, _SAMPLES),
        mine=next(iter(_samples(prize, columns.columns, f"NOT ({foreign})", first, 1)), {}),
        whole=columns.whole,
        seen=first.attempt(prize.count).number,
    )


def _counted(prize: Prize, other: Session) -> Prize:
    said = other.attempt(prize.count)
    if said.fault is None:
        return replace(prize, theirs=said.number)
    if said.fault.state == "42501" and "policy" not in said.fault.message:
        return prize
    return replace(prize, problem=str(said.fault))


def _values(known: _Known, tied: _Tied, key: str, session: Session) -> tuple[str, ...]:
    """
    What the column has in the rows of a tenant: its key, or what refers to rows of it.
    """
    if tied.key is None:
        said = session.attempt(f"SELECT ({literal(key)}::{known.type(tied)})::text")
        return (said.text,) if said.rows else ()
    parent = known.ties.get(tied.key.foreign)
    values = _values(known, parent, key, session) if parent is not None else ()
    if parent is None or not values:
        return ()
    target = known.survey.names(parent.relation.oid, tied.key.foreign_columns)[0]
    said = session.attempt(
        f"SELECT {name_sql(target)}::text FROM {known.survey.sql(parent.relation)} "
        f"WHERE {listed_values(parent.column, known.type(parent), values)} LIMIT {_REFERENCES}"
    )
    return tuple(str(row[0]) for row in said.rows)


def _samples(
    prize: Prize, columns: Sequence[Column], condition: str, session: Session, most: int
) -> tuple[dict[str, str | None], ...]:
    names = [one.name for one in columns if one.selects]
    if not names:
        return ()
    listed = ", ".join(f"{name_sql(name)}::text" for name in names)
    said = session.attempt(f"SELECT {listed} FROM {prize.sql} WHERE {condition} LIMIT {most}")
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
