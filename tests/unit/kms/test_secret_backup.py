"""
Backups of secrets: sealed, whole, and closed for good where a key is destroyed.
"""

from __future__ import annotations

import sqlite3

import pytest

pytest.importorskip("cryptography")

from tests.support.secrets import tenant_cipher
from twh_platform import subscribe
from twh_platform.errors import (
    ConfigurationError,
    DecryptionError,
    KeyDestroyedError,
    KeyNotFoundError,
    KeyServiceError,
    PlatformError,
    SecretError,
    SecretRevokedError,
)
from twh_platform.kms import Keyset, LocalKeyService, platform_owner
from twh_platform.kms.secrets import (
    MemorySecretStore,
    RotationPolicy,
    Secret,
    SecretRead,
    SqliteSecretStore,
    Stage,
    backup_secrets,
    restore_secrets,
)
from twh_platform.tenancy import Tenant, bind_tenant

OWNERS = ["_platform", "acme", "globex"]
POLICY = RotationPolicy(every=100, overlap=10)


@pytest.fixture
def service() -> LocalKeyService:
    """The key service of all."""
    return LocalKeyService(Keyset.new())


@pytest.fixture
def store(service, tmp_path) -> SqliteSecretStore:
    """A sealed store with secrets of three owners."""
    store = SqliteSecretStore(tmp_path / "secrets.sqlite", tenant_cipher(service))
    with platform_owner():
        store.put("jwt/key", Secret(b"\0mark-platform"), policy=POLICY)
    for tenant_id in ("acme", "globex"):
        with bind_tenant(Tenant(id=tenant_id)):
            for number in range(4):
                store.put("db/password", Secret(f"mark-{tenant_id}-{number}"))
            store.put("db/password", Secret("mark-next"), stage=Stage.PENDING)
            store.revoke("db/password", 3)
    return store


def test_what_is_backed_up_comes_back_as_it_was(service, store):
    """Values, versions, stages, times, policies; into a store of another kind."""
    backup, made = backup_secrets(store, service, OWNERS)
    restored = MemorySecretStore()
    report = restore_secrets(restored, service, backup)

    assert made.secrets == report.secrets == dict.fromkeys(OWNERS, 1)
    assert (report.made_at, report.destroyed) == (made.made_at, ())
    with platform_owner():
        assert restored.get("jwt/key").secret == Secret(b"\0mark-platform")
        assert restored.policy("jwt/key") == POLICY
    with bind_tenant(Tenant(id="acme")):
        assert restored.state("db/password") == store.state("db/password")
        assert restored.stored("db/password") == store.stored("db/password")
        with pytest.raises(SecretRevokedError):
            restored.get("db/password", version=3)


def test_it_restores_into_a_sealed_store_with_new_data_keys(service, store, tmp_path):
    """The data keys of the lost store are not needed: the key service is."""
    backup, _ = backup_secrets(store, service, OWNERS)
    other = SqliteSecretStore(tmp_path / "other.sqlite", tenant_cipher(service))
    restore_secrets(other, service, backup)

    with bind_tenant(Tenant(id="globex")):
        assert other.get("db/password").secret == Secret("mark-globex-3")


def test_nothing_of_it_is_readable(service, store, tmp_path):
    """Neither a value nor a name is in the file; no revoked value is in it at all."""
    backup, _ = backup_secrets(store, service, OWNERS)
    whole = (tmp_path / "secrets.sqlite").read_bytes()

    assert b"mark" not in backup
    assert b"password" not in backup
    assert b"mark" not in whole
    with bind_tenant(Tenant(id="acme")):
        assert 3 not in store.stored("db/password")


def test_a_tampered_one_is_refused_and_nothing_is_written(service, store):
    """Whichever byte was changed, wherever it was cut, whatever was added."""
    backup, _ = backup_secrets(store, service, OWNERS)
    step = max(1, len(backup) // 150)
    wrong = [backup[:-1], backup[: len(backup) // 2], backup + b"x", backup + bytes(4), b"TWHSECB1"]
    wrong += [
        backup[:at] + bytes([backup[at] ^ 1]) + backup[at + 1 :]
        for at in range(8, len(backup), step)
    ]
    empty = MemorySecretStore()

    for one in wrong:
        with pytest.raises(KeyServiceError):
            restore_secrets(empty, service, one)
    assert empty._states == {}
    with pytest.raises(ConfigurationError) as caught:
        restore_secrets(empty, service, b"something else")
    assert caught.value.code == "secret_backup_invalid"


def _sections(backup: bytes) -> list[bytes]:
    parts, at = [], 8
    while at < len(backup):
        end = at + 4 + int.from_bytes(backup[at : at + 4])
        parts.append(backup[at:end])
        at = end
    return parts


def test_sections_are_not_dropped_swapped_doubled_or_mixed(service, store):
    """What an older backup has of one tenant does not get into a newer one."""
    first, _ = backup_secrets(store, service, OWNERS)
    second, _ = backup_secrets(store, service, OWNERS)
    old, new = _sections(first), _sections(second)
    mixes = [
        new[:-1],
        [new[0], new[2], new[1], new[3]],
        [*new, new[1]],
        [*new[:2], old[2], new[3]],
        [old[0], *new[1:]],
        new[1:],
    ]

    for mix in mixes:
        with pytest.raises(DecryptionError):
            restore_secrets(MemorySecretStore(), service, b"TWHSECB1" + b"".join(mix))
    restore_secrets(MemorySecretStore(), service, b"TWHSECB1" + b"".join(new))


def test_only_into_an_empty_store(service, store):
    """It says which owner has secrets there, and writes nothing."""
    backup, _ = backup_secrets(store, service, OWNERS)
    other = MemorySecretStore()
    with bind_tenant(Tenant(id="globex")):
        other.put("x", Secret("x"))

    with pytest.raises(SecretError) as caught:
        restore_secrets(other, service, backup)
    assert caught.value.code == "secret_store_not_empty"
    assert len(other._states) == 1


def test_another_key_service_opens_nothing(store, service):
    """Whoever has the file has nothing without the keys."""
    backup, _ = backup_secrets(store, service, OWNERS)

    with pytest.raises((DecryptionError, KeyNotFoundError)):
        restore_secrets(MemorySecretStore(), LocalKeyService(Keyset.new()), backup)


def test_a_destroyed_tenants_part_stays_closed(store, service):
    """The others come back, and it is said whose does not."""
    backup, _ = backup_secrets(store, service, OWNERS)
    service.destroy("acme")
    restored = MemorySecretStore()
    report = restore_secrets(restored, service, backup)

    assert report.destroyed == ("acme",)
    assert set(report.secrets) == {"_platform", "globex"}
    assert {owner for owner, _ in restored._states} == {"_platform", "globex"}


def test_a_destroyed_tenant_does_not_keep_the_others_from_a_backup(store, service):
    """It is left out and named, and all others are in it."""
    service.destroy("acme")

    backup, made = backup_secrets(store, service, OWNERS)
    report = restore_secrets(MemorySecretStore(), service, backup)

    assert made.destroyed == ("acme",)
    assert set(made.secrets) == set(report.secrets) == {"_platform", "globex"}


def test_one_destroyed_data_key_is_no_destroyed_tenant(store, service, monkeypatch):
    """Its owner's other secrets would be missed, and nobody told: so it is an error."""
    monkeypatch.setattr(store, "stored", lambda _: (_ for _ in ()).throw(KeyDestroyedError))

    with pytest.raises(KeyDestroyedError):
        backup_secrets(store, service, OWNERS)


def test_a_large_store_fits(service):
    """More than one secret may hold, in one backup."""
    store, restored = MemorySecretStore(), MemorySecretStore()
    with platform_owner():
        for number in range(40):
            store.put(f"big/{number}", Secret(bytes([number]) * 65_536))
        backup, _ = backup_secrets(store, service, ["_platform"])
        restore_secrets(restored, service, backup)

        assert restored.get("big/39").secret == store.get("big/39").secret


def test_it_is_announced(service, store):
    """Whoever takes a whole store along is seen doing it."""
    seen: list[SecretRead] = []
    end = subscribe(SecretRead, seen.append)
    backup_secrets(store, service, OWNERS)
    end()

    assert [(one.tenant_id, one.name, one.source) for one in seen] == [
        ("_platform", "jwt/key", "backup"),
        ("acme", "db/password", "backup"),
        ("globex", "db/password", "backup"),
    ]


def test_a_store_of_another_kind_of_file_is_refused(service, tmp_path):
    """What is no SQLite file, or cannot be opened, is told with its own code."""
    (tmp_path / "text").write_bytes(b"not a database" * 100)
    with pytest.raises(ConfigurationError) as caught:
        SqliteSecretStore(tmp_path / "text", tenant_cipher(service))
    with pytest.raises(PlatformError) as missing:
        SqliteSecretStore(tmp_path / "no" / "file", tenant_cipher(service))

    assert caught.value.code == "secret_store_invalid"
    assert missing.value.code == "secret_store_unavailable"


def test_a_value_moved_to_another_row_does_not_open(service, tmp_path):
    """A value is bound to its tenant, name and version: what the file's owner swaps is refused."""
    path = tmp_path / "secrets.sqlite"
    store = SqliteSecretStore(path, tenant_cipher(service))
    with platform_owner():
        store.put("a", Secret("mark-a"))
        store.put("b", Secret("mark-b"))
        with sqlite3.connect(path) as connection:
            connection.execute(
                "UPDATE twh_secret_values_v1 SET sealed ="
                " (SELECT sealed FROM twh_secret_values_v1 WHERE name = 'a')"
            )
        connection.close()

        assert store.get("a").secret == Secret("mark-a")
        with pytest.raises(DecryptionError):
            store.get("b")


def test_the_file_is_private_and_a_revoked_value_leaves_it(service, tmp_path):
    """Mode 600, and the sealed bytes of a revoked version are overwritten."""
    path = tmp_path / "secrets.sqlite"
    store = SqliteSecretStore(path, tenant_cipher(service))
    with platform_owner():
        store.put("a", Secret("mark-a"))
        with sqlite3.connect(path) as connection:
            (sealed,) = connection.execute("SELECT sealed FROM twh_secret_values_v1").fetchone()
        connection.close()
        assert sealed in path.read_bytes()
        store.revoke("a", 1)

    assert sealed not in path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_restore_that_ended_half_way_is_run_again(store, service, monkeypatch):
    """What it has put back stays.  Control: a secret that changed since is not restored over."""
    backup, _ = backup_secrets(store, service, OWNERS)
    other, restore = MemorySecretStore(), MemorySecretStore.restore
    with monkeypatch.context() as patched:
        patched.setattr(other, "restore", _Ending(restore, other, after=2))
        with pytest.raises(OSError, match="full"):
            restore_secrets(other, service, backup)
    assert len(other._states) == 2

    restore_secrets(other, service, backup)

    assert len(other._states) == 3
    with bind_tenant(Tenant(id="acme")):
        other.put("db/password", Secret("newer"))
    with pytest.raises(SecretError):
        restore_secrets(other, service, backup)


class _Ending:
    """A store's restoring, until the disk is full."""

    def __init__(self, restore, store, *, after):
        self._restore, self._store, self._left = restore, store, after

    def __call__(self, state, values):
        if not self._left:
            message = "full"
            raise OSError(message)
        self._left -= 1
        self._restore(self._store, state, values)
