"""
`twh-platform webhooks keys fingerprint`: which secret it is, without showing it.
"""

from __future__ import annotations

import argparse
import sys

from .._command import OK, Command
from .._webhooks import add_profile, add_secrets, read_keys, the_profile

__all__ = ["COMMAND"]


def configure(parser: argparse.ArgumentParser) -> None:
    """
    Add the arguments.
    """
    add_secrets(parser)
    add_profile(parser)


def run(options: argparse.Namespace) -> int:
    """
    Write the fingerprint of each, and its type.
    """
    for key in read_keys(options, the_profile(options)):
        sys.stdout.write(f"{key.fingerprint} {key.kind}\n")
    return OK


COMMAND = Command(
    path=("webhooks", "keys", "fingerprint"),
    help="tell which secret it is; a private key and its public one have the same",
    configure=configure,
    run=run,
)
