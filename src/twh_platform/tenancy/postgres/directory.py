"""
The tenant directory in PostgreSQL, and the listener for its changes (extra: `psycopg`).
"""

from ._directory_sql import directory_sql
from ._psycopg_directory import PostgresTenantDirectory, directory_pool
from ._psycopg_listener import TenantChangeListener

__all__ = [
    "PostgresTenantDirectory",
    "TenantChangeListener",
    "directory_pool",
    "directory_sql",
]
