"""
The lint as a user writes it; checked, never run.
"""

from __future__ import annotations

from pathlib import Path

import psycopg

from twh_platform.cli import main
from twh_platform.tenancy.postgres.lint import (
    RULES,
    Finding,
    Report,
    lint,
    read_baseline,
    write_baseline,
)


def new_errors(connection: psycopg.Connection, baseline: Path) -> list[str]:
    """Report what is new, and write it down."""
    report: Report = lint(connection, app_roles=["shop_app"], known=read_baseline(baseline))
    write_baseline(baseline, report.findings)
    found: tuple[Finding, ...] = report.at_least("error")
    return [f"{one.rule.id} {one.object}: {one.remedy}" for one in found]


def known_rules() -> dict[str, str]:
    """List the rules."""
    return {rule.id: rule.title for rule in RULES}


def status(dsn: str) -> int:
    """Call the command from Python."""
    lint(dsn, schemas=("public",)).sarif()
    return main(["tenancy", "lint", dsn])
