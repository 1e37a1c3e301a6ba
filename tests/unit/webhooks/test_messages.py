"""
The profile `MESSAGE`: RFC 9421 in one fixed form, the body by its digest.

The forms that are refused, one by one, are in `tests/vectors/webhooks.json`.
"""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twh_platform.errors import BackendUnavailableError, WebhookError, WebhookUsageError
from twh_platform.webhooks import (
    MESSAGE,
    STANDARD,
    Key,
    Keyring,
    KeyState,
    Signer,
    StandardSecret,
    Verifier,
    sign,
    verify,
)
from twh_platform.webhooks._messages import checked_url, signature_base

NOW = 1_767_225_600
URL = "https://receiver.example/hooks/7"
SECRET = StandardSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
TARGET = {"method": "POST", "url": URL}
NAMES = ("webhook-id", "content-digest", "signature-input", "signature")
GOOD = sign(b"{}", SECRET, profile=MESSAGE, event_id="msg_1", timestamp=NOW, url=URL)


def verifier(keys=SECRET, **options):
    """A verifier whose clock stands still."""
    return Verifier(keys, profile=MESSAGE, clock=lambda: NOW, **options)


def refusal(headers, *, body=b"{}", target=TARGET):
    """The code of what is refused."""
    with pytest.raises(WebhookError) as refused:
        verifier().verify(body, headers, **target)
    return refused.value.code


def test_what_is_signed_holds():
    """The facts are those of the signature: id, time, key and algorithm."""
    verified = verifier().verify(b"{}", GOOD.headers, **TARGET)

    assert tuple(verified) == ("msg_1", NOW, 0, SECRET.fingerprint, "hmac-sha256", "message")
    assert list(GOOD.headers) == list(NAMES)


def test_a_forged_signature_is_refused_before_the_body():
    """Nobody has to send a body, nor we to hash one, to learn that headers are forged."""
    headers = {**GOOD.headers, "webhook-id": "msg_2"}

    with pytest.raises(WebhookError) as refused:
        verifier().begin(headers, **TARGET)

    assert refused.value.code == "signature_mismatch"


def test_streaming_takes_no_memory():
    """16 MiB in chunks take under 64 KiB."""
    chunk = bytes(65_536)
    request = sign(chunk * 256, SECRET, profile=MESSAGE, timestamp=NOW, url=URL)
    verification = verifier().begin(request.headers, **TARGET)

    tracemalloc.start()
    for _ in range(256):
        verification.update(chunk)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert verification.finish().timestamp == NOW
    assert peak < 65_536


@pytest.mark.parametrize("size", [0, 1, 1 << 20])
def test_what_a_key_signs_is_small(size):
    """With the longest of everything and 1 MiB of body it is under 4096 bytes."""
    pytest.importorskip("cryptography")
    from twh_platform.webhooks.ed25519 import PrivateKey, RemoteKey

    private, sizes = PrivateKey.generate(), []
    remote = RemoteKey(private.public, lambda base: sizes.append(len(base)) or private.sign(base))
    url = URL + "?" + "q" * (2047 - len(URL))
    signer = Signer(Keyring([Key(secret=remote, id="k" * 256)]), profile=MESSAGE)

    signer.sign(bytes(size), event_id="e" * 256, method="M" * 32, url=url, timestamp=10**12 - 1)

    assert 2048 < sizes[0] < 4096


class KeyService:
    """AWS KMS in what matters here: it refuses 4097 bytes, and other words than its own."""

    def __init__(self, private):
        self._private = private

    def sign(self, *, KeyId, Message, MessageType, SigningAlgorithm):  # noqa: N803
        """Sign up to 4096 bytes."""
        assert (MessageType, SigningAlgorithm) == ("RAW", "ED25519_SHA_512")
        if len(Message) > 4096:
            raise ValueError(KeyId)
        return {"Signature": self._private.sign(Message)}


@pytest.fixture
def remote():
    """A key that a key service holds."""
    pytest.importorskip("cryptography")
    from twh_platform.webhooks.ed25519 import PrivateKey, RemoteKey

    private = PrivateKey.generate()
    client = KeyService(private)

    def sign_there(message):
        answer = client.sign(
            KeyId="k", Message=message, MessageType="RAW", SigningAlgorithm="ED25519_SHA_512"
        )
        return answer["Signature"]

    return RemoteKey(private.public, sign_there)


def test_a_key_service_signs_a_body_of_any_size(remote):
    """1 MiB is signed by a service that takes 4096 bytes; as v1a it is refused."""
    body = bytes(1 << 20)

    request = sign(body, remote, profile=MESSAGE, timestamp=NOW, url=URL)

    assert verifier(remote.public).verify(body, request.headers, **TARGET).scheme == "ed25519"
    with pytest.raises(WebhookError) as refused:
        sign(body, remote, profile=STANDARD)
    assert refused.value.code == "message_too_large"


def test_a_key_service_signs_v1a_of_a_small_body(remote):
    """What fits is signed under any profile that has Ed25519."""
    request = sign(b"{}", remote)

    assert verify(b"{}", request.headers, remote.public).scheme == "v1a"
    assert "Key(" in repr(remote)


def test_a_key_service_that_is_down():
    """Its error stays the cause of ours."""
    pytest.importorskip("cryptography")
    from twh_platform.webhooks.ed25519 import PrivateKey, RemoteKey

    def down(message):
        raise OSError("no route")

    remote = RemoteKey(PrivateKey.generate().public, down)

    with pytest.raises(BackendUnavailableError) as failed:
        sign(b"{}", remote, profile=MESSAGE, url=URL)

    assert failed.value.code == "signer_unavailable"
    assert isinstance(failed.value.__cause__, OSError)


@pytest.mark.parametrize("answer", [None, b"", bytes(64), "text"])
def test_a_key_service_that_signs_with_another_key(answer):
    """It shows before anything is sent."""
    pytest.importorskip("cryptography")
    from twh_platform.webhooks.ed25519 import PrivateKey, RemoteKey

    remote = RemoteKey(PrivateKey.generate().public, lambda message: answer)

    with pytest.raises(WebhookError) as refused:
        sign(b"{}", remote, profile=MESSAGE, url=URL)

    assert refused.value.code == "signer_mismatch"


def test_a_remote_key_is_typed(remote):
    """Something else than a public key and a callable is a usage error."""
    from twh_platform.webhooks.ed25519 import RemoteKey

    for arguments in ((SECRET, bytes), (remote.public, None)):
        with pytest.raises(WebhookUsageError) as refused:
            RemoteKey(*arguments)
        assert refused.value.code == "secret_type_invalid"


def test_one_signature_is_sent():
    """The active key signs alone: the profile has room for one."""
    old = Key(secret=StandardSecret.generate(), id="old", state=KeyState.RETIRING)
    keys = Keyring([old, Key(secret=SECRET, id="new")])

    request = sign(b"{}", keys, profile=MESSAGE, timestamp=NOW, url=URL)

    assert 'keyid="new"' in request.headers["signature-input"]
    assert verifier(keys).verify(b"{}", request.headers, **TARGET).key_id == "new"


def test_a_retired_key_still_verifies():
    """What was signed with it is on its way."""
    kept = Keyring([Key(secret=SECRET, state=KeyState.RETIRING)])

    assert verifier(kept).verify(b"{}", GOOD.headers, **TARGET).id == "msg_1"


def test_a_revoked_key_is_unknown():
    """Its id names nothing any more."""
    gone = Keyring([Key(secret=SECRET, state=KeyState.REVOKED)])

    with pytest.raises(WebhookError) as refused:
        verifier(gone).verify(b"{}", GOOD.headers, **TARGET)

    assert refused.value.code == "key_unknown"


@pytest.mark.parametrize("name", ["k" * 257, 'a"b', "a\\b", "a b", "\xe9", "a\n"])
def test_an_id_that_a_header_cannot_carry(name):
    """It is refused by both sides, before anything is signed."""
    keys = Keyring([Key(secret=SECRET, id=name)])

    for act in (lambda: verifier(keys), lambda: sign(b"", keys, profile=MESSAGE, url=URL)):
        with pytest.raises(WebhookError) as refused:
            act()
        assert refused.value.code == "key_id_malformed"


@pytest.mark.parametrize("target", [{}, {"method": "POST"}, {"url": URL}, {"url": 7, "method": 7}])
def test_a_receiver_who_does_not_say_what_was_asked(target):
    """The method and the URL are never guessed."""
    with pytest.raises(WebhookUsageError) as refused:
        verifier().verify(b"{}", GOOD.headers, **target)

    assert refused.value.code == "request_missing"


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://a/", "https://", "https:///x", "//a/", "/x", "https://u@a/", "https://a/#f"),
        *("https://a/ b", "https://a/\n", "https://a/\xe9", 'https://a/"', "https://a\\b/"),
        *("https://a:b/", "https://a:123456/", "https://[x]/", "https://a/" + "x" * 2048),
        *("http\u017f://a/", "https://\u212a/"),
    ],
)
def test_a_url_that_is_not_signed(url):
    """It is refused by both sides."""
    assert refusal(GOOD.headers, target={"method": "POST", "url": url}) == "request_malformed"
    with pytest.raises(WebhookError) as refused:
        sign(b"{}", SECRET, profile=MESSAGE, url=url)
    assert refused.value.code == "request_malformed"


@pytest.mark.parametrize("method", ["post", "PO ST", "POST\n", "P" * 33, "\u017f"])
def test_a_method_that_is_not_signed(method):
    """It is refused by both sides."""
    target = {"method": method, "url": URL}

    assert refusal(GOOD.headers, target=target) == "request_malformed"


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("HTTPS://Example.COM", "https://example.com/"),
        ("https://example.com:443/a", "https://example.com/a"),
        ("http://example.com:80?b", "http://example.com/?b"),
        ("http://example.com:443/", "http://example.com:443/"),
        ("https://[2001:DB8::1]:8443/A?B=C", "https://[2001:db8::1]:8443/A?B=C"),
        ("https://example.com/%7Ea/../b;c?d=/?e", "https://example.com/%7Ea/../b;c?d=/?e"),
    ],
)
def test_a_url_is_normalized(url, normal):
    """Scheme, host, port and empty path; the rest is verbatim."""
    assert checked_url(url) == normal
    assert checked_url(normal) == normal


def test_the_base_is_one_line_for_each_component():
    """As section 2.5 of RFC 9421 has it, without a line's end at the end."""
    assert signature_base([("@method", "POST"), ("a", "b")], "();x") == (
        b'"@method": POST\n"a": b\n"@signature-params": ();x'
    )


@settings(max_examples=300, deadline=None)
@given(
    changed=st.sampled_from(NAMES),
    value=st.text(max_size=60) | st.binary(max_size=60).map(lambda raw: raw.decode("latin-1")),
    at=st.integers(0, 160),
    length=st.integers(0, 8),
)
def test_any_change_of_a_header_is_refused(changed, value, at, length):
    """Whatever is cut out of a header and put in its place, it is a `WebhookError`."""
    text = GOOD.headers[changed]
    other = text[:at] + value + text[at + length :]
    if other == text:
        return

    assert refusal({**GOOD.headers, changed: other})


@settings(max_examples=200, deadline=None)
@given(body=st.binary(), method=st.text(max_size=8), url=st.text(max_size=40))
def test_any_other_request_is_refused(body, method, url):
    """Whatever is asked, a `WebhookError` is all that is raised."""
    if (body, method, url) == (b"{}", "POST", URL):
        return

    assert refusal(GOOD.headers, body=body, target={"method": method, "url": url})
    if body != b"{}":
        assert refusal(GOOD.headers, body=body) == "signature_mismatch"
