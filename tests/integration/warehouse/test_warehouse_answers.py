"""
What the warehouse says: its document is true, and its refusals tell nothing they should not.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
import secrets
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import httpx
import pytest
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import validate
from sqlalchemy import text
from starlette.applications import Starlette

from examples.warehouse import passwords
from examples.warehouse.app import create_app
from examples.warehouse.auth import Role
from examples.warehouse.routes.service import HealthView
from examples.warehouse.settings import Settings
from examples.warehouse.tour import tours
from examples.warehouse.tour.check import drive
from examples.warehouse.web import Call, operation, routes
from tests.support.tenancy import http_scope
from tests.support.warehouse import PASSWORD, Client, SignIn, add_item, connect, log_in, somewhere


def test_the_document_is_openapi(app: Starlette) -> None:
    """
    The document is valid OpenAPI 3.1.
    """
    validate(app.state.openapi)


def test_the_document_has_every_route_and_no_other(app: Starlette) -> None:
    """
    Methods and paths of the document are those that are routed.
    """
    documented = {
        (method.upper(), path)
        for path, methods in app.state.openapi["paths"].items()
        for method in methods
    }
    routed = {
        (method, route.path.replace("{id:uuid}", "{id}"))
        for route in app.routes
        for method in route.methods - {"HEAD"}
    }

    assert documented == routed


QUOTA_FIELDS = {"ratelimit", "ratelimit-policy"}


def bodies(answer: httpx.Response, kind: str) -> list[Any]:
    """
    What the schema of an answer is for: its body, or each line of it.
    """
    if kind == "text/csv":
        return [answer.text]
    if kind == "application/x-ndjson":
        return [json.loads(line) for line in answer.text.splitlines()]
    return [answer.json()]


class TruthfulTransport(httpx.ASGITransport):
    """
    Compares every answer with the document, and collects what is not in it.
    """

    def __init__(self, app: Starlette) -> None:
        super().__init__(app, raise_app_exceptions=False)
        self.document = app.state.openapi
        self.lies: list[str] = []
        self.compared = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """
        Answer, and compare.
        """
        answer = await super().handle_async_request(request)
        await answer.aread()
        self.lies += [
            f"{request.method} {request.url}: {one}" for one in self.compare(answer, request)
        ]
        return answer

    def compare(self, answer: httpx.Response, request: httpx.Request) -> Iterator[str]:
        """
        Say what the document does not say of this answer.
        """
        described = self.described(request)
        if described is None:
            return
        self.compared += 1
        response = described["responses"].get(str(answer.status_code))
        kind = answer.headers["content-type"].partition(";")[0]
        if response is None or kind not in response["content"]:
            yield f"{answer.status_code} {kind} is not documented: {answer.text}"
            return
        schema = {**response["content"][kind]["schema"], "components": self.document["components"]}
        for body in bodies(answer, kind):
            yield from (one.message for one in OAS31Validator(schema).iter_errors(body))
            if answer.is_error and f"`{body['code']}`" not in response["description"]:
                yield f"{body['code']} is not documented"
        told = {name.lower() for name in response.get("headers", {})}
        yield from (f"{name} is not documented" for name in QUOTA_FIELDS & {*answer.headers} - told)

    def described(self, request: httpx.Request) -> dict[str, Any] | None:
        """
        Find the operation in the document.
        """
        for path, methods in self.document["paths"].items():
            pattern = re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(path))
            if re.fullmatch(pattern, request.url.path) and request.method.lower() in methods:
                found: dict[str, Any] = methods[request.method.lower()]
                return found
        return None


async def test_every_answer_of_the_tour_is_documented(app: Starlette, warehouse: Settings) -> None:
    """
    The whole tour, in process: each status, code and body is as the document says.
    """
    transport, said = TruthfulTransport(app), []
    right = await drive("http://localhost", tours(warehouse, PASSWORD), said.append, transport)

    assert right, [line for line in said if not line.startswith("ok")]
    assert transport.lies == []
    assert transport.compared > 400


async def test_what_was_added_is_found_where_the_answer_says(sign_in: SignIn) -> None:
    """
    `Location` names the record, and only an operation that adds one has it.
    """
    user = await sign_in()
    added = await user.post("/locations", json={"code": secrets.token_hex(4), "name": "L"})
    item = await add_item(user)
    body = {"item_id": item, "location_id": added.json()["id"], "quantity": 1, "reason": "r"}

    adjusted = await user.post("/stock/adjust", json=body)

    assert (await user.get(added.headers["location"])).json() == added.json()
    assert "location" not in adjusted.headers


async def test_a_wrong_method_is_told_the_right_ones(sign_in: SignIn) -> None:
    """
    405 comes with `Allow`.
    """
    user = await sign_in()

    answer = await user.delete("/items")

    assert answer.json()["code"] == "method_not_allowed"
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD", "POST"}


def let_fail(app: Starlette, statement: str) -> None:
    """
    Add a route whose handler runs this statement, and breaks without one.
    """

    @operation("GET", "/fails", access=Role.VIEWER)
    async def fails(call: Call) -> HealthView:
        if not statement:
            raise RuntimeError("the secret of the house")
        await call.db.execute(text(statement))
        return HealthView()

    app.router.routes.extend(routes([fails]))


async def test_a_fault_of_ours_tells_nothing(app: Starlette, sign_in: SignIn) -> None:
    """
    A handler that breaks is answered with 500 and a request id, and nothing of the reason.
    """
    user = await sign_in()
    let_fail(app, "")

    answer = await user.get("/fails")

    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert "secret" not in answer.text
    assert re.fullmatch("[0-9a-f]{32}", answer.json()["request_id"])


def raised(sqlstate: str) -> str:
    """
    A statement that the database complains about in this way.
    """
    return f"DO $$ BEGIN RAISE EXCEPTION 'inside' USING ERRCODE = '{sqlstate}'; END $$"


COMPLAINTS = {
    "division by zero": ("SELECT 1/0", 500, "internal_error"),
    "no tenant bound": (raised("TW001"), 500, "internal_error"),
    "a row of another tenant": ("UPDATE items SET tenant_id = 'x'", 403, "tenant_refused"),
    "no grant": ("DELETE FROM items", 403, "tenant_refused"),
    "shutting down": (raised("57P01"), 503, "backend_unavailable"),
    "too slow": (raised("57014"), 503, "backend_unavailable"),
    "deadlock": (raised("40P01"), 503, "backend_unavailable"),
    "out of connections": (raised("53300"), 503, "backend_unavailable"),
}


@pytest.mark.parametrize(("statement", "status", "code"), COMPLAINTS.values(), ids=COMPLAINTS)
async def test_complaints_of_the_database_have_their_answers(
    app: Starlette, sign_in: SignIn, statement: str, status: int, code: str
) -> None:
    """
    What the database says inside a request becomes a stable code, never its own words.
    """
    user = await sign_in()
    let_fail(app, statement)

    answer = await user.get("/fails")

    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert ("retry-after" in answer.headers) is (status == 503)
    assert "inside" not in answer.text
    assert "SELECT" not in answer.text


async def test_nobody_learns_who_has_an_account(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A wrong password, an unknown user and an unknown tenant are answered alike, after the same work.
    """
    work: list[int] = []
    scrypt = hashlib.scrypt

    def counted(*args: Any, **kwargs: Any) -> bytes:
        work.append(kwargs["n"] * kwargs["p"])
        return scrypt(*args, **kwargs)

    monkeypatch.setattr(hashlib, "scrypt", counted)
    tried = [
        ("acme", "admin@acme.example"),
        ("acme", "nobody@acme.example"),
        ("nowhere", "a@b.c"),
        ("dormant", "admin@dormant.example"),
        ("a'b", "a@b.c"),
        (None, "administrator@warehouse.example"),
    ]
    answers = []
    for tenant, address in tried:
        body = {"tenant": tenant, "email": address, "password": "wrong"}
        answer = await client.post("/auth/login", json=body, headers=somewhere())
        answers.append((answer.status_code, {**answer.json(), "request_id": "-"}))

    assert all(answer == answers[0] for answer in answers)
    assert answers[0][0] == 401
    assert len(work) == len(tried)
    assert len(set(work)) == 1


async def test_a_client_that_leaves_in_mid_body_is_no_fault(
    app: Starlette, sign_in: SignIn, caplog: pytest.LogCaptureFixture
) -> None:
    """
    F11c: half a body and then nobody: nothing is logged as an error or raised.
    """
    user = await sign_in()
    sent: list[Any] = []
    half = {"type": "http.request", "body": b'{"sku": ', "more_body": True}
    coming = iter([half, {"type": "http.disconnect"}])
    headers = {"content-type": "application/json", "authorization": user.headers["authorization"]}

    async def receive() -> Any:
        return next(coming)

    async def send(message: Any) -> None:
        sent.append(message)

    await app(http_scope("/items", *headers.items(), method="POST"), receive, send)
    assert [one for one in caplog.records if one.levelno >= logging.WARNING] == []
    assert sent[0]["status"] == 400


async def test_a_login_waits_for_no_thread_of_others(
    warehouse: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    H: with the loop's executor taken and a slow hash, `database_seconds` is not in the way.
    """
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    released = threading.Event()
    taken = asyncio.create_task(asyncio.to_thread(released.wait, 10))
    hashed = passwords._scrypt
    monkeypatch.setattr(passwords, "_scrypt", lambda *given: (time.sleep(1.2), hashed(*given))[1])
    app = create_app(replace(warehouse, database_seconds=1.0))
    try:
        async with app.state.services.running(), connect(app) as client:
            assert await log_in(client, "acme", "admin")
        assert not taken.done()
    finally:
        released.set()
        await taken


async def test_logins_that_wait_are_bounded(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    H: one more than may wait is told to come again; the others get their answer.
    """
    monkeypatch.setattr(passwords, "_MAX_WAITING", 2)
    body = {"email": "nobody@acme.example", "password": "guess"}
    answers = [client.post("/auth/login", json=body) for _ in range(3)]

    codes = sorted(answer.status_code for answer in await asyncio.gather(*answers))
    assert codes == [401, 401, 503]
