"""
One fixed profile of HTTP message signatures (RFC 9421), with the body by its digest (RFC 9530).

The headers of a webhook, byte by byte; a sender has no choice but the four values::

    content-digest:  sha-256=:BASE64:
    webhook-id:      ID
    signature-input: twh=("@method" "@target-uri" "content-digest" "webhook-id");created=SECONDS;
                     keyid="KEY";alg="ed25519";tag="twh-webhook"          (on one line)
    signature:       twh=:BASE64:

What is signed is under 4096 bytes whatever the body is, so that a key service can sign
it.  The signature is verified as soon as the headers are there; the body is then only
hashed, in chunks of any size.
"""

from __future__ import annotations

import hashlib
import re
from binascii import b2a_base64
from collections.abc import Callable, Iterable
from hmac import compare_digest
from typing import Any, Final, NamedTuple, final

from ..errors import WebhookError, WebhookUsageError
from ._candidates import Candidate
from ._headers import HeaderReader, Headers, Token, valid_id
from ._keyring import Key
from ._verified import mismatch

__all__ = [
    "BodyDigest",
    "MessageReader",
    "checked_key_id",
    "checked_method",
    "checked_url",
    "content_digest",
    "signature_base",
    "signed_message",
]

LABEL: Final = "twh"
TAG: Final = "twh-webhook"
LONGEST_URL: Final = 2_048
LONGEST_KEY_ID: Final = 256

_COVERED: Final = ("@method", "@target-uri", "content-digest", "webhook-id")
_LIST: Final = "(" + " ".join(f'"{name}"' for name in _COVERED) + ")"
_PREFIX: Final = f"{LABEL}=".encode()

# One spelling only, so that what is parsed and what is signed cannot differ.
_KEY_ID: Final = rf"[!#-\[\]-~]{{1,{LONGEST_KEY_ID}}}"
_input = re.compile(
    rf'{LABEL}={re.escape(_LIST)};created=([^;]{{1,32}});keyid="({_KEY_ID})"'
    rf';alg="([a-z0-9-]{{1,32}})";tag="{TAG}"'.encode()
).fullmatch
_signature = re.compile(
    rf"{LABEL}=:([A-Za-z0-9+/]{{43}}=|[A-Za-z0-9+/]{{86}}==):".encode()
).fullmatch
_digest = re.compile(rb"sha-256=:[A-Za-z0-9+/]{43}=:").fullmatch
_key_id = re.compile(_KEY_ID).fullmatch
_method = re.compile(r"[A-Z]{1,32}").fullmatch
_url = re.compile(
    r"(?P<scheme>[Hh][Tt][Tt][Pp][Ss]?)://"
    r"(?P<host>[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<path>/[!$-;=@-\[\]-~]*)?(?P<query>\?[!$-;=?-\[\]-~]*)?"
).fullmatch
_PORTS: Final = {"http": "80", "https": "443"}
_NAMES: Final = ("signature-input", "signature", "content-digest", "webhook-id")


class _Message(NamedTuple):
    """
    What is covered, each in the one form in which it is signed.
    """

    method: str
    url: str
    digest: str
    event: str

    def base(self, params: str) -> bytes:
        return signature_base(zip(_COVERED, self, strict=True), params)


@final
class BodyDigest:
    """
    What is left to verify when the signature holds: that this is the body.

    It stands where a candidate does, with the key whose signature it was.
    """

    __slots__ = ("key", "scheme")

    def __init__(self, key: Key, scheme: str) -> None:
        self.key = key
        self.scheme = scheme

    def begin(self, _: bytes) -> Any:
        return hashlib.sha256()

    def whole(self, _: bytes, body: Any) -> Any:
        return hashlib.sha256(body)

    def matches(self, running: Any, tokens: list[Token]) -> bool:
        return compare_digest(_digest_text(running.digest()), tokens[0][1])


@final
class MessageReader:
    """
    Verifies the headers of this profile.

    Args:
        candidates: Keys with their schemes.

    Raises:
        twh_platform.errors.WebhookError: With code ``key_id_malformed``.
    """

    __slots__ = ("_by_id", "_reader")

    def __init__(self, candidates: Iterable[Candidate]) -> None:
        self._by_id = {checked_key_id(one.key.id).encode(): one for one in candidates}
        self._reader = HeaderReader(_NAMES)

    def read(
        self,
        headers: Headers,
        now: float,
        *,
        method: str,
        url: str,
        times: Callable[[bytes, int], tuple[int, int]],
    ) -> tuple[bytes, int, int, list[Token], BodyDigest]:
        """
        Verify the signature: of the method, the URL, the digest and the id.

        Args:
            headers: All headers.

            now: Unix seconds.

            method: Of the request.

            url: What it was sent to, as the sender knows it.

            times: What judges the timestamp.

        Returns:
            The id, the timestamp, the age, the digest in place of a signature, and
            what compares it with the body.

        Raises:
            twh_platform.errors.WebhookError: With code ``malformed_header`` for all
                that is not in the one form above; with ``key_unknown``,
                ``no_supported_scheme``, ``signature_mismatch``, or one of the
                timestamp's.
        """
        given, signature, digest, event = self._reader.values(headers)
        params = _matched(_input(given), "signature-input")
        text = _matched(_signature(signature), "signature")[1]
        _matched(_digest(digest), "content-digest")
        if not valid_id(event):
            raise WebhookError("the id is malformed", code="malformed_header")
        timestamp, age = times(params[1], int(now))
        candidate = self._chosen(params[2], params[3], now)
        message = _Message(
            checked_method(method), checked_url(url), digest.decode(), event.decode()
        )
        base = message.base(given[len(_PREFIX) :].decode())
        if not candidate.matches(candidate.whole(base, b""), [(candidate.name, text)]):
            raise mismatch()
        found = BodyDigest(candidate.key, candidate.scheme)
        return event, timestamp, age, [(b"", digest)], found

    def _chosen(self, key_id: bytes, algorithm: bytes, now: float) -> Candidate:
        candidate = self._by_id.get(key_id)
        if candidate is None or not candidate.key.good(now):
            raise WebhookError("the key that it names is not good here", code="key_unknown")
        # The key says which algorithm; a header can only agree with it.
        if candidate.name != algorithm:
            message = "the signature is of another scheme than its key"
            raise WebhookError(message, code="no_supported_scheme")
        return candidate


def signed_message(
    body: bytes,
    *,
    event: str,
    seconds: int,
    method: str,
    url: str,
    key_id: str,
    algorithm: str,
    sign: Callable[[bytes], bytes],
) -> dict[str, str]:
    """
    Sign a body by its digest, and return the headers to send with it.

    Args:
        body: What will be sent.

        event: The event's id.

        seconds: The timestamp.

        method: Of the request; ``POST`` if "".

        url: Where it will be sent.

        key_id: Which key signs.

        algorithm: Its scheme.

        sign: What makes a signature of under 4096 bytes, in base64.

    Raises:
        twh_platform.errors.WebhookError: With code ``request_malformed`` or
            ``key_id_malformed``.

        twh_platform.errors.WebhookUsageError: With code ``request_missing``.
    """
    checked_key_id(key_id)
    method, url = checked_method(method or "POST"), checked_url(url)
    message = _Message(method, url, content_digest(body), event)
    params = f'{_LIST};created={seconds};keyid="{key_id}";alg="{algorithm}";tag="{TAG}"'
    signature = sign(message.base(params)).decode("ascii")
    return {
        "webhook-id": event,
        "content-digest": message.digest,
        "signature-input": f"{LABEL}={params}",
        "signature": f"{LABEL}=:{signature}:",
    }


def signature_base(components: Iterable[tuple[str, str]], params: str) -> bytes:
    """
    Build what is signed (RFC 9421, section 2.5).

    Args:
        components: The name and the value of each; nothing in them is a line's end.

        params: The value of the signature's label in ``Signature-Input``.
    """
    lines = [f'"{name}": {value}' for name, value in components]
    return "\n".join([*lines, f'"@signature-params": {params}']).encode("ascii")


def content_digest(body: bytes) -> str:
    """
    The value of ``Content-Digest`` (RFC 9530, section 2), with SHA-256.
    """
    return _digest_text(hashlib.sha256(body).digest()).decode("ascii")


def checked_key_id(key_id: str) -> str:
    """
    Check that an id of a key can stand in a header.

    Raises:
        twh_platform.errors.WebhookError: With code ``key_id_malformed``.
    """
    if not _key_id(key_id):
        message = (
            f"a key's id is 1 to {LONGEST_KEY_ID} visible ASCII characters, none a quote or \\"
        )
        raise WebhookError(message, code="key_id_malformed")
    return key_id


def checked_method(method: str) -> str:
    """
    Check a method: 1 to 32 letters in upper case.

    Raises:
        twh_platform.errors.WebhookError: With code ``request_malformed``.

        twh_platform.errors.WebhookUsageError: With code ``request_missing``.
    """
    if not _method(_present("method", method)):
        message = "a method is 1 to 32 letters in upper case"
        raise WebhookError(message, code="request_malformed")
    return method


def checked_url(url: str) -> str:
    """
    Normalize an absolute URL (RFC 9110, section 4.2.3): its scheme, host, port and empty path.

    The rest stays as it is: what a proxy has decoded or sorted is another URL.

    Raises:
        twh_platform.errors.WebhookError: With code ``request_malformed``.

        twh_platform.errors.WebhookUsageError: With code ``request_missing``.
    """
    found = _url(url) if len(_present("url", url)) <= LONGEST_URL else None
    if found is None:
        message = (
            f"a URL is https:// or http://, a host and a path, in at most {LONGEST_URL} visible "
            "ASCII characters, without a user and without a fragment"
        )
        raise WebhookError(message, code="request_malformed")
    scheme, host = found["scheme"].lower(), found["host"].lower()
    port = f":{found['port']}" if found["port"] not in {None, _PORTS[scheme]} else ""
    return f"{scheme}://{host}{port}{found['path'] or '/'}{found['query'] or ''}"


def _present(name: str, value: object) -> str:
    if isinstance(value, str) and value:
        return value
    message = f"this profile signs the method and the URL: give {name}=..."
    raise WebhookUsageError(message, code="request_missing")


def _matched(found: re.Match[bytes] | None, name: str) -> re.Match[bytes]:
    if found is None:
        message = f"{name} is not in the one form that this profile has"
        raise WebhookError(message, code="malformed_header")
    return found


def _digest_text(digest: bytes) -> bytes:
    return b"sha-256=:%b:" % b2a_base64(digest, newline=False)
