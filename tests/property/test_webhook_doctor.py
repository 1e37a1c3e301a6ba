"""
Laws of the doctor: whatever comes, it answers, and proves nothing that is forged.
"""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from twh_platform.webhooks import PROFILES, Cause, RawSecret, StandardSecret, diagnose, sign, verify

SECRET = StandardSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
RAW = RawSecret("a secret of text, as it is")
NAMES = sorted(
    {
        name
        for one in PROFILES.values()
        for name in (one.signature_header, one.id_header, one.timestamp_header)
        if name
    }
    | {"content-length", "content-encoding", "content-digest", "signature-input", "host"}
)
VALUES = st.one_of(
    st.binary(max_size=200),
    st.text("tv01,= .:-_AZaz\n\0\xff", max_size=80).map(lambda one: one.encode("latin-1")),
    st.integers().map(lambda one: str(one).encode()),
)
HEADERS = st.lists(st.tuples(st.sampled_from(NAMES).map(str.encode), VALUES), max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda one: st.lists(one, max_size=3) | st.dictionaries(st.text(max_size=4), one, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(
    body=st.binary(max_size=300),
    headers=HEADERS,
    profile=st.sampled_from(list(PROFILES)),
    keys=st.sampled_from([SECRET, RAW, [SECRET, RAW], []]),
)
def test_whatever_comes_is_diagnosed(body, headers, profile, keys):
    """No input raises, and what nobody has signed is proven by nothing."""
    url = "https://shop.example/hooks"

    found = diagnose(body, headers, keys, profile=PROFILES[profile], method="POST", url=url)

    assert found.code
    assert found.cause is not Cause.NONE
    assert not found.proven


@settings(max_examples=60, deadline=None)
@given(value=JSON, compact=st.booleans(), ascii_only=st.booleans(), in_order=st.booleans())
def test_json_that_was_written_again_is_found(value, compact, ascii_only, in_order):
    """However it was written when it was signed, unless its order is lost."""
    separators = (",", ":") if compact else (", ", ": ")
    ordered = json.loads(json.dumps(value, sort_keys=in_order))
    was = json.dumps(ordered, separators=separators, ensure_ascii=ascii_only).encode()
    came = json.dumps(ordered, indent=1).encode()
    sent = sign(was, SECRET)

    found = diagnose(came, sent.headers, SECRET)

    if was == came:
        assert verify(came, sent.headers, SECRET)
    else:
        assert (found.cause, found.proven) == (Cause.JSON_REWRITTEN, True)
