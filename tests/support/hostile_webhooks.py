r"""
Whatever arrives in place of a webhook: bytes made into headers and a body, and a judge.

The first byte chooses a profile, the second the type of the headers, the third the
other way to verify and how the body is cut.  Then come headers, a line each, an empty
line, and the body::

    \x00\x01\x07webhook-id: msg_1\n\n{"a":1}

So a fuzzer that changes a letter of a signed webhook has a letter changed, and one
that makes noise has noise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twh_platform.errors import WebhookError
from twh_platform.webhooks import PROFILES, RawSecret, Signer, StandardSecret, Verified, Verifier
from twh_platform.webhooks._usual import usual_of

__all__ = ["CODES", "NAMES", "SHAPES", "judge", "seeds"]

NOW: Final = 1_700_000_000
BODY: Final = b'{"type":"order.paid","data":{}}'
STANDARD: Final = StandardSecret("whsec_" + "A" * 42 + "8=")
OTHER: Final = StandardSecret("whsec_" + "B" * 42 + "8=")
RAW: Final = RawSecret("a shared secret")
NAMES: Final = tuple(name for name in PROFILES if name != "message")

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
}

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
    One profile, verified in two ways: with the usual one, and without.
    """

    def __init__(self, name: str) -> None:
        self.profile = profile = PROFILES[name]
        standard = any("standard" in one.kinds for one in profile.schemes.values())
        self.secret = STANDARD if standard else RAW
        self.verifier = Verifier(self.secret, profile=profile, clock=lambda: NOW)
        self.general = Verifier(self.secret, profile=profile, clock=lambda: NOW)
        self.general._usual = usual_of(profile, [], past=0, future=0, clock=lambda: NOW)
        self.rotating = Verifier(
            [self.secret, OTHER] if standard else [RawSecret("another secret"), RAW],
            profile=profile,
            clock=lambda: NOW,
        )
        request = Signer(self.secret, profile=profile).sign(
            BODY, event_id="msg_1" if profile.id_header else None, timestamp=NOW
        )
        self.headers = dict(request.headers)
        self.signed = request.id, request.timestamp

    def outcome(self, verify: Callable[[], Verified], body: bytes) -> Any:
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
        return verified


_ENDPOINTS = [_Endpoint(name) for name in NAMES]


def judge(data: bytes) -> Any:
    """
    Verify what these bytes make, and once more in another way.

    Returns:
        What was verified, or the code of its error.

    Raises:
        AssertionError: If two ways differ, or what nobody signed is verified.

        Exception: Whatever a verifier raises that is no `WebhookError`.
    """
    endpoint = _ENDPOINTS[data[0] % len(_ENDPOINTS)] if data else _ENDPOINTS[0]
    shape = SHAPES[data[1] % len(SHAPES)] if data[1:] else list
    cut = data[2] if data[2:] else 0
    head, _, body = data[3:].partition(b"\n\n")
    lines = [
        (name, value.removeprefix(b" "))
        for name, _, value in (line.partition(b":") for line in head.split(b"\n"))
    ]

    def streamed() -> Verified:
        verification = endpoint.verifier.begin(shape(lines))
        verification.update(body[:cut])
        verification.update(body[cut:])
        return verification.finish()

    ways: list[Callable[[], Verified]] = [
        lambda: endpoint.general.verify(body, shape(lines)),
        lambda: endpoint.rotating.verify(body, shape(lines)),
        streamed,
    ]
    said = endpoint.outcome(lambda: endpoint.verifier.verify(body, shape(lines)), body)
    other = endpoint.outcome(ways[cut % len(ways)], body)
    assert said == other, (said, other)
    return said


def seeds() -> list[bytes]:
    """
    A webhook that is signed, for each profile and type of headers.
    """
    found = []
    for number, endpoint in enumerate(_ENDPOINTS):
        lines = "".join(f"{name}: {value}\n" for name, value in endpoint.headers.items())
        found += [
            bytes([number, shape, shape + 5]) + lines.encode() + b"\n" + BODY
            for shape in range(len(SHAPES))
        ]
    return found
