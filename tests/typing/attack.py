"""
Attacks as a user writes them; checked, never run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import create_engine

from twh_platform.tenancy.postgres import Seal
from twh_platform.tenancy.postgres.attack import (
    ATTACKS,
    Attack,
    AttackReport,
    AttackResult,
    Bind,
    attack,
    attack_pool,
)


def stolen(dsn: str, seal: Seal) -> list[str]:
    """Attack a database, and list what leaked."""
    report: AttackReport = attack(
        dsn, tenant="acme", other="globex", seal=seal, ignore=["truncate"]
    )
    report.ensure_safe(allow_inconclusive=True)
    results: tuple[AttackResult, ...] = report.leaked
    return [f"{one.attack.id} {outcome.name}" for one in results for outcome in one.at("leaked")]


@contextmanager
def bind(tenant: str | None) -> Iterator[None]:
    """Make a tenant current."""
    yield


async def pool(url: str) -> str:
    """Attack a pool."""
    own: Bind = bind
    report = await attack_pool(
        create_engine(url), tenant="acme", other="globex", probe="SELECT 1", bind=own
    )
    return report.json()


def known() -> dict[str, Attack]:
    """List the attacks."""
    return {one.id: one for one in ATTACKS}
