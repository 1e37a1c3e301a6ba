"""
The tenant in PostgreSQL: policies as SQL, and connections that bind.

Each driver has a module of its own: `psycopg`, `asyncpg`, `sqlalchemy`.
"""

from ._directory_sql import directory_sql
from ._policies import UNBOUND_SQLSTATE, TenantTable, install_sql, tenant_sql

__all__ = [
    "UNBOUND_SQLSTATE",
    "TenantTable",
    "directory_sql",
    "install_sql",
    "tenant_sql",
]
