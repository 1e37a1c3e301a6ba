"""
Laws of strict JSON.
"""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from twh_platform.errors import WebhookError
from twh_platform.webhooks import parse_json
from twh_platform.webhooks._payload import DEEPEST, _too_deep

texts = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('[]{}"\\,:'))
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
)
pieces = st.lists(st.sampled_from(["[", "]", "{", "}", '"', "\\", ",", ":", "a", "1", " ", '"a":']))


@given(values, st.booleans())
def test_what_json_writes_is_read(value, ascii_only):
    """As it was."""
    assert parse_json(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@given(values, st.integers(min_value=0, max_value=70), st.sampled_from(["[]", '{"a":}']))
def test_depth_is_that_of_the_tree(value, levels, around):
    """Whatever texts and other branches say."""
    opening, closing = around[:-1], around[-1]
    body = opening * levels + json.dumps([value] * 70) + closing * levels
    deep = levels + _depth([value]) > DEEPEST

    assert _too_deep(body.encode()) is deep


@given(
    st.binary()
    | pieces.map("".join).map(str.encode)
    | pieces.map(lambda one: "".join(one * 70).encode())
)
def test_no_bytes_raise_anything_else(body):
    """What is taken is what the standard library reads."""
    try:
        value, code = parse_json(body), ""
    except WebhookError as error:
        code = error.code

    assert code == "payload_invalid" or value == json.loads(body)


def _depth(value):
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(_depth, value), default=0) if isinstance(value, list) else 0
