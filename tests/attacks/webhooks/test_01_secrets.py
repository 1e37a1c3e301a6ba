"""
Attacks 1 to 15: secrets that are none, and secrets of another kind.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import pickle

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from tests.attacks.webhooks._hooks import (
    BODY,
    ID,
    KEY,
    NOW,
    SECRET,
    STRIPE_TEXT,
    TEXT,
    by_hand,
    code,
    foreign,
    holds,
    mac,
    stripe_code,
    stripe_hand,
)
from twh_platform.errors import WebhookError
from twh_platform.webhooks import (
    STRIPE,
    Key,
    Keyring,
    RawSecret,
    StandardSecret,
    Verifier,
)
from twh_platform.webhooks.ed25519 import PrivateKey, PublicKey


def text_of(key: bytes) -> str:
    """As Standard Webhooks writes it."""
    return "whsec_" + base64.b64encode(key).decode()


def read(given: object) -> list[object]:
    """What our types make of it."""
    kinds = (StandardSecret, RawSecret, PublicKey, PrivateKey)
    return [one for one in kinds if not foreign(WebhookError, one, given) and holds(one, given)]


@pytest.mark.parametrize("unset", ["", "whsec_", b"", None, "!!!!"], ids=repr)
def test_01_forges_with_a_secret_that_is_not_set(unset, twh_attack):
    """What is empty, or decodes to nothing, is no secret."""
    attack = twh_attack(number=1, title="forges where a secret was never set", form=repr(unset))
    naive = base64.b64decode(str(unset or "").removeprefix("whsec_"))
    forged = hmac.digest(b"", BODY, "sha256")
    attack.control(hmac.compare_digest(hmac.digest(naive, BODY, "sha256"), forged))

    attack.ours(read(unset))


@pytest.mark.parametrize("size", [1, 3, 23])
def test_02_guesses_a_secret_that_is_short(size, standardwebhooks, twh_attack):
    """Standard Webhooks has 24 bytes at least, and so has its type."""
    attack = twh_attack(number=2, title="guesses a secret that is short", form=f"{size} bytes")
    guessed = bytes(size)
    naive = standardwebhooks.Webhook(text_of(guessed))
    attack.control(holds(naive.verify, BODY, by_hand(key=guessed)))

    attack.ours(holds(StandardSecret, text_of(guessed)))


@pytest.mark.parametrize("size", [65, 75])
def test_03_has_a_long_secret_stand_for_a_shorter_one(size, svix, twh_attack):
    """HMAC hashes what is above 64 bytes: two texts would be one secret."""
    attack = twh_attack(
        number=3, title="knows a second secret for one that is too long", form=f"{size} bytes"
    )
    long = bytes(size)
    forged = by_hand(key=hashlib.sha256(long).digest())
    attack.control(holds(svix.Webhook(text_of(long)).verify, BODY, forged))

    attack.ours(holds(StandardSecret, text_of(long)) + holds(RawSecret, long))


SPELLINGS = {
    "junk before it": f"whsec_!!{TEXT[6:]}",
    "white space behind it": f"{TEXT}\n ",
    "without padding": TEXT.rstrip("="),
    "more padding": f"{TEXT}==",
    "loose last bits": TEXT.replace("Hh8=", "Hh9="),
    "a full stop in it": f"{TEXT[:20]}.{TEXT[20:]}",
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_04_spells_a_secret_in_another_way(spelling, standardwebhooks, twh_attack):
    """Base64 is read strictly: a text that was damaged is not taken for a secret."""
    attack = twh_attack(number=4, title="spells a secret in another way", form=spelling)
    naive = standardwebhooks.Webhook(SPELLINGS[spelling])
    attack.control(holds(naive.verify, BODY, by_hand()))

    attack.ours(holds(StandardSecret, SPELLINGS[spelling]))


def test_05_has_a_part_of_a_secret_dropped(standardwebhooks, twh_attack):
    """The other alphabet of base64 is refused, and nothing of it is passed over."""
    attack = twh_attack(number=5, title="has a part of a secret dropped without a word")
    text = "whsec_" + base64.urlsafe_b64encode(b"\xfb\xff" * 12).decode()
    kept = standardwebhooks.Webhook(text)._whsecret
    attack.control(24 - len(kept))

    attack.ours(holds(StandardSecret, text))


@pytest.fixture(scope="module")
def pair():
    """A private key; everybody knows the public one."""
    return PrivateKey.generate()


@pytest.mark.parametrize("half", ["public", "private"])
def test_06_forges_with_a_public_key(half, pair, standardwebhooks, twh_attack):
    """The type of a secret says what it is, and a profile which types it takes."""
    attack = twh_attack(number=6, title="forges with a key of the other kind", form=half)
    text = (pair.public if half == "public" else pair).reveal()
    key = base64.b64decode(text + "==")  # as it stands in the naive one's memory
    attack.control(holds(standardwebhooks.Webhook(text).verify, BODY, by_hand(key=key)))

    forged = by_hand(key=key)
    attack.ours(holds(StandardSecret, text))
    attack.ours([one for one in (pair.public, RawSecret(key[:64])) if not refused(forged, one)])


def refused(headers, key) -> bool:
    """Whether ours refuses a delivery, or the key itself for this profile."""
    return code(headers, BODY, key) in {"no_supported_scheme", "secret_type_invalid"}


@pytest.mark.parametrize("half", ["public", "private"])
def test_06_has_a_public_key_given_as_a_raw_secret(half, pair, stripe, twh_attack):
    """The prefix of a key pair is in no shared secret, as text and as bytes."""
    attack = twh_attack(
        number=6, title="forges where a public key was given as raw secret", form=half
    )
    text = (pair.public if half == "public" else pair).reveal()
    forged = stripe_hand(secret=text)
    attack.control(holds(stripe.WebhookSignature.verify_header, BODY.decode(), forged, text))

    for given in (text, text.encode(), text[:64]):
        attack.ours(holds(stripe_code, forged, secret=given))
    assert stripe_code(stripe_hand()) == ""  # whsec_ is Stripe's own


def test_07_has_the_text_of_a_secret_used_as_key(standardwebhooks, twh_attack):
    """Bytes that look like a text are refused; only a raw secret is literal."""
    attack = twh_attack(number=7, title="has honest deliveries refused by a secret in bytes")
    naive = standardwebhooks.Webhook(TEXT.encode())
    attack.control(not holds(naive.verify, BODY, by_hand()))

    attack.ours(holds(StandardSecret, TEXT.encode()))
    assert code(by_hand(), BODY, RawSecret(TEXT)) == "secret_type_invalid"


@pytest.mark.parametrize("text", [TEXT.upper(), "WHSEC_A", f"whsec_{TEXT}", "whsec_A"])
def test_08_brings_a_prefix_that_is_another(text, standardwebhooks, twh_attack):
    """One prefix, once; all else is one error of ours."""
    attack = twh_attack(
        number=8,
        title="has a wrong prefix pass, or end in an error of another kind",
        form=text[:14],
    )
    own = (standardwebhooks.EmptyWebhookSecretError, standardwebhooks.WebhookVerificationError)
    naive = standardwebhooks.Webhook
    attack.control(foreign(own, naive, text) + holds(naive, text))

    attack.ours(foreign(WebhookError, StandardSecret, text) + holds(StandardSecret, text))


@pytest.mark.parametrize(
    "given",
    [7, bytearray(KEY), memoryview(KEY), "whsec_\u00e4\u00f6\u00fc", ["x"], object()],
    ids=ascii,
)
def test_09_brings_what_is_no_secret_at_all(given, standardwebhooks, twh_attack):
    """Every type refuses it with one error."""
    attack = twh_attack(
        number=9, title="brings what is no secret at all", form=type(given).__name__
    )
    own = (standardwebhooks.EmptyWebhookSecretError, standardwebhooks.WebhookVerificationError)
    attack.control(foreign(own, standardwebhooks.Webhook, given))

    attack.ours(read(given))
    assert not any(foreign(WebhookError, one, given) for one in (StandardSecret, RawSecret))


def test_10_reads_a_secret_out_of_a_report(standardwebhooks, twh_attack):
    """Neither a `repr`, an error reporter nor a pickle has it."""
    attack = twh_attack(number=10, title="reads a secret out of what is shown of a verifier")
    attack.control(str(vars(standardwebhooks.Webhook(TEXT))).count(repr(KEY)))

    raw = RawSecret(KEY)
    shown = [repr(one) + f"{one!s}{one}" for one in (SECRET, raw, Verifier(SECRET), Keyring())]
    shown += [repr({name: getattr(one, name) for name in slots(one)}) for one in (SECRET, raw)]
    pickled = [one for one in (SECRET, raw, SECRET._hidden) if holds(pickle.dumps, one)]
    secrets = (repr(KEY), KEY.hex(), TEXT[6:])
    attack.ours([*pickled, *(one for one in secrets if one in "".join(shown))])


def slots(value) -> set[str]:
    """What a reporter goes through."""
    return {name for one in type(value).__mro__ for name in getattr(one, "__slots__", ())}


def test_11_has_one_text_read_as_the_key_of_another(stripe, twh_attack):
    """The type that is chosen says how a text is read, and never its prefix."""
    attack = twh_attack(number=11, title="has honest deliveries refused for the prefix of a secret")
    text = text_of(bytes(24))
    header = stripe.WebhookSignature.generate_signature_header(BODY.decode(), text)
    guessed = base64.b64decode(text.removeprefix("whsec_"))
    stamp, signature = (one.partition("=")[2] for one in header.split(","))
    attack.control(mac(stamp.encode(), BODY, key=guessed).hex() != signature)

    attack.ours(stripe_code(header, secret=text))
    headers = {"stripe-signature": header}
    assert code(headers, BODY, StandardSecret(text), profile=STRIPE) == "secret_type_invalid"


@pytest.mark.parametrize(
    "given", [b"whsec_bytes", ["whsec_list"], "\u00a0", "whsec_text\n"], ids=ascii
)
def test_12_brings_what_is_no_secret_of_stripe(given, stripe, twh_attack):
    """A raw secret is bytes, or ASCII without white space at its ends."""
    attack = twh_attack(number=12, title="brings what is no secret of Stripe's", form=ascii(given))
    check = stripe.WebhookSignature.verify_header
    header = stripe_hand(secret=given if isinstance(given, str) else STRIPE_TEXT)
    fell = foreign(stripe.SignatureVerificationError, check, BODY, header, given)
    attack.control(fell or holds(check, BODY, header, given))

    # Bytes are meant, here: that is what a raw secret is.
    attack.ours(foreign(WebhookError, RawSecret, given))
    attack.ours(holds(RawSecret, given) and not isinstance(given, bytes))


def test_13_registers_one_secret_twice(standardwebhooks, twh_attack):
    """Fingerprints are of what HMAC makes of a secret, so the second one is known."""
    attack = twh_attack(number=13, title="registers one secret under two texts")
    longer = text_of(KEY + b"\0")
    naive = standardwebhooks.Webhook(longer)
    attack.control(longer != TEXT and holds(naive.verify, BODY, by_hand()))

    same = StandardSecret(longer)
    attack.ours(same.fingerprint != SECRET.fingerprint)
    with pytest.raises(WebhookError) as refused:
        Verifier(Keyring([Key(secret=SECRET, id="old"), Key(secret=same, id="new")]))
    assert refused.value.code == "key_duplicate"


_P = 2**255 - 19
ORDER_8 = "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"
SMALL = {
    "order 1": (1).to_bytes(32, "little"),
    "order 2": (_P - 1).to_bytes(32, "little"),
    "order 4": bytes(32),
    "order 4, the other": (1 << 255).to_bytes(32, "little"),
    "order 8": bytes.fromhex(ORDER_8),
    "order 1, spelled anew": (_P + 1).to_bytes(32, "little"),
    "order 4, spelled anew": _P.to_bytes(32, "little"),
}


@pytest.mark.parametrize("point", SMALL)
def test_14_registers_a_key_that_all_signatures_fit(point, twh_attack):
    """Points of small order, and points that are spelled in another way, are no keys."""
    attack = twh_attack(
        number=14, title="registers a public key with which anybody signs", form=point
    )
    naive = Ed25519PublicKey.from_public_bytes(SMALL[point])
    attack.control(sum(forged(naive, b"%d" % number) for number in range(64)))

    attack.ours(holds(PublicKey, "whpk_" + base64.b64encode(SMALL[point]).decode()))


def forged(key, message) -> bool:
    """Whether the signature (R, 0) fits, R the neutral point: no private key is needed."""
    try:
        key.verify(SMALL["order 1"] + bytes(32), message)
    except InvalidSignature:
        return False
    return True


def test_15_changes_a_signature_that_fits(pair, twh_attack):
    """S + L is the same number to the curve, and no signature (RFC 8032, section 5.1.7)."""
    attack = twh_attack(number=15, title="makes another signature of one that fits", kind="fact")
    order = 2**252 + 27742317777372353535851937790883648493
    private = Ed25519PrivateKey.from_private_bytes(base64.b64decode(pair.reveal()[5:])[:32])
    message = f"{ID}.{NOW}.".encode() + BODY
    signature = private.sign(message)
    number = int.from_bytes(signature[32:], "little") + order
    headers = by_hand(stamp=NOW)

    def told(signed: bytes) -> str:
        headers["webhook-signature"] = "v1a," + base64.b64encode(signed).decode()
        return code(headers, BODY, pair.public, now=NOW)

    attack.ours(told(signature[:32] + number.to_bytes(32, "little")) == "")
    assert told(signature) == ""
