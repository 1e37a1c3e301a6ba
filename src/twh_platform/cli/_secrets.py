"""
Which secret store the commands of `secrets` work on, and where values go.

A value comes from a file or from standard input, never from an argument: those
are seen by every process of the machine and kept by shells.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from .._files import replace_file
from ..errors import ConfigurationError
from ._keys import add_key_service, key_service

if TYPE_CHECKING:
    from ..kms import KeyService
    from ..kms.secrets import Secret, SecretVersion, VersionedSecretStore

__all__ = [
    "STORE_VARIABLE",
    "add_name",
    "add_owner",
    "add_store",
    "owner",
    "owner_of",
    "owners",
    "read_secret",
    "secret_store",
    "store_and_service",
    "using_file",
    "version_line",
    "write_private",
    "write_secret",
]

STORE_VARIABLE = "TWH_SECRETS"
"""The environment variable that has the path of the secret store's file."""

_PURPOSE = "secrets"


def add_store(parser: argparse.ArgumentParser) -> None:
    """
    Add the arguments for the store and its key service.
    """
    add_key_service(parser)
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--store",
        metavar="FILE",
        help=f"the SQLite file of secrets and data keys; {STORE_VARIABLE} if nothing is given",
    )
    about = "the PostgreSQL database of both, as the application's role"
    group.add_argument("--dsn", metavar="DSN", help=about)
    parser.add_argument(
        "--seal", type=Path, metavar="FILE", help="the file of the key, for a sealed database"
    )


def add_owner(parser: argparse.ArgumentParser) -> None:
    """
    Add the argument for whose secrets are meant.
    """
    about = "whose secret: a tenant's; the platform's own if it is left out"
    parser.add_argument("--tenant", metavar="ID", help=about)


def add_name(parser: argparse.ArgumentParser) -> None:
    """
    Add the argument for the secret's name.
    """
    parser.add_argument("name", metavar="NAME", help="the secret, like stripe/webhook")


def owner(options: argparse.Namespace) -> AbstractContextManager[object]:
    """
    Bind whose secrets are meant.
    """
    return owner_of(options.tenant)


def owner_of(tenant_id: str | None) -> AbstractContextManager[object]:
    """
    Bind a tenant, or the platform.
    """
    from ..kms._owner import PLATFORM, as_owner

    return as_owner(PLATFORM.id if tenant_id is None else tenant_id)


@contextlib.contextmanager
def secret_store(options: argparse.Namespace) -> Iterator[VersionedSecretStore]:
    """
    The store that is meant.

    Raises:
        twh_platform.errors.ConfigurationError: With code
            ``secret_store_missing``, or what the key service and the store raise.
    """
    with store_and_service(options) as (store, _):
        yield store


@contextlib.contextmanager
def store_and_service(
    options: argparse.Namespace,
) -> Iterator[tuple[VersionedSecretStore, KeyService]]:
    """
    The store that is meant, and the key service that seals it.

    Raises:
        twh_platform.errors.ConfigurationError: As `secret_store`.
    """
    path = options.store or (None if options.dsn else os.environ.get(STORE_VARIABLE))
    if not path and not options.dsn:
        message = f"give --store or --dsn, or set {STORE_VARIABLE}"
        raise ConfigurationError(message, code="secret_store_missing")
    with key_service(options) as service:
        if path:
            yield _sqlite_store(path, service), service
        else:
            yield _postgres_store(options.dsn, options.seal, service), service


def owners(options: argparse.Namespace, store: VersionedSecretStore) -> list[str]:
    """
    The ids of those who are named, or of all who have secrets in a file.

    Raises:
        twh_platform.errors.ConfigurationError: With code
            ``secret_owners_missing`` for a database: the application's role
            sees one tenant at a time.
    """
    from ..kms.secrets import SqliteSecretStore

    named = options.tenant
    if named:
        return named if isinstance(named, list) else [named]
    if isinstance(store, SqliteSecretStore):
        return store.tenants()
    message = "give --tenant: of a database, nobody is told who has secrets in it"
    raise ConfigurationError(message, code="secret_owners_missing")


def _sqlite_store(path: str, service: KeyService) -> VersionedSecretStore:
    from ..kms import SqliteDataKeyStore, TenantCipher
    from ..kms.secrets import SqliteSecretStore

    return SqliteSecretStore(
        path, TenantCipher(service, SqliteDataKeyStore(path), purpose=_PURPOSE)
    )


def _postgres_store(dsn: str, seal_file: Path | None, service: KeyService) -> VersionedSecretStore:
    from ..kms import TenantCipher
    from ..kms.postgres.data_keys import PostgresDataKeyStore
    from ..kms.postgres.secrets import PostgresSecretStore
    from ..tenancy.postgres import Seal
    from ..tenancy.postgres.psycopg import TenantConnection

    kind = TenantConnection.using(seal=Seal.from_file(seal_file) if seal_file else None)

    def connect() -> TenantConnection:
        connection: TenantConnection = kind.connect(dsn, connect_timeout=10)
        return connection

    cipher = TenantCipher(service, PostgresDataKeyStore(connect), purpose=_PURPOSE)
    return PostgresSecretStore(connect, cipher)


def read_secret(path: Path | None, *, exact: bool) -> Secret:
    """
    Read a value from a file, or from standard input if *path* is None.

    Args:
        path: The file.

        exact: Keep a line break at the end; else one is left out.

    Raises:
        twh_platform.errors.ConfigurationError: With code
            ``secret_file_unusable``, or ``secret_invalid`` for what is no secret.
    """
    from ..kms._secret import HiddenBytes
    from ..kms.secrets import Secret

    if path is not None:
        with using_file(path):
            value = HiddenBytes(path.read_bytes())
    elif sys.stdin.isatty():
        return Secret(getpass.getpass("value (not shown): "))
    else:
        value = HiddenBytes(sys.stdin.buffer.read())
    if not exact:
        value = HiddenBytes(value.removesuffix(b"\n").removesuffix(b"\r"))
    return Secret(value)


def write_secret(secret: Secret, path: Path | None, *, reveal: bool) -> None:
    """
    Write a value to a file of mode 600, or to standard output.

    Raises:
        twh_platform.errors.ConfigurationError: With code
            ``secret_terminal_refused``: standard output is a terminal, which
            keeps what it has shown, and *reveal* is not said.
    """
    if path is not None:
        write_private(secret.hidden(), path)
        return
    if sys.stdout is None:  # as `>&-` of a shell leaves it
        raise ConfigurationError("standard output is closed", code="secret_file_unusable")
    if sys.stdout.isatty() and not reveal:
        message = "a terminal keeps what it shows: give --output, a pipe, or --reveal"
        raise ConfigurationError(message, code="secret_terminal_refused")
    with using_file(Path("/dev/stdout")):
        sys.stdout.flush()
        sys.stdout.buffer.write(secret.hidden())
        if sys.stdout.isatty():
            sys.stdout.buffer.write(b"\n")
        sys.stdout.buffer.flush()


def write_private(content: bytes, path: Path) -> None:
    """
    Write a file of mode 600 in one step, in the place of what is there.

    Raises:
        twh_platform.errors.ConfigurationError: With code
            ``secret_file_unusable``.  Only a file gives way: a link such as
            /dev/stdout, a pipe or a device would be gone from its place.
    """
    if path.is_symlink() or (path.exists() and not path.is_file()):
        message = f"{str(path)!r} is a link, or no regular file: it is not replaced"
        raise ConfigurationError(message, code="secret_file_unusable")
    with using_file(path):
        replace_file(path, content)


def version_line(version: SecretVersion) -> str:
    """
    What is known of a version, on one line.
    """
    what = [f"{version.name} version {version.version}", version.stage or "superseded"]
    for word in ("created", "expires", "retires", "revoked"):
        moment = getattr(version, f"{word}_at")
        if moment is not None:
            what.append(f"{word} {moment:%Y-%m-%dT%H:%M:%SZ}")
    return ", ".join(what) + "\n"


@contextlib.contextmanager
def using_file(path: Path) -> Iterator[None]:
    """
    Tell what is wrong with a file that is read or written in the `with`.

    Raises:
        twh_platform.errors.ConfigurationError: With code ``secret_file_unusable``.
    """
    try:
        yield
    except OSError as error:
        message = f"{str(path)!r}: {error.strerror}"
        raise ConfigurationError(message, code="secret_file_unusable") from error
