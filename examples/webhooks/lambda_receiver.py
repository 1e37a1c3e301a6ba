"""
Receive webhooks in AWS Lambda, behind an API Gateway, a function URL or a load balancer.

The handler is `examples.webhooks.lambda_receiver.handler`, and WEBHOOK_SECRET is in its
environment.
"""

from __future__ import annotations

import base64
import logging
import os
from collections.abc import Mapping
from typing import Any

from twh_platform.errors import WebhookError
from twh_platform.webhooks import StandardSecret, Verifier, parse_json

logger = logging.getLogger("receiver")
verifier = Verifier(StandardSecret(os.environ["WEBHOOK_SECRET"]))
handled: dict[str, Any] = {}  # in your service a table with the id as its key


def handler(event: Mapping[str, Any], context: object) -> dict[str, Any]:  # noqa: ARG001 -- Lambda's own
    """
    Verify, then parse, then handle; a second delivery of one event changes nothing.
    """
    try:
        body = body_of(event)
    except ValueError:
        logger.warning("webhook refused: its body is not in the encoding that the event says")
        return {"statusCode": 400}
    try:
        verified = verifier.verify(body, headers_of(event))
        content = parse_json(body)
    except WebhookError as error:
        logger.warning("webhook refused: %s", error.code)
        return {"statusCode": 400 if error.code == "payload_invalid" else 401}
    handled.setdefault(verified.id, content)
    return {"statusCode": 204}


def body_of(event: Mapping[str, Any]) -> bytes:
    """
    The bytes that came.

    Content that the gateway takes for text comes as text, all other in base64.
    Never write event["body"] anew from what was parsed.

    Raises:
        ValueError: If that is no base64, which no gateway sends.
    """
    body: str = event.get("body") or ""
    if event.get("isBase64Encoded"):
        return base64.b64decode(body, validate=True)
    return body.encode()


def headers_of(event: Mapping[str, Any]) -> list[tuple[str, str]]:
    """
    All headers, also those that came twice.

    Version 1 has them in multiValueHeaders, and only the last of each in headers.
    Version 2 joins them with a comma, for which they are refused.
    """
    several = event.get("multiValueHeaders")
    if several:
        return [(name, value) for name, values in several.items() for value in values]
    return list((event.get("headers") or {}).items())
