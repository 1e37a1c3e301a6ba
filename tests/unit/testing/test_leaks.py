"""
What belongs to a tenant is found in an answer however it is written.
"""

from __future__ import annotations

import base64
import gzip
import json
from urllib.parse import quote
from uuid import UUID

import pytest

from twh_platform.testing import AppAnswer, AppRequest
from twh_platform.testing._leaks import Needle, find_leaks, without_sent

IDENTITY = "0190c1de-7b1a-7c3e-9a55-0c1f2e3d4b5a"
NAME = "Ünlü & Söhne <acme>"


def encoded(text: str) -> str:
    """
    The text in base64 without padding.
    """
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


WRITTEN = {
    "as it is": (IDENTITY, f"no box {IDENTITY}"),
    "in capitals": (IDENTITY, IDENTITY.upper()),
    "without dashes": (IDENTITY, UUID(IDENTITY).hex),
    "as a number": (IDENTITY, str(UUID(IDENTITY).int)),
    "base64": (IDENTITY, encoded(json.dumps({"after": IDENTITY}))),
    "base64, shifted once": (IDENTITY, "/x/" + encoded("1" + IDENTITY)),
    "base64, glued to a word": (IDENTITY, "cursor_" + encoded(IDENTITY)),
    "base64 of its bytes": (
        IDENTITY,
        encoded("id:")[:4] + base64.b64encode(UUID(IDENTITY).bytes).decode(),
    ),
    "base64 within base64": (IDENTITY, encoded(encoded(f"item:{IDENTITY}"))),
    "hexadecimal": (IDENTITY, IDENTITY.encode().hex()),
    "a token's claims": (IDENTITY, f"{encoded('{}')}.{encoded(json.dumps({'id': IDENTITY}))}.x"),
    "percent-encoded": (NAME, quote(NAME, safe="")),
    "escaped in JSON": (NAME, json.dumps({"name": NAME})),
    "escaped in HTML": (NAME, "<b>&Uuml;nl&uuml; &amp; S&ouml;hne &lt;acme&gt;</b>"),
    "base64, percent-encoded": (NAME, quote(base64.b64encode(NAME.encode()).decode(), safe="")),
}


@pytest.mark.parametrize("how", WRITTEN)
def test_it_is_found_however_it_is_written(how):
    """Encoded forms are found in the body and in a header; another text is not."""
    text, written = WRITTEN[how]
    needles = [Needle(text, "it"), Needle("01900000-7b1a-7c3e-9a55-000000000000", "another")]
    in_body = AppAnswer(status=200, body=f'{{"error": "{written}!"}}'.encode())
    in_header = AppAnswer(status=302, headers=(("location", f"/a?b={written}"),))

    assert [leak.needle.what for leak in find_leaks(in_body, needles)] == ["it"]
    [leak] = (
        find_leaks(in_header, needles[:1]) if written.isascii() and " " not in written else [None]
    )
    assert leak is None or leak.place == "header location"


def test_it_is_found_in_a_compressed_body():
    """Content-Encoding is undone first."""
    headers = (("content-encoding", "gzip"),)
    answer = AppAnswer(status=200, headers=headers, body=gzip.compress(IDENTITY.encode()))

    assert len(find_leaks(answer, [Needle(IDENTITY, "it")])) == 1


def test_the_whole_is_told_and_not_its_parts():
    """A mark within a name that is found too says nothing more."""
    answer = AppAnswer(status=200, body=b"qkzd420001 is here")

    found = find_leaks(answer, [Needle("qkzd42", "the mark"), Needle("qkzd420001", "the name")])

    assert [leak.needle.what for leak in found] == ["the name"]


def test_an_echo_tells_nothing():
    """What the request says itself, in whatever form, is not looked for; the rest is."""
    needles = [Needle(IDENTITY, "the id"), Needle("qkzd420001", "the name")]
    asked = AppRequest.of(f"GET /items/{UUID(IDENTITY).hex}?cursor={encoded('[1]')}")

    assert [one.what for one in without_sent(needles, asked)] == ["the name"]
    assert without_sent(needles, AppRequest.of("GET /items")) == needles


def test_a_token_is_no_word_of_the_request():
    """What an Authorization header contains may still not be shown."""
    needles = [Needle("first-123", "the tenant id")]
    asked = AppRequest.of("GET /", headers={"Authorization": "Bearer first-123"})

    assert without_sent(needles, asked) == needles
