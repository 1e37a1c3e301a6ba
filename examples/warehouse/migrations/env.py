"""
Where Alembic finds the models and the database.

The owner's DSN comes from `database.migrate`, or from the environment when
Alembic runs from a command line.
"""

from __future__ import annotations

import os

from alembic import context
from sqlalchemy import NullPool, create_engine

from examples.warehouse.schema import METADATA
from twh_platform.kms.postgres.alembic import render_sealed


def run() -> None:
    """
    Run the migrations, or compare: whatever Alembic was asked for.
    """
    dsn = context.config.attributes.get("dsn") or os.environ["WAREHOUSE_OWNER_DSN"]
    with create_engine(dsn, poolclass=NullPool).connect() as connection:
        context.configure(
            connection=connection, target_metadata=METADATA, render_item=render_sealed
        )
        with context.begin_transaction():
            context.run_migrations()


run()
