"""
The doctor names the cause that was planted, and none where none was.
"""

from __future__ import annotations

import base64
import gzip
import json

import pytest

from twh_platform.errors import WebhookError, WebhookUsageError
from twh_platform.webhooks import (
    GITHUB,
    MESSAGE,
    PROFILES,
    SHOPIFY,
    STANDARD,
    STRIPE,
    SVIX,
    Key,
    Keyring,
    KeyState,
    RawSecret,
    Signer,
    StandardSecret,
    verify,
)
from twh_platform.webhooks._doctor import Cause, diagnose

NOW = 1_700_000_000
BODY = b'{"type":"order.paid","data":{"id":7,"note":"caf\xc3\xa9 </b>"}}'
SECRET = StandardSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
TEXT = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
RAW = RawSecret("a secret of text, as it is")
SORTED = json.dumps(json.loads(BODY), sort_keys=True).encode()


def clock() -> float:
    """A quarter of a second past."""
    return NOW + 0.25


URL = "https://shop.example/hooks"


def signed(
    body: bytes = BODY, keys=SECRET, profile=STANDARD, at: int = NOW, url: str = URL
) -> dict[str, str]:
    """The headers of a body that was signed."""
    signer = Signer(keys, profile=profile)
    return dict(signer.sign(body, event_id="msg_Ab1", timestamp=at, method="POST", url=url).headers)


def found(body: bytes, headers, keys=SECRET, **more):
    """The diagnosis now."""
    return diagnose(body, headers, keys, clock=clock, **more)


def dumped(**form) -> bytes:
    """The body written as JSON in another way."""
    return json.dumps(json.loads(BODY), **form).encode()


def test_what_holds_has_no_cause():
    """Control: nothing planted, nothing found."""
    diagnosis = found(BODY, signed())

    assert (diagnosis.code, diagnosis.cause) == ("", Cause.NONE)


def test_a_forgery_has_no_cause_that_is_known():
    """Control: what is signed with a key that nobody has is explained by nothing."""
    diagnosis = found(BODY, signed(keys=StandardSecret.generate()))

    assert (diagnosis.code, diagnosis.cause) == ("signature_mismatch", Cause.UNKNOWN)
    assert not diagnosis.proven
    assert diagnosis.key_id == ""


CHANGED = {
    "LF added": (BODY, BODY + b"\n", Cause.LINE_BREAK_ADDED),
    "CRLF added": (BODY, BODY + b"\r\n", Cause.LINE_BREAK_ADDED),
    "spaces added": (BODY, b" " + BODY + b"\n\n", Cause.LINE_BREAK_ADDED),
    "LF cut": (BODY + b"\n", BODY, Cause.LINE_BREAK_CUT),
    "CRLF cut": (BODY + b"\r\n", BODY, Cause.LINE_BREAK_CUT),
    "CRLF to LF": (b"a\r\nb\r\nc", b"a\nb\nc", Cause.LINE_ENDS_CHANGED),
    "LF to CRLF": (b"a\nb\nc", b"a\r\nb\r\nc", Cause.LINE_ENDS_CHANGED),
    "BOM added": (BODY, b"\xef\xbb\xbf" + BODY, Cause.BOM_ADDED),
    "BOM cut": (b"\xef\xbb\xbf" + BODY, BODY, Cause.BOM_CUT),
    "JSON made compact": (dumped(), BODY, Cause.JSON_REWRITTEN),
    "JSON made spaced": (
        dumped(separators=(",", ":"), ensure_ascii=False),
        dumped(),
        Cause.JSON_REWRITTEN,
    ),
    "JSON made ASCII": (BODY, dumped(separators=(",", ":")), Cause.JSON_REWRITTEN),
    "JSON made not ASCII": (dumped(separators=(",", ":")), BODY, Cause.JSON_REWRITTEN),
    "JSON indented": (BODY, dumped(indent=2), Cause.JSON_REWRITTEN),
    "JSON no more indented": (dumped(indent=4), BODY, Cause.JSON_REWRITTEN),
    "JSON no more sorted": (SORTED, BODY, Cause.JSON_REWRITTEN),
    "slashes no more escaped": (
        dumped(separators=(",", ":")).replace(b"/", b"\\/"),
        BODY,
        Cause.JSON_REWRITTEN,
    ),
    "no more escaped for HTML": (
        BODY.replace(b"<", b"\\u003c").replace(b">", b"\\u003e"),
        BODY,
        Cause.JSON_REWRITTEN,
    ),
    "quoted as a string": (BODY, json.dumps(BODY.decode()).encode(), Cause.TEXT_QUOTED),
    "a string no more": (json.dumps(BODY.decode()).encode(), BODY, Cause.TEXT_QUOTED),
    "from Latin-1": ("café".encode("latin-1"), "café".encode(), Cause.CHARSET_CHANGED),
    "encoded twice": ("café".encode(), "cafÃ©".encode(), Cause.CHARSET_CHANGED),
    "gzip decoded": (gzip.compress(BODY, 6, mtime=0), BODY, Cause.BODY_DECOMPRESSED),
    "gzip after signing": (BODY, gzip.compress(BODY), Cause.BODY_COMPRESSED),
    "signed empty": (b"", BODY, Cause.BODY_EMPTY),
    "the repr signed": (repr(BODY).encode(), BODY, Cause.REPR_SIGNED),
}


@pytest.mark.parametrize(("was", "came", "cause"), CHANGED.values(), ids=CHANGED)
@pytest.mark.parametrize(
    ("profile", "keys"), [(STANDARD, SECRET), (STRIPE, RAW), (GITHUB, RAW)], ids=str
)
def test_what_changed_the_body_is_named(was, came, cause, profile, keys):
    """With proof: undone, the signature holds."""
    headers = signed(was, keys, profile)
    with pytest.raises(WebhookError):
        verify(came, headers, keys, profile=profile, clock=clock)

    diagnosis = found(came, headers, keys, profile=profile)

    assert (diagnosis.code, diagnosis.cause) == ("signature_mismatch", cause)
    assert diagnosis.proven
    assert diagnosis.key_id == keys.fingerprint


def test_an_empty_body_that_was_not_is_noticed():
    """What a framework has read before is not there any more."""
    diagnosis = found(b"", signed())

    assert (diagnosis.cause, diagnosis.proven) == (Cause.BODY_EMPTY, False)


def test_a_body_of_another_length_is_noticed():
    """The declared length is what it had."""
    diagnosis = found(BODY[:-3], {**signed(), "Content-Length": str(len(BODY))})

    assert (diagnosis.cause, diagnosis.proven) == (Cause.BODY_LENGTH_CHANGED, False)


@pytest.mark.parametrize(
    ("sender", "receiver", "cause"),
    [
        (RawSecret(TEXT), SECRET, Cause.SECRET_DECODED),
        (RawSecret(TEXT.removeprefix("whsec_")), SECRET, Cause.SECRET_DECODED),
        (RawSecret(TEXT.encode() + b"\n"), SECRET, Cause.SECRET_LINE_BREAK),
        (SECRET, RawSecret(TEXT), Cause.SECRET_NOT_DECODED),
        (SECRET, RawSecret(TEXT.removeprefix("whsec_")), Cause.SECRET_NOT_DECODED),
        (SECRET, RawSecret(base64.b64decode(TEXT[6:]).hex()), Cause.SECRET_NOT_DECODED),
        (SECRET, RawSecret(base64.b64decode(TEXT[6:])), Cause.SECRET_TYPE),
    ],
)
@pytest.mark.parametrize("profile", [STANDARD, STRIPE], ids=lambda one: one.name)
def test_a_secret_read_in_another_way_is_named(sender, receiver, cause, profile):
    """Text against base64 against hexadecimal, also where the type does not fit."""
    # Signed by hand, as a sender that makes the mistake does.
    scheme = next(iter(profile.schemes.values()))
    wrong = type(profile)(
        **{name: getattr(profile, name) for name in ("name", "form", "signature_header", "head")},
        id_header=profile.id_header,
        timestamp_header=profile.timestamp_header,
        schemes={"v1": type(scheme)(encoding=scheme.encoding, kinds=frozenset({sender.kind}))},
    )
    diagnosis = found(BODY, signed(BODY, sender, wrong), receiver, profile=profile)

    assert diagnosis.proven or diagnosis.code == ""
    assert diagnosis.cause in {cause, Cause.NONE, Cause.SIGNATURE_SPELLING}


def test_a_secret_of_a_type_that_does_not_fit_is_named():
    """Not proven, where the signature does not tell."""
    diagnosis = found(BODY, signed(), RAW)

    assert (diagnosis.code, diagnosis.cause) == ("secret_type_invalid", Cause.SECRET_TYPE)


def test_a_key_that_is_not_good_is_named():
    """Revoked, not yet good, and no more."""
    for change, cause in (
        ({"state": KeyState.REVOKED}, Cause.KEY_REVOKED),
        ({"not_before": NOW + 60}, Cause.KEY_NOT_YET),
        ({"not_after": NOW - 60}, Cause.KEY_EXPIRED),
    ):
        ring = Keyring([Key(secret=StandardSecret.generate()), Key(secret=SECRET, **change)])

        diagnosis = found(BODY, signed(), ring)

        assert (diagnosis.cause, diagnosis.key_id) == (cause, SECRET.fingerprint)


def test_a_key_of_another_endpoint_is_named():
    """If it is given."""
    diagnosis = found(BODY, signed(), StandardSecret.generate(), others={"test mode": SECRET})

    assert (diagnosis.cause, diagnosis.proven) == (Cause.KEY_OF_ANOTHER, True)
    assert "test mode" in diagnosis.how


@pytest.mark.parametrize(("sent", "expected"), [(SVIX, STANDARD), (STANDARD, SVIX)])
def test_headers_of_another_profile_are_named(sent, expected):
    """Svix against webhook headers, both ways."""
    diagnosis = found(BODY, signed(profile=sent), profile=expected)

    assert (diagnosis.code, diagnosis.cause) == ("missing_header", Cause.OTHER_PROFILE)
    assert diagnosis.proven
    assert sent.name in diagnosis.how


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda one: one.name)
def test_every_profile_is_known_by_its_headers(profile):
    """Whichever is expected in its place."""
    keys = SECRET if "standard" in next(iter(profile.schemes.values())).kinds else RAW
    expected = SHOPIFY if profile is not SHOPIFY else GITHUB

    diagnosis = found(BODY, signed(BODY, keys, profile), keys, profile=expected)

    assert diagnosis.cause is Cause.OTHER_PROFILE
    assert diagnosis.proven is (profile is not MESSAGE)
    assert profile.name in diagnosis.how


@pytest.mark.parametrize(
    ("came", "change", "cause"),
    [
        (BODY, {}, Cause.NONE),
        (BODY + b"\n", {}, Cause.LINE_BREAK_ADDED),
        (dumped(), {}, Cause.JSON_REWRITTEN),
        (BODY, {"url": URL.replace("https", "http")}, Cause.URL_CHANGED),
        (BODY, {"url": "http://10.0.0.7:8000/hooks"}, Cause.URL_CHANGED),
        (BODY, {"url": URL + "/"}, Cause.URL_CHANGED),
        (BODY, {"method": "PUT"}, Cause.URL_CHANGED),
        (BODY, {"keys": StandardSecret.generate()}, Cause.KEY_UNKNOWN),
        (
            BODY,
            {"keys": Keyring([Key(secret=SECRET)]).revoke(SECRET.fingerprint)},
            Cause.KEY_REVOKED,
        ),
    ],
)
def test_a_signed_message_is_looked_into_too(came, change, cause):
    """RFC 9421: the digest tells of the body, the signature of the URL."""
    headers = signed(profile=MESSAGE) | {"host": "shop.example"}
    given = {"method": "POST", "url": URL, "keys": SECRET} | change

    diagnosis = found(came, headers, profile=MESSAGE, **given)

    assert (diagnosis.cause, diagnosis.proven) == (cause, cause is not Cause.KEY_UNKNOWN)


def test_mixed_headers_are_named():
    """The id of one set, the signature of the other."""
    headers = signed()
    headers["svix-id"] = headers.pop("webhook-id")

    assert found(BODY, headers).cause is Cause.HEADERS_MIXED


def test_a_header_that_is_gone_is_named():
    """A proxy that passes on what it knows."""
    headers = signed()
    del headers["webhook-timestamp"]

    diagnosis = found(BODY, headers)

    assert diagnosis.cause is Cause.HEADER_MISSING
    assert "webhook-timestamp" in diagnosis.how


def test_headers_that_came_twice_are_named():
    """In two lines, or joined by a proxy into one."""
    headers = signed()
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    event = headers["webhook-id"]

    twice = found(BODY, iter([*pairs, (b"Webhook-Id", event.encode())]))
    joined = found(BODY, {**headers, "webhook-id": f"{event}, {event}"})

    assert (twice.code, twice.cause, twice.proven) == ("duplicate_header", Cause.HEADER_TWICE, True)
    assert (joined.code, joined.cause) == ("malformed_header", Cause.HEADER_TWICE)


@pytest.mark.parametrize(
    ("at", "code", "cause", "hint"),
    [
        (NOW - 9_000, "too_old", Cause.LATE, "near 2.5 h"),
        (NOW + 7_190, "too_new", Cause.CLOCKS_DIFFER, "near 2 h"),
        (NOW - 301, "too_old", Cause.LATE, "301 s behind"),
        (NOW + 401, "too_new", Cause.CLOCKS_DIFFER, "401 s ahead"),
    ],
)
def test_a_clock_that_is_off_is_named(at, code, cause, hint):
    """With how far, and as proven by the signature."""
    diagnosis = found(BODY, signed(at=at))

    assert (diagnosis.code, diagnosis.cause, diagnosis.proven) == (code, cause, True)
    assert hint in diagnosis.how


def by_hand(stamp: str, head: str, body: bytes = BODY) -> dict[str, str]:
    """Headers of a sender that sends one thing and signs another."""
    import hmac

    mac = hmac.digest(base64.b64decode(TEXT[6:]), head.encode() + body, "sha256")
    return {
        "webhook-id": "msg_Ab1",
        "webhook-timestamp": stamp,
        "webhook-signature": f"v1,{base64.b64encode(mac).decode()}",
    }


@pytest.mark.parametrize(
    ("stamp", "head", "cause"),
    [
        (f"{NOW}000", f"msg_Ab1.{NOW}000.", Cause.TIMESTAMP_MILLISECONDS),
        (f"{NOW}", f"msg_Ab1.{NOW}000.", Cause.TIMESTAMP_MILLISECONDS),
        (f"{NOW}000", f"msg_Ab1.{NOW}.", Cause.TIMESTAMP_MILLISECONDS),
        (f"{NOW}.5", f"msg_Ab1.{NOW}.5.", Cause.TIMESTAMP_MALFORMED),
        (f"{NOW}", f"msg_Ab1.{NOW - 3}.", Cause.TIMESTAMP_CHANGED),
        (f"{NOW}", f"msg_Ab1.{NOW + 3}.", Cause.TIMESTAMP_CHANGED),
        (f"{NOW}", f"msg_ab1.{NOW}.", Cause.ID_CHANGED),
        (f"{NOW}", f"Ab1.{NOW}.", Cause.ID_CHANGED),
        (f"{NOW}", f"{NOW}.", Cause.OTHER_PROFILE),
        (f"{NOW}", "", Cause.OTHER_PROFILE),
    ],
)
def test_what_stands_before_the_body_is_tried(stamp, head, cause):
    """Another time, another id, or what another profile signs."""
    diagnosis = found(BODY, by_hand(stamp, head))

    assert (diagnosis.cause, diagnosis.proven) == (cause, True)


@pytest.mark.parametrize(
    "spell",
    [
        lambda mac: "v1," + mac.hex(),
        lambda mac: "v1," + mac.hex().upper(),
        lambda mac: "v1," + base64.urlsafe_b64encode(mac).decode(),
        lambda mac: "v1," + base64.b64encode(mac).decode().rstrip("="),
        lambda mac: "v1=" + base64.b64encode(mac).decode(),
        lambda mac: "V1," + base64.b64encode(mac).decode(),
        lambda mac: base64.b64encode(mac).decode(),
    ],
)
def test_a_signature_in_another_spelling_is_named(spell):
    """It is refused all the same, and the cause is told."""
    headers = signed()
    mac = base64.b64decode(headers["webhook-signature"].partition(",")[2])

    diagnosis = found(BODY, {**headers, "webhook-signature": spell(mac)})

    assert diagnosis.code in {"signature_mismatch", "no_supported_scheme"}
    assert diagnosis.cause in {Cause.SIGNATURE_SPELLING, Cause.SCHEME_UNKNOWN}
    assert diagnosis.proven


def test_a_scheme_without_a_key_is_named():
    """An asymmetric signature, and only a shared secret here."""
    diagnosis = found(BODY, {**signed(), "webhook-signature": "v1a,AAAA"})

    assert (diagnosis.code, diagnosis.cause) == ("no_supported_scheme", Cause.SCHEME_UNKNOWN)


def test_asymmetric_signatures_are_tried_too():
    """The same causes, with a public key."""
    pytest.importorskip("cryptography")
    from twh_platform.webhooks.ed25519 import PrivateKey

    key = PrivateKey.generate()

    changed = found(BODY + b"\n", signed(keys=key), key.public)
    held = found(BODY, signed(keys=key), key)

    assert (changed.cause, changed.proven) == (Cause.LINE_BREAK_ADDED, True)
    assert (held.code, held.cause) == ("secret_type_invalid", Cause.SECRET_TYPE)


def test_work_is_bounded():
    """A body of 16 MiB is tried once or twice, not two hundred times."""
    from twh_platform.webhooks import _case

    tried = []
    plain = _case._mac

    def counted(*given):
        fits = plain(*given)
        return lambda head, body: tried.append(len(body)) or fits(head, body)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_case, "_mac", counted)
        big = found(bytes(16 << 20), signed())
        tried_bytes, _ = sum(tried), tried.clear()
        ring = Keyring(Key(secret=StandardSecret.generate()) for _ in range(10))
        found(BODY, signed(), ring)

    assert big.cause is Cause.UNKNOWN
    assert 16 << 20 <= tried_bytes <= 64 << 20
    assert len(tried) <= 4_096


def test_a_large_body_with_many_keys_is_still_looked_into():
    """The most frequent changes of it, and how the secret is read."""
    ring = Keyring([*(Key(secret=StandardSecret.generate()) for _ in range(9)), Key(secret=SECRET)])
    body = bytes(1 << 20)

    assert found(body, signed(body + b"\n"), ring).cause is Cause.LINE_BREAK_CUT
    assert found(body + b"\n", signed(body), ring).cause is Cause.LINE_BREAK_ADDED
    assert found(body, by_hand(f"{NOW}", f"{NOW}.", body), SECRET).cause is Cause.OTHER_PROFILE


@pytest.mark.parametrize("body", [b"[" * 300_000, gzip.compress(bytes(50 << 20)), b'"\\ud800"'])
@pytest.mark.parametrize("signature", ["v1,", "\xff,\xff", "=,=" * 2_000, "t=,", "v1,=" + "A" * 44])
def test_what_is_hostile_is_unknown(body, signature):
    """Nothing of it raises, and nothing of it is in the diagnosis."""
    diagnosis = found(body, {**signed(), "webhook-signature": signature})

    assert diagnosis.cause in {Cause.UNKNOWN, Cause.SCHEME_UNKNOWN, Cause.HEADER_MALFORMED}
    assert not diagnosis.proven


def test_nothing_secret_and_nothing_sent_is_told():
    """Neither the secret, nor a signature, nor what came, is in any field or its repr."""
    headers = signed() | {"webhook-id": "msg_<marked>", "webhook-timestamp": "marked"}

    for body, keys in ((b"marked", SECRET), (BODY, RawSecret(TEXT)), (BODY + b"\n", SECRET)):
        for more in (headers, signed()):
            text = repr(found(body, more, keys)) + found(body, more, keys).remedy
            mac = more["webhook-signature"].removeprefix("v1,")

            assert not [one for one in (TEXT, TEXT[6:], mac, "marked") if one in text]


def test_other_headers_can_be_anything():
    """As `verify` passes them over, so does the doctor."""
    headers = {**signed(), "x-count": 7, "x-none": None, "x-list": ["a"]}

    assert found(BODY + b"\n", headers).cause is Cause.LINE_BREAK_ADDED


@pytest.mark.parametrize("body", ["text", None, {"a": 1}])
def test_what_is_no_body_is_a_mistake_of_the_caller(body):
    """As with `verify`."""
    with pytest.raises(WebhookUsageError) as caught:
        found(body, signed())

    assert caught.value.code == "body_not_bytes"


def test_every_cause_that_is_found_has_a_remedy():
    """So that whoever reads it knows where to look."""
    from twh_platform.webhooks._causes import REMEDIES

    assert set(Cause) - set(REMEDIES) == {Cause.NONE}
