"""
Learning of the other tenant without reading its rows, and what sessions share.
"""

# ruff: noqa: S608 -- an attack is SQL that is put together

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator

from ..lint._catalog import Constraint, Index
from ..lint._sql import literal, name_sql
from ._kinds import Outcome, absent, advice, inconclusive, leaked, make_attack, refused
from ._scene import Fault, Prize, Said, Scene, Session, Table, setting_sql
from ._writes import inserted

__all__ = ["ORACLES"]


@make_attack(
    "TWHA30",
    "unique-oracle",
    (26,),
    "inserts a key of another tenant, and learns from the conflict that it exists",
    "unique keys that have the tenant in them",
)
def unique_oracle(scene: Scene) -> Iterator[Outcome]:
    """
    Insert a row of its own with the values of one of the other tenant's.
    """
    found = False
    with scene.opens.first() as first:
        for table in scene.tables:
            indexes = scene.survey.indexes_of.get(table.relation.oid, ())
            if not any(one.unique for one in indexes):
                continue
            found = True
            if any(one.inserts for one in table.columns):
                yield _told_by_key(scene, first, table)
            else:
                yield refused(table.name, "nothing may be inserted")
    if not found:
        yield absent("no tenant table has a unique key")


def _told_by_key(scene: Scene, session: Session, table: Table) -> Outcome:
    global_ = {one.name: one for one in scene.unique(table)}
    if not table.samples or not table.own:
        text = table.prize.problem or "there is no row of the other tenant whose key could be tried"
        return inconclusive(table.name, text)
    said = inserted(session, table, table.own[0], table.samples[0])
    told = global_.get(said.fault.constraint) if said.fault else None
    if told is not None:
        if _is_random(scene, table, told):
            return advice(table.name, f"key {told.name} tells, but its UUIDs cannot be guessed")
        return leaked(table.name, 1, f"key {told.name} tells that the other tenant has it")
    if not global_ or (said.fault is not None and said.fault.state == "42501"):
        return refused(table.name, str(said.fault or "every key has the tenant in it"))
    text = f"key {next(iter(global_))} has no tenant in it, and was not asked ({said.fault})"
    return inconclusive(table.name, text)


def _is_random(scene: Scene, table: Table, index: Index) -> bool:
    columns = scene.survey.columns[table.relation.oid]
    return all(columns[one].type == "uuid" for one in index.columns[: index.keys])


@make_attack(
    "TWHA31",
    "foreign-key-oracle",
    (27,),
    "refers to a row of another tenant, and learns that it exists or pins it",
    "foreign keys that have the tenant in them",
)
def foreign_key_oracle(scene: Scene) -> Iterator[Outcome]:
    """
    Let a row of its own refer to one of the other tenant's.
    """
    found = False
    with scene.opens.first() as first, scene.opens.other() as other:
        for key, child, parent in scene.foreign_keys():
            found = True
            yield _referring(scene, key, child, parent, first, other)
    if not found:
        yield absent("no tenant table refers to another")


def _referring(  # noqa: PLR0917 -- a key, its two ends and two sessions
    scene: Scene, key: Constraint, child: Table, parent: Table, first: Session, other: Session
) -> Outcome:
    name = f"{key.name} on {child.name}"
    ends = zip(
        scene.survey.names(child.relation.oid, key.columns),
        scene.survey.names(parent.relation.oid, key.foreign_columns),
        strict=True,
    )
    pairs = [(mine, its) for mine, its in ends if its != parent.column and mine != child.column]
    if not pairs:
        return refused(name, "it refers to the tenant alone")
    values = _foreign_key_values(parent, [its for _, its in pairs], first, other)
    if values is None:
        return inconclusive(name, f"{parent.name} has no key that is the other tenant's alone")
    given = dict(zip([mine for mine, _ in pairs], values, strict=True))
    sets = ", ".join(f"{name_sql(column)} = {literal(text)}" for column, text in given.items())
    mine = f"NOT ({child.prize.foreign})"
    if child.whole:
        mine = f"ctid = (SELECT ctid FROM {child.sql} WHERE {mine} LIMIT 1)"
    now = "SET CONSTRAINTS ALL IMMEDIATE; "
    said = first.attempt(f"{now}UPDATE {child.sql} SET {sets} WHERE {mine}")
    if not said.changed and (said.fault is None or said.fault.state == "42501"):
        said = _inserted_child(scene, first, child, given)
    if said.changed:
        return leaked(name, 1, "a row of another tenant may be referred to")
    fault = said.fault
    if fault is None:
        return inconclusive(name, "both tenants need a row there to go by")
    if fault.constraint == key.name or fault.state == "42501":
        return refused(name, str(fault))
    return inconclusive(name, str(fault))


def _inserted_child(scene: Scene, session: Session, child: Table, given: dict[str, str]) -> Said:
    """
    Insert a row like one of the other tenant's, all of whose other references are its own.
    """
    if not any(one.inserts for one in child.columns):
        return Said(fault=Fault(state="42501", message="nothing may be written"))
    if not child.own or not child.samples or not child.mine:
        return Said()
    keys = [one for one in scene.survey.foreign_keys if one.relation == child.relation.oid]
    names = {name for one in keys for name in scene.survey.names(one.relation, one.columns)}
    own = {name: child.mine[name] for name in names if name in child.mine}
    return inserted(session, child, child.own[0], {**child.samples[0], **own, **given})


def _foreign_key_values(
    parent: Table, columns: list[str], first: Session, other: Session
) -> tuple[str, ...] | None:
    """
    Find a key that the other tenant has and the first one has not.
    """
    listed = ", ".join(f"{name_sql(one)}::text" for one in columns)
    query = f"SELECT {listed} FROM {parent.sql} WHERE {parent.prize.foreign} LIMIT 20"
    for row in other.attempt(query).rows:
        if None not in row:
            same = " AND ".join(
                f"{name_sql(column)}::text = {literal(text)}"
                for column, text in zip(columns, row, strict=True)
            )
            mine = first.attempt(
                f"SELECT count(*) FROM {parent.sql} WHERE {same} AND NOT ({parent.prize.foreign})"
            )
            if not mine.number:
                return tuple(row)
    return None


_SEQUENCES = """
SELECT DISTINCT c.oid, n.nspname, c.relname FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_depend d ON (d.classid = 'pg_class'::regclass AND d.objid = c.oid
        AND d.refclassid = 'pg_class'::regclass AND d.refobjid IN ({oids}))
    OR (d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid
        AND d.classid = 'pg_attrdef'::regclass
        AND d.objid IN (SELECT oid FROM pg_attrdef WHERE adrelid IN ({oids})))
WHERE c.relkind = 'S' ORDER BY 2, 3
"""


@make_attack(
    "TWHA32",
    "sequence-read",
    (28,),
    "reads how far a sequence has gone, and so how much all others did",
    "no grants on sequences (identity columns need none); random keys",
)
def sequence_read(scene: Scene) -> Iterator[Outcome]:
    """
    last_value, and the function behind pg_sequences; nextval is not called, for it stays.
    """
    oids = ", ".join(str(one.relation.oid) for one in scene.tables)
    with scene.opens.first() as first:
        sequences = first.attempt(_SEQUENCES.format(oids=oids)).rows
        if not sequences:
            yield absent("no tenant table has a sequence")
        for oid, schema, name in sequences:
            sql = f"{name_sql(schema)}.{name_sql(name)}"
            asked = [
                first.attempt(f"SELECT last_value FROM {sql}"),
                first.attempt(f"SELECT pg_sequence_last_value({oid})"),
            ]
            told = next((one.text for one in asked if one.fault is None and one.text), "")
            if told:
                yield leaked(f"{schema}.{name}", 1, f"its last value is {told}")
            else:
                yield refused(f"{schema}.{name}", _fault_of(asked))


def _fault_of(said: list[Said]) -> str:
    return next((str(one.fault) for one in said if one.fault), "")


@make_attack(
    "TWHA33",
    "statistics",
    (30,),
    "reads values of other tenants in the planner's statistics",
    "PostgreSQL hides them where policies hold the reader",
)
def statistics(scene: Scene) -> Iterator[Outcome]:
    """
    pg_stats of every tenant table, child and materialized view.
    """
    prizes = [one.prize for one in scene.tables]
    prizes += [*scene.children, *(one for one in scene.views if one.column)]
    with scene.opens.first() as first:
        for one in prizes:
            yield _told_by_statistics(first, one)


def _told_by_statistics(session: Session, prize: Prize) -> Outcome:
    regclass = f"{literal(prize.sql)}::regclass"
    said = session.attempt(
        "SELECT count(*) FROM pg_stats s JOIN pg_namespace n ON n.nspname = s.schemaname "
        "JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = s.tablename "
        f"WHERE c.oid = {regclass} "
        "AND (s.most_common_vals IS NOT NULL OR s.histogram_bounds IS NOT NULL)"
    )
    if said.number:
        return leaked(prize.name, said.number, f"pg_stats shows {said.number} columns")
    hidden = session.attempt(
        f"SELECT row_security_active({regclass}) OR NOT has_any_column_privilege({regclass}, "
        f"'SELECT') OR (SELECT relkind = 'v' FROM pg_class WHERE oid = {regclass})"
    )
    if hidden.text == "True":
        return refused(prize.name)
    if hidden.fault is not None and hidden.fault.state == "42501":
        return refused(prize.name, str(hidden.fault))
    return inconclusive(prize.name, "nothing hides its statistics; it was not analysed yet")


@make_attack(
    "TWHA34",
    "explain-count",
    (30,),
    "counts rows of other tenants by EXPLAIN ANALYZE",
    "pass no EXPLAIN through, and show no plans",
)
def explain_count(scene: Scene) -> Iterator[Outcome]:
    """
    "Rows Removed by Filter" of a sequential scan.
    """
    off = "SET LOCAL enable_indexscan = off; SET LOCAL enable_bitmapscan = off; "
    off += "SET LOCAL enable_indexonlyscan = off; SET LOCAL max_parallel_workers_per_gather = 0; "
    with scene.opens.first() as first:
        for table in scene.tables:
            query = f"SELECT FROM {table.sql} LIMIT 100000"
            said = first.attempt(f"{off}EXPLAIN (ANALYZE, FORMAT JSON) {query}")
            count = sum(_removed(said))
            if count:
                yield advice(table.name, f"a plan tells how many rows were filtered away: {count}")
            elif said.fault is not None and said.fault.broken:
                yield inconclusive(table.name, str(said.fault))
            elif table.prize.theirs == 0 or table.prize.problem:
                yield inconclusive(table.name, "the other tenant has no row there")
            else:
                yield refused(table.name, str(said.fault) if said.fault else "")


def _removed(said: Said) -> Iterator[int]:
    if said.fault is not None or not said.rows:
        return
    plan = said.rows[0][0]
    waiting = [json.loads(plan) if isinstance(plan, str) else plan]
    while waiting:
        at = waiting.pop()
        if isinstance(at, list):
            waiting += at
        elif isinstance(at, dict):
            yield int(at.get("Rows Removed by Filter", 0))
            waiting += [value for value in at.values() if isinstance(value, list | dict)]


# --- what sessions of one login see of each other


_WATCHED = {
    "pg_stat_activity": "SELECT string_agg(query, ' ') FROM pg_stat_activity",
    "pg_stat_get_activity": "SELECT string_agg(query, ' ') FROM pg_stat_get_activity(NULL)",
    "pg_stat_get_backend_activity": "SELECT string_agg(pg_stat_get_backend_activity(one), ' ')"
    " FROM pg_stat_get_backend_idset() AS one",
}


def _watched(spy: Session) -> dict[str, Said]:
    """
    Everything that a session of the login can read of what others are doing.
    """
    views = dict(_WATCHED)
    extension = spy.attempt(
        "SELECT quote_ident(n.nspname) FROM pg_extension e "
        "JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'pg_stat_statements'"
    )
    if extension.text:
        views["pg_stat_statements"] = (
            f"SELECT string_agg(query, ' ') FROM {extension.text}.pg_stat_statements(true)"
        )
    # A transaction keeps what it saw first of the activity.
    return {
        view: spy.attempt(f"SELECT pg_stat_clear_snapshot(); {sql}") for view, sql in views.items()
    }


@make_attack(
    "TWHA40",
    "visible-activity",
    (31,),
    "reads literals in the statements of other sessions of its login",
    "track_activities = off for the login, and values as parameters",
)
def visible_activity(scene: Scene) -> Iterator[Outcome]:
    """
    The other tenant's session sends a marker; a plain connection of the login looks for it.
    """
    marker = f"twh-attack-{secrets.token_hex(8)}"
    with scene.opens.other() as other, scene.opens.nobody() as spy:
        other.say(f"SELECT 1 WHERE '{marker}' = ''")
        for view, said in _watched(spy).items():
            if marker in said.text:
                yield leaked(view, 1, "it shows a literal of another tenant's session")
            else:
                yield refused(view, str(said.fault) if said.fault else "")


@make_attack(
    "TWHA41",
    "stolen-token",
    (54,),
    "reads the token of another tenant where it may be seen, and presents it",
    "track_activities and pg_stat_statements.track_utility = off for the login; verify_login",
)
def stolen_token(scene: Scene) -> Iterator[Outcome]:
    """
    The other tenant's session has just sent its BEGIN; what is seen of it is presented.
    """
    if not scene.sealed:
        yield absent("an unsealed tenant has no token: its name is enough")
        return
    setting = scene.settings[0]
    with scene.opens.other() as other, scene.opens.nobody() as spy:
        seen = _watched(spy)
        token = other.say(f"SELECT current_setting({literal(setting)})").text
    with scene.opens.first() as first:
        worth = _worth(scene, first, setting, token)
        if not worth:
            yield inconclusive("token", "the token of the other tenant brings no rows")
            return
        for view, said in seen.items():
            if token in said.text:
                yield leaked(view, worth, f"it shows a token that brings {worth} rows")
            else:
                yield refused(view, str(said.fault) if said.fault else "")


def _worth(scene: Scene, session: Session, setting: str, token: str) -> int:
    bind = f"SET LOCAL {setting_sql(setting)} = {literal(token)}; "
    return sum(session.attempt(bind + table.prize.count).number for table in scene.tables)


@make_attack(
    "TWHA42",
    "end-sessions",
    (31,),
    "cancels what other sessions of its login are doing",
    "EXECUTE on pg_cancel_backend and pg_terminate_backend revoked from PUBLIC",
)
def end_sessions(scene: Scene) -> Iterator[Outcome]:
    """
    pg_cancel_backend of an idle session; nothing there is interrupted.
    """
    with scene.opens.other() as other, scene.opens.first() as first:
        pid = other.say("SELECT pg_backend_pid()").number
        said = first.attempt(f"SELECT pg_cancel_backend({pid})")
        if said.text == "True":
            yield advice("pg_cancel_backend", "the login ends statements of its other sessions")
        else:
            yield refused("pg_cancel_backend", str(said.fault) if said.fault else "")


@make_attack(
    "TWHA43",
    "seal-keys",
    (20,),
    "reads or changes the keys of the seal",
    "twh.seal_keys is its owner's alone",
)
def seal_keys(scene: Scene) -> Iterator[Outcome]:
    """
    SELECT, INSERT, UPDATE and DELETE on the table of keys.
    """
    relations = scene.survey.catalog.relations.values()
    if not any((one.schema, one.name) == ("twh", "seal_keys") for one in relations):
        yield absent("the database has no seal of ours")
        return
    ways = {
        "SELECT": "SELECT count(*) FROM twh.seal_keys",
        "INSERT": "INSERT INTO twh.seal_keys SELECT * FROM twh.seal_keys WHERE false",
        "UPDATE": "UPDATE twh.seal_keys SET key_id = 'x' WHERE false",
        "DELETE": "DELETE FROM twh.seal_keys WHERE false",
    }
    with scene.opens.first() as first:
        for how, sql in ways.items():
            said = first.attempt(sql)
            if said.fault is None:
                yield leaked(f"twh.seal_keys, {how}", said.number, f"{how} is granted")
            elif said.fault.broken:
                yield inconclusive(f"twh.seal_keys, {how}", str(said.fault))
            else:
                yield refused(f"twh.seal_keys, {how}", str(said.fault))


@make_attack(
    "TWHA44",
    "large-objects",
    (32,),
    "reads large objects, which belong to no tenant",
    "EXECUTE on lo_get and its family revoked; files in bytea, or outside",
)
def large_objects(scene: Scene) -> Iterator[Outcome]:
    """
    The first byte of those that there are.
    """
    with scene.opens.first() as first:
        found = first.attempt("SELECT oid FROM pg_largeobject_metadata ORDER BY 1 LIMIT 20").rows
        if not found:
            yield absent("there are no large objects")
        for (oid,) in found:
            said = first.attempt(f"SELECT length(lo_get({oid}, 0, 1))")
            if said.fault is None:
                yield leaked(f"large object {oid}", 1, "lo_get reads it")
            else:
                yield refused(f"large object {oid}", str(said.fault))


@make_attack(
    "TWHA45",
    "shared-names",
    (32,),
    "uses channels and advisory locks, whose names all tenants share",
    "tenant_channel() and tenant_lock_key(); rely on no lock where tenants run SQL",
)
def shared_names(scene: Scene) -> Iterator[Outcome]:
    """
    LISTEN, which ends with the transaction, and a lock of a number of chance.
    """
    with scene.opens.first() as first:
        listening = first.attempt("LISTEN twh_attack")
        lock = first.attempt(f"SELECT pg_try_advisory_xact_lock({secrets.randbits(62)})")
    if listening.fault is None:
        yield advice("LISTEN", "whoever knows the name of a channel hears it")
    else:
        yield refused("LISTEN", str(listening.fault))
    if lock.fault is None:
        yield advice("advisory locks", "whoever knows the number of a lock takes it")
    else:
        yield refused("advisory locks", str(lock.fault))


ORACLES = (
    unique_oracle,
    foreign_key_oracle,
    sequence_read,
    statistics,
    explain_count,
    visible_activity,
    stolen_token,
    end_sessions,
    seal_keys,
    large_objects,
    shared_names,
)
