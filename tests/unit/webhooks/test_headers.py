"""
Strict headers: one of each, in the one form it has, however they are handed over.
"""

from __future__ import annotations

import time
from base64 import b64encode
from collections import ChainMap
from types import MappingProxyType

import pytest

from twh_platform.errors import WebhookError, WebhookUsageError
from twh_platform.webhooks import (
    GITHUB,
    STANDARD,
    STRIPE,
    SVIX,
    TWH,
    RawSecret,
    Signer,
    StandardSecret,
    Verifier,
)

NOW = 1_700_000_000
BODY = b'{"a":1}'
# Always the same: what is made of it names the tests.
SECRET = StandardSecret("whsec_" + b64encode(bytes(range(32))).decode())
RAW = RawSecret("whsec_of_stripe")
GOOD = dict(Signer(SECRET, clock=lambda: NOW).sign(BODY, event_id="msg_1").headers)
SIGNATURE = GOOD["webhook-signature"]


def outcome(headers, keys=SECRET, profile=STANDARD, now=NOW):
    """
    The code of the error; None if it is verified.  A stream says the same.
    """
    verifier = Verifier(keys, profile=profile, clock=lambda: now)
    codes = []
    for verify in (verifier.verify, lambda body, headers: streamed(verifier, body, headers)):
        try:
            verify(BODY, headers)
            codes.append(None)
        except WebhookError as error:
            codes.append(error.code)
    whole, in_parts = codes
    assert whole == in_parts
    return whole


def streamed(verifier, body, headers):
    """
    Verify in two parts and nothing between.
    """
    verification = verifier.begin(headers)
    verification.update(body[:3])
    verification.update(b"")
    verification.update(body[3:])
    return verification.finish()


def pairs(headers):
    """
    As ASGI has them.
    """
    return [(name.encode(), value.encode()) for name, value in headers.items()]


@pytest.mark.parametrize(
    "give",
    [
        dict,
        MappingProxyType,
        ChainMap,
        pairs,
        lambda headers: tuple(pairs(headers)),
        lambda headers: list(headers.items()),
        lambda headers: {name.title(): value for name, value in headers.items()},
        lambda headers: [(name.upper(), value) for name, value in pairs(headers)],
        lambda headers: [*pairs(headers), (b"cookie", b"a"), (b"cookie", b"b")],
        lambda headers: {**headers, "Host": "x", "accept": "\u20ac"},
        lambda headers: [*pairs(headers), (b"\xff\xfe", b"\xff")],
        lambda headers: [(name, bytearray(value)) for name, value in pairs(headers)],
        lambda headers: {name: value.encode() for name, value in headers.items()},
    ],
)
def test_headers_are_taken_as_they_come(give):
    """A mapping in any case, or pairs; others beside them do not matter."""
    assert outcome(give(GOOD)) is None


def test_pairs_may_be_given_once():
    """A generator is read a single time."""
    verifier = Verifier(SECRET, clock=lambda: NOW)

    assert verifier.verify(BODY, (pair for pair in pairs(GOOD))).id == "msg_1"


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("give", [dict, pairs])
def test_one_that_is_missing_is_named(name, give):
    """Left out or empty: a timestamp that is stripped does not switch the check off."""
    without = {key: value for key, value in GOOD.items() if key != name}

    assert outcome(give(without)) == "missing_header"
    assert outcome(give({**GOOD, name: ""})) == "missing_header"


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("case", [str.lower, str.title, str.upper])
@pytest.mark.parametrize("last", [True, False])
def test_one_that_came_twice_is_refused(name, case, last):
    """In the same case or in another, with the same value or another, wherever it stands."""
    for value in (GOOD[name], "other"):
        again = [(case(name).encode(), value.encode())]
        together = pairs(GOOD) + again if last else again + pairs(GOOD)
        assert outcome(together) == "duplicate_header"

    if case is not str.lower:
        assert outcome({**GOOD, case(name): "other"}) == "duplicate_header"


def test_a_letter_whose_lower_case_is_ascii_is_another_letter():
    """The sign of the unit kelvin is no k, though Python's lower() says so."""
    other = "webhoo\u212a-id"

    assert other.lower() == "webhook-id"
    assert outcome({**GOOD, other: "x"}) is None
    assert outcome({other if name == "webhook-id" else name: GOOD[name] for name in GOOD}) == (
        "missing_header"
    )


@pytest.mark.parametrize(
    "headers",
    [
        None,
        7,
        "webhook-id",
        b"webhook-id",
        [1],
        [None],
        ["a"],
        [("a", "b", "c")],
        [(1, 2)],
        {1: "a"},
        {"webhook-id": None},
        {"webhook-id": ["a"]},
        {None: "a"},
        object(),
        [("webhook-id", None)],
        [(b"webhook-id", 7)],
        [(["webhook-id"], "a")],
        {"webhook-id"},
        {**GOOD, "webhook-timestamp": NOW},
        [(b"webhook-id", memoryview(b"a"))],
    ],
)
def test_what_are_no_headers_is_said_so(headers):
    """Never an AttributeError."""
    with pytest.raises(WebhookUsageError) as caught:
        Verifier(SECRET).verify(BODY, headers)

    assert caught.value.code == "headers_invalid"


@pytest.mark.parametrize("event", ["msg.1", "a b", "a\r\nb", "a\0", "\u00e4", "a" * 257, "a, a"])
def test_an_id_has_one_charset(event):
    """No full stop above all; and no length that is one megabyte."""
    assert outcome({**GOOD, "webhook-id": event}) == "malformed_header"
    assert outcome({**GOOD, "webhook-id": "a" * 1_000_000}) == "malformed_header"


def test_an_id_cannot_take_over_what_follows_it():
    """Signed as (msg_1, now, "now.body"), sent as (msg_1.now, now, "body")."""
    inner = f"{NOW}.".encode() + BODY
    shifted = dict(Signer(SECRET, clock=lambda: NOW).sign(inner, event_id="msg_1").headers)

    assert outcome({**shifted, "webhook-id": f"msg_1.{NOW}"}) == "malformed_header"


@pytest.mark.parametrize("text", ["\u00e4", "\u20ac", "\ud800"])
def test_letters_beyond_ascii_are_wrong_everywhere(text):
    """Each header has its own code for what it cannot be; a surrogate is no crash."""
    assert outcome({**GOOD, "webhook-id": text}) == "malformed_header"
    assert outcome({**GOOD, "webhook-timestamp": text}) == "timestamp_malformed"
    assert outcome({**GOOD, "webhook-signature": text}) == "no_supported_scheme"
    assert outcome({**GOOD, "webhook-signature": f"v1,{text}"}) == "signature_mismatch"
    assert outcome({**GOOD, "webhook-signature": f"v1,{text} {SIGNATURE}"}) is None


@pytest.mark.parametrize(
    "stamp",
    [
        f"{NOW}.0",
        f"{NOW}.9",
        "1.7e9",
        f" {NOW}",
        f"{NOW}\n",
        f"{NOW} ",
        "1_700_000_000",
        f"+{NOW}",
        f"000{NOW}",
        f"{NOW}, {NOW}",
        "0",
        "-1",
        "nan",
        "inf",
        "-inf",
        "1e400",
        "0x6553f100",
        "9" * 13,
        f"{NOW}000",
        "9" * 5000,
        "²",
    ],
)
def test_a_timestamp_has_one_spelling(stamp):
    """Digits of ASCII, at most twelve, the first of them no zero."""
    expected = "malformed_header" if len(stamp) > 8192 else "timestamp_malformed"

    assert outcome({**GOOD, "webhook-timestamp": stamp}) == expected


def test_a_megabyte_of_digits_is_not_read():
    """The length comes first."""
    assert outcome({**GOOD, "webhook-timestamp": "9" * 1_000_000}) == "malformed_header"


def test_digits_of_other_scripts_are_none():
    """Though Python's int() reads them."""
    arabic = "".join(chr(0x660 + int(digit)) for digit in str(NOW))

    assert int(arabic) == NOW
    assert outcome({**GOOD, "webhook-timestamp": arabic}) == "timestamp_malformed"
    assert outcome(pairs({**GOOD, "webhook-timestamp": arabic})) == "timestamp_malformed"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("v1", "no_supported_scheme"),
        ("v1=abc", "no_supported_scheme"),
        ("\tv1,a", "no_supported_scheme"),
        ("V1," + SIGNATURE[3:], "no_supported_scheme"),
        ("v2," + SIGNATURE[3:], "no_supported_scheme"),
        ("v1a," + SIGNATURE[3:], "no_supported_scheme"),
        (",", "no_supported_scheme"),
        (" ", "no_supported_scheme"),
        ("v1,", "signature_mismatch"),
        ("v1, ", "signature_mismatch"),
        ("v1,a", "signature_mismatch"),
        ("v1,a,b", "signature_mismatch"),
        ("v1," + "\u00e4" * 44, "signature_mismatch"),
        (SIGNATURE[:-1], "signature_mismatch"),
        (SIGNATURE + "=", "signature_mismatch"),
        (SIGNATURE[:3] + SIGNATURE[4:], "signature_mismatch"),
        (SIGNATURE + "\n", "signature_mismatch"),
        ("v1,!" + "!".join(SIGNATURE[3:]), "signature_mismatch"),
        ("v1," + SIGNATURE[3:-2] + chr(ord(SIGNATURE[-2]) + 1) + "=", "signature_mismatch"),
        (SIGNATURE.replace(",", ",,"), "signature_mismatch"),
    ],
)
def test_a_signature_has_one_spelling(text, code):
    """What is none is passed over, and what is another is no match."""
    assert outcome({**GOOD, "webhook-signature": text}) == code


@pytest.mark.parametrize("junk", ["v1", "v1,a", "v1a,\u00fc", ",", "", "v2,x", "v1,", "\t"])
def test_junk_hides_no_signature(junk):
    """Before it or after it."""
    assert outcome({**GOOD, "webhook-signature": f"{junk} {SIGNATURE}"}) is None
    assert outcome({**GOOD, "webhook-signature": f"{SIGNATURE} {junk}"}) is None


def test_sixteen_signatures_are_the_most():
    """The right one may be the last of them."""

    def among(count):
        return {**GOOD, "webhook-signature": "v1,x " * (count - 1) + SIGNATURE}

    assert outcome(among(16)) is None
    assert outcome(among(17)) == "malformed_header"
    assert outcome(among(1_000)) == "malformed_header"
    assert outcome(among(100_000)) == "malformed_header"


def test_a_short_header_of_many_signatures_is_refused_too():
    """One as long as a right one, and nothing but spaces behind its name."""
    assert outcome({**GOOD, "webhook-signature": "v1," + " x" * 22}) == "malformed_header"


def test_headers_of_eight_kilobytes_are_the_longest():
    """All of them."""
    long = SIGNATURE + " v1," + "x" * (8_192 - len(SIGNATURE) - 4)

    assert outcome({**GOOD, "webhook-signature": long}) is None
    assert outcome({**GOOD, "webhook-signature": long + "x"}) == "malformed_header"
    assert outcome(pairs({**GOOD, "webhook-signature": long + "x"})) == "malformed_header"


def test_headers_of_two_sets_are_not_mixed():
    """Each profile reads its own, whole."""
    svix = {name.replace("webhook-", "svix-"): value for name, value in GOOD.items()}
    mixed = {**GOOD, "svix-id": GOOD["webhook-id"]}
    del mixed["webhook-id"]

    assert outcome(svix, profile=SVIX) is None
    assert outcome({**svix, **GOOD}, profile=SVIX) is None
    assert outcome(svix) == outcome(mixed) == outcome(mixed, profile=SVIX) == "missing_header"


STRIPE_GOOD = Signer(RAW, profile=STRIPE, clock=lambda: NOW).sign(BODY).headers["stripe-signature"]
T, V1 = STRIPE_GOOD.split(",")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (f"{T},{V1}", None),
        (f"{V1},{T}", None),
        (f"{T},v1=x,{V1},v0=y", None),
        (f"junk,{T},=,,{V1}", None),
        (f"{T},v0=x,{V1}", None),
        (V1, "malformed_header"),
        (f"{T},{T},{V1}", "malformed_header"),
        (f"{T},t=1,{V1}", "malformed_header"),
        (f"t,{T},{V1}", None),
        (f"t=,{V1}", "timestamp_malformed"),
        (f"t= {NOW},{V1}", "timestamp_malformed"),
        (f"t=1_700_000_000,{V1}", "timestamp_malformed"),
        (f"t={NOW}000,{V1}", "timestamp_malformed"),
        (f"t={'9' * 4000},{V1}", "timestamp_malformed"),
        (f"t=Infinity,{V1}", "timestamp_malformed"),
        (T, "no_supported_scheme"),
        (f"{T},v0={V1[3:]}", "no_supported_scheme"),
        (f"{T}, {V1}", "no_supported_scheme"),
        (f"{T},v1", "no_supported_scheme"),
        (f"{T},v1=", "signature_mismatch"),
        (f"{T},{V1.upper()}", "no_supported_scheme"),
        (f"{T},v1={V1[3:].upper()}", "signature_mismatch"),
        (f"{T},{V1[:-1]}", "signature_mismatch"),
        (f"{T},{V1}0", "signature_mismatch"),
        (f"{T},v1=\u00e4,{V1}", None),
        (f"{T}" + ",v1=x" * 17, "malformed_header"),
        (f"{T}" + ",v1=x" * 15 + f",{V1}", None),
    ],
)
def test_fields_are_read_strictly(text, code):
    """One timestamp, and what is no signature is passed over."""
    assert outcome({"stripe-signature": text}, RAW, STRIPE) == code


GITHUB_GOOD = Signer(RAW, profile=GITHUB).sign(BODY).headers["x-hub-signature-256"]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (GITHUB_GOOD, None),
        (GITHUB_GOOD[7:], "no_supported_scheme"),
        (GITHUB_GOOD.replace("sha256", "sha1"), "no_supported_scheme"),
        ("sha256=", "signature_mismatch"),
        (GITHUB_GOOD.replace("=", "=="), "signature_mismatch"),
        (GITHUB_GOOD + "," * 16, "malformed_header"),
    ],
)
def test_a_prefix_is_read_strictly(text, code):
    """The name of the hash, and digits."""
    assert outcome({"x-hub-signature-256": text}, RAW, GITHUB) == code
    assert outcome([(b"X-Hub-Signature-256", text.encode())], RAW, GITHUB) == code


def test_the_id_of_fields_stands_in_a_header_of_its_own():
    """And is signed."""
    headers = dict(Signer(SECRET, profile=TWH, clock=lambda: NOW).sign(BODY, event_id="a").headers)

    assert outcome(headers, profile=TWH) is None
    assert outcome({**headers, "x-twh-id": "b"}, profile=TWH) == "signature_mismatch"


def test_a_long_list_of_headers_costs_each_of_them_once():
    """No header is looked at again for another one's sake."""

    def reads(count):
        many = [Counted(b"x-%d" % number) for number in range(count)]
        outcome_of = Verifier(SECRET, clock=time.time)
        with pytest.raises(WebhookError):
            outcome_of.verify(BODY, [(name, b"") for name in many] + [(b"Host", b"x")])
        return sum(one.lowered for one in many)

    class Counted(bytes):
        lowered = 0

        def lower(self):
            self.lowered += 1
            return super().lower()

    assert reads(1000) == 10 * reads(100) == 1000
