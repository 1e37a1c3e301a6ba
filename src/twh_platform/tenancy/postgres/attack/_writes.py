"""
Writing what is the other tenant's, and changing what holds the attacker.

What would succeed is undone at once: each attempt is rolled back to a savepoint.
"""

# ruff: noqa: S608 -- an attack is SQL that is put together

from __future__ import annotations

from collections.abc import Iterator

from ..lint._sql import columns_sql, literal, name_sql
from ._kinds import Outcome, absent, inconclusive, leaked, make_attack, refused
from ._scene import Said, Scene, Session, Table, few_rows

__all__ = ["WRITES", "inserted", "row_for"]

_REACHED = "twh_attack.reached"
_ZERO = f"SET LOCAL {_REACHED} = '0'; "
_COUNT = f"set_config('{_REACHED}', (current_setting('{_REACHED}')::int + 1)::text, true)"


def row_for(table: Table, tenant: str, given: dict[str, str | None]) -> tuple[str, str]:
    """
    The columns and the values of a new row: a sample's, or NULLs, and a tenant.

    No column is left to its default: a sequence that has gone on does not go back.
    """
    columns = [
        one.name
        for one in table.columns
        if not one.made and (one.inserts or one.name == table.column)
    ]
    values = {**{name: given.get(name) for name in columns}, table.column: tenant}
    listed = ", ".join("NULL" if text is None else literal(text) for text in values.values())
    return columns_sql(values), listed


def inserted(
    session: Session, table: Table, tenant: str, given: dict[str, str | None], *, rest: str = ""
) -> Said:
    """
    Try to insert a row for a tenant.
    """
    columns, values = row_for(table, tenant, given)
    return session.attempt(
        f"INSERT INTO {table.sql} ({columns}) OVERRIDING SYSTEM VALUE VALUES ({values}) {rest}"
    )


def _written(name: str, said: Said, how: str, nothing: str) -> Outcome:
    """
    Judge a write for which there was something to write.
    """
    if said.fault is None:
        return leaked(name, said.changed, how) if said.changed else inconclusive(name, nothing)
    if said.fault.by_constraint:
        return leaked(name, 1, f"{how}; only a constraint stopped it ({said.fault})")
    if said.fault.broken or said.fault.state in {"P0001", "23514"}:
        return inconclusive(name, f"{how}: {said.fault}")
    return refused(name, str(said.fault))


@make_attack(
    "TWHA20",
    "insert-for-other",
    (10,),
    "inserts a row for another tenant",
    "WITH CHECK, and a restrictive floor",
)
def insert_for_other(scene: Scene) -> Iterator[Outcome]:
    """
    A copy of a row of the other tenant; NULLs where no row can be read.
    """
    with scene.opens.first() as first:
        for table in scene.tables:
            if not table.values:
                yield inconclusive(table.name, table.prize.problem)
                continue
            given = table.samples[0] if table.samples else {}
            said = inserted(first, table, table.values[0], given)
            yield _written(table.name, said, "INSERT", "the row went nowhere")


@make_attack(
    "TWHA21",
    "move-to-other",
    (10,),
    "moves a row of its own to another tenant",
    "WITH CHECK on UPDATE, which is USING where it is missing; no UPDATE of the tenant column",
)
def move_to_other(scene: Scene) -> Iterator[Outcome]:
    """
    UPDATE of the tenant column of one row.
    """
    with scene.opens.first() as first:
        for table in scene.tables:
            if not table.values:
                yield inconclusive(table.name, table.prize.problem)
                continue
            move = f"UPDATE {table.sql} SET {name_sql(table.column)} = {literal(table.values[0])}"
            nothing = "the first tenant has no row to move"
            named = first.attempt(f"{move} WHERE {_one_of_mine(table)}")
            outcome = _written(table.name, named, "UPDATE", nothing)
            # What reads no column is not held by policies of SELECT, which a moved row fails.
            blind = first.attempt(f"{_ZERO}{move} WHERE {_COUNT} = '1'")
            more = _written(table.name, blind, "UPDATE of whatever it meets", nothing)
            yield more if more.verdict == "leaked" else outcome


def _one_of_mine(table: Table) -> str:
    mine = f"NOT ({table.prize.foreign})"
    if not table.whole:
        return mine
    return f"ctid = (SELECT ctid FROM {table.sql} WHERE {mine} LIMIT 1) AND {mine}"


@make_attack(
    "TWHA22",
    "update-other",
    (10,),
    "updates rows of another tenant",
    "USING on UPDATE, and a restrictive floor",
)
def update_other(scene: Scene) -> Iterator[Outcome]:
    """
    UPDATE of what it names; and of whatever UPDATE reaches, which SELECT may not.
    """
    with scene.opens.first() as first:
        for table in scene.tables:
            able = [one.name for one in table.columns if one.updates and not one.made]
            column = name_sql(
                next((one for one in able if one != table.column), (able or [table.column])[0])
            )
            update = f"UPDATE {table.sql} SET {column} = "
            named = f"{update}{column} WHERE {few_rows(table, table.prize.foreign)}"
            yield _reaching(first, table, "UPDATE", named, f"{update}NULL")


@make_attack(
    "TWHA23",
    "delete-other",
    (10,),
    "deletes rows of another tenant",
    "USING on DELETE, and a restrictive floor",
)
def delete_other(scene: Scene) -> Iterator[Outcome]:
    """
    DELETE of what it names; and of whatever DELETE reaches, which SELECT may not.
    """
    with scene.opens.first() as first:
        for table in scene.tables:
            delete = f"DELETE FROM {table.sql}"
            named = f"{delete} WHERE {few_rows(table, table.prize.foreign)}"
            yield _reaching(first, table, "DELETE", named, delete)


def _reaching(session: Session, table: Table, how: str, named: str, blind: str) -> Outcome:
    """
    Judge a change of rows that it names, and of what it reaches without reading a column.

    The policies of SELECT hold only a statement that reads columns.  The blind
    form reads none and changes none: it counts what it would have met.
    """
    said = session.attempt(named)
    if said.changed:
        return leaked(table.name, said.changed, f"{how} changes them")
    if said.fault is not None and said.fault.by_constraint:
        return leaked(table.name, 1, f"{how}; only a constraint stopped it ({said.fault})")
    reached = session.attempt(
        f"{_ZERO}{blind} WHERE {_COUNT} IS NULL; SELECT current_setting('{_REACHED}')"
    )
    seen = session.attempt(f"SELECT count(*) FROM {table.sql}")
    more = 0 if reached.fault or seen.fault else reached.number - seen.number
    if more > 0:
        return leaked(table.name, more, f"{how} reaches rows that SELECT does not show")
    if table.prize.problem or table.prize.theirs == 0:
        text = table.prize.problem or "the other tenant has no row there"
        return inconclusive(table.name, text)
    fault = said.fault
    for one in (fault, reached.fault, seen.fault):
        if one is not None and (one.broken or one.state == "P0001"):
            return inconclusive(table.name, f"{how}: {one}")
    return refused(table.name, str(fault) if fault else "")


@make_attack(
    "TWHA24",
    "truncate",
    (8,),
    "truncates a table, which no policy holds",
    "no grant of TRUNCATE",
)
def truncate(scene: Scene) -> Iterator[Outcome]:
    """
    TRUNCATE, with a short wait for the lock; it is refused before the lock without the grant.
    """
    with scene.opens.first() as first:
        for table in scene.tables:
            said = first.attempt(f"TRUNCATE {table.sql}")
            if said.fault is None:
                yield leaked(table.name, table.prize.theirs or 0, "TRUNCATE empties it")
            elif said.fault.state == "0A000":
                # The grant was there; only that others refer to it stood in the way.
                yield leaked(table.name, 0, "TRUNCATE ... CASCADE would empty it")
            elif said.fault.broken:
                yield inconclusive(table.name, str(said.fault))
            else:
                yield refused(table.name, str(said.fault))


@make_attack(
    "TWHA25",
    "upsert",
    (10,),
    "updates a row of another tenant by INSERT ... ON CONFLICT DO UPDATE",
    "WITH CHECK and USING, and keys that have the tenant in them",
)
def upsert(scene: Scene) -> Iterator[Outcome]:
    """
    With the other tenant's key; and under its own name, where a key has no tenant in it.
    """
    with scene.opens.first() as first:
        for table in scene.tables:
            if not table.samples:
                text = table.prize.problem or "no row of the other tenant can be read to copy it"
                yield inconclusive(table.name, text)
                continue
            yield _upserted(scene, first, table)


def _upserted(scene: Scene, session: Session, table: Table) -> Outcome:
    indexes = [
        (one, scene.survey.names(table.relation.oid, one.columns[: one.keys]))
        for one in scene.survey.indexes_of.get(table.relation.oid, ())
        if one.unique and one.valid and one.predicate is None and 0 not in one.columns[: one.keys]
    ]
    able = [one.name for one in table.columns if one.updates and not one.made]
    global_ = {one.oid for one in scene.unique(table)}
    last = refused(table.name, "nothing of it may be updated, or it has no key")
    for index, names in indexes:
        for column in able[:1]:
            set_ = f"SET {name_sql(column)} = excluded.{name_sql(column)}"
            rest = f"ON CONFLICT ({columns_sql(names)}) DO UPDATE {set_}"
            tenants = [table.values[0], *(table.own[:1] if index.oid in global_ else ())]
            for tenant in tenants:
                said = inserted(session, table, tenant, table.samples[0], rest=rest)
                last = _written(table.name, said, f"ON CONFLICT on {index.name}", "nothing changed")
                if last.verdict == "leaked":
                    return last
    return last


@make_attack(
    "TWHA26",
    "add-trigger",
    (5,),
    "hangs a trigger on a table that all tenants write to",
    "no grant of TRIGGER",
)
def add_trigger(scene: Scene) -> Iterator[Outcome]:
    """
    CREATE TRIGGER with a function of PostgreSQL's own, where the grant is there.
    """
    with scene.opens.first() as first:
        for table in scene.tables:
            # Without the grant it would wait for the lock before it is refused.
            asked = f"SELECT has_table_privilege({table.relation.oid}, 'TRIGGER')"
            if first.attempt(asked).text != "True":
                yield refused(table.name, "not granted")
                continue
            said = first.attempt(
                f"CREATE TRIGGER twh_attack BEFORE UPDATE ON {table.sql} FOR EACH ROW "
                "EXECUTE FUNCTION suppress_redundant_updates_trigger()"
            )
            yield _changed(table.name, said, "CREATE TRIGGER")


@make_attack(
    "TWHA27",
    "change-defence",
    (2, 20),
    "changes the defence itself: policies, row security, the tenant's function",
    "a login that owns nothing",
)
def change_defence(scene: Scene) -> Iterator[Outcome]:
    """
    ALTER TABLE, CREATE POLICY, ALTER FUNCTION; all are the owner's.
    """
    with scene.opens.first() as first:
        for table in scene.tables:
            ways = {
                "DISABLE ROW LEVEL SECURITY": f"ALTER TABLE {table.sql} DISABLE ROW LEVEL SECURITY",
                "CREATE POLICY": f"CREATE POLICY twh_attack ON {table.sql} USING (true)",
            }
            yield _any_of(first, table.name, ways)
        for one in scene.survey.reached_functions:
            sql = f"{name_sql(one.schema)}.{name_sql(one.name)}({one.arguments})"
            yield _any_of(
                first, f"{one.qualified}()", {"ALTER FUNCTION": f"ALTER FUNCTION {sql} COST 100"}
            )


def _any_of(session: Session, name: str, ways: dict[str, str]) -> Outcome:
    outcomes = [_changed(name, session.attempt(sql), how) for how, sql in ways.items()]
    return next((one for one in outcomes if one.verdict != "refused"), outcomes[0])


def _changed(name: str, said: Said, how: str) -> Outcome:
    if said.fault is None:
        return leaked(name, 0, f"{how} is done")
    if said.fault.broken:
        return inconclusive(name, f"{how}: {said.fault}")
    return refused(name, str(said.fault))


@make_attack(
    "TWHA28",
    "shadow-table",
    (35,),
    "puts a temporary table in the place of a real one",
    "TEMPORARY revoked on the database, or names with their schema",
)
def shadow_table(scene: Scene) -> Iterator[Outcome]:
    """
    CREATE TEMP TABLE of the same name, then ask what the bare name means.
    """
    found = False
    with scene.opens.first() as first:
        for table in scene.tables:
            name = name_sql(table.relation.name)
            means = f"SELECT to_regclass({literal(name)})::oid::text"
            if first.attempt(means).text != str(table.relation.oid):
                continue
            found = True
            said = first.attempt(f"CREATE TEMP TABLE {name} (twh_attack int); {means}")
            if said.fault is None and said.text != str(table.relation.oid):
                yield leaked(table.name, 0, "the bare name means the temporary table")
            elif said.fault is not None and said.fault.broken:
                yield inconclusive(table.name, str(said.fault))
            else:
                yield refused(table.name, str(said.fault or "pg_temp comes last"))
    if not found:
        yield absent("no tenant table is found by its bare name")


WRITES = (
    insert_for_other,
    move_to_other,
    update_other,
    delete_other,
    truncate,
    upsert,
    add_trigger,
    change_defence,
    shadow_table,
)
