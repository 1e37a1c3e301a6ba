"""
Usage in PostgreSQL: what calendars counted, to bill by (extra: `psycopg`).
"""

from ._psycopg_usage import PostgresUsageLedger
from ._usage_sql import usage_sql

__all__ = ["PostgresUsageLedger", "usage_sql"]
