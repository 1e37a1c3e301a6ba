r"""
Whatever arrives in place of a webhook: bytes made into headers and a body, and a judge.

The first byte chooses an endpoint, the second the type of the headers, the third the
other way to verify and how the body is cut.  Then come the method and the URL in a line,
where they are signed, headers, a line each, an empty line, and the body::

    \x00\x01\x07webhook-id: msg_1\n\n{"a":1}

The last endpoint reads the rest as the text of a key.  So a fuzzer that changes a letter
of a signed webhook has a letter changed, and one that makes noise has noise.  Endpoints
with Ed25519 are there with the extra `webhooks`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, Final

from twh_platform.errors import WebhookError
from twh_platform.webhooks import (
    MESSAGE,
    PROFILES,
    STANDARD,
    SVIX,
    Key,
    Keyring,
    Profile,
    RawSecret,
    Signer,
    StandardSecret,
    Verified,
    Verifier,
)

try:
    from twh_platform.webhooks.ed25519 import PrivateKey, PublicKey
except ImportError:
    EXTRA = False
else:
    EXTRA = True

__all__ = ["CODES", "EXTRA", "KEYS", "NAMES", "SHAPES", "TAKEN", "judge", "seeds"]

NOW: Final = 1_700_000_000
BODY: Final = b'{"type":"order.paid","data":{}}'
URL: Final = "https://receiver.example/hooks/7?from=twh"
SHARED: Final = StandardSecret("whsec_" + "A" * 42 + "8=")
OTHER: Final = StandardSecret("whsec_" + "B" * 42 + "8=")
RAW: Final = RawSecret("a shared secret")
OTHER_RAW: Final = RawSecret("another secret")
KEYS: Final = "keys"
TAKEN: Final = "taken"

CODES: Final = {
    "missing_header",
    "duplicate_header",
    "malformed_header",
    "timestamp_malformed",
    "too_old",
    "too_new",
    "no_supported_scheme",
    "signature_mismatch",
    "headers_invalid",
    "key_unknown",
    "request_malformed",
    "request_missing",
    "secret_malformed",
}

# The host in any case and the port of the scheme; the rest is verbatim.
_same_url = re.compile(
    r"(?i:https://receiver\.example)(?::443)?/hooks/7\?from=twh", re.ASCII
).fullmatch

Lines = list[tuple[bytes, bytes]]


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


SHAPES: Final[tuple[Callable[[Lines], Any], ...]] = (
    list,
    lambda lines: {_text(name): _text(value) for name, value in lines},
    lambda lines: [(name.lower(), value) for name, value in lines],
    lambda lines: {name.decode("latin-1"): value.decode("latin-1") for name, value in lines},
    tuple,
    lambda lines: [(_text(name), _text(value)) for name, value in lines],
    lambda lines: [[name, bytearray(value)] for name, value in lines],
    iter,
    dict,
    lambda lines: {_text(name): value for name, value in lines},
    lambda lines: [(name, _text(value)) for name, value in lines],
    lambda lines: [value for _, value in lines],
    lambda lines: {_text(name): [value] for name, value in lines},
    lambda lines: [(name, None) for name, _ in lines],
    lambda lines: [*lines, None],
    lambda lines: b"".join(value for _, value in lines),
)
"""What may be given for headers, right and wrong."""


class _Endpoint:
    """
    One profile with its keys, verified in several ways.
    """

    def __init__(self, name: str, profile: Profile, signing: Any, keys: Any, others: Any) -> None:
        self.name, self.profile = name, profile
        self.verifier = self._verifier(keys)
        # Keys with a time are never the usual ones, so this is the general way.
        self.general = self._verifier([Key(secret=one, not_before=0) for one in keys])
        self.rotating = self._verifier([*keys, *others])
        self.request = Signer(signing, profile=profile).sign(
            BODY, event_id="msg_1" if profile.id_header else None, timestamp=NOW, url=URL
        )
        self.signed = self.request.id, self.request.timestamp

    def _verifier(self, keys: Any) -> Verifier:
        ring = Keyring(one if isinstance(one, Key) else Key(secret=one) for one in keys)
        return Verifier(ring, profile=self.profile, clock=lambda: NOW)

    def judge(self, data: bytes) -> Any:
        shape = SHAPES[data[1] % len(SHAPES)] if data[1:] else list
        cut = data[2] if data[2:] else 0
        head, _, body = data[3:].partition(b"\n\n")
        target: dict[str, str] = {}
        if self.profile is MESSAGE:
            line, _, head = head.partition(b"\n")
            method, _, url = line.decode("latin-1").partition(" ")
            target = {"method": method, "url": url}
        lines = [
            (name, value.removeprefix(b" "))
            for name, _, value in (line.partition(b":") for line in head.split(b"\n"))
        ]

        def streamed() -> Verified:
            verification = self.verifier.begin(shape(lines), **target)
            verification.update(body[:cut])
            verification.update(body[cut:])
            return verification.finish()

        ways: list[Callable[[], Verified]] = [
            lambda: self.general.verify(body, shape(lines), **target),
            lambda: self.rotating.verify(body, shape(lines), **target),
            streamed,
        ]
        said = self._outcome(
            lambda: self.verifier.verify(body, shape(lines), **target), body, target
        )
        other = self._outcome(ways[cut % len(ways)], body, target)
        assert said == other, (said, other)
        return said

    def _outcome(self, verify: Callable[[], Verified], body: bytes, target: dict[str, str]) -> Any:
        """
        What it said; a forgery is an error of ours.
        """
        try:
            verified = verify()
        except WebhookError as error:
            if error.code not in CODES:
                raise
            return error.code
        assert type(verified) is Verified
        assert (verified.id, verified.timestamp) == self.signed, "a forged id or timestamp"
        assert body == BODY, "a forged body"
        if target:
            assert target["method"] == "POST", "a forged method"
            assert _same_url(target["url"]), "a forged URL"
        return verified

    def seeds(self, number: int) -> list[bytes]:
        lines = "".join(f"{name}: {value}\n" for name, value in self.request.headers.items())
        if self.profile is MESSAGE:
            lines = f"POST {URL}\n{lines}"
        return [
            bytes([number, shape, shape + 5]) + lines.encode() + b"\n" + BODY
            for shape in range(len(SHAPES))
        ]


class _Keys:
    """
    The text of a key, given as each kind that there is.
    """

    name = KEYS

    def judge(self, data: bytes) -> str:
        text = _text(data[3:])
        kinds: list[Any] = [StandardSecret, RawSecret]
        if EXTRA:
            kinds += [PublicKey, PrivateKey]
        taken = [key for key in (_taken(kind, text) for kind in kinds) if key is not None]
        for key in taken:
            said = key.reveal()
            assert said == (text.encode() if type(key) is RawSecret else text), "another spelling"
            assert text not in repr(key), "its text is shown"
            if key.kind == "ed25519":
                assert len(taken) == 1, "a key of Ed25519 is taken for a shared secret"
                assert not _signed_by_anybody(getattr(key, "public", key)), "anybody can sign"
        return TAKEN if taken else "secret_malformed"

    def seeds(self, number: int) -> list[bytes]:
        texts = [SHARED.reveal(), RAW.reveal().decode()]
        if EXTRA:
            private = PrivateKey(_PRIVATE[0])
            texts += [private.reveal(), private.public.reveal()]
        # Points of order 1, 2, 4 and 8.
        texts += ["whpk_" + one for one in _SMALL]
        return [bytes([number, 0, 0]) + text.encode() for text in texts]


_SMALL: Final = (
    "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    "7P///////////////////////////////////////38=",
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    "xxdqcD1N2E+6PAt2DRBnDyogU/osOczGTsf9d5KsA3o=",
)


def _taken(kind: Any, text: str) -> Any:
    try:
        return kind(text)
    except WebhookError as error:
        if error.code != "secret_malformed":
            raise
        return None


def _signed_by_anybody(key: Any) -> bool:
    """
    Whether R = 1 and S = 0 is a signature of one message of 16: with a key of order 8, of two.
    """
    return any(key.fits(b"\1" + bytes(63), bytes([number])) for number in range(16))


# RFC 8032, section 7.1: the seeds and the public keys of its first two tests.
_PRIVATE: Final = (
    "whsk_nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2DXWpgBgrEKt9VL/tPJZAc6DuFy89qmIyWvAhpo9wdRGg==",
    "whsk_TM0Imyj/ltqdtsNG7BFOD1uKMZ81q6Yk2oz27U+4pvs9QBfD6EOJWpK3CqdNG368nJgszy7ElozAzVXxKvRmDA==",
)


def _endpoints() -> Iterator[_Endpoint]:
    for name, profile in PROFILES.items():
        standard = any("standard" in one.kinds for one in profile.schemes.values())
        key, other = (SHARED, OTHER) if standard else (RAW, OTHER_RAW)
        yield _Endpoint(name, profile, key, [key], [other])
    if not EXTRA:
        return
    private, other = PrivateKey(_PRIVATE[0]), PrivateKey(_PRIVATE[1]).public
    for profile in (STANDARD, SVIX, MESSAGE):
        yield _Endpoint(f"{profile.name}-ed25519", profile, private, [private.public], [other])
    for profile in (STANDARD, MESSAGE):
        keys = [private.public, SHARED]
        yield _Endpoint(f"{profile.name}-both", profile, [private, SHARED], keys, [other, OTHER])


_ENDPOINTS: Final[list[_Endpoint | _Keys]] = [*_endpoints(), _Keys()]
NAMES: Final = tuple(one.name for one in _ENDPOINTS)
"""Of the endpoints, by the number that the first byte is; `KEYS` is the last."""


def judge(data: bytes) -> Any:
    """
    Verify what these bytes make, and once more in another way.

    Returns:
        What was verified, or the code of its error; of the text of a key, `TAKEN`
        or the code.

    Raises:
        AssertionError: If two ways differ, if what nobody signed is verified, or if
            a key is taken that is none, or that anybody can sign with.

        Exception: Whatever a verifier raises that is no `WebhookError`.
    """
    return _ENDPOINTS[data[0] % len(_ENDPOINTS) if data else 0].judge(data)


def seeds(only: str = "") -> list[bytes]:
    """
    A webhook that is signed, for each endpoint and type of headers; texts of keys.

    Args:
        only: The endpoint's name; all if "".
    """
    return [
        seed
        for number, endpoint in enumerate(_ENDPOINTS)
        if only in {"", endpoint.name}
        for seed in endpoint.seeds(number)
    ]
