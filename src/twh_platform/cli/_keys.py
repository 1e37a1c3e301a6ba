"""
Which key service and which store of data keys the commands of `kms` work on.

A key service is a keyset's file, or is described in a small file of TOML:

    provider = "vault"                  # local, vault or aws
    address = "https://vault.example:8200"

    [auth]                              # vault only
    method = "kubernetes"               # or token, approle, jwt
    role = "keys"

The other names are those of `LocalKeyService`, `VaultKeyService`,
`AwsKeyService` and their ways to log in.  A secret stands in a file of its own,
never in this one.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError
from ._owner import DSN_VARIABLE
from ._passphrase import read_passphrase

if TYPE_CHECKING:
    from ..kms import DataKeyStore, KeyService

__all__ = [
    "DATA_KEYS_VARIABLE",
    "KEYSET_VARIABLE",
    "add_data_keys",
    "add_key_service",
    "add_tenants",
    "data_key_store",
    "key_service",
    "keyset_service",
    "read_passphrase",
]

KEYSET_VARIABLE = "TWH_KEYSET"
"""The environment variable that has the keyset, or its path, if the command line has not."""

DATA_KEYS_VARIABLE = "TWH_DATA_KEYS"
"""The environment variable that has the path of the SQLite file of data keys."""

_CONNECT_SECONDS = 10

_NAMES = {
    "local": {"keyset", "passphrase_file"},
    "vault": {"address", "auth", "mount", "namespace", "ca", "key_prefix", "timeout"},
    "aws": {
        "key",
        "allowed",
        "region",
        "endpoint_url",
        "timeout",
        "pending_window_days",
        "mac_key",
        "multi_region",
    },
}
_AUTH_NAMES = {
    "token": {"file"},
    "approle": {"role_id", "secret_id_file", "wrapped_file", "role_name", "mount"},
    "kubernetes": {"role", "file", "mount"},
    "jwt": {"role", "file", "mount"},
}


def add_key_service(parser: argparse.ArgumentParser) -> None:
    """
    Add the arguments for the key service.
    """
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--keyset",
        type=Path,
        metavar="FILE",
        help=f"the keyset of a local key service; {KEYSET_VARIABLE} if nothing is given",
    )
    group.add_argument(
        "--service",
        type=Path,
        metavar="FILE",
        help="a file of TOML that describes the key service: local, Vault or AWS",
    )
    parser.add_argument(
        "--passphrase-file",
        type=Path,
        metavar="FILE",
        help="what the keyset is sealed under: the first line of this file, or of '-'",
    )


def add_data_keys(parser: argparse.ArgumentParser) -> None:
    """
    Add the arguments for the store of data keys.
    """
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--data-keys",
        type=Path,
        metavar="FILE",
        help=f"the SQLite file of data keys; {DATA_KEYS_VARIABLE} if nothing is given",
    )
    about = f"the database, as an administrator of keys; {DSN_VARIABLE} if nothing is given"
    group.add_argument("--dsn", metavar="DSN", help=about)
    parser.add_argument(
        "--auditor-dsn",
        metavar="DSN",
        help="the database, as an auditor of keys: to find the tenants if no --tenant is given",
    )
    parser.add_argument(
        "--seal", type=Path, metavar="FILE", help="the file of the key, for a sealed database"
    )


def add_tenants(parser: argparse.ArgumentParser) -> None:
    """
    Add the argument for the tenants.
    """
    parser.add_argument(
        "--tenant",
        action="append",
        default=[],
        metavar="ID",
        help="a tenant; all that have data keys if it is left out; repeat",
    )


@contextlib.contextmanager
def key_service(options: argparse.Namespace) -> Iterator[KeyService]:
    """
    The key service that is meant, behind a guard, for the time of the `with`.

    Raises:
        twh_platform.errors.ConfigurationError: With code
            ``key_service_missing`` if none is given, ``key_service_invalid`` if
            its description is wrong, or what it raises itself.
    """
    if options.service is not None:
        made = _described(options.service)
    else:
        made = keyset_service(options.keyset, options.passphrase_file)
    from ..kms import GuardedKeyService

    service = GuardedKeyService(made, seconds=30.0)
    try:
        yield service
    finally:
        service.close()


def keyset_service(keyset: Path | None, passphrase_file: Path | None) -> KeyService:
    """
    The local key service of a file, or of the environment.

    It makes no master keys: a wrong name makes no tenant.

    Raises:
        twh_platform.errors.ConfigurationError: With code
            ``key_service_missing`` if none is given, or what
            `LocalKeyService` raises.
    """
    from ..kms import LocalKeyService

    passphrase = None
    if passphrase_file is not None:
        passphrase = read_passphrase(passphrase_file)
    if keyset is not None:
        return LocalKeyService(keyset, passphrase=passphrase, create_missing=False)
    if not os.environ.get(KEYSET_VARIABLE):
        message = f"give --keyset or --service, or set {KEYSET_VARIABLE}"
        raise ConfigurationError(message, code="key_service_missing")
    return LocalKeyService.from_environment(
        KEYSET_VARIABLE, passphrase=passphrase, create_missing=False
    )


@contextlib.contextmanager
def data_key_store(options: argparse.Namespace) -> Iterator[DataKeyStore]:
    """
    The store of data keys that is meant, for the time of the `with`.

    Raises:
        twh_platform.errors.ConfigurationError: With code
            ``data_key_store_missing`` if none is given.
    """
    dsn, path = options.dsn, options.data_keys
    if dsn is None and path is None:
        dsn, path = os.environ.get(DSN_VARIABLE), os.environ.get(DATA_KEYS_VARIABLE)
    if path:
        yield _sqlite_store(Path(path))
    elif dsn:
        yield _postgres_store(dsn, options.auditor_dsn, options.seal)
    else:
        message = f"give --data-keys or --dsn, or set {DATA_KEYS_VARIABLE} or {DSN_VARIABLE}"
        raise ConfigurationError(message, code="data_key_store_missing")


def _sqlite_store(path: Path) -> DataKeyStore:
    from ..kms import SqliteDataKeyStore

    # It would make one, and a wrong name would be told as "no data keys".
    if not path.is_file():
        message = f"there is no file of data keys {str(path)!r}"
        raise ConfigurationError(message, code="data_key_store_missing")
    return SqliteDataKeyStore(path)


def _postgres_store(dsn: str, auditor: str | None, seal_file: Path | None) -> DataKeyStore:
    from ..kms.postgres.data_keys import PostgresDataKeyStore
    from ..tenancy.postgres import Seal
    from ..tenancy.postgres._psycopg_seal import owner_transaction
    from ..tenancy.postgres.psycopg import TenantConnection

    seal = Seal.from_file(seal_file) if seal_file else None
    kind = TenantConnection.using(seal=seal)
    return PostgresDataKeyStore(
        lambda: kind.connect(dsn, connect_timeout=_CONNECT_SECONDS),
        auditors=(lambda: owner_transaction(auditor)) if auditor else None,
    )


def _described(path: Path) -> KeyService:
    try:
        with path.open("rb") as file:
            found = tomllib.load(file)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not TOML"
        raise _invalid(path, str(why)) from error
    provider = found.pop("provider", None)
    made = _MAKERS.get(provider) if isinstance(provider, str) else None
    if made is None:
        raise _invalid(path, "provider is local, vault or aws")
    _only(path, found, _NAMES[str(provider)])
    try:
        return made(path, found)
    except (AttributeError, TypeError, ValueError) as error:
        raise _invalid(path, "a name is missing, or has a value of another type") from error


def _local(path: Path, found: dict[str, Any]) -> KeyService:
    if "keyset" not in found:
        raise _invalid(path, "keyset is missing")
    passphrase = found.get("passphrase_file")
    return keyset_service(Path(found["keyset"]), Path(passphrase) if passphrase else None)


def _vault(path: Path, found: dict[str, Any]) -> KeyService:
    from ..kms.vault import VaultKeyService

    auth = _vault_auth(path, found.pop("auth", None))
    return VaultKeyService(found.pop("address", ""), auth, create_missing=False, **found)


def _vault_auth(path: Path, found: object) -> Any:
    from ..kms.vault import AppRoleAuth, JwtAuth, KubernetesAuth, TokenAuth

    if not isinstance(found, dict) or found.get("method") not in _AUTH_NAMES:
        raise _invalid(path, f"[auth] has a method: {', '.join(_AUTH_NAMES)}")
    kinds: Mapping[str, Callable[..., Any]] = {
        "token": TokenAuth,
        "approle": AppRoleAuth,
        "kubernetes": KubernetesAuth,
        "jwt": JwtAuth,
    }
    method = found.pop("method")
    _only(path, found, _AUTH_NAMES[method])
    return kinds[method](**found)


def _aws(_path: Path, found: dict[str, Any]) -> KeyService:
    from ..kms.aws import AwsKeyService

    return AwsKeyService(**found)


_MAKERS = {"local": _local, "vault": _vault, "aws": _aws}


def _only(path: Path, found: Mapping[str, object], names: set[str]) -> None:
    for name in found:
        if name not in names:
            raise _invalid(path, f"{name[:80]!r} is none of {', '.join(sorted(names))}")


def _invalid(path: Path, why: str) -> ConfigurationError:
    message = f"the key service in {str(path)!r}: {why}"
    return ConfigurationError(message, code="key_service_invalid")
