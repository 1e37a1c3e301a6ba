"""
What the tests of secrets seal with: real keys that live as long as the test.
"""

from __future__ import annotations

from twh_platform.kms._cipher import TenantCipher
from twh_platform.kms._data_keys import MemoryDataKeyStore
from twh_platform.kms._keyset import Keyset
from twh_platform.kms._local import LocalKeyService

__all__ = ["tenant_cipher"]


def tenant_cipher(service: LocalKeyService | None = None) -> TenantCipher:
    """A cipher for secrets over a local key service, with data keys in memory."""
    keys = service or LocalKeyService(Keyset.new())
    return TenantCipher(keys, MemoryDataKeyStore(), purpose="secrets")
