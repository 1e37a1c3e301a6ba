"""
A session of the ORM belongs to one tenant, what it answers from memory included.

Each case is tried on a plain session first, which shows what would leak.
"""

from __future__ import annotations

import pickle
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, create_engine, func, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    mapped_column,
    relationship,
    scoped_session,
    sessionmaker,
)

from tests.support.tenancy import heard
from twh_platform.errors import TenantMismatchError, TenantSuspendedError
from twh_platform.tenancy import Tenant, TenantViolation, bind_tenant, unbind_tenant
from twh_platform.tenancy.postgres import TenantTable, tenant_sql
from twh_platform.tenancy.postgres.sqlalchemy import TenantSession, bind_engine
from twh_platform.testing import ManualClock, PostgresDatabase

A, B = Tenant(id="a"), Tenant(id="b")
APP, OWNER = "twh_test_app", "twh_test_owner"

PARTS = """
CREATE TABLE parts (tenant_id text, id int, thing_id int, PRIMARY KEY (tenant_id, id));
"""


class Base(DeclarativeBase):
    """
    The declarative base.
    """


class Thing(Base):
    """
    A row of a tenant that the model knows by its number only, as many do.
    """

    __tablename__ = "things"

    tenant_id: Mapped[str] = mapped_column(server_default=func.twh.current_tenant())
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    parts: Mapped[list[Part]] = relationship(
        back_populates="thing", primaryjoin="Thing.id == foreign(Part.thing_id)"
    )


class Part(Base):
    """
    A row that refers to one of them.
    """

    __tablename__ = "parts"

    tenant_id: Mapped[str] = mapped_column(server_default=func.twh.current_tenant())
    id: Mapped[int] = mapped_column(primary_key=True)
    thing_id: Mapped[int]
    thing: Mapped[Thing] = relationship(
        back_populates="parts", primaryjoin="Thing.id == foreign(Part.thing_id)"
    )


class Unit(Base):
    """
    A row that belongs to all.
    """

    __tablename__ = "units"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


@pytest.fixture(scope="module")
def parts(database: PostgresDatabase) -> None:
    """
    A second table, whose rows refer to the first.
    """
    database.execute(PARTS + tenant_sql([TenantTable(name="parts")], role=APP), user=OWNER)


@pytest.fixture
def rows(parts: None, admin: psycopg.Connection) -> Iterator[None]:
    """
    Part 1 of thing 1, for two tenants.
    """
    admin.execute("INSERT INTO parts VALUES ('a', 1, 1), ('b', 1, 1)")
    yield
    admin.execute("TRUNCATE parts")


def url(dsn: str, driver: str) -> str:
    """
    The DSN for a driver.
    """
    return dsn.replace("postgresql://", f"postgresql+{driver}://", 1)


@pytest.fixture
def engine(dsn: str, rows: None) -> Iterator[Engine]:
    """
    A sync engine.
    """
    engine = bind_engine(create_engine(url(dsn, "psycopg"), pool_size=2, max_overflow=0))
    yield engine
    engine.dispose()


@pytest.fixture(params=["psycopg", "asyncpg"])
async def async_engine(
    request: pytest.FixtureRequest, dsn: str, rows: None
) -> AsyncIterator[AsyncEngine]:
    """
    An async engine.
    """
    engine = create_async_engine(url(dsn, request.param), pool_size=2, max_overflow=0)
    yield bind_engine(engine)
    await engine.dispose()


def opened(kind: type[Session], engine: Engine) -> Session:
    """
    A session between two transactions, which has loaded and committed as tenant a.
    """
    session = kind(engine, expire_on_commit=False)
    with bind_tenant(A):
        # Held by the session too: its identity map alone would let go of them.
        session.info["held"] = [session.get_one(Thing, 1), session.get_one(Part, 1)]
        session.commit()
    return session


def code_of(use: Callable[[], Any]) -> str | None:
    """
    Why a use is refused, or None.
    """
    try:
        use()
    except TenantMismatchError as error:
        return error.code
    return None


# Each of them is answered from memory: the database is not asked.
FROM_MEMORY: dict[str, Callable[[Session], Any]] = {
    "get": lambda session: session.get_one(Thing, 1).name,
    "query.get": lambda session: session.query(Thing).get(1).name,
    "lazy load": lambda session: session.info["held"][1].thing.name,
    "merge": lambda session: session.merge(Thing(id=1)).name,
    "iteration": lambda session: next(one.name for one in session if isinstance(one, Thing)),
}


@pytest.mark.parametrize("name", FROM_MEMORY)
@pytest.mark.filterwarnings("ignore:The Query.get:DeprecationWarning")
def test_what_memory_would_answer_is_refused(engine: Engine, name: str) -> None:
    """
    Control: a plain session gives one tenant what another has loaded.
    """
    answers = []
    for kind in (Session, TenantSession):
        with opened(kind, engine) as session, bind_tenant(B):
            try:
                answers.append(FROM_MEMORY[name](session))
            except TenantMismatchError as error:
                answers.append(error.code)

    assert answers == ["a1", "session_of_another_tenant"]


USES: dict[str, Callable[[Session], Any]] = {
    "execute": lambda session: session.execute(select(1)),
    "scalar": lambda session: session.scalar(select(1)),
    "scalars": lambda session: session.scalars(select(Thing)),
    "query": lambda session: session.query(Thing).all(),
    "connection": lambda session: session.connection(),
    "get": lambda session: session.get(Thing, 99),
    "add": lambda session: session.add(Thing(id=7, name="new")),
    "add_all": lambda session: session.add_all([Thing(id=7, name="new")]),
    "merge": lambda session: session.merge(Thing(id=7, name="new")),
    "refresh": lambda session: session.refresh(session.info["held"][0]),
    "delete": lambda session: session.delete(session.info["held"][0]),
    "flush": lambda session: session.flush(),
    "commit": lambda session: session.commit(),
    "begin": lambda session: session.begin(),
    "begin_nested": lambda session: session.begin_nested(),
    "bulk": lambda session: session.bulk_save_objects([Thing(id=7, name="new")]),
    "lazy collection": lambda session: session.info["held"][0].parts,
}


@pytest.mark.parametrize("name", USES)
@pytest.mark.parametrize("other", [bind_tenant(B), unbind_tenant()], ids=["tenant", "nobody"])
def test_every_use_of_a_pinned_session_is_refused(
    engine: Engine, name: str, other: bind_tenant
) -> None:
    """
    By another tenant and by nobody; to the one it is pinned to it is as before.
    """
    with opened(TenantSession, engine) as session:
        with other:
            assert code_of(lambda: USES[name](session)) == "session_of_another_tenant"
        with bind_tenant(A):
            assert code_of(lambda: USES[name](session)) is None
            session.rollback()


def test_an_expired_attribute_is_not_loaded_for_another(engine: Engine) -> None:
    """
    Control: for a plain session the database refuses, or gives the other tenant's row.
    """
    seen = []
    for kind in (Session, TenantSession):
        with kind(engine) as session:
            with bind_tenant(A):
                thing = session.get_one(Thing, 1)
                session.commit()
            with bind_tenant(B):
                seen.append(code_of(lambda thing=thing: thing.name) or thing.name)

    assert seen == ["b1", "session_of_another_tenant"]


def test_a_transaction_block_does_not_commit_for_another(engine: Engine) -> None:
    """
    The block commits the transaction without a word to the session.
    """
    session = TenantSession(engine)
    with bind_tenant(A):
        block = session.begin()
        session.add(Thing(id=7, name="new"))
    with bind_tenant(B), pytest.raises(TenantMismatchError):
        block.__exit__(None, None, None)
    session.close()

    with bind_tenant(A), Session(engine) as plain:
        assert plain.get(Thing, 7) is None


@pytest.mark.parametrize("free", ["close", "reset", "expunge_all"])
def test_a_session_without_objects_is_free_again(engine: Engine, free: str) -> None:
    """
    Its next user is the next tenant.
    """
    session = opened(TenantSession, engine)
    with bind_tenant(B):
        assert code_of(lambda: session.get(Thing, 1)) == "session_of_another_tenant"
        getattr(session, free)()
        assert session.get_one(Thing, 1).name == "b1"
    session.close()


def test_rolling_back_is_for_anyone_and_frees_nothing(engine: Engine) -> None:
    """
    Who tidies up need not be who used it.
    """
    session = TenantSession(engine)
    with bind_tenant(A):
        held = session.get_one(Thing, 1)
    with bind_tenant(B):
        session.rollback()
        assert code_of(lambda: held.name) == "session_of_another_tenant"
    session.close()


def test_a_session_that_nobody_removed_is_found_out(engine: Engine) -> None:
    """
    A scoped session lives as long as its thread, not as its request.
    """
    outcomes = []
    for kind in (Session, TenantSession):
        sessions = scoped_session(sessionmaker(engine, class_=kind, expire_on_commit=False))
        with bind_tenant(A):
            held = sessions.get_one(Thing, 1)
            sessions.commit()
        with bind_tenant(B):
            code = code_of(lambda sessions=sessions: sessions.get(Thing, 1))
            outcomes.append(code or sessions.get(Thing, 1) is held)
        sessions.remove()

    assert outcomes == [True, "session_of_another_tenant"]


def test_an_object_is_not_carried_into_another_tenant(engine: Engine) -> None:
    """
    Control: a plain session writes the first tenant's data into the second's row.
    """
    outcomes = []
    for kind in (Session, TenantSession):
        session = opened(kind, engine)
        with bind_tenant(A):
            cached = session.get_one(Thing, 1)
        session.close()
        with bind_tenant(B), kind(engine) as other:
            cached.tenant_id = "b"
            outcomes.append(code_of(lambda cached=cached, other=other: other.merge(cached)))
            outcomes.append(other.get_one(Thing, 1).name)

    assert outcomes == [None, "a1", "object_of_another_tenant", "b1"]


WAYS_IN: dict[str, Callable[[Session, Thing], Any]] = {
    "add": lambda session, thing: session.add(thing),
    "merge": lambda session, thing: session.merge(thing),
    "pickled": lambda session, thing: session.merge(pickle.loads(pickle.dumps(thing)), load=False),
    "behind another": lambda session, thing: session.add(Part(id=7, thing=thing)),
    "merged behind another": lambda session, thing: session.merge(Part(id=7, thing=thing)),
}


@pytest.mark.parametrize("name", WAYS_IN)
@pytest.mark.parametrize("how", ["stored", "loaded"])
def test_no_way_in_for_an_object_of_another(engine: Engine, name: str, how: str) -> None:
    """
    Loaded or stored, added or merged, by itself or behind another; its own tenant may.
    """
    sessions = sessionmaker(engine, class_=TenantSession, expire_on_commit=False)
    with bind_tenant(A), sessions() as session:
        thing = Thing(id=7, name="new") if how == "stored" else session.get_one(Thing, 1)
        session.add(thing)
        session.flush()
        session.refresh(thing)
        session.expunge(thing)
    with bind_tenant(B), sessions() as other, other.no_autoflush:
        assert code_of(lambda: WAYS_IN[name](other, thing)) == "object_of_another_tenant"
    with bind_tenant(A), sessions() as own, own.no_autoflush:
        assert code_of(lambda: WAYS_IN[name](own, thing)) is None


def test_what_was_loaded_for_nobody_may_go_anywhere(engine: Engine, admin: Any) -> None:
    """
    It holds no tenant's rows; the way back is closed.
    """
    sessions = sessionmaker(engine, class_=TenantSession, expire_on_commit=False)
    admin.execute("CREATE TABLE IF NOT EXISTS units (id int PRIMARY KEY, name text)")
    admin.execute(f"GRANT SELECT ON units TO {APP}; INSERT INTO units VALUES (1, 'kg')")
    with sessions() as session:
        shared = session.get_one(Unit, 1)
    with bind_tenant(A), sessions() as session:
        assert session.merge(shared, load=False).name == "kg"
        held = session.get_one(Thing, 1)
    with sessions() as session:
        assert code_of(lambda: session.merge(held)) == "object_of_another_tenant"


def test_a_refusal_is_announced(engine: Engine) -> None:
    """
    Telemetry and audit hear of it.
    """
    session = opened(TenantSession, engine)
    with session, heard(TenantViolation) as violations, bind_tenant(B):
        code_of(lambda: session.get(Thing, 1))

    assert [(one.code, one.tenant_id) for one in violations] == [("session_of_another_tenant", "b")]


def test_a_lease_that_is_over_ends_the_session(engine: Engine) -> None:
    """
    Also what memory would answer; tidying up is still possible.
    """
    clock = ManualClock()
    with bind_tenant(A, lease=60, clock=clock.monotonic), TenantSession(engine) as session:
        held = session.get_one(Thing, 1)
        clock.advance(60)
        for use in (lambda: session.get(Thing, 1), session.commit, lambda: held.parts):
            with pytest.raises(TenantSuspendedError):
                use()
        session.rollback()


async def test_async_sessions(async_engine: AsyncEngine) -> None:
    """
    The same for an `AsyncSession`, whose work is done by a sync one.
    """
    seen = []
    for kind in (Session, TenantSession):
        async with AsyncSession(
            async_engine, sync_session_class=kind, expire_on_commit=False
        ) as session:
            with bind_tenant(A):
                async with session.begin():
                    held = await session.get_one(Thing, 1)
                    await session.refresh(held)
            with bind_tenant(B):
                try:
                    seen.append(await session.get_one(Thing, 1) is held)
                except TenantMismatchError as error:
                    seen.append(error.code)

    assert seen == [True, "session_of_another_tenant"]
