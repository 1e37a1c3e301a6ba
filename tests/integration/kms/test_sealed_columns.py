"""
Sealed columns through SQLAlchemy's drivers on a real PostgreSQL, under policies.
"""

from __future__ import annotations

import hashlib
import hmac

import pytest

pytest.importorskip("cryptography")

from alembic.autogenerate import api, compare_metadata, render_python_code
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import (
    Column,
    MetaData,
    NullPool,
    Table,
    Text,
    create_engine,
    insert,
    literal,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError, StatementError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from tests.integration.kms._house import ACME, OTHER
from tests.support.postgres_keys import APP, AUDITOR, KEEPER, OWNER
from twh_platform import bind_tenant, require_tenant
from twh_platform.errors import (
    ConfigurationError,
    DecryptionError,
    KeyServiceError,
    NoCurrentTenantError,
)
from twh_platform.kms._cipher import AsyncTenantCipher, TenantCipher
from twh_platform.kms._keyset import Keyset
from twh_platform.kms._local import LocalKeyService
from twh_platform.kms.postgres.alembic import render_sealed
from twh_platform.kms.postgres.sqlalchemy import BlindIndexed, Sealed, index_with
from twh_platform.tenancy.postgres import TenantTable, tenant_sql
from twh_platform.tenancy.postgres.sqlalchemy import bind_engine

IBAN = "GB29NWBK60161331926819"
CIPHERS: dict[str, TenantCipher | AsyncTenantCipher] = {}


class TwoKeys:
    """A stand-in for a blind index that is being rotated: two hashes for each text."""

    def value(self, given: str) -> bytes:
        """By the new key."""
        return self.candidates(given)[0]

    def candidates(self, given: str) -> tuple[bytes, ...]:
        """By the new key and by the old one, of the tenant that is bound."""
        message = f"{require_tenant().id}:{given.lower()}".encode()
        return tuple(hmac.digest(key, message, hashlib.sha256)[:8] for key in (b"new", b"old"))


class Base(DeclarativeBase):
    """The models."""


class Noted:
    """A mixin: its columns are copied."""

    note: Mapped[bytes | None] = mapped_column(Sealed(lambda: CIPHERS["now"]))


class Supplier(Noted, Base):
    """Somebody with a bank account."""

    __tablename__ = "suppliers"
    tenant_id: Mapped[str] = mapped_column(Text, primary_key=True)
    id: Mapped[int] = mapped_column(primary_key=True)
    iban: Mapped[str] = mapped_column(Sealed(lambda: CIPHERS["now"], of=str))
    iban_index: Mapped[bytes | None] = mapped_column(BlindIndexed(TwoKeys()))


index_with(Supplier.iban, Supplier.iban_index)

TABLE = """
DROP TABLE IF EXISTS suppliers;
CREATE TABLE suppliers (
    tenant_id text, id int, iban bytea NOT NULL, iban_index bytea, note bytea,
    PRIMARY KEY (tenant_id, id)
);
"""


@pytest.fixture
def suppliers(house):
    """The house with a table of suppliers, and its keys in the house's own tables."""
    sql = TABLE + tenant_sql([TenantTable(name="suppliers")], role=APP)
    house.database.execute(sql, user=OWNER)
    service = LocalKeyService(Keyset.new())
    with TenantCipher(service, house.store()) as CIPHERS["now"]:
        yield house


@pytest.fixture
def engine(suppliers):
    """An engine of the application's role."""
    dsn = suppliers.dsn().replace("postgresql:", "postgresql+psycopg:")
    return bind_engine(create_engine(dsn, poolclass=NullPool), seal=suppliers.seal)


@pytest.fixture
def session(engine, acme):
    """A session of the tenant, with one supplier."""
    with Session(engine) as session:
        session.add(Supplier(tenant_id="acme", id=1, iban=IBAN))
        session.commit()
        yield session


def test_the_row_is_sealed_and_the_value_is_not(session, suppliers):
    """NULL stays NULL; the superuser sees no account."""
    row = suppliers.look("SELECT (iban, note, iban_index)::text FROM suppliers")

    assert session.scalars(select(Supplier)).one().iban == IBAN
    assert session.scalars(select(Supplier.id).where(Supplier.note.is_(None))).all() == [1]
    assert IBAN not in row
    assert IBAN.encode().hex() not in row


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
@pytest.mark.parametrize("twin", [False, True])
async def test_async_engines_seal_and_open(driver, twin, suppliers, acme):
    """With the blocking cipher and with its twin."""
    if twin:
        CIPHERS["now"] = AsyncTenantCipher(CIPHERS["now"])
    dsn = suppliers.dsn().replace("postgresql:", f"postgresql+{driver}:")
    engine = bind_engine(create_async_engine(dsn, poolclass=NullPool), seal=suppliers.seal)
    async with AsyncSession(engine) as session:
        session.add(Supplier(tenant_id="acme", id=1, iban=IBAN, note=b"\0"))
        await session.commit()
        found = (await session.scalars(select(Supplier).where(Supplier.iban == None))).all()  # noqa: E711
        (one,) = (await session.scalars(select(Supplier).where(Supplier.iban_index == IBAN))).all()

    assert (found, one.iban, one.note) == ([], IBAN, b"\0")


def test_another_tenant_opens_nothing(session, engine, suppliers):
    """Given the very bytes of the row.  Control: its own value opens beside them."""
    copy = "INSERT INTO suppliers (tenant_id, id, iban) SELECT 'other', 1, iban FROM suppliers"
    suppliers.database.execute(copy)
    with bind_tenant(OTHER), Session(engine) as others:
        others.add(Supplier(tenant_id="other", id=2, iban="DE89"))
        others.commit()
        assert others.scalars(select(Supplier.iban).where(Supplier.id == 2)).all() == ["DE89"]
        with pytest.raises(DecryptionError):
            others.scalars(select(Supplier.iban).where(Supplier.id == 1)).all()


def test_another_column_opens_nothing(session, suppliers):
    """What was copied within the row is not taken for what belongs there."""
    suppliers.database.execute("UPDATE suppliers SET note = iban")

    assert session.scalars(select(Supplier.iban)).all() == [IBAN]
    with pytest.raises(DecryptionError):
        session.scalars(select(Supplier.note)).all()


REFUSED = [
    lambda: Supplier.iban == IBAN,
    lambda: "x" + Supplier.iban,
    lambda: Supplier.iban != IBAN,
    lambda: Supplier.iban.in_([IBAN]),
    lambda: Supplier.iban.like("GB%"),
    Supplier.iban.desc,
    lambda: Supplier.iban < IBAN,
    lambda: Supplier.iban + "x",
    lambda: Supplier.iban == Supplier.note,
    lambda: select(Supplier).filter_by(iban=IBAN),
    lambda: Supplier.iban_index < IBAN,
    lambda: Supplier.iban_index.like("GB%"),
    lambda: Supplier.iban_index == b"hash",
    lambda: Supplier.iban_index.in_([b"hash"]),
]


@pytest.mark.parametrize("comparison", REFUSED)
def test_what_the_database_cannot_compute_is_refused(comparison):
    """At once, and without the value in the message."""
    with pytest.raises(ConfigurationError) as caught:
        comparison()

    assert caught.value.code == "sealed_not_comparable"
    assert IBAN not in str(caught.value)


def test_a_blind_index_finds_what_was_written_before_its_rotation(session, engine, suppliers):
    """By both keys, of the tenant alone, and follows the object's value."""
    session.add(Supplier(tenant_id="acme", id=2, iban="DE89"))
    session.commit()
    old = TwoKeys().candidates("DE89")[1]
    session.execute(update(Supplier).where(Supplier.id == 2).values(iban_index=old, iban="DE8"))
    found = select(Supplier.id).order_by(Supplier.id)

    assert session.get(Supplier, ("acme", 2)).iban == "DE8"
    assert session.scalars(found.where(Supplier.iban_index == IBAN.lower())).all() == [1]
    assert session.scalars(found.where(Supplier.iban_index == "de89")).all() == [2]
    assert session.scalars(found.where(Supplier.iban_index != "de89")).all() == [1]
    assert session.scalars(found.where(Supplier.iban_index.in_(["de89", IBAN]))).all() == [1, 2]
    with bind_tenant(OTHER), Session(engine) as others:
        assert others.scalars(found.where(Supplier.iban_index == IBAN)).all() == []


def test_errors_do_not_quote_the_value(session, engine):
    """Neither ours nor the database's.  Control: SQLAlchemy quotes what it may."""
    row = [{"tenant_id": "acme", "id": 1, "iban": IBAN}]
    with bind_tenant(None), Session(engine) as nobodys, pytest.raises(NoCurrentTenantError) as ours:
        nobodys.execute(insert(Supplier), row)
    with pytest.raises(IntegrityError) as theirs:
        session.execute(insert(Supplier), row)
    session.rollback()
    CIPHERS["now"] = Broken()
    with pytest.raises(KeyServiceError) as strange:
        session.execute(insert(Supplier), row)
    session.rollback()
    loud = Table("suppliers", MetaData(), Column("iban", Loud()))
    with pytest.raises(StatementError) as control:
        session.execute(insert(loud), row)

    assert IBAN not in f"{ours.value} {theirs.value} {strange.value}"
    assert IBAN in str(control.value)


class Broken:
    """A cipher with a mistake in it, or in a pool behind it."""

    def seal(self, *_: object, **__: object) -> bytes:
        """Fail."""
        message = "a mistake"
        raise DeprecationWarning(message)


class Loud(Sealed):
    """A type that fails as others do."""

    cache_ok = True

    def __init__(self) -> None:
        super().__init__(lambda: CIPHERS["now"])

    def process_bind_param(self, value, dialect):
        """Fail."""
        message = "it failed"
        raise ValueError(message)


def test_one_object_is_one_columns():
    """On a second one it would bind to the first one's name."""
    shared = Sealed(lambda: CIPHERS["now"])

    class Local(DeclarativeBase):
        pass

    with pytest.raises(ConfigurationError) as caught:

        class Two(Local):
            __tablename__ = "two"
            id: Mapped[int] = mapped_column(primary_key=True)
            one: Mapped[bytes] = mapped_column(shared)
            other: Mapped[bytes] = mapped_column(shared)

    assert caught.value.code == "sealed_column_shared"


def test_a_type_of_no_column_seals_nothing(session):
    """It has no name to bind to."""
    with pytest.raises(ConfigurationError) as caught:
        session.execute(select(literal(IBAN, Sealed(lambda: CIPHERS["now"], of=str))))

    assert caught.value.code == "sealed_column_unknown"


@pytest.mark.parametrize("wrong", [b"bytes", 5])
def test_a_value_of_another_type_is_refused(wrong, session):
    """A text column takes texts, and says no more than the types."""
    with pytest.raises(ConfigurationError) as caught:
        session.execute(insert(Supplier).values(tenant_id="acme", id=3, iban=wrong))

    assert caught.value.code == "sealed_type_invalid"
    with pytest.raises(ConfigurationError):
        Sealed(lambda: CIPHERS["now"], of=int)


def test_columns_are_named_by_their_table():
    """Also those of mixins and copies; a given name is kept, as after a renaming."""
    column = Supplier.__table__.c.note.type
    copied = Supplier.__table__.to_metadata(MetaData(), name="copies").c.note.type
    kept = Sealed(lambda: CIPHERS["now"], table="old", column="older")

    assert (column.table, column.column) == ("suppliers", "note")
    assert (copied.table, copied.column) == ("copies", "note")
    assert repr(kept) == "Sealed(of=bytes, table='old', column='older')"


def test_alembic_sees_bytes(suppliers):
    """No drift, and a new column is written without a cipher."""
    engine = create_engine(suppliers.dsn(OWNER).replace("postgresql:", "postgresql+psycopg:"))
    with engine.connect() as connection:
        options = {"compare_type": True, "render_item": render_sealed}
        context = MigrationContext.configure(connection, opts=options)
        found = compare_metadata(context, Base.metadata)
        migration = api.produce_migrations(
            MigrationContext.configure(connection, opts=options), renamed()
        )
        written = render_python_code(migration.upgrade_ops, render_item=render_sealed)
    engine.dispose()

    assert found == []
    assert written.count("sa.LargeBinary()") == 3


def renamed() -> MetaData:
    """The models with their table under another name."""
    metadata = MetaData()
    Supplier.__table__.to_metadata(metadata, name="copies")
    return metadata


def test_there_and_back_and_there_again(house):
    """An upgrade makes what `keys_sql` makes; a downgrade leaves nothing of it."""
    engine = create_engine(
        house.dsn(OWNER).replace("postgresql:", "postgresql+psycopg:"), poolclass=NullPool
    )
    rest = "SELECT count(*) FROM pg_proc WHERE pronamespace = 'twh'::regnamespace"
    with engine.begin() as connection:
        op = Operations(MigrationContext.configure(connection))
        before = connection.exec_driver_sql(rest).scalar_one()
        op.uninstall_keys()
        left = connection.exec_driver_sql("SELECT to_regclass('twh.data_keys')").scalar()
        removed = before - connection.exec_driver_sql(rest).scalar_one()
        op.install_keys(role=APP, administrators=[KEEPER], auditors=[AUDITOR])
        op.install_keys(role=APP, administrators=[KEEPER], auditors=[AUDITOR])

    assert (left, removed) == (None, 9)
    with bind_tenant(ACME):
        assert house.store().page(ACME.id) == []
