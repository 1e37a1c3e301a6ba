"""
Gate G5: keys change under load, no transaction is refused, and no old token is believed after.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.integration.tenancy._sealed import ASK, answer, fresh_key, sealed_database, soon
from tests.integration.tenancy._storm import STACKS
from tests.integration.tenancy.conftest import APP, OWNER
from twh_platform.errors import ConfigurationError
from twh_platform.tenancy import Tenant, bind_tenant
from twh_platform.tenancy.postgres import (
    INVALID_SEAL_SQLSTATE,
    Seal,
    SealKey,
    write_seal_key,
)
from twh_platform.tenancy.postgres.seal import (
    add_seal_key,
    retire_seal_keys,
    seal_key_statuses,
    withdraw_seal_key,
)
from twh_platform.testing import ManualClock, PostgresDatabase, PostgresServer

TENANTS = [Tenant(id=name) for name in "abc"]
WORKERS, ROTATIONS, EACH = 8, 3, 12
READ = "SELECT DISTINCT tenant_id, left(current_setting('twh.tenant_id'), 5) FROM things"


@pytest.fixture(scope="module")
def database(server: PostgresServer) -> Iterator[PostgresDatabase]:
    """
    A sealed database of this module.
    """
    with sealed_database(server) as database:
        yield database


@pytest.fixture
def key(database: PostgresDatabase) -> SealKey:
    """
    The only key that the database believes.
    """
    return fresh_key(database)


@pytest.fixture
def owner(database: PostgresDatabase, key: SealKey) -> Iterator[psycopg.Connection]:
    """
    The login that manages the keys, each statement for itself.
    """
    with psycopg.connect(database.dsn(user=OWNER), autocommit=True) as connection:
        yield connection


@pytest.fixture
def app(database: PostgresDatabase, key: SealKey) -> Iterator[psycopg.Connection]:
    """
    The application's login on a plain connection.
    """
    with psycopg.connect(database.dsn(user=APP)) as connection:
        yield connection


@dataclass(slots=True)
class Load:
    """
    Workers that have transactions without a pause.

    Attributes:
        done: Transactions by the key they were sealed with.

        turns: Transactions of each worker.

        refused: What was said to those that failed.

        wrong: Rows of another tenant.
    """

    done: Counter[str] = field(default_factory=Counter)
    turns: list[int] = field(default_factory=lambda: [0] * WORKERS)
    refused: list[str] = field(default_factory=list)
    wrong: int = 0
    over: bool = False

    async def work(self, number: int, checkout: Any) -> None:
        """
        Have transactions until it is over, each of them with two statements.
        """
        while not self.over:
            tenant = TENANTS[(number + self.turns[number]) % len(TENANTS)]
            try:
                with bind_tenant(tenant):
                    async with checkout() as session:
                        for _ in range(2):
                            ((name, used),) = await session.fetch(READ)
                            self.wrong += name != tenant.id
                            await asyncio.sleep(0)
                        await session.commit()
                self.done[used] += 1
            except Exception as error:  # noqa: BLE001 -- all are reported
                self.refused.append(repr(error))
            self.turns[number] += 1

    async def more(self, turns: int) -> None:
        """
        Wait until each worker has begun and ended so many more.
        """
        goal = [turn + turns for turn in self.turns]
        # Asked for again and again: an event for each of eight would say no more.
        async with asyncio.timeout(60):
            while any(map(int.__lt__, self.turns, goal)):  # noqa: ASYNC110 -- as said
                await asyncio.sleep(0.005)


@pytest.mark.parametrize("name", STACKS)
async def test_rotation_under_load(  # noqa: PLR0917 -- fixtures
    name: str,
    database: PostgresDatabase,
    owner: psycopg.Connection,
    key: SealKey,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """
    Add, write, withdraw: nobody is refused, and each old key is useless at once.
    """
    path, clock, load, old = tmp_path / "seal.key", ManualClock(time.time()), Load(), [key]
    write_seal_key(path, key)
    seal = Seal.from_file(path, clock=clock)
    accepted_before, accepted_after = 0, 0
    async with (
        STACKS[name](database.dsn(user=APP), seal=seal) as checkout,
        asyncio.TaskGroup() as g,
    ):
        for number in range(WORKERS):
            g.create_task(load.work(number, checkout))
        for _ in range(ROTATIONS):
            await load.more(EACH)
            new = await asyncio.to_thread(add_seal_key, owner)
            write_seal_key(path, new)
            clock.advance(1.1)  # the file is looked at once a second
            await load.more(EACH)  # whoever has begun with the old key ends
            accepted_before += await asyncio.to_thread(believed, database, old[-1])
            await asyncio.to_thread(withdraw_seal_key, owner, old[-1].id)
            accepted_after += await asyncio.to_thread(believed, database, old[-1])
            old.append(new)
        await load.more(EACH)
        load.over = True
    with capsys.disabled():
        print(f"\nG5 {name}: {load.done}, {len(load.refused)} refused")  # noqa: T201 -- figures

    assert (load.refused, load.wrong) == ([], 0)
    assert set(load.done) == {f"1{one.id}" for one in old}
    assert (accepted_before, accepted_after) == (ROTATIONS, 0)
    assert sum(believed(database, one) for one in old[:-1]) == 0


def believed(database: PostgresDatabase, key: SealKey) -> bool:
    """
    Tell whether a new transaction is believed with a token of this key.
    """
    with psycopg.connect(database.dsn(user=APP)) as connection:
        return answer(connection, key.token("a", expires_at=soon(3600))) == [("a",)]


def test_rotation_without_overlap(database: PostgresDatabase, owner: psycopg.Connection) -> None:
    """
    The control: an instance that has not got the new key is refused after the withdrawal.
    """
    late, new = add_seal_key(owner), add_seal_key(owner)
    assert (believed(database, late), believed(database, new)) == (True, True)

    withdraw_seal_key(owner, late.id)
    assert (believed(database, late), believed(database, new)) == (False, True)
    with pytest.raises(ConfigurationError) as caught:
        withdraw_seal_key(owner, late.id)
    assert caught.value.code == "seal_key_unknown"


def test_two_instances_with_two_keys(
    database: PostgresDatabase, owner: psycopg.Connection, key: SealKey
) -> None:
    """
    During the overlap each instance seals with its own key; afterwards one is refused.
    """
    new = add_seal_key(owner)
    ended = retire_seal_keys(owner, keep=new.id, overlap=3600)
    assert ended == (key.id,)
    assert [believed(database, one) for one in (key, new, key)] == [True, True, True]
    ends = {one.id: one.not_after is not None for one in seal_key_statuses(owner)}
    assert ends == {key.id: True, new.id: False}

    assert retire_seal_keys(owner, keep=new.id, overlap=0) == (key.id,)
    assert [believed(database, one) for one in (key, new)] == [False, True]
    assert [one.id for one in seal_key_statuses(owner)] == [new.id]


def test_retired_key_ends_by_itself(
    database: PostgresDatabase, owner: psycopg.Connection, key: SealKey
) -> None:
    """
    When the overlap is over nobody has to do anything; a longer one is no reprieve.
    """
    new = add_seal_key(owner)
    retire_seal_keys(owner, keep=new.id, overlap=0.5)
    assert retire_seal_keys(owner, keep=new.id, overlap=3600) == ()
    assert believed(database, key)

    owner.execute("SELECT pg_sleep(0.6)")
    assert not believed(database, key)


def test_transaction_outlives_its_token(app: psycopg.Connection, key: SealKey) -> None:
    """
    A transaction that began in time goes on; the control, a new one, is refused.
    """
    expires_at = soon(2)
    token = key.token("a", expires_at=expires_at)
    app.execute("SELECT set_config('twh.tenant_id', %s, true)", (token,))
    before = app.execute(ASK).fetchall()
    app.execute(
        "SELECT pg_sleep(extract(epoch FROM to_timestamp(%s) - clock_timestamp()) + 0.1)",
        (expires_at,),
    )
    after = app.execute("SELECT DISTINCT tenant_id FROM things").fetchall()
    app.rollback()

    assert (before, after) == ([("a",)], [("a",)])
    assert answer(app, token) == INVALID_SEAL_SQLSTATE


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_withdrawal_within_a_transaction(
    app: psycopg.Connection, owner: psycopg.Connection, key: SealKey, level: str
) -> None:
    """
    The next statement is refused; where the keys are those of a snapshot, the next transaction.
    """
    token = key.token("a", expires_at=soon())
    app.execute(f"SET TRANSACTION ISOLATION LEVEL {level}")
    app.execute("SELECT set_config('twh.tenant_id', %s, true)", (token,))
    assert app.execute(ASK).fetchall() == [("a",)]
    withdraw_seal_key(owner, key.id)

    if level == "READ COMMITTED":
        with pytest.raises(psycopg.Error) as caught:
            app.execute("SELECT * FROM things")
        assert caught.value.sqlstate == INVALID_SEAL_SQLSTATE
    else:
        assert app.execute("SELECT DISTINCT tenant_id FROM things").fetchall() == [("a",)]
    app.rollback()
    assert answer(app, token) == INVALID_SEAL_SQLSTATE


def test_addition_that_is_rolled_back(database: PostgresDatabase, key: SealKey) -> None:
    """
    A key is believed from the commit on, and never if there is none.
    """
    with psycopg.connect(database.dsn(user=OWNER)) as owner:
        new = add_seal_key(owner)
        assert not believed(database, new)
        owner.rollback()
        gone = new
        new = add_seal_key(owner)
        owner.commit()

    assert (believed(database, gone), believed(database, new)) == (False, True)
    assert new.secret != gone.secret
