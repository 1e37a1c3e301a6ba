"""
Attacks 55 to 62: faults of other libraries, tried on these libraries and on ours.
"""

from __future__ import annotations

import base64
import os
from contextlib import suppress
from dataclasses import replace

import pytest
from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from tests.support.key_faults import FaultyKeyService
from tests.support.key_life import context_of, errors_in
from twh_platform import Tenant, bind_tenant
from twh_platform.errors import ConfigurationError, DecryptionError
from twh_platform.kms import (
    Keyset,
    LocalKeyService,
    MemoryDataKeyStore,
    Suite,
    TenantCipher,
    parse,
    replace_inline,
)

ACME, GLOBEX = Tenant(id="acme"), Tenant(id="globex")
MANY = 20


@pytest.fixture
def keys():
    """A key service that counts what it is asked."""
    return FaultyKeyService(LocalKeyService(Keyset.new()))


@pytest.fixture
def cipher(keys):
    """A cipher over it."""
    return TenantCipher(keys, MemoryDataKeyStore())


def calls_of(keys):
    """How often data keys were asked for."""
    return keys.count("generate") + keys.count("unwrap")


def master_key(sdk, count=1):
    """Raw master keys of the AWS Encryption SDK, which need no AWS; its calls are in `made`."""
    from aws_encryption_sdk.identifiers import EncryptionKeyType, WrappingAlgorithm
    from aws_encryption_sdk.internal.crypto.wrapping_keys import WrappingKey
    from aws_encryption_sdk.key_providers.raw import RawMasterKeyProvider

    class Provider(RawMasterKeyProvider):
        provider_id = "raw"

        def __init__(self, **_):
            self.raw, self.made = {}, []

        def _get_raw_key(self, key_id):
            algorithm = WrappingAlgorithm.AES_256_GCM_IV12_TAG16_NO_PADDING
            made = WrappingKey(algorithm, os.urandom(32), EncryptionKeyType.SYMMETRIC)
            return self.raw.setdefault(key_id, made)

        def master_keys_for_encryption(self, *args, **kwargs):
            self.made.append(args)
            return super().master_keys_for_encryption(*args, **kwargs)

    assert sdk
    provider = Provider()
    provider.add_master_keys_from_list([b"%d" % number for number in range(count)])
    return provider


def test_55_leaves_the_context_out(cipher, encryption_sdk, twh_attack):
    """To open is to give the context, and it is compared."""
    attack = twh_attack(number=55, title="opens what is sealed without giving its context")
    client, key = encryption_sdk.EncryptionSDKClient(), master_key(encryption_sdk)
    row = {"tenant": "acme", "column": "iban"}
    sealed, _ = client.encrypt(source=b"secret", key_provider=key, encryption_context=row)
    plain, _ = client.decrypt(source=sealed, key_provider=key)
    attack.control([plain] if plain == b"secret" else [])

    with bind_tenant(ACME):
        sealed = cipher.seal(b"secret", row)
        found = []
        for other in ({}, {"column": "iban"}, {**row, "column": "name"}, {**row, "more": ""}):
            with suppress(DecryptionError):
                found.append(cipher.open(sealed, other))
        attack.ours(found)
        assert cipher.open(sealed, row) == b"secret"


def test_56_gives_each_row_a_context(cipher, keys, encryption_sdk, twh_attack):
    """Data keys are cached by tenant and purpose; the row is bound locally."""
    attack = twh_attack(number=56, title="makes a cache useless by a context for each row")
    client, key = encryption_sdk.EncryptionSDKClient(), master_key(encryption_sdk)
    cached = encryption_sdk.CachingCryptoMaterialsManager(
        master_key_provider=key,
        cache=encryption_sdk.LocalCryptoMaterialsCache(100),
        max_age=600.0,
    )
    rows = [{"row": str(number)} for number in range(MANY)]
    for row in rows:
        client.encrypt(source=b"secret", materials_manager=cached, encryption_context=row)
    attack.control(len(key.made) - 1)

    with bind_tenant(ACME):
        for row in rows:
            assert cipher.open(cipher.seal(b"secret", row), row) == b"secret"
    attack.ours(calls_of(keys) - 1)
    assert cipher.stats.loads == 1


def test_57_wraps_a_key_many_times(cipher, encryption_sdk, twh_attack):
    """A sealed value has four wrapped keys at the most; more are not even read."""
    attack = twh_attack(number=57, title="has many wrapped keys in one value tried one by one")
    client, key = encryption_sdk.EncryptionSDKClient(), master_key(encryption_sdk, MANY)
    sealed, _ = client.encrypt(source=b"secret", key_provider=key)
    _, header = client.decrypt(source=sealed, key_provider=key)
    attack.control(len(header.encrypted_data_keys) - 4)

    with bind_tenant(ACME):
        sealed = cipher.seal(b"secret", inline=True)
    (wrapped,) = parse(sealed).inline
    assert len(parse(replace_inline(sealed, [wrapped] * 4)).inline) == 4
    read = []
    for forged in (lambda: replace_inline(sealed, [wrapped] * 5), lambda: five_times(sealed)):
        with suppress(DecryptionError, ConfigurationError):
            read.append(parse(forged()))
    attack.ours(read)


def five_times(sealed):
    """The same value with five wrapped keys, as the format would have it."""
    parsed = parse(sealed)
    count, entry = sealed[19], sealed[20 : parsed.offset]
    assert count == 1
    return sealed[:19] + b"\x05" + entry * 5 + sealed[parsed.offset :]


def remote_of(tink):
    """A key service as tink asks it; what it is told is in `told`."""

    class Remote(tink.aead.Aead):
        def __init__(self):
            handle = tink.new_keyset_handle(tink.aead.aead_key_templates.AES256_GCM)
            self.real, self.told = handle.primitive(tink.aead.Aead), []

        def encrypt(self, plaintext, associated_data):
            self.told.append(associated_data)
            return self.real.encrypt(plaintext, associated_data)

        def decrypt(self, ciphertext, associated_data):
            self.told.append(associated_data)
            return self.real.decrypt(ciphertext, associated_data)

    return Remote()


def enveloped(tink, remote):
    """Values of a tenant, enveloped by tink."""
    envelope = tink.aead.KmsEnvelopeAead(tink.aead.aead_key_templates.AES256_GCM, remote)
    return [envelope.encrypt(b"secret", b"acme") for _ in range(MANY)]


def test_58_has_a_key_unwrapped_for_another(keys, tink, twh_attack):
    """The key service is told tenant, purpose and id, and wraps and unwraps for these only."""
    attack = twh_attack(number=58, title="has a wrapped key unwrapped in another tenant's name")
    remote = remote_of(tink)
    wrapped = [one[4 : 4 + int.from_bytes(one[:4], "big")] for one in enveloped(tink, remote)]
    attack.control([remote.decrypt(one, b"") for one in wrapped])
    assert set(remote.told) == {b""}

    contexts = [context_of("acme") for _ in range(MANY)]
    made = keys.generate(contexts)
    keys.service.create("globex")
    results = []
    for other in ({"tenant_id": "globex"}, {"purpose": "index"}, {"data_key_id": bytes(16)}):
        pairs = [
            (key.wrapped, replace(context, **other))
            for key, context in zip(made, contexts, strict=True)
        ]
        results += keys.unwrap(pairs)
    attack.ours(len(results) - len(errors_in(results)))


def test_59_costs_a_call_for_each_value(cipher, keys, tink, twh_attack):
    """Twenty values of a tenant are one call of the key service."""
    attack = twh_attack(number=59, title="costs a call of the key service with each value")
    remote = remote_of(tink)
    enveloped(tink, remote)
    attack.control(len(remote.told) - 1)

    with bind_tenant(ACME):
        for _ in range(MANY):
            cipher.seal(b"secret")
    attack.ours(calls_of(keys) - 1)


def test_60_moves_a_token(cipher, twh_attack):
    """What is sealed is bound to tenant, column and row."""
    attack = twh_attack(number=60, title="moves a token of Fernet to another row and tenant")
    fernet = Fernet(Fernet.generate_key())
    table = {("acme", "1"): fernet.encrypt(b"admin"), ("globex", "2"): fernet.encrypt(b"guest")}
    table["globex", "2"] = table["acme", "1"]
    plain = fernet.decrypt(table["globex", "2"])
    attack.control([plain] if plain == b"admin" else [])

    with bind_tenant(ACME):
        sealed = cipher.seal(b"admin", {"row": "1"})
    moved = []
    for tenant, row in ((ACME, "2"), (GLOBEX, "1"), (GLOBEX, "2")):
        with bind_tenant(tenant), suppress(DecryptionError):
            moved.append(cipher.open(sealed, {"row": row}))
    attack.ours(moved)


class CountingFernet(Fernet):
    """Fernet, which counts how often a key was tried."""

    tried = 0

    def _decrypt_data(self, *args):
        CountingFernet.tried += 1
        return super()._decrypt_data(*args)


def test_60_has_all_keys_tried(keys, twh_attack):
    """The header names the data key: one lookup, one key, however many there are."""
    attack = twh_attack(number=60, title="has every old key tried by a token that no key made")
    CountingFernet.tried = 0
    many = MultiFernet([CountingFernet(Fernet.generate_key()) for _ in range(MANY)])
    with suppress(InvalidToken):
        many.decrypt(Fernet(Fernet.generate_key()).encrypt(b"forged"))
    attack.control(CountingFernet.tried - 1)

    store = MemoryDataKeyStore()
    with bind_tenant(ACME):
        forged = TenantCipher(keys, MemoryDataKeyStore()).seal(b"forged")
        writers = [TenantCipher(keys, store) for _ in range(MANY)]
        sealed = [one.seal(b"x", suite=Suite.FIELD) for one in writers]
        keys.calls.clear()
        cold = TenantCipher(keys, store)
        with pytest.raises(DecryptionError):
            cold.open(forged)
        attack.ours(keys.count("unwrap"))
        assert cold.open(sealed[0]) == b"x"
    assert len(store.page("acme")) == MANY
    assert keys.count("unwrap") == 1


def engine_of(sqlalchemy_utils):
    """The default engine of `EncryptedType`."""
    engine = sqlalchemy_utils.types.encrypted.encrypted_type.AesEngine()
    engine._update_key("a key")
    engine._set_padding_mechanism(None)
    return engine


def test_61_sees_equal_values(cipher, sqlalchemy_utils, twh_attack):
    """Equal values look different, but in the suite that is asked for to compare them."""
    attack = twh_attack(number=61, title="sees which values of a column are equal")
    engine = engine_of(sqlalchemy_utils)
    attack.control(MANY - len({engine.encrypt("salary: 90000") for _ in range(MANY)}))

    with bind_tenant(ACME):
        for suite in (Suite.STREAM, Suite.FIELD):
            sealed = [cipher.seal(b"salary: 90000", suite=suite) for _ in range(MANY)]
            attack.ours(MANY - len({one[-29:] for one in sealed}))  # ciphertext and tag


def test_61_changes_a_value(cipher, sqlalchemy_utils, twh_attack):
    """One flipped bit, or one missing byte, wherever it is, and nothing opens."""
    attack = twh_attack(number=61, title="changes a value that it cannot read")
    engine, limited = engine_of(sqlalchemy_utils), "role=admin;id=7;only=read;day=1;"
    cut = base64.b64encode(base64.b64decode(engine.encrypt(limited))[:16]).decode()
    attack.control([cut] if engine.decrypt(cut) == "role=admin;id=7;" else [])

    changed = []
    with bind_tenant(ACME):
        for suite in Suite:
            sealed = cipher.seal(limited.encode(), suite=suite)
            for at in range(len(sealed)):
                flipped = sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]
                for one in (flipped, sealed[:at]):
                    with suppress(DecryptionError):
                        changed.append(cipher.open(one))
    attack.ours(changed)


def test_62_turns_sealing_off(monkeypatch, twh_attack):
    """There is no switch for that: neither a variable nor an argument."""
    attack = twh_attack(number=62, title="turns sealing off by a variable of the environment")
    switches = ["USE_ENCRYPTION", "TWH_USE_ENCRYPTION", "TWH_KMS_ENABLED", "TWH_ENCRYPTION"]
    for name in switches:
        monkeypatch.setenv(name, "False")

    def naive(plaintext):
        """As with the one that has such a switch."""
        if os.environ.get("USE_ENCRYPTION") == "False":
            return plaintext
        return Fernet(Fernet.generate_key()).encrypt(plaintext)

    attack.control([naive(b"marked")] if b"marked" in naive(b"marked") else [])
    cipher = TenantCipher(LocalKeyService(Keyset.new()), MemoryDataKeyStore())
    shown = []
    with bind_tenant(ACME):
        for suite in Suite:
            for inline in (False, True):
                sealed = cipher.seal(b"marked", suite=suite, inline=inline)
                shown += [sealed] if b"marked" in sealed else []
    attack.ours(shown)
