"""
Attacks 27 to 40: what stands in the header of signatures.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import hmac
from types import SimpleNamespace

import pytest

from tests.attacks.webhooks._hooks import (
    BODY,
    KEY,
    NOW,
    SECRET,
    STRIPE_TEXT,
    by_hand,
    code,
    foreign,
    holds,
    mac,
    stripe_code,
    stripe_hand,
)
from tests.support.webhooks import App, deliver
from twh_platform.webhooks import (
    MESSAGE,
    StandardSecret,
    Verifier,
    WebhookMiddleware,
    _candidates,
    sign,
)
from twh_platform.webhooks.ed25519 import PrivateKey

OTHER = StandardSecret.generate()
ORIGIN = "https://hooks.example.com"


def with_signature(text: str, stamp: object = None) -> dict[str, str]:
    """Headers with something else for signatures; ``{}`` is the right one, ``{s}`` without v1."""
    headers = by_hand(stamp=stamp)
    right = headers["webhook-signature"]
    headers["webhook-signature"] = text.replace("{}", right).replace("{s}", right[3:])
    return headers


def told(text: str, keys=SECRET) -> str:
    """What ours says to that."""
    return code(with_signature(text, NOW), keys=keys, now=NOW)


NO_TOKENS = ["v1", "v1,a,b", "v1=abc", "{s}", "a, b", " v1", "\tv1", "v1\tv1"]


@pytest.mark.parametrize("text", NO_TOKENS)
def test_27_brings_what_is_no_signature(text, standardwebhooks, twh_attack):
    """It is passed over; what is left decides."""
    attack = twh_attack(
        number=27, title="has what is no signature end in another error", form=repr(text)
    )
    own = standardwebhooks.WebhookVerificationError
    naive = standardwebhooks.Webhook(SECRET.reveal())
    attack.control(foreign(own, naive.verify, BODY, with_signature(text)))

    attack.ours(told(text) not in {"signature_mismatch", "no_supported_scheme"})


NO_BASE64 = ["v1,a", "v1,abcde", "v1,\u00e4\u00f6"]


@pytest.mark.parametrize("text", NO_BASE64)
def test_28_brings_what_is_no_base64(text, standardwebhooks, twh_attack):
    """A MAC is compared as text; nothing of it is decoded."""
    attack = twh_attack(
        number=28, title="has what is no base64 end in another error", form=ascii(text)
    )
    own = standardwebhooks.WebhookVerificationError
    naive = standardwebhooks.Webhook(SECRET.reveal())
    attack.control(foreign(own, naive.verify, BODY, with_signature(text)))

    attack.ours(told(text) != "signature_mismatch")


@pytest.mark.parametrize("junk", ["junk", "v1,a", "v9", "v1,\u00e4"], ids=ascii)
def test_29_puts_junk_before_a_signature(junk, standardwebhooks, twh_attack):
    """What we do not know does not hide what we know."""
    attack = twh_attack(
        number=29, title="has honest deliveries refused by junk before", form=ascii(junk)
    )
    naive = standardwebhooks.Webhook(SECRET.reveal())
    attack.control(not holds(naive.verify, BODY, with_signature(f"{junk} {{}}")))

    attack.ours(bool(told(f"{junk} {{}}")) + bool(told(f"{{}} {junk}")))


def test_29_puts_junk_before_a_signature_of_stripe(stripe, twh_attack):
    """The same, among fields."""
    attack = twh_attack(number=29, title="has honest deliveries of Stripe refused by junk before")
    check = stripe.WebhookSignature.verify_header
    header = stripe_hand().replace(",v1=", ",v1=\u00e4,v1=")
    own = stripe.SignatureVerificationError
    attack.control(foreign(own, check, BODY, header, STRIPE_TEXT, tolerance=300))

    header = stripe_hand(stamp=NOW).replace(",v1=", ",v1=\u00e4,v1=")
    attack.ours(stripe_code(header, now=NOW))


def loosened(text: str) -> str:
    """The same bytes to a lenient reader: the last two bits of the last letter are none."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    return f"{text[:-2]}{alphabet[alphabet.index(text[-2]) | 1]}="


LOOSE = {
    "marks between": "!".join,
    "loose last bits": loosened,
    "more behind": lambda text: f"{text}AAAA",
}


@pytest.mark.parametrize("way", LOOSE)
def test_30_spells_a_signature_in_another_way(way, standardwebhooks, twh_attack):
    """There is one text that is right, so that a signature can be remembered by it."""
    attack = twh_attack(number=30, title="spells a signature in another way", form=way)
    naive = standardwebhooks.Webhook(SECRET.reveal())
    text = LOOSE[way](by_hand()["webhook-signature"][3:])
    attack.control(holds(naive.verify, BODY, with_signature(f"v1,{text}")))

    text = LOOSE[way](by_hand(stamp=NOW)["webhook-signature"][3:])
    attack.ours(told(f"v1,{text}") != "signature_mismatch")


def test_31_writes_base64_of_another_alphabet(standardwebhooks, twh_attack):
    """Signatures are standard base64."""
    attack = twh_attack(number=31, title="has another alphabet end in another error")
    own = standardwebhooks.WebhookVerificationError
    naive = standardwebhooks.Webhook(SECRET.reveal())
    fell = 0
    for number in range(20):
        headers = by_hand(event=f"msg_{number}")
        text = headers["webhook-signature"]
        headers["webhook-signature"] = text.replace("+", "-").replace("/", "_")
        fell += foreign(own, naive.verify, BODY, headers)
        attack.ours(text != headers["webhook-signature"] and code(headers) == "")
    attack.control(fell)


@pytest.mark.parametrize("way", ["upper case", "spaces"])
def test_31_writes_a_field_in_another_way(way, twh_attack):
    """Hexadecimal digits are lower case, and no space stands in the header."""
    attack = twh_attack(number=31, title="writes fields and digits in another way", form=way)
    header = stripe_hand(stamp=NOW)
    stamp, _, signature = header.partition(",v1=")
    other = f"{stamp},v1={signature.upper()}" if way == "upper case" else header.replace(",", ", ")
    fields = dict(one.strip().split("=") for one in other.split(","))
    right = mac(b"%d" % NOW, BODY, key=STRIPE_TEXT.encode())
    attack.control(hmac.compare_digest(bytes.fromhex(fields["v1"]), right))

    attack.ours(stripe_code(other, now=NOW) == "")


def as_far_as_both_go(expected: bytes, given: bytes) -> bool:
    """How CVE-2024-21491 compared."""
    return all(one == other for one, other in zip(expected, given, strict=False))


@pytest.mark.parametrize("text", ["v1,", "v1, v1,"])
def test_32_brings_an_empty_signature(text, twh_attack):
    """What is compared has the length of a MAC."""
    attack = twh_attack(number=32, title="brings an empty signature", form=text)
    attack.control(as_far_as_both_go(mac(b"any"), b""))

    attack.ours(told(text) != "signature_mismatch")


@pytest.mark.parametrize("size", [1, 31, 33, 64])
def test_33_brings_a_signature_of_another_length(size, twh_attack):
    """No part of a signature is one, nor is one with something behind it."""
    attack = twh_attack(
        number=33, title="brings a signature of another length", form=f"{size} bytes"
    )
    right = base64.b64decode(by_hand(stamp=NOW)["webhook-signature"][3:])
    given = (right + right)[:size]
    attack.control(as_far_as_both_go(right, given))

    attack.ours(told(f"v1,{base64.b64encode(given).decode()}") != "signature_mismatch")


@pytest.mark.parametrize("name", ["V1", "v1a", "v2", "v10", "v1 "])
def test_34_names_another_scheme(name, twh_attack):
    """A signature counts under the whole name of its scheme, and no other."""
    attack = twh_attack(number=34, title="has a signature taken for another scheme's", form=name)
    headers = by_hand(stamp=NOW)
    naive = f"{name},{headers['webhook-signature'][3:]}".partition(",")[2]
    attack.control(hmac.compare_digest(naive, headers["webhook-signature"][3:]))

    attack.ours(told(f"{name},{{s}}") == "")
    both = [SECRET, PrivateKey.generate().public]
    attack.ours(told(f"{name},{{s}}", both) == "")


def test_34_has_asymmetric_signatures_left_out(standardwebhooks, twh_attack):
    """v1a is verified, with the type of key that it needs."""
    attack = twh_attack(number=34, title="has honest asymmetric deliveries refused")
    private = PrivateKey.generate()

    def headers(stamp: object) -> dict[str, str]:
        made = by_hand(stamp=stamp)
        head = f"{made['webhook-id']}.{made['webhook-timestamp']}.".encode()
        signature = base64.b64encode(private.sign(head + BODY)).decode()
        return {**made, "webhook-signature": f"v1a,{signature}"}

    naive = standardwebhooks.Webhook(SECRET.reveal())
    attack.control(not holds(naive.verify, BODY, headers(None)))

    attack.ours(code(headers(NOW), keys=private.public, now=NOW))
    assert code(headers(NOW), now=NOW) == "no_supported_scheme"


def test_35_makes_a_mac_with_the_public_key(standardwebhooks, twh_attack):
    """A key has one type, and a type has its schemes; a header chooses nothing."""
    attack = twh_attack(number=35, title="signs with the public key, as if it were a secret")
    public = PrivateKey.generate().public
    key = base64.b64decode(public.reveal()[5:])
    attack.control(holds(standardwebhooks.Webhook(key).verify, BODY, by_hand(key=key)))

    forged = by_hand(stamp=NOW, key=key)
    attack.ours(code(forged, keys=public, now=NOW) != "no_supported_scheme")
    attack.ours(code(forged, keys=[SECRET, public], now=NOW) != "signature_mismatch")


@pytest.fixture
def compared(monkeypatch):
    """How often something was compared, by the standard library and by ours."""
    counts = {"theirs": 0, "ours": 0}
    true = hmac.compare_digest

    def counting(whose):
        def compare(*pair):
            counts[whose] += 1
            return true(*pair)

        return compare

    monkeypatch.setattr(hmac, "compare_digest", counting("theirs"))
    monkeypatch.setattr(_candidates, "compare_digest", counting("ours"))
    return counts


@pytest.mark.parametrize("count", [17, 1_000, 100_000])
def test_36_brings_many_signatures(count, compared, standardwebhooks, twh_attack):
    """Sixteen are looked at; what is longer is refused before anything is hashed."""
    attack = twh_attack(
        number=36, title="has more signatures compared than there can be", form=str(count)
    )
    naive = standardwebhooks.Webhook(SECRET.reveal())
    wrong = "v1," + base64.b64encode(bytes(32)).decode()
    many = " ".join([wrong] * count)
    assert not holds(naive.verify, BODY, with_signature(many))
    attack.control(compared["theirs"] - 16)

    assert told(many) == "malformed_header"
    attack.ours(compared["ours"])


@pytest.mark.parametrize("name", ["t", "v1"])
def test_37_says_the_time_twice(name, stripe, twh_attack):
    """Two times are no time: which one was signed is not guessed."""
    attack = twh_attack(number=37, title="says the time twice", form=f"before {name}=")
    check = stripe.WebhookSignature.verify_header
    double = f"t={NOW}"

    def header(stamp: object) -> str:
        made = stripe_hand(stamp=stamp)
        return f"{made},{double}" if name == "v1" else made.replace(",v1=", f",{double},v1=")

    attack.control(holds(check, BODY, header(None), STRIPE_TEXT, tolerance=300))

    attack.ours(stripe_code(header(NOW), now=NOW) != "malformed_header")


def test_38_signs_with_the_scheme_for_tests(twh_attack):
    """A scheme that the profile does not have verifies nothing."""
    attack = twh_attack(number=38, title="is let in by a scheme that is for tests")
    header = stripe_hand(stamp=NOW).replace("v1=", "v0=")
    fields = dict(one.split("=") for one in header.split(","))
    right = mac(b"%d" % NOW, BODY, key=STRIPE_TEXT.encode()).hex()
    attack.control([name for name, one in fields.items() if name.startswith("v") and one == right])

    attack.ours(stripe_code(header, now=NOW) != "no_supported_scheme")


def test_39_learns_which_signature_was_right(compared, standardwebhooks, twh_attack):
    """All are compared, also after the one that is right."""
    attack = twh_attack(number=39, title="learns from the work which signature was right")
    wrong = "v1," + base64.b64encode(bytes(32)).decode()
    orders = [f"{{}} {wrong} {wrong}", f"{wrong} {wrong} {{}}", f"{wrong} {wrong} {wrong}"]
    naive = standardwebhooks.Webhook(SECRET.reveal())
    theirs = [spent(compared, "theirs", naive.verify, with_signature(one)) for one in orders]
    attack.control(len(set(theirs)) - 1)

    clock = {"clock": lambda: NOW}
    verify = Verifier([OTHER, SECRET], **clock).verify
    ours = [spent(compared, "ours", verify, with_signature(one, NOW)) for one in orders]
    attack.ours(len(set(ours)) - 1)
    assert [told(one) for one in orders] == ["", "", "signature_mismatch"]


def spent(compared, whose, verify, headers) -> int:
    """How often one verification compares."""
    before = compared[whose]
    holds(verify, BODY, headers)
    return compared[whose] - before


COVERED = ("@method", "@target-uri", "content-digest", "webhook-id")
URL = "https://receiver.example/hooks/7"
SIGNED = {
    "covers nothing": (),
    "does not cover the digest": ("@method", "@target-uri", "webhook-id"),
    "changes the body": COVERED,
    "changes the body and its digest": ("@method", "@target-uri", "webhook-id"),
}


class Peer:
    """`http-message-signatures` with our key."""

    def __init__(self, module, algorithm="HMAC_SHA256"):
        from http_message_signatures import algorithms

        self.module = module
        keys = {SECRET.fingerprint: KEY}
        options = {
            "signature_algorithm": getattr(algorithms, algorithm),
            "key_resolver": module.MappingKeyResolver(public_keys=keys, private_keys=keys),
        }
        self.signer = module.HTTPMessageSigner(**options)
        self.verifier = module.HTTPMessageVerifier(**options)

    def signed(self, covered=COVERED) -> dict[str, str]:
        """Headers that are signed so; a digest is among them."""
        headers = {"webhook-id": "msg_1", "Content-Digest": self.digest(BODY)}
        message = SimpleNamespace(method="POST", url=URL, headers=headers)
        self.signer.sign(
            message,
            key_id=SECRET.fingerprint,
            created=dt.datetime.now(dt.UTC),
            label="twh",
            tag="twh-webhook",
            covered_component_ids=covered,
            use_existing_digest=True,
        )
        return {name.lower(): value for name, value in message.headers.items()}

    def digest(self, body: bytes) -> str:
        """Of a body."""
        return f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"

    def verify(self, headers) -> list[object]:
        """With what its user gives who gives nothing."""
        message = SimpleNamespace(method="POST", url=URL, headers=headers)
        return self.verifier.verify(message, expect_tag="twh-webhook")


def message_code(headers, body=BODY) -> str:
    """What ours says of a message."""
    options = {"method": "POST", "url": URL}
    verifier = Verifier(SECRET, profile=MESSAGE)
    try:
        verifier.verify(body, headers, **options)
    except Exception as error:  # noqa: BLE001 -- all have a code, or this fails
        return error.code
    return ""


@pytest.mark.parametrize("way", SIGNED)
def test_40_changes_what_a_message_signature_leaves_out(way, message_signatures, twh_attack):
    """What has to be covered is fixed, and the digest is made anew."""
    attack = twh_attack(number=40, title="changes what a message signature leaves out", form=way)
    peer, other = Peer(message_signatures), BODY + b" "
    headers = peer.signed(SIGNED[way])
    if "its digest" in way or way == "covers nothing":
        headers["content-digest"] = peer.digest(other)
    attack.control(peer.verify(headers))

    attack.ours(message_code(headers, other) == "")
    assert message_code(peer.signed()) == ""


def test_40_brings_many_labels(message_signatures, twh_attack):
    """There is one label, and its headers are bounded."""
    attack = twh_attack(number=40, title="has thousands of message signatures read")
    peer = Peer(message_signatures)
    headers = peer.signed()
    for number in range(5_000):
        headers["signature-input"] += f", x{number}=()"
        headers["signature"] += f", x{number}=:AA==:"
    attack.control(5_000 * len(peer.verify(headers)))

    attack.ours(message_code(headers) != "malformed_header")


@pytest.mark.parametrize("way", ["names no key", "names another", "names another algorithm"])
def test_40_names_another_key_or_algorithm(way, message_signatures, twh_attack):
    """The key says which algorithm; the library refuses these, too."""
    attack = twh_attack(number=40, title="names another key or algorithm", kind="fact", form=way)
    peer = Peer(message_signatures)
    headers = peer.signed()
    key = f';keyid="{SECRET.fingerprint}"'
    given, put = {
        "names no key": (key, ""),
        "names another": (key, ';keyid="other"'),
        "names another algorithm": ('alg="hmac-sha256"', 'alg="ed25519"'),
    }[way]
    headers["signature-input"] = headers["signature-input"].replace(given, put)

    attack.ours(holds(peer.verify, headers) + (message_code(headers) == ""))


@pytest.mark.parametrize("target", [".example.net/hooks", ":8443/hooks"])
async def test_40_brings_a_target_that_ends_the_host(target, twh_attack):
    """One private key signs for all receivers, and what went to another is brought to us."""
    attack = twh_attack(
        number=40, title="has what was signed for another host taken for ours", form=target
    )
    private = PrivateKey.generate()
    signed = sign(BODY, private, profile=MESSAGE, method="POST", url=ORIGIN + target)
    naive = Verifier(private.public, profile=MESSAGE)
    url = ORIGIN + target  # as who puts the two together believes
    attack.control(holds(naive.verify, BODY, signed.headers, method="POST", url=url))

    app = App()
    guarded = WebhookMiddleware(app, private.public, profile=MESSAGE, origin=ORIGIN)
    headers = list(signed.headers.items())
    answer = await deliver(guarded, BODY, headers, path=target, raw_path=target.encode())
    attack.ours(len(app.bodies) + (answer.status != 401))
