"""
Secrets and the data keys that seal them, in one PostgreSQL under policies.

The contract of stores is tried elsewhere, with a stand-in for the cipher; here
nothing is one.
"""

from __future__ import annotations

import pytest

pytest.importorskip("cryptography")

from tests.integration.kms._house import ACME, OTHER
from tests.support.postgres_keys import KEEPER, OWNER
from twh_platform import bind_tenant
from twh_platform.errors import (
    DecryptionError,
    KeyDestroyedError,
    NoCurrentTenantError,
    SecretRevokedError,
)
from twh_platform.kms import Keyset, LocalKeyService, TenantCipher, platform_owner
from twh_platform.kms.lifecycle import MemoryShredJournal, shred
from twh_platform.kms.postgres.secrets import PostgresSecretStore
from twh_platform.kms.secrets import Secret, Stage

NAME = "smtp/password"
OWNERS = {
    "acme": lambda: bind_tenant(ACME),
    "other": lambda: bind_tenant(OTHER),
    "platform": platform_owner,
}
# As the owner of the tables, who can take away what holds it.
COPY = """
ALTER TABLE twh.secrets NO FORCE ROW LEVEL SECURITY;
ALTER TABLE twh.secret_versions NO FORCE ROW LEVEL SECURITY;
INSERT INTO twh.secrets (tenant_id, name) VALUES ('other', 'smtp/password') ON CONFLICT DO NOTHING;
DELETE FROM twh.secret_versions WHERE tenant_id = 'other';
INSERT INTO twh.secret_versions (tenant_id, name, version, stage, sealed, created_at, current_since)
SELECT 'other', name, 2, stage, sealed, created_at, current_since
FROM twh.secret_versions WHERE tenant_id = 'acme';
ALTER TABLE twh.secrets FORCE ROW LEVEL SECURITY;
ALTER TABLE twh.secret_versions FORCE ROW LEVEL SECURITY;
"""
MOVE = "UPDATE twh.data_keys SET tenant_id = '{}', revision = revision + 1 WHERE tenant_id = '{}'"


@pytest.fixture
def service():
    """The key service of all processes of a test."""
    return LocalKeyService(Keyset.new())


@pytest.fixture
def cipher(house, service):
    """A cipher whose data keys are in the same database."""
    with TenantCipher(service, house.store(), purpose="secrets") as cipher:
        yield cipher


@pytest.fixture
def store(house, cipher):
    """The store as a process of the application has it."""
    return PostgresSecretStore(house.connect, cipher)


@pytest.mark.parametrize("owner", OWNERS)
def test_what_one_process_puts_another_gets(owner, store, house, service):
    """With a cipher of its own, from the rows alone; and no row shows the value."""
    with OWNERS[owner]():
        store.put(NAME, Secret(f"value of {owner}"))
        with TenantCipher(service, house.store(), purpose="secrets") as another:
            found = PostgresSecretStore(house.connect, another).get(NAME)
    rows = house.look("SELECT string_agg(sealed::text, '') FROM twh.secret_versions")

    assert found.secret.text() == f"value of {owner}"
    assert rows.startswith("\\x01")
    assert f"value of {owner}".encode().hex() not in rows


def test_owners_have_secrets_and_keys_of_their_own(store, house):
    """One name, three values; each is sealed with a data key of its owner."""
    for owner, bound in OWNERS.items():
        with bound():
            store.put(NAME, Secret(owner))
    for owner, bound in OWNERS.items():
        with bound():
            assert store.get(NAME).secret.text() == owner
            assert store.names() == [NAME]

    keys = "SELECT count(DISTINCT (tenant_id, data_key_id)) FROM twh.data_keys"
    used = "SELECT count(DISTINCT substring(sealed, 4, 16)) FROM twh.secret_versions"
    assert (house.look(keys), house.look(used)) == (3, 3)
    with pytest.raises(NoCurrentTenantError):
        store.get(NAME)


@pytest.mark.parametrize("owner", OWNERS)
def test_a_rotation_overlaps_and_a_revocation_erases(owner, store, house):
    """For each owner; nobody else's secret changes."""
    for bound in OWNERS.values():
        with bound():
            store.put(NAME, Secret("one"))
    with OWNERS[owner]():
        store.put(NAME, Secret("two"))
        stages = (Stage.CURRENT, Stage.PREVIOUS)
        both = [store.get(NAME, stage=stage).secret.text() for stage in stages]
        store.revoke(NAME, 1)
        with pytest.raises(SecretRevokedError):
            store.get(NAME, version=1)

    assert both == ["two", "one"]
    assert house.look("SELECT count(*) FROM twh.secret_versions WHERE sealed IS NULL") == 1
    for other in OWNERS.keys() - {owner}:
        with OWNERS[other]():
            assert store.get(NAME).secret.text() == "one"


def test_a_row_that_the_owner_copies_to_another_tenant_does_not_open(store, house):
    """Whoever owns the tables moves rows past the policies, and gets nothing for it."""
    for tenant in (ACME, OTHER):
        with bind_tenant(tenant):
            store.put(NAME, Secret(tenant.id))
            assert store.get(NAME).secret.text() == tenant.id
    house.database.execute(COPY, user=OWNER)

    with bind_tenant(OTHER):
        assert store.versions(NAME)[0].version == 2
        with pytest.raises(DecryptionError):
            store.get(NAME)
    with bind_tenant(ACME):
        assert store.get(NAME).secret.text() == "acme"


def test_a_row_with_its_data_key_does_not_open_for_another_tenant(store, house, cipher):
    """The wrapped key is bound to its tenant.  Control: moved back, it opens."""
    for tenant in (ACME, OTHER):
        with bind_tenant(tenant):
            store.put(NAME, Secret(tenant.id))
    house.database.execute(COPY, user=OWNER)
    house.database.execute("DELETE FROM twh.data_keys WHERE tenant_id = 'other'")
    house.database.execute(MOVE.format("other", "acme"))
    cipher.clear()
    with bind_tenant(OTHER), pytest.raises(DecryptionError):
        store.get(NAME)
    house.database.execute(MOVE.format("acme", "other"))
    cipher.clear()

    with bind_tenant(ACME):
        assert store.get(NAME).secret.text() == "acme"


def test_a_shredded_tenants_secrets_are_refused(store, house, service, cipher):
    """Its old ones and new ones, in every process; the others go on."""
    for owner, bound in OWNERS.items():
        with bound():
            store.put(NAME, Secret(owner))
    keeper, journal = house.store(KEEPER), MemoryShredJournal()
    shred("acme", service=service, store=keeper, journal=journal, cipher=cipher)
    with TenantCipher(service, house.store(), purpose="secrets") as another:
        for one in (store, PostgresSecretStore(house.connect, another)):
            with bind_tenant(ACME), pytest.raises(KeyDestroyedError):
                one.get(NAME)
            with bind_tenant(ACME), pytest.raises(KeyDestroyedError):
                one.put("new", Secret("value"))
            for owner in ("other", "platform"):
                with OWNERS[owner]():
                    assert one.get(NAME).secret.text() == owner
