"""
JSON as strictly as a receiver wants it.
"""

from __future__ import annotations

import json

import pytest

from twh_platform.errors import WebhookError, WebhookUsageError
from twh_platform.webhooks import parse_json


@pytest.mark.parametrize("body", [b'{"a": [1, 2.5, null]}', b"0", b'"\\ud83d\\ude00"', b" {}\n"])
def test_what_is_json_is_parsed(body):
    """As the standard library reads it."""
    assert parse_json(body) == json.loads(body)
    assert parse_json(memoryview(body)) == json.loads(body)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "not JSON"),
        (b"name=value", "not JSON"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b"{} {}", "not JSON"),
        (b"NaN", "not JSON"),
        (b"[-Infinity]", "not JSON"),
        (b"1e999", "not JSON"),
        (b"9" * 5_000, "not JSON"),
        (b'"\n"', "not JSON"),
        (b'"\xff"', "not UTF-8"),
        (b'"\xed\xa0\x80"', "not UTF-8"),
        ('"é"'.encode("utf-16"), "not UTF-8"),
        (b'"\\ud800"', "half of a surrogate pair"),
        (b'{"a": {"b": 1, "b": 1}}', "a name twice"),
        (b'{"a": 1, "\\u0061": 2}', "a name twice"),
    ],
)
def test_what_has_no_one_reading_is_refused(body, why):
    """With one code, and a message that has nothing of the body."""
    with pytest.raises(WebhookError, match=why) as caught:
        parse_json(body)

    assert caught.value.code == "payload_invalid"


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":'])
def test_depth_has_an_end(opening):
    """The decoder alone fails with a RecursionError on what is deep enough."""
    body = opening * 200_000

    with pytest.raises(RecursionError):
        json.loads(body)
    with pytest.raises(WebhookError, match="more than 64 deep"):
        parse_json(body)


def test_depth_is_counted_to_the_level():
    """64 are taken, 65 are not, also where other brackets were closed before."""
    before = b"[],[],"

    assert parse_json(b"[" * 64 + b"]" * 64)
    assert parse_json(b"[" + before * 50 + b"[" * 63 + b"]" * 63 + b"]")
    with pytest.raises(WebhookError, match="deep"):
        parse_json(b"[" + before * 50 + b"[" * 64 + b"]" * 64 + b"]")


@pytest.mark.parametrize(
    "text", ["[" * 100, '"' + "[" * 100, '\\"' + "{" * 100, "\\" * 3 + "[" * 90]
)
def test_brackets_in_text_are_no_depth(text):
    """Quotes and backslashes in it hide nothing."""
    body = json.dumps([text, [text], {text: text}]).encode()

    assert parse_json(body) == [text, [text], {text: text}]


def test_errors_carry_nothing_of_the_body():
    """The decoder's own error has all of it, and would reach the logs with ours."""
    with pytest.raises(WebhookError) as caught:
        parse_json(b'{"card": "4111111111111111"')

    assert caught.value.__context__ is None
    assert "4111" not in repr(caught.value)


@pytest.mark.parametrize("body", ["{}", None, {"a": 1}, 7])
def test_only_bytes_are_parsed(body):
    """What is parsed already, or was decoded, is not what was verified."""
    with pytest.raises(WebhookUsageError) as caught:
        parse_json(body)

    assert caught.value.code == "body_not_bytes"
