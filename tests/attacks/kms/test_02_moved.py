"""
Attacks 2, 3, 5, 6 and 19: values that were sealed, opened where they do not belong.
"""

from __future__ import annotations

import secrets
import unicodedata
from contextlib import suppress
from itertools import permutations

import pytest
from cryptography.fernet import Fernet, MultiFernet
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import Column, Integer, MetaData, String, Table, create_engine, insert, select, text

from tests.attacks.kms._house import ACME, GLOBEX, ROW, House, opened_by
from twh_platform import bind_tenant
from twh_platform.errors import ConfigurationError, PlatformError
from twh_platform.kms import (
    KeyContext,
    MemoryDataKeyStore,
    Suite,
    TenantCipher,
    WrappedKey,
)
from twh_platform.kms._envelope import bound_tail
from twh_platform.kms._suites import Keys
from twh_platform.kms.aws import AwsKeyService
from twh_platform.kms.postgres.sqlalchemy import Sealed


@pytest.mark.parametrize("inline", [False, True], ids=["by reference", "inline"])
@pytest.mark.parametrize("suite", Suite)
def test_02_opens_what_another_tenant_sealed(suite, inline, twh_attack):
    """The tenant is in the keys and in what is bound; by reference nobody is even asked."""
    form = f"{suite.name}, {'inline' if inline else 'by reference'}"
    attack = twh_attack(number=2, title="opens what another tenant sealed", form=form)
    naive = Fernet(Fernet.generate_key())
    attack.control(naive.decrypt(naive.encrypt(b"of acme")) == b"of acme")

    house = House()
    sealed = house.seal(suite=suite, inline=inline)
    house.seal(tenant=GLOBEX, suite=suite)
    asked, opened = house.service.asked, house.opens(sealed, tenant=GLOBEX)
    house.cipher.clear()
    opened += house.opens(sealed, tenant=GLOBEX)
    attack.ours(opened + (0 if inline else house.service.asked - asked))
    assert house.opens(sealed)


@pytest.mark.parametrize("suite", Suite)
def test_03_moves_a_value(suite, twh_attack):
    """What is copied to another table, column or row stays closed there."""
    attack = twh_attack(number=3, title="moves a value to another place", form=suite.name)
    places = [{**ROW, "row": "43"}, {**ROW, "column": "bic"}, {**ROW, "table": "x"}, {}]
    naive = MultiFernet([Fernet(Fernet.generate_key())])
    sealed = naive.encrypt(b"GB29 NWBK")
    # It has no place for a context: wherever the token lies, it is opened like this.
    attack.control([naive.decrypt(sealed) for _ in places])

    house = House()
    sealed = house.seal(suite=suite)
    attack.ours(sum(house.opens(sealed, place) for place in places))
    assert house.opens(sealed)


def bank(kind):
    """A table with two columns of a kind, in a database that the attacker writes to."""
    table = Table(
        "bank",
        MetaData(),
        Column("id", Integer, primary_key=True),
        Column("iban", kind(), nullable=True),
        Column("note", kind(), nullable=True),
    )
    engine = create_engine("sqlite://")
    table.metadata.create_all(engine)
    return engine, table


def read_after(kind, change):
    """What two rows say after the attacker's UPDATE, as far as they open."""
    engine, table = bank(kind)
    rows = [{"id": 1, "iban": "GB29", "note": "hello"}, {"id": 2, "iban": "DE02", "note": "hi"}]
    with bind_tenant(ACME), engine.begin() as connection:
        connection.execute(insert(table), rows)
        connection.execute(text(change))
        columns = [(column, row) for row in (1, 2) for column in (table.c.iban, table.c.note)]
        queries = [select(column).where(table.c.id == row) for column, row in columns]
        read = [opened_by(lambda one=one: connection.execute(one).scalar_one()) for one in queries]
    engine.dispose()
    return read


SWAP_ROWS = "UPDATE bank SET iban = (SELECT iban FROM bank other WHERE other.id = 3 - bank.id)"


def of_sqlalchemy_utils(module):
    """Its column of texts, in its authenticated mode."""
    engine = module.types.encrypted.encrypted_type.AesGcmEngine
    return lambda: module.StringEncryptedType(String, "a key of the tests", engine)


def of_ours():
    """A sealed column, for each time that it is called."""
    house = House()
    return lambda: Sealed(house.cipher, of=str)


def test_03_moves_a_value_between_columns(sqlalchemy_utils, twh_attack):
    """A sealed column is bound to its table and its own name."""
    attack = twh_attack(number=3, title="moves a value from one sealed column to another")
    change = "UPDATE bank SET note = iban"
    naive = read_after(of_sqlalchemy_utils(sqlalchemy_utils), change)
    attack.control(sum(one in (["GB29"], ["DE02"]) for one in naive[1::2]))

    ours = read_after(of_ours(), change)
    attack.ours([one for one in ours[1::2] if one])
    assert ours[::2] == [["GB29"], ["DE02"]]


def test_03_swaps_two_rows(sqlalchemy_utils, twh_attack):
    """A type of SQLAlchemy does not see the row that it seals for."""
    attack = twh_attack(
        number=3, title="swaps a sealed column's values between rows", kind="residual"
    )
    naive = read_after(of_sqlalchemy_utils(sqlalchemy_utils), SWAP_ROWS)
    attack.control(naive[0] == ["DE02"])

    ours = read_after(of_ours(), SWAP_ROWS)
    attack.ours(ours[0] == ["DE02"])


@pytest.mark.parametrize("suite", Suite)
def test_03_puts_an_old_value_back(suite, twh_attack):
    """What was sealed for a place opens there for ever, also when it is no longer the newest."""
    attack = twh_attack(
        number=3, title="puts an older value back in its place", kind="residual", form=suite.name
    )
    house = House()
    old, new = house.seal(b"old", suite=suite), house.seal(b"new", suite=suite)

    attack.ours(house.opens(old))
    assert house.open(new) == b"new"
    versioned = [{**ROW, "version": version} for version in ("1", "2")]
    assert not house.opens(house.seal(b"old", versioned[0], suite=suite), versioned[1])


CONFUSED = [
    ({"a": "bc"}, {"ab": "c"}),
    ({"a": "b", "c": "d"}, {"a": "bcd"}),
    ({"a": "b", "c": "d"}, {"a": "b,c=d"}),
    ({"a": "b\0\0\0\1c"}, {"a": "b", "c": ""}),
    ({"row": "1"}, {"row": "01"}),
]


@pytest.mark.parametrize("suite", Suite)
def test_05_has_one_context_read_as_another(suite, twh_attack):
    """Every length is written down, and the number of pairs."""
    attack = twh_attack(number=5, title="has one context read as another", form=suite.name)
    key, nonce = AESGCM(bytes(32)), bytes(12)
    crafted = [key.encrypt(nonce, b"x", joined(one)) for one, _ in CONFUSED[:2]]
    naive = [
        key.decrypt(nonce, sealed, joined(other))
        for sealed, (_, other) in zip(crafted, CONFUSED, strict=False)
    ]
    attack.control(naive)

    house = House()
    pairs = [*CONFUSED, *[pair[::-1] for pair in CONFUSED]]
    attack.ours(sum(house.opens(house.seal(b"x", one, suite=suite), other) for one, other in pairs))


def joined(context):
    """A context as bytes, without lengths."""
    return "".join(f"{key}{value}" for key, value in sorted(context.items())).encode()


@pytest.fixture
def aws(moto):
    """Makes key services over moto's keys."""
    name, made = f"twh-{secrets.token_hex(6)}", []

    def make(**options):
        given = {"endpoint_url": moto.url, "allowed": [moto.allowed], **options}
        service = AwsKeyService(
            key=f"alias/{name}-{{tenant}}",
            session=moto.shared_session(),
            timeout=20.0,
            create_missing=True,
            rotation_days=None,
            **given,
        )
        made.append(service)
        return service

    yield make
    for service in made:
        service.close()


def test_05_has_one_key_context_read_as_another(moto, aws, twh_attack):
    """Where a key service joins pairs without separators, ours are still told apart."""
    attack = twh_attack(number=5, title="has the context of a wrapped key read as another")
    plain = moto.client("kms", plain=True)
    key = plain.create_key()["KeyMetadata"]["Arn"]
    blob = plain.encrypt(KeyId=key, Plaintext=b"x", EncryptionContext={"a": "bc"})
    opened = plain.decrypt(CiphertextBlob=blob["CiphertextBlob"], EncryptionContext={"ab": "c"})
    attack.control(opened["Plaintext"] == b"x")

    service, id_ = aws(endpoint_url=moto.plain_url), bytes(16)
    (made,) = service.generate([KeyContext(tenant_id="acme", purpose="data", data_key_id=id_)])
    others = []
    for tenant in ("acm", "a", "acmee", "atwh:pdata", "acme\0", "dataacme"):
        for purpose in ("data", "dat", "datatwh:t", "datatwh:tacme", "dataacme", ""):
            with suppress(PlatformError):
                others.append(KeyContext(tenant_id=tenant, purpose=purpose, data_key_id=id_))
    results = service.unwrap([(made.wrapped, other) for other in others])
    attack.ours([one for one in results if isinstance(one, bytes)])
    assert len(others) >= 9


def forged_by(kms, key):
    """What an attacker with a key of their own seals for a tenant, as our format has it."""
    id_ = secrets.token_bytes(16)
    pairs = KeyContext(tenant_id="acme", purpose="data", data_key_id=id_).pairs()
    made = kms.generate_data_key(KeyId=key, NumberOfBytes=32, EncryptionContext=pairs)
    wrapped = WrappedKey(
        provider="aws", key_ref=key, key_version=0, ciphertext=made["CiphertextBlob"]
    )
    keys = Keys(made["Plaintext"], tenant_id="acme", data_key_id=id_)
    return keys.seal(b"pay", bound_tail("acme", ROW), inline=[wrapped])


def read_by(service, sealed):
    """What ours opens of it, in a process that knows none of its data keys."""
    with bind_tenant(ACME), TenantCipher(service, MemoryDataKeyStore()) as cipher:
        return opened_by(lambda: cipher.open(sealed, ROW))


def test_06_brings_a_key_of_its_own(moto, aws, encryption_sdk, monkeypatch, twh_attack):
    """A key that is not on the list is neither asked nor believed."""
    attack = twh_attack(number=6, title="has a value opened by a master key of its own")
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", moto.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_DEFAULT_REGION", moto.region)
    kms = moto.client("kms")
    foreign = kms.create_key()["KeyMetadata"]["Arn"]
    client = encryption_sdk.EncryptionSDKClient()
    strict = encryption_sdk.StrictAwsKmsMasterKeyProvider(key_ids=[foreign])
    message, _ = client.encrypt(source=b"pay", key_provider=strict)
    found, _ = client.decrypt(
        source=message, key_provider=encryption_sdk.DiscoveryAwsKmsMasterKeyProvider()
    )
    attack.control(found == b"pay")

    mine = aws().create("acme").key_ref
    forged, asked = forged_by(kms, foreign), moto.calls(foreign)
    attack.ours(read_by(aws(allowed=[mine]), forged))
    assert moto.calls(foreign) == asked
    assert read_by(aws(allowed=[mine]), forged_by(kms, mine)) == [b"pay"]


def test_06_brings_a_key_that_is_allowed(moto, aws, twh_attack):
    """Whoever may use a key that is on the list is believed, whosever values it is for."""
    attack = twh_attack(
        number=6,
        title="has a value opened by a master key of its own, of an account that is allowed",
        kind="residual",
    )
    kms = moto.client("kms")
    forged = forged_by(kms, kms.create_key()["KeyMetadata"]["Arn"])

    attack.ours(read_by(aws(), forged))


SPELLINGS = {
    "composed or not": ("caf\u00e9", "cafe\u0301"),
    "a ligature": ("office", "o\ufb03ce"),
    "full width": ("row1", "row\uff11"),
    "another angstrom": ("\u00c5", "\u212b"),
}


@pytest.mark.parametrize("form", SPELLINGS)
def test_19_spells_a_context_another_way(form, twh_attack):
    """What is not in NFC is refused, and nothing is changed to fit."""
    attack = twh_attack(number=19, title="spells a context another way", form=form)
    given, other = SPELLINGS[form]
    key, nonce = AESGCM(bytes(32)), bytes(12)
    sealed = key.encrypt(nonce, b"x", unicodedata.normalize("NFKC", given).encode())
    naive = key.decrypt(nonce, sealed, unicodedata.normalize("NFKC", other).encode())
    attack.control(naive)

    house, opened = House(), 0
    for context, another in ({"row": given}, {"row": other}), ({given: "row"}, {other: "row"}):
        sealed = house.seal(b"x", context)
        with suppress(ConfigurationError):
            opened += house.opens(sealed, another)
    attack.ours(opened)


def test_19_leaves_pairs_out(twh_attack):
    """The number of pairs is bound, their order is not asked for, and no key is empty."""
    attack = twh_attack(number=19, title="leaves pairs of a context out, or adds some")
    key, nonce = AESGCM(bytes(32)), bytes(12)
    naive = key.encrypt(nonce, b"x", joined(ROW))
    attack.control(key.decrypt(nonce, naive, joined({**ROW, "": ""})) == b"x")

    house, opened = House(), 0
    sealed = house.seal()
    parts = [dict(some) for count in range(3) for some in permutations(ROW.items(), count)]
    for context in [*parts, {**ROW, "": ""}, {**ROW, "x": ""}, {**ROW, "row": ""}]:
        with suppress(ConfigurationError):
            opened += house.opens(sealed, context)
    attack.ours(opened)
    assert house.opens(sealed, dict(reversed(ROW.items())))
