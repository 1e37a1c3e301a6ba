"""
Header access, the path that is routed on, and problem responses.
"""

from __future__ import annotations

import json

import pytest

from tests.support.tenancy import exchange, http_scope, websocket_scope
from twh_platform._asgi import Problem, header_values, request_id, route_path
from twh_platform.errors import ConfigurationError

SHORT = Problem(
    status=409,
    code="stock_short",
    title="Not enough stock",
    detail="3 left",
    headers={"Retry-After": "5"},
    extensions={"left": 3},
)


async def test_a_problem_answers_in_the_form_of_rfc_9457():
    """With our two members, and those of this problem."""
    answer = await exchange(SHORT, scope := http_scope())

    assert answer.status == 409
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["content-length"] == str(len(answer.body))
    assert answer.headers["retry-after"] == "5"
    assert answer.headers["x-request-id"] == request_id(scope)
    assert answer.json == {
        "type": "about:blank",
        "title": "Not enough stock",
        "status": 409,
        "detail": "3 left",
        "code": "stock_short",
        "request_id": request_id(scope),
        "left": 3,
    }


@pytest.mark.parametrize(
    "options",
    [
        {"status": 200},
        {"status": 399},
        {"status": 600},
        {"extensions": {"code": "other"}},
        {"extensions": {"request_id": "mine"}},
    ],
)
def test_a_problem_that_would_not_say_what_it_was_told_is_a_mistake(options):
    """A status that refuses nobody, an extension in the place of a member."""
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        Problem(**{"status": 409, "code": "c", "title": "t", **options})


def test_a_problem_keeps_what_it_was_given():
    """Its mappings are copies, and cannot be changed."""
    headers = {"allow": "GET"}
    problem = Problem(status=405, code="c", title="t", headers=headers)
    headers["allow"] = "POST"

    assert problem.headers == {"allow": "GET"}
    with pytest.raises(TypeError):
        problem.headers["allow"] = "POST"


async def test_a_websocket_is_refused_with_the_response_where_the_server_can():
    """Else with close code 1008 and the code as its reason."""
    able = websocket_scope(extensions={"websocket.http.response": {}})
    full = await exchange(SHORT, able)
    plain = await exchange(SHORT, websocket_scope())

    assert [message["type"] for message in full.messages] == [
        "websocket.http.response.start",
        "websocket.http.response.body",
    ]
    assert json.loads(full.messages[1]["body"])["code"] == "stock_short"
    assert plain.messages == [{"type": "websocket.close", "code": 1008, "reason": "stock_short"}]


def test_a_request_has_one_id_of_our_making():
    """Whatever the client sends."""
    scope = http_scope("/", ("x-request-id", "theirs"))

    assert request_id(scope) == request_id(scope) != "theirs"
    assert len(bytes.fromhex(request_id(scope))) == 16


def test_header_values_come_in_order_and_without_regard_to_case():
    """All of them."""
    scope = http_scope("/", ("Accept", "a"), ("accepts", "x"), ("ACCEPT", "b"))

    assert header_values(scope, b"accept") == [b"a", b"b"]


def test_the_route_path_is_what_follows_the_root_path():
    """Where the app is mounted; elsewhere it is the whole path."""
    assert route_path(http_scope("/api/items", root_path="/api")) == "/items"
    assert route_path(http_scope("/apix/items", root_path="/api")) == "/apix/items"
