"""
`twh-platform tenancy seal enforce`: believe no unsealed tenant any more.
"""

from __future__ import annotations

import argparse
import sys

from ...errors import ConfigurationError
from .._command import OK, Command
from .._owner import add_dsn, owner_connection

__all__ = ["COMMAND"]


def run(options: argparse.Namespace) -> int:
    """
    Put the strict function in place; a database without a key stays as it is.
    """
    with owner_connection(options) as connection:
        from ...tenancy.postgres.seal import enforce_seal, seal_key_statuses

        if not seal_key_statuses(connection):
            raise ConfigurationError("there is no key: run `seal init`", code="seal_not_installed")
        enforce_seal(connection)
    sys.stdout.write("unsealed tenants are refused from now on\n")
    return OK


COMMAND = Command(
    path=("tenancy", "seal", "enforce"),
    help="believe no unsealed tenant any more",
    configure=add_dsn,
    run=run,
)
