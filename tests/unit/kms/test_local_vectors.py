"""
What was written once stays readable: keysets, wrapped keys and MACs from a file.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path

import pytest

pytest.importorskip("cryptography")

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from twh_platform.kms import KeyContext, KeyState, LocalKeyService, Mac, WrappedKey
from twh_platform.kms._context import length_prefixed
from twh_platform.kms._keyset_document import Passphrase, decode_keyset, encode_keyset
from twh_platform.kms._keyset_wrapping import wrap_key

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "local_key_service.json").read_text())


@pytest.fixture(params=["plain", "sealed"])
def keyset(request):
    """The keyset of either document."""
    phrase = Passphrase(VECTORS["passphrase"]) if request.param == "sealed" else None
    return decode_keyset(VECTORS[request.param].encode(), phrase)


def context_of(vector):
    """What the vector's data key is bound to."""
    return KeyContext(
        tenant_id=vector["tenant_id"],
        purpose=vector["purpose"],
        data_key_id=bytes.fromhex(vector["data_key_id"]),
    )


def wrapped_of(vector):
    """The vector's wrapped key."""
    return WrappedKey(
        provider="local",
        key_ref=vector["key_ref"],
        key_version=vector["key_version"],
        ciphertext=bytes.fromhex(vector["ciphertext"]),
    )


def test_keysets_stay_readable(keyset):
    """Both documents hold the same: a rotated, a disabled and a destroyed key."""
    states = {name: key.state for name, key in keyset.keys.items()}

    assert states == {
        "acme": KeyState.ENABLED,
        "gone": KeyState.DESTROYED,
        "off": KeyState.DISABLED,
    }
    assert keyset.info("acme").versions == (1, 2)
    assert encode_keyset(keyset).decode() == VECTORS["plain"]


@pytest.mark.parametrize("vector", VECTORS["wrapped"], ids=["version-1", "version-2"])
def test_wrapped_keys_stay_readable(vector, keyset):
    """The service unwraps it, and wraps to the same bytes with the same chance."""
    service = LocalKeyService(keyset)
    chance = iter([bytes.fromhex(vector["salt"]), bytes.fromhex(vector["nonce"])])
    again = wrap_key(
        bytes.fromhex(vector["data_key"]),
        keyset.key("acme").versions[vector["key_version"]],
        key_ref=vector["key_ref"],
        version=vector["key_version"],
        context=context_of(vector),
        random=lambda _: next(chance),
    )

    (opened,) = service.unwrap([(wrapped_of(vector), context_of(vector))])
    assert opened.hex() == vector["data_key"]
    assert again.hex() == vector["ciphertext"]


@pytest.mark.parametrize("vector", VECTORS["wrapped"], ids=["version-1", "version-2"])
def test_the_form_is_what_the_reference_says(vector, keyset):
    """A second way to it: HKDF by hmac alone, and the authenticated bytes put together by hand."""
    material = keyset.key("acme").versions[vector["key_version"]]
    sealed = bytes.fromhex(vector["ciphertext"])
    pseudorandom = hmac.digest(sealed[1:17], material, "sha256")
    key = hmac.digest(pseudorandom, b"twh/local/wrap/v1\x01", "sha256")
    version = vector["key_version"].to_bytes(4, "big")
    bound = length_prefixed(b"twh/local/wrap/v1", vector["key_ref"].encode(), version)
    bound += length_prefixed(b"acme", b"data", bytes.fromhex(vector["data_key_id"]))

    opened = AESGCM(key).decrypt(sealed[17:29], sealed[29:], bound)
    assert (sealed[0], opened.hex()) == (1, vector["data_key"])


def test_macs_stay_valid(keyset):
    """The service verifies what it made, and so does HMAC-SHA256 alone."""
    given = VECTORS["mac"]
    message, tag = given["message"].encode(), bytes.fromhex(given["tag"])
    pseudorandom = hmac.digest(bytes(32), keyset.root, "sha256")
    info = length_prefixed(b"twh/local/mac/v1", given["key"].encode())
    key = hmac.digest(pseudorandom, info + b"\x01", "sha256")

    mac = Mac(key_ref=given["key_ref"], tag=tag)
    LocalKeyService(keyset).verify_mac(message, mac, key=given["key"])
    assert hmac.new(key, message, hashlib.sha256).digest() == tag
