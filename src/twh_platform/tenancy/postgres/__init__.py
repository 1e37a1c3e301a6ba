"""
The tenant in PostgreSQL: policies as SQL, and connections that bind.

Each driver has a module of its own: `psycopg`, `asyncpg`, `sqlalchemy`.
"""

from .._keys import tenant_channel, tenant_lock_key
from ._policies import MALFORMED_SQLSTATE, UNBOUND_SQLSTATE, TenantTable, install_sql, tenant_sql
from ._seal import Seal, SealKey, read_seal_key, write_seal_key
from ._seal_sql import INVALID_SEAL_SQLSTATE, seal_sql

__all__ = [
    "INVALID_SEAL_SQLSTATE",
    "MALFORMED_SQLSTATE",
    "UNBOUND_SQLSTATE",
    "Seal",
    "SealKey",
    "TenantTable",
    "install_sql",
    "read_seal_key",
    "seal_sql",
    "tenant_channel",
    "tenant_lock_key",
    "tenant_sql",
    "write_seal_key",
]
