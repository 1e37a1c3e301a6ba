"""
`twh-platform kms add-tenant`: make the master keys of tenants.
"""

from __future__ import annotations

import argparse
import sys

from ...errors import KeyDestroyedError, KeyNotFoundError
from .._command import OK, Command
from .._keys import add_key_service, key_service

__all__ = ["COMMAND"]


def configure(parser: argparse.ArgumentParser) -> None:
    """
    Add the arguments.
    """
    about = "whose master key is made, unless there is one"
    parser.add_argument("tenant", nargs="+", metavar="TENANT", help=about)
    add_key_service(parser)


def run(options: argparse.Namespace) -> int:
    """
    Make them, and write a line for each.
    """
    from ...kms import KeyState
    from ...tenancy._tenant import valid_tenant_id

    tenants = tuple(dict.fromkeys(map(valid_tenant_id, options.tenant)))
    with key_service(options) as service:
        for tenant_id in tenants:
            try:
                info, what = service.describe(tenant_id), "is there"
            except KeyNotFoundError:
                info, what = service.create(tenant_id), "made"
            if info.state in {KeyState.DESTROYED, KeyState.DESTROYING}:
                message = (
                    f"the master key of tenant {tenant_id!r} is destroyed, and it gets no other"
                )
                raise KeyDestroyedError(message)
            sys.stdout.write(f"{tenant_id}: {what}, {service.name} {info.key_ref}\n")
    return OK


COMMAND = Command(
    path=("kms", "add-tenant"),
    help="make the master keys of tenants, in a keyset or another key service",
    configure=configure,
    run=run,
    epilog="Exit status: 0 each has one, 2 it could not be done.\n"
    "The other commands make none, so that a wrong name makes no tenant.",
)
