"""
The tenants of the demo: one per tier, one suspended, one whose sandbox has expired.
"""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import select

from twh_platform import Tenant, bind_tenant
from twh_platform.tenancy import TenantKind, TenantStatus

from . import ledger
from .auth import Role
from .models import Item, Location, TenantRecord, Tier, User
from .provisioning import NewUser, provision
from .services import Services

__all__ = ["EXPIRED", "MAIN", "SUSPENDED", "email", "seed"]

MAIN = {"acme": Tier.GROWTH, "globex": Tier.STARTUP}
"""The two tenants of the tour, and their tiers: a day's work is more than FREE has room for."""

_OTHERS = {
    "initech": Tier.DEVELOPER,
    "umbrella": Tier.FREE,
    "hooli": Tier.SCALE,
    "wonka": Tier.ENTERPRISE,
}

SUSPENDED = "dormant"
EXPIRED = "lapsed"

_ITEMS = (("BOLT-M6", "Bolt M6", 12, 200), ("NUT-M6", "Nut M6", 8, 200), ("SAW", "Saw", 1890, 5))
_LOCATIONS = (("MAIN", "Main hall"), ("DOCK", "Loading dock"))


def email(role: str, tenant: str) -> str:
    """
    The address of the user who has this role in this tenant.
    """
    return f"{role}@{tenant}.example"


async def seed(services: Services, *, password: str) -> None:
    """
    Fill an empty database.

    Args:
        services: What it stands on.

        password: The password of every user of the demo.
    """
    for tenant, tier in MAIN.items():
        users = [_user(role, tenant, password) for role in Role]
        await provision(services, TenantRecord(id=tenant, tier=tier), users)
        with bind_tenant(Tenant(id=tenant, tier=tier)):
            await _stock(services)
    for tenant, tier in _OTHERS.items():
        record = TenantRecord(id=tenant, tier=tier)
        await provision(services, record, [_user(Role.ADMIN, tenant, password)])
    suspended = TenantRecord(id=SUSPENDED, tier=Tier.FREE)
    users = [_user(Role.ADMIN, SUSPENDED, password)]
    await provision(services, suspended, users, status=TenantStatus.SUSPENDED)
    yesterday = services.settings.now() - timedelta(days=1)
    expired = TenantRecord(
        id=EXPIRED, tier=Tier.FREE, kind=TenantKind.SANDBOX, expires_at=yesterday
    )
    await provision(services, expired, [_user(Role.ADMIN, EXPIRED, password)])


def _user(role: Role, tenant: str, password: str) -> NewUser:
    address = email(role, tenant)
    return NewUser(email=address, name=role.title(), password=password, role=role)


async def _stock(services: Services) -> None:
    async with services.app.begin() as db:
        costs = {"items": len(_ITEMS), "locations": len(_LOCATIONS)}
        await services.quotas.capacity.take_all(db, costs)
        items = [
            Item(sku=sku, name=name, unit_price_minor=price, reorder_point=point)
            for sku, name, price, point in _ITEMS
        ]
        places = [Location(code=code, name=name) for code, name in _LOCATIONS]
        db.add_all([*items, *places])
        await db.flush()
        actor_id = (await db.scalars(select(User.id).limit(1))).one()
        movements = ledger.movements(
            "adjustment",
            [(item.id, 100) for item in items],
            location_id=places[0].id,
            reference="opening stock",
        )
        await ledger.record(db, actor_id, movements)
