"""
Receive webhooks with Flask.

    WEBHOOK_SECRET=whsec_... flask --app examples.webhooks.flask_receiver run
"""

from __future__ import annotations

import logging
import os
from typing import Any

from flask import Flask, Response, request

from twh_platform.errors import WebhookError
from twh_platform.webhooks import StandardSecret, Verifier, parse_json

logger = logging.getLogger("receiver")
verifier = Verifier(StandardSecret(os.environ["WEBHOOK_SECRET"]))
handled: dict[str, Any] = {}  # in your service a table with the id as its key

app = Flask(__name__)
app.config["MAX_CONTENT_LENGTH"] = 64 * 1024  # beyond it get_data() answers 413


@app.before_request
def keep_the_bytes() -> None:
    """
    Keep the body before anybody looks at request.form, which would use it up.

    Functions of this kind run in the order in which they are registered: put it first.
    """
    if request.path == "/webhooks":
        request.get_data()


@app.post("/webhooks")
def receive() -> Response:
    """
    Verify, then parse, then handle; a second delivery of one event changes nothing.
    """
    body = request.get_data()
    try:
        verified = verifier.verify(body, request.headers)
        event = parse_json(body)
    except WebhookError as error:
        logger.warning("webhook refused: %s", error.code)
        return Response(status=400 if error.code == "payload_invalid" else 401)
    handled.setdefault(verified.id, event)
    return Response(status=204)
