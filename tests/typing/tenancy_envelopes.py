"""
Envelopes, leases and pinned sessions as a service author writes them; checked, never run.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import assert_type

from sqlalchemy import Engine, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker

from twh_platform.tenancy import (
    ENVELOPE_HEADER,
    Agreement,
    EnvelopeResolver,
    HeaderResolver,
    MemoryTenantDirectory,
    Tenant,
    TenantEnvelope,
    TenantEnvelopes,
    TenantMiddleware,
    TenantResolver,
    bind_tenant,
    renew_lease,
)
from twh_platform.tenancy.postgres.sqlalchemy import TenantSession

ACME = Tenant(id="acme")
DIRECTORY = MemoryTenantDirectory([ACME])

envelopes = TenantEnvelopes("a secret of thirty-two bytes, or more")
rotating = TenantEnvelopes([b"n" * 32, "o" * 32], leeway=1, clock=lambda: datetime.now(UTC))
source: TenantResolver = EnvelopeResolver(envelopes, audience="stock")
both: TenantResolver = Agreement(source, HeaderResolver())
assert_type(ENVELOPE_HEADER, str)


def seal() -> str:
    """
    Seal for a job.
    """
    with bind_tenant(ACME, lease=60):
        return envelopes.seal(audience="jobs", lifetime=0.5, user_id="user-1")


def job(token: str) -> None:
    """
    Open it without an event loop.
    """
    with envelopes.open(token, audience="jobs") as envelope:
        assert_type(envelope, TenantEnvelope)
        assert_type(envelope.expires_at, datetime)
    with envelopes.open(token, audience="jobs", look_up={"acme": ACME}.get) as envelope:
        assert_type(envelope.user_id, str | None)


async def long_job(token: str) -> None:
    """
    Open it while the tenant is served.
    """
    opening = envelopes.open_served(token, audience="jobs", directory=DIRECTORY, lease=60)
    async with opening as envelope:
        assert_type(envelope, TenantEnvelope)
        assert_type(await renew_lease(DIRECTORY), Tenant)


def middleware(app: TenantMiddleware) -> TenantMiddleware:
    """
    With a lease, or without.
    """
    inner = TenantMiddleware(app, resolver=both, directory=DIRECTORY, lease=60)
    return TenantMiddleware(inner, resolver=both, directory=DIRECTORY, lease=None)


def sessions(engine: Engine, async_engine: AsyncEngine) -> None:
    """
    A pinned session is a session.
    """
    with sessionmaker(engine, class_=TenantSession)() as session:
        assert_type(session, TenantSession)
        plain: Session = session
        plain.execute(text("SELECT 1"))
    made = async_sessionmaker(async_engine, sync_session_class=TenantSession)
    assert_type(made, async_sessionmaker[AsyncSession])


def scalars(session: TenantSession) -> list[str]:
    """
    Its methods have the types that they had.
    """
    return list(session.scalars(select(text("'a'"))))
