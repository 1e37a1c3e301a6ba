"""
Receive webhooks with FastAPI.

    WEBHOOK_SECRET=whsec_... uvicorn examples.webhooks.fastapi_receiver:app
"""

from __future__ import annotations

import logging
import os
from typing import Annotated, Any, NamedTuple

from fastapi import Depends, FastAPI, HTTPException, Request

from twh_platform.errors import WebhookError
from twh_platform.webhooks import (
    BodyLimitMiddleware,
    StandardSecret,
    Verified,
    Verifier,
    parse_json,
)

logger = logging.getLogger("receiver")
verifier = Verifier(StandardSecret(os.environ["WEBHOOK_SECRET"]))
handled: dict[str, Any] = {}  # in your service a table with the id as its key


class Webhook(NamedTuple):
    """
    What is verified, and what it says.
    """

    verified: Verified
    event: Any


async def webhook(request: Request) -> Webhook:
    """
    Verify, then parse: a dependency of each route that receives webhooks.

    Such a route has no parameter for the body: FastAPI would parse it first, answer
    422 to what nobody has signed, and leave nothing to verify of a form.
    """
    body = await request.body()
    try:
        return Webhook(verifier.verify(body, request.headers.raw), parse_json(body))
    except WebhookError as error:
        logger.warning("webhook refused: %s", error.code)
        raise HTTPException(400 if error.code == "payload_invalid" else 401) from None


app = FastAPI()
app.add_middleware(BodyLimitMiddleware, limit=64 * 1024)


@app.post("/webhooks", status_code=204)
async def receive(webhook: Annotated[Webhook, Depends(webhook)]) -> None:
    """
    Handle an event; a second delivery of it changes nothing.
    """
    handled.setdefault(webhook.verified.id, webhook.event)
