"""
`twh-platform kms status`: which versions of master keys are in use, and whether one may go.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from ...errors import ConfigurationError, KeyServiceError
from .._command import FOUND, OK, Command
from .._keys import add_data_keys, add_key_service, add_tenants, data_key_store, key_service
from .._output import counted

if TYPE_CHECKING:
    from ...kms import DataKeyStore, KeyService
    from ...kms.lifecycle import KeyUse

__all__ = ["COMMAND"]

_IN_USE = {"key_version_in_use", "key_version_current"}


def configure(parser: argparse.ArgumentParser) -> None:
    """
    Add the arguments.
    """
    add_tenants(parser)
    parser.add_argument(
        "--retire",
        type=int,
        metavar="VERSION",
        help="say whether this version and those before it may be retired, of one --tenant",
    )
    add_key_service(parser)
    add_data_keys(parser)


def run(options: argparse.Namespace) -> int:
    """
    Write a line for each tenant and version, or the answer.
    """
    if options.retire is not None and len(options.tenant) != 1:
        message = "--retire is about the master key of one --tenant"
        raise ConfigurationError(message, code="key_version_ambiguous")
    with key_service(options) as service, data_key_store(options) as store:
        if options.retire is not None:
            return _retirable(service, store, options.tenant[0], options.retire)
        from ...kms.lifecycle import key_uses

        for use in key_uses(store, tenants=options.tenant or None):
            version = f"version {use.key_version}" if use.key_version else "no known version"
            sys.stdout.write(
                f"{use.tenant_id}: {counted(use.data_keys, 'data key')} by {version} "
                f"of {use.provider} {use.key_ref}{_remark(service, use)}\n"
            )
    return OK


def _retirable(service: KeyService, store: DataKeyStore, tenant_id: str, version: int) -> int:
    from ...kms.lifecycle import ensure_retirable

    try:
        ensure_retirable(service, store, tenant_id, version)
    except KeyServiceError as error:
        if error.code not in _IN_USE:
            raise
        sys.stdout.write(f"no: {error}\n")
        return FOUND
    sys.stdout.write(
        f"yes: no data key of {tenant_id} is wrapped by version {version} or older; "
        "backups from before the rewrap need it\n"
    )
    return OK


def _remark(service: KeyService, use: KeyUse) -> str:
    from ...kms import KeyState

    if use.provider != service.name:
        return ", which is another key service"
    try:
        info = service.describe(use.tenant_id)
    except KeyServiceError as error:
        if error.retryable:
            raise
        return f": {error.code}"
    if use.key_ref != info.key_ref:
        return ", which is not the key of today"
    if info.state is not KeyState.ENABLED:
        return f", {info.state.value}"
    return "" if use.key_version == info.version else f"; {info.version} wraps"


COMMAND = Command(
    path=("kms", "status"),
    help="which versions of master keys are in use, and whether one may be retired",
    configure=configure,
    run=run,
    epilog="Exit status: 0 told, or it may be retired, 1 it may not, 2 it could not be asked.\n"
    "It counts data keys.  Values that carry their own are counted in SQL: see inventory_sql.",
)
