"""
The envelope's format, byte by byte, and what is refused of it.
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime, timedelta

import jwt
import pytest

from twh_platform.errors import ConfigurationError, EnvelopeError, TenantUnresolvedError
from twh_platform.tenancy._envelope import EnvelopeKeys

SECRET, OTHER = b"s" * 32, b"o" * 32
NOW = datetime(2030, 1, 1, tzinfo=UTC)
MILLISECONDS = int(NOW.timestamp() * 1000)

# RFC 5869, written out once more.
EXTRACTED = hmac.digest(b"twh-platform/tenant-envelope/v1", SECRET, "sha256")
KEY_ID = hmac.digest(EXTRACTED, b"key id\x01", "sha256")[:8]
MAC_KEY = hmac.digest(EXTRACTED, b"mac\x01", "sha256")


def pack(keys: EnvelopeKeys | None = None, **changes) -> str:
    """Pack an envelope of acme for the audience of jobs."""
    said = {
        "envelope_id": bytes(range(16)),
        "tenant_id": "acme",
        "audience": "jobs",
        "issued_at": NOW,
        "lifetime": 300,
        "user_id": "user-1",
    }
    return (keys or EnvelopeKeys(SECRET)).pack(**{**said, **changes})


def body(*, times=(MILLISECONDS, MILLISECONDS + 300_000), rest=b"\x04jobs\x04acme\x06user-1"):
    """An envelope's bytes but for the MAC, put together by hand."""
    return b"\x01" + KEY_ID + bytes(range(16)) + b"".join(t.to_bytes(8) for t in times) + rest


def signed(message: bytes) -> str:
    """A token whose MAC is right, whatever it says."""
    return text(message + hmac.digest(MAC_KEY, message, "sha256"))


def text(data: bytes) -> str:
    """The base64url of tokens."""
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def data(token: str) -> bytes:
    """The bytes of a token."""
    return urlsafe_b64decode(token + "=" * (-len(token) % 4))


def test_the_format_is_as_it_is_drawn():
    """Each field stands where the docstring says."""
    assert pack() == signed(body())
    assert pack(user_id=None) == signed(body(rest=b"\x04jobs\x04acme\x00"))


def test_what_is_packed_is_unpacked():
    """Every field comes back."""
    found = EnvelopeKeys(SECRET).unpack(pack())

    assert found.id == bytes(range(16)).hex()
    assert (found.tenant_id, found.audience, found.user_id) == ("acme", "jobs", "user-1")
    assert (found.issued_at, found.expires_at) == (NOW, NOW + timedelta(seconds=300))
    assert found.key_id == KEY_ID.hex()


def test_the_shortest_and_the_longest_token():
    """The bounds of the docstring are those of what can be said."""
    shortest = pack(audience="j", tenant_id="a", user_id=None)
    longest = pack(audience="j" * 64, tenant_id="a" * 64, user_id="u" * 255, lifetime=2_592_000)

    assert (len(shortest), len(longest)) == (104, 612)
    for token in (shortest, longest):
        assert EnvelopeKeys(SECRET).unpack(token)


@pytest.mark.parametrize(
    "rest",
    [
        b"",
        b"\x04jobs",
        b"\x04jobs\x04acme",
        b"\x04jobs\x04acme\x00\x00",
        b"\x04jobs\x04acme\x06user-",
        b"\x04jobs\x04acme\x07user-1",
        b"\x04jobs\x00\x00",
        b"\x00\x04acme\x00",
        b"\x41" + b"j" * 65 + b"\x04acme\x00",
        b"\x04jo s\x04acme\x00",
        b"\x04jobs\x04a'cm\x00",
        b"\x04jobs\x05acme\x00\x00",
        b"\x04jobs\x04acme\x02\xff\xfe",
        b"\x04jobs\x04acme\x01\n",
        b"\xff",
    ],
)
def test_what_our_key_has_signed_is_read_as_strictly(rest):
    """A good MAC does not excuse a field that is not as it should be."""
    with pytest.raises(EnvelopeError) as caught:
        EnvelopeKeys(SECRET).unpack(signed(body(rest=rest)))

    assert caught.value.code == "envelope_invalid"


@pytest.mark.parametrize("times", [(5, 5), (5, 4), (0, 2_592_000_001), (2**64 - 2, 2**64 - 1)])
def test_times_that_no_sealer_would_write(times):
    """An envelope ends after it began, within 30 days, in a year that exists."""
    with pytest.raises(EnvelopeError):
        EnvelopeKeys(SECRET).unpack(signed(body(times=times)))


@pytest.mark.parametrize(
    "token",
    [
        "",
        "a",
        "AQ",
        "A" * 613,
        "A" * 10_000_000,
        None,
        7,
        b"bytes",
        pack() + "=",
        pack() + "==",
        pack()[:-1],
        " " + pack(),
        pack() + "\n",
        pack().replace("A", "А", 1),  # the Cyrillic one  # noqa: RUF001
        text(b"\x02" + body()[1:] + bytes(32)),
        text(b"\x01" + bytes(60)),
        "\ud800" * 200,
    ],
)
def test_whatever_is_no_token_gets_the_same_error(token):
    """Hostile input has one way out, and the way out tells nothing."""
    with pytest.raises(EnvelopeError) as caught:
        EnvelopeKeys(SECRET).unpack(token)

    assert caught.value.code == "envelope_invalid"
    assert str(caught.value) == "not an envelope that one of our keys has signed"


def test_an_envelope_has_one_spelling():
    """Control: base64 alone reads the left-over bits, the parser does not take them."""
    token = pack(user_id="user-12")
    spare = token[:-1] + chr(ord(token[-1]) + 1)

    assert spare != token
    assert data(spare) == data(token)
    with pytest.raises(EnvelopeError):
        EnvelopeKeys(SECRET).unpack(spare)


def test_the_first_key_signs_and_all_of_them_verify():
    """That is all that rotation needs."""
    before, during, after = EnvelopeKeys(OTHER), EnvelopeKeys([SECRET, OTHER]), EnvelopeKeys(SECRET)

    assert during.unpack(pack(before)).key_id == before.unpack(pack(before)).key_id
    assert after.unpack(pack(during)).key_id == KEY_ID.hex()
    with pytest.raises(EnvelopeError):
        after.unpack(pack(before))


def test_what_is_signed_with_the_same_secret_elsewhere_is_no_envelope():
    """Control: without keys of its own, whoever signs for others would forge envelopes."""
    naive = body() + hmac.digest(SECRET, body(), "sha256")
    assert hmac.compare_digest(naive[-32:], hmac.digest(SECRET, naive[:-32], "sha256"))

    for forged in (text(naive), jwt.encode({"tenant_id": "acme"}, SECRET, "HS256")):
        with pytest.raises(EnvelopeError):
            EnvelopeKeys(SECRET).unpack(forged)


@pytest.mark.parametrize("secrets", [[], "", "short", b"s" * 31, [SECRET, SECRET], [SECRET, b""]])
def test_keys_that_would_not_hold(secrets):
    """None, a short one and one that is given twice are refused at the start."""
    with pytest.raises(ConfigurationError) as caught:
        EnvelopeKeys(secrets)

    assert "ssss" not in str(caught.value)


def test_text_and_bytes_are_the_same_key():
    """A key from the environment is text."""
    assert EnvelopeKeys(SECRET.decode()).unpack(pack())


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"audience": ""}, ConfigurationError),
        ({"audience": "jobs\n"}, ConfigurationError),
        ({"audience": "j" * 65}, ConfigurationError),
        ({"audience": b"jobs"}, ConfigurationError),
        ({"tenant_id": "a.b"}, TenantUnresolvedError),
        ({"lifetime": 0}, ConfigurationError),
        ({"lifetime": -1}, ConfigurationError),
        ({"lifetime": 2_592_001}, ConfigurationError),
        ({"lifetime": float("nan")}, ConfigurationError),
        ({"lifetime": float("inf")}, ConfigurationError),
        ({"user_id": ""}, ConfigurationError),
        ({"user_id": "u" * 256}, ConfigurationError),
        ({"user_id": "ü" * 128}, ConfigurationError),
        ({"user_id": "a\0b"}, ConfigurationError),
        ({"user_id": "\ud800"}, ConfigurationError),
        ({"user_id": 7}, ConfigurationError),
    ],
)
def test_what_cannot_be_said_is_not_sealed(change, error):
    """The sealer is as strict as the opener, so nothing is sealed that will not open."""
    with pytest.raises(error):
        pack(**change)
