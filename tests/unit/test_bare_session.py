"""
What the session without extras skips, and what it must not.
"""

from __future__ import annotations

import pytest


@pytest.fixture
def suite(pytester, project_root):
    """
    A test suite with our own plugin: one test runs, the rest cannot be imported.
    """
    plugin = project_root / "tests" / "support" / "bare_session.py"
    pytester.makepyfile(planted_plugin=plugin.read_text())
    pytester.makeconftest("pytest_plugins = ['planted_plugin']")
    pytester.makepyfile(test_fine="def test_fine(): pass", test_third="import no_such_driver")
    pytester.makepyfile(
        test_extra="from twh_platform._extras import missing_extra\n"
        "raise missing_extra('psycopg', ImportError(name='psycopg'))"
    )
    folder = pytester.mkdir("folder")
    (folder / "conftest.py").write_text("import no_such_driver.deep")
    (folder / "test_in_folder.py").write_text("def test_never(): pass")
    return pytester


def test_missing_extras_are_skipped(suite, monkeypatch):
    """A file or folder whose dependency is missing is a skip that names it."""
    monkeypatch.setenv("TWH_TEST_BARE", "1")
    result = suite.runpytest_subprocess("-rs")

    result.assert_outcomes(passed=1, skipped=3)
    result.stdout.fnmatch_lines(["*bare install: No module named 'no_such_driver'*"])


def test_elsewhere_they_are_errors(suite, monkeypatch):
    """Control: in the session with every extra the same files fail."""
    monkeypatch.delenv("TWH_TEST_BARE", raising=False)
    result = suite.runpytest_subprocess()

    result.assert_outcomes(errors=3)


def test_our_own_mistakes_are_errors(suite, monkeypatch):
    """Also without extras a module of ours that does not exist is a failure."""
    monkeypatch.setenv("TWH_TEST_BARE", "1")
    suite.makepyfile(test_ours="import twh_platform.no_such_module")
    suite.makepyfile(test_code="raise ValueError('No module named')")
    result = suite.runpytest_subprocess()

    result.assert_outcomes(errors=2, skipped=3)
