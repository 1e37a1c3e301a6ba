"""
The tenant in PostgreSQL: policies as SQL, and connections that bind.

Each driver has a module of its own: `psycopg`, `asyncpg`, `sqlalchemy`.
"""

from .._keys import tenant_channel, tenant_lock_key
from ._administrator_sql import administrator_sql
from ._errors import refusal_of, sqlstate_of
from ._login import LOGIN_FAULTS, LoginFault, VerifiedLogin
from ._policies import MALFORMED_SQLSTATE, UNBOUND_SQLSTATE, TenantTable, install_sql, tenant_sql
from ._seal import Seal, SealKey, read_seal_key, write_seal_key
from ._seal_sql import INVALID_SEAL_SQLSTATE, seal_sql

__all__ = [
    "INVALID_SEAL_SQLSTATE",
    "LOGIN_FAULTS",
    "MALFORMED_SQLSTATE",
    "UNBOUND_SQLSTATE",
    "LoginFault",
    "Seal",
    "SealKey",
    "TenantTable",
    "VerifiedLogin",
    "administrator_sql",
    "install_sql",
    "read_seal_key",
    "refusal_of",
    "seal_sql",
    "sqlstate_of",
    "tenant_channel",
    "tenant_lock_key",
    "tenant_sql",
    "write_seal_key",
]
