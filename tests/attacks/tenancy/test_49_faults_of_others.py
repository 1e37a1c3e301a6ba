"""
Attacks 49 to 52: faults that were measured in other packages.

Each control is a small stand-in of the pattern, made for this test, on which
the fault is seen.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from tests.attacks._shop import APP, MINE, THEIRS, A, B, secrets
from twh_platform.errors import AdministratorError
from twh_platform.tenancy import Tenant, administrator, bind_tenant
from twh_platform.tenancy.postgres import TenantTable, administrator_sql
from twh_platform.tenancy.postgres.sqlalchemy import bind_administrator_engine, bind_engine

DRIVERS = ["psycopg", "asyncpg"]
NAIVE, ORDERS = text("SELECT body FROM naive"), text("SELECT body FROM orders")


@asynccontextmanager
async def pool_of_one(shop, driver: str, *, bound: bool) -> AsyncIterator[AsyncEngine]:
    """An engine whose sessions all come to the same connection."""
    url = shop.database.dsn(user=APP, scheme=f"postgresql+{driver}")
    engine = create_async_engine(url, pool_size=1, max_overflow=0)
    try:
        yield bind_engine(engine) if bound else engine
    finally:
        await engine.dispose()


async def within(engine: AsyncEngine, work: Callable[[Session], Any], kind: Any = Session) -> Any:
    """Give the work a session; what the database refuses counts as nothing."""
    async with AsyncSession(engine, sync_session_class=kind) as session:
        with suppress(DBAPIError):
            return await session.run_sync(work)
    return []


def bind_this_connection(session: Session, tenant: Tenant) -> None:
    """Bind at each BEGIN of the Connection that the session has at the moment."""
    connection = session.connection()
    bind = f"SELECT set_config('app.tenant_id', '{tenant.id}', true)"
    connection.exec_driver_sql(bind)
    event.listen(connection, "begin", lambda it: it.exec_driver_sql(bind))


@pytest.mark.parametrize("form", DRIVERS)
async def test_49_commits_and_goes_on(shop, twh_attack, form):
    """After a commit a session may have another Connection, which nobody listens to."""
    attack = twh_attack(number=49, title="commits in a handler, and then misses rows", form=form)
    shop.plant_naive()

    def handler(session: Session, bind: Callable[..., None], read: Any) -> int:
        bind(session, A)
        before = len(session.scalars(read).all())
        session.commit()
        after = len(session.scalars(read).all())
        session.rollback()
        return before - after + before - len(session.scalars(read).all())

    async with pool_of_one(shop, form, bound=False) as engine:
        attack.control(await within(engine, lambda it: handler(it, bind_this_connection, NAIVE)))
    async with pool_of_one(shop, form, bound=True) as engine:
        with bind_tenant(A):
            assert len(await within(engine, lambda it: it.scalars(ORDERS).all())) == MINE
            missing = await within(engine, lambda it: handler(it, lambda *_: None, ORDERS))
            attack.ours(missing)


@contextmanager
def scope_of_the_session(session: Session, tenant: Tenant) -> Iterator[None]:
    """Bind the session, and take it back in a way that an aborted transaction refuses."""
    session.execute(text(f"SELECT set_config('app.tenant_id', '{tenant.id}', false)"))
    yield
    session.execute(text("SELECT set_config('app.tenant_id', '', false)"))


@pytest.mark.parametrize("form", DRIVERS)
async def test_50_fails_after_a_commit(shop, twh_attack, form):
    """Set for the session and committed, the tenant stays on the pool's connection."""
    attack = twh_attack(number=50, title="reads what a failed scope left bound", form=form)
    shop.plant_naive()

    def fails(session: Session, scope: Any) -> None:
        with scope(session, B):
            session.commit()
            session.execute(text("SELECT 1 / 0"))

    def read(table: Any) -> Callable[[Session], Any]:
        return lambda session: session.scalars(table).all()

    async with pool_of_one(shop, form, bound=False) as engine:
        await within(engine, lambda session: fails(session, scope_of_the_session))
        attack.control(secrets(await within(engine, read(NAIVE))))
    async with pool_of_one(shop, form, bound=True) as engine:
        await within(engine, lambda session: fails(session, lambda _, tenant: bind_tenant(tenant)))
        attack.ours(secrets(await within(engine, read(ORDERS))))
        with bind_tenant(A):
            assert len(await within(engine, read(ORDERS))) == MINE


class BindsInExecute(Session):
    """Binds where sessions are asked to execute, and nowhere else."""

    tenant = ""

    def execute(self, statement: Any, *args: Any, **kwargs: Any) -> Any:
        """Bind, then execute."""
        bind = text(f"SELECT set_config('app.tenant_id', '{self.tenant}', false)")
        super().execute(bind)
        return super().execute(statement, *args, **kwargs)


@pytest.mark.parametrize("form", DRIVERS)
async def test_51_executes_on_the_connection_below(shop, twh_attack, form):
    """What goes past the session's execute() runs as the tenant before."""
    attack = twh_attack(number=51, title="executes on the connection below a session", form=form)
    shop.plant_naive()

    def naive(session: Any, tenant: Tenant, read: Callable[[Any], Any]) -> Any:
        session.tenant = tenant.id
        rows = read(session)
        session.commit()
        return rows

    async with pool_of_one(shop, form, bound=False) as engine:
        as_usual = lambda it: naive(it, B, lambda one: one.execute(NAIVE).all())  # noqa: E731
        below = lambda it: naive(it, A, lambda one: one.connection().execute(NAIVE).all())  # noqa: E731
        await within(engine, as_usual, BindsInExecute)
        attack.control(secrets(await within(engine, below, BindsInExecute)))
    async with pool_of_one(shop, form, bound=True) as engine:
        for tenant, count in ((B, THEIRS - 1), (A, MINE)):
            with bind_tenant(tenant):
                rows = await within(engine, lambda it: it.connection().execute(ORDERS).all())
            assert len(rows) == count
        attack.ours(secrets(rows))


USER = text("SELECT current_user::text")
WHY = {"actor": "ada@example.com", "reason": "ticket 4711"}


@asynccontextmanager
async def administrators(shop, driver: str, *, bound: bool) -> AsyncIterator[AsyncEngine]:
    """An engine of the administrators' own login, which sees all tenants."""
    role = shop.role(f"boss_{bound}".lower(), "BYPASSRLS")
    shop.plant(administrator_sql([TenantTable(name="orders")], role=role), owner=True)
    url = shop.database.dsn(user=role, scheme=f"postgresql+{driver}")
    engine = create_async_engine(url, pool_size=1, max_overflow=0)
    try:
        yield bind_administrator_engine(engine) if bound else engine
    finally:
        await engine.dispose()


@pytest.mark.parametrize("form", DRIVERS)
async def test_52_leaves_its_role_to_the_administrator(shop, twh_attack, form):
    """One pool for tenants and for administrators passes the role of one on to the other."""
    attack = twh_attack(number=52, title="has the administrator work as its own role", form=form)
    tenant_role = shop.role("tenant_b")
    shop.plant(f"GRANT {tenant_role} TO {APP}")

    def take_role(session: Session) -> None:
        session.execute(text(f"SET SESSION ROLE {tenant_role}"))
        session.commit()

    async def user(engine: AsyncEngine) -> str:
        return (await within(engine, lambda session: session.scalars(USER).all()))[0]

    async with pool_of_one(shop, form, bound=False) as engine:
        await within(engine, take_role)
        attack.control([one for one in (await user(engine),) if one == tenant_role])
    async with (
        pool_of_one(shop, form, bound=True) as engine,
        administrators(shop, form, bound=True) as separate,
    ):
        with bind_tenant(B):
            await within(engine, take_role)
        with administrator(**WHY):
            users = [await user(engine), await user(separate)]
            assert len(await within(separate, lambda it: it.scalars(ORDERS).all())) > MINE
        attack.ours(users.count(tenant_role))
        assert users[0] == APP


@pytest.mark.parametrize("form", DRIVERS)
async def test_52_uses_the_administrators_engine(shop, twh_attack, form):
    """A handler that has got hold of it works across tenants; ours asks for a reason."""
    attack = twh_attack(number=52, title="works on the engine of the administrators", form=form)

    async def stolen(engine: AsyncEngine) -> int:
        with bind_tenant(A), suppress(AdministratorError):
            return secrets(await within(engine, lambda session: session.scalars(ORDERS).all()))
        return 0

    async with administrators(shop, form, bound=False) as engine:
        attack.control(await stolen(engine))
    async with administrators(shop, form, bound=True) as engine:
        attack.ours(await stolen(engine))
        with administrator(**WHY):
            assert await within(engine, lambda session: session.scalars(USER).all())
        attack.ours(await stolen(engine))
