"""
A shred on every key service: only real destruction gives a receipt.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("cryptography")

from tests.support.key_services import KEY_SERVICES, Subject
from twh_platform import Tenant, bind_tenant
from twh_platform.errors import KeyServiceError
from twh_platform.kms import Capability, KeyState, MemoryDataKeyStore, TenantCipher
from twh_platform.kms.lifecycle import MemoryShredJournal, receipt_text, shred, verify_receipt

NEEDED = Capability.TENANT_KEYS | Capability.DESTROY | Capability.MAC


@pytest.fixture(params=sorted(KEY_SERVICES))
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    """
    A key service, empty.
    """
    yield from KEY_SERVICES[request.param](request)


def test_a_shred_is_proved_or_refused(subject):
    """Where each tenant has a key there is a receipt; elsewhere nothing is done."""
    service, store, journal = subject.service, MemoryDataKeyStore(), MemoryShredJournal()
    cipher = TenantCipher(service, store)
    with bind_tenant(Tenant(id="acme")):
        sealed = cipher.seal(b"x", {})
    with bind_tenant(Tenant(id="globex")):
        other = cipher.seal(b"y", {})
    given = {"service": service, "store": store, "journal": journal, "cipher": cipher}
    if NEEDED & ~service.capabilities:
        with pytest.raises(KeyServiceError) as refused:
            shred("acme", **given)
        assert refused.value.code == "shred_unsupported"
        with bind_tenant(Tenant(id="acme")):
            assert cipher.open(sealed, {}) == b"x"
        return

    receipt = shred("acme", **given)

    assert receipt.state in {KeyState.DESTROYED, KeyState.DESTROYING}
    assert verify_receipt(receipt_text(receipt, service), service) == receipt
    again = TenantCipher(subject.again(), store)
    with bind_tenant(Tenant(id="acme")), pytest.raises(KeyServiceError):
        again.open(sealed, {})
    with bind_tenant(Tenant(id="globex")):
        assert again.open(other, {}) == b"y"
    if receipt.state is KeyState.DESTROYED:
        assert shred("acme", **given) == receipt


def test_another_store_of_the_tenant_is_shredded_too(subject):
    """With the same journal: it gets its tombstone, and the receipt counts its data keys."""
    service, journal = subject.service, MemoryShredJournal()
    if NEEDED & ~service.capabilities:
        pytest.skip("this key service cannot shred a tenant")
    stores = [MemoryDataKeyStore(), MemoryDataKeyStore()]
    for store in stores:
        with bind_tenant(Tenant(id="acme")):
            TenantCipher(service, store).seal(b"x", {})

    first, second = (
        shred(
            "acme",
            service=service,
            store=store,
            journal=journal,
            cipher=TenantCipher(subject.again(), store),
        )
        for store in stores
    )

    assert (first.data_keys, second.data_keys) == (1, 2)
    assert second.canary == first.canary
    assert stores[1].shredded("acme")


def test_a_key_that_is_out_of_use_is_no_shredded_key(subject):
    """Disabled, or deleted so that it can be restored: its refusals prove nothing."""
    service, store = subject.service, MemoryDataKeyStore()
    if Capability.DISABLE not in service.capabilities or NEEDED & ~service.capabilities:
        pytest.skip("this key service cannot disable a key, or not shred a tenant")
    with bind_tenant(Tenant(id="acme")):
        TenantCipher(service, store).seal(b"x", {})
    service.disable("acme")

    with pytest.raises(KeyServiceError) as refused:
        shred("acme", service=service, store=store, journal=MemoryShredJournal())

    assert refused.value.code == "key_disabled"
    assert not store.shredded("acme")
