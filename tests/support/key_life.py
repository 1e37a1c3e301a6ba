"""
Data keys in a store, and who can still open them: for attacks on the life of keys.
"""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from twh_platform.errors import KeyServiceError
from twh_platform.kms import DataKeyRecord, DataKeyStore, KeyContext, KeyService, WrappedKey

__all__ = ["altered", "context_of", "errors_in", "fill", "opened", "pairs_of"]


def context_of(tenant_id: str = "acme", purpose: str = "data") -> KeyContext:
    """
    The context of a new data key.
    """
    return KeyContext(tenant_id=tenant_id, purpose=purpose, data_key_id=os.urandom(16))


def fill(service: KeyService, store: DataKeyStore, tenant_id: str, count: int) -> dict[bytes, Any]:
    """
    Add data keys of a tenant; returns them by id, as they are in plaintext.
    """
    kept: dict[bytes, Any] = {}
    for context in [context_of(tenant_id) for _ in range(count)]:
        (made,) = service.generate([context])
        assert not isinstance(made, KeyServiceError), made
        kept[context.data_key_id] = made.plaintext
        record = DataKeyRecord(
            tenant_id=tenant_id,
            data_key_id=context.data_key_id,
            purpose=context.purpose,
            wrapped=made.wrapped,
            shared=False,
            created_at=datetime.now(UTC),
        )
        store.add(record)
    return kept


def pairs_of(store: DataKeyStore, tenant_id: str) -> list[tuple[WrappedKey, KeyContext]]:
    """
    A tenant's wrapped keys, as key services are asked for them.
    """
    return [(one.wrapped, one.context) for one in store.page(tenant_id, limit=1000)]


def opened(service: KeyService, store: DataKeyStore, tenant_id: str, kept: Any) -> int:
    """
    How many of a tenant's data keys open, and are what they were.
    """
    records = store.page(tenant_id, limit=1000)
    results = service.unwrap([(one.wrapped, one.context) for one in records])
    known = [kept.get(one.data_key_id) for one in records]
    return sum(key == result for key, result in zip(known, results, strict=True))


def altered(store: DataKeyStore, record: DataKeyRecord, ciphertext: bytes) -> None:
    """
    Put something else in the place of a wrapped key, as who can write into the table does.
    """
    wrapped = replace(record.wrapped, ciphertext=ciphertext)
    assert store.replace(replace(record, wrapped=wrapped), revision=record.revision)


def errors_in(results: list[Any]) -> list[KeyServiceError]:
    """
    What failed in a batch.
    """
    return [one for one in results if isinstance(one, KeyServiceError)]
