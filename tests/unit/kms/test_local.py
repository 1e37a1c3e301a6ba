"""
The local key service beyond what every key service does.
"""

from __future__ import annotations

import base64
import os
import time

import pytest

pytest.importorskip("cryptography")

from twh_platform import subscribe
from twh_platform.errors import (
    ConfigurationError,
    KeyDestroyedError,
    KeyNotFoundError,
    KeyUnsupportedError,
)
from twh_platform.kms import (
    Capability,
    DataKey,
    KeyChanged,
    KeyContext,
    Keyset,
    LocalKeyService,
    create_keyset,
)
from twh_platform.kms._keyset_wrapping import WRAPPED_BYTES


def bound(tenant="acme"):
    """The context of a new data key."""
    return KeyContext(tenant_id=tenant, purpose="data", data_key_id=os.urandom(16))


@pytest.fixture
def service():
    """Keys in memory."""
    return LocalKeyService(Keyset.new())


@pytest.fixture
def path(tmp_path):
    """A keyset with one tenant."""
    path = tmp_path / "keyset.json"
    create_keyset(path, tenants=("acme",))
    return path


def test_wrapped_keys_have_one_form(service):
    """77 bytes, of which no two share salt or nonce."""
    keys = service.generate([bound() for _ in range(50)])
    heads = {one.wrapped.ciphertext[1:29] for one in keys}

    assert {len(one.wrapped.ciphertext) for one in keys} == {WRAPPED_BYTES} == {77}
    assert {one.wrapped.ciphertext[0] for one in keys} == {1}
    assert len(heads) == 50


def test_a_tombstone_survives_the_process(path):
    """A tenant that was destroyed stays so for every service to come."""
    service = LocalKeyService(path)
    service.destroy("acme")
    (result,) = LocalKeyService(path).generate([bound()])

    assert isinstance(result, KeyDestroyedError)
    with pytest.raises(KeyDestroyedError):
        LocalKeyService(path).create("acme")


def test_destroyed_material_is_no_longer_in_the_file(path):
    """What was a key is not to be found, neither in the file nor beside it."""
    service = LocalKeyService(path)
    service.rotate("acme")
    keys = service._source.current().key("acme").versions.values()
    material = [base64.b64encode(one) for one in keys]
    assert all(one in path.read_bytes() for one in material)
    service.destroy("acme")
    kept = b"".join(one.read_bytes() for one in path.parent.iterdir())

    assert [one for one in material if one in kept] == []


def test_another_keyset_has_other_keys(service):
    """The same tenant in another keyset is another key."""
    context = bound()
    (key,) = service.generate([context])
    (result,) = LocalKeyService(Keyset.new()).unwrap([(key.wrapped, context)])

    assert isinstance(result, KeyNotFoundError)


def test_mac_keys_have_names(service):
    """A name that could not be one in every key service is refused."""
    for name in ("", "Receipts", "a/b", "x" * 33, "1st", "a:b"):
        with pytest.raises(ConfigurationError) as caught:
            service.mac(b"", key=name)
        assert caught.value.code == "mac_key_invalid"


def test_a_tenant_named_like_a_mac_key_is_another_key(service):
    """References of the two kinds never meet."""
    key_ref = service.mac(b"", key="acme").key_ref

    assert key_ref != service.create("acme").key_ref
    assert key_ref != service.create("mac").key_ref


def test_keys_that_come_about_by_use_are_announced(service):
    """Once, when the first data key is asked for."""
    told = []
    end = subscribe(KeyChanged, told.append)
    service.generate([bound("acme"), bound("globex"), bound("acme")])
    service.generate([bound("acme")])
    end()

    assert [(one.action, one.tenant_id) for one in told] == [
        ("created", "acme"),
        ("created", "globex"),
    ]


@pytest.mark.parametrize("encode", [bytes, base64.b64encode])
def test_a_keyset_in_the_environment_is_read_only(encode, path, monkeypatch):
    """Its tenants' keys are used; nothing is made, rotated or destroyed."""
    monkeypatch.setenv("TWH_KEYSET", encode(path.read_bytes()).decode())
    service = LocalKeyService.from_environment()
    context = bound()
    (key,) = service.generate([context])
    (missing,) = service.generate([bound("globex")])

    assert service.unwrap([(key.wrapped, context)]) == [key.plaintext]
    assert isinstance(missing, KeyNotFoundError)
    assert Capability.DESTROY not in service.capabilities
    for call in (service.create, service.rotate, service.disable, service.enable, service.destroy):
        with pytest.raises(KeyUnsupportedError):
            call("acme")
    assert service.health().ok


def test_the_environment_and_the_file_open_each_others_keys(path, monkeypatch):
    """The same keyset is the same keyset, wherever it came from."""
    monkeypatch.setenv("KEYS", path.read_text())
    context = bound()
    (key,) = LocalKeyService(path).generate([context])

    fixed = LocalKeyService.from_environment("KEYS")
    assert fixed.unwrap([(key.wrapped, context)]) == [key.plaintext]


def test_the_environment_may_name_a_file(path, monkeypatch):
    """What is no document is a path, and the file can be changed."""
    monkeypatch.setenv("TWH_KEYSET", str(path))

    assert LocalKeyService.from_environment().rotate("acme").version == 2


@pytest.mark.parametrize("value", [None, "", "  "])
def test_an_empty_environment_is_no_keyset(value, monkeypatch):
    """Nothing set, nothing made up."""
    monkeypatch.delenv("TWH_KEYSET", raising=False)
    if value is not None:
        monkeypatch.setenv("TWH_KEYSET", value)
    with pytest.raises(ConfigurationError) as caught:
        LocalKeyService.from_environment()

    assert caught.value.code == "keyset_missing"


def test_a_damaged_keyset_in_the_environment_is_refused_unquoted(path, monkeypatch):
    """The message holds nothing of the variable."""
    monkeypatch.setenv("TWH_KEYSET", path.read_text()[:-10])
    with pytest.raises(ConfigurationError) as caught:
        LocalKeyService.from_environment()

    assert caught.value.code == "keyset_damaged"
    assert len(str(caught.value)) < 100


def test_a_short_passphrase_is_refused(tmp_path):
    """Before a keyset is made with it."""
    with pytest.raises(ConfigurationError) as caught:
        create_keyset(tmp_path / "keyset.json", passphrase="short")

    assert caught.value.code == "keyset_passphrase_short"
    assert list(tmp_path.iterdir()) == []


def test_thousands_of_tenants_fit(path):
    """A keyset of many tenants is made in one change and read in bearable time."""
    service = LocalKeyService(path)
    began = time.perf_counter()
    keys = service.generate([bound(f"t{number}") for number in range(3000)])
    again = LocalKeyService(path)

    assert all(isinstance(one, DataKey) for one in keys)
    assert len(again._source.current().keys) == 3001
    assert time.perf_counter() - began < 30
