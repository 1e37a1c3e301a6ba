"""
Overrides in PostgreSQL: each tenant's own limits, with their history (extra: `psycopg`).
"""

from ._overrides_sql import overrides_sql
from ._psycopg_overrides import PostgresOverrideStore

__all__ = ["PostgresOverrideStore", "overrides_sql"]
