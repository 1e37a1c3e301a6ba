"""
Reading rows of the other tenant: plainly, by another road, or by passing for it.
"""

# ruff: noqa: S608 -- an attack is SQL that is put together

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from ..lint._predicates import settings_of
from ..lint._rules._functions import definer_around_policies
from ..lint._sql import literal, name_sql
from ._kinds import Outcome, absent, inconclusive, leaked, make_attack, refused
from ._scene import MOST, Prize, Said, Scene, Session, Table, setting_sql

__all__ = ["READS"]

_MARK = "twh attack "
_READ_ONLY = "SET LOCAL transaction_read_only = on; "
_PLANNED = 7  # after five of them PostgreSQL may keep one plan for all


def _judged(prize: Prize, said: Mapping[str, Said]) -> Outcome:
    """
    Judge what several ways to count the other tenant's rows gave.
    """
    for how, one in said.items():
        if rows := _stolen(one):
            return leaked(prize.name, rows, f"{how}: {_rows(rows)}")
    if unproved := _unproved(prize, said):
        return inconclusive(prize.name, unproved)
    if prize.theirs is None:
        return refused(prize.name, "not granted")
    return refused(prize.name, _why(said.values()))


def _unproved(prize: Prize, said: Mapping[str, Said]) -> str:
    """
    Why it proves nothing that nothing was stolen; empty if it does.
    """
    if prize.problem or prize.theirs == 0:
        return prize.problem or "the other tenant has no row there"
    broken = {how: one.fault for how, one in said.items() if one.fault and one.fault.broken}
    # A form that was given up for its time was not refused.
    slow = {how: fault for how, fault in broken.items() if fault.state == "57014"}
    if slow or (said and len(broken) == len(said)):
        return next(f"{how}: {fault}" for how, fault in (slow or broken).items())
    if prize.theirs is None and not all(one.fault for one in said.values()):
        return "not even the other tenant sees what there is"
    return ""


def _stolen(said: Said) -> int:
    if said.fault is None:
        return said.number
    if said.fault.message.startswith(_MARK):
        return int(said.fault.message.removeprefix(_MARK) or 0)
    return 0


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows" + (" or more" if count >= MOST else "")


def _why(said: Iterable[Said]) -> str:
    return next((str(one.fault) for one in said if one.fault and not one.fault.broken), "")


def _open_already(table: Table) -> Outcome | None:
    if table.seen:
        return inconclusive(table.name, "it is open to a plain read already (TWHA02)")
    return None


def _forms(scene: Scene, forms: Mapping[str, str], table: Prize) -> Iterator[tuple[str, str]]:
    """
    Every form with every claim, for one table.
    """
    for what, setting, value in scene.claimed():
        for how, form in forms.items():
            sql = (
                form.replace("[s]", setting)
                .replace("[k]", literal(setting.replace('"', "")))
                .replace("[v]", value)
                .replace("[n]", table.count)
            )
            yield f"{how}, {what}", sql


def _passing(scene: Scene, forms: Mapping[str, str]) -> Iterator[Outcome]:
    """
    Try to pass for the other tenant by these forms, table by table.
    """
    with scene.opens.first() as first:
        for table in scene.tables:
            open_ = _open_already(table)
            if open_ is not None:
                yield open_
                continue
            said = _until_stolen(first, _forms(scene, forms, table.prize))
            yield _judged(table.prize, said)


def _until_stolen(session: Session, ways: Iterable[tuple[str, str]]) -> dict[str, Said]:
    said: dict[str, Said] = {}
    for how, sql in ways:
        said[how] = session.attempt(sql)
        if _stolen(said[how]):
            break
    return said


# --- without passing for anybody


@make_attack(
    "TWHA01",
    "unbound-read",
    (11, 14, 16),
    "reads without binding a tenant, or binding the empty string",
    "policies that raise, or compare by a plain =, where nobody is bound",
)
def unbound_read(scene: Scene) -> Iterator[Outcome]:
    """
    Count in a plain connection.
    """
    with scene.opens.nobody() as nobody:
        for table in scene.tables:
            ways = [("unbound", table.prize.count)]
            ways += [
                (f"{name} is empty", f"SET LOCAL {setting_sql(name)} = ''; {table.prize.count}")
                for name in scene.settings
            ]
            yield _judged(table.prize, _until_stolen(nobody, ways))


@make_attack(
    "TWHA02",
    "plain-read",
    (9,),
    "asks plainly for the rows of another tenant",
    "a policy on every tenant table, with a restrictive floor",
)
def plain_read(scene: Scene) -> Iterator[Outcome]:
    """
    Count as the attacker's own tenant.
    """
    with scene.opens.first() as first:
        for table in scene.tables:
            count = table.prize.count
            ways = [("SELECT", count)]
            if table.relation.kind == "r":
                sample = f"FROM {table.sql} TABLESAMPLE SYSTEM (100) "
                ways.append(("TABLESAMPLE", count.replace(f"FROM {table.sql} ", sample)))
            yield _judged(table.prize, _until_stolen(first, ways))


# --- passing for the other tenant


_STACKED = {
    "RESET": "RESET [s]; [n]",
    "the empty string": "SET LOCAL [s] = ''; [n]",
    "SET LOCAL": "SET LOCAL [s] = [v]; [n]",
    "SET": "SET [s] = [v]; [n]",
    "RESET ALL, SET": "RESET ALL; SET [s] = [v]; [n]",
    "set_config": "SELECT set_config([k], [v], true); [n]",
    "SAVEPOINT": "SAVEPOINT twh_s; SET LOCAL [s] = [v]; RELEASE twh_s; [n]",
    "a cursor": "DECLARE twh_c CURSOR FOR [n]; SET LOCAL [s] = [v]; FETCH ALL FROM twh_c",
}


@make_attack(
    "TWHA03",
    "stacked-statements",
    (19,),
    "stacks statements that change the tenant behind one of the service's own",
    "the seal; an unsealed tenant is a setting that whoever runs SQL can set",
)
def stacked_statements(scene: Scene) -> Iterator[Outcome]:
    """
    SET in its forms, then count.
    """
    yield from _passing(scene, _STACKED)


_ONE = {
    "materialized, LATERAL": (
        "WITH x AS MATERIALIZED (SELECT set_config([k], [v], true) AS v)"
        " SELECT o.n FROM x, LATERAL (SELECT ([n]) AS n WHERE x.v IS NOT NULL OFFSET 0) AS o"
    ),
    "sub-select in the list": "SELECT set_config([k], [v], true), ([n])",
    "sub-select in FROM": (
        "SELECT o.n FROM (SELECT set_config([k], [v], true) AS v OFFSET 0) AS x,"
        " LATERAL (SELECT ([n]) AS n WHERE x.v <> 'never' OFFSET 0) AS o"
    ),
    "CASE": "SELECT CASE WHEN set_config([k], [v], true) IS NOT NULL THEN ([n]) END",
    "ARRAY": "SELECT (ARRAY[set_config([k], [v], true), ([n])::text])[2]",
    "UNION ALL": "SELECT length(set_config([k], [v], true)) * 0 UNION ALL ([n])",
}


@make_attack(
    "TWHA04",
    "one-select",
    (20,),
    "changes the tenant within a single SELECT, ahead of the policy",
    "the seal",
)
def one_select(scene: Scene) -> Iterator[Outcome]:
    """
    set_config and the count in one statement.
    """
    yield from _passing(scene, _ONE)


@make_attack(
    "TWHA05",
    "pg-settings",
    (19, 20),
    "changes the tenant by an UPDATE of pg_settings",
    "a setting of the tenant that PostgreSQL does not declare, or the seal",
)
def pg_settings(scene: Scene) -> Iterator[Outcome]:
    """
    The view's rule calls set_config.
    """
    form = "UPDATE pg_settings SET setting = [v] WHERE name = [k]; [n]"
    yield from _passing(scene, {"UPDATE pg_settings": form})


@make_attack(
    "TWHA06",
    "do-block",
    (19,),
    "changes the tenant within a block of PL/pgSQL",
    "the seal",
)
def do_block(scene: Scene) -> Iterator[Outcome]:
    """
    DO, then the count; or the count in the message of an error.
    """
    forms = {
        "DO": "DO $twh$ BEGIN SET LOCAL [s] = [v]; END $twh$; [n]",
        "DO, set_config": ("DO $twh$ BEGIN PERFORM set_config([k], [v], false); END $twh$; [n]"),
        "DO, an error": (f"DO $twh$ BEGIN SET LOCAL [s] = [v]; RAISE '{_MARK}%', ([n]); END $twh$"),
    }
    yield from _passing(scene, forms)


_ON = ("on", "true", "1", "yes")


@make_attack(
    "TWHA07",
    "bypass-flag",
    (21,),
    "flips a setting that opens the policies",
    "no such flag: a login of its own for administrators",
)
def bypass_flag(scene: Scene) -> Iterator[Outcome]:
    """
    Every setting that policies read, and that is not the tenant's.
    """
    flags = _flags(scene)
    if not flags:
        yield absent("policies read no setting but the tenant's")
        return
    forms = {
        f"{flag} = {value}": f"SET LOCAL {setting_sql(flag)} = '{value}'; "
        for flag in flags
        for value in _ON
    }
    yield from _prefixed(scene, forms)


def _flags(scene: Scene) -> list[str]:
    survey = scene.survey
    texts = [text for one in survey.catalog.policies for text in (one.using, one.check) if text]
    texts += [one.text for one in survey.called_from(survey.policy_functions)]
    found = {name for text in texts for name in settings_of(text)}
    return sorted(found - set(scene.settings))


def _prefixed(scene: Scene, forms: Mapping[str, str]) -> Iterator[Outcome]:
    with scene.opens.first() as first:
        for table in scene.tables:
            ways = [(how, sql + table.prize.count) for how, sql in forms.items()]
            yield _open_already(table) or _judged(table.prize, _until_stolen(first, ways))


@make_attack(
    "TWHA08",
    "role-switch",
    (1, 2, 22),
    "becomes every role that the login can become",
    "a login that is a member of nothing, and whose role says nothing of the tenant",
)
def role_switch(scene: Scene) -> Iterator[Outcome]:
    """
    RESET ROLE, SET ROLE, SET SESSION AUTHORIZATION, set_config.
    """
    forms = {
        "RESET ROLE": "RESET ROLE; ",
        "SET SESSION AUTHORIZATION DEFAULT": "SET SESSION AUTHORIZATION DEFAULT; ",
    }
    for role in scene.roles:
        forms[f"SET ROLE {role}"] = f"SET LOCAL ROLE {name_sql(role)}; "
        forms[f"set_config, role {role}"] = f"SELECT set_config('role', {literal(role)}, true); "
        forms[f"SET SESSION AUTHORIZATION {role}"] = (
            f"SET LOCAL SESSION AUTHORIZATION {name_sql(role)}; "
        )
    yield from _prefixed(scene, forms)


@make_attack(
    "TWHA09",
    "row-security-off",
    (12,),
    "switches row_security off",
    "PostgreSQL: it then raises, unless the login owns the table without FORCE",
)
def row_security_off(scene: Scene) -> Iterator[Outcome]:
    """
    SET row_security, then count.
    """
    forms = {
        "SET LOCAL": "SET LOCAL row_security = off; ",
        "set_config": "SELECT set_config('row_security', 'off', true); ",
        "session_replication_role": "SET LOCAL session_replication_role = replica; ",
    }
    yield from _prefixed(scene, forms)


# --- other roads


@make_attack(
    "TWHA10",
    "partition-read",
    (7,),
    "reads a partition or a child table instead of its parent",
    "no grants on them, or policies of their own",
)
def partition_read(scene: Scene) -> Iterator[Outcome]:
    """
    Count in each child, bound to the attacker's own tenant.
    """
    yield from _roads(scene, scene.children, "no tenant table has a partition or a child")


@make_attack(
    "TWHA11",
    "view-read",
    (3,),
    "reads a view that looks with the eyes of its owner",
    "security_invoker = true",
)
def view_read(scene: Scene) -> Iterator[Outcome]:
    """
    Count in each view over tenant tables.
    """
    views = [one for one in scene.views if _kind(scene, one) == "v"]
    yield from _roads(scene, views, "the login may read no view of a tenant table")


@make_attack(
    "TWHA12",
    "copy-read",
    (6,),
    "reads a materialized view or a foreign table, which carry no policies",
    "no grants on it; a view with a condition in front of it",
)
def copy_read(scene: Scene) -> Iterator[Outcome]:
    """
    Count in each materialized view over tenant tables.
    """
    views = [one for one in scene.views if _kind(scene, one) != "v"]
    yield from _roads(scene, views, "the login may read no materialized view of a tenant table")


def _kind(scene: Scene, view: Prize) -> str:
    relations = scene.survey.catalog.relations.values()
    return next(one.kind for one in relations if scene.survey.sql(one) == view.sql)


def _roads(scene: Scene, prizes: Iterable[Prize], nothing: str) -> Iterator[Outcome]:
    prizes = tuple(prizes)
    if not prizes:
        yield absent(nothing)
    with scene.opens.first() as first, scene.opens.other() as other:
        for one in prizes:
            if one.column:
                yield _judged(one, {"SELECT": first.attempt(one.count)})
            else:
                yield _compared(one.name, f"SELECT x::text FROM {one.sql} AS x", first, other)


def _compared(name: str, query: str, first: Session, other: Session) -> Outcome:
    """
    Judge rows that have no tenant column by whether both tenants get the same ones.
    """
    ordered = f"{_READ_ONLY}SELECT * FROM ({query}) AS x (twh_row) ORDER BY 1 LIMIT {MOST}"
    mine, theirs = first.attempt(ordered), other.attempt(ordered)
    broken = next((one.fault for one in (mine, theirs) if one.fault and one.fault.broken), None)
    if broken is not None:
        return inconclusive(name, str(broken))
    if mine.fault is not None:
        return refused(name, str(mine.fault))
    if not theirs.rows:
        return inconclusive(name, "the other tenant gets nothing from it")
    if shared := set(mine.rows) & set(theirs.rows):
        text = "it has no tenant column, and both tenants get the same"
        return inconclusive(name, f"{text} {_rows(len(shared))}")
    return refused(name, "each tenant gets rows of its own")


@make_attack(
    "TWHA13",
    "definer-function",
    (4,),
    "calls a SECURITY DEFINER function that reads past the policies",
    "SECURITY INVOKER, or no EXECUTE",
)
def definer_function(scene: Scene) -> Iterator[Outcome]:
    """
    Call what the lint reports as TWH403 and takes no arguments, in a read-only transaction.
    """
    hits = {hit.object for hit in definer_around_policies.check(scene.survey)}
    found = [
        one
        for one in scene.survey.catalog.functions.values()
        if f"{one.qualified}({one.arguments})" in hits
    ]
    if not found:
        yield absent("the lint knows no function that works around the policies (TWH403)")
    with scene.opens.first() as first, scene.opens.other() as other:
        for one in found:
            name = f"{one.qualified}({one.arguments})"
            if one.arguments or one.kind != "f":
                text = "it is not called, because it takes arguments or is a procedure; see TWH403"
                yield inconclusive(name, text)
                continue
            call = f"{name_sql(one.schema)}.{name_sql(one.name)}()"
            yield _called(scene, name, call, first, other)


def _called(scene: Scene, name: str, call: str, first: Session, other: Session) -> Outcome:
    for table in scene.tables:
        if table.prize.theirs:
            count = f"SELECT count(*) FROM {call} AS x WHERE {table.prize.foreign}"
            said = first.attempt(_READ_ONLY + count)
            if said.fault is None:
                if said.number:
                    return leaked(name, said.number, _rows(said.number))
                return refused(name)
    return _compared(name, f"SELECT x::text FROM {call} AS x", first, other)


@make_attack(
    "TWHA14",
    "copy-out",
    (12, 20),
    "copies rows out with COPY",
    "as for SELECT: COPY is filtered by the same policies",
)
def copy_out(scene: Scene) -> Iterator[Outcome]:
    """
    COPY of the table, of a query, and of a query that changes the tenant.
    """
    with scene.opens.first() as first:
        for table in scene.tables:
            open_ = _open_already(table)
            if open_ is not None:
                yield open_
                continue
            ways = {"COPY": f"({table.prize.count})"}
            ways |= {
                f"COPY, {how}": f"({sql})"
                for how, sql in _forms(scene, {"set_config": _ONE["CASE"]}, table.prize)
            }
            said = {how: first.copied(f"COPY {sql} TO STDOUT") for how, sql in ways.items()}
            yield _judged(table.prize, {how: _as_number(one) for how, one in said.items()})


def _as_number(said: Said) -> Said:
    rows = tuple(row if str(row[-1]).isdigit() else (0,) for row in said.rows)
    return Said(rows=rows, fault=said.fault)


@make_attack(
    "TWHA15",
    "plan-reuse",
    (24,),
    "executes a prepared query that was planned for another tenant",
    "a tenant function that is STABLE",
)
def plan_reuse(scene: Scene) -> Iterator[Outcome]:
    """
    Plan it as the other tenant, and execute it on the same connection as the first.
    """
    for number, table in enumerate(scene.tables):
        open_ = _open_already(table)
        if open_ is not None or not table.prize.theirs:
            yield open_ or _judged(table.prize, {})
            continue
        name = f"twh_attack_{number}"
        with scene.opens.reused(first=False) as other:
            other.plan(name, table.prize.count)
            for _ in range(_PLANNED):
                other.planned(name)
        with scene.opens.reused(first=True) as first:
            yield _judged(table.prize, {"a prepared query": first.planned(name)})


@make_attack(
    "TWHA16",
    "filter-error",
    (29,),
    "makes rows that it may not see raise an error",
    "policies, which are asked first; security_barrier for a view that filters by itself",
)
def filter_error(scene: Scene) -> Iterator[Outcome]:
    """
    A condition that divides by zero on rows of the other tenant alone.
    """
    prizes = [one.prize for one in scene.tables if not one.seen]
    prizes += [one for one in scene.views if one.column and _kind(scene, one) == "v"]
    with scene.opens.first() as first:
        for one in prizes:
            zero = f"length({name_sql(one.column)}::text) * 0"
            count = first.attempt(
                f"SELECT count(*) FROM {one.sql} "
                f"WHERE CASE WHEN {one.foreign} THEN 1 / ({zero}) ELSE 1 END = 2"
            )
            if count.fault is not None and count.fault.state == "22012":
                yield leaked(one.name, 1, "a condition was asked of them before the policy")
            else:
                yield _judged(one, {"a condition that fails": count})


READS = (
    unbound_read,
    plain_read,
    stacked_statements,
    one_select,
    pg_settings,
    do_block,
    bypass_flag,
    role_switch,
    row_security_off,
    partition_read,
    view_read,
    copy_read,
    definer_function,
    copy_out,
    plan_reuse,
    filter_error,
)
