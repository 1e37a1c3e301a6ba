"""
Receive webhooks with Django.

    WEBHOOK_SECRET=whsec_... gunicorn examples.webhooks.django_receiver:application

In a project of several files, `receive` goes to its views and the rest is there already.
"""

from __future__ import annotations

import logging
import os
import secrets
from typing import Any

import django
from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from twh_platform.errors import WebhookError
from twh_platform.webhooks import StandardSecret, Verifier, parse_json

if not settings.configured:
    settings.configure(
        ALLOWED_HOSTS=["127.0.0.1", "localhost"],
        DATA_UPLOAD_MAX_MEMORY_SIZE=64 * 1024,
        MIDDLEWARE=["django.middleware.csrf.CsrfViewMiddleware"],
        ROOT_URLCONF=__name__,
        SECRET_KEY=secrets.token_hex(),
    )
    django.setup()

logger = logging.getLogger("receiver")
verifier = Verifier(StandardSecret(os.environ["WEBHOOK_SECRET"]))
handled: dict[str, Any] = {}  # in your service a table with the id as its key


def receive(request: HttpRequest) -> HttpResponse:
    """
    Verify, then parse, then handle; a second delivery of one event changes nothing.
    """
    try:
        # The bytes, before request.POST: with multipart they are gone after it.
        body = request.body
    except RequestDataTooBig:
        return HttpResponse(status=413)
    try:
        verified = verifier.verify(body, request.headers)
        event = parse_json(body)
    except WebhookError as error:
        logger.warning("webhook refused: %s", error.code)
        return HttpResponse(status=400 if error.code == "payload_invalid" else 401)
    handled.setdefault(verified.id, event)
    return HttpResponse(status=204)


# The signature says who asks; without csrf_exempt Django answers 403.
urlpatterns = [path("webhooks", csrf_exempt(require_POST(receive)))]
application = get_wsgi_application()
