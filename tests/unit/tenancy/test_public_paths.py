"""
Which paths need no tenant.
"""

from __future__ import annotations

import pytest

from tests.support.tenancy import http_scope
from twh_platform.errors import ConfigurationError
from twh_platform.tenancy._public_paths import PublicPaths

PUBLIC = PublicPaths(["/", "/healthz", "/auth/login", "/docs/*"])


@pytest.mark.parametrize(
    "path",
    ["/", "/healthz", "/auth/login", "/docs/", "/docs/index.html", "/docs/a/b/", "/docs/été"],
)
def test_public_paths_are_public(path):
    """An exact path, and what is below a subtree."""
    assert PUBLIC.cover(http_scope(path))


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/healthz-secret",
        "/healthz/",
        "/healthz/x",
        "/Healthz",
        "/auth",
        "/auth/login2",
        "/docs",
        "/docs-secret",
        "//",
        "//healthz",
        "/./healthz",
        "/x/../healthz",
        "/docs/../items",
        "/docs/./x",
        "/docs//x",
        "//docs/x",
        "/docs/..",
        "/docs/..\\items",
        "/docs/%2e%2e/items",
        "/docs/a\x00b",
        "/healthz\n",
        "/healthz;x",
        "/items/docs/x",
    ],
)
def test_what_only_looks_public_is_not(path):
    """Whole segments count, and nothing is normalised."""
    assert not PUBLIC.cover(http_scope(path, raw_path=None))


@pytest.mark.parametrize(
    ("path", "raw"),
    [
        ("/healthz", b"/%68ealthz"),
        ("/healthz", b"/x/%2e%2e/healthz"),
        ("/auth/login", b"/auth%2flogin"),
        ("/docs/a/b", b"/docs/a%2fb"),
        ("/docs/a", b"/docs%2fa"),
        ("/docs/../items", b"/docs/%2e%2e/items"),
    ],
)
def test_encoded_spellings_are_not_public(path, raw):
    """A path that is written in another way than it reads is for tenants only."""
    assert not PUBLIC.cover(http_scope(path, raw_path=raw))


def test_the_path_is_the_one_that_the_app_routes_on():
    """Behind a root path, with the server that repeats it and the one that does not."""
    assert PUBLIC.cover(http_scope("/api/healthz", root_path="/api"))
    assert PUBLIC.cover(http_scope("/healthz", root_path="/api"))
    assert not PUBLIC.cover(http_scope("/apix/healthz", root_path="/api"))
    assert not PUBLIC.cover(http_scope("/api/healthz"))


@pytest.mark.parametrize(
    "pattern", ["", "/*", "*", "healthz", "/a*", "/a/*/b", "/a//b", "/../a", "/%61"]
)
def test_patterns_that_say_too_much_or_nothing_are_refused(pattern):
    """A pattern that would open everything is a mistake, not a wish."""
    with pytest.raises(ConfigurationError, match="is not like"):
        PublicPaths([pattern])
