"""
`twh-platform secrets get`: write a secret's value to a file or a pipe.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .._command import OK, Command
from .._secrets import add_name, add_owner, add_store, owner, secret_store, write_secret

__all__ = ["COMMAND"]


def configure(parser: argparse.ArgumentParser) -> None:
    """
    Add the arguments.
    """
    add_name(parser)
    add_store(parser)
    add_owner(parser)
    which = parser.add_mutually_exclusive_group()
    stages = ["current", "previous", "pending"]
    which.add_argument("--stage", choices=stages, default="current", help="which value")
    which.add_argument("--version", type=int, metavar="N", help="the value of that version")
    about = "a file of mode 600; standard output if it is left out"
    parser.add_argument("--output", type=Path, metavar="FILE", help=about)
    about = "write to a terminal too, which keeps what it shows"
    parser.add_argument("--reveal", action="store_true", help=about)


def run(options: argparse.Namespace) -> int:
    """
    Write the value, byte for byte.
    """
    from ...kms.secrets import Stage

    with secret_store(options) as store, owner(options):
        found = store.get(options.name, stage=Stage(options.stage), version=options.version)
    write_secret(found.secret, options.output, reveal=options.reveal)
    return OK


COMMAND = Command(
    path=("secrets", "get"),
    help="write a secret's value to a file or a pipe",
    configure=configure,
    run=run,
)
