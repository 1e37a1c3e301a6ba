"""
Clients of httpx that are watched.
"""

# ruff: noqa: E402 -- after the look for the extra
from __future__ import annotations

import asyncio

import pytest

httpx = pytest.importorskip("httpx")
pytest.importorskip("uvicorn")

from tests.integration.telemetry._services import *  # noqa: F403 -- fixtures
from tests.integration.telemetry._services import SECRET
from tests.support.client_spans import in_request
from twh_platform import Tenant, bind_tenant
from twh_platform.telemetry.httpx import (
    AsyncTelemetryTransport,
    TelemetryTransport,
    watch_client,
)

OURS = {"traceparent", "tracestate", "baggage"}


@pytest.fixture
async def client(services):
    """A client that is watched, and follows redirects."""
    async with httpx.AsyncClient(follow_redirects=True) as client:
        yield watch_client(client, services.calls)


async def test_a_request_is_one_call(client, services):
    """Our service is told the trace and the tenant; no address is told to telemetry."""
    with in_request(), bind_tenant(Tenant(id="a")):
        await client.get(f"{services.our_url}/{SECRET}", params={"q": SECRET})

    span = services.spans.made[0]
    assert (span.name, span.has_ended, span.error) == ("GET", True, None)
    assert services.us.heard[0]["traceparent"] == span.place.traceparent
    assert services.us.heard[0]["baggage"] == "tenant.id=a"
    assert span.attributes["http.response.status_code"] == 200
    assert services.counted("localhost", "200") == 1
    assert SECRET not in services.page + str(services.spans)


async def test_a_stranger_is_told_nothing(client, services):
    """Neither directly nor by a redirect of ours, in which httpx copies headers."""
    with in_request(), bind_tenant(Tenant(id="a")):
        await client.get(services.strange_url)
        await client.get(f"{services.our_url}/to/{services.strange_url}/x")

    assert len(services.stranger.heard) == 2
    assert all(OURS.isdisjoint(headers) for headers in services.stranger.heard)
    assert "traceparent" in services.us.heard[0]
    assert services.counted("localhost", "307") == 1
    assert services.counted("_OTHER", "200") == 2


async def test_what_is_there_stays(client, services):
    """Who sends a traceparent of one's own, sends that one."""
    with in_request():
        response = await client.get(services.our_url, headers={"traceparent": "mine"})

    assert services.us.heard[0]["traceparent"] == "mine"
    assert response.request.headers["traceparent"] == "mine"


async def test_an_answer_of_400_or_more_is_an_error(client, services):
    """Its type is the status."""
    await client.get(f"{services.our_url}/503")

    assert services.counted("localhost", "503", "503") == 1
    assert services.spans.made[0].error == "503"


async def test_a_failure_tells_its_type(client, services):
    """Nobody listens there."""
    with pytest.raises(httpx.ConnectError):
        await client.get(f"http://localhost:1/{SECRET}")

    assert services.counted("localhost", "", "httpx.ConnectError") == 1
    assert services.spans.made[0].error == "httpx.ConnectError"
    assert SECRET not in services.page + str(services.spans)


async def test_a_transport_can_be_given(services):
    """As httpx means it, for both kinds of client."""
    inner = httpx.AsyncHTTPTransport()
    async with httpx.AsyncClient(
        transport=AsyncTelemetryTransport(inner, services.calls)
    ) as client:
        await watch_client(client, services.calls).get(services.our_url)

    def call():
        transport = TelemetryTransport(httpx.HTTPTransport(), services.calls)
        with httpx.Client(transport=transport) as client:
            client.post(services.our_url, content=SECRET)

    await asyncio.to_thread(call)
    assert services.counted("localhost", "200") == 1
    assert services.counted("localhost", "200", method="POST") == 1


async def test_a_sync_client_is_watched(services):
    """Its redirects tell a stranger nothing either."""

    def call():
        with in_request(), httpx.Client(follow_redirects=True) as client:
            watch_client(watch_client(client, services.calls), services.calls)
            client.get(f"{services.our_url}/to/{services.strange_url}/x")
            with pytest.raises(httpx.ConnectError):
                client.get("http://localhost:1/")

    await asyncio.to_thread(call)
    assert services.counted("localhost", "307") == 1
    assert services.counted("localhost", "", "httpx.ConnectError") == 1
    assert OURS.isdisjoint(services.stranger.heard[0])
