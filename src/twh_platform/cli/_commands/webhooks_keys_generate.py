"""
`twh-platform webhooks keys generate`: make a secret or a private key.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..._files import replace_file
from ...errors import ConfigurationError
from .._command import OK, Command
from .._webhooks import unusable

__all__ = ["COMMAND"]


def configure(parser: argparse.ArgumentParser) -> None:
    """
    Add the arguments.
    """
    add = parser.add_argument
    add("kind", choices=["standard", "ed25519"], help="shared by both sides, or a key pair")
    add("--bytes", type=int, default=32, metavar="N", help="of `standard`: 24 to 64")
    about = "a file of mode 600; standard output if it is left out"
    add("--output", type=Path, metavar="FILE", help=about)
    about = "write to a terminal too, which keeps what it shows"
    add("--reveal", action="store_true", help=about)


def run(options: argparse.Namespace) -> int:
    """
    Write it; with a file, also what may be known of it.
    """
    if options.output is None and sys.stdout.isatty() and not options.reveal:
        message = "a terminal keeps what it shows: give --output, a pipe, or --reveal"
        raise ConfigurationError(message, code="secret_terminal_refused")
    text, known = _made(options)
    if options.output is None:
        sys.stdout.write(f"{text}\n")
        return OK
    try:
        replace_file(options.output, text.encode())
    except OSError as error:
        raise unusable(options.output, str(error.strerror)) from error
    sys.stdout.write(known)
    return OK


def _made(options: argparse.Namespace) -> tuple[str, str]:
    if options.kind == "ed25519":
        from ...webhooks.ed25519 import PrivateKey

        key = PrivateKey.generate()
        return key.reveal(), f"fingerprint: {key.fingerprint}\npublic: {key.public.reveal()}\n"
    from ...webhooks import StandardSecret

    secret = StandardSecret.generate(options.bytes)
    return secret.reveal(), f"fingerprint: {secret.fingerprint}\n"


COMMAND = Command(
    path=("webhooks", "keys", "generate"),
    help="make a shared secret, or a private key",
    configure=configure,
    run=run,
)
