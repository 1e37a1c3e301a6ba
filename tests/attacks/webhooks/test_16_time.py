"""
Attacks 16 to 26: times that are written, chosen or judged in another way.
"""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from tests.attacks.webhooks._hooks import (
    BODY,
    NOW,
    SECRET,
    by_hand,
    code,
    foreign,
    holds,
    stripe_code,
    stripe_hand,
)
from twh_platform.errors import ConfigurationError, WebhookUsageError
from twh_platform.webhooks import (
    STANDARD,
    MemoryReplayStore,
    Replay,
    Retention,
    Verifier,
    WebhookMiddleware,
    diagnose,
)

SPELLINGS = {
    "n.0": "{}.0",
    "n.9": "{}.9",
    "exponent": "{}e0",
    "space before": " {}",
    "line feed behind": "{}\n",
    "underscore": "1_{}",
    "plus": "+{}",
    "zeros": "000{}",
    "Arabic digits": "arabic",
}
ARABIC = {ord("0") + digit: 0x660 + digit for digit in range(10)}


def spelled(way: str, stamp: str) -> str:
    """The same number in another spelling."""
    if way == "Arabic digits":
        return stamp.translate(ARABIC)
    return f"{stamp[0]}_{stamp[1:]}" if way == "underscore" else SPELLINGS[way].format(stamp)


@pytest.mark.parametrize("way", SPELLINGS)
def test_16_spells_the_time_in_another_way(way, standardwebhooks, twh_attack):
    """The header's own bytes are what is signed, and they have one spelling."""
    attack = twh_attack(number=16, title="spells the time in another way", form=way)
    naive = standardwebhooks.Webhook(SECRET.reveal())
    headers = by_hand()
    headers["webhook-timestamp"] = spelled(way, headers["webhook-timestamp"])
    attack.control(holds(naive.verify, BODY, headers))

    headers = by_hand(stamp=NOW)
    headers["webhook-timestamp"] = spelled(way, str(NOW))
    signed = by_hand(stamp=spelled(way, str(NOW)))
    told = [code(one, now=NOW) for one in (headers, signed)]
    attack.ours(2 - told.count("timestamp_malformed"))


@pytest.mark.parametrize("way", ["space before", "underscore", "plus", "zeros", "Arabic digits"])
def test_16_spells_the_time_of_stripe_in_another_way(way, stripe, twh_attack):
    """The same, where the time is a field among the signatures."""
    attack = twh_attack(number=16, title="spells the time of Stripe in another way", form=way)
    check = stripe.WebhookSignature.verify_header
    stamp = str(int(time.time()))
    header = stripe_hand(stamp=stamp).replace(f"t={stamp}", f"t={spelled(way, stamp)}")
    attack.control(holds(check, BODY, header, "whsec_a_secret_of_stripe", tolerance=300))

    header = stripe_hand(stamp=NOW).replace(f"t={NOW}", f"t={spelled(way, str(NOW))}")
    attack.ours(stripe_code(header, now=NOW) != "timestamp_malformed")


def naive_age(stamp: str) -> bool:
    """Whether the usual three lines take it."""
    number = float(stamp)
    int(number)
    return not abs(NOW - number) > 300


ENDLESS = ["nan", "inf", "-inf", "1e400", "1" + "0" * 5_000, f"{NOW:#x}"]


@pytest.mark.parametrize("stamp", ENDLESS, ids=lambda one: one[:8])
def test_17_brings_a_number_that_is_none(stamp, twh_attack):
    """Twelve digits at most: nothing is converted that could be endless, or no number."""
    attack = twh_attack(
        number=17, title="brings a time that passes, or that ends in another error", form=stamp[:8]
    )
    if stamp == "nan":
        attack.control(not abs(NOW - float(stamp)) > 300)
    elif stamp.startswith("0x"):
        attack.control(abs(NOW - int(stamp, 0)) <= 300)
    else:
        attack.control(foreign(ValueError, naive_age, stamp))

    attack.ours(code(by_hand(stamp=stamp), now=NOW) != "timestamp_malformed")


def test_18_signs_milliseconds(stripe, twh_attack):
    """Thirteen digits are no seconds, and the doctor says what they are."""
    attack = twh_attack(number=18, title="signs milliseconds, which are good for ever")
    check = stripe.WebhookSignature.verify_header
    stamp = int(time.time() * 1000)
    attack.control(holds(check, BODY, stripe_hand(stamp=stamp), STRIPE, tolerance=300))

    headers = by_hand(stamp=NOW * 1000)
    attack.ours(code(headers, now=NOW) != "timestamp_malformed")
    attack.ours("milliseconds" not in diagnose(BODY, headers, SECRET, clock=lambda: NOW).cause)


STRIPE = "whsec_a_secret_of_stripe"


@pytest.mark.parametrize("stamp", [0, -1])
def test_19_signs_the_beginning_of_time(stamp, stripe, twh_attack):
    """No time begins with a zero or a sign."""
    attack = twh_attack(number=19, title="signs the beginning of time", form=str(stamp))
    check = stripe.WebhookSignature.verify_header
    attack.control(holds(check, BODY, stripe_hand(stamp=stamp), STRIPE))

    attack.ours(code(by_hand(stamp=stamp), now=NOW) != "timestamp_malformed")
    attack.ours(stripe_code(stripe_hand(stamp=stamp), now=NOW) != "timestamp_malformed")


@pytest.mark.parametrize("stamp", [253_402_300_799, 2**63 + 1])
def test_20_signs_the_end_of_time(stamp, stripe, twh_attack):
    """The future has a tolerance too."""
    attack = twh_attack(number=20, title="signs the end of time", form=str(stamp))
    check = stripe.WebhookSignature.verify_header
    attack.control(holds(check, BODY, stripe_hand(stamp=stamp), STRIPE, tolerance=300))

    expected = "too_new" if len(str(stamp)) <= 12 else "timestamp_malformed"
    attack.ours(code(by_hand(stamp=stamp), now=NOW) != expected)
    attack.ours(stripe_code(stripe_hand(stamp=stamp), now=NOW) != expected)


def test_21_brings_a_million_digits(stripe, twh_attack):
    """The length is looked at first, and nothing of it is kept."""
    attack = twh_attack(number=21, title="has a million digits kept in an error")
    digits = "7" * 1_000_000
    with pytest.raises(stripe.SignatureVerificationError) as raised:
        stripe.WebhookSignature.verify_header(BODY, f"t={digits},v1=00", STRIPE, tolerance=300)
    attack.control(repr(vars(raised.value)).count(digits[:1000]))

    headers = by_hand(stamp=NOW)
    headers["webhook-timestamp"] = digits
    with pytest.raises(Exception, match="too long") as refused:
        Verifier(SECRET).verify(BODY, headers)
    attack.ours(repr([refused.value, vars(refused.value), refused.value.args]).count("777"))
    attack.ours(stripe_code(f"t={digits[:8_000]},v1=00", now=NOW) != "timestamp_malformed")


@pytest.mark.parametrize("ahead", [86_400, 100 * 31_557_600, 10**3_999], ids=lambda n: len(str(n)))
def test_22_signs_the_future(ahead, stripe, twh_attack):
    """Whoever has seen one is not to have it for years."""
    attack = twh_attack(number=22, title="signs the future", form=f"{len(str(ahead))} digits ahead")
    check = stripe.WebhookSignature.verify_header
    header = stripe_hand(stamp=int(time.time()) + ahead)
    attack.control(holds(check, BODY, header, STRIPE, tolerance=300))

    told = stripe_code(stripe_hand(stamp=NOW + ahead), now=NOW)
    attack.ours(told not in {"too_new", "timestamp_malformed"})
    attack.ours(code(by_hand(stamp=NOW + ahead), now=NOW) not in {"too_new", "timestamp_malformed"})


def test_23_comes_at_the_edges(standardwebhooks, twh_attack):
    """Both edges are within, to the second; one second beyond them is not."""
    attack = twh_attack(number=23, title="has an honest delivery refused at one edge of two")
    naive = standardwebhooks.Webhook(SECRET.reveal())
    # A second that has begun makes it too old; nothing is rounded there.
    attack.control(not holds(naive.verify, BODY, by_hand(stamp=int(time.time()) - 300)))

    for fraction in (0, 0.25, 0.999):
        clock = NOW + fraction
        within = [code(by_hand(stamp=NOW + at), now=clock) for at in (-300, 300)]
        beyond = [code(by_hand(stamp=NOW + at), now=clock) for at in (-301, 301)]
        attack.ours(sum(map(bool, within)) + (beyond != ["too_old", "too_new"]))


def test_24_comes_late_where_no_tolerance_was_given(stripe, twh_attack):
    """There is always one: the profile's."""
    attack = twh_attack(number=24, title="comes years late where no tolerance was given")
    check = stripe.WebhookSignature.verify_header
    attack.control(holds(check, BODY, stripe_hand(stamp=12_345), STRIPE))

    attack.ours(stripe_code(stripe_hand(stamp=12_345), now=NOW) != "too_old")
    attack.ours(code(by_hand(stamp=12_345), now=NOW, past=None) != "too_old")


def test_25_comes_late_where_the_tolerance_is_nothing(stripe, twh_attack):
    """Zero seconds are zero seconds; what is no number of seconds is refused."""
    attack = twh_attack(number=25, title="comes late where the tolerance is zero")
    check = stripe.WebhookSignature.verify_header
    attack.control(holds(check, BODY, stripe_hand(stamp=12_345), STRIPE, tolerance=0))

    attack.ours(stripe_code(stripe_hand(stamp=NOW - 1), now=NOW, past=0) != "too_old")
    assert stripe_code(stripe_hand(stamp=NOW), now=NOW, past=0) == ""
    attack.ours([one for one in (-1, False, float("inf")) if not foreign((), verifier_of, one)])


def verifier_of(past: object) -> Verifier:
    """A verifier; what is no tolerance is an error of its caller's."""
    try:
        return Verifier(SECRET, past=past)
    except WebhookUsageError as error:
        raise ValueError(error.code) from error


def test_26_tries_again_with_the_time_of_the_first_attempt(standardwebhooks, twh_attack):
    """A tolerance of its own for such a sender, and claims that live as long."""
    attack = twh_attack(number=26, title="has honest retries refused that keep their first time")
    stamps = [int(time.time()) - hours * 3_600 for hours in (0, 3, 4)]
    naive = standardwebhooks.Webhook(SECRET.reveal())
    attack.control(sum(not holds(naive.verify, BODY, by_hand(stamp=one)) for one in stamps))

    patient = replace(STANDARD, past=5 * 3_600)
    attack.ours(sum(bool(code(by_hand(stamp=one), profile=patient)) for one in stamps))
    assert code(by_hand(stamp=stamps[0] - 6 * 3_600), profile=patient) == "too_old"
    with pytest.raises(ConfigurationError) as refused:
        WebhookMiddleware(None, SECRET, profile=patient, replay=MemoryReplayStore())
    assert refused.value.code == "retention_too_short"
    longer = Replay(store=MemoryReplayStore(), retention=Retention(window=6 * 3_600))
    assert WebhookMiddleware(None, SECRET, profile=patient, replay=longer)
