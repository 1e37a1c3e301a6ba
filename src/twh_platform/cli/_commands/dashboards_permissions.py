"""
`twh-platform dashboards permissions`: set who sees which folder in Grafana.
"""

from __future__ import annotations

import argparse
import sys

from .._command import FOUND, OK, Command
from .._dashboards import add_token, read_token

__all__ = ["COMMAND"]


def configure(parser: argparse.ArgumentParser) -> None:
    """
    Take the address, the token and the rights.
    """
    add = parser.add_argument
    add("--url", required=True, metavar="URL", help="where Grafana is")
    add_token(parser)
    add(
        "--allow",
        action="append",
        default=[],
        metavar="RIGHT",
        help="as twh-tenants=team:Support:view, besides what is usual; repeat",
    )
    add("--only", action="store_true", help="nothing but what --allow says")
    add("--check", action="store_true", help="change nothing; status 1 if something would")


def run(options: argparse.Namespace) -> int:
    """
    Set the rights, or compare them.
    """
    from ...telemetry.dashboards._folder_access import (
        DEFAULT_GRANTS,
        parse_grant,
        set_folder_access,
    )
    from ...telemetry.dashboards._grafana_api import GrafanaApi

    asked = [parse_grant(text) for text in options.allow]
    grants = asked if options.only else [*DEFAULT_GRANTS, *asked]
    grafana = GrafanaApi(options.url, read_token(options))
    told = set_folder_access(grafana, grants, check=options.check)
    done = "" if options.check else "; set"
    sys.stdout.write(
        "".join(f"{line}{done}\n" for line in told) or "all folders have these rights\n"
    )
    return FOUND if told and options.check else OK


COMMAND = Command(
    path=("dashboards", "permissions"),
    help="set who sees which folder of dashboards",
    configure=configure,
    run=run,
    epilog=(
        "Usually viewers see twh-platform and twh-business, and only administrators\n"
        "twh-tenants, which names tenants.  The rights of each folder are replaced."
    ),
)
