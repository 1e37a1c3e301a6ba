"""
`twh-platform tenancy seal rotate`: draw a new key and let the others end.
"""

from __future__ import annotations

import argparse
import sys

from ...errors import ConfigurationError
from .._command import OK, Command
from .._owner import add_dsn, add_key_file, owner_connection, writing_key

__all__ = ["COMMAND"]

_OVERLAP = 3600.0
_LONGEST_OVERLAP = 10 * 365 * 86_400.0


def configure(parser: argparse.ArgumentParser) -> None:
    """
    Add the arguments.
    """
    add_key_file(parser)
    add_dsn(parser)
    parser.add_argument(
        "--overlap",
        type=float,
        default=_OVERLAP,
        metavar="SECONDS",
        help="how long the keys of before are still believed; an hour if left out",
    )


def run(options: argparse.Namespace) -> int:
    """
    Add the key, write it, and let the others end.
    """
    if not 0 <= options.overlap <= _LONGEST_OVERLAP:
        raise ConfigurationError(
            f"--overlap is 0 to {_LONGEST_OVERLAP:.0f} seconds, not {options.overlap}"
        )
    with owner_connection(options) as connection:
        from ...tenancy.postgres.seal import add_seal_key, retire_seal_keys, seal_key_statuses

        if not seal_key_statuses(connection):
            raise ConfigurationError("there is no key: run `seal init`", code="seal_not_installed")
        key = add_seal_key(connection)
        # The service may read the new key only once the database believes it,
        # and no other key ends before this one is where the service finds it.
        with writing_key(options.file, key):
            connection.commit()
        ending = retire_seal_keys(connection, keep=key.id, overlap=options.overlap)
    sys.stdout.write(f"the key is now {key.id}, written to {options.file}\n")
    for one in ending:
        sys.stdout.write(f"key {one} ends in {options.overlap:g} seconds\n")
    return OK


COMMAND = Command(
    path=("tenancy", "seal", "rotate"),
    help="draw a new key; the ones of before are believed for a while longer",
    configure=configure,
    run=run,
    epilog="Services that read FILE take the new key up within a second of its change.\n"
    "The overlap has to cover what it takes to bring the file to all of them.\n"
    "If a key has been stolen, rotate, bring the file everywhere, and withdraw the old key.",
)
