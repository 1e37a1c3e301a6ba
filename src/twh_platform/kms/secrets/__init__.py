"""
Secrets: values that never show themselves, in stores that keep and rotate them.

Needs the extra `kms`.
"""

from .._announcements import SecretChanged, SecretRead
from .._secret import Secret
from ._async_store import AsyncSecretStore
from ._backup import BackupReport, backup_secrets, restore_secrets
from ._cache import AsyncCachedSecrets, CachedSecrets
from ._migrate import (
    ColumnSource,
    MigrationReport,
    ReadableRow,
    Sighting,
    SqliteColumn,
    find_readable,
    migrate_column,
    migrate_env_file,
)
from ._rotation import (
    Election,
    FileElection,
    RotationReport,
    RotationTask,
    rotate_due,
    rotate_secret,
)
from ._sqlite import SqliteSecretStore
from ._store import (
    MemorySecretStore,
    SecretStore,
    VersionedSecretStore,
    accepted_values,
)
from ._versions import (
    RotationPolicy,
    SecretState,
    SecretValue,
    SecretVersion,
    Stage,
    valid_secret_name,
)

__all__ = [
    "AsyncCachedSecrets",
    "AsyncSecretStore",
    "BackupReport",
    "CachedSecrets",
    "ColumnSource",
    "Election",
    "FileElection",
    "MemorySecretStore",
    "MigrationReport",
    "ReadableRow",
    "RotationPolicy",
    "RotationReport",
    "RotationTask",
    "Secret",
    "SecretChanged",
    "SecretRead",
    "SecretState",
    "SecretStore",
    "SecretValue",
    "SecretVersion",
    "Sighting",
    "SqliteColumn",
    "SqliteSecretStore",
    "Stage",
    "VersionedSecretStore",
    "accepted_values",
    "backup_secrets",
    "find_readable",
    "migrate_column",
    "migrate_env_file",
    "restore_secrets",
    "rotate_due",
    "rotate_secret",
    "valid_secret_name",
]
