"""
Data keys and secrets in PostgreSQL, under row-level security.

The modules: `data_keys`, `secrets`, `listener` and `election` for psycopg,
`sqlalchemy` for sealed columns, `alembic` for migrations.
"""

from ._keys_sql import DESTROYED_SQLSTATE, KEY_TABLES, SHREDDED_SQLSTATE, keys_sql

__all__ = ["DESTROYED_SQLSTATE", "KEY_TABLES", "SHREDDED_SQLSTATE", "keys_sql"]
