"""
Capacity exact in PostgreSQL: a level per tenant and rule, moved in the caller's own transaction.

Each driver has a module of its own: `psycopg`, `asyncpg`, `sqlalchemy`.
"""

from ._capacity import CapacityRefusal, CapacityTaken
from ._capacity_sql import QUOTA_LEVELS, capacity_sql
from ._reconcile import CapacityCount

__all__ = [
    "QUOTA_LEVELS",
    "CapacityCount",
    "CapacityRefusal",
    "CapacityTaken",
    "capacity_sql",
]
