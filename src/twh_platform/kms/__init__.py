"""
Keys and secrets: key services, envelopes bound to the tenant, secrets.

A key service (local, Vault / OpenBao, AWS KMS) wraps data keys; a
`TenantCipher` seals with them what belongs to the current tenant; a secret
store keeps and rotates secrets.  All of it needs the extra `kms`.
"""

from ._async_service import AsyncKeyService
from ._context import KeyContext, encode_context
from ._service import (
    Capability,
    DataKey,
    Health,
    KeyInfo,
    KeyService,
    KeyState,
    Mac,
    WrappedKey,
)

__all__ = [
    "AsyncKeyService",
    "Capability",
    "DataKey",
    "Health",
    "KeyContext",
    "KeyInfo",
    "KeyService",
    "KeyState",
    "Mac",
    "WrappedKey",
    "encode_context",
]
