"""
A bounded storm of short transactions of two tenants, over the connections of a pool.

What it commits writes to no table: it plants what a session keeps (a setting, a
cursor, a channel, a lock, a prepared statement, a temporary table), looks whether
the other tenant finds it, and clears it away.
"""

# ruff: noqa: S608, S311 -- names of its own alone; chance is for variety, not for secrets

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from ....errors import ConfigurationError
from ..._context import bind_tenant, unbind_tenant
from ..._tenant import Tenant
from ._kinds import AttackResult, Outcome, inconclusive, leaked, refused
from ._pool_attacks import pool_residue, pool_rows, pool_stuck
from ._pools import AbandonedError, Pool, Script, opened
from ._report import AttackReport

__all__ = ["Bind", "attack_pool"]

Bind = Callable[[str | None], AbstractContextManager[Any]]
"""Makes a tenant, or nobody, the current one within a `with`."""

_PREFIX = "twh_attack_"
_LOCK = 7472661
_OPEN = "twh_attack.open"
_MARK = "twh_attack.mark"

# What a session may be left with, and how it is cleared away.
_PLANTS = {
    "setting": f"SET {_MARK} = '{{tag}}'",
    "cursor": f"DECLARE {_PREFIX}{{tag}} CURSOR WITH HOLD FOR SELECT 1",
    "temporary table": f"CREATE TEMPORARY TABLE {_PREFIX}{{tag}} (n int)",
    "channel": f"LISTEN {_PREFIX}{{tag}}",
    "advisory lock": f"SELECT pg_try_advisory_lock({_LOCK}, {{number}})",
    "prepared statement": f"PREPARE {_PREFIX}{{tag}} AS SELECT 1",
}
_PATIENCE = 100
_TAGS = {"first": 1, "other": 2}
_UNLOCK = (
    "SELECT pg_advisory_unlock(classid::int, objid::int) FROM pg_locks "
    f"WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND classid = {_LOCK}"
)
# In a block, because it is an error to close what is not there.
_CLOSE = f"""
DO $twh$ DECLARE one text; BEGIN
    FOR one IN SELECT name FROM pg_cursors WHERE starts_with(name, '{_PREFIX}') LOOP
        EXECUTE 'CLOSE ' || quote_ident(one);
    END LOOP;
    FOR one IN SELECT name FROM pg_prepared_statements WHERE starts_with(name, '{_PREFIX}') LOOP
        EXECUTE 'DEALLOCATE ' || quote_ident(one);
    END LOOP;
END $twh$
"""
_CLEARS = (
    f"RESET {_MARK}",
    *(f"DROP TABLE IF EXISTS pg_temp.{_PREFIX}{tag}" for tag in _TAGS),
    *(f"UNLISTEN {_PREFIX}{tag}" for tag in _TAGS),
    _UNLOCK,
    _CLOSE,
)

_LOOK = f"""
SELECT 'pid', pg_backend_pid()::text
UNION ALL SELECT 'open', current_setting('{_OPEN}', true)
UNION ALL SELECT 'setting', current_setting('{_MARK}', true)
UNION ALL SELECT 'cursor', substr(name, {len(_PREFIX) + 1})
    FROM pg_cursors WHERE starts_with(name, '{_PREFIX}')
UNION ALL SELECT 'prepared statement', substr(name, {len(_PREFIX) + 1})
    FROM pg_prepared_statements WHERE starts_with(name, '{_PREFIX}')
UNION ALL SELECT 'channel', substr(one, {len(_PREFIX) + 1})
    FROM pg_listening_channels() AS one WHERE starts_with(one, '{_PREFIX}')
UNION ALL SELECT 'advisory lock', CASE objid WHEN 1 THEN 'first' ELSE 'other' END
    FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()
        AND classid = {_LOCK} AND granted
UNION ALL SELECT 'temporary table', substr(relname, {len(_PREFIX) + 1})
    FROM pg_class WHERE relnamespace = pg_my_temp_schema() AND starts_with(relname, '{_PREFIX}')
"""


async def attack_pool(
    pool: Any,
    *,
    tenant: str,
    other: str,
    probe: str,
    tenant_key: str | None = None,
    other_key: str | None = None,
    bind: Bind | None = None,
    transactions: int = 400,
    workers: int = 8,
    seed: int = 0,
    timeout: float = 60.0,  # noqa: ASYNC109 -- of the whole, stated as an option
) -> AttackReport:
    """
    Attack a pool by many short transactions of two tenants that end in every way.

    They commit, roll back, fail, are abandoned by an exception, are cancelled,
    and leave things in the session; some work without a tenant.  Each looks
    first at what it finds.  No table is written to.

    Use a pool of few connections, so that they change hands often.

    Args:
        pool: A SQLAlchemy `Engine` or `AsyncEngine`, a pool of `psycopg_pool`
            or `asyncpg`, or a function that returns one, which is then closed.

        tenant: One of two tenants that exist.

        other: The other one.

        probe: A query that gives the tenant column of some rows:
            ``SELECT tenant_id FROM items LIMIT 20``.  It may have no percent
            sign.

        tenant_key: What the probe gives for the first one, if not its name.

        other_key: The same for the other one.

        bind: Makes a tenant, or nobody, the current one, if it is not
            `twh_platform.tenancy.bind_tenant` that does.

        transactions: How many.

        workers: How many at once.

        seed: Of the order in which things happen.

        timeout: Seconds for the whole.

    Raises:
        twh_platform.errors.ConfigurationError: With code
            ``attack_pool_unknown``, or ``attack_not_bound`` if one of the two
            does not see rows of its own, and only such, when nobody disturbs it.
    """
    keys = {"first": tenant_key or tenant, "other": other_key or other}
    async with opened(pool) as target:
        storm = _Storm(
            pool=target,
            names={"first": tenant, "other": other},
            keys=keys,
            probe=probe,
            bind=bind or _bind,
            chance=random.Random(seed),
        )
        await storm.control()
        before = await _settled(target, 0)
        try:
            async with asyncio.timeout(timeout):
                await storm.rage(transactions, workers)
                await storm.sweep(workers)
        except TimeoutError:
            storm.stuck["transactions that did not end in time"] += 1
        lost = await _settled(target, before) - before
        storm.stuck["connections that were not given back"] += max(0, lost)
        return AttackReport(tenants=(tenant, other), tables={}, results=storm.results())


async def _settled(pool: Pool, hoped: int) -> int:
    """
    How many connections are taken, once a pool had the time to open and mend what it has.
    """
    for _ in range(_PATIENCE):
        if pool.taken() <= hoped:
            break
        await asyncio.sleep(0.02)
    return pool.taken()


def _bind(tenant: str | None) -> AbstractContextManager[Any]:
    return unbind_tenant() if tenant is None else bind_tenant(Tenant(id=tenant))


@dataclass(slots=True, kw_only=True)
class _Storm:
    pool: Pool
    names: dict[str, str]
    keys: dict[str, str]
    probe: str
    bind: Bind
    chance: random.Random
    played: int = 0
    handed_over: int = 0
    wrong: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    planted: Counter[str] = field(default_factory=Counter)
    stuck: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    missed: int = 0
    last: dict[str, str] = field(default_factory=dict)

    async def control(self) -> None:
        """
        See that each tenant has rows, and only its own, when nothing disturbs it.
        """
        for tag, key in self.keys.items():
            with self.bind(self.names[tag]):
                try:
                    rows = await self.pool.play(Script(statements=(self.probe,)))
                except Exception as error:
                    raise _not_bound(self.names[tag], f"the probe fails: {error}") from error
            seen = {str(row[0]) for row in rows[0]}
            if seen != {key}:
                told = f"sees rows of {sorted(seen)}" if seen else "sees no rows"
                raise _not_bound(self.names[tag], f"the probe {told}, not of {key!r} alone")

    async def rage(self, transactions: int, workers: int) -> None:
        """
        Let so many workers play so many transactions.
        """
        turns = iter(range(transactions))

        async def work() -> None:
            for _ in turns:
                await self.turn()

        await asyncio.gather(*(work() for _ in range(workers)))

    async def turn(self) -> None:
        """
        One transaction, of either tenant or of nobody.
        """
        tag = self.chance.choice(tuple(_TAGS))
        ways = (self._ends, self._fails, self._cancelled, self._plants, self._nobody)
        way = self.chance.choices(ways, weights=(5, 2, 3, 4, 1))[0]
        try:
            await way(tag)
        except Exception as error:  # noqa: BLE001 -- of any driver; it is counted and told
            self._note(error)
        self.played += 1

    def _note(self, error: Exception) -> None:
        first = next(iter(str(error).splitlines()), "")
        self.failed[f"{type(error).__name__}: {first[:200]}"] += 1

    async def _ends(self, tag: str) -> None:
        ending = self.chance.choice(("commit", "rollback", "raise"))
        await self._play(tag, self.probe, ending=ending)

    async def _fails(self, tag: str) -> None:
        await self._expecting(tag, self.probe, "SELECT 1 / 0")

    async def _cancelled(self, tag: str) -> None:
        if not self.pool.cancels:
            slow = ("SET LOCAL statement_timeout = 2", "SELECT pg_sleep(0.2)")
            await self._expecting(tag, *slow)
            return
        sleeps = self.chance.random() * 0.006
        work = self._play(tag, self.probe, "SELECT pg_sleep(0.003)", self.probe)
        task = asyncio.create_task(work)
        await asyncio.sleep(sleeps)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            if (current := asyncio.current_task()) is not None and current.cancelling():
                raise

    async def _plants(self, tag: str) -> None:
        kind = self.chance.choice(tuple(_PLANTS))
        if await self._expecting(tag, _filled(_PLANTS[kind], tag)):
            self.planted[kind] += 1

    async def _nobody(self, _tag: str) -> None:
        with self.bind(None):
            try:
                rows = await self.pool.play(Script(statements=(self.probe,)))
            except Exception:  # noqa: BLE001 -- to be refused is what is hoped for
                return
        self.wrong["rows where nobody was bound"] += len(rows[0])

    async def _expecting(self, tag: str, *statements: str) -> bool:
        """
        Play what may be refused; tells whether it was not.
        """
        try:
            await self._play(tag, *statements)
        except Exception:  # noqa: BLE001 -- the server's refusal, in any driver's words
            return False
        return True

    async def _play(self, tag: str, *statements: str, ending: Any = "commit") -> None:
        # The transaction's own mark: who finds it is still in the same transaction.
        opening = (_LOOK, f"SELECT set_config('{_OPEN}', '{tag}', true)")
        script = Script(statements=(*opening, *statements), ending=ending)
        with self.bind(self.names[tag]):
            try:
                rows = await self.pool.play(script)
            except AbandonedError as abandoned:
                rows = abandoned.rows
        self._judge(tag, statements, rows)

    def _judge(self, tag: str, statements: tuple[str, ...], rows: Any) -> None:
        self.found.update(dict(self._looked(tag, rows[0])))
        [pid] = [text for kind, text in rows[0] if kind == "pid"]
        self.handed_over += self.last.get(pid, tag) != tag
        self.last[pid] = tag
        for statement, answer in zip(statements, rows[2:], strict=True):
            if statement == self.probe:
                foreign = [row for row in answer if str(row[0]) != self.keys[tag]]
                if foreign:
                    self.wrong["rows of another tenant"] += len(foreign)
                self.missed += not answer

    def _looked(self, tag: str, rows: Any) -> Iterator[tuple[str, int]]:
        for kind, text in rows:
            if kind == "open":
                if text:
                    self.stuck["transactions that were still open"] += 1
            elif text in _TAGS and text != tag:
                yield kind, 1

    async def sweep(self, workers: int) -> None:
        """
        Clear away what was planted, on as many connections as there are.
        """

        async def clear(tag: str) -> None:
            # It holds on to the connection for a while, so that others get another.
            script = Script(statements=(_LOOK, "SELECT pg_sleep(0.02)", *_CLEARS))
            with self.bind(self.names[tag]):
                try:
                    rows = await self.pool.play(script)
                except Exception as error:  # noqa: BLE001 -- as in a turn
                    self._note(error)
                    return
            self.found.update(dict(self._looked(tag, rows[0])))

        for tag in (*_TAGS, *_TAGS):
            await asyncio.gather(*(clear(tag) for _ in range(workers)))

    def results(self) -> tuple[AttackResult, ...]:
        """
        What came of it, attack by attack.
        """
        unproved = ""
        if not self.handed_over:
            unproved = "no connection went from one tenant to the other: use a smaller pool"
        return (
            AttackResult(attack=pool_rows, outcomes=tuple(self._rows(unproved))),
            AttackResult(attack=pool_residue, outcomes=tuple(self._residue(unproved))),
            AttackResult(attack=pool_stuck, outcomes=tuple(self._stuck())),
        )

    def _rows(self, unproved: str) -> Iterator[Outcome]:
        told = f"{self.played} transactions, {self.handed_over} changes of hands"
        for what in ("rows of another tenant", "rows where nobody was bound"):
            if self.wrong[what]:
                yield leaked(what, self.wrong[what], told)
            elif unproved:
                yield inconclusive(what, unproved)
            else:
                yield refused(what, told)
        if self.missed:
            yield inconclusive("own rows", f"{self.missed} times a tenant saw none of its own")

    def _residue(self, unproved: str) -> Iterator[Outcome]:
        for kind in _PLANTS:
            if self.found[kind]:
                yield leaked(kind, self.found[kind], "found by the other tenant")
            elif unproved:
                yield inconclusive(kind, unproved)
            else:
                times = self.planted[kind]
                yield refused(kind, f"left {times} times" if times else "it may not be made")

    def _stuck(self) -> Iterator[Outcome]:
        for what, count in self.stuck.items():
            yield leaked(what, 0, f"{count}") if count else refused(what)
        for message, count in self.failed.items():
            yield inconclusive("unexpected errors", f"{count} times {message}")


def _filled(statement: str, tag: str) -> str:
    return statement.format(tag=tag, number=_TAGS[tag])


def _not_bound(tenant: str, told: str) -> ConfigurationError:
    return ConfigurationError(f"bound to {tenant!r}, {told}", code="attack_not_bound")
