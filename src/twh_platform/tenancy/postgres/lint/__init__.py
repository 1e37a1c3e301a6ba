"""
Looking for faults of isolation in a database that may never have been seen before.

    >>> from twh_platform.tenancy.postgres.lint import lint
    >>> report = lint(dsn)  # doctest: +SKIP
    >>> print(report.text())  # doctest: +SKIP

`twh-platform tenancy lint` does the same from the command line.
"""

from ._baseline import read_baseline, write_baseline
from ._findings import Finding, Rule
from ._lint import lint
from ._report import Report
from ._rules import RULES

__all__ = [
    "RULES",
    "Finding",
    "Report",
    "Rule",
    "lint",
    "read_baseline",
    "write_baseline",
]
