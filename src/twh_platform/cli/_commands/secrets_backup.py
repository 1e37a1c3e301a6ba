"""
`twh-platform secrets backup`: all secrets in one sealed file.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .._command import FOUND, OK, Command
from .._output import counted
from .._secrets import add_store, owners, store_and_service, write_private

__all__ = ["COMMAND"]


def configure(parser: argparse.ArgumentParser) -> None:
    """
    Add the arguments.
    """
    parser.add_argument("file", type=Path, metavar="FILE", help="written with mode 600")
    add_store(parser)
    parser.add_argument(
        "--tenant",
        action="append",
        default=[],
        metavar="ID",
        help="whose secrets; everybody's and the platform's if it is left out; repeat",
    )


def run(options: argparse.Namespace) -> int:
    """
    Write the file, and say what is in it.
    """
    from ...kms.secrets import backup_secrets

    with store_and_service(options) as (store, service):
        backup, report = backup_secrets(store, service, owners(options, store))
    write_private(backup, options.file)
    total = sum(report.secrets.values())
    sys.stdout.write(
        f"{counted(total, 'secret')} of {counted(len(report.secrets), 'owner')}, sealed\n"
    )
    for owner_id in report.destroyed:
        sys.stderr.write(f"{owner_id}: passed over, its keys are destroyed\n")
    # Of all who are in a file some may have been shredded; who is named is meant.
    return FOUND if set(options.tenant).intersection(report.destroyed) else OK


COMMAND = Command(
    path=("secrets", "backup"),
    help="write all secrets to one sealed file",
    configure=configure,
    run=run,
    epilog="Exit status: 0 all were written, but for those whose keys are destroyed, 1 the keys of "
    "one\nwho is named are, 2 it could not be done.\n"
    "The key service alone can open it: back up a keyset elsewhere.",
)
