"""
`twh-platform secrets rotate`: give secrets their next value.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from ...errors import ConfigurationError
from .._command import FOUND, OK, Command
from .._output import counted
from .._secrets import add_owner, add_store, owner, owner_of, owners, secret_store, version_line

if TYPE_CHECKING:
    from ...kms.secrets import VersionedSecretStore

__all__ = ["COMMAND"]


def configure(parser: argparse.ArgumentParser) -> None:
    """
    Add the arguments.
    """
    parser.add_argument("name", nargs="?", metavar="NAME", help="the secret, due or not")
    about = "all secrets whose policy asks for a new value; of all tenants, if none is named"
    parser.add_argument("--due", action="store_true", help=about)
    add_store(parser)
    add_owner(parser)


def run(options: argparse.Namespace) -> int:
    """
    Rotate, and write a line for each secret that was, or could not be.
    """
    if options.due == (options.name is not None):
        raise ConfigurationError("give a name or --due", code="secret_rotation_unclear")
    from ...kms.secrets import rotate_secret

    with secret_store(options) as store:
        if options.due:
            return _rotate_due(store, options)
        with owner(options):
            sys.stdout.write(version_line(rotate_secret(store, options.name)))
    return OK


def _rotate_due(store: VersionedSecretStore, options: argparse.Namespace) -> int:
    from ...kms.secrets import rotate_due

    failures = 0
    for owner_id in owners(options, store):
        with owner_of(owner_id):
            report = rotate_due(store)
        for version in report.rotated:
            sys.stdout.write(f"{owner_id} {version_line(version)}")
        for name, code in report.failed:
            failures += 1
            sys.stdout.write(f"{owner_id} {name}: not rotated, {code}\n")
        if report.shredded:
            left = counted(len(report.shredded), "secret")
            sys.stdout.write(f"{owner_id}: shredded, {left} not rotated\n")
    return FOUND if failures else OK


COMMAND = Command(
    path=("secrets", "rotate"),
    help="give a secret its next value, or all that are due",
    configure=configure,
    run=run,
    epilog="Exit status: 0 all were rotated, 1 some were not, 2 it could not be done.\n"
    "A pending version is made current; without one, a value is made by the policy.",
)
