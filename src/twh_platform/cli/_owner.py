"""
What the commands share that change a database as its owner.
"""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError

if TYPE_CHECKING:
    from ..tenancy.postgres import SealKey

__all__ = ["DSN_VARIABLE", "add_dsn", "add_key_file", "owner_connection", "writing_key"]

DSN_VARIABLE = "TWH_OWNER_DSN"
"""The environment variable that holds the owner's DSN if the command line does not."""


def add_dsn(parser: argparse.ArgumentParser) -> None:
    """
    Add the argument for the database.
    """
    about = f"the database, as the owner of the schema twh; {DSN_VARIABLE} if it is left out"
    parser.add_argument("--dsn", metavar="DSN", help=about)


def add_key_file(parser: argparse.ArgumentParser) -> None:
    """
    Add the argument for the file that gets the key.
    """
    about = "where the service finds its key; written with mode 600, in place of what is there"
    parser.add_argument("file", type=Path, metavar="FILE", help=about)


@contextlib.contextmanager
def owner_connection(options: argparse.Namespace) -> Iterator[Any]:
    """
    One connection and one transaction, committed at the end of the `with`.

    Raises:
        twh_platform.errors.ConfigurationError: With code ``owner_dsn_missing``,
            or ``owner_refused`` for a login that may not do this.

        twh_platform.errors.BackendUnavailableError: If the server cannot be reached.
    """
    dsn = options.dsn or os.environ.get(DSN_VARIABLE)
    if not dsn:
        raise ConfigurationError(f"give --dsn, or set {DSN_VARIABLE}", code="owner_dsn_missing")
    from ..tenancy.postgres._psycopg_seal import owner_transaction

    with owner_transaction(dsn) as connection:
        yield connection


@contextlib.contextmanager
def writing_key(path: Path, key: SealKey) -> Iterator[None]:
    """
    Write the key's file at the end of the `with`, which is entered only if that can be done.

    Raises:
        twh_platform.errors.ConfigurationError: With code ``seal_file_unwritable``.
    """
    from ..tenancy.postgres._seal import staged_seal_key

    try:
        with staged_seal_key(path, key):
            yield
    except OSError as error:
        raise ConfigurationError(
            f"cannot write key {key.id} to {str(path)!r}: {error.strerror}",
            code="seal_file_unwritable",
        ) from error
