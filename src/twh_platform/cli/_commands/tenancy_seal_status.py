"""
`twh-platform tenancy seal status`: which keys a database believes.
"""

from __future__ import annotations

import argparse
import sys

from .._command import FOUND, OK, Command
from .._owner import add_dsn, owner_connection

__all__ = ["COMMAND"]


def run(options: argparse.Namespace) -> int:
    """
    List the keys, oldest first.
    """
    with owner_connection(options) as connection:
        from ...tenancy.postgres.seal import seal_key_statuses

        keys = seal_key_statuses(connection)
    for key in keys:
        until = key.not_after.isoformat(timespec="seconds") if key.not_after else "withdrawn"
        sys.stdout.write(f"{key.id}  since {key.added_at:%Y-%m-%dT%H:%M:%S%z}  until {until}\n")
    if not keys:
        sys.stdout.write("there is no key: every tenant is refused\n")
    return OK if keys else FOUND


COMMAND = Command(
    path=("tenancy", "seal", "status"),
    help="which keys a database believes",
    configure=add_dsn,
    run=run,
    epilog="Exit status: 0 there is a key, 1 there is none, 2 it could not be found out.",
)
