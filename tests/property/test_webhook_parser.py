"""
Laws of the reader of webhooks: nothing gets out but a `WebhookError`, and all ways agree.
"""

from __future__ import annotations

import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.hostile_webhooks import (
    BODY,
    CODES,
    KEYS,
    NAMES,
    NOW,
    SHAPES,
    TAKEN,
    judge,
    seeds,
)
from twh_platform.errors import WebhookError
from twh_platform.webhooks import PROFILES, RawSecret, StandardSecret, Verified, Verifier

SEEDS = seeds()
SECRETS = {
    "standard": StandardSecret("whsec_" + "A" * 42 + "8="),
    "raw": RawSecret("a shared secret"),
}
HEADER_NAMES = sorted(
    {
        header
        for one in PROFILES.values()
        for header in (one.signature_header, one.id_header, one.timestamp_header)
        if header
    }
)

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=20)
    | st.builds(bytearray, st.binary(max_size=9))
    | st.builds(memoryview, st.binary(max_size=9)),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=9) | st.sampled_from(HEADER_NAMES), inner, max_size=4)
    ),
    max_leaves=12,
)
names = st.sampled_from(HEADER_NAMES).flatmap(
    lambda name: st.sampled_from([name, name.title(), name.encode(), name.upper().encode()])
)
values = anything | st.sampled_from(["v1,", "t=1,v1=", "msg_1", str(NOW), b"v1,a v1,b", b"sha256="])
headers = (
    anything
    | st.lists(st.tuples(names | anything, values), max_size=6)
    | st.dictionaries(names, values, max_size=6)
)


def outcome(act):
    """
    What it returned, or the code of its error; any other error is the test's end.
    """
    try:
        return act()
    except WebhookError as error:
        return error.code


def verifier_of(name):
    """
    For a profile, with a key that fits.
    """
    kinds = {kind for one in PROFILES[name].schemes.values() for kind in one.kinds}
    return Verifier(SECRETS[min(kinds & set(SECRETS))], profile=PROFILES[name], clock=lambda: NOW)


@given(st.sampled_from(sorted(PROFILES)), headers, anything, anything, anything)
def test_whatever_comes_there_is_one_kind_of_error(name, given_headers, body, method, url):
    """Headers of any type, bodies of any type, every profile: whole or in parts."""
    verifier = verifier_of(name)

    def whole():
        return verifier.verify(body, given_headers, method=method, url=url)

    def parts():
        verification = verifier.begin(given_headers, method=method, url=url)
        verification.update(body)
        return verification.finish()

    for act in (whole, parts):
        assert isinstance(outcome(act), str)


@given(st.binary(max_size=200))
@example(b"")
def test_bytes_of_noise_are_judged_alike_in_every_way(data):
    """The usual way, the general one, beside another key, and in parts."""
    assert judge(data) in {*CODES, TAKEN}


@given(st.data())
def test_a_webhook_that_was_changed_is_judged_alike_in_every_way(data):
    """What is verified is what was signed, to the letter."""
    seed = bytearray(data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(3, len(seed) - 1))
        piece = data.draw(st.binary(max_size=3) | st.sampled_from([b",", b" ", b"=", b"\n", b"."]))
        seed[place : place + data.draw(st.integers(0, 2))] = piece
    said = judge(bytes(seed))

    assert type(said) is Verified or said in {*CODES, TAKEN}


@pytest.mark.parametrize("name", [name for name in NAMES if name != KEYS])
def test_the_judge_knows_a_webhook(name):
    """The control: unchanged, it is verified, as pairs, as a dict, and in parts."""
    good = [judge(seed) for seed in SEEDS if seed[0] == NAMES.index(name)]

    assert len(good) == len(SHAPES)
    assert sum(type(one) is Verified for one in good) == 11


def test_the_judge_knows_a_forgery(monkeypatch):
    """The control: if comparing were to say yes to all, it would be told."""
    monkeypatch.setattr("twh_platform.webhooks._candidates.compare_digest", lambda *_: True)
    github = next(seed for seed in SEEDS if seed[0] == NAMES.index("github"))

    with pytest.raises(AssertionError, match="forged body"):
        judge(github + b" ")


def test_the_judge_knows_a_key():
    """The control: texts of keys are taken; a key that anybody can sign with is not."""
    pytest.importorskip("cryptography")

    assert [judge(seed) for seed in seeds(KEYS)] == [TAKEN] * 4 + ["secret_malformed"] * 4


def test_the_judge_knows_a_key_that_anybody_signs_with(monkeypatch):
    """The control: if public keys were not looked at, it would be told."""
    pytest.importorskip("cryptography")
    monkeypatch.setattr("twh_platform.webhooks.ed25519.fault_of_public_key", lambda raw: "")

    for seed in seeds(KEYS)[4:]:
        with pytest.raises(AssertionError, match="anybody can sign"):
            judge(seed)


@pytest.mark.parametrize(
    ("name", "old", "new", "what"),
    [
        ("standard-ed25519", BODY, BODY + b" ", "body"),
        ("message-ed25519", b"POST ", b"PUT ", "method"),
        ("message-ed25519", b"/hooks/7", b"/hooks/8", "URL"),
    ],
)
def test_the_judge_knows_a_forgery_of_a_key_pair(monkeypatch, name, old, new, what):
    """The control: if every signature were to fit, it would be told."""
    pytest.importorskip("cryptography")
    always = "twh_platform.webhooks._candidates._Signature.matches"
    monkeypatch.setattr(always, lambda *_: True)
    seed = seeds(name)[0]

    with pytest.raises(AssertionError, match=f"forged {what}"):
        judge(seed.replace(old, new))


GROWING = {
    "headers": lambda n: [(b"x-%d" % one, b"") for one in range(n)],
    "same header": lambda n: [(b"webhook-id", b"a")] * n,
    "signatures": lambda n: [(b"webhook-signature", b"v1,a " * n)],
    "commas": lambda n: [(b"webhook-signature", b"v1," + b"," * n)],
    "spaces": lambda n: [(b"webhook-signature", b"v1," + b" " * n)],
    "id": lambda n: [(b"webhook-id", b"a" * n)],
    "digits": lambda n: [(b"webhook-timestamp", b"9" * n)],
    "fields": lambda n: [(b"x-twh-signature", b"t=1," * n)],
    "mapping": lambda n: {f"X-{one}": "" for one in range(n)},
}


def work(verifier, given_headers):
    """
    How many calls are made and lines are run: no clock says more, or the same twice.
    """
    count = 0

    def trace(frame, event, arg):
        nonlocal count
        count += 1
        frame.f_trace_opcodes = True
        return trace

    def profile(frame, event, arg):
        nonlocal count
        count += 1

    before = sys.gettrace()
    sys.settrace(trace)
    sys.setprofile(profile)
    try:
        outcome(lambda: verifier.verify(BODY, given_headers))
    finally:
        sys.setprofile(None)
        sys.settrace(before)
    return count


@pytest.mark.parametrize("what", GROWING)
@pytest.mark.parametrize("name", ["standard", "twh"])
def test_ten_times_the_input_is_at_most_ten_times_the_work(what, name):
    """Counted in instructions of Python and calls of C."""
    verifier = verifier_of(name)
    good = {
        "webhook-id": "a",
        "webhook-timestamp": str(NOW),
        "webhook-signature": "v1,a",
        "x-twh-id": "a",
        "x-twh-signature": f"t={NOW},v1=a",
    }

    def of_size(n):
        grown = GROWING[what](n)
        if isinstance(grown, dict):
            return {**good, **grown}
        taken = {key for key, _ in grown}
        return [
            (k.encode(), v.encode()) for k, v in good.items() if k.encode() not in taken
        ] + grown

    small, large = (work(verifier, of_size(n)) for n in (200, 2000))

    assert large <= 10 * small
