"""
What holds for which path.
"""

from __future__ import annotations

import pytest

from tests.support.tenancy import http_scope
from twh_platform.errors import ConfigurationError
from twh_platform.webhooks._path_table import PathTable

TABLE = PathTable({"/hooks": 1, "/hooks/*": 2, "/hooks/big/*": 3, "/hooks/big/one": 4})


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("/hooks", 1),
        ("/hooks/", 1),
        ("/hooks/x", 2),
        ("/hooks/big", 2),
        ("/hooks/big/x", 3),
        ("/hooks/big/one", 4),
        ("/hooks/big/one/", 4),
        ("/hooks-secret", None),
        ("/", None),
        ("", None),
    ],
)
def test_the_nearest_path_is_found(path, value):
    """An exact path before a subtree, a longer subtree before a shorter."""
    assert TABLE.find(http_scope(path)) == value


@pytest.mark.parametrize(
    ("path", "raw"),
    [
        ("/a//b", None),
        ("/a/../b", None),
        ("/a/./b", None),
        ("/a\\b", None),
        ("/a/%2e", None),
        ("/a\n", None),
        ("/a/b", b"/a%2fb"),
    ],
)
def test_some_paths_can_be_read_in_two_ways(path, raw):
    """What frameworks and proxies do not agree on."""
    assert TABLE.doubtful(http_scope(path, raw_path=raw))


@pytest.mark.parametrize("path", ["/", "/hooks", "/hooks/", "/hooks/a.b", "/hooks/été"])
def test_most_paths_cannot(path):
    """Letters beyond ASCII are fine."""
    assert not TABLE.doubtful(http_scope(path, raw_path=path.encode()))


@pytest.mark.parametrize("path", ["", "hooks", "/a//b", "/a/../b", "/a*", "*", "/a?b", "/{id}"])
def test_patterns_are_paths(path):
    """A pattern that would never be met is a mistake."""
    with pytest.raises(ConfigurationError):
        PathTable({path: 1})
