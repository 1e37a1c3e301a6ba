"""
`require_part`: a skip, or a failure where `TWH_REQUIRE` says so.
"""

from __future__ import annotations

import sys

import pytest

from twh_platform.errors import MissingExtraError
from twh_platform.testing import require_part


def test_what_was_found_is_returned():
    """A part that is there is handed back."""
    assert require_part("redis", "/usr/bin/redis-server", hint="") == "/usr/bin/redis-server"


def test_a_missing_part_skips(monkeypatch):
    """Without TWH_REQUIRE a missing part is a skip that says how to get it."""
    monkeypatch.setenv("TWH_REQUIRE", "postgres")

    with pytest.raises(pytest.skip.Exception, match="redis is missing: apt-get install"):
        require_part("redis", None, hint="apt-get install redis-server")


def test_a_required_part_fails(monkeypatch):
    """A part that TWH_REQUIRE names must be there."""
    monkeypatch.setenv("TWH_REQUIRE", "postgres, redis")

    with pytest.raises(pytest.fail.Exception, match="TWH_REQUIRE asks for it: apt-get install"):
        require_part("redis", None, hint="apt-get install redis-server")


def test_without_pytest_the_extra_is_named(monkeypatch):
    """Outside of a test environment the message says what to install."""
    monkeypatch.setitem(sys.modules, "pytest", None)

    with pytest.raises(MissingExtraError, match=r"install twh-platform\[testing\]"):
        require_part("redis", None, hint="")
