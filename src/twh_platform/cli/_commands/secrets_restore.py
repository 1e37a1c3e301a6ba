"""
`twh-platform secrets restore`: a backup into an empty store.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .._command import FOUND, OK, Command
from .._output import counted
from .._secrets import add_store, store_and_service, using_file

__all__ = ["COMMAND"]


def configure(parser: argparse.ArgumentParser) -> None:
    """
    Add the arguments.
    """
    parser.add_argument("file", type=Path, metavar="FILE", help="what `backup` wrote")
    add_store(parser)


def run(options: argparse.Namespace) -> int:
    """
    Restore all of it, or nothing.
    """
    from ...kms.secrets import restore_secrets

    with using_file(options.file):
        backup = options.file.read_bytes()
    with store_and_service(options) as (store, service):
        report = restore_secrets(store, service, backup)
    total = sum(report.secrets.values())
    made = f"{report.made_at:%Y-%m-%dT%H:%M:%SZ}"
    owners = counted(len(report.secrets), "owner")
    sys.stdout.write(f"{counted(total, 'secret')} of {owners}, as of {made}\n")
    for owner_id in report.destroyed:
        sys.stdout.write(f"{owner_id}: its keys are destroyed, its secrets stay closed\n")
    return FOUND if report.destroyed else OK


COMMAND = Command(
    path=("secrets", "restore"),
    help="put the secrets of a backup into an empty store",
    configure=configure,
    run=run,
    epilog="Exit status: 0 all were restored, 1 some owners' keys are destroyed, "
    "2 it could not be done.",
)
