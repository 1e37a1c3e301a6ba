"""
What we use to test ourselves, for users as well.

Nothing here needs more than the standard library to be imported.  The fixtures
are in `twh_platform.testing.pytest_plugin`, which pytest loads on its own.
"""

from __future__ import annotations

from ._binaries import PostgresBinaries, PostgresSource, find_postgres
from ._clock import ManualClock
from ._http import AppAnswer, AppClient, AppRequest
from ._postgres import PostgresDatabase, PostgresServer
from ._redis import RedisServer, find_redis
from ._redis_cluster import RedisCluster
from ._replay import Authorize, Replayed, replay
from ._report import WalkFinding, WalkOperation, WalkReport
from ._require import require_part
from ._steps import WalkStep
from ._tenants import TenantPair, tenant_pair
from ._walk import walk

__all__ = [
    "AppAnswer",
    "AppClient",
    "AppRequest",
    "Authorize",
    "ManualClock",
    "PostgresBinaries",
    "PostgresDatabase",
    "PostgresServer",
    "PostgresSource",
    "RedisCluster",
    "RedisServer",
    "Replayed",
    "TenantPair",
    "WalkFinding",
    "WalkOperation",
    "WalkReport",
    "WalkStep",
    "find_postgres",
    "find_redis",
    "replay",
    "require_part",
    "tenant_pair",
    "walk",
]
