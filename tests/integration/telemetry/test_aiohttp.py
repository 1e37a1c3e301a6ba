"""
Sessions of aiohttp that are watched.
"""

# ruff: noqa: E402 -- after the look for the extra
from __future__ import annotations

import pytest

aiohttp = pytest.importorskip("aiohttp")
pytest.importorskip("uvicorn")

from tests.integration.telemetry._services import *  # noqa: F403 -- fixtures
from tests.integration.telemetry._services import SECRET
from tests.support.client_spans import in_request
from twh_platform import Tenant, bind_tenant
from twh_platform.telemetry.aiohttp import trace_config

OURS = {"traceparent", "tracestate", "baggage"}


@pytest.fixture
async def session(services):
    """A session that is watched."""
    async with aiohttp.ClientSession(trace_configs=[trace_config(services.calls)]) as session:
        yield session


async def fetch(session, url, **options):
    """Get and read."""
    async with session.get(url, **options) as response:
        await response.read()
        return response


async def test_a_request_is_one_call(session, services):
    """Our service is told the trace and the tenant; no address is told to telemetry."""
    with in_request(), bind_tenant(Tenant(id="a")):
        await fetch(session, f"{services.our_url}/{SECRET}", params={"q": SECRET})

    span = services.spans.made[0]
    assert (span.name, span.has_ended, span.error) == ("GET", True, None)
    assert services.us.heard[0]["traceparent"] == span.place.traceparent
    assert services.us.heard[0]["baggage"] == "tenant.id=a"
    assert services.counted("localhost", "200") == 1
    assert SECRET not in services.page + str(services.spans)


@pytest.mark.parametrize("form", ["{}/x", "//{}/x"])
async def test_a_stranger_is_told_nothing(session, services, form):
    """Neither directly nor by a redirect of ours, in which aiohttp sends the same headers."""
    target = services.strange_url
    if form.startswith("//"):
        target = target.removeprefix("http://")
    with in_request(), bind_tenant(Tenant(id="a")):
        await fetch(session, services.strange_url)
        await fetch(session, f"{services.our_url}/to/{form.format(target)}")

    assert len(services.stranger.heard) == 2
    assert all(OURS.isdisjoint(headers) for headers in services.stranger.heard)
    assert "traceparent" in services.us.heard[0]


async def test_control_aiohttp_sends_headers_on(services):
    """Control: a header that is added at the start alone reaches the stranger."""

    async def start(_session, _context, about):
        about.headers["traceparent"] = "leaked"

    config = aiohttp.TraceConfig()
    config.on_request_start.append(start)
    async with aiohttp.ClientSession(trace_configs=[config]) as session:
        await fetch(session, f"{services.our_url}/to/{services.strange_url}/x")

    assert services.stranger.heard[0]["traceparent"] == "leaked"


async def test_redirects_within_our_host_keep_the_trace(session, services):
    """A relative address is the same host."""
    with in_request():
        await fetch(session, f"{services.our_url}/to//x")
        await fetch(session, f"{services.strange_url}/to/{services.our_url}/x")

    assert [set(headers) & {"traceparent"} for headers in services.us.heard] == [
        {"traceparent"},
        {"traceparent"},
        {"traceparent"},
    ]
    assert OURS.isdisjoint(services.stranger.heard[0])


async def test_what_is_there_stays(session, services):
    """Who sends a traceparent of one's own, sends that one."""
    with in_request():
        await fetch(session, services.our_url, headers={"traceparent": "mine"})

    assert services.us.heard[0]["traceparent"] == "mine"


async def test_an_answer_of_400_or_more_is_an_error(session, services):
    """Its type is the status."""
    await fetch(session, f"{services.our_url}/404")

    assert services.counted("localhost", "404", "404") == 1
    assert services.spans.made[0].error == "404"


async def test_a_failure_tells_its_type(session, services):
    """Nobody listens there."""
    with pytest.raises(aiohttp.ClientConnectorError) as caught:
        await fetch(session, f"http://localhost:1/{SECRET}")

    error = f"{type(caught.value).__module__}.{type(caught.value).__qualname__}"
    assert services.counted("localhost", "", error) == 1
    assert services.spans.made[0].has_ended
    assert SECRET not in services.page + str(services.spans)
