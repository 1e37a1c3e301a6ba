"""
What we sign the public libraries verify, and what they sign we verify (gate G1).

Bodies, ids and secrets are random.  The controls show that the libraries do refuse.
"""

from __future__ import annotations

import base64
import datetime as dt
import importlib
import importlib.util
import os
import time
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from twh_platform.errors import WebhookError
from twh_platform.testing import require_part
from twh_platform.webhooks import (
    MESSAGE,
    STANDARD,
    STRIPE,
    SVIX,
    Key,
    Keyring,
    KeyState,
    RawSecret,
    StandardSecret,
    sign,
    verify,
)

pytestmark = pytest.mark.skipif(
    os.environ.get("TWH_TEST_BARE") == "1", reason="bare install: the libraries are not there"
)

URL = "https://receiver.example/hooks/7?from=twh"
TARGET = {"method": "POST", "url": URL}
# They read a body as text, so it is UTF-8 here; what else they do is in the attacks.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
IDS = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
SECRETS = st.binary(min_size=24, max_size=64)
VISIBLE = st.characters(min_codepoint=33, max_codepoint=126)
STRIPE_SECRETS = st.text(VISIBLE, min_size=8, max_size=58).map(lambda text: f"whsec_{text}")

random_inputs = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def library(name):
    """The library of this name."""
    found = importlib.util.find_spec(name.partition(".")[0])
    require_part("interop", found, hint=f"{name}, of the group `interop` in pyproject.toml")
    return importlib.import_module(name)


def shared(key):
    """A secret of these bytes."""
    return StandardSecret("whsec_" + base64.b64encode(key).decode())


def moment(seconds):
    """As `standardwebhooks` wants it: it takes the zone from nowhere but UTC."""
    return dt.datetime.fromtimestamp(seconds, dt.UTC)


@pytest.fixture(params=["standardwebhooks", "svix"])
def standard(request):
    """A library of Standard Webhooks: its module, what it raises, and our profile."""
    module = library("svix.webhooks" if request.param == "svix" else request.param)
    profile = SVIX if request.param == "svix" else STANDARD
    return module.Webhook, module.WebhookVerificationError, profile


@random_inputs
@given(text=TEXTS, event=IDS, key=SECRETS)
def test_standard_libraries_verify_ours(standard, text, event, key):
    """What we sign they verify."""
    webhook, error, profile = standard
    secret, body = shared(key), text.encode()

    request = sign(body, secret, event_id=event, profile=profile)

    theirs = webhook(secret.reveal())
    verified(theirs, request)
    with pytest.raises(error):
        verified(theirs, SimpleNamespace(body=body + b" ", headers=request.headers))


def verified(webhook, request):
    """Verify without reading JSON; `svix` does so always."""
    options = {} if type(webhook).__module__.startswith("svix") else {"json_parse": False}
    webhook.verify(request.body, dict(request.headers), **options)


@random_inputs
@given(text=TEXTS, event=IDS, key=SECRETS)
def test_we_verify_standard_libraries(standard, text, event, key):
    """What they sign we verify."""
    webhook, _, profile = standard
    secret, now = shared(key), int(time.time())

    signature = webhook(secret.reveal()).sign(event, moment(now), text)

    headers = {
        profile.id_header: event,
        profile.timestamp_header: str(now),
        profile.signature_header: signature,
    }
    assert verify(text.encode(), headers, secret, profile=profile)[:2] == (event, now)
    with pytest.raises(WebhookError):
        verify(text.encode() + b" ", headers, secret, profile=profile)


def test_standard_libraries_with_either_key_of_two(standard):
    """While we sign with two, who knows one of them verifies."""
    webhook, error, profile = standard
    old, new = StandardSecret.generate(), StandardSecret.generate()
    keys = Keyring([Key(secret=new), Key(secret=old, state=KeyState.RETIRING)])

    request = sign(b"{}", keys, profile=profile)

    verified(webhook(old.reveal()), request)
    verified(webhook(new.reveal()), request)
    with pytest.raises(error):
        verified(webhook(StandardSecret.generate().reveal()), request)


@random_inputs
@given(text=TEXTS, secret=STRIPE_SECRETS)
def test_stripe_verifies_ours(text, secret):
    """What we sign it verifies."""
    stripe = library("stripe")

    request = sign(text.encode(), RawSecret(secret), profile=STRIPE)

    header = request.headers["stripe-signature"]
    check = stripe.WebhookSignature.verify_header
    assert check(request.body, header, secret, tolerance=300)
    with pytest.raises(stripe.SignatureVerificationError):
        check(request.body + b" ", header, secret, tolerance=300)


@random_inputs
@given(text=TEXTS, secret=STRIPE_SECRETS)
def test_we_verify_stripe(text, secret):
    """What it signs we verify."""
    stripe = library("stripe")

    header = stripe.WebhookSignature.generate_signature_header(text, secret)

    headers = {"Stripe-Signature": header}
    assert verify(text.encode(), headers, RawSecret(secret), profile=STRIPE).scheme == "v1"
    with pytest.raises(WebhookError):
        verify(text.encode() + b" ", headers, RawSecret(secret), profile=STRIPE)


def test_stripe_with_either_key_of_two():
    """While we sign with two, who knows one of them verifies."""
    stripe = library("stripe")
    old, new = "whsec_old_old_old", "whsec_new_new_new"
    retiring = Key(secret=RawSecret(old), state=KeyState.RETIRING)

    request = sign(b"{}", Keyring([Key(secret=RawSecret(new)), retiring]), profile=STRIPE)

    for secret in (old, new):
        header = request.headers["stripe-signature"]
        assert stripe.WebhookSignature.verify_header(b"{}", header, secret, tolerance=300)


class Peer:
    """`http-message-signatures` with one key, under the rules of our profile."""

    def __init__(self, algorithm, key_id, *, private=None, public=None):
        module = library("http_message_signatures")
        algorithms = importlib.import_module("http_message_signatures.algorithms")
        keys = module.MappingKeyResolver(
            public_keys={key_id: public}, private_keys={key_id: private}
        )
        options = {"signature_algorithm": getattr(algorithms, algorithm), "key_resolver": keys}
        self.refused = module.InvalidSignature
        self._key_id = key_id
        self._signer = module.HTTPMessageSigner(**options)
        self._verifier = module.HTTPMessageVerifier(**options)

    def sign(self, body, event):
        """The headers that it makes."""
        message = SimpleNamespace(**TARGET, headers={"webhook-id": event})
        self._signer.sign(
            message,
            key_id=self._key_id,
            created=dt.datetime.now(dt.UTC),
            label="twh",
            tag="twh-webhook",
            covered_component_ids=COVERED,
            body=body,
        )
        return message.headers

    def verify(self, body, headers):
        """Verify with what it leaves to its user: the components and the body."""
        message = SimpleNamespace(**TARGET, headers=dict(headers))
        return self._verifier.verify(
            message, expect_tag="twh-webhook", require_components=COVERED, body=body
        )


COVERED = ("@method", "@target-uri", "content-digest", "webhook-id")


def shared_pair(seed):
    """Our key for both sides, and the peer's."""
    secret = shared(seed)
    return secret, secret, Peer("HMAC_SHA256", secret.fingerprint, private=seed, public=seed)


def asymmetric_pair(seed):
    """Our private and public key, and the peer's."""
    ed25519 = library("cryptography.hazmat.primitives.asymmetric.ed25519")
    from twh_platform.webhooks._secrets import encoded
    from twh_platform.webhooks.ed25519 import PrivateKey

    private = ed25519.Ed25519PrivateKey.from_private_bytes(seed)
    public = private.public_key()
    ours = PrivateKey(encoded("whsk_", seed + public.public_bytes_raw()))
    return ours, ours.public, Peer("ED25519", ours.fingerprint, private=private, public=public)


@pytest.mark.parametrize("pair", [shared_pair, asymmetric_pair])
@random_inputs
@given(body=st.binary(max_size=300), event=IDS, seed=st.binary(min_size=32, max_size=32))
def test_http_message_signatures_verifies_ours(pair, body, event, seed):
    """What we sign it verifies, any bytes."""
    private, _, peer = pair(seed)

    request = sign(body, private, event_id=event, profile=MESSAGE, url=URL)

    (result,) = peer.verify(body, request.headers)
    assert result.body == body
    with pytest.raises(peer.refused):
        peer.verify(body + b" ", request.headers)


@pytest.mark.parametrize("pair", [shared_pair, asymmetric_pair])
@random_inputs
@given(body=st.binary(max_size=300), event=IDS, seed=st.binary(min_size=32, max_size=32))
def test_we_verify_http_message_signatures(pair, body, event, seed):
    """What it signs with our components we verify, any bytes."""
    _, public, peer = pair(seed)

    headers = peer.sign(body, event)

    assert verify(body, headers, public, profile=MESSAGE, **TARGET).id == event
    with pytest.raises(WebhookError) as refused:
        verify(body + b" ", headers, public, profile=MESSAGE, **TARGET)
    assert refused.value.code == "signature_mismatch"
