"""
Routes: templates out of a closed list.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tests.support.tenancy import http_scope, websocket_scope
from twh_platform.errors import ConfigurationError
from twh_platform.quotas import RouteTable


def route(table: RouteTable, path: str, method: str = "GET", **more) -> str | None:
    """The answer for a request."""
    return table(http_scope(path, method=method, **more))


TABLE = RouteTable(
    [
        "/items/{id}",
        "/items/search",
        "/items/{id}/parts/{part:int}",
        "/items/{id}/parts/first",
        "/files/{name:path}",
        "/reports/{name}.csv",
        "POST /auth/login",
        "GET /orders/{id:uuid}",
        "WEBSOCKET /live",
        "/",
    ]
)


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/items/42", "GET /items/{id}"),
        ("HEAD", "/items/42", "GET /items/{id}"),
        ("GET", "/items/search", "GET /items/search"),
        ("GET", "/items/7/parts/3", "GET /items/{id}/parts/{part}"),
        ("GET", "/items/7/parts/first", "GET /items/{id}/parts/first"),
        ("GET", "/items/7/parts/last", None),
        ("GET", "/items/", None),
        ("GET", "/items//parts/3", None),
        ("PUT", "/files/a/b/c.txt", "PUT /files/{name}"),
        ("PUT", "/files/", "PUT /files/{name}"),
        ("GET", "/reports/may.csv", "GET /reports/{name}.csv"),
        ("GET", "/reports/may.pdf", None),
        ("POST", "/auth/login", "POST /auth/login"),
        ("GET", "/auth/login", "/auth/login"),
        ("BREW", "/items/42", "/items/{id}"),
        ("GET", "/orders/6f9619ff-8b86-d011-b42d-00c04fc964ff", "GET /orders/{id}"),
        ("GET", "/orders/42", None),
        ("GET", "/", "GET /"),
        ("GET", "", None),
        ("GET", "/nowhere", None),
    ],
)
def test_a_request_has_a_template_or_nothing(method, path, expected):
    """Method and template; the template alone for a method that it does not have."""
    assert route(TABLE, path, method) == expected


def test_a_websocket_has_a_method_of_its_own():
    """It has none of HTTP's."""
    assert TABLE(websocket_scope("/live")) == "WEBSOCKET /live"
    assert TABLE(websocket_scope("/items/1")) == "WEBSOCKET /items/{id}"


@pytest.mark.parametrize("method", ["post", "Post", "POST"])
def test_a_method_is_the_same_however_it_is_written(method):
    """Apps that dispatch by `method.lower()` run the same handler, as older Starlettes do."""
    assert route(TABLE, "/auth/login", method) == "POST /auth/login"


def test_a_method_that_a_template_is_for_is_told():
    """QUERY, and whatever else a route has been declared for; of others the template alone."""
    declared = [SimpleNamespace(path="/dav", endpoint=route, methods={"PROPFIND"})]
    table = RouteTable.of_starlette(declared)

    assert route(TABLE, "/items/search", "QUERY") == "QUERY /items/search"
    assert route(table, "/dav", "PROPFIND") == "PROPFIND /dav"
    assert route(table, "/dav", "MKCOL") == "/dav"
    assert table.names() == {"PROPFIND /dav", "/dav"}


def test_the_mount_of_the_app_is_not_part_of_it():
    """As the app inside routes: on the path below `root_path`."""
    mounted = {"root_path": "/api"}

    assert route(TABLE, "/api/items/1", **mounted) == "GET /items/{id}"
    assert route(TABLE, "/items/1", **mounted) == "GET /items/{id}"


def test_the_answers_are_a_closed_list():
    """Whatever is sent, and however often, nothing new comes out."""
    names = TABLE.names()
    methods = ["GET", "HEAD", "BREW", "X" * 50]
    found = {route(TABLE, f"/items/{number}", method) for number in range(9) for method in methods}

    assert found == {"GET /items/{id}", "/items/{id}"}
    assert found <= names
    assert "HEAD /items/{id}" not in names


@pytest.mark.parametrize(
    "template", ["items", "get /items", "BREW /items", "/items/{id:nothing}", "/a\n", "", 7]
)
def test_what_is_no_template_is_refused(template):
    """The message quotes it."""
    with pytest.raises(ConfigurationError, match=r"is not like|nobody knows"):
        RouteTable([template])


def test_one_template_is_no_list():
    """A forgotten bracket is not a table of letters."""
    with pytest.raises(ConfigurationError, match="not a list"):
        RouteTable("/items")
