"""
`twh-platform secrets revoke`: refuse a version of a secret at once.
"""

from __future__ import annotations

import argparse
import sys

from .._command import OK, Command
from .._secrets import add_name, add_owner, add_store, owner, secret_store, version_line

__all__ = ["COMMAND"]


def configure(parser: argparse.ArgumentParser) -> None:
    """
    Add the arguments.
    """
    add_name(parser)
    parser.add_argument("version", type=int, metavar="VERSION", help="its number; see `list`")
    add_store(parser)
    add_owner(parser)


def run(options: argparse.Namespace) -> int:
    """
    Refuse it from now on, and erase its value.
    """
    with secret_store(options) as store, owner(options):
        version = store.revoke(options.name, options.version)
    sys.stdout.write(version_line(version))
    return OK


COMMAND = Command(
    path=("secrets", "revoke"),
    help="refuse a version of a secret at once, and erase its value",
    configure=configure,
    run=run,
    epilog="No other version takes its place: put a new one, or roll back first.",
)
