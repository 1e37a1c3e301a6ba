"""
Quotas in Redis: one server, Sentinel or a cluster.  Needs the extra ``redis``.
"""

from __future__ import annotations

from ..._extras import missing_extra

try:
    import redis.asyncio as _redis
except ImportError as error:
    raise missing_extra("redis", error) from error

from ._store import RedisQuotaStore

__all__ = ["RedisQuotaStore"]

del _redis
