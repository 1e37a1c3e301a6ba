"""
`twh-platform kms receipt`: see whether a receipt is one, and what it says.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import ConfigurationError, DecryptionError
from .._command import FOUND, OK, Command
from .._keys import add_key_service, key_service

if TYPE_CHECKING:
    from ...kms.lifecycle import ShredReceipt

__all__ = ["COMMAND", "receipt_lines"]

_LONGEST = 64 * 1024


def configure(parser: argparse.ArgumentParser) -> None:
    """
    Add the arguments.
    """
    parser.add_argument("file", type=Path, metavar="FILE", help="the receipt")
    add_key_service(parser)


def run(options: argparse.Namespace) -> int:
    """
    Verify, and write what it says in lines.
    """
    try:
        with options.file.open("rb") as file:
            text = file.read(_LONGEST + 2).decode("ascii", errors="replace")
    except OSError as error:
        message = f"cannot read {str(options.file)!r}: {error.strerror}"
        raise ConfigurationError(message, code="receipt_unreadable") from error
    from ...kms.lifecycle import verify_receipt

    with key_service(options) as service:
        try:
            receipt = verify_receipt(text, service)
        except DecryptionError as error:
            sys.stdout.write(f"not a receipt: {error}\n")
            return FOUND
    sys.stdout.write("".join(f"{line}\n" for line in receipt_lines(receipt)))
    return OK


def receipt_lines(receipt: ShredReceipt) -> list[str]:
    """
    What a receipt says, for people.
    """
    at = f" at {receipt.destroyed_at:%Y-%m-%d %H:%M:%SZ}" if receipt.destroyed_at else ""
    told = "nobody was asked" if receipt.acknowledged is None else f"{receipt.acknowledged}"
    steps = ", ".join(f"{name} {duration / 1e6:.3f}" for name, duration in receipt.steps)
    lines = [
        f"tenant {receipt.tenant_id}: {receipt.state.value}{at}",
        f"  master key: {receipt.provider} {receipt.key_ref}",
        f"  data keys overwritten: {receipt.data_keys}",
        f"  began {receipt.began:%Y-%m-%d %H:%M:%SZ}, proved {receipt.finished:%Y-%m-%d %H:%M:%SZ}",
        f"  seconds: {steps}",
        f"  canary refused: {receipt.canary}",
    ]
    if receipt.sealed_canary is not None:
        lines.append(f"  sealed canary refused: {receipt.sealed_canary}")
    lines.append(f"  processes that let go: {told}")
    return [*lines, *(f"  not covered: {one}" for one in receipt.caveats)]


COMMAND = Command(
    path=("kms", "receipt"),
    help="see whether the receipt of a shred is one, and what it says",
    configure=configure,
    run=run,
    epilog="Exit status: 0 this key service has signed it, 1 it has not, 2 it could not be asked.",
)
