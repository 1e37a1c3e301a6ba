"""
The security headers, message by message.
"""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from tests.support.tenancy import http_scope, websocket_scope
from twh_platform.errors import ConfigurationError
from twh_platform.webhooks import SecurityHeaders, SecurityHeadersMiddleware

NAMES = {one.name.replace("_", "-") for one in fields(SecurityHeaders)}
HSTS = "strict-transport-security"
WEBSOCKET = {"asgi": {"version": "3.0", "spec_version": "2.3"}}


async def answered(scope, *given, kind="http.response.start", **options):
    """The headers of the first message of an app that sets those that are given."""
    sent = []

    async def app(scope, receive, send):
        await send({"type": kind, "status": 200, "headers": list(given)})

    async def send(message):
        sent.append(message)

    await SecurityHeadersMiddleware(app, **options)(scope, None, send)
    return [(name.decode(), value.decode()) for name, value in sent[0]["headers"]]


async def test_all_are_added_over_tls():
    """Eight headers, once each, behind those of the app."""
    headers = await answered(http_scope(scheme="https"), (b"x-mine", b"1"))

    assert headers[0] == ("x-mine", "1")
    assert sorted(name for name, _ in headers[1:]) == sorted(NAMES)


@pytest.mark.parametrize(
    ("scheme", "https", "sent"),
    [("http", None, False), ("https", None, True), ("http", True, True), ("https", False, False)],
)
async def test_hsts_is_sent_over_tls_only(scheme, https, sent):
    """What the server says, or what we are told (RFC 6797, section 7.2)."""
    headers = dict(await answered(http_scope(scheme=scheme), https=https))

    assert (HSTS in headers) is sent
    assert headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize("name", [b"x-frame-options", b"X-Frame-Options"])
async def test_what_the_app_set_stays(name):
    """In any case, and it is not doubled."""
    headers = await answered(http_scope(), (name, b"SAMEORIGIN"))

    assert [one for one in headers if one[0].lower() == "x-frame-options"] == [
        (name.decode(), "SAMEORIGIN")
    ]


async def test_paths_have_their_own():
    """A page of documents may frame and load; the rest of the service may not."""
    pages = replace(
        SecurityHeaders(), x_frame_options="", content_security_policy="default-src 'self'"
    )
    paths = {"/docs/*": pages}

    there = dict(await answered(http_scope("/docs/start"), paths=paths))
    elsewhere = dict(await answered(http_scope("/items"), paths=paths))
    doubtful = dict(await answered(http_scope("/docs/../items"), paths=paths))

    assert "x-frame-options" not in there
    assert there["content-security-policy"] == "default-src 'self'"
    assert elsewhere["x-frame-options"] == doubtful["x-frame-options"] == "DENY"


@pytest.mark.parametrize("kind", ["websocket.accept", "websocket.http.response.start"])
async def test_handshakes_get_them_too(kind):
    """Accepted and refused, over wss with HSTS."""
    headers = dict(await answered(websocket_scope(scheme="wss", **WEBSOCKET), kind=kind))

    assert set(headers) == NAMES


async def test_servers_that_take_no_headers_get_none():
    """A handshake's headers can be set since version 2.1 of the specification."""
    scope = websocket_scope(asgi={"version": "3.0"})

    assert await answered(scope, kind="websocket.accept") == []


async def test_other_scopes_pass_through():
    """Lifespan is not touched."""
    assert await answered({"type": "lifespan"}) == []


@pytest.mark.parametrize("value", ["a\r\nset-cookie: b=c", "é", "a\x00", None])
def test_values_are_printable(value):
    """A header cannot end early."""
    with pytest.raises(ConfigurationError, match="referrer_policy="):
        SecurityHeaders(referrer_policy=value)
