"""
The session without extras: what it skips, and what stays a failure.

A plugin and not a conftest: pytest asks no conftest about a folder whose own
conftest fails.
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator

import pytest

OURS = {"examples", "tests", "twh_platform"}


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """
    Skip files and folders whose extra is missing, in the session that has none.

    Everywhere else a failed import stays a failure.
    """
    report = yield
    cause = missing_dependency(str(report.longrepr)) if report.failed else None
    if cause and os.environ.get("TWH_TEST_BARE") == "1":
        report.outcome = "skipped"
        report.longrepr = (str(collector.path), 0, f"bare install: {cause}")
    return report


def missing_dependency(failure: str) -> str | None:
    """
    Return what an import error says, unless the mistake is in a module of ours.
    """
    reasons = re.findall(r"(?:ModuleNotFound|MissingExtra)Error: (.*)$", failure, re.MULTILINE)
    name = re.match(r"No module named '(\w+)", reasons[-1]) if reasons else None
    return None if not reasons or (name and name[1] in OURS) else str(reasons[-1])
