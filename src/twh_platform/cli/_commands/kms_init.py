"""
`twh-platform kms init`: make the keyset of a `LocalKeyService`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .._command import OK, Command
from .._passphrase import read_passphrase

__all__ = ["COMMAND"]


def configure(parser: argparse.ArgumentParser) -> None:
    """
    Add the arguments.
    """
    add = parser.add_argument
    add("file", type=Path, metavar="FILE", help="the keyset; written with mode 600, never over one")
    add(
        "--passphrase-file",
        type=Path,
        metavar="FILE",
        help="seal the keyset under the first line of this file, or of '-': standard input",
    )
    add(
        "--tenant",
        action="append",
        default=[],
        metavar="ID",
        help="make this tenant's master key at once; repeat",
    )


def run(options: argparse.Namespace) -> int:
    """
    Write the keyset.
    """
    from ...kms._keyset_file import create_keyset
    from ...tenancy._tenant import valid_tenant_id

    passphrase = read_passphrase(options.passphrase_file) if options.passphrase_file else None
    tenants = tuple(map(valid_tenant_id, options.tenant))
    create_keyset(options.file, passphrase=passphrase, tenants=tenants)
    under = "under a passphrase" if passphrase else "readable by whoever reads the file"
    sys.stdout.write(f"keyset written to {options.file}, {under}\n")
    return OK


COMMAND = Command(
    path=("kms", "init"),
    help="make the keyset of a local key service",
    configure=configure,
    run=run,
    epilog="Keep a copy of the keyset apart from the database and its backups: "
    "without it nothing opens,\nand whoever has both can open everything.",
)
