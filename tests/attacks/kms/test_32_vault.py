"""
Attacks 32, 34, 35, 48 and 63 on keys in Vault or OpenBao: what a real server can be asked.
"""

from __future__ import annotations

import secrets
from contextlib import ExitStack, suppress

import pytest
from hvac.exceptions import InvalidRequest, VaultError

from tests.support.key_life import altered, context_of, errors_in, fill, opened, pairs_of
from tests.support.plain_vault import PlainTransit, text_of
from twh_platform import Tenant, bind_tenant
from twh_platform.errors import ConfigurationError, KeyServiceError, TenantUnresolvedError
from twh_platform.kms import MemoryDataKeyStore
from twh_platform.kms.lifecycle import ensure_retirable, remaining, rewrap
from twh_platform.kms.secrets import Secret


@pytest.fixture
def stack():
    """What is closed at the end of a test."""
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def service(vault, stack):
    """A key service over the server."""
    return vault.key_service(stack)


@pytest.fixture
def transit(vault):
    """What hvac does with the same engine."""
    return PlainTransit(vault.address, vault.token, vault.transit)


def name_of(store):
    """Under which name Transit has the tenant's key."""
    return store.page("acme")[0].wrapped.key_ref.rpartition("/")[2]


def test_32_breaks_one_of_a_batch(vault, service, transit, twh_attack):
    """One wrapped key that is no key keeps no other under the older version."""
    attack = twh_attack(number=32, title="breaks one wrapped key, and none is rewrapped any more")
    store = MemoryDataKeyStore()
    kept = fill(service, store, "acme", 10)
    broken, other = store.page("acme", limit=2)
    altered(store, broken, other.wrapped.ciphertext)
    service.rotate("acme")
    for _ in range(3):
        batch = [
            {"ciphertext": wrapped.ciphertext.decode(), "context": text_of(context.encoded())}
            for wrapped, context in pairs_of(store, "acme")
        ]
        asked = {"ciphertext": "", "batch_input": batch}
        results = transit.rewrap_data(name_of(store), **asked)["data"]["batch_results"]
        with suppress(KeyError):
            theirs = [one["ciphertext"] for one in results]
            assert not theirs
    attack.control(remaining(service, store, "acme") - 1)

    report = rewrap(service, store)
    attack.ours(remaining(service, store, "acme") - 1)
    assert (report.rewrapped, report.failed) == (9, {"decryption_failed": 1})
    assert (rewrap(service, store).rewrapped, opened(service, store, "acme", kept)) == (0, 9)


def test_34_retires_what_is_in_use(vault, service, transit, twh_attack):
    """Before a version is retired it is counted what it wraps; only then it goes."""
    attack = twh_attack(number=34, title="has a version retired that still wraps data keys")
    name, ciphertexts = transit.made()
    transit.rotate_key(name)
    transit.update_key_configuration(name, min_decryption_version=2)
    attack.control(transit.refused(name, ciphertexts))

    store = MemoryDataKeyStore()
    kept = fill(service, store, "acme", 5)
    service.rotate("acme")
    with pytest.raises(KeyServiceError, match="5 data keys") as caught:
        ensure_retirable(service, store, "acme", 1)
    assert caught.value.code == "key_version_in_use"
    rewrap(service, store)
    ensure_retirable(service, store, "acme", 1)
    transit.update_key_configuration(name_of(store), min_decryption_version=2)
    attack.ours(5 - opened(service, store, "acme", kept))


def test_35_has_a_binding_dropped(vault, service, transit, twh_attack):
    """Who rewraps gives the context too: what comes out opens in no other."""
    attack = twh_attack(number=35, title="has a wrapped key lose its tenant in a rewrap")
    context = {"acme": text_of(b"acme"), "globex": text_of(b"globex")}
    bound, loose = f"bound-{secrets.token_hex(4)}", f"loose-{secrets.token_hex(4)}"
    transit.create_key(bound, derived=True)
    transit.create_key(loose)
    sealed = transit.encrypt_data(bound, plaintext=text_of(b"key"), context=context["acme"])
    with pytest.raises(InvalidRequest):
        transit.rewrap_data(bound, sealed["data"]["ciphertext"])  # so it is decrypted instead
    plain = transit.decrypt_data(bound, sealed["data"]["ciphertext"], context["acme"])
    moved = transit.encrypt_data(loose, plaintext=plain["data"]["plaintext"])["data"]["ciphertext"]
    attack.control(1 - transit.refused(loose, [moved], context=context["globex"]))

    bound = context_of()
    (key,) = service.generate([bound])
    service.rotate("acme")
    (moved,) = service.rewrap([(key.wrapped, bound)])
    others = [context_of("globex"), context_of("acme"), context_of("acme", "index")]
    results = service.unwrap([(moved, one) for one in others])
    attack.ours(len(results) - len(errors_in(results)))
    assert service.unwrap([(moved, bound)]) == [key.plaintext]
    assert moved.key_version == 2


def test_48_names_a_key_by_a_path(vault, service, stack, transit, twh_attack):
    """A tenant's id has no such characters, and is encoded before it becomes a part of a URL."""
    attack = twh_attack(number=48, title="reads a secret by a key's name with dots and slashes")
    store = vault.secret_store(stack)
    with bind_tenant(Tenant(id="acme")):
        store.put("token", Secret("marked-value"))
    names = [f"../../{vault.kv}/{part}/twh/acme/token" for part in ("data", "metadata")]
    attack.control([transit.read_key(one)["data"] for one in names])

    found = []
    for one in names:
        for call in (service.describe, service.create, context_of):
            with suppress(TenantUnresolvedError, ConfigurationError):
                found.append(call(one))
    attack.ours(found)


def test_48_has_a_missing_mount_taken_for_a_missing_key(service, vault, stack, transit, twh_attack):
    """The router's 404 is a fault of setup: no tenant is told that it has nothing."""
    attack = twh_attack(number=48, title="has a missing mount taken for a tenant without keys")
    theirs = set()
    for mount in (vault.transit, "nowhere"):
        with pytest.raises(VaultError) as caught:
            transit.read_key("absent", mount_point=mount)
        theirs.add(caught.type)
    attack.control(2 - len(theirs))

    ours = set()
    for one in (service, vault.key_service(stack, mount="nowhere")):
        with pytest.raises(KeyServiceError) as caught:
            one.describe("acme")
        ours.add(caught.value.code)
    attack.ours(2 - len(ours))
    assert ours == {"key_not_found", "vault_mount_missing"}


def test_63_makes_a_key_for_each_tenant(vault, service, stack, transit, twh_attack):
    """The server keeps as many keys in memory as were used, if nobody has bounded that."""
    attack = twh_attack(
        number=63, title="fills the memory of Vault by keys of many tenants", kind="residual"
    )
    made = [service.create(f"tenant-{number}").key_ref for number in range(30)]
    listed = [transit.read_key(one.rpartition("/")[2])["data"]["name"] for one in made]
    attack.ours(len(set(listed)))
