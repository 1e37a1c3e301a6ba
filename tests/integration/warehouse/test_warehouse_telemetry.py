"""
What the warehouse shows of itself: who may read it, and that it is true.
"""

from __future__ import annotations

import asyncio
import io
import json
import logging
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from starlette.applications import Starlette
from starlette.responses import Response

from examples.warehouse.app import create_app
from examples.warehouse.problems import PROBLEMS, Refusal
from examples.warehouse.settings import Settings
from examples.warehouse.telemetry import REQUEST_LOGS, json_logs
from examples.warehouse.tour.check import mismatch
from examples.warehouse.tour.collector import HAS_OPENTELEMETRY, collecting
from examples.warehouse.tour.step import Holds
from tests.support.warehouse import Client, SignIn, add, add_item, connect

TOKEN = "a token for the page of metrics"
PAGE = "http://localhost/metrics"


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Starlette]:
    """
    An app of its own.
    """
    app = create_app(settings)
    async with app.state.services.running():
        yield app


async def page_of(client: Client, **headers: str) -> str:
    """
    The page of metrics, newly made.
    """
    await asyncio.sleep(1.1)  # one is served again for a second
    answer = await client.get(PAGE, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.text


async def test_the_page_is_for_this_machine(client: Client) -> None:
    """
    Without a token it is for the machine itself, and not for whoever a proxy speaks for.
    """
    near = await client.get(PAGE)
    far = await client.get(PAGE, headers={"X-Forwarded-For": "192.0.2.1"})
    named = await client.get("/metrics")  # as a page in a browser here would ask

    assert (near.status_code, far.status_code, named.status_code) == (200, 403, 403)
    assert far.json()["code"] == "metrics_refused"


async def test_with_a_token_the_page_is_for_whoever_has_it(warehouse: Settings) -> None:
    """
    The machine itself needs it too.
    """
    token = TOKEN.replace(" ", "-")
    async with (
        running(replace(warehouse, metrics_token=token)) as app,
        connect(app) as client,
    ):
        bare = await client.get("/metrics")
        page = await page_of(client, authorization=f"Bearer {token}")

    assert bare.status_code == 401
    assert "http_server_request_duration_seconds" in page


async def test_what_is_done_is_counted_once(sign_in: SignIn, app: Starlette) -> None:
    """
    A request that is sent twice is one movement, and a refused one is none.
    """
    user = await sign_in()
    place = await add(user, "/locations", code=secrets.token_hex(4), name="Place")
    body = {"item_id": await add_item(user), "location_id": place, "reason": "counted"}
    key = {"Idempotency-Key": secrets.token_hex(8)}

    for _ in range(2):
        await user.post("/stock/adjust", json={**body, "quantity": 7}, headers=key)
    short = await user.post("/stock/adjust", json={**body, "quantity": -8})
    page = await page_of(connect(app))

    assert short.json()["code"] == "stock_short"
    assert 'warehouse_stock_movements_total{kind="adjustment"} 1\n' in page.replace(".0\n", "\n")
    assert 'duration_seconds_count{operation="stock.adjust",outcome="refused"} 1' in page


async def test_an_error_that_nobody_has_handled_is_seen(sign_in: SignIn, app: Starlette) -> None:
    """
    Telemetry is around Starlette's own handling of errors: that answer is counted, and traced.
    """

    async def fail(_request: object) -> Response:
        raise ZeroDivisionError

    user = await sign_in()
    app.router.add_route("/fails", fail)
    answer = await user.get("/fails")
    page = await page_of(connect(app))

    assert answer.headers["traceresponse"].startswith("00-")
    assert 'http_response_status_code="500",error_type="ZeroDivisionError"' in page


def test_what_is_our_fault_is_no_refusal() -> None:
    """
    A refusal counts as the caller's fault in every operation, so nothing else can be one.
    """
    refused = [code for code, problem in PROBLEMS.items() if problem.status < 500]

    assert all(Refusal(code).problem.status < 500 for code in refused)
    assert {"sealed_unreadable", "internal_error"} <= PROBLEMS.keys() - set(refused)
    for code in PROBLEMS.keys() - set(refused):
        with pytest.raises(ValueError, match="is no refusal"):
            Refusal(code)


async def test_log_lines_have_the_tenant_and_the_trace(sign_in: SignIn) -> None:
    """
    A line of JSON for each request, with the route's template.
    """
    written = io.StringIO()
    user = await sign_in()
    with json_logs(logging.StreamHandler(written), *REQUEST_LOGS):
        answer = await user.get("/items")

    line = json.loads(written.getvalue())
    assert line["trace_id"] == answer.headers["traceresponse"].split("-")[1]
    assert line["attributes"]["tenant.id"] == "acme"
    assert line["attributes"]["http.route"] == "/items"


@pytest.mark.skipif(not HAS_OPENTELEMETRY, reason="needs the extra otel")
async def test_the_end_sends_the_spans_that_wait(warehouse: Settings) -> None:
    """
    A span that was to be sent in an hour is there when the app has stopped.
    """
    with collecting() as collector:
        otel = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_TRACES_SAMPLER": "always_on",
            "OTEL_BSP_SCHEDULE_DELAY": "3600000",
        }
        async with running(replace(warehouse, otel=otel)) as app, connect(app) as client:
            answer = await client.get("/healthz")
            before = list(collector.spans)
        trace_id = answer.headers["traceresponse"].split("-")[1]
        names = [span.name for span in collector.of_trace(trace_id, seconds=0)]

    assert before == []
    assert names[0] == "GET /healthz"


def test_all_parts_have_to_be_there() -> None:
    """
    A text with one of two is none.
    """
    both = Holds(("a=1", "b=2"))

    assert mismatch("x a=1 b=2", both) == ""
    assert mismatch("x a=1", both) != ""
    assert mismatch(None, both) != ""
