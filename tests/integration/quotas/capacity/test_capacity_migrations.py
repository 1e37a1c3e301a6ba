"""
Levels of capacity in a migration.
"""

from __future__ import annotations

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import MetaData, NullPool, create_engine

from tests.integration.quotas.capacity.conftest import APP, OWNER, RECONCILER, rule
from twh_platform.quotas.postgres import alembic as capacity_alembic
from twh_platform.tenancy.postgres import TenantTable
from twh_platform.tenancy.postgres.alembic import declare_tenancy

RIGHTS = f"""
SELECT has_table_privilege('{APP}', 'twh.quota_levels', 'SELECT')
    AND has_function_privilege('{RECONCILER}', 'twh.correct_capacity(text, bigint)', 'EXECUTE')
"""


async def test_there_and_back_and_there_again(house, acme):
    """An upgrade makes what `capacity_sql` makes; a downgrade leaves nothing of it."""
    assert capacity_alembic.InstallCapacityOp
    engine = create_engine(
        house.dsn(OWNER).replace("postgresql:", "postgresql+psycopg:"), poolclass=NullPool
    )
    with engine.begin() as connection:
        op = Operations(MigrationContext.configure(connection))
        op.uninstall_capacity()
        left = connection.exec_driver_sql("SELECT to_regclass('twh.quota_levels')").scalar()
        op.install_capacity(role=APP, reconcilers=[RECONCILER])
        op.install_capacity(role=APP, reconcilers=[RECONCILER])

    async with house.line() as line, line.transaction():
        taken = await line.take(rule(1))
    assert (left, taken.after, house.look(RIGHTS)) == (None, 1, True)


def test_autogenerate_leaves_it_alone(house):
    """What is in the schema twh is no drift."""
    metadata = MetaData()
    declare_tenancy(metadata, [TenantTable(name="items")], role=APP, sealed=house.seal is not None)
    engine = create_engine(
        house.dsn(OWNER).replace("postgresql:", "postgresql+psycopg:"), poolclass=NullPool
    )
    with engine.connect() as connection:
        metadata.reflect(connection, only=["items"])
        context = MigrationContext.configure(connection, opts={"include_schemas": True})
        found = compare_metadata(context, metadata)

    assert found == []
