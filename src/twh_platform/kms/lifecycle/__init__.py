"""
The life of keys: which are in use, rewrapping, re-encrypting, shredding.

Needs the extra `kms`.
"""

from .._announcements import DataKeysRewrapped, TenantShredded
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
from ._journal import FileShredJournal, MemoryShredJournal, ShredJournal
from ._receipt import ShredReceipt, receipt_text, verify_receipt
from ._reencrypt import ReencryptReport, SealedRow, reencrypt, retire_data_keys
from ._rewrap import RewrapReport, rewrap
from ._shred import shred

__all__ = [
    "DataKeysRewrapped",
    "FileShredJournal",
    "JobProgress",
    "KeyUse",
    "MemoryShredJournal",
    "ReencryptReport",
    "RewrapReport",
    "SealedRow",
    "SealedUse",
    "ShredJournal",
    "ShredReceipt",
    "TenantShredded",
    "ensure_retirable",
    "inventory_sql",
    "key_uses",
    "receipt_text",
    "reencrypt",
    "remaining",
    "retire_data_keys",
    "rewrap",
    "sealed_uses",
    "shred",
    "tenants_of",
    "verify_receipt",
]
