"""
Ed25519 keys: which public keys are sound, and what is no key at all.
"""

from __future__ import annotations

import base64
import pickle
import traceback
import tracemalloc
from collections.abc import Callable

import pytest

pytest.importorskip("cryptography")

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from twh_platform.errors import SecretError, WebhookError, WebhookUsageError
from twh_platform.webhooks import STANDARD, STRIPE, Signer, StandardSecret, Verifier
from twh_platform.webhooks._points import (
    _ORDER,
    _P,
    _add,
    _point,
    _times,
    fault_of_public_key,
)
from twh_platform.webhooks.ed25519 import PrivateKey, PublicKey

PRIVATE = (
    "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg=="
)
PUBLIC = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="
NOW = 1_700_000_000

# The eight points of the torsion group, in the one spelling that each has.
TORSION = [
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
]
# The same points, and others, written with a sign of zero or with y + p.
OTHER_SPELLINGS = [
    "0100000000000000000000000000000000000000000000000000000000000080",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    *((_P + y + (sign << 255)).to_bytes(32, "little").hex() for y in range(19) for sign in (0, 1)),
]


def public(raw: bytes) -> str:
    """
    The text of these bytes.
    """
    return "whpk_" + base64.b64encode(raw).decode()


def spelled(point) -> bytes:
    """
    The bytes of a point.
    """
    x, y, z, _ = point
    inverse = pow(z, -1, _P)
    x, y = x * inverse % _P, y * inverse % _P
    return (y | (x & 1) << 255).to_bytes(32, "little")


@pytest.mark.parametrize("raw", [*TORSION, *OTHER_SPELLINGS])
def test_keys_that_anybody_can_sign_for_are_refused(raw):
    """Points of small order and second spellings."""
    with pytest.raises(WebhookError) as caught:
        PublicKey(public(bytes.fromhex(raw)))

    assert caught.value.code == "secret_malformed"


def test_the_table_is_the_torsion_group():
    """Eight points, of which each is neutral after eight additions; none is left out."""
    points = {spelled(_point(bytes.fromhex(raw))) for raw in TORSION}
    eighth = _point(bytes.fromhex(TORSION[4]))

    assert len(points) == 8
    assert {spelled(_times(n, eighth)) for n in range(1, 9)} == points


def test_the_library_takes_a_key_that_anybody_can_sign_for():
    """The control: R is neutral, S is zero, and every message "verifies"."""
    neutral = bytes.fromhex(TORSION[0])
    key = Ed25519PublicKey.from_public_bytes(neutral)

    key.verify(neutral + bytes(32), b"any")
    key.verify(neutral + bytes(32), b"other")
    assert fault_of_public_key(neutral)


def test_a_sound_point_plus_one_of_small_order_is_refused():
    """Verifiers disagree about its signatures, with and without cofactor."""
    sound = _point(base64.b64decode(PUBLIC[5:]))
    for raw in TORSION[1:]:
        mixed = spelled(_add(sound, _point(bytes.fromhex(raw))))
        assert fault_of_public_key(mixed) == "is a point of the group of prime order"

    assert not fault_of_public_key(spelled(sound))


@pytest.mark.parametrize("y", [2, 5, 6])
def test_what_is_no_point_is_refused(y):
    """Half of all numbers are none."""
    assert fault_of_public_key(y.to_bytes(32, "little")) != ""
    assert _point((2).to_bytes(32, "little")) is None


@pytest.mark.parametrize(
    "text",
    [
        None,
        7,
        "",
        "whpk_",
        PUBLIC[5:],
        PUBLIC.encode(),
        PUBLIC + "\n",
        PRIVATE,
        PUBLIC.replace("whpk_", "whsec_"),
        public(bytes(31)),
        public(bytes(33)),
    ],
)
def test_what_is_no_public_key_is_refused(text):
    """One error for all."""
    with pytest.raises(WebhookError) as caught:
        PublicKey(text)

    assert caught.value.code == "secret_malformed"


@pytest.mark.parametrize(
    "text",
    [
        None,
        7,
        "",
        "whsk_",
        PRIVATE[5:],
        PRIVATE.encode(),
        PUBLIC,
        "whsk_" + base64.b64encode(bytes(32)).decode(),
        "whsk_" + base64.b64encode(bytes(64)).decode(),
        PRIVATE.replace("whsk_", "whsec_"),
    ],
)
def test_what_is_no_private_key_is_refused(text):
    """A seed alone is not one, nor are halves that do not belong together."""
    with pytest.raises(WebhookError) as caught:
        PrivateKey(text)

    assert caught.value.code == "secret_malformed"


def test_keys_come_back_as_they_were():
    """And the private one knows its public one."""
    assert PrivateKey(PRIVATE).reveal() == PRIVATE
    assert PrivateKey(PRIVATE).public == PublicKey(PUBLIC)
    assert PrivateKey(PRIVATE).fingerprint == PublicKey(PUBLIC).fingerprint
    assert PrivateKey.generate() != PrivateKey.generate()


def test_a_private_key_is_not_shown():
    """No text, no pickle, no traceback has it."""
    key = PrivateKey(PRIVATE)
    with pytest.raises(SecretError):
        pickle.dumps(key)
    with pytest.raises(WebhookError) as caught:
        PublicKey(PRIVATE)
    stack = traceback.TracebackException.from_exception(caught.value, capture_locals=True).stack
    ours = [one for one in stack if one.name == "__init__"]

    assert PRIVATE[5:40] not in f"{key!r}{key}"
    assert ours
    assert all(PRIVATE[5:40] not in "".join((one.locals or {}).values()) for one in ours)


def signed(body=b"{}"):
    """
    A webhook of the private key.
    """
    return Signer(PrivateKey(PRIVATE), clock=lambda: NOW).sign(body, event_id="msg_1")


def code_of(headers, keys, body=b"{}", profile=STANDARD):
    """
    The code of the error; None if it is verified.
    """
    try:
        Verifier(keys, profile=profile, clock=lambda: NOW).verify(body, headers)
    except WebhookError as error:
        return error.code
    return None


def test_what_the_private_key_signs_the_public_key_verifies():
    """As v1a, and not another body."""
    request = signed()
    verified = Verifier(PublicKey(PUBLIC), clock=lambda: NOW).verify(b"{}", request.headers)

    assert verified.scheme == "v1a"
    assert verified.key_id == PublicKey(PUBLIC).fingerprint
    assert code_of(request.headers, PublicKey(PUBLIC), b"{} ") == "signature_mismatch"


def test_a_second_form_of_a_signature_is_refused():
    """S plus the order of the group; the library refuses it as well."""
    request = signed()
    raw = base64.b64decode(request.headers["webhook-signature"][4:])
    second = int.from_bytes(raw[32:], "little") + _ORDER
    other = base64.b64encode(raw[:32] + second.to_bytes(32, "little")).decode()
    headers = {**request.headers, "webhook-signature": f"v1a,{other}"}

    assert code_of(headers, PublicKey(PUBLIC)) == "signature_mismatch"


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:-1],
        lambda text: text.rstrip("="),
        lambda text: text + "=",
        lambda text: text[:-3] + chr(ord(text[-3]) + 1) + "==",
        lambda text: "!" + text,
        lambda text: text.replace("+", "-").replace("/", "_") + "\n",
        lambda _: "",
        lambda text: text[:44],
        lambda text: text + text,
        lambda text: base64.b64encode(base64.b64decode(text)[:63]).decode(),
        lambda _: "\u00e4" * 88,
    ],
)
def test_a_signature_has_one_spelling(change):
    """Whatever else it is made of, it is none, and it hides no good one."""
    request = signed()
    good = request.headers["webhook-signature"]
    bad = "v1a," + change(good[4:])
    if "\n" not in bad:
        both = {**request.headers, "webhook-signature": f"{bad} {good}"}
        assert code_of(both, PublicKey(PUBLIC)) is None

    alone = {**request.headers, "webhook-signature": bad}
    assert code_of(alone, PublicKey(PUBLIC)) == "signature_mismatch"


def test_kinds_of_keys_do_not_cross():
    """A MAC made with the bytes of the public key is no signature, under neither name."""
    as_secret = StandardSecret(PUBLIC.replace("whpk_", "whsec_"))
    request = Signer(as_secret, clock=lambda: NOW).sign(b"{}", event_id="msg_1")
    text = request.headers["webhook-signature"]
    renamed = {**request.headers, "webhook-signature": text.replace("v1,", "v1a,")}

    assert code_of(request.headers, PublicKey(PUBLIC)) == "no_supported_scheme"
    assert code_of(renamed, PublicKey(PUBLIC)) == "signature_mismatch"
    assert code_of(signed().headers, as_secret) == "no_supported_scheme"


@pytest.mark.parametrize(
    ("make", "keys", "profile"),
    [
        (Signer, PublicKey(PUBLIC), STANDARD),
        (Verifier, PrivateKey(PRIVATE), STANDARD),
        (Verifier, PublicKey(PUBLIC), STRIPE),
        (Signer, PrivateKey(PRIVATE), STRIPE),
    ],
)
def test_a_key_that_does_not_fit_is_refused(make, keys, profile):
    """When it is given, not when the first webhook comes."""
    with pytest.raises(WebhookUsageError) as caught:
        make(keys, profile=profile)

    assert caught.value.code == "secret_type_invalid"


def most_held(take: Callable[[bytes], None]) -> int:
    """How many bytes are held at most while 64 KiB come in chunks of two bytes."""
    tracemalloc.start()
    try:
        for at in range(32_768):
            take(at.to_bytes(2, "big"))
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_body_in_tiny_chunks_is_held_once():
    """Each chunk as an object takes twenty times its size, for anybody who sends so."""
    naive: list[bytes] = []
    headers = Signer(PrivateKey(PRIVATE)).sign(b"").headers
    verification = Verifier(PublicKey(PUBLIC)).begin(headers)

    assert most_held(naive.append) > 10 * 65_536
    assert most_held(verification.update) < 3 * 65_536


def test_a_body_in_chunks_of_all_sizes_verifies():
    """Small ones and large ones, in whatever order they come."""
    sizes = [1, 4_096, 2, 3, 5_000, 0, 4_095, 70_000, 1]
    chunks = [bytes([at]) * size for at, size in enumerate(sizes)]
    headers = Signer(PrivateKey(PRIVATE)).sign(b"".join(chunks)).headers
    verification = Verifier(PublicKey(PUBLIC)).begin(headers)
    for chunk in chunks:
        verification.update(memoryview(chunk))

    assert verification.finish().scheme == "v1a"
