"""
`twh-platform dashboards export`: write dashboards, provisioning and rules.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .._command import OK, Command
from .._output import counted

__all__ = ["COMMAND"]


def configure(parser: argparse.ArgumentParser) -> None:
    """
    Take the folder and the objectives.
    """
    from ...telemetry.dashboards._objectives import Objectives

    usual, add = Objectives(), parser.add_argument
    add("folder", type=Path, metavar="DIR", help="where to; files of these names are replaced")
    add(
        "--job",
        action="append",
        default=[],
        metavar="NAME",
        help=f"a scrape job of the service; {usual.jobs[0]} if none is given; repeat",
    )
    add(
        "--availability",
        type=float,
        default=usual.availability,
        metavar="SHARE",
        help="of requests that end without an error of the service (%(default)s)",
    )
    add(
        "--latency",
        type=float,
        default=usual.latency,
        metavar="SHARE",
        help="of requests that are fast enough (%(default)s)",
    )
    add(
        "--latency-seconds",
        type=float,
        default=usual.latency_seconds,
        metavar="SECONDS",
        help="what is fast enough, a bound of the histogram (%(default)s)",
    )
    add(
        "--least-requests",
        type=int,
        default=usual.least_requests,
        metavar="NUMBER",
        help="in an hour, below which no burn rate alerts (%(default)s)",
    )
    add(
        "--runbooks",
        default=usual.runbooks,
        metavar="URL",
        help="where the runbooks are, for the links of alerts (%(default)s)",
    )


def run(options: argparse.Namespace) -> int:
    """
    Write the files and say where.
    """
    from ...telemetry.dashboards._export import exported_files, write_files
    from ...telemetry.dashboards._objectives import Objectives

    usual = Objectives()
    objectives = Objectives(
        jobs=tuple(options.job) or usual.jobs,
        availability=options.availability,
        latency=options.latency,
        latency_seconds=options.latency_seconds,
        least_requests=options.least_requests,
        runbooks=options.runbooks,
    )
    files = exported_files(objectives)
    write_files(files, options.folder)
    sys.stdout.write(f"wrote {counted(len(files), 'file')} below {options.folder}\n")
    return OK


COMMAND = Command(
    path=("dashboards", "export"),
    help="write dashboards for Grafana and rules for Prometheus",
    configure=configure,
    run=run,
    epilog="docs/howto/dashboards-and-alerts.md says where the files go.",
)
