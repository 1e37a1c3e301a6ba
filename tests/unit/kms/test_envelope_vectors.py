"""
Frozen envelopes: what was sealed once opens in every version, and what was refused stays so.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("cryptography")

from tests.support.envelope_reference import reference_seal
from twh_platform.errors import DecryptionError
from twh_platform.kms import WrappedKey
from twh_platform.kms._envelope import Suite, bound_tail, from_text, parse, to_text
from twh_platform.kms._stream import OpeningStream
from twh_platform.kms._suites import Keys

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "envelope.json").read_text())
VALID = [case for case in VECTORS["vectors"] if case["result"] == "valid"]
INVALID = [case for case in VECTORS["vectors"] if case["result"] == "invalid"]


def name_of(case):
    """A case in the report."""
    return f"{case['id']}: suite {case['suite']}, {case['comment']}"


def keys_of(case, random=b""):
    """The keys of a case, drawing what it says."""
    return Keys(
        bytes.fromhex(case["data_key"]),
        tenant_id=case["tenant_id"],
        data_key_id=bytes.fromhex(case["data_key_id"]),
        random=lambda count: random[:count],
    )


def plaintext_of(case):
    """What was sealed."""
    return bytes.fromhex(case["plaintext"]["repeated"]) * case["plaintext"]["times"]


@pytest.mark.parametrize("case", VALID, ids=name_of)
def test_a_frozen_envelope_opens(case):
    """With its key, for its tenant and context; streams too."""
    sealed, keys = bytes.fromhex(case["sealed"]), keys_of(case)
    tail = bound_tail(case["tenant_id"], case["context"])

    assert keys.open(parse(sealed), tail) == plaintext_of(case)
    if case["suite"] == Suite.STREAM:
        stream = OpeningStream(keys, tail)
        assert stream.update(sealed) + stream.finish() == plaintext_of(case)
    if "text" in case:
        assert (to_text(sealed), from_text(case["text"])) == (case["text"], sealed)


@pytest.mark.parametrize("case", VALID, ids=name_of)
def test_the_same_is_sealed_today(case):
    """By us, where nothing is drawn that cannot be given; by the second implementation always."""
    given = {name: bytes.fromhex(case[name]) for name in ("data_key", "data_key_id", "random")}
    given |= {name: case[name] for name in ("suite", "tenant_id", "context", "inline")}
    inline = [
        WrappedKey(
            provider=key["provider"],
            key_ref=key["key_ref"],
            key_version=key["key_version"],
            ciphertext=bytes.fromhex(key["wrapped"]),
        )
        for key in case["inline"]
    ]
    tail, suite = bound_tail(case["tenant_id"], case["context"]), Suite(case["suite"])
    ours = keys_of(case, given["random"]).seal(plaintext_of(case), tail, suite, inline=inline)

    assert reference_seal(plaintext_of(case), **given).hex() == case["sealed"]
    assert suite is Suite.STREAM or ours.hex() == case["sealed"]
    assert parse(ours).inline == tuple(inline)


@pytest.mark.parametrize("case", INVALID, ids=name_of)
def test_a_frozen_forgery_is_refused(case):
    """By the atomic API and, where it is a stream, by its end at the latest."""
    sealed, keys = bytes.fromhex(case["sealed"]), keys_of(case)
    tail = bound_tail(case["tenant_id"], case["context"])

    with pytest.raises(DecryptionError, match=r"^it cannot be opened$"):
        keys.open(parse(sealed), tail)
    stream = OpeningStream(keys, tail)
    with pytest.raises(DecryptionError, match=r"^it cannot be opened$"):
        [stream.update(sealed), stream.finish()]


def test_the_file_is_the_one_that_is_meant():
    """A vector is added, never taken away."""
    assert (VECTORS["format"], VECTORS["version"]) == ("twh envelope v1", 1)
    assert [case["id"] for case in VECTORS["vectors"]] == list(range(1, len(VALID + INVALID) + 1))
    assert (len(VALID) >= 19, len(INVALID) >= 100) == (True, True)
