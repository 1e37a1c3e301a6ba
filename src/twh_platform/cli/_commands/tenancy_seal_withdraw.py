"""
`twh-platform tenancy seal withdraw`: believe a key no more, at once.
"""

from __future__ import annotations

import argparse
import sys

from ...errors import ConfigurationError
from .._command import OK, Command
from .._owner import add_dsn, owner_connection

__all__ = ["COMMAND"]


def configure(parser: argparse.ArgumentParser) -> None:
    """
    Add the arguments.
    """
    parser.add_argument("key", metavar="KEY", help="the key's id, see `seal status`")
    add_dsn(parser)
    parser.add_argument(
        "--force", action="store_true", help="even the last key: every tenant is refused then"
    )


def run(options: argparse.Namespace) -> int:
    """
    Delete the key, unless it is the last one.
    """
    with owner_connection(options) as connection:
        from ...tenancy.postgres.seal import seal_key_statuses, withdraw_seal_key

        withdraw_seal_key(connection, options.key)
        if not seal_key_statuses(connection) and not options.force:
            message = "it is the last key: every tenant would be refused; rotate first, or --force"
            raise ConfigurationError(message, code="seal_key_last")
    sys.stdout.write(f"key {options.key} is withdrawn\n")
    return OK


COMMAND = Command(
    path=("tenancy", "seal", "withdraw"),
    help="believe a key no more, at once",
    configure=configure,
    run=run,
)
