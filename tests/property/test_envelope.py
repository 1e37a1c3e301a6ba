"""
Laws of envelopes: what is sealed opens; with one bit changed it does not.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from twh_platform.errors import EnvelopeError
from twh_platform.tenancy import Tenant, TenantEnvelopes, bind_tenant

SECRET = b"s" * 32
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"

tenant_ids = st.text(ALPHABET, min_size=1, max_size=64)
audiences = st.text(ALPHABET + ".:/", min_size=1, max_size=64)
lifetimes = st.floats(min_value=0.001, max_value=2_592_000)
user_ids = st.none() | st.text(min_size=1, max_size=255).filter(
    lambda value: value.isprintable() and len(value.encode()) <= 255
)
moments = st.datetimes(timezones=st.just(UTC)).filter(lambda one: 1970 < one.year < 9000)


def envelopes_at(moment: datetime, secret: bytes = SECRET) -> TenantEnvelopes:
    """Envelopes whose clock stands still."""
    return TenantEnvelopes(secret, clock=lambda: moment, leeway=0)


def seal(envelopes: TenantEnvelopes, tenant_id: str = "acme", **options) -> str:
    """A token of this tenant."""
    with bind_tenant(Tenant(id=tenant_id)):
        return envelopes.seal(**{"audience": "jobs", **options})


@given(tenant_ids, audiences, lifetimes, user_ids, moments)
def test_what_is_sealed_opens(tenant_id, audience, lifetime, user_id, moment):
    """And says what was said."""
    envelopes = envelopes_at(moment)
    token = seal(envelopes, tenant_id, audience=audience, lifetime=lifetime, user_id=user_id)
    found = envelopes.verify(token, audience=audience)

    assert (found.tenant_id, found.audience, found.user_id) == (tenant_id, audience, user_id)
    assert abs(found.issued_at - moment) < timedelta(milliseconds=1)
    assert abs(found.expires_at - moment - timedelta(seconds=lifetime)) < timedelta(milliseconds=2)
    assert len(token) <= 612


NOW = datetime(2030, 1, 1, tzinfo=UTC)
TOKEN = seal(envelopes_at(NOW), user_id="user-1")
BYTES = urlsafe_b64decode(TOKEN + "=" * (-len(TOKEN) % 4))


def refused(token: str, envelopes: TenantEnvelopes | None = None, audience: str = "jobs") -> bool:
    """Whether a token does not open."""
    try:
        (envelopes or envelopes_at(NOW)).verify(token, audience=audience)
    except EnvelopeError:
        return True
    return False


def test_one_flipped_bit_does_not_open():
    """Whichever it is."""
    for bit in range(len(BYTES) * 8):
        changed = bytearray(BYTES)
        changed[bit // 8] ^= 1 << bit % 8

        assert refused(urlsafe_b64encode(changed).rstrip(b"=").decode())


def test_no_truncation_and_no_other_character_opens():
    """Nor a longer one: there is one spelling."""
    assert not refused(TOKEN)
    assert all(refused(TOKEN[:length]) for length in range(len(TOKEN)))
    assert all(refused(TOKEN[start:]) for start in range(1, len(TOKEN)))
    for place in range(len(TOKEN)):
        others = set(ALPHABET) - {TOKEN[place]}
        assert all(refused(TOKEN[:place] + one + TOKEN[place + 1 :]) for one in others)
    assert all(refused(TOKEN + one) for one in [*ALPHABET, "=", "\n", " "])


@given(st.text(max_size=700) | st.text(ALPHABET, max_size=700))
def test_no_text_opens_by_chance(text):
    """And none raises anything else."""
    assert refused(text)


@given(st.binary(min_size=32, max_size=80).filter(lambda secret: secret != SECRET))
def test_no_other_key_opens(secret):
    """A key of another service, or of an attacker."""
    assert refused(TOKEN, envelopes_at(NOW, secret))


@given(audiences.filter(lambda audience: audience != "jobs"))
def test_no_other_audience_opens(audience):
    """Not even one that begins the same."""
    assert refused(TOKEN, audience=audience)


@given(st.floats(min_value=-1e6, max_value=1e6))
def test_it_opens_in_its_time_only(seconds):
    """From its issue until its expiry, the end excluded."""
    moment = NOW + timedelta(seconds=seconds)

    assert refused(TOKEN, envelopes_at(moment)) == (
        not NOW <= moment < NOW + timedelta(seconds=300)
    )


@given(st.binary(max_size=300))
def test_no_claims_cross_a_border(rest):
    """Bytes that are moved from one field to the next are another envelope's."""
    forged = BYTES[:41] + rest + BYTES[-32:]

    assert forged == BYTES or refused(urlsafe_b64encode(forged).rstrip(b"=").decode())
