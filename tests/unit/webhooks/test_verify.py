"""
Verifying: what is true about a webhook, when it is too old, and which bytes count.
"""

from __future__ import annotations

import array
import base64
import hmac
import pickle
import tracemalloc
from dataclasses import replace

import pytest

from twh_platform.errors import PlatformError, WebhookError, WebhookUsageError
from twh_platform.webhooks import (
    GITHUB,
    PROFILES,
    SHOPIFY,
    STANDARD,
    STRIPE,
    Key,
    Keyring,
    Profile,
    RawSecret,
    Scheme,
    Signer,
    StandardSecret,
    Verified,
    Verifier,
    verify,
)
from twh_platform.webhooks._profiles import Form

NOW = 1_700_000_000
BODY = b'{"a":1}'
SECRET = StandardSecret.generate()
RAW = RawSecret("a shared secret")


def signed(body=BODY, keys=SECRET, at=NOW, profile=STANDARD):
    """
    A webhook of the secret.
    """
    return Signer(keys, profile=profile, clock=lambda: at).sign(body, event_id="msg_1")


def code_of(headers, body=BODY, keys=SECRET, now=NOW, **options):
    """
    The code of the error; None if it is verified.
    """
    try:
        Verifier(keys, clock=lambda: now, **options).verify(body, headers)
    except WebhookError as error:
        return error.code
    return None


def test_it_says_what_is_true():
    """Id, times, key, scheme and profile: nothing that was not signed."""
    verifier = Verifier(Keyring([Key(secret=SECRET, id="2026-a")]), clock=lambda: NOW + 2.9)
    verified = verifier.verify(BODY, signed().headers)

    assert verified == Verified("msg_1", NOW, 2, "2026-a", "v1", "standard")
    assert type(verified) is Verified
    assert verified == verifier.verify(
        BODY, [(k.encode(), v.encode()) for k, v in signed().headers.items()]
    )


def test_what_is_not_signed_is_empty():
    """GitHub signs the body alone."""
    request = signed(keys=RAW, profile=GITHUB)

    assert Verifier(RAW, profile=GITHUB).verify(BODY, request.headers) == Verified(
        "", 0, 0, RAW.fingerprint, "sha256", "github"
    )


def test_one_line_is_enough():
    """With the time of the machine."""
    request = Signer(SECRET).sign(BODY)

    assert verify(BODY, request.headers, SECRET).id == request.id


@pytest.mark.parametrize("give", [dict, lambda headers: {**headers, "Host": "x"}])
@pytest.mark.parametrize(
    ("age", "code"),
    [(300, None), (301, "too_old"), (10**9, "too_old"), (-300, None), (-301, "too_new")],
)
@pytest.mark.parametrize("part", [0, 0.999])
def test_both_edges_are_within(age, code, part, give):
    """To the second, whatever part of a second it is now."""
    headers = give(dict(signed(at=NOW - age).headers))

    assert code_of(headers, now=NOW + part) == code


@pytest.mark.parametrize("stamp", [253_402_300_799, NOW + 86_400, 999_999_999_999])
def test_a_signature_of_the_future_is_none(stamp):
    """Though its sender has the key."""
    assert code_of(signed(at=stamp).headers) == "too_new"


def test_past_and_future_are_set_apart():
    """A sender who repeats with the first timestamp is given hours, back and not ahead."""
    late, early = signed(at=NOW - 14_400).headers, signed(at=NOW + 10).headers

    assert code_of(late) == "too_old"
    assert code_of(late, past=14_400) is None
    assert code_of(early, past=14_400, future=9) == "too_new"
    assert code_of(late, profile=replace(STANDARD, past=14_400)) is None


def test_a_tolerance_of_zero_is_zero():
    """It does not mean that time is not looked at."""
    assert code_of(signed().headers, past=0, future=0) is None
    assert code_of(signed(at=NOW - 1).headers, past=0) == "too_old"
    assert code_of(signed(at=NOW + 1).headers, future=0) == "too_new"


@pytest.mark.parametrize("option", ["past", "future"])
@pytest.mark.parametrize("seconds", [-1, 1.5, "300", True, float("inf")])
def test_a_tolerance_is_a_whole_number(option, seconds):
    """Nothing that would switch it off."""
    with pytest.raises(WebhookUsageError) as caught:
        Verifier(SECRET, **{option: seconds})

    assert caught.value.code == "tolerance_invalid"


@pytest.mark.parametrize(
    "body", [b"", b"\xff\xfe\x00", b"a=1&b=2", b"\xef\xbb\xbf{}", b"not JSON", b"\0" * 100_000]
)
def test_a_body_is_bytes_of_any_kind(body):
    """To read them is another matter."""
    assert code_of(signed(body).headers, body) is None
    assert code_of(signed(body).headers, body + b"\n") == "signature_mismatch"


@pytest.mark.parametrize(
    "body",
    [
        bytearray(BODY),
        memoryview(BODY),
        memoryview(BODY + b"x")[:-1],
        memoryview(bytes(two for one in BODY for two in (one, 0)))[::2],
        memoryview(array.array("B", BODY)),
        type("Bytes", (bytes,), {})(BODY),
    ],
)
def test_bytes_of_other_types_are_bytes(body):
    """Also a view with gaps, which hashlib would not take."""
    verification = Verifier(SECRET, clock=lambda: NOW).begin(signed().headers)
    verification.update(body)

    assert code_of(signed().headers, body) is None
    assert verification.finish().id == "msg_1"


def released():
    """
    A view of nothing any more.
    """
    view = memoryview(BODY)
    view.release()
    return view


@pytest.mark.parametrize("body", [BODY.decode(), "\ud800", None, {"a": 1}, 7, [BODY], released()])
def test_what_are_no_bytes_is_said_so(body):
    """A body that was read as text or JSON is not what was signed."""
    verification = Verifier(SECRET, clock=lambda: NOW).begin(signed().headers)
    for act in (lambda: code_or_raise(body), lambda: verification.update(body)):
        with pytest.raises(WebhookUsageError) as caught:
            act()
        assert caught.value.code == "body_not_bytes"


def code_or_raise(body):
    """
    Verify it with the headers of another body.
    """
    return Verifier(SECRET, clock=lambda: NOW).verify(body, signed().headers)


@pytest.mark.parametrize(
    "changed",
    [BODY + b"\n", BODY + b"\r\n", b"\xef\xbb\xbf" + BODY, b'{"a": 1}', b"", BODY[:-1], BODY * 2],
)
def test_another_body_is_another(changed):
    """Down to a byte."""
    assert code_of(signed().headers, changed) == "signature_mismatch"


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp"])
def test_what_is_signed_besides_cannot_be_changed(name):
    """The id, and the time."""
    headers = {**signed().headers, name: {"webhook-id": "msg_2"}.get(name, str(NOW + 1))}

    assert code_of(headers) == "signature_mismatch"


def test_the_first_key_that_matches_is_told():
    """In the order of the keyring; the signatures' order does not matter."""
    other = StandardSecret.generate()
    request = signed(keys=Keyring([Key(secret=other, id="b"), Key(secret=SECRET, id="a")]))
    backwards = " ".join(reversed(request.headers["webhook-signature"].split()))
    verifier = Verifier(
        Keyring([Key(secret=SECRET, id="a"), Key(secret=other, id="b")]), clock=lambda: NOW
    )

    assert verifier.verify(BODY, request.headers).key_id == "a"
    assert verifier.verify(BODY, {**request.headers, "webhook-signature": backwards}).key_id == "a"


@pytest.mark.parametrize("signer", range(3))
@pytest.mark.parametrize("in_parts", [False, True])
def test_each_key_is_tried_whichever_matches(monkeypatch, signer, in_parts):
    """So time tells nobody which of them it was."""
    keys = [StandardSecret.generate() for _ in range(3)]
    verifier = Verifier(keys, clock=lambda: NOW)
    compared = []
    monkeypatch.setattr(
        "twh_platform.webhooks._candidates.compare_digest",
        lambda *pair: compared.append(pair) or hmac.compare_digest(*pair),
    )
    headers = signed(keys=keys[signer]).headers
    if in_parts:
        verification = verifier.begin(headers)
        verification.update(BODY)
        key_id = verification.finish().key_id
    else:
        key_id = verifier.verify(BODY, headers).key_id

    assert key_id == keys[signer].fingerprint
    assert len(compared) == 3


@pytest.mark.parametrize("keys", [SECRET, []], ids=["of another scheme", "none"])
def test_what_keys_there_are_is_said_at_the_end(keys):
    """Beginning succeeds, and nothing is hashed; at once, it is the same error."""
    headers = {**signed().headers, "webhook-signature": "v9," + "A" * 44}
    verifier = Verifier(keys, clock=lambda: NOW)
    verification = verifier.begin(headers)
    verification.update(BODY)
    with pytest.raises(WebhookError) as streamed:
        verification.finish()
    with pytest.raises(WebhookError) as whole:
        verifier.verify(BODY, headers)

    assert (streamed.value.code, str(streamed.value)) == (whole.value.code, str(whole.value))
    assert streamed.value.code == "no_supported_scheme"
    assert verification._running == []


def test_a_stream_takes_no_memory():
    """Sixteen megabytes, and a few hundred bytes."""
    chunk, count = bytes(65_536), 256
    request = signed(chunk * count)
    verification = Verifier(SECRET, clock=lambda: NOW).begin(request.headers)
    tracemalloc.start()
    for _ in range(count):
        verification.update(chunk)
    verified = verification.finish()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert verified.id == "msg_1"
    assert peak < 65_536


def test_a_whole_body_is_not_copied():
    """What is allocated does not depend on its size."""
    body = bytes(2**20)
    headers = signed(body).headers
    verifier = Verifier(SECRET, clock=lambda: NOW)
    tracemalloc.start()
    verifier.verify(body, headers)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 65_536


def test_no_keys_verify_nothing():
    """An endpoint without a key refuses; it does not let through."""
    assert code_of(signed().headers, keys=[]) == "no_supported_scheme"
    assert code_of(signed().headers, keys=Keyring()) == "no_supported_scheme"


@pytest.mark.parametrize(("keys", "profile"), [(SECRET, STRIPE), (RAW, STANDARD), (RAW, None)])
def test_a_secret_of_another_kind_is_refused(keys, profile):
    """The same text is another key elsewhere."""
    with pytest.raises(WebhookUsageError) as caught:
        Verifier(keys, profile=profile or replace(SHOPIFY, schemes={}))

    assert caught.value.code == "secret_type_invalid"


def test_the_same_text_is_another_key_for_another_sender():
    """For Stripe, ``whsec_`` is a part of it."""
    text = SECRET.reveal()
    request = signed(keys=RawSecret(text), profile=STRIPE)
    as_standard = hmac.digest(bytes(SECRET._hidden), f"{NOW}.".encode() + BODY, "sha256").hex()
    other = {"stripe-signature": f"t={NOW},v1={as_standard}"}

    assert code_of(request.headers, keys=RawSecret(text), profile=STRIPE) is None
    assert code_of(other, keys=RawSecret(text), profile=STRIPE) == "signature_mismatch"


def test_an_error_has_nothing_of_the_webhook():
    """Neither body nor secret, nor what would have been right."""
    request = signed(b"private words")
    right = request.headers["webhook-signature"][3:]
    headers = {**request.headers, "webhook-signature": "v1," + "A" * 43 + "="}
    for give in (headers, {**headers, "host": "x", "Accept": "y"}):
        with pytest.raises(WebhookError) as caught:
            Verifier(SECRET, clock=lambda: NOW).verify(b"private words", give)
        said = f"{caught.value!r} {caught.value} {caught.value.__dict__} {caught.value.args}"
        assert "private" not in said
        assert right not in said
        assert SECRET.reveal()[6:] not in said


def test_both_ways_raise_the_same_mismatch():
    """An error like any other: one class, one message, one code."""
    headers = {**signed().headers, "webhook-signature": "v1," + "A" * 43 + "="}
    errors = []
    for give in (headers, {**headers, "Host": "x"}):
        with pytest.raises(PlatformError) as caught:
            Verifier(SECRET, clock=lambda: NOW).verify(BODY, give)
        errors.append((type(caught.value), str(caught.value), caught.value.code))

    assert errors[0] == errors[1] == (WebhookError, errors[0][1], "signature_mismatch")
    assert errors[0][1]


def test_a_verifier_has_no_secret_to_show():
    """It has no dictionary and is not pickled."""
    verifier = Verifier(SECRET)
    with pytest.raises(TypeError):
        vars(verifier)
    with pytest.raises((TypeError, PlatformError, AttributeError)):
        pickle.dumps(verifier)

    assert SECRET.reveal()[6:] not in repr(verifier)


@pytest.mark.parametrize("name", [name for name in PROFILES if name != "message"])
def test_every_profile_verifies_what_it_signs(name):
    """And nothing else."""
    profile = PROFILES[name]
    keys = SECRET if any("standard" in one.kinds for one in profile.schemes.values()) else RAW
    request = signed(keys=keys, profile=profile)

    assert code_of(request.headers, keys=keys, profile=profile) is None
    assert code_of(request.headers, BODY + b" ", keys, profile=profile) == "signature_mismatch"


@pytest.mark.parametrize("head", ["{timestamp}.{id}.", "{id}:{timestamp}:", "{id}.", "100%{id} %b"])
def test_a_profile_of_ones_own_may_sign_in_another_order(head):
    """What stands before the body is written as it says."""
    stamp_header = "x-time" if "{timestamp}" in head else ""
    profile = replace(STANDARD, name="own", head=head, timestamp_header=stamp_header)
    request = signed(profile=profile)
    expected = head.replace("{id}", "msg_1").replace("{timestamp}", str(NOW)).encode()

    assert profile.signed_head(b"msg_1", b"%d" % NOW) == expected
    assert code_of(request.headers, profile=profile) is None


@pytest.mark.parametrize("encoding", ["base64", "hex"])
@pytest.mark.parametrize("algorithm", ["hmac-sha256", "hmac-sha512"])
def test_a_scheme_of_ones_own_may_hash_and_spell_otherwise(algorithm, encoding):
    """The MAC is that of the standard library."""
    scheme = Scheme(algorithm=algorithm, encoding=encoding)
    profile = replace(STANDARD, name="own", schemes={"v9": scheme})
    request = signed(profile=profile)
    text = request.headers["webhook-signature"].removeprefix("v9,")
    mac = hmac.digest(bytes(SECRET._hidden), f"msg_1.{NOW}.".encode() + BODY, algorithm[5:])

    assert text == (mac.hex() if encoding == "hex" else base64.b64encode(mac).decode())
    assert code_of(request.headers, profile=profile) is None


def test_a_profile_of_ones_own_may_sign_only_a_time():
    """In a list, without an id."""
    profile = Profile(
        name="own",
        form=Form.SPACED,
        signature_header="x-signature",
        timestamp_header="x-time",
        head="{timestamp}.",
        schemes={"v1": Scheme()},
    )
    request = signed(profile=profile)

    assert set(request.headers) == {"x-signature", "x-time"}
    assert code_of(request.headers, profile=profile) is None
    assert code_of({**request.headers, "x-time": "1"}, profile=profile) == "too_old"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("webhook-id", 5),
        ("webhook-timestamp", NOW),
        ("webhook-signature", 5),
        ("webhook-signature", b"v" * 47),
        ("webhook-signature", ["v"] * 47),
        ("webhook-signature", "v1,é" + "A" * 43),
        ("webhook-signature", "v1," + " " * 44),
        ("webhook-signature", "v1, " + "A" * 43),
        ("webhook-signature", "v2," + "A" * 44),
    ],
)
def test_both_ways_say_the_same_of_one_odd_header(name, value):
    """As long as a signature is, and yet none; or no text at all."""
    headers = {**signed().headers, name: value}
    alone, beside = code_of(headers), code_of({**headers, "Host": "x"})

    assert alone == beside
    assert alone is not None
