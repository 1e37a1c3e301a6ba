"""
The keys of an endpoint over time: each step of a rotation, and who is good when.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from twh_platform.errors import WebhookError, WebhookUsageError
from twh_platform.webhooks import (
    Key,
    Keyring,
    KeyState,
    RawSecret,
    Signer,
    StandardSecret,
    Verifier,
)
from twh_platform.webhooks._keyring import keyring_of

OLD, NEW = StandardSecret.generate(), StandardSecret.generate()
NOW = 1_700_000_000


def states(keyring):
    """
    Each key's, by its id.
    """
    return {one.id: one.state for one in keyring}


def accepts(keyring, secret, now=NOW):
    """
    True, or the code of the error.
    """
    request = Signer(secret, clock=lambda: now).sign(b"{}", event_id="e")
    try:
        Verifier(keyring, clock=lambda: now).verify(request.body, dict(request.headers))
    except WebhookError as error:
        return error.code
    return True


def test_a_rotation_takes_three_steps():
    """Accepted first, then signing, and last the old one is out."""
    first = Keyring([Key(secret=OLD)])
    both = first.add(Key(secret=NEW, state=KeyState.PENDING))
    turned = both.activate(NEW.fingerprint)
    done = turned.revoke(OLD.fingerprint)

    assert [one.secret for one in both.signing(NOW)] == [OLD]
    assert [one.secret for one in turned.signing(NOW)] == [NEW, OLD]
    assert [one.secret for one in done.signing(NOW)] == [one.secret for one in done.accepted(NOW)]
    assert states(turned) == {
        NEW.fingerprint: KeyState.ACTIVE,
        OLD.fingerprint: KeyState.RETIRING,
    }
    assert states(first) == {OLD.fingerprint: KeyState.ACTIVE}


@pytest.mark.parametrize("state", [KeyState.PENDING, KeyState.ACTIVE, KeyState.RETIRING])
def test_what_is_not_revoked_is_accepted(state):
    """Whether it signs or not."""
    keyring = Keyring([Key(secret=NEW), Key(secret=OLD, state=state)])

    assert accepts(keyring, OLD) is True


def test_what_is_revoked_is_not_accepted():
    """Alone or beside another, with times or without."""
    revoked = Key(secret=OLD, state=KeyState.REVOKED)

    assert accepts(Keyring([revoked]), OLD) == "no_supported_scheme"
    assert accepts(Keyring([Key(secret=NEW), revoked]), OLD) == "signature_mismatch"
    assert accepts(Keyring([revoked, Key(secret=NEW, not_after=NOW)]), OLD) == "signature_mismatch"
    assert accepts(Keyring([Key(secret=NEW), revoked]), NEW) is True


@pytest.mark.parametrize(
    ("now", "good"), [(99, False), (99.9, False), (100, True), (200, True), (200.1, False)]
)
def test_a_key_is_good_from_its_first_second_to_its_last(now, good):
    """Both ends are within."""
    key = Key(secret=OLD, not_before=100, not_after=200)

    assert key.good(now) is good
    assert bool(Keyring([key]).accepted(now)) is good
    assert bool(Keyring([key]).signing(now)) is good


def test_a_verifier_that_is_kept_sees_its_keys_time_go_by():
    """A key that ends is not good a second later; nothing has to be made anew."""
    now = NOW
    keyring = Keyring([Key(secret=OLD, not_after=NOW), Key(secret=NEW)])
    verifier = Verifier(keyring, clock=lambda: now)
    request = Signer(OLD, clock=lambda: NOW).sign(b"{}", event_id="e")
    verified = verifier.verify(request.body, request.headers)
    now += 1

    assert verified.key_id == OLD.fingerprint
    with pytest.raises(WebhookError) as caught:
        verifier.verify(request.body, request.headers)
    assert caught.value.code == "signature_mismatch"


def test_retiring_keys_can_be_given_an_end():
    """The last second at which the receiver has to have the new one."""
    both = Keyring([Key(secret=OLD)]).add(Key(secret=NEW, state=KeyState.PENDING))
    turned = both.activate(NEW.fingerprint, until=NOW)

    assert accepts(turned, OLD, NOW) is True
    assert accepts(turned, OLD, NOW + 1) == "signature_mismatch"


def test_a_rotation_is_turned_back_while_the_old_key_is_retiring():
    """It signs again, without an end; the one that failed is retiring."""
    both = Keyring([Key(secret=OLD)]).add(Key(secret=NEW, state=KeyState.PENDING))
    back = both.activate(NEW.fingerprint, until=NOW).activate(OLD.fingerprint)

    assert back.signing(NOW + 1)[0].secret == OLD
    assert states(back)[NEW.fingerprint] is KeyState.RETIRING


def test_what_was_revoked_stays_revoked():
    """No step leads back."""
    revoked = Keyring([Key(secret=OLD), Key(secret=NEW)]).revoke(OLD.fingerprint)
    with pytest.raises(WebhookError) as caught:
        revoked.activate(OLD.fingerprint)

    assert caught.value.code == "key_revoked"


@pytest.mark.parametrize("step", ["activate", "revoke"])
def test_a_key_that_is_not_there_takes_no_step(step):
    """It is named by its id."""
    with pytest.raises(WebhookError) as caught:
        getattr(Keyring([Key(secret=OLD)]), step)("nobody")

    assert caught.value.code == "key_unknown"


def test_ten_keys_are_the_most():
    """So the signatures of all fit into the header."""
    ten = Keyring(Key(secret=StandardSecret.generate()) for _ in range(10))
    with pytest.raises(WebhookError) as caught:
        ten.add(Key(secret=NEW))

    assert len(ten) == 10
    assert caught.value.code == "keyring_full"


@pytest.mark.parametrize(
    "twin",
    [
        Key(secret=RawSecret(b"12345678")),
        Key(secret=RawSecret(b"12345678"), id="b"),
        Key(secret=RawSecret(b"12345678\0"), id="b"),
        Key(secret=RawSecret(b"another-key"), id="a"),
    ],
)
def test_two_keys_are_two(twin):
    """Neither the same id nor the same signatures: a rotation to itself is none."""
    with pytest.raises(WebhookError) as caught:
        Keyring([Key(secret=RawSecret(b"12345678"), id="a"), twin])

    assert caught.value.code == "key_duplicate"


@pytest.mark.parametrize("secret", ["whsec_x", b"x" * 32, None, Key(secret=OLD)])
def test_a_key_has_a_typed_secret(secret):
    """Text is of no kind."""
    with pytest.raises(WebhookUsageError) as caught:
        Key(secret=secret)

    assert caught.value.code == "secret_type_invalid"


@pytest.mark.parametrize("keys", ["whsec_x", b"x" * 32, None, 7, ["whsec_x"], [None]])
def test_keys_are_typed_secrets(keys):
    """Text would be taken for several of one letter."""
    with pytest.raises(WebhookUsageError) as caught:
        keyring_of(keys)

    assert caught.value.code == "secret_type_invalid"


def test_keys_are_given_in_three_ways():
    """One secret, several, or a keyring."""
    keyring = Keyring([Key(secret=OLD, id="mine")])

    assert keyring_of(keyring) is keyring
    assert [one.secret for one in keyring_of(OLD)] == [OLD]
    assert [one.secret for one in keyring_of(one for one in (NEW, OLD))] == [NEW, OLD]


def test_a_keyring_shows_ids_and_states():
    """Nothing else."""
    keyring = Keyring([Key(secret=OLD, id="a"), Key(secret=NEW, id="b", state=KeyState.PENDING)])

    assert repr(keyring) == "Keyring(a: active, b: pending)"
    assert OLD.reveal()[6:] not in repr(keyring.keys)
    assert replace(keyring.keys[0], id="").id == OLD.fingerprint
