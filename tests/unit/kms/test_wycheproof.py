"""
What the envelope is made of, on the vectors of Wycheproof.

Only 12 bytes of nonce have a place in an envelope; the cases with others are
shown to be refused by it, whatever the primitive makes of them.
"""

from __future__ import annotations

import hashlib
import hmac
import zlib

import pytest

pytest.importorskip("cryptography")

from cryptography.exceptions import InvalidTag

from tests.support.cobblestone import cobblestone_open
from tests.support.wycheproof import wycheproof
from twh_platform.errors import DecryptionError
from twh_platform.kms._envelope import Suite, parse
from twh_platform.kms._suites import (
    AESGCM,
    AESGCMSIV,
    Cobblestone256Decryptor,
    Keys,
    expand,
)

ID = b"0123456789abcdef"


def unhex(case, *names):
    """Fields of a case as bytes."""
    return [bytes.fromhex(case[name]) for name in names]


def aead_disagreements(cipher, cases):
    """The cases in which an AEAD and its vectors disagree."""
    wrong = []
    for case in cases:
        key, nonce, aad, message, ciphertext, tag = unhex(
            case, "key", "iv", "aad", "msg", "ct", "tag"
        )
        try:
            opened = cipher(key).decrypt(nonce, ciphertext + tag, aad)
            good = opened == message
            good &= cipher(key).encrypt(nonce, message, aad) == ciphertext + tag
        except InvalidTag:
            good = False
        if good != (case["result"] == "valid"):
            wrong.append(case["tcId"])
    return wrong


def test_a_run_that_asks_for_vectors_fails_without_them(monkeypatch, tmp_path):
    """A folder that has them not is as good as none.  Control: unasked, tests skip."""
    monkeypatch.setenv("TWH_TEST_VECTORS", str(tmp_path))
    monkeypatch.setenv("TWH_REQUIRE", "postgres")
    with pytest.raises(pytest.skip.Exception, match="vectors is missing: set TWH_TEST_VECTORS"):
        wycheproof("aes_gcm_test.json")
    monkeypatch.setenv("TWH_REQUIRE", "postgres,vectors")

    with pytest.raises(pytest.fail.Exception, match="TWH_REQUIRE asks for it"):
        wycheproof("aes_gcm_test.json")


def test_aes_gcm():
    """Every case with a nonce of 12 bytes."""
    cases = [case for case in wycheproof("aes_gcm_test.json") if case["ivSize"] == 96]

    assert aead_disagreements(AESGCM, cases) == []
    assert {case["result"] for case in cases} == {"valid", "invalid"}


def test_nonces_of_other_lengths_have_no_place_in_an_envelope():
    """A body of suite 1 with another nonce is another body, and does not open."""
    cases = [case for case in wycheproof("aes_gcm_test.json") if case["ivSize"] != 96]
    keys = Keys(bytes(32), tenant_id="acme", data_key_id=ID)
    start = keys.sealer(Suite.FIELD)(b"", b"")[:51]

    assert cases
    for case in cases:
        nonce, ciphertext, tag = unhex(case, "iv", "ct", "tag")
        with pytest.raises(DecryptionError):
            keys.open(parse(start + nonce + ciphertext + tag), b"")


def test_aes_gcm_siv():
    """Every case."""
    cases = wycheproof("aes_gcm_siv_test.json")

    assert aead_disagreements(AESGCMSIV, cases) == []
    assert {case["result"] for case in cases} == {"valid", "invalid"}


@pytest.mark.parametrize("name", ["sha256", "sha512"])
def test_hmac(name):
    """Every case, truncated tags too."""
    cases = wycheproof(f"hmac_{name}_test.json")

    for case in cases:
        key, message, tag = unhex(case, "key", "msg", "tag")
        made = hmac.digest(key, message, name)[: case["tagSize"] // 8]
        assert hmac.compare_digest(made, tag) == (case["result"] == "valid"), case["tcId"]
    assert {case["result"] for case in cases} == {"valid", "invalid"}


def test_hkdf_sha512():
    """The expansion of the keys, behind an extraction that data keys do not need."""
    cases = wycheproof("hkdf_sha512_test.json")

    for case in cases:
        material, salt, info, wanted = unhex(case, "ikm", "salt", "info", "okm")
        key = hmac.digest(salt or bytes(64), material, hashlib.sha512)
        if case["result"] == "valid":
            assert expand(key, info, case["size"]) == wanted, case["tcId"]
        else:
            with pytest.raises(ValueError, match="larger"):
                expand(key, info, case["size"])


def cobblestone_by_library(key, context, sealed):
    """What the library makes of it."""
    decryptor = Cobblestone256Decryptor(key, context)
    return decryptor.update(sealed) + decryptor.finalize()


@pytest.mark.parametrize("opener", [cobblestone_by_library, cobblestone_open])
def test_chunked_encryption(opener):
    """Every case, by the library and by the second implementation."""
    cases = wycheproof("c2sp_chunked_encryption_aes_256_gcm_test.json")

    for case in cases:
        key, context, packed = unhex(case, "key", "ctx", "ct")
        try:
            opened = opener(key, context, zlib.decompress(packed))
        except (InvalidTag, ValueError):
            assert case["result"] == "invalid", case["tcId"]
        else:
            assert case["result"] == "valid", case["tcId"]
            assert hashlib.sha512(opened).hexdigest() == case["msgSha512"]
            assert len(opened) == case["msgLength"]
    assert {case["result"] for case in cases} == {"valid", "invalid"}
