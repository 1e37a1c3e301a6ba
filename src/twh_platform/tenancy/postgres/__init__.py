"""
The tenant in PostgreSQL: policies as SQL, and connections that bind.

Each driver has a module of its own: `psycopg`, `asyncpg`, `sqlalchemy`.
"""

from ._policies import MALFORMED_SQLSTATE, UNBOUND_SQLSTATE, TenantTable, install_sql, tenant_sql

__all__ = [
    "MALFORMED_SQLSTATE",
    "UNBOUND_SQLSTATE",
    "TenantTable",
    "install_sql",
    "tenant_sql",
]
