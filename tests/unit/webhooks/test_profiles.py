"""
How senders sign, as data: the table, and what no profile may say.
"""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest

from twh_platform.errors import WebhookUsageError
from twh_platform.webhooks import GITHUB, PROFILES, STANDARD, STRIPE, SVIX, TWH, RawSecret, sign

SECRET = RawSecret("a shared secret")


def test_profiles_are_found_by_name():
    """Each by its own; all names of headers are in lower case."""
    assert all(PROFILES[name].name == name for name in PROFILES)
    for one in PROFILES.values():
        for header in (one.signature_header, one.id_header, one.timestamp_header):
            assert header == header.lower()


def test_the_table_does_not_change():
    """Neither a profile, nor its schemes, nor the table."""
    with pytest.raises(FrozenInstanceError):
        STANDARD.past = 10**9
    with pytest.raises(TypeError):
        STANDARD.schemes["v1"] = None
    with pytest.raises(TypeError):
        PROFILES["standard"] = None


def test_our_own_profile_is_what_the_requirement_says():
    """HMAC-SHA256 in hexadecimal, with a timestamp, good for five minutes."""
    assert TWH.signature_header == "x-twh-signature"
    assert {name: (one.algorithm, one.encoding) for name, one in TWH.schemes.items()} == {
        "v1": ("hmac-sha256", "hex")
    }
    assert (TWH.timed, TWH.past, TWH.future) == (True, 300, 300)


def test_svix_is_standard_under_other_names():
    """One signature fits both."""
    names = {"signature_header", "id_header", "timestamp_header", "name"}
    changed = replace(SVIX, **{name: getattr(STANDARD, name) for name in names})

    assert changed == STANDARD


@pytest.mark.parametrize(
    "change",
    [
        {"id_header": "x-delivery"},
        {"timestamp_header": "x-time"},
        {"head": "{id}."},
        {"id_header": "x-id", "timestamp_header": "x-time", "head": "{id}."},
    ],
)
def test_what_is_not_signed_is_not_read(change):
    """An id that anybody can change would be taken for the webhook's."""
    with pytest.raises(WebhookUsageError) as caught:
        replace(GITHUB, **change)

    assert caught.value.code == "profile_invalid"


@pytest.mark.parametrize(
    ("profile", "expected"),
    [(STRIPE, "t=1700000000,v1="), (GITHUB, "sha256="), (STANDARD, "v1,")],
)
def test_signatures_are_written_as_the_sender_writes_them(profile, expected):
    """Byte by byte."""
    schemes = {
        name: replace(one, kinds=frozenset({"raw"})) for name, one in profile.schemes.items()
    }
    own = replace(profile, schemes=schemes)
    headers = sign(
        b"{}", SECRET, profile=own, event_id="e" if own.id_header else None, timestamp=1_700_000_000
    ).headers

    assert headers[profile.signature_header].startswith(expected)
