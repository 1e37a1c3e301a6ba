"""
Attacks 31, 37, 38, 41, 43 and 49 to 54 on keys at AWS, which moto stands for.
"""

from __future__ import annotations

import base64
import logging
import secrets
from contextlib import suppress

import boto3
import pytest
from botocore.exceptions import ClientError
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.support.key_life import context_of, errors_in
from tests.support.strict_moto import REGION
from twh_platform import Tenant, bind_tenant
from twh_platform.errors import ConfigurationError, KeyServiceError, KeyUnsupportedError
from twh_platform.kms import DataKey, GuardedKeyService, MemoryDataKeyStore, TenantCipher
from twh_platform.kms.aws import AwsKeyService
from twh_platform.kms.lifecycle import MemoryShredJournal, shred

ACME, GLOBEX = Tenant(id="acme"), Tenant(id="globex")
FOREIGN = f"arn:aws:kms:{REGION}:999999999999:key/00000000-0000-0000-0000-000000000000"


@pytest.fixture
def name():
    """What the aliases of one test begin with."""
    return f"twh-{secrets.token_hex(6)}"


@pytest.fixture
def make(moto, name):
    """Makes services over the same keys."""
    made = []

    def make(**options):
        given = {
            "key": f"alias/{name}-{{tenant}}",
            "allowed": [moto.allowed],
            "session": moto.session(),
            "endpoint_url": moto.url,
            "timeout": 20.0,
            "create_missing": True,
            "rotation_days": None,
        }
        made.append(AwsKeyService(**{**given, **options}))
        return made[-1]

    yield make
    for service in made:
        service.close()


def refused(call, count=1, **asked):
    """How many of so many calls AWS refuses."""
    failed = 0
    for _ in range(count):
        try:
            call(**asked)
        except ClientError:
            failed += 1
    return failed


def new_key(kms, **options):
    """The id of a new key."""
    return kms.create_key(KeyUsage="ENCRYPT_DECRYPT", **options)["KeyMetadata"]["KeyId"]


def sealed_by(cipher, tenant=ACME, count=5):
    """Values of a tenant."""
    with bind_tenant(tenant):
        return [cipher.seal(b"secret", {"row": str(row)}) for row in range(count)]


def opened(cipher, sealed, tenant=ACME):
    """How many of them open."""
    count = 0
    for row, one in enumerate(sealed):
        with suppress(KeyServiceError), bind_tenant(tenant):
            count += cipher.open(one, {"row": str(row)}) == b"secret"
    return count


def test_31_points_an_alias_elsewhere(moto, make, name, twh_attack):
    """What is sealed names the key itself; the alias is for what is to be sealed."""
    attack = twh_attack(number=31, title="points an alias elsewhere under what is sealed")
    kms, alias = moto.client("kms"), f"alias/{name}-naive"
    kms.create_alias(AliasName=alias, TargetKeyId=new_key(kms))
    blob = kms.encrypt(KeyId=alias, Plaintext=b"k" * 32)["CiphertextBlob"]
    kms.update_alias(AliasName=alias, TargetKeyId=new_key(kms))
    attack.control(refused(kms.decrypt, 5, KeyId=alias, CiphertextBlob=blob))

    service, store = make(), MemoryDataKeyStore()
    sealed = sealed_by(TenantCipher(service, store))
    second = new_key(kms)
    kms.update_alias(AliasName=f"alias/{name}-acme", TargetKeyId=second)
    cold = TenantCipher(make(), store)
    attack.ours(len(sealed) - opened(cold, sealed))
    (fresh,) = service.generate([context_of()])
    assert fresh.wrapped.key_ref.endswith(second)


def test_31_answers_by_a_key_of_its_own(moto, make, twh_attack):
    """Only keys of the accounts that were listed make, wrap and unwrap data keys."""
    attack = twh_attack(number=31, title="has new data keys wrapped by a key of its own")
    service, kms = make(), moto.client("kms")
    arn = service.create("acme").key_ref
    moto.fail("GenerateDataKey", change={"KeyId": FOREIGN})
    answers = [kms.generate_data_key(KeyId=arn, KeySpec="AES_256") for _ in range(5)]
    attack.control([one["Plaintext"] for one in answers])

    results = service.generate([context_of() for _ in range(5)])
    attack.ours([one for one in results if isinstance(one, DataKey)])
    assert {one.code for one in results} == {"key_ref_refused"}


def test_37_cancels_a_deletion(moto, make, name, twh_attack):
    """As long as it can be cancelled, no receipt says that the key is destroyed."""
    attack = twh_attack(number=37, title="takes the deletion of a shredded tenant's key back")
    kms = moto.client("kms")
    key = new_key(kms)
    blob = kms.encrypt(KeyId=key, Plaintext=b"k" * 32)["CiphertextBlob"]
    kms.schedule_key_deletion(KeyId=key, PendingWindowInDays=7)
    assert refused(kms.decrypt, CiphertextBlob=blob, KeyId=key) == 1  # "shredded"
    kms.cancel_key_deletion(KeyId=key)
    kms.enable_key(KeyId=key)
    attack.control(1 - refused(kms.decrypt, CiphertextBlob=blob, KeyId=key))

    mac = kms.create_key(KeyUsage="GENERATE_VERIFY_MAC", KeySpec="HMAC_256")["KeyMetadata"]["Arn"]
    service, store = make(mac_key=mac), MemoryDataKeyStore()
    sealed_by(TenantCipher(service, store))
    receipt = shred("acme", service=service, store=store, journal=MemoryShredJournal())
    attack.ours(receipt.state == "destroyed")
    attack.ours(receipt.destroyed_at is None)
    attack.ours(not any("can be cancelled" in one for one in receipt.caveats))


class WithoutMaterial:
    """A key service that deletes imported key material and calls that destroying."""

    def __init__(self, service, moto):
        self.service, self.moto = service, moto

    def __getattr__(self, name):
        return getattr(self.service, name)

    def destroy(self, tenant_id):
        """What AWS answers afterwards."""
        kms, key = self.moto.client("kms"), self.service.describe(tenant_id).key_ref
        metadata = kms.describe_key(KeyId=key)["KeyMetadata"]
        metadata["CreationDate"] = metadata["CreationDate"].timestamp()
        pending = {"KeyMetadata": {**metadata, "KeyState": "PendingImport"}}
        self.moto.fail("DescribeKey", change=pending)
        self.moto.fail("Decrypt", code="KMSInvalidStateException")
        return self.service.describe(tenant_id)


def test_37_imports_the_material_again(moto, make, twh_attack):
    """A key whose material was deleted is disabled, for the same bytes would bring it back."""
    attack = twh_attack(number=37, title="imports deleted key material again after a shred")
    kms = moto.client("kms")
    key = new_key(kms)
    blob = kms.encrypt(KeyId=key, Plaintext=b"k" * 32)["CiphertextBlob"]
    moto.fail("Decrypt", code="KMSInvalidStateException")
    assert refused(kms.decrypt, CiphertextBlob=blob, KeyId=key) == 1  # "shredded"
    moto.heal()  # imported again
    attack.control(1 - refused(kms.decrypt, CiphertextBlob=blob, KeyId=key))

    mac = kms.create_key(KeyUsage="GENERATE_VERIFY_MAC", KeySpec="HMAC_256")["KeyMetadata"]["Arn"]
    service, store = WithoutMaterial(make(mac_key=mac), moto), MemoryDataKeyStore()
    sealed_by(TenantCipher(service, store))
    receipts = []
    with pytest.raises(KeyServiceError) as caught:
        receipts.append(shred("acme", service=service, store=store, journal=MemoryShredJournal()))
    attack.ours(receipts)
    assert caught.value.code == "shred_incomplete"


def test_38_shreds_one_of_many(moto, make, name, twh_attack):
    """Where all tenants share a key, shredding one is refused before anything is done."""
    attack = twh_attack(number=38, title="has a tenant shredded whose key is also the others'")
    kms, naive = moto.client("kms"), new_key(moto.client("kms"))
    others = [{"tenant": f"tenant-{number}"} for number in range(5)]
    blobs = [
        kms.encrypt(KeyId=naive, Plaintext=b"k" * 32, EncryptionContext=one)["CiphertextBlob"]
        for one in others
    ]
    kms.schedule_key_deletion(KeyId=naive, PendingWindowInDays=7)
    pairs = zip(blobs, others, strict=True)
    lost = [
        refused(kms.decrypt, KeyId=naive, CiphertextBlob=blob, EncryptionContext=context)
        for blob, context in pairs
    ]
    attack.control(sum(lost))

    kms.create_alias(AliasName=f"alias/{name}", TargetKeyId=new_key(kms))
    service, store = make(key=f"alias/{name}"), MemoryDataKeyStore()
    of_others = sealed_by(TenantCipher(service, store), GLOBEX)
    sealed_by(TenantCipher(service, store))
    with pytest.raises(KeyUnsupportedError, match="TENANT_KEYS"):
        shred("acme", service=service, store=store, journal=MemoryShredJournal())
    attack.ours(5 - opened(TenantCipher(service, store), of_others, GLOBEX))


class NaiveBreaker:
    """One for a whole service, as most are used: five failures in a row, and nobody may ask."""

    def __init__(self, call):
        self.call, self.row = call, 0

    def generate(self, key):
        """Make a data key."""
        if self.row >= 5:
            raise ConnectionError
        try:
            made = self.call(KeyId=key, KeySpec="AES_256")
        except ClientError:
            self.row += 1
            raise
        self.row = 0
        return made


@pytest.mark.parametrize("code", ["KeyUnavailableException", "KMSInvalidStateException"])
def test_43_closes_the_way_for_all(code, moto, make, name, twh_attack):
    """A key that cannot be reached says nothing about the service: the others go on."""
    attack = twh_attack(
        number=43, title="has all refused by a key of its own that cannot be reached", form=code
    )
    service = make()
    theirs, own = (f"alias/{name}-{tenant}" for tenant in ("acme", "globex"))
    service.create("acme")
    service.create("globex")
    moto.fail("GenerateDataKey", about=own, code=code)
    naive = NaiveBreaker(moto.client("kms").generate_data_key)
    for _ in range(5):
        with pytest.raises(ClientError):
            naive.generate(own)
    refusals = 0
    for _ in range(5):
        try:
            naive.generate(theirs)
        except ConnectionError:
            refusals += 1
    attack.control(refusals)

    guard = GuardedKeyService(service, attempts=1, failures=5, rest=600, seconds=60)
    for _ in range(10):
        with suppress(KeyServiceError):
            assert errors_in(guard.generate([context_of("globex")]))
    refusals = 0
    for _ in range(5):
        try:
            refusals += len(errors_in(guard.generate([context_of("acme")])))
        except KeyServiceError:
            refusals += 1
    attack.ours(refusals)


@pytest.mark.parametrize("code", ["NotFoundException", "DisabledException"])
def test_41_asks_for_a_key_of_a_moment_ago(code, moto, make, twh_attack):
    """A key that was made just now is waited for, and no other is."""
    attack = twh_attack(number=41, title="needs a key that not all of AWS knows yet", form=code)
    kms, now, pauses = moto.client("kms"), [0.0], []
    key = new_key(kms)
    moto.fail("GenerateDataKey", code=code, times=3)
    attack.control(refused(kms.generate_data_key, 3, KeyId=key, KeySpec="AES_256"))

    service = make(sleep=pauses.append, clock=lambda: now[0], create_missing=False)
    service.create("acme")
    moto.fail("GenerateDataKey", code=code, times=3)
    attack.ours(errors_in(service.generate([context_of()])))
    waited, now[0] = len(pauses), 31.0
    moto.fail("GenerateDataKey", code=code, times=1)
    assert len(errors_in(service.generate([context_of()]))) == 1
    assert len(pauses) == waited == 3


@pytest.mark.parametrize("form", ["argument", "environment"])
def test_49_answers_without_tls(form, make, monkeypatch, twh_attack):
    """An address without TLS is refused, whoever gave it: data keys travel in the answer."""
    attack = twh_attack(
        number=49, title="has data keys travel in the clear by AWS's address", form=form
    )
    url = "http://kms.example.com"
    if form == "environment":
        monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", url)
    given = url if form == "argument" else None
    plain = boto3.client("kms", region_name=REGION, endpoint_url=given)
    attack.control([plain] if plain.meta.endpoint_url == url else [])

    sent = []
    with suppress(ConfigurationError):
        sent.append(make(endpoint_url=given).generate([context_of()]))
    attack.ours(sent)


def test_50_reads_the_debug_log_of_boto3(moto, make, caplog, twh_attack):
    """What botocore would write of our calls at level DEBUG is dropped."""
    attack = twh_attack(number=50, title="reads data keys in the log of boto3")
    service, kms = make(), moto.client("kms")
    key = service.create("acme").key_ref
    caplog.set_level(logging.DEBUG)
    made = [kms.generate_data_key(KeyId=key, KeySpec="AES_256") for _ in range(5)]
    attack.control([one for one in made if text_of(one["Plaintext"]) in caplog.text])

    caplog.clear()
    ours = service.generate([context_of() for _ in range(5)])
    wrapped = service.wrap([(one.plaintext, context_of()) for one in ours])
    assert not errors_in(wrapped)
    attack.ours([one for one in ours if text_of(one.plaintext) in caplog.text])
    attack.ours([one for one in ours if repr(one.plaintext) in caplog.text])


def text_of(key):
    """As AWS's protocol writes bytes."""
    return base64.b64encode(key).decode()


@pytest.mark.parametrize("length", [16, 24])
def test_51_answers_with_a_short_key(length, moto, make, twh_attack):
    """A data key of another length than 32 bytes is none."""
    attack = twh_attack(number=51, title="answers with a short data key", form=f"{length} bytes")
    service, kms = make(), moto.client("kms")
    arn = service.create("acme").key_ref
    moto.fail("GenerateDataKey", change={"Plaintext": text_of(bytes(length))})
    answer = kms.generate_data_key(KeyId=arn, KeySpec="AES_256")
    attack.control(AESGCM(answer["Plaintext"]).encrypt(bytes(12), b"secret", None)[-1:])

    attack.ours([one for one in service.generate([context_of()]) if isinstance(one, DataKey)])
    with bind_tenant(ACME), pytest.raises(KeyServiceError) as caught:
        TenantCipher(service, MemoryDataKeyStore()).seal(b"secret")
    assert caught.value.code == "key_answer_invalid"


def test_51_answers_by_another_key(moto, make, twh_attack):
    """The key that unwraps is the one that was asked."""
    attack = twh_attack(number=51, title="answers by another key than was asked")
    service, kms, bound = make(), moto.client("kms"), context_of()
    (key,) = service.generate([bound])
    other = service.create("globex").key_ref
    blob = kms.encrypt(KeyId=key.wrapped.key_ref, Plaintext=b"k" * 32)["CiphertextBlob"]
    moto.fail("Decrypt", change={"KeyId": other})
    answer = kms.decrypt(KeyId=key.wrapped.key_ref, CiphertextBlob=blob)
    attack.control([answer["Plaintext"]] if answer["KeyId"] == other else [])

    results = service.unwrap([(key.wrapped, bound)])
    attack.ours(len(results) - len(errors_in(results)))
    assert results[0].code == "key_answer_invalid"


def test_52_uses_a_key_of_another_kind(moto, make, name, twh_attack):
    """A key for MACs makes no data keys: AWS refuses it, and that is told as a fault of setup."""
    attack = twh_attack(
        number=52, title="has data keys made by a key that is for MACs", kind="fact"
    )
    hmac = {"KeyUsage": "GENERATE_VERIFY_MAC", "KeySpec": "HMAC_256"}
    lax, kms = moto.client("kms", plain=True), moto.client("kms")
    key = lax.create_key(**hmac)["KeyMetadata"]["KeyId"]
    attack.control([lax.generate_data_key(KeyId=key, KeySpec="AES_256")["Plaintext"]])

    key = kms.create_key(**hmac)["KeyMetadata"]["KeyId"]
    kms.create_alias(AliasName=f"alias/{name}", TargetKeyId=key)
    (result,) = make(key=f"alias/{name}").generate([context_of()])
    attack.ours(isinstance(result, DataKey))
    assert result.code == "key_usage_wrong"


def test_52_is_named_like_the_key_for_macs(make, name, twh_attack):
    """A name that a tenant's id could make is refused for the key that signs receipts."""
    attack = twh_attack(number=52, title="has a tenant's id name the key that is for MACs")
    patterns = {f"alias/{name}-{{tenant}}": f"alias/{name}-mac", f"alias/{name}": f"alias/{name}"}
    attack.control(sum(key.format(tenant="mac") == mac for key, mac in patterns.items()))

    taken = 0
    for key, mac in patterns.items():
        with suppress(ConfigurationError):
            make(key=key, mac_key=mac)
            taken += 1
    attack.ours(taken)


def test_53_lets_nothing_be_unwrapped(moto, make, twh_attack):
    """Health is a canary that was wrapped, unwrapped and compared."""
    attack = twh_attack(number=53, title="lets AWS unwrap nothing while its key is called enabled")
    service, kms = make(), moto.client("kms")
    key = service.create("acme").key_ref
    assert service.health().ok
    moto.fail("Decrypt", code="AccessDeniedException")
    attack.control(kms.describe_key(KeyId=key)["KeyMetadata"]["Enabled"])
    attack.ours(service.health().ok)
    assert service.health().code == "key_access_denied"


LAX = {
    "a disabled key": lambda kms, key: kms.disable_key(KeyId=key),
    "a key to be deleted": lambda kms, key: kms.schedule_key_deletion(
        KeyId=key, PendingWindowInDays=7
    ),
}


@pytest.mark.parametrize("form", LAX)
def test_54_is_let_through_by_an_emulator(form, moto, twh_attack):
    """Our tests ask a moto that refuses what AWS refuses."""
    attack = twh_attack(number=54, title="has a test pass on moto that fails at AWS", form=form)
    used = {}
    for which in ("plain", "strict"):
        kms = moto.client("kms", plain=which == "plain")
        key = new_key(kms)
        blob = kms.encrypt(KeyId=key, Plaintext=b"k" * 32)["CiphertextBlob"]
        LAX[form](kms, key)
        used[which] = 3 - sum(
            [
                refused(kms.decrypt, KeyId=key, CiphertextBlob=blob),
                refused(kms.generate_data_key, KeyId=key, KeySpec="AES_256"),
                refused(kms.encrypt, KeyId=key, Plaintext=b"x"),
            ]
        )
    attack.control(used["plain"])
    attack.ours(used["strict"])


def test_54_has_one_context_taken_for_another(moto, twh_attack):
    """Nor does it join the letters of a context, which would let another one open."""
    attack = twh_attack(number=54, title="has a test pass on contexts of the same letters")
    opened_by = {}
    for which in ("plain", "strict"):
        kms = moto.client("kms", plain=which == "plain")
        given = {"KeyId": new_key(kms), "EncryptionContext": {"a": "bc"}}
        blob = kms.encrypt(Plaintext=b"k" * 32, **given)["CiphertextBlob"]
        asked = {**given, "CiphertextBlob": blob, "EncryptionContext": {"ab": "c"}}
        opened_by[which] = 1 - refused(kms.decrypt, **asked)
    attack.control(opened_by["plain"])
    attack.ours(opened_by["strict"])
