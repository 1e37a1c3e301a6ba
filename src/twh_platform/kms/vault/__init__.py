"""
Keys and secrets in Vault or OpenBao: Transit and KV v2.  Needs the extra ``vault``.
"""

from __future__ import annotations

from ..._extras import missing_extra

try:
    import hvac as _hvac
except ImportError as error:
    raise missing_extra("vault", error) from error

from ._auth import (
    AppRoleAuth,
    AwsCredentials,
    AwsIamAuth,
    JwtAuth,
    KubernetesAuth,
    TokenAuth,
    VaultAuth,
    VaultLogin,
)
from ._keys import VaultKeyService
from ._secrets import VaultSecretStore

__all__ = [
    "AppRoleAuth",
    "AwsCredentials",
    "AwsIamAuth",
    "JwtAuth",
    "KubernetesAuth",
    "TokenAuth",
    "VaultAuth",
    "VaultKeyService",
    "VaultLogin",
    "VaultSecretStore",
]

del _hvac
