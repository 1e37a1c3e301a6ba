"""
Claims on webhooks in PostgreSQL, under row-level security.

The modules: `psycopg`, `asyncpg` and `sqlalchemy` claim in the handler's own
transaction; `store` is a `ReplayStore` for the middleware; `alembic` is for migrations.
"""

from ._claims_sql import WEBHOOK_CLAIMS, webhooks_sql

__all__ = ["WEBHOOK_CLAIMS", "webhooks_sql"]
