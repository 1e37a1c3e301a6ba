"""
`twh-platform quotas reconcile`: compare levels of capacity with what is there.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from ...errors import ConfigurationError
from .._command import FOUND, OK, Command
from .._owner import DSN_VARIABLE, add_dsn

__all__ = ["COMMAND"]


def configure(parser: argparse.ArgumentParser) -> None:
    """
    Add the arguments.
    """
    add_dsn(parser)
    add = parser.add_argument
    add(
        "--count",
        action="append",
        required=True,
        metavar="RULE=SQL",
        help="a rule, and the query that counts it: 'items=SELECT count(*) FROM items'; repeat",
    )
    add(
        "--tenant",
        action="append",
        default=[],
        metavar="ID",
        help="a tenant; all of twh.tenants if it is left out; repeat",
    )
    add("--seal", type=Path, metavar="FILE", help="the file of the key, for a sealed database")
    add("--look", action="store_true", help="tell of drift and leave the levels as they are")


def run(options: argparse.Namespace) -> int:
    """
    Reconcile, and write a line for each level that was wrong.
    """
    dsn = options.dsn or os.environ.get(DSN_VARIABLE)
    if not dsn:
        raise ConfigurationError(f"give --dsn, or set {DSN_VARIABLE}", code="owner_dsn_missing")
    counts = dict(map(_count, options.count))
    from ...quotas.postgres._psycopg_reconcile import reconcile_tenants
    from ...tenancy.postgres import Seal

    seal = Seal.from_file(options.seal) if options.seal else None
    looked = wrong = 0
    for one in reconcile_tenants(
        dsn, counts, tenants=options.tenant, seal=seal, correct=not options.look
    ):
        looked += 1
        if one.drift:
            wrong += 1
            what = f"recorded {one.recorded}, counted {one.counted}"
            sys.stdout.write(f"{one.tenant_id} {one.rule}: {what}\n")
    done = "" if options.look or not wrong else ", put right"
    sys.stdout.write(f"{looked} levels, {wrong} wrong{done}\n")
    return FOUND if wrong else OK


def _count(text: str) -> tuple[str, str]:
    rule, equals, sql = text.partition("=")
    if not (rule and equals and sql):
        message = f"--count is RULE=SQL, not {text!r}"
        raise ConfigurationError(message, code="capacity_count_invalid")
    return rule, sql


COMMAND = Command(
    path=("quotas", "reconcile"),
    help="compare levels of capacity with what is there, and put them right",
    configure=configure,
    run=run,
    epilog="Exit status: 0 every level was right, 1 some were wrong, 2 it could not be done.\n"
    "Each tenant has a transaction of its own; it is exact while the service runs.",
)
