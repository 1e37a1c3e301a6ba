"""
Receive webhooks with nothing but WSGI.

    WEBHOOK_SECRET=whsec_... gunicorn examples.webhooks.wsgi_receiver:application
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from twh_platform.errors import WebhookError
from twh_platform.webhooks import StandardSecret, Verifier, parse_json

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

LIMIT = 64 * 1024

logger = logging.getLogger("receiver")
verifier = Verifier(StandardSecret(os.environ["WEBHOOK_SECRET"]))
handled: dict[str, Any] = {}  # in your service a table with the id as its key


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """
    Serve one request.
    """
    status = receive(environ) if environ["REQUEST_METHOD"] == "POST" else 405
    start_response(f"{status} {HTTPStatus(status).phrase}", [("content-length", "0")])
    return []


def receive(environ: WSGIEnvironment) -> int:
    """
    Verify, then parse, then handle; a second delivery of one event changes nothing.
    """
    length = environ.get("CONTENT_LENGTH") or "0"
    if not length.isdecimal():
        return 400
    if len(length) > 9 or int(length) > LIMIT:  # noqa: PLR2004 -- digits of which none is needed
        return 413
    # So many bytes and no more: read() alone waits for ever on some servers.
    body = environ["wsgi.input"].read(int(length))
    try:
        verified = verifier.verify(body, headers_of(environ))
        event = parse_json(body)
    except WebhookError as error:
        logger.warning("webhook refused: %s", error.code)
        return 400 if error.code == "payload_invalid" else 401
    handled.setdefault(verified.id, event)
    return 204


def headers_of(environ: WSGIEnvironment) -> dict[str, str]:
    """
    The headers under their names: ``HTTP_WEBHOOK_ID`` was ``Webhook-Id``.

    One that came twice is here once, with a comma in it, and is refused for that.
    """
    return {
        name[5:].replace("_", "-").lower(): value
        for name, value in environ.items()
        if name.startswith("HTTP_")
    }
