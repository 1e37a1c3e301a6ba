"""
`twh-platform secrets list`: names, versions and times, without values.
"""

from __future__ import annotations

import argparse
import sys

from .._command import OK, Command
from .._secrets import add_owner, add_store, owner, secret_store, version_line

__all__ = ["COMMAND"]


def configure(parser: argparse.ArgumentParser) -> None:
    """
    Add the arguments.
    """
    parser.add_argument("prefix", nargs="?", default="", help="how the names begin")
    add_store(parser)
    add_owner(parser)


def run(options: argparse.Namespace) -> int:
    """
    Write a line for each version.
    """
    with secret_store(options) as store, owner(options):
        for name in store.names(prefix=options.prefix):
            sys.stdout.writelines(map(version_line, store.versions(name)))
    return OK


COMMAND = Command(
    path=("secrets", "list"),
    help="names, versions and times of secrets, without values",
    configure=configure,
    run=run,
)
