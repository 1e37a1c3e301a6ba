"""
Secrets as a service author reads, keeps and rotates them; checked, never run.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import assert_type

from twh_platform.kms import TenantCipher
from twh_platform.kms.aws import AwsSecretStore
from twh_platform.kms.postgres.secrets import PostgresSecretStore
from twh_platform.kms.secrets import (
    AsyncCachedSecrets,
    AsyncSecretStore,
    CachedSecrets,
    MemorySecretStore,
    RotationPolicy,
    Secret,
    SecretStore,
    SecretValue,
    SecretVersion,
    SqliteSecretStore,
    Stage,
    accepted_values,
)
from twh_platform.kms.vault import VaultSecretStore


def any_of(
    path: Path,
    cipher: TenantCipher,
    postgres: PostgresSecretStore,
    vault: VaultSecretStore,
    aws: AwsSecretStore,
) -> list[SecretStore]:
    """
    Each is one, and so is a cache over one; the twin for loops is not.
    """
    memory = MemorySecretStore()
    wrong: SecretStore = AsyncSecretStore(memory)  # type: ignore[assignment]
    stores: list[SecretStore] = [memory, SqliteSecretStore(path, cipher), postgres, vault, aws]
    return [*stores, CachedSecrets(memory, max_age=30), wrong]


def kept(store: SecretStore, until: datetime) -> SecretVersion:
    """
    A value goes in as a secret, and nothing but that.
    """
    version = store.put(
        "smtp/password",
        Secret("s3cr3t"),
        stage=Stage.PENDING,
        expires_at=until,
        expected=0,
        overlap=3600.0,
        policy=RotationPolicy(every=30 * 86400.0, overlap=3600.0),
    )
    assert_type(version, SecretVersion)
    assert_type(store.promote("smtp/password"), SecretVersion)

    store.put("smtp/password", "s3cr3t")  # type: ignore[arg-type]
    store.put("smtp/password", Secret("s"), Stage.PENDING)  # type: ignore[call-arg]
    store.put("smtp/password", Secret("s"), stage="pending")  # type: ignore[arg-type]
    store.put("smtp/password", Secret("s"), expires_at=60.0)  # type: ignore[arg-type]
    return version


def read(store: SecretStore) -> str:
    """
    It comes out as one, and is opened on purpose.
    """
    value = store.get("smtp/password")
    assert_type(value, SecretValue)
    assert_type(value.version, SecretVersion)
    assert_type(value.secret, Secret)
    assert_type(store.versions("smtp/password"), list[SecretVersion])
    assert_type(store.policy("smtp/password"), RotationPolicy | None)
    assert_type(accepted_values(store, "smtp/password"), tuple[SecretValue, ...])
    assert_type(value.secret.reveal(), bytes)

    store.get("smtp/password", Stage.PREVIOUS)  # type: ignore[call-arg]
    value.secret + "!"  # type: ignore[operator]
    value.secret.encode()  # type: ignore[attr-defined]
    return value.secret.text()


async def awaited(store: SecretStore) -> SecretValue:
    """
    The same calls with the same types.
    """
    async with AsyncSecretStore(store, threads=2, seconds=5.0) as secrets:
        assert_type(secrets, AsyncSecretStore)
        assert_type(await secrets.put("a", Secret("b"), expected=0), SecretVersion)
        assert_type(await secrets.names(prefix="smtp/"), list[str])
        await secrets.put("a", "b")  # type: ignore[arg-type]
        await secrets.names("smtp/")  # type: ignore[call-arg]
        return await secrets.get("a", version=1)


async def cached(store: SecretStore, name: str) -> tuple[SecretValue, ...]:
    """
    In memory, with a twin that takes a cache and nothing else.
    """
    secrets = CachedSecrets(store, max_age=30, stale_if_error=0)
    assert_type(secrets.get(name), SecretValue)
    assert_type(secrets.warm(name), SecretValue | None)
    assert_type(secrets.forget(name, tenant_id="acme"), None)
    AsyncCachedSecrets(store)  # type: ignore[arg-type]
    CachedSecrets(store, 30)  # type: ignore[call-arg]
    async with AsyncCachedSecrets(secrets) as twin:
        assert_type(await twin.get(name, stage=Stage.PREVIOUS), SecretValue)
        return await twin.accepted(name)
