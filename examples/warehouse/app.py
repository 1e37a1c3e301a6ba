"""
The service put together: the routes, the middleware, the services behind them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.types import ASGIApp

from twh_platform import TenantMiddleware
from twh_platform.quotas import ClientAddress, QuotaMiddleware

from . import openapi
from .problems import HANDLERS
from .quotas import COSTS
from .routes import (
    items,
    keys,
    locations,
    login,
    purchase_orders,
    quotas,
    recalls,
    reports,
    returns,
    sales_orders,
    secrets,
    service,
    stock,
    suppliers,
    tenants,
    transfers,
    webhooks,
)
from .services import Services
from .settings import Settings
from .web import routes

__all__ = ["OPERATIONS", "create_app"]

OPERATIONS = (
    login.login,
    tenants.list_tenants,
    tenants.create_sandbox,
    tenants.change_tenant,
    items.list_items,
    items.create_item,
    items.get_item,
    items.change_item,
    locations.list_locations,
    locations.create_location,
    locations.get_location,
    stock.list_stock,
    stock.list_movements,
    stock.adjust_stock,
    purchase_orders.list_purchase_orders,
    purchase_orders.create_purchase_order,
    purchase_orders.get_purchase_order,
    purchase_orders.change_purchase_order,
    purchase_orders.receive_purchase_order,
    suppliers.list_suppliers,
    suppliers.create_supplier,
    suppliers.get_supplier,
    suppliers.change_supplier,
    sales_orders.list_sales_orders,
    sales_orders.create_sales_order,
    sales_orders.get_sales_order,
    sales_orders.change_sales_order,
    sales_orders.ship_sales_order,
    transfers.list_transfers,
    transfers.create_transfer,
    transfers.get_transfer,
    transfers.receive_transfer,
    returns.list_returns,
    returns.create_return,
    returns.get_return,
    webhooks.list_webhooks,
    webhooks.create_webhook,
    webhooks.get_webhook,
    webhooks.change_webhook,
    webhooks.delete_webhook,
    webhooks.rotate_webhook_secret,
    webhooks.revoke_webhook_secret,
    webhooks.try_webhook,
    reports.low_stock,
    recalls.recall,
    keys.show_keys,
    keys.rotate_keys,
    keys.shred_keys,
    secrets.list_secrets,
    secrets.rotate_platform_secret,
    secrets.revoke_secret,
    service.health,
    service.openapi,
)

# The administrator is no tenant's user: these routes check their own token.
_PUBLIC = ("/auth/login", "/healthz", "/openapi.json", "/tenants", "/tenants/*", "/admin/*")


class Warehouse(Starlette):
    """
    Starlette, with telemetry around all of it: errors that nobody has handled are seen as well.
    """

    def build_middleware_stack(self) -> ASGIApp:
        """
        All middleware, telemetry outermost.
        """
        services: Services = self.state.services
        return services.telemetry.around(super().build_middleware_stack(), routes=self)


def create_app(settings: Settings) -> Starlette:
    """
    The warehouse as an ASGI app; connections are made when it starts.
    """
    services = Services.of(settings)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with services.running():
            await services.verify_logins()
            yield

    app = Warehouse(
        routes=[*routes(OPERATIONS), *quotas.quota_routes(services)],
        middleware=[
            # By address, before anybody has said who they are: whoever tries passwords.
            Middleware(
                QuotaMiddleware,
                limiter=services.quotas.limiter,
                client_address=ClientAddress(trusted_proxies=settings.trusted_proxies),
                exempt=("/healthz",),
            ),
            Middleware(
                TenantMiddleware,
                resolver=services.tokens.resolver(),
                directory=services.directory,
                public_paths=_PUBLIC,
                clock=settings.now,
            ),
            Middleware(QuotaMiddleware, limiter=services.quotas.limiter, costs=COSTS),
        ],
        exception_handlers=HANDLERS,
        lifespan=lifespan,
    )
    app.state.services = services
    app.state.openapi = openapi.document(OPERATIONS, quotas.DESCRIBED)
    return app
