"""
`twh-platform tenancy seal init`: make a database demand sealed tenants.
"""

from __future__ import annotations

import argparse
import sys

from ...errors import ConfigurationError
from .._command import OK, Command
from .._owner import add_dsn, add_key_file, owner_connection, writing_key

__all__ = ["COMMAND"]


def configure(parser: argparse.ArgumentParser) -> None:
    """
    Add the arguments.
    """
    add_key_file(parser)
    add_dsn(parser)
    parser.add_argument(
        "--allow-unsealed",
        action="store_true",
        help="believe unsealed tenants too, until `seal enforce`: to change over a running service",
    )


def run(options: argparse.Namespace) -> int:
    """
    Install the seal, draw the first key and write it.
    """
    with owner_connection(options) as connection:
        from ...tenancy.postgres.seal import add_seal_key, enforce_seal, seal_key_statuses

        enforce_seal(connection, allow_unsealed=options.allow_unsealed)
        if known := seal_key_statuses(connection):
            message = f"this database has the key {known[-1].id} already: use `seal rotate`"
            raise ConfigurationError(message, code="seal_installed")
        key = add_seal_key(connection)
        with writing_key(options.file, key):
            connection.commit()
    sys.stdout.write(f"sealed with key {key.id}, written to {options.file}\n")
    if options.allow_unsealed:
        sys.stdout.write("unsealed tenants are still believed: run `seal enforce` when all seal\n")
    return OK


COMMAND = Command(
    path=("tenancy", "seal", "init"),
    help="make a database demand sealed tenants, and draw the first key",
    configure=configure,
    run=run,
    epilog="Without --allow-unsealed, a service that does not seal yet is refused at once.",
)
