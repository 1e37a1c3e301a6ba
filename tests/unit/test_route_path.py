"""
The path that is routed on, read as Starlette reads it.
"""

from __future__ import annotations

import pytest
from starlette._utils import get_route_path

from tests.support.tenancy import http_scope
from twh_platform._asgi import route_path


@pytest.mark.parametrize(
    ("path", "root", "inside"),
    [
        ("/items", "", "/items"),
        ("/api/items", "/api", "/items"),
        ("/api", "/api", ""),
        ("/api/", "/api", "/"),
        ("/apix/items", "/api", "/apix/items"),
        ("/items", "/api", "/items"),
    ],
)
def test_the_route_path_is_what_starlette_routes_on(path, root, inside):
    """Ours and theirs read the same."""
    scope = http_scope(path, root_path=root)

    assert route_path(scope) == get_route_path(scope) == inside
