"""
`twh-platform webhooks keys public`: the public key of a private one.
"""

from __future__ import annotations

import argparse
import sys

from ...errors import ConfigurationError
from .._command import OK, Command
from .._webhooks import add_secrets, read_keys

__all__ = ["COMMAND"]


def configure(parser: argparse.ArgumentParser) -> None:
    """
    Add the arguments.
    """
    add_secrets(parser)


def run(options: argparse.Namespace) -> int:
    """
    Write the public key of each.
    """
    from ...webhooks import STANDARD

    for key in read_keys(options, STANDARD):
        public = getattr(key, "public", None)
        if public is None:
            message = "a private key begins with whsk_; nothing else has a public one"
            raise ConfigurationError(message, code="webhook_secret_missing")
        sys.stdout.write(f"{public.reveal()}\n")
    return OK


COMMAND = Command(
    path=("webhooks", "keys", "public"),
    help="write the public key of a private one, to give to receivers",
    configure=configure,
    run=run,
)
