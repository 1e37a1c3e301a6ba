"""
Receive webhooks with Starlette.

    WEBHOOK_SECRET=whsec_... uvicorn examples.webhooks.starlette_receiver:app
"""

from __future__ import annotations

import os
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from twh_platform.errors import WebhookError
from twh_platform.webhooks import (
    MemoryReplayStore,
    StandardSecret,
    WebhookMiddleware,
    parse_json,
    verified_webhook,
)

handled: dict[str, Any] = {}  # in your service a table


async def receive(request: Request) -> Response:
    """
    Handle an event; the middleware has verified it, and lets it in once.
    """
    verified = verified_webhook(request.scope)
    try:
        event = parse_json(await request.body())
    except WebhookError:
        return Response(status_code=400)
    handled[verified.id] = event
    return Response(status_code=204)


# Outside of whatever reads or decodes the body: first in the list.
verifying = Middleware(
    WebhookMiddleware,
    StandardSecret(os.environ["WEBHOOK_SECRET"]),
    paths=["/webhooks"],
    limit=64 * 1024,
    replay=MemoryReplayStore(),  # with several processes: Redis or PostgreSQL
)
app = Starlette(routes=[Route("/webhooks", receive, methods=["POST"])], middleware=[verifying])
