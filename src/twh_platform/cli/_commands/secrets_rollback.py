"""
`twh-platform secrets rollback`: take a rotation back.
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
    add_store(parser)
    add_owner(parser)
    about = "how long the value that is taken back stays valid"
    parser.add_argument("--overlap", type=float, metavar="SECONDS", help=about)


def run(options: argparse.Namespace) -> int:
    """
    Make the previous version the current one again.
    """
    with secret_store(options) as store, owner(options):
        version = store.roll_back(options.name, overlap=options.overlap)
    sys.stdout.write(version_line(version))
    return OK


COMMAND = Command(
    path=("secrets", "rollback"),
    help="make the previous version of a secret the current one again",
    configure=configure,
    run=run,
)
