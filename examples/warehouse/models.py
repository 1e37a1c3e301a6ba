"""
The tables.

Every row belongs to a tenant.  Primary, unique and foreign keys are led by
`tenant_id`, so no row can point at a row of another tenant, and nothing about
another tenant shows in a conflict.  The application never writes `tenant_id`:
its default is the tenant that the transaction is bound to.

Prices are `bigint` in minor units of the tenant's currency, and kinds are text
with a CHECK: indexes on `numeric` and on enum columns are useless behind a
policy, because their operators are not leakproof.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    ForeignKeyConstraint,
    Index,
    LargeBinary,
    MetaData,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    declared_attr,
    mapped_column,
    relationship,
)

from twh_platform.kms.postgres.sqlalchemy import BlindIndexed, Sealed, index_with
from twh_platform.tenancy import TenantKind
from twh_platform.webhooks import KeyState

from . import sealing
from .auth import Role
from .ids import new_id

__all__ = [
    "Base",
    "IdempotencyKey",
    "Item",
    "Location",
    "Password",
    "PurchaseOrder",
    "PurchaseOrderLine",
    "Return",
    "ReturnLine",
    "SalesOrder",
    "SalesOrderLine",
    "StockLevel",
    "StockMovement",
    "Supplier",
    "TenantRecord",
    "TenantRow",
    "Tier",
    "Transfer",
    "TransferLine",
    "User",
    "Versioned",
    "Webhook",
    "WebhookProfile",
    "WebhookSecret",
    "WebhookState",
]


class Base(DeclarativeBase):
    """
    Types and constraint names for all tables; clients see neither.
    """

    metadata = MetaData(
        naming_convention={
            "pk": "%(table_name)s_pkey",
            # Column 0 is always the tenant.
            "uq": "%(table_name)s_%(column_1_name)s_key",
            "ck": "%(table_name)s_%(constraint_name)s_check",
            "fk": "%(table_name)s_%(column_1_name)s_fkey",
            "ix": "%(table_name)s_%(column_1_name)s_idx",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        bytes: LargeBinary,
        datetime: DateTime(timezone=True),
        dict[str, str]: JSONB,
        int: BigInteger,
        list[str]: ARRAY(Text),
        str: Text,
        UUID: Uuid,
    }


class Directory(DeclarativeBase):
    """
    The tables that `directory_sql` makes; they are no tenant's, and not made here.
    """

    type_annotation_map: ClassVar[dict[Any, Any]] = {datetime: DateTime(timezone=True), str: Text}


class Tier(StrEnum):
    """
    The price tiers.
    """

    FREE = "FREE"
    DEVELOPER = "DEVELOPER"
    STARTUP = "STARTUP"
    GROWTH = "GROWTH"
    SCALE = "SCALE"
    ENTERPRISE = "ENTERPRISE"


class TenantRecord(Directory):
    """
    A tenant, as the directory has it.
    """

    __tablename__ = "tenants"
    __table_args__ = {"schema": "twh"}  # noqa: RUF012 -- as SQLAlchemy declares it

    id: Mapped[str] = mapped_column(primary_key=True)
    tier: Mapped[str]
    status: Mapped[str]
    kind: Mapped[str] = mapped_column(default=TenantKind.PRODUCTION)
    expires_at: Mapped[datetime | None]


class TenantRow(Base):
    """
    A row of one tenant.
    """

    __abstract__ = True

    tenant_id: Mapped[str] = mapped_column(
        primary_key=True, server_default=text("twh.current_tenant()"), sort_order=-2
    )


class Record(TenantRow):
    """
    A row with an id of its own.
    """

    __abstract__ = True

    # The sentinel lets SQLAlchemy insert many rows in one statement.
    id: Mapped[UUID] = mapped_column(
        primary_key=True, default=new_id, insert_sentinel=True, sort_order=-1
    )
    created_at: Mapped[datetime] = mapped_column(server_default=func.now(), sort_order=1)


class Versioned(Record):
    """
    A record that changes: each change counts its version up, for `ETag`.
    """

    __abstract__ = True

    version: Mapped[int] = mapped_column(sort_order=2)
    updated_at: Mapped[datetime] = mapped_column(
        server_default=func.now(), onupdate=func.now(), sort_order=3
    )

    @declared_attr.directive
    @classmethod
    def __mapper_args__(cls) -> dict[str, Any]:
        """
        Have each UPDATE count the version, and refuse one that is based on an old one.
        """
        return {"version_id_col": cls.version, "eager_defaults": True}


def _refers(table: str, column: str) -> ForeignKeyConstraint:
    return ForeignKeyConstraint(("tenant_id", column), (f"{table}.tenant_id", f"{table}.id"))


def _one_of(column: str, *values: str) -> CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=column)


class User(Record):
    """
    A person of a tenant; the password is kept apart, in `Password`.
    """

    __tablename__ = "users"
    __table_args__ = (
        UniqueConstraint("tenant_id", "email"),
        CheckConstraint("email = lower(email)", name="email"),
        _one_of("role", *Role),
    )

    email: Mapped[str]
    name: Mapped[str]
    role: Mapped[str]


class Password(TenantRow):
    """
    A user's password hash: the application writes it, only login reads it.
    """

    __tablename__ = "passwords"
    __table_args__ = (_refers("users", "user_id"),)

    user_id: Mapped[UUID] = mapped_column(primary_key=True)
    hash: Mapped[str]


class Item(Versioned):
    """
    Something that is stocked.
    """

    __tablename__ = "items"
    __table_args__ = (
        UniqueConstraint("tenant_id", "sku"),
        CheckConstraint("unit_price_minor >= 0", name="unit_price_minor"),
        CheckConstraint("reorder_point >= 0", name="reorder_point"),
    )

    sku: Mapped[str]
    name: Mapped[str]
    unit_price_minor: Mapped[int]
    reorder_point: Mapped[int]


class Location(Record):
    """
    A place that holds stock.
    """

    __tablename__ = "locations"
    __table_args__ = (UniqueConstraint("tenant_id", "code"),)

    code: Mapped[str]
    name: Mapped[str]


class StockMovement(Record):
    """
    One line of the ledger; it is never changed, and corrected by another line.
    """

    __tablename__ = "stock_movements"
    __table_args__ = (
        _refers("items", "item_id"),
        _refers("locations", "location_id"),
        _refers("users", "actor_id"),
        _one_of(
            "kind", "adjustment", "receipt", "shipment", "transfer_out", "transfer_in", "return"
        ),
        CheckConstraint("quantity <> 0", name="quantity"),
        Index(None, "tenant_id", "item_id", "location_id"),
    )

    kind: Mapped[str]
    item_id: Mapped[UUID]
    location_id: Mapped[UUID]
    quantity: Mapped[int]
    reference: Mapped[str]
    actor_id: Mapped[UUID]


class StockLevel(TenantRow):
    """
    What the ledger adds up to, kept by the transaction that adds to the ledger.
    """

    __tablename__ = "stock_levels"
    __table_args__ = (
        _refers("items", "item_id"),
        _refers("locations", "location_id"),
        CheckConstraint("quantity >= 0", name="quantity"),
    )

    item_id: Mapped[UUID] = mapped_column(primary_key=True)
    location_id: Mapped[UUID] = mapped_column(primary_key=True)
    quantity: Mapped[int]


class _Line(TenantRow):
    __abstract__ = True

    order_id: Mapped[UUID] = mapped_column(primary_key=True)
    line: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    item_id: Mapped[UUID]
    quantity: Mapped[int]


class PurchaseOrderLine(_Line):
    """
    What was ordered of one item, and how much of it has come.
    """

    __tablename__ = "purchase_order_lines"
    __table_args__ = (
        _refers("purchase_orders", "order_id"),
        _refers("items", "item_id"),
        CheckConstraint("quantity > 0", name="quantity"),
        CheckConstraint("received BETWEEN 0 AND quantity", name="received"),
        CheckConstraint("unit_cost_minor >= 0", name="unit_cost_minor"),
    )

    unit_cost_minor: Mapped[int]
    received: Mapped[int] = mapped_column(default=0)


class PurchaseOrder(Versioned):
    """
    Goods ordered from a supplier, to be received at one location.
    """

    __tablename__ = "purchase_orders"
    __table_args__ = (
        _refers("locations", "location_id"),
        _refers("users", "actor_id"),
        _one_of("status", "draft", "open", "partially_received", "received", "cancelled"),
    )

    supplier: Mapped[str]
    location_id: Mapped[UUID]
    status: Mapped[str]
    actor_id: Mapped[UUID]
    lines: Mapped[list[PurchaseOrderLine]] = relationship(
        lazy="selectin", order_by=PurchaseOrderLine.line
    )


class Supplier(Versioned):
    """
    Whom goods are bought from.  The database never sees the account.
    """

    __tablename__ = "suppliers"
    __table_args__ = (Index(None, "tenant_id", "bank_account_index"),)

    name: Mapped[str]
    bank_account: Mapped[str] = mapped_column(Sealed(sealing.cipher, of=str))
    bank_account_index: Mapped[bytes] = mapped_column(BlindIndexed(sealing.bank_accounts))

    @property
    def bank_account_last4(self) -> str:
        """
        The end of the account, which everybody may see.
        """
        return self.bank_account[-4:]


index_with(Supplier.bank_account, Supplier.bank_account_index)


class WebhookProfile(StrEnum):
    """
    How a subscription's webhooks are signed: the names of two of the package's profiles.
    """

    STANDARD = "standard"
    TWH = "twh"


class WebhookState(StrEnum):
    """
    Whether events are to be sent.
    """

    ACTIVE = "active"
    PAUSED = "paused"


class WebhookSecret(Record):
    """
    A secret of a subscription, with its state; the database never sees the secret itself.

    It is read where something is signed, and nowhere else.  Of one that is revoked
    nothing is left but its fingerprint.
    """

    __tablename__ = "webhook_secrets"
    __table_args__ = (
        _refers("webhooks", "webhook_id"),
        UniqueConstraint("tenant_id", "webhook_id", "fingerprint"),
        _one_of("state", *(one.value for one in KeyState)),
        CheckConstraint("(state = 'revoked') = (secret IS NULL)", name="secret"),
    )

    webhook_id: Mapped[UUID]
    fingerprint: Mapped[str]
    state: Mapped[str]
    not_after: Mapped[datetime | None]
    secret: Mapped[str | None] = mapped_column(
        Sealed(sealing.cipher, of=str), deferred=True, deferred_raiseload=True
    )


class Webhook(Versioned):
    """
    Where a tenant's events are sent.
    """

    __tablename__ = "webhooks"
    __table_args__ = (_one_of("profile", *WebhookProfile), _one_of("state", *WebhookState))

    url: Mapped[str]
    events: Mapped[list[str]]
    profile: Mapped[str]
    state: Mapped[str] = mapped_column(default=WebhookState.ACTIVE)
    secrets: Mapped[list[WebhookSecret]] = relationship(
        lazy="selectin", order_by=WebhookSecret.id.desc(), cascade="all, delete-orphan"
    )


class SalesOrderLine(_Line):
    """
    What was sold of one item, and how much of it has come back.
    """

    __tablename__ = "sales_order_lines"
    __table_args__ = (
        _refers("sales_orders", "order_id"),
        _refers("items", "item_id"),
        CheckConstraint("quantity > 0", name="quantity"),
        CheckConstraint("returned BETWEEN 0 AND quantity", name="returned"),
        CheckConstraint("unit_price_minor >= 0", name="unit_price_minor"),
    )

    unit_price_minor: Mapped[int]
    returned: Mapped[int] = mapped_column(default=0)


class SalesOrder(Versioned):
    """
    Goods sold to a customer, to be shipped from one location.
    """

    __tablename__ = "sales_orders"
    __table_args__ = (
        _refers("locations", "location_id"),
        _refers("users", "actor_id"),
        _one_of("status", "open", "shipped", "cancelled"),
    )

    customer: Mapped[str]
    location_id: Mapped[UUID]
    status: Mapped[str]
    actor_id: Mapped[UUID]
    lines: Mapped[list[SalesOrderLine]] = relationship(
        lazy="selectin", order_by=SalesOrderLine.line
    )


class TransferLine(_Line):
    """
    How much of one item is moved.
    """

    __tablename__ = "transfer_lines"
    __table_args__ = (
        _refers("transfers", "order_id"),
        _refers("items", "item_id"),
        CheckConstraint("quantity > 0", name="quantity"),
    )


class Transfer(Versioned):
    """
    Goods that left one location for another.
    """

    __tablename__ = "transfers"
    __table_args__ = (
        _refers("locations", "from_location_id"),
        _refers("locations", "to_location_id"),
        _refers("users", "actor_id"),
        _one_of("status", "in_transit", "received"),
        CheckConstraint("from_location_id <> to_location_id", name="to_location_id"),
    )

    from_location_id: Mapped[UUID]
    to_location_id: Mapped[UUID]
    status: Mapped[str]
    actor_id: Mapped[UUID]
    lines: Mapped[list[TransferLine]] = relationship(lazy="selectin", order_by=TransferLine.line)


class ReturnLine(_Line):
    """
    How much of one item came back; `line` is the line of the sales order.
    """

    __tablename__ = "return_lines"
    __table_args__ = (
        _refers("returns", "order_id"),
        _refers("items", "item_id"),
        CheckConstraint("quantity > 0", name="quantity"),
    )


class Return(Record):
    """
    Goods that a customer sent back.
    """

    __tablename__ = "returns"
    __table_args__ = (
        _refers("sales_orders", "sales_order_id"),
        _refers("locations", "location_id"),
        _refers("users", "actor_id"),
        Index(None, "tenant_id", "sales_order_id"),
    )

    sales_order_id: Mapped[UUID]
    location_id: Mapped[UUID]
    actor_id: Mapped[UUID]
    lines: Mapped[list[ReturnLine]] = relationship(lazy="selectin", order_by=ReturnLine.line)


class IdempotencyKey(TenantRow):
    """
    The answer that was given to a request, for when it is sent again.

    The key is the user's: no user is told what another one was answered.
    """

    __tablename__ = "idempotency_keys"
    __table_args__ = (_refers("users", "user_id"),)

    user_id: Mapped[UUID] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[bytes]
    status: Mapped[int] = mapped_column(default=0)
    headers: Mapped[dict[str, str]] = mapped_column(default=dict)
    body: Mapped[bytes] = mapped_column(default=b"")
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
