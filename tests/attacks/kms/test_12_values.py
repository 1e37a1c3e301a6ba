"""
Attacks 12, 13, 17 and 18: values that are too large, empty, of a length that tells, or equal.
"""

from __future__ import annotations

import mmap
import os
import zlib
from contextlib import suppress

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.attacks.kms._house import ACME, ROW, House
from twh_platform import bind_tenant
from twh_platform.errors import KeyServiceError, PlatformError
from twh_platform.kms import BlindIndex, Suite, parse
from twh_platform.kms.postgres.sqlalchemy import Sealed


@pytest.mark.parametrize("suite", [Suite.FIELD, Suite.DETERMINISTIC])
def test_12_has_too_large_a_value_sealed(suite, twh_attack):
    """What a suite cannot take is refused by an error of ours, which names the suite that can."""
    attack = twh_attack(number=12, title="has the driver fail by a value of 2 GiB", form=suite.name)
    house = House()
    with mmap.mmap(-1, 2**31) as large:  # of pages that nobody ever touches
        with pytest.raises(OverflowError) as failed:
            AESGCM(bytes(32)).encrypt(bytes(12), large, None)
        attack.control(not isinstance(failed.value, PlatformError))

        with pytest.raises(Exception, match=r"Suite\.STREAM") as refused:
            house.seal(large, suite=suite)
    attack.ours(not isinstance(refused.value, PlatformError))
    assert refused.value.code == "plaintext_too_large"


def test_13_plants_an_empty_value(sqlalchemy_utils, twh_attack):
    """Nothing is sealed like anything else: what is empty was not sealed by anybody."""
    attack = twh_attack(number=13, title="empties a sealed value, and it opens as empty")
    engine = sqlalchemy_utils.types.encrypted.encrypted_type.AesEngine()
    engine._update_key("a key of the tests")
    engine._set_padding_mechanism(None)
    attack.control(engine.decrypt("") == "")

    house, found = House(), []
    for suite in Suite:
        sealed = house.seal(b"", suite=suite)
        assert house.open(sealed) == b""
        header = sealed[:19]
        for planted in (b"", header, header + bytes(32 + 12 + 16), header + bytes(24 + 32 + 16)):
            with suppress(KeyServiceError):
                found.append(house.open(planted))
    attack.ours(found)


def test_13_deletes_a_value(twh_attack):
    """NULL is not sealed: where it stands, nobody can tell whether there was something."""
    attack = twh_attack(
        number=13, title="sets a sealed column to NULL, and it reads as none", kind="residual"
    )
    column = Sealed(House().cipher, of=str, table="bank", column="iban")

    attack.ours(column.process_result_value(None, None) is None)


GUESSES = [b"pin=1234", b"pin=8351", b"pin=5678", b"pin=9999"]


@pytest.mark.parametrize("suite", Suite)
def test_17_learns_by_compression(suite, twh_attack):
    """Nothing is compressed: beside any guess a secret has the same length."""
    attack = twh_attack(
        number=17,
        title="learns a secret by what a guess beside it compresses to",
        form=suite.name,
    )
    secret, key = b"your pin=8351 and no other;", AESGCM(bytes(32))
    naive = {len(key.encrypt(os.urandom(12), zlib.compress(secret + one), None)) for one in GUESSES}
    attack.control(len(naive) - 1)

    house = House()
    ours = {len(house.seal(secret + one, suite=suite)) for one in GUESSES}
    attack.ours(len(ours) - 1)


@pytest.mark.parametrize("suite", Suite)
def test_17_reads_the_length(suite, twh_attack):
    """The length of a value can be read off its seal, to the byte."""
    attack = twh_attack(
        number=17, title="reads the length of a value", kind="residual", form=suite.name
    )
    values = [b"yes", b"no", b"perhaps"]
    house = House()

    attack.ours(len({len(house.seal(value, suite=suite)) for value in values}) - 1)


@pytest.mark.parametrize("by", ["by default", "STREAM", "FIELD", "a sealed column"])
def test_18_sees_which_values_are_equal(by, sqlalchemy_utils, twh_attack):
    """Who does not ask for it gets no deterministic seal."""
    attack = twh_attack(number=18, title="sees which values are equal", form=by)
    engine = sqlalchemy_utils.types.encrypted.encrypted_type.AesEngine()
    engine._update_key("a key of the tests")
    engine._set_padding_mechanism(None)
    attack.control(20 - len({engine.encrypt("the same") for _ in range(20)}))

    house = House()
    column = Sealed(house.cipher, of=str, table="bank", column="iban")

    def seal():
        with bind_tenant(ACME):
            if by == "a sealed column":
                return column.process_bind_param("the same", None)
            options = {} if by == "by default" else {"suite": Suite[by]}
            return house.cipher.seal(b"the same", ROW, **options)

    sealed = [seal() for _ in range(20)]
    deterministic = [one for one in sealed if parse(one).suite is Suite.DETERMINISTIC]
    attack.ours(20 - len(set(sealed)) + len(deterministic))


@pytest.mark.parametrize("by", ["DETERMINISTIC", "a blind index"])
def test_18_sees_equal_values_where_they_are_compared(by, twh_attack):
    """What a database compares, whoever reads it compares too; within a tenant, not across."""
    attack = twh_attack(
        number=18,
        title="sees which values are equal where that was asked for",
        kind="residual",
        form=by,
    )
    house = House()
    with bind_tenant(ACME):
        index = BlindIndex(house.cipher, "city")
        made = [
            house.cipher.seal(city.encode(), ROW, suite=Suite.DETERMINISTIC)
            if by == "DETERMINISTIC"
            else index.value(city)
            for city in ("Bonn", "Ulm", "Bonn", "Bonn")
        ]
    attack.ours(len(made) - len(set(made)))
