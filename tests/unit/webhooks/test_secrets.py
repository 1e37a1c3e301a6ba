"""
Typed secrets: what is none of its kind is refused, and what is one is not shown.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import hmac
import pickle
import traceback
from pathlib import Path

import pytest

import twh_platform
from twh_platform.errors import SecretError, WebhookError
from twh_platform.webhooks import RawSecret, Signer, StandardSecret, Verifier

RAW = bytes(range(24))
TEXT = "whsec_" + base64.b64encode(RAW).decode()

# RFC 4231, section 4: key, data, SHA-256, SHA-512.
RFC_4231 = [
    (
        b"\x0b" * 20,
        b"Hi There",
        "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
        (
            "87aa7cdea5ef619d4ff0b4241a1d6cb02379f4e2ce4ec2787ad0b30545e17cde"
            "daa833b7d6b8a702038b274eaea3f4e4be9d914eeb61f1702e696c203a126854"
        ),
    ),
    (
        b"\xaa" * 20,
        b"\xdd" * 50,
        "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe",
        (
            "fa73b0089d56a284efb0f0756c890be9b1b5dbdd8ee81a3655f83e33b2279d39"
            "bf3e848279a722c806b485a47e67c807b946a337bee8942674278859e13292fb"
        ),
    ),
    (
        bytes(range(1, 26)),
        b"\xcd" * 50,
        "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b",
        (
            "b0ba465637458c6990e5a8c5f61d4af7e576d97ff94b872de76f8050361ee3db"
            "a91ca5c11aa25eb4d679275cc5788063a5f19741120c4f2de2adebeb10a298dd"
        ),
    ),
]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "whsec_",
        "!!!!",
        None,
        7,
        bytearray(TEXT, "ascii"),
        memoryview(TEXT.encode()),
        TEXT.encode(),
        [TEXT],
        "whsec_" + base64.b64encode(b"x").decode(),
        "whsec_" + base64.b64encode(bytes(23)).decode(),
        "whsec_" + base64.b64encode(bytes(65)).decode(),
        "whsec_" + base64.b64encode(bytes(75)).decode(),
        "whsec_!!" + TEXT[6:] + "\n ",
        TEXT + "\n",
        " " + TEXT,
        "\u00a0",
        TEXT.replace("A", "\u0410"),
        "whsec_" + base64.urlsafe_b64encode(b"\xff" * 24).decode(),
        "whsec_" + base64.b64encode(bytes(25)).decode().rstrip("="),
        "whsec_" + base64.b64encode(bytes(25)).decode()[:-3] + "B==",
        TEXT.replace("whsec_", "whpk_"),
        TEXT.replace("whsec_", "whsk_"),
        TEXT.upper(),
        "WHSEC_" + TEXT[6:],
        "whsec_" + TEXT,
        TEXT[6:],
        "whsec_" + "A" * 1_000_000,
    ],
)
def test_what_is_no_standard_secret_is_refused(text):
    """Whatever its type, there is one error, and it has nothing of the text."""
    with pytest.raises(WebhookError) as caught:
        StandardSecret(text)

    assert caught.value.code == "secret_malformed"
    assert str(text)[8:] not in str(caught.value) or len(str(text)) <= 8


@pytest.mark.parametrize(
    "key",
    [
        "",
        "short",
        b"1234567",
        b"x" * 65,
        "x" * 65,
        None,
        7,
        bytearray(20),
        [b"x" * 20],
        "schlüssel-lang",
        "\xa0" * 9,
        "a secret key\n",
        " a secret key",
        "whpk_P9LIKcrDCb1PrXJRNJ4+hXMZdlsLCZSL3gsTNczakfs=",
        b"whpk_P9LIKcrDCb1PrXJRNJ4+hXMZdlsLCZSL3gsTNczakfs=",
        "whsk_and whatever",
    ],
)
def test_what_is_no_raw_secret_is_refused(key):
    """A newline at its end is a mistake, and so are a key of Ed25519 and what is not ASCII."""
    with pytest.raises(WebhookError) as caught:
        RawSecret(key)

    assert caught.value.code == "secret_malformed"


@pytest.mark.parametrize("size", [24, 32, 64])
def test_a_standard_secret_is_24_to_64_bytes(size):
    """It comes back as the text that it was made of."""
    secret = StandardSecret.generate(size)

    assert StandardSecret(secret.reveal()) == secret
    assert len(base64.b64decode(secret.reveal()[6:])) == size


@pytest.mark.parametrize("size", [0, 23, 65])
def test_no_secret_of_another_size_is_made(size):
    """A short one can be guessed, a long one equals its hash."""
    with pytest.raises(WebhookError) as caught:
        StandardSecret.generate(size)

    assert caught.value.code == "secret_malformed"


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("case", range(len(RFC_4231)))
def test_the_pads_make_the_macs_of_rfc_4231(algorithm, case):
    """Copied once for each message, they are HMAC."""
    key, data, *expected = RFC_4231[case]
    inner, outer = (one.copy() for one in RawSecret(key).pads(algorithm))
    inner.update(data)
    outer.update(inner.digest())

    assert outer.digest().hex() == expected[algorithm == "sha512"]


@pytest.mark.parametrize("size", [8, 63, 64])
def test_the_pads_are_hmac_up_to_a_block(size):
    """At the length of a block too."""
    secret = RawSecret(bytes(range(size)))
    inner, outer = (one.copy() for one in secret.pads("sha256"))
    inner.update(b"data")
    outer.update(inner.digest())

    assert outer.digest() == hmac.digest(bytes(range(size)), b"data", hashlib.sha256)


def test_secrets_that_sign_alike_have_one_fingerprint():
    """A key, and the key with zero bytes behind it; two types of one key as well."""
    padded = RawSecret(RAW + b"\0")

    assert hmac.digest(RAW, b"m", "sha256") == hmac.digest(RAW + b"\0", b"m", "sha256")
    assert RawSecret(RAW).fingerprint == padded.fingerprint == StandardSecret(TEXT).fingerprint
    assert RawSecret(RAW) != padded


def test_secrets_are_equal_by_type_and_key():
    """The same text is another key for another kind."""
    assert StandardSecret(TEXT) == StandardSecret(TEXT)
    assert hash(StandardSecret(TEXT)) == hash(StandardSecret(TEXT))
    assert StandardSecret(TEXT) != RawSecret(TEXT)
    assert StandardSecret(TEXT) != TEXT
    assert RawSecret(TEXT).reveal() == TEXT.encode()


@pytest.mark.parametrize("secret", [StandardSecret(TEXT), RawSecret(RAW)])
def test_a_secret_is_not_shown(secret):
    """Not by what makes text of it, nor by what holds it."""
    shown = [repr(secret), str(secret), f"{secret}", f"{secret!r:>200}", repr(secret._hidden)]
    shown += [repr(Verifier(StandardSecret(TEXT))), repr(Signer(StandardSecret(TEXT)))]

    for text in shown:
        assert TEXT[6:] not in text
        assert repr(RAW)[2:-1] not in text
    assert secret.fingerprint in repr(secret)


@pytest.mark.parametrize("secret", [StandardSecret(TEXT), RawSecret(RAW)])
def test_a_secret_has_no_dictionary_and_is_not_pickled(secret):
    """What others would keep of it is not there to be kept."""
    with pytest.raises(TypeError, match="__dict__"):
        vars(secret)
    with pytest.raises(SecretError) as caught:
        pickle.dumps(secret)

    assert caught.value.code == "secret_pickled"


def test_a_secret_does_not_change():
    """Its copies are itself."""
    secret = StandardSecret(TEXT)
    for act in (lambda: setattr(secret, "fingerprint", ""), lambda: delattr(secret, "_hidden")):
        with pytest.raises(AttributeError):
            act()

    assert copy.copy(secret) is copy.deepcopy(secret) is secret


def test_a_traceback_with_the_values_of_names_has_no_secret():
    """As error reporters print them."""
    with pytest.raises(WebhookError) as caught:
        StandardSecret(TEXT[:-4] + "!!!!")
    frames = traceback.TracebackException.from_exception(caught.value, capture_locals=True).stack
    package = str(Path(twh_platform.__file__).parent)
    ours = [frame for frame in frames if frame.filename.startswith(package)]

    assert ours
    assert all(TEXT[6:-4] not in "".join((frame.locals or {}).values()) for frame in ours)
