"""
Requests that a server begins from inside the one before, as with HTTP pipelining.
"""

from __future__ import annotations

import asyncio
import contextvars

import pytest

pytest.importorskip("opentelemetry.sdk")

from tests.support.spans import Watch, answering, call
from twh_platform.telemetry import current_exchange


@pytest.mark.parametrize("ratio", [0.0, 1.0])
@pytest.mark.parametrize("inside", [True, False])
async def test_each_request_has_a_trace_of_its_own(ratio, inside):
    """Also where the context that it finds has the span of another; the control finds none."""
    watch, traces, following = Watch(ratio=ratio), [], []
    context = contextvars.copy_context()

    async def app(scope, receive, send):
        traces.append(current_exchange().trace_id)
        await answering(scope, receive, send)

    async def last_byte(message):
        if message["type"] == "http.response.body":
            where = None if inside else context
            following.append(asyncio.create_task(call(watched, "/second"), context=where))

    watched = watch.around(app)
    await watched(_scope(), None, last_byte)
    await following[0]

    assert len(set(traces)) == 2
    paths = [span.attributes["url.path"] for span in watch.spans]
    assert paths == (["/first", "/second"] if ratio else [])


def _scope():
    return {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/first",
        "query_string": b"",
        "headers": [],
        "client": ("203.0.113.9", 1),
        "server": ("127.0.0.1", 80),
    }
