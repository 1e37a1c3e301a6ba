"""
Keys and secrets: key services, envelopes bound to the tenant, secrets.

A key service (local, Vault / OpenBao, AWS KMS) wraps data keys; a
`TenantCipher` seals with them what belongs to the current tenant; a secret
store keeps and rotates secrets.  All of it needs the extra `kms`.
"""

from ._announcements import (
    DataKeysRewrapped,
    KeyChanged,
    KeyServiceDegraded,
    KeyServiceRestored,
    KeyUsed,
    SecretChanged,
    SecretRead,
    TenantShredded,
)
from ._async_service import AsyncKeyService
from ._blind_index import AsyncBlindIndex, BlindIndex
from ._cache import CachePolicy, CacheStats
from ._cipher import AsyncTenantCipher, TenantCipher
from ._cipher_keys import SealLimits
from ._context import KeyContext, encode_context
from ._data_keys import DataKeyRecord, DataKeyState, DataKeyStore, MemoryDataKeyStore
from ._envelope import Parsed, Suite, from_text, parse, replace_inline, to_text
from ._guard import CallBudget, GuardedKeyService
from ._inventory import (
    KeyUse,
    SealedUse,
    ensure_retirable,
    inventory_sql,
    key_uses,
    remaining,
    sealed_uses,
    tenants_of,
)
from ._jobs import JobProgress
from ._keyset import Keyset
from ._keyset_file import create_keyset
from ._local import LocalKeyService
from ._owner import platform_owner
from ._reencrypt import ReencryptReport, SealedRow, reencrypt, retire_data_keys
from ._rewrap import RewrapReport, rewrap
from ._rotation import (
    Election,
    FileElection,
    RotationReport,
    RotationTask,
    rotate_due,
    rotate_secret,
)
from ._secret import Secret
from ._secret_backup import BackupReport, backup_secrets, restore_secrets
from ._secret_cache import AsyncCachedSecrets, CachedSecrets
from ._secret_migrate import (
    ColumnSource,
    MigrationReport,
    ReadableRow,
    Sighting,
    SqliteColumn,
    find_readable,
    migrate_column,
    migrate_env_file,
)
from ._secret_sqlite import SqliteSecretStore
from ._secret_store import (
    AsyncSecretStore,
    MemorySecretStore,
    SecretStore,
    VersionedSecretStore,
    accepted_values,
)
from ._secret_versions import (
    RotationPolicy,
    SecretState,
    SecretValue,
    SecretVersion,
    Stage,
    valid_secret_name,
)
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
from ._shred import shred
from ._shred_journal import FileShredJournal, MemoryShredJournal, ShredJournal
from ._shred_receipt import ShredReceipt, receipt_text, verify_receipt
from ._sqlite_data_keys import SqliteDataKeyStore

__all__ = [
    "AsyncBlindIndex",
    "AsyncCachedSecrets",
    "AsyncKeyService",
    "AsyncSecretStore",
    "AsyncTenantCipher",
    "BackupReport",
    "BlindIndex",
    "CachePolicy",
    "CacheStats",
    "CachedSecrets",
    "CallBudget",
    "Capability",
    "ColumnSource",
    "DataKey",
    "DataKeyRecord",
    "DataKeyState",
    "DataKeyStore",
    "DataKeysRewrapped",
    "Election",
    "FileElection",
    "FileShredJournal",
    "GuardedKeyService",
    "Health",
    "JobProgress",
    "KeyChanged",
    "KeyContext",
    "KeyInfo",
    "KeyService",
    "KeyServiceDegraded",
    "KeyServiceRestored",
    "KeyState",
    "KeyUse",
    "KeyUsed",
    "Keyset",
    "LocalKeyService",
    "Mac",
    "MemoryDataKeyStore",
    "MemorySecretStore",
    "MemoryShredJournal",
    "MigrationReport",
    "Parsed",
    "ReadableRow",
    "ReencryptReport",
    "RewrapReport",
    "RotationPolicy",
    "RotationReport",
    "RotationTask",
    "SealLimits",
    "SealedRow",
    "SealedUse",
    "Secret",
    "SecretChanged",
    "SecretRead",
    "SecretState",
    "SecretStore",
    "SecretValue",
    "SecretVersion",
    "ShredJournal",
    "ShredReceipt",
    "Sighting",
    "SqliteColumn",
    "SqliteDataKeyStore",
    "SqliteSecretStore",
    "Stage",
    "Suite",
    "TenantCipher",
    "TenantShredded",
    "VersionedSecretStore",
    "WrappedKey",
    "accepted_values",
    "backup_secrets",
    "create_keyset",
    "encode_context",
    "ensure_retirable",
    "find_readable",
    "from_text",
    "inventory_sql",
    "key_uses",
    "migrate_column",
    "migrate_env_file",
    "parse",
    "platform_owner",
    "receipt_text",
    "reencrypt",
    "remaining",
    "replace_inline",
    "restore_secrets",
    "retire_data_keys",
    "rewrap",
    "rotate_due",
    "rotate_secret",
    "sealed_uses",
    "shred",
    "tenants_of",
    "to_text",
    "valid_secret_name",
    "verify_receipt",
]
