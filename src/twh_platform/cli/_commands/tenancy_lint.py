"""
`twh-platform tenancy lint`: look for faults of isolation in a database's catalog.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ...errors import ConfigurationError
from ...tenancy.postgres.lint import Report, lint, read_baseline, write_baseline
from .._command import FOUND, OK, Command
from .._output import write_report

__all__ = ["COMMAND", "DSN_VARIABLE"]

DSN_VARIABLE = "TWH_LINT_DSN"
"""The environment variable that holds the DSN if the command line does not."""


def configure(parser: argparse.ArgumentParser) -> None:
    """
    Add the arguments.
    """
    add = parser.add_argument
    add("dsn", nargs="?", metavar="DSN", help=f"the database; {DSN_VARIABLE} if it is left out")
    add("--format", choices=("text", "json", "sarif"), default="text", help="text if left out")
    add(
        "--output", type=Path, metavar="FILE", help="where to write it; standard output if left out"
    )
    add("--baseline", type=Path, metavar="FILE", help="findings that are known and do not count")
    add("--write-baseline", type=Path, metavar="FILE", help="write all findings there as known")
    add("--schema", action="append", default=[], metavar="S", help="report only this; repeat")
    add("--app-role", action="append", default=[], metavar="R", help="the application's; repeat")
    add(
        "--tenant-column",
        action="append",
        default=[],
        metavar="C",
        help="a tenant column's name, besides those inferred; repeat",
    )
    add(
        "--fail-on",
        choices=("error", "warning", "info"),
        default="warning",
        help="the least severity that makes the status 1; warning if left out",
    )
    add("--rule", action="append", default=[], metavar="ID", help="ask only this rule; repeat")
    add("--ignore", action="append", default=[], metavar="ID", help="leave a rule out; repeat")


def run(options: argparse.Namespace) -> int:
    """
    Lint, write the report, and say with the status whether anything counts.
    """
    dsn = options.dsn or os.environ.get(DSN_VARIABLE)
    if not dsn:
        raise ConfigurationError(f"give a DSN, or set {DSN_VARIABLE}", code="lint_dsn_missing")
    report = lint(
        dsn,
        schemas=options.schema,
        app_roles=options.app_role,
        tenant_columns=options.tenant_column,
        rules=options.rule,
        ignore=options.ignore,
        known=read_baseline(options.baseline) if options.baseline else frozenset(),
    )
    _write(report, options)
    if options.write_baseline:
        # What was known and is still there stays known.
        write_baseline(options.write_baseline, (*report.findings, *report.known))
        return OK
    return FOUND if report.at_least(options.fail_on) else OK


def _write(report: Report, options: argparse.Namespace) -> None:
    made = {"text": report.text, "json": report.json, "sarif": report.sarif}[options.format]()
    write_report(made, options.output, code="lint_output_invalid")


COMMAND = Command(
    path=("tenancy", "lint"),
    help="look for faults of isolation in a database's catalog",
    configure=configure,
    run=run,
    epilog="Exit status: 0 nothing at or above --fail-on, 1 findings, 2 it could not be done.\n"
    "A DSN on the command line is seen by other users of the machine: prefer the\n"
    "environment, or a password file.",
)
