"""
Keys and envelopes: key services, and what they seal bound to its tenant.

A key service (local, Vault / OpenBao, AWS KMS) wraps data keys; a
`TenantCipher` seals with them what belongs to the current tenant.  Secrets
are kept and rotated by `twh_platform.kms.secrets`; rotating, counting and
destroying keys is in `twh_platform.kms.lifecycle`.  All of it needs the extra
`kms`.
"""

from ._announcements import KeyChanged, KeyServiceDegraded, KeyServiceRestored, KeyUsed
from ._async_service import AsyncKeyService
from ._blind_index import AsyncBlindIndex, BlindIndex
from ._cache import CacheStats
from ._cache_entry import CachePolicy
from ._cipher import AsyncTenantCipher, TenantCipher
from ._cipher_keys import SealLimits
from ._context import KeyContext, encode_context
from ._data_keys import DataKeyRecord, DataKeyState, DataKeyStore, MemoryDataKeyStore
from ._envelope import Parsed, Suite, from_text, parse, replace_inline, to_text
from ._guard import CallBudget, GuardedKeyService
from ._keyset import Keyset
from ._keyset_file import create_keyset
from ._local import LocalKeyService
from ._owner import platform_owner
from ._service import Capability, DataKey, Health, KeyInfo, KeyService, KeyState, Mac, WrappedKey
from ._sqlite_data_keys import SqliteDataKeyStore

__all__ = [
    "AsyncBlindIndex",
    "AsyncKeyService",
    "AsyncTenantCipher",
    "BlindIndex",
    "CachePolicy",
    "CacheStats",
    "CallBudget",
    "Capability",
    "DataKey",
    "DataKeyRecord",
    "DataKeyState",
    "DataKeyStore",
    "GuardedKeyService",
    "Health",
    "KeyChanged",
    "KeyContext",
    "KeyInfo",
    "KeyService",
    "KeyServiceDegraded",
    "KeyServiceRestored",
    "KeyState",
    "KeyUsed",
    "Keyset",
    "LocalKeyService",
    "Mac",
    "MemoryDataKeyStore",
    "Parsed",
    "SealLimits",
    "SqliteDataKeyStore",
    "Suite",
    "TenantCipher",
    "WrappedKey",
    "create_keyset",
    "encode_context",
    "from_text",
    "parse",
    "platform_owner",
    "replace_inline",
    "to_text",
]
