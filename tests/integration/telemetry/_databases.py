"""
A database with tenants, calls that are watched, and a value that nobody may see.
"""

from __future__ import annotations

import pytest

from tests.integration.tenancy.conftest import admin, database, dsn, server
from tests.support.client_spans import Spans
from twh_platform import Tenant, bind_tenant
from twh_platform.telemetry import ClientCalls, Registry

__all__ = ["CANARY", "Watched", "acme", "admin", "database", "dsn", "server", "watched"]

CANARY = "canary4711"
"""
A value in statements.
"""


class Watched:
    """
    Calls, and what was told about them.
    """

    def __init__(self) -> None:
        self.registry, self.spans = Registry(), Spans()
        self.calls = ClientCalls(self.registry, spans=self.spans)

    @property
    def page(self) -> str:
        """The page in words."""
        return self.registry.page(openmetrics=True).decode()

    def counted(self, operation: str, error: str = "", system: str = "postgresql") -> int:
        """How many calls were counted under these labels."""
        start = (
            f'db_client_operation_duration_seconds_count{{db_system_name="{system}",'
            f'db_operation_name="{operation}",error_type="{error}"}} '
        )
        lines = [line for line in self.page.splitlines() if line.startswith(start)]
        return int(float(lines[0].removeprefix(start))) if lines else 0

    def keeps(self, secret: str) -> bool:
        """Whether a value is on the page or in a span."""
        return secret in self.page + str(self.spans)


@pytest.fixture
def watched():
    """Calls that are watched."""
    return Watched()


@pytest.fixture
def acme():
    """The tenant of the rows, bound."""
    with bind_tenant(Tenant(id="a")) as bound:
        yield bound
