"""
The warehouse looks at its logins when it starts.
"""

from __future__ import annotations

import pytest

from examples.warehouse.app import create_app
from examples.warehouse.database import temporary_warehouse
from examples.warehouse.schema import APP
from twh_platform.errors import UnsafeLoginError


async def test_it_starts_with_safe_logins(warehouse):
    """All its logins are found good."""
    app = create_app(warehouse)

    async with app.router.lifespan_context(app):
        assert app.state.services.engines


async def test_it_does_not_start_with_an_unsafe_login(twh_postgres):
    """A login whose sessions begin with a tenant is refused before the first request."""
    with temporary_warehouse(twh_postgres, administrator_password_hash="none") as settings:
        name = settings.app_dsn.rpartition("/")[2]
        twh_postgres.execute(f"ALTER ROLE {APP} IN DATABASE {name} SET twh.tenant_id = 'acme'")
        app = create_app(settings)

        with pytest.raises(UnsafeLoginError, match="setting_preset"):
            async with app.router.lifespan_context(app):
                pass
