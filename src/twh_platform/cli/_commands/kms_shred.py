"""
`twh-platform kms shred`: destroy a tenant's keys for good, and write the receipt.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from ...errors import ConfigurationError
from .._command import FOUND, OK, Command
from .._keys import add_data_keys, add_key_service, data_key_store, key_service
from .kms_receipt import receipt_lines

__all__ = ["COMMAND"]


def configure(parser: argparse.ArgumentParser) -> None:
    """
    Add the arguments.
    """
    add = parser.add_argument
    add("tenant", metavar="TENANT", help="whose keys; there is no way back")
    add(
        "--receipts",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="where TENANT.receipt.json is written, and TENANT.shred, which a second run needs",
    )
    add("--yes", action="store_true", help="do it without asking for the tenant's id once more")
    add(
        "--cache-seconds",
        type=float,
        default=900.0,
        metavar="SECONDS",
        help="how long a process that is not told may go on opening: its stale_if_error; "
        "900 if left out",
    )
    add_key_service(parser)
    add_data_keys(parser)


def run(options: argparse.Namespace) -> int:
    """
    Shred, write the receipt, and say what is in it.
    """
    from ..._files import replace_file
    from ...kms import KeyState, TenantCipher
    from ...kms.lifecycle import FileShredJournal, receipt_text, shred
    from ...tenancy._tenant import valid_tenant_id

    tenant_id = valid_tenant_id(options.tenant)
    if not options.yes:
        _confirm(tenant_id)
    with key_service(options) as service, data_key_store(options) as store:
        receipt = shred(
            tenant_id,
            service=service,
            store=store,
            journal=FileShredJournal(options.receipts),
            cipher=TenantCipher(service, store),
            cache_seconds=options.cache_seconds,
        )
        path = options.receipts / f"{tenant_id}.receipt.json"
        text = receipt_text(receipt, service)
    with _writing(path):
        replace_file(path, f"{text}\n".encode("ascii"))
    sys.stdout.write("".join(f"{line}\n" for line in receipt_lines(receipt)))
    sys.stdout.write(f"receipt written to {path}\n")
    return OK if receipt.state is KeyState.DESTROYED else FOUND


def _confirm(tenant_id: str) -> None:
    if not sys.stdin.isatty():
        message = "nobody is there to confirm it: give --yes"
        raise ConfigurationError(message, code="shred_unconfirmed")
    sys.stderr.write(f"All that is sealed for {tenant_id!r} will be lost.  Type its id: ")
    sys.stderr.flush()
    if sys.stdin.readline().strip() != tenant_id:
        message = "that is another id: nothing was done"
        raise ConfigurationError(message, code="shred_unconfirmed")


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        message = f"shredded, and the receipt {str(path)!r} cannot be written: {error.strerror}"
        raise ConfigurationError(f"{message}; run it again", code="receipt_unwritable") from error


COMMAND = Command(
    path=("kms", "shred"),
    help="destroy a tenant's keys for good, prove it, and write a signed receipt",
    configure=configure,
    run=run,
    epilog="Exit status: 0 destroyed, 1 refused from now on and destroyed at the date in the "
    "receipt:\nrun it again then, 2 it could not be done.  It may be run again at any time; "
    "after a crash\nit ends what was begun.",
)
