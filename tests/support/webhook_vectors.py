"""
What `tests/vectors/webhooks.json` is made with: plain `hmac`, fixed inputs, none of our code.

Run ``python -m tests.support.webhook_vectors`` to print the file.  It is frozen: it changes
only by addition.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

__all__ = ["made", "message_headers", "written"]

Pairs = list[tuple[str, str]]
Case = dict[str, Any]

NOW = 1_767_225_600  # 2026-01-01T00:00:00Z
ID = "msg_2KWPBgLlAfxdpx2AI54pPJ85f4W"
BODY = b'{"type":"order.paid","data":{"id":7,"name":"\xc3\xa9"}}'
URL = "https://receiver.example/hooks/7?from=twh"
ORDER = 2**252 + 27742317777372353535851937790883648493

NOTE = (
    "Made by tests/support/webhook_vectors.py with fixed inputs; changed only by addition. "
    "Characters of header values are bytes (Latin-1). docs/reference/webhook-vectors.md "
    "says what each field means."
)
SOURCES = {
    "standard-webhooks": "https://github.com/standard-webhooks/standard-webhooks (libraries/*)",
    "svix": "https://github.com/svix/svix-webhooks",
    "github": "https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries",
    "slack": "https://docs.slack.dev/authentication/verifying-requests-from-slack",
    "convoy": "https://github.com/frain-dev/convoy (pkg/signature/testdata)",
    "rfc4231": "https://www.rfc-editor.org/rfc/rfc4231",
    "rfc9421": "https://www.rfc-editor.org/rfc/rfc9421, appendix B.2",
    "rfc9530": "https://www.rfc-editor.org/rfc/rfc9530, appendix B",
}


def _seeded(label: str, size: int) -> bytes:
    return hashlib.shake_256(f"twh webhook vectors: {label}".encode()).digest(size)


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _mac(key: bytes, message: bytes) -> bytes:
    return hmac.new(key, message, hashlib.sha256).digest()


KEY = _seeded("key", 32)
OLD = _seeded("old key", 32)
OTHER = _seeded("a key of somebody else", 32)
SEED = _seeded("ed25519", 32)
PRIVATE = Ed25519PrivateKey.from_private_bytes(SEED)
PUBLIC = PRIVATE.public_key().public_bytes_raw()


def _key(raw: bytes, kind: str, name: str = "k1", **more: Any) -> dict[str, Any]:
    prefix = {"standard": "whsec_", "public": "whpk_", "raw": ""}[kind]
    field = "base64" if kind == "raw" else "text"
    return {"id": name, "type": kind, field: prefix + _b64(raw), **more}


@dataclass(frozen=True, kw_only=True)
class Sender:
    """
    How one profile signs, written a second time.
    """

    name: str
    header: str
    event: str = ""
    stamp: str = ""
    field: bool = False
    before: str = ""
    encode: Callable[[bytes], str] = bytes.hex
    kind: str = "raw"
    mark: str = ""
    between: str = ","
    each: bool = True
    scheme: str = "v1"
    several: bool = True

    @property
    def timed(self) -> bool:
        return bool(self.stamp) or self.field

    def token(self, key: bytes, *, body: bytes, event: str = ID, at: Any = NOW) -> str:
        head = self.before.format(id=event, t=at).encode("latin-1")
        return self.encode(_mac(key, head + body))

    def headers(
        self, *tokens: str, event: str = ID, at: Any = NOW, mark: str | None = None
    ) -> Pairs:
        mark = self.mark if mark is None else mark
        value = self.between.join(
            f"{mark if self.each or not i else ''}{t}" for i, t in enumerate(tokens)
        )
        value = f"t={at},{value}" if self.field else value
        found = [(self.event, event), (self.stamp, str(at)), (self.header, value)]
        return [(name, text) for name, text in found if name]

    def signed(self, body: bytes = BODY, key: bytes = KEY, **said: Any) -> Pairs:
        return self.headers(self.token(key, body=body, **said), **said)


def _standard(name: str, prefix: str) -> Sender:
    return Sender(
        name=name,
        header=f"{prefix}-signature",
        event=f"{prefix}-id",
        stamp=f"{prefix}-timestamp",
        before="{id}.{t}.",
        encode=_b64,
        kind="standard",
        mark="v1,",
        between=" ",
    )


SENDERS = [
    _standard("standard", "webhook"),
    _standard("svix", "svix"),
    Sender(
        name="twh",
        header="x-twh-signature",
        event="x-twh-id",
        field=True,
        before="{id}.{t}.",
        kind="standard",
        mark="v1=",
    ),
    Sender(name="stripe", header="stripe-signature", field=True, before="{t}.", mark="v1="),
    Sender(name="convoy", header="x-convoy-signature", field=True, before="{t},", mark="v1="),
    Sender(
        name="slack",
        header="x-slack-signature",
        stamp="x-slack-request-timestamp",
        before="v0:{t}:",
        mark="v0=",
        each=False,
        scheme="v0",
    ),
    Sender(
        name="github", header="x-hub-signature-256", mark="sha256=", each=False, scheme="sha256"
    ),
    Sender(name="shopify", header="x-shopify-hmac-sha256", encode=_b64, scheme="", several=False),
    Sender(name="outpost", header="x-outpost-signature", mark="v0=", each=False, scheme="v0"),
]


def _case(
    sender: Sender,
    what: str,
    headers: Pairs,
    code: str = "",
    *,
    body: bytes = BODY,
    now: Any = NOW,
    keys: list[dict[str, Any]] | None = None,
    event: str = ID,
    at: int = NOW,
    key_id: str = "k1",
    source: str = "",
    scheme: str | None = None,
) -> Case:
    case = {
        "id": f"{sender.name}: {what}",
        "profile": sender.name,
        "keys": [_key(KEY, sender.kind)] if keys is None else keys,
        "headers": [list(pair) for pair in headers],
        "body": _b64(body),
        "now": now,
        "result": "invalid" if code else "valid",
    }
    if code:
        return {**case, "code": code}
    stamp = at if sender.timed else 0
    verified = {
        "id": event if sender.event else "",
        "timestamp": stamp,
        "age": now - stamp if stamp else 0,
        "key_id": key_id,
        "scheme": sender.scheme if scheme is None else scheme,
    }
    return {**case, "verified": verified, **({"source": source} if source else {})}


def _with(headers: Pairs, name: str, value: str | None) -> Pairs:
    kept = [(one, value if one == name else text) for one, text in headers]
    return [(one, text) for one, text in kept if text is not None]


def _common(s: Sender) -> Iterator[Case]:
    good = s.signed()
    token = s.token(KEY, body=BODY)
    old, new = _key(OLD, s.kind, "old"), _key(KEY, s.kind, "new")
    yield _case(s, "signed", good)
    for what, body in (
        ("empty body", b""),
        ("not UTF-8", b"\xff\xfe\x00\r\n"),
        ("2 KiB", _seeded("body", 2048)),
    ):
        yield _case(s, what, s.signed(body), body=body)
    yield _case(s, "names in capitals", [(name.upper(), text) for name, text in good])
    yield _case(
        s, "other headers beside", [("host", "x"), *good, ("x-other", "1"), ("x-other", "2")]
    )
    yield _case(s, "the old key of two", s.signed(key=OLD), keys=[new, old], key_id="old")
    yield _case(s, "the new key of two", good, keys=[old, new], key_id="new")
    yield _case(s, "pending key", good, keys=[_key(KEY, s.kind, state="pending")])
    yield _case(s, "retiring key", good, keys=[_key(KEY, s.kind, state="retiring")])
    yield _case(s, "last second of a key", good, keys=[_key(KEY, s.kind, not_after=NOW)])
    yield _case(s, "first second of a key", good, keys=[_key(KEY, s.kind, not_before=NOW)])
    wrong = "signature_mismatch"
    yield _case(s, "key after its time", good, wrong, keys=[_key(KEY, s.kind, not_after=NOW - 1)])
    yield _case(s, "key before its time", good, wrong, keys=[_key(KEY, s.kind, not_before=NOW + 1)])
    yield _case(s, "other body", good, wrong, body=BODY + b" ")
    yield _case(s, "body with a line's end", good, wrong, body=BODY + b"\n")
    yield _case(s, "body with a byte order mark", good, wrong, body=b"\xef\xbb\xbf" + BODY)
    yield _case(s, "one bit of the body", good, wrong, body=bytes([BODY[0] ^ 1]) + BODY[1:])
    yield _case(s, "other key", s.signed(key=OTHER), wrong)
    yield _case(s, "key with a byte more", s.signed(key=KEY + b"\1"), wrong)
    yield _case(s, "signature cut by a byte", s.headers(token[:-4]), wrong)
    yield _case(s, "signature with more", s.headers(token + token[:4]), wrong)
    first = "A" if token[0] != "A" else "B"
    yield _case(s, "one character of the signature", s.headers(first + token[1:]), wrong)
    yield _case(s, "signature in the other encoding", s.headers(_other_encoding(s, token)), wrong)
    for header, _ in good:
        yield _case(s, f"no {header}", _with(good, header, None), "missing_header")
        yield _case(s, f"empty {header}", _with(good, header, ""), "missing_header")
        twice = [*good, (header.title(), dict(good)[header])]
        yield _case(s, f"two of {header}", twice, "duplicate_header")
    long = _with(good, s.header, dict(good)[s.header] + " " * 8_192)
    yield _case(s, "header above 8 KiB", long, "malformed_header")
    if s.encode is _b64:
        yield from _base64(s, token)
    else:
        yield _case(s, "hexadecimal in capitals", s.headers(token.upper()), wrong)
    if s.several:
        yield from _tokens(s, token)


def _other_encoding(s: Sender, token: str) -> str:
    return base64.b64decode(token).hex() if s.encode is _b64 else _b64(bytes.fromhex(token))


def _base64(s: Sender, token: str) -> Iterator[Case]:
    wrong = "signature_mismatch"
    last = chr(ord(token[-2]) + 1)
    spoiled = {
        "base64 without padding": token.rstrip("="),
        "base64 with bits after the last byte": f"{token[:-2]}{last}=",
        "base64 with a foreign character": f"{token[:8]}!{token[8:]}",
        "base64 with a line's end": f"{token}\n",
    }
    body = next(one for one in _bodies() if {"+", "/"} & set(s.token(KEY, body=one)))
    safe = s.token(KEY, body=body).replace("+", "-").replace("/", "_")
    for what, text in spoiled.items():
        yield _case(s, what, s.headers(text), wrong)
    yield _case(s, "URL-safe base64", s.headers(safe), wrong, body=body)


def _bodies() -> Iterator[bytes]:
    return (str(number).encode() for number in range(1000))


def _tokens(s: Sender, token: str) -> Iterator[Case]:
    other = s.token(OTHER, body=BODY)
    yield _case(s, "last of 16", s.headers(*[other] * 15, token))
    yield _case(s, "first of 16", s.headers(token, *[other] * 15))
    yield _case(s, "17 signatures", s.headers(token, *[other] * 16), "malformed_header")
    yield _case(s, "empty signature", s.headers(""), "signature_mismatch")
    unknown = "no_supported_scheme"
    for mark in (
        ("V1,", "v2,", "v1a,", "v1:", "v1", "") if s.between == " " else ("V1=", "v9=", "v1:", "")
    ):
        yield _case(s, f"scheme {mark!r}", s.headers(token, mark=mark), unknown)
    if s.each:
        for junk in ("junk", "v9" + s.mark[-1] + other, s.mark + "\xe9\xff", s.mark + "a", ""):
            value = s.between.join([junk, s.mark + token, junk])
            if s.field:
                value = f"t={NOW},{value}"
            yield _case(s, f"{junk!r} around it", _with(s.signed(), s.header, value))


def _times(s: Sender) -> Iterator[Case]:
    yield _case(s, "300 s old", s.signed(), now=NOW + 300)
    yield _case(s, "300 s old, and a part of a second", s.signed(), now=NOW + 300.75) | _facts(s)
    yield _case(s, "301 s old", s.signed(), "too_old", now=NOW + 301)
    yield _case(s, "300 s ahead", s.signed(), now=NOW - 300)
    yield _case(s, "301 s ahead", s.signed(), "too_new", now=NOW - 301)
    yield _case(s, "a day ahead", s.signed(at=NOW + 86_400), "too_new")
    yield _case(s, "year 9999", s.signed(at=253_402_300_799), "too_new")
    yield _case(s, "first second of 1970", s.signed(at=1), "too_old")
    yield _case(
        s, "other timestamp", s.headers(s.token(KEY, body=BODY), at=NOW + 1), "signature_mismatch"
    )
    spellings = [
        f"{NOW}.0",
        f"0{NOW}",
        f"+{NOW}",
        f"{NOW}000000",
        "0",
        "-1",
        "1.7e9",
        "nan",
        "inf",
        "0x69",
        f"{NOW:_}",
        "\xd9\xa1",
        f"{NOW}\xb9",
        f"{NOW}L",
        "9" * 1000,
    ]
    for text in spellings:
        what = text if len(text) < 40 else "of 1000 digits"
        yield _case(s, f"timestamp {what}", s.signed(at=text), "timestamp_malformed")
    if s.field:
        value, name = dict(s.signed())[s.header], s.header
        pure = value.partition(",")[2]
        yield _case(s, "timestamp not first", _with(s.signed(), name, f"{pure},t={NOW}"))
        yield _case(
            s, "timestamp twice", _with(s.signed(), name, f"t={NOW},{value}"), "malformed_header"
        )
        yield _case(s, "no timestamp", _with(s.signed(), name, pure), "malformed_header")
        yield _case(
            s, "empty timestamp", _with(s.signed(), name, f"t=,{pure}"), "timestamp_malformed"
        )
        yield _case(
            s,
            "space after the comma",
            _with(s.signed(), name, f"t={NOW}, {pure}"),
            "no_supported_scheme",
        )


def _facts(s: Sender) -> dict[str, Any]:
    return {
        "verified": {
            "id": ID if s.event else "",
            "timestamp": NOW,
            "age": 300,
            "key_id": "k1",
            "scheme": s.scheme,
        }
    }


def _ids(s: Sender) -> Iterator[Case]:
    for event in ("a", "_-0", "x" * 256):
        yield _case(s, f"id {event[:8]!r} of {len(event)}", s.signed(event=event), event=event)
    for event in ("a.b", "x" * 257, "a b", " a", "a ", "a,b", "\xe9", "a\n", "a\0", "a/b"):
        yield _case(
            s, f"id {event[:8]!r} of {len(event)}", s.signed(event=event), "malformed_header"
        )
    yield _case(
        s, "other id", s.headers(s.token(KEY, body=BODY), event="msg_other"), "signature_mismatch"
    )
    moved = s.headers(s.token(KEY, body=f"{NOW}.".encode() + BODY), event=f"{ID}.{NOW}")
    yield _case(s, "a part of the body in the id", moved, "malformed_header")


def _mixed() -> Iterator[Case]:
    standard, svix = SENDERS[0], SENDERS[1]
    names = [name for name, _ in standard.signed()]
    for name in names:
        pairs = [
            (one.replace("webhook", "svix") if one == name else one, text)
            for one, text in standard.signed()
        ]
        yield _case(standard, f"{name} of the other set", pairs, "missing_header")
    yield _case(standard, "the other set", svix.signed(), "missing_header")
    yield _case(svix, "the other set", standard.signed(), "missing_header")
    joined = _with(standard.signed(), "webhook-id", f"{ID}, {ID}")
    yield _case(standard, "ids joined by a proxy", joined, "malformed_header")


def _asymmetric() -> Iterator[Case]:
    s = SENDERS[0]
    keys = [_key(PUBLIC, "public")]
    signature = PRIVATE.sign(f"{ID}.{NOW}.".encode() + BODY)
    text, mac = f"v1a,{_b64(signature)}", f"v1,{s.token(KEY, body=BODY)}"

    def case(what: str, value: str, code: str = "", **more: Any) -> Case:
        more.setdefault("keys", keys)
        return _case(
            s, f"v1a, {what}", _with(s.signed(), s.header, value), code, scheme="v1a", **more
        )

    yield case("signed", text)
    yield case("beside a v1", f"{mac} {text}")
    yield case("both keys", text, keys=[_key(KEY, "standard", "shared"), *keys])
    yield case("other body", text, "signature_mismatch", body=BODY + b" ")
    yield case("only a v1", mac, "no_supported_scheme")
    forged = f"v1,{s.token(PUBLIC, body=BODY)}"
    yield case("a MAC with the public key", forged, "no_supported_scheme")
    yield case("a MAC as v1a", f"v1a,{s.token(PUBLIC, body=BODY)}", "signature_mismatch")
    again = (int.from_bytes(signature[32:], "little") + ORDER).to_bytes(32, "little")
    yield case("S + L", f"v1a,{_b64(signature[:32] + again)}", "signature_mismatch")
    yield case("63 bytes", f"v1a,{_b64(signature[:63])}", "signature_mismatch")
    yield case("empty", "v1a,", "signature_mismatch")
    yield case("without padding", text.rstrip("="), "signature_mismatch")
    yield case("only a shared secret", text, "no_supported_scheme", keys=[_key(KEY, "standard")])


def _official() -> Iterator[Case]:
    standard, github, slack, convoy = SENDERS[0], SENDERS[6], SENDERS[5], SENDERS[4]

    def shared(text: str) -> list[dict[str, Any]]:
        return [{"id": "k1", "type": "standard", "text": text}]

    first: Case = {
        "event": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "at": 1614265330,
        "now": 1614265330,
        "body": b'{"test": 2432232314}',
    }
    event, at = first["event"], first["at"]
    yield _case(
        standard,
        "official 1",
        standard.headers("g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", event=event, at=at),
        keys=shared("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
        source="standard-webhooks",
        **first,
    )
    v1a = (
        "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+"
        "m7TBAg=="
    )
    public = [
        {"id": "k1", "type": "public", "text": "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="}
    ]
    for sender in SENDERS[:2]:
        yield _case(
            sender,
            "official v1a",
            sender.headers(v1a, mark="", event=event, at=at),
            keys=public,
            source="svix",
            scheme="v1a",
            **first,
        )
    second: Case = {
        "event": "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
        "at": 1649367553,
        "now": 1649367553,
        "body": b'{"email":"test@example.com","username":"test_user"}',
    }
    yield _case(
        standard,
        "official 2",
        standard.headers(
            "tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=", event=second["event"], at=second["at"]
        ),
        keys=shared("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"),
        source="standard-webhooks",
        **second,
    )
    yield _case(
        github,
        "official",
        github.headers("757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"),
        body=b"Hello, World!",
        keys=[_key(b"It's a Secret to Everybody", "raw")],
        source="github",
    )
    yield _case(
        slack,
        "official",
        slack.headers(
            "a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503", at=1531420618
        ),
        at=1531420618,
        now=1531420618,
        body=SLACK,
        keys=[_key(b"8f742231b10e8888abcd99yyyzzz85a5", "raw")],
        source="slack",
    )
    yield _case(
        convoy,
        "official",
        convoy.headers(
            "77b8b9269f25a199846a55a2bd25b3fba151c70fdae60bb1dcd87fbbc943c55c", at=1700000000
        ),
        at=1700000000,
        now=1700000000,
        body=b'{"event":"charge.success","amount":1000,"currency":"NGN"}',
        keys=[_key(b"convoy-webhook-secret", "raw")],
        source="convoy",
    )
    for number, key, body, expected in RFC_4231:
        if 8 <= len(key) <= 64:
            yield _case(
                github,
                f"RFC 4231, case {number}",
                github.headers(expected),
                body=body,
                keys=[_key(key, "raw")],
                source="rfc4231",
            )


SLACK = (
    b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V"
    b"&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text="
    b"&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGl"
    b"gcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"
)
RFC_4231 = [
    (
        1,
        b"\x0b" * 20,
        b"Hi There",
        "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
    ),
    (
        2,
        b"Jefe",
        b"what do ya want for nothing?",
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
    ),
    (
        3,
        b"\xaa" * 20,
        b"\xdd" * 50,
        "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe",
    ),
    (
        4,
        bytes(range(1, 26)),
        b"\xcd" * 50,
        "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b",
    ),
    (
        6,
        b"\xaa" * 131,
        b"Test Using Larger Than Block-Size Key - Hash Key First",
        "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
    ),
]

MESSAGE = Sender(
    name="message",
    header="signature",
    event="webhook-id",
    field=True,
    kind="standard",
    scheme="hmac-sha256",
)
COVERED = '("@method" "@target-uri" "content-digest" "webhook-id")'
PARAMS = COVERED + ';created={created};keyid="{keyid}";alg="{alg}";tag="{tag}"'


def _digest(body: bytes) -> str:
    return f"sha-256=:{_b64(hashlib.sha256(body).digest())}:"


def message_headers(
    body: bytes = BODY,
    *,
    event: str = ID,
    created: Any = NOW,
    keyid: str = "k1",
    alg: str = "hmac-sha256",
    tag: str = "twh-webhook",
    method: str = "POST",
    url: str = URL,
    params: str = PARAMS,
    digest: str | None = None,
    sign: Callable[[bytes], bytes] | None = None,
    label: str = "twh",
) -> Pairs:
    """
    The headers of RFC 9421; *params* may cover other components.
    """
    digest = _digest(body) if digest is None else digest
    params = params.format(created=created, keyid=keyid, alg=alg, tag=tag)
    values = {"@method": method, "@target-uri": url, "content-digest": digest, "webhook-id": event}
    values["@authority"] = "receiver.example"
    names = [name.split('"')[0] for name in params.partition(")")[0].split('"')[1::2]]
    lines = [f'"{name}": {values[name]}' for name in names]
    base = "\n".join([*lines, f'"@signature-params": {params}']).encode("latin-1")
    made = sign(base) if sign else _mac(KEY, base)
    return [
        ("webhook-id", event),
        ("content-digest", digest),
        ("signature-input", f"{label}={params}"),
        ("signature", f"{label}=:{_b64(made)}:"),
    ]


def _message(
    what: str, headers: Pairs, code: str = "", *, method: str = "POST", url: str = URL, **more: Any
) -> Case:
    return _case(MESSAGE, what, headers, code, **more) | {"method": method, "url": url}


def _messages() -> Iterator[Case]:
    make, case = message_headers, _message
    good, wrong, bad = make(), "signature_mismatch", "malformed_header"
    public = [_key(PUBLIC, "public")]
    ed = make(alg="ed25519", sign=PRIVATE.sign)
    yield case("signed", good)
    yield case("ed25519", ed, keys=public, scheme="ed25519")
    for what, body in (
        ("empty body", b""),
        ("not UTF-8", b"\xff\xfe\x00\r\n"),
        ("2 KiB", _seeded("body", 2048)),
    ):
        yield case(what, make(body), body=body)
    yield case("names in capitals", [(name.upper(), text) for name, text in good])
    yield case(
        "host in capitals and the port of the scheme",
        good,
        url=URL.replace("receiver.example", "Receiver.Example:443"),
    )
    yield case("no path", make(url="https://receiver.example/"), url="https://receiver.example")
    yield case(
        "the second key",
        make(keyid="k2"),
        keys=[_key(OLD, "standard"), _key(KEY, "standard", "k2")],
        key_id="k2",
    )
    yield case("300 s old", good, now=NOW + 300)
    yield case("300 s ahead", good, now=NOW - 300)
    yield case("301 s old", good, "too_old", now=NOW + 301)
    yield case("301 s ahead", good, "too_new", now=NOW - 301)
    for text in ("0", "-1", f"{NOW}.0", f"0{NOW}", f'"{NOW}"', f"{NOW}000000"):
        yield case(f"created {text}", make(created=text), "timestamp_malformed")
    yield case("other body", good, wrong, body=BODY + b" ")
    yield case(
        "other body with its digest",
        _with(good, "content-digest", _digest(b"other")),
        wrong,
        body=b"other",
    )
    yield case("other method", good, wrong, method="PUT")
    yield case("other path", good, wrong, url=URL.replace("/7", "/8"))
    yield case("other query", good, wrong, url=URL + "&a=b")
    yield case("no query", good, wrong, url=URL.partition("?")[0])
    yield case("other host", good, wrong, url=URL.replace("receiver", "other"))
    yield case("other scheme", good, wrong, url=URL.replace("https", "http"))
    yield case("other port", good, wrong, url=URL.replace("example/", "example:8443/"))
    yield case("escaped otherwise", good, wrong, url=URL.replace("hooks", "%68ooks"))
    yield case("other id", _with(good, "webhook-id", "msg_other"), wrong)
    yield case("id with a full stop", make(event="a.b"), bad)
    yield case("other key", make(sign=lambda base: _mac(OTHER, base)), wrong)
    yield case("unknown key", make(keyid="k9"), "key_unknown")
    yield case(
        "key after its time", good, "key_unknown", keys=[_key(KEY, "standard", not_after=NOW - 1)]
    )
    yield case("algorithm of another key", make(alg="ed25519"), "no_supported_scheme")
    yield case(
        "a MAC with the public key",
        make(sign=lambda base: _mac(PUBLIC, base)),
        "no_supported_scheme",
        keys=public,
    )
    yield case(
        "a MAC as ed25519",
        make(alg="ed25519", sign=lambda base: _mac(PUBLIC, base)),
        wrong,
        keys=public,
    )
    signature = base64.b64decode(dict(ed)["signature"][5:-1])
    again = (int.from_bytes(signature[32:], "little") + ORDER).to_bytes(32, "little")
    malleated = make(alg="ed25519", sign=lambda _: signature[:32] + again)
    yield case("S + L", malleated, wrong, keys=public)
    yield from _message_forms(good, bad)


def _message_forms(good: Pairs, bad: str) -> Iterator[Case]:
    make, case = message_headers, _message
    for header, _ in good:
        yield case(f"no {header}", _with(good, header, None), "missing_header")
        yield case(f"empty {header}", _with(good, header, ""), "missing_header")
        yield case(
            f"two of {header}", [*good, (header.title(), dict(good)[header])], "duplicate_header"
        )
    rest = PARAMS.partition(")")[2]
    others = {
        "nothing covered": "()",
        "digest not covered": '("@method" "@target-uri" "webhook-id")',
        "id not covered": '("@method" "@target-uri" "content-digest")',
        "URL not covered": '("@method" "content-digest" "webhook-id")',
        "one more covered": COVERED[:-1] + ' "@authority")',
        "another order": '("content-digest" "@method" "@target-uri" "webhook-id")',
        "covered twice": COVERED[:-1] + ' "webhook-id")',
        "a space more": COVERED.replace(" ", "  "),
    }
    for what, covered in others.items():
        yield case(what, make(params=covered + rest), bad)
    for what, params in {
        "no created": PARAMS.replace(";created={created}", ""),
        "no keyid": PARAMS.replace(';keyid="{keyid}"', ""),
        "no alg": PARAMS.replace(';alg="{alg}"', ""),
        "no tag": PARAMS.replace(';tag="{tag}"', ""),
        "expires": PARAMS + ";expires=1999999999",
        "nonce": PARAMS + ';nonce="n"',
        "keyid first": COVERED + ';keyid="{keyid}";created={created};alg="{alg}";tag="{tag}"',
        "alg as a token": PARAMS.replace('"{alg}"', "{alg}"),
    }.items():
        yield case(what, make(params=params), bad)
    yield case("other tag", make(tag="other"), bad)
    yield case("keyid with a quote", make(keyid='k\\"1'), bad)
    yield case("keyid of 257", make(keyid="k" * 257), bad)
    yield case("other label", make(label="sig1"), bad)
    given, signature = dict(good)["signature-input"], dict(good)["signature"]
    for what, header, value in (
        ("two labels in signature-input", "signature-input", f"{given}, other=();created=1"),
        ("two labels in signature", "signature", f"{signature}, other=:AAAA:"),
        ("1000 labels", "signature-input", ", ".join(f"a{n}=()" for n in range(1000))),
        ("label twice", "signature", f"{signature}, {signature}"),
        ("signature empty", "signature", "twh=::"),
        ("signature without colons", "signature", signature.replace(":", "")),
        ("signature cut", "signature", signature[:-5] + ":"),
        (
            "signature without padding",
            "signature",
            signature.replace("=:", ":").replace("twh:", "twh=:"),
        ),
        ("signature with a parameter", "signature", signature + ";a"),
        ("space before", "signature", " " + signature),
        (
            "digest with SHA-512",
            "content-digest",
            f"sha-512=:{_b64(hashlib.sha512(BODY).digest())}:",
        ),
        (
            "two digests",
            "content-digest",
            f"{_digest(BODY)}, {_digest(BODY).replace('256', '512')}",
        ),
        ("digest without colons", "content-digest", _digest(BODY).replace(":", "")),
        ("digest is cut", "content-digest", "sha-256=:AAAA:"),
    ):
        yield case(what, _with(good, header, value), bad)
    tail = signature[:-3] + chr(ord(signature[-3]) + 1) + "=:"
    yield case("bits after the last byte", _with(good, "signature", tail), "signature_mismatch")


def _secrets() -> Iterator[dict[str, Any]]:
    good = "whsec_" + _b64(KEY)
    for text in (good, "whsec_" + _b64(_seeded("24", 24)), "whsec_" + _b64(_seeded("64", 64))):
        yield {"type": "standard", "text": text, "result": "valid"}
    bad = [
        "",
        "whsec_",
        "whsec_!!!!",
        _b64(KEY),
        good + "\n",
        " " + good,
        good.upper(),
        "WHSEC_" + good[6:],
        "whsec_" + good,
    ]
    bad += ["whsec_" + _b64(_seeded("short", size)) for size in (1, 23, 65, 75)]
    bad += [
        good.rstrip("="),
        good[:10] + "!" + good[10:],
        "whsec_" + "-_" * 16,
        "whpk_" + _b64(PUBLIC),
        good + "A",
    ]
    for text in bad:
        yield {"type": "standard", "text": text, "result": "invalid"}
    yield {"type": "public", "text": "whpk_" + _b64(PUBLIC), "result": "valid"}
    p = 2**255 - 19
    order8 = "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"
    points = [bytes(32), b"\1" + bytes(31), (p - 1).to_bytes(32, "little"), bytes.fromhex(order8)]
    points += [number.to_bytes(32, "little") for number in (p, p + 1, 2**255 - 1, 2, 1 + 2**255)]
    for text in ["whpk_" + _b64(one) for one in points] + [
        "whpk_" + _b64(PUBLIC[:31]),
        "whsec_" + _b64(PUBLIC),
    ]:
        yield {"type": "public", "text": text, "result": "invalid"}
    yield from _other_kinds()


def _primitives() -> Iterator[dict[str, Any]]:
    for number, key, message, expected in RFC_4231:
        yield {
            "kind": "hmac-sha256",
            "id": f"RFC 4231, case {number}",
            "source": "rfc4231",
            "key": _b64(key),
            "message": _b64(message),
            "mac": expected,
        }
    for body, expected in (
        (b'{"hello": "world"}', "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:"),
        (b'{"hello": "world"}\n', "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:"),
    ):
        yield {
            "kind": "content-digest",
            "source": "rfc9530",
            "body": _b64(body),
            "digest": expected,
        }
    date = ["date", "Tue, 20 Apr 2021 02:07:55 GMT"]
    authority, kind = ["@authority", "example.com"], ["content-type", "application/json"]
    yield {
        "kind": "signature-base",
        "id": "RFC 9421, B.2.5",
        "source": "rfc9421",
        "components": [date, authority, kind],
        "params": '("date" "@authority" "content-type")'
        ';created=1618884473;keyid="test-shared-secret"',
        "algorithm": "hmac-sha256",
        "key": "uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtbmHhIDi6pcl8jsasj"
        "lTMtDQ==",
        "signature": "pxcQw6G3AjtMBQjwo8XzkZf/bws5LelbaMk5rGIGtE8=",
    }
    yield {
        "kind": "signature-base",
        "id": "RFC 9421, B.2.6",
        "source": "rfc9421",
        "components": [
            date,
            ["@method", "POST"],
            ["@path", "/foo"],
            authority,
            kind,
            ["content-length", "18"],
        ],
        "params": '("date" "@method" "@path" "@authority" "content-type" "content-length")'
        ';created=1618884473;keyid="test-key-ed25519"',
        "algorithm": "ed25519",
        "key": "JrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs=",
        "signature": "wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQ"
        "v5lIp5WPpBKRCw==",
    }


def _other_kinds() -> Iterator[dict[str, Any]]:
    """
    A key pair's texts where a shared secret is expected; a prefix that belongs to a raw one.
    """
    for text in ("a shared secret", "whsec_" + _b64(KEY), "x" * 8, "x" * 64):
        yield {"type": "raw", "text": text, "result": "valid"}
    pair = [
        "whpk_" + _b64(PUBLIC),
        "whsk_" + _b64(SEED),
        "whsk_" + _b64(SEED + PUBLIC),
    ]
    short = ["whpk_", "whpk_" + "x" * 19, "whsk_" + "x" * 19]
    for text in [*pair, *short, "", "x" * 7, "x" * 65, " a shared secret", "a shared secret\n"]:
        yield {"type": "raw", "text": text, "result": "invalid"}
    for text in pair[1:]:
        yield {"type": "standard", "text": text, "result": "invalid"}
        yield {"type": "public", "text": text, "result": "invalid"}


def _mistaken() -> Iterator[Case]:
    """
    A receiver that was given a key pair's text as its shared secret, and a MAC that fits it.
    """
    texts = {"public": ("whpk_", PUBLIC), "private": ("whsk_", SEED)}
    for s in [*SENDERS, MESSAGE]:
        for half, (prefix, raw) in texts.items():
            text = prefix + _b64(raw)
            entry = {"id": "k1", "type": s.kind}
            entry |= {"base64": _b64(text.encode())} if s.kind == "raw" else {"text": text}
            what = f"the {half} key's text as the shared secret"
            # Those who take a standard secret would have read the bytes behind the prefix.
            key = text.encode() if s.kind == "raw" else raw
            if s is MESSAGE:
                headers = message_headers(sign=partial(_mac, key))
                yield _message(what, headers, "secret_malformed", keys=[entry])
            else:
                yield _case(s, what, s.signed(key=key), "secret_malformed", keys=[entry])


def _vectors() -> Iterator[Case]:
    yield from _official()
    for sender in SENDERS:
        yield from _common(sender)
        if sender.timed:
            yield from _times(sender)
        if sender.event:
            yield from _ids(sender)
    yield from _mixed()
    yield from _asymmetric()
    yield from _messages()
    yield from _mistaken()


def made() -> dict[str, Any]:
    """
    All of the file.
    """
    return {
        "format": "twh webhooks",
        "version": 1,
        "note": NOTE,
        "sources": SOURCES,
        "secrets": list(_secrets()),
        "primitives": list(_primitives()),
        "vectors": list(_vectors()),
    }


def written() -> str:
    """
    The file, a vector to a line.
    """
    lines = []
    for name, value in made().items():
        text = json.dumps(value)
        if isinstance(value, list):
            rows = ",\n".join(f"  {json.dumps(row)}" for row in value)
            text = f"[\n{rows}\n ]"
        lines.append(f' "{name}": {text}')
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    print(written(), end="")  # noqa: T201
