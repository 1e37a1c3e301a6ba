"""
A blind index is rotated on PostgreSQL while two processes read and write.

Both have SQLAlchemy's models, data keys in the same database, and one clock.
"""

from __future__ import annotations

import pytest

pytest.importorskip("cryptography")

from sqlalchemy import Integer, NullPool, Text, column, create_engine, select, table
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from tests.integration.kms._house import ACME, OTHER
from tests.support.postgres_keys import APP, OWNER
from twh_platform import bind_tenant, require_tenant
from twh_platform.errors import ConfigurationError
from twh_platform.kms import AsyncBlindIndex, BlindIndex, Keyset, LocalKeyService, TenantCipher
from twh_platform.kms.postgres.sqlalchemy import BlindIndexed, Sealed, index_with
from twh_platform.tenancy.postgres import TenantTable, tenant_sql
from twh_platform.tenancy.postgres.sqlalchemy import bind_engine
from twh_platform.testing import ManualClock

EMAIL = "ada@example.com"
# How long processes may not know of a new key: `stale_if_error`, and a minute.
WINDOW = 960
NOW: dict[str, BlindIndex] = {}


class Base(DeclarativeBase):
    """The models."""


class Client(Base):
    """Somebody who is found by an address."""

    __tablename__ = "clients"
    tenant_id: Mapped[str] = mapped_column(Text, primary_key=True)
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(Sealed(lambda: NOW["process"].cipher, of=str))
    email_index: Mapped[bytes] = mapped_column(BlindIndexed(lambda: NOW["process"]))


index_with(Client.email, Client.email_index)

TABLE = """
DROP TABLE IF EXISTS clients;
CREATE TABLE clients (
    tenant_id text, id int, email bytea NOT NULL, email_index bytea NOT NULL,
    PRIMARY KEY (tenant_id, id)
);
"""


class Process(BlindIndex):
    """The index as a process has it, with a cipher of its own."""

    def __init__(self, cipher: TenantCipher) -> None:
        super().__init__(cipher, "clients.email")
        self.cipher = cipher


class Hasty:
    """An index without a window: it knows the newest key and no other."""

    def value(self, text: str) -> bytes:
        """By the newest key."""
        return self.candidates(text)[0]

    def candidates(self, text: str) -> tuple[bytes, ...]:
        """By the newest key."""
        return NOW["process"].candidates(text)[:1]


HASTY = table("clients", column("id", Integer), column("email_index", BlindIndexed(Hasty())))


@pytest.fixture
def clock():
    """The time of day of all processes."""
    return ManualClock()


@pytest.fixture
def processes(house, clock):
    """Two processes, which tell each other nothing."""
    sql = TABLE + tenant_sql([TenantTable(name="clients")], role=APP)
    house.database.execute(sql, user=OWNER)
    service, times = LocalKeyService(Keyset.new()), {"clock": clock.monotonic, "now": clock.utc}
    stores = [house.store(now=clock.utc) for _ in range(2)]
    ciphers = [TenantCipher(service, store, **times) for store in stores]
    yield [Process(cipher) for cipher in ciphers]
    for cipher in ciphers:
        cipher.close()


@pytest.fixture
def engine(house, processes):
    """An engine of the application's role."""
    dsn = house.dsn().replace("postgresql:", "postgresql+psycopg:")
    return bind_engine(create_engine(dsn, poolclass=NullPool), seal=house.seal)


@pytest.fixture
def rows(engine):
    """What is done with the table, by one of the processes."""
    return Rows(engine)


class Rows:
    """The table of clients, for the tenant that is bound."""

    def __init__(self, engine) -> None:
        self.engine = engine

    def add(self, process: Process, number: int) -> None:
        """Write one more row with the same address."""
        NOW["process"] = process
        with Session(self.engine) as session:
            session.add(Client(tenant_id=require_tenant().id, id=number, email=EMAIL))
            session.commit()

    def found(self, process: Process, model=Client) -> list[int]:
        """The rows that a search finds."""
        NOW["process"] = process
        by = model.c if model is HASTY else model
        with Session(self.engine) as session:
            return sorted(session.scalars(select(by.id).where(by.email_index == EMAIL.upper())))

    def index_anew(self, process: Process) -> None:
        """Write the values of all rows by the newest key: what an operator's job does."""
        NOW["process"] = process
        with Session(self.engine) as session:
            for client in session.scalars(select(Client)):
                client.email_index = client.email
            session.commit()


def test_rows_of_before_and_after_are_found_all_the_time(acme, rows, processes, clock):
    """By the process that began and by one that has not heard; after the end as well."""
    one, other = processes
    rows.add(other, 1)
    settled = one.begin_rotation()
    for number in (2, 4):
        rows.add(one, number)
        rows.add(other, number + 1)
        assert rows.found(one) == rows.found(other) == list(range(1, number + 2))
        clock.advance(WINDOW / 2)
    assert clock.utc() >= settled
    rows.add(one, 6)
    assert len(one.candidates(EMAIL)) == 2
    assert rows.found(one) == rows.found(other) == [1, 2, 3, 4, 5, 6]
    rows.index_anew(one)

    assert one.end_rotation() == 1
    assert len(one.candidates(EMAIL)) == 1
    assert rows.found(one) == [1, 2, 3, 4, 5, 6]
    clock.advance(WINDOW)
    assert rows.found(other) == [1, 2, 3, 4, 5, 6]


def test_an_index_without_a_window_misses_the_rows_of_before(acme, rows, processes, clock):
    """Control: who seeks by the newest key alone finds only what it wrote."""
    one, _ = processes
    rows.add(one, 1)
    assert rows.found(one, HASTY) == [1]
    one.begin_rotation()
    clock.advance(WINDOW)
    rows.add(one, 2)

    assert rows.found(one, HASTY) == [2]
    assert rows.found(one) == [1, 2]


def test_rows_that_were_not_indexed_anew_are_lost_with_the_old_key(acme, rows, processes, clock):
    """Control: the end destroys the key, which is why re-indexing comes before it."""
    one, _ = processes
    rows.add(one, 1)
    one.begin_rotation()
    clock.advance(WINDOW)
    rows.add(one, 2)
    one.end_rotation()

    assert rows.found(one) == [2]
    rows.index_anew(one)
    assert rows.found(one) == [1, 2]


def test_a_rotation_is_one_tenants(acme, rows, processes, house, clock):
    """The other tenant keeps its key and its one value, and its rows are found."""
    one, other = processes
    with bind_tenant(OTHER):
        rows.add(one, 1)
        before = one.candidates(EMAIL)
    rows.add(one, 1)
    one.begin_rotation()
    clock.advance(WINDOW)
    rows.index_anew(one)
    one.end_rotation()

    with bind_tenant(OTHER):
        assert other.candidates(EMAIL) == before
        assert rows.found(other) == [1]
    dead = "SELECT string_agg(tenant_id, ',') FROM twh.data_keys WHERE state = 'destroyed'"
    assert house.look(dead) == ACME.id


async def test_the_twin_rotates_on_the_same_rows(acme, rows, processes, clock):
    """What the twin began the blocking one knows, and too early neither ends it."""
    one, other = processes
    rows.add(one, 1)
    settled = await AsyncBlindIndex(one).begin_rotation()

    assert other.begin_rotation() == settled
    with pytest.raises(ConfigurationError) as refused:
        await AsyncBlindIndex(other).end_rotation()
    assert refused.value.code == "rotation_not_settled"
    clock.advance(WINDOW)
    rows.index_anew(one)
    assert await AsyncBlindIndex(one).end_rotation() == 1
    assert rows.found(one) == [1]
