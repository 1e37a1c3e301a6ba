"""
What the commands of `dashboards` share: where a token comes from.

A token comes from a file or from a variable of the environment, never from an
argument: those are seen by every process of the machine and kept by shells.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Final

from .._hidden import HiddenBytes
from ..errors import ConfigurationError

__all__ = ["TOKEN_VARIABLE", "add_token", "read_token"]

TOKEN_VARIABLE: Final = "TWH_GRAFANA_TOKEN"  # noqa: S105 -- the name of a variable
"""
The environment variable that has the token if nothing else is given.
"""


def add_token(parser: argparse.ArgumentParser) -> None:
    """
    Add the arguments for the token.
    """
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--token-file", type=Path, metavar="FILE", help="a file with the token")
    group.add_argument(
        "--token-env",
        default=TOKEN_VARIABLE,
        metavar="NAME",
        help=f"a variable of the environment with it; {TOKEN_VARIABLE} if it is left out",
    )


def read_token(options: argparse.Namespace) -> HiddenBytes:
    """
    The token.

    Raises:
        twh_platform.errors.ConfigurationError: With code ``grafana_token_missing``.
    """
    if options.token_file is None:
        found = os.environb.get(os.fsencode(options.token_env), b"")
    else:
        try:
            found = options.token_file.read_bytes()
        except OSError as error:
            message = f"{str(options.token_file)!r}: {error.strerror}"
            raise ConfigurationError(message, code="grafana_token_missing") from error
    if not found.strip():
        message = f"give --token-file, or set {options.token_env}"
        raise ConfigurationError(message, code="grafana_token_missing")
    return HiddenBytes(found.strip())
