"""
How senders write their signatures, as data.

A profile says which headers there are, what is signed, how, and which kinds of
secret fit.  A sender that is not here is a `Profile` of your own, or one of these
with `dataclasses.replace`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from types import MappingProxyType
from typing import Final

from ..errors import WebhookUsageError

__all__ = [
    "CONVOY",
    "GITHUB",
    "MESSAGE",
    "OUTPOST",
    "PROFILES",
    "SHOPIFY",
    "SLACK",
    "STANDARD",
    "STRIPE",
    "SVIX",
    "TWH",
    "Form",
    "Profile",
    "Scheme",
]


class Form(Enum):
    """
    How the header of signatures is written.
    """

    SPACED = "spaced"
    """``v1,SIGNATURE v1,SIGNATURE``"""

    FIELDS = "fields"
    """``t=TIMESTAMP,v1=SIGNATURE,v1=SIGNATURE``"""

    PREFIXED = "prefixed"
    """``v0=SIGNATURE,SIGNATURE``"""

    PLAIN = "plain"
    """``SIGNATURE``"""

    MESSAGE = "message"
    """RFC 9421, with the body by its digest (RFC 9530)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """
    How one signature is made.

    Attributes:
        algorithm: ``hmac-sha256``, ``hmac-sha512`` or ``ed25519``.

        encoding: ``base64`` (standard, padded) or ``hex`` (lower case).

        kinds: The secrets that fit: ``standard``, ``raw``, ``ed25519``.
    """

    algorithm: str = "hmac-sha256"
    encoding: str = "base64"
    kinds: frozenset[str] = frozenset({"standard"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """
    How one sender signs.

    Attributes:
        name: What it is called.

        form: How the header of signatures is written.

        signature_header: Its name, in lower case.

        id_header: The header of the event's id, "" if no id is signed.

        timestamp_header: The header of the time, "" if it is a field of the
            signatures' header, or none is signed.

        head: What is signed before the body, with ``{id}`` and ``{timestamp}``.

        schemes: By the names that stand before signatures.

        several: Whether more than one signature can be sent, so that a sender
            can sign with the old secret and the new one.

        past: How many seconds old a signature may be.

        future: How many seconds ahead of our clock.

        timed: Whether a timestamp is signed.

    Raises:
        twh_platform.errors.WebhookUsageError: With code ``profile_invalid``, if an
            id or a time would be read that is not signed, or the other way round.
    """

    name: str
    form: Form
    signature_header: str
    id_header: str = ""
    timestamp_header: str = ""
    head: str = ""
    schemes: Mapping[str, Scheme] = field(default_factory=lambda: MappingProxyType({}))
    several: bool = True
    past: int = 300
    future: int = 300
    timed: bool = field(init=False, repr=False)
    _before: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._check()
        before = self.head.replace("%", "%%")
        before = before.replace("{id}", "%(id)b").replace("{timestamp}", "%(timestamp)b")
        object.__setattr__(self, "_before", before.encode())
        object.__setattr__(self, "timed", "{timestamp}" in self.head or self.form is Form.MESSAGE)

    def _check(self) -> None:
        # What is read from a header and not signed would pass for verified.
        id_signed, time_signed = "{id}" in self.head, "{timestamp}" in self.head
        unsigned = bool(self.id_header) != id_signed or (self.timestamp_header and not time_signed)
        if unsigned and self.form is not Form.MESSAGE:
            message = f"profile {self.name!r} has a header of an id or a time that it does not sign"
            raise WebhookUsageError(message, code="profile_invalid")

    def signed_head(self, event: bytes, stamp: bytes) -> bytes:
        """
        The bytes that are signed before the body.
        """
        return self._before % {b"id": event, b"timestamp": stamp}


_ED25519: Final = Scheme(algorithm="ed25519", kinds=frozenset({"ed25519"}))
_RAW: Final = frozenset({"raw"})
_HEX: Final = Scheme(encoding="hex", kinds=_RAW)


def _schemes(**schemes: Scheme) -> Mapping[str, Scheme]:
    return MappingProxyType(schemes)


STANDARD: Final = Profile(
    name="standard",
    form=Form.SPACED,
    signature_header="webhook-signature",
    id_header="webhook-id",
    timestamp_header="webhook-timestamp",
    head="{id}.{timestamp}.",
    schemes=_schemes(v1=Scheme(), v1a=_ED25519),
)
"""Standard Webhooks 1.0.0; what is signed with if nothing else is said."""

SVIX: Final = replace(
    STANDARD,
    name="svix",
    signature_header="svix-signature",
    id_header="svix-id",
    timestamp_header="svix-timestamp",
)
"""Standard Webhooks under other names of headers."""

TWH: Final = Profile(
    name="twh",
    form=Form.FIELDS,
    signature_header="x-twh-signature",
    id_header="x-twh-id",
    head="{id}.{timestamp}.",
    schemes=_schemes(v1=Scheme(encoding="hex")),
)
"""``X-TWH-Signature: t=TIMESTAMP,v1=HEX``, and the id in ``X-TWH-Id``."""

STRIPE: Final = Profile(
    name="stripe",
    form=Form.FIELDS,
    signature_header="stripe-signature",
    head="{timestamp}.",
    schemes=_schemes(v1=_HEX),
)
"""The key is the whole text of the secret, ``whsec_`` with it: `RawSecret`."""

GITHUB: Final = Profile(
    name="github",
    form=Form.PREFIXED,
    signature_header="x-hub-signature-256",
    schemes=_schemes(sha256=_HEX),
    several=False,
)
"""No time and no id are signed: what was sent once can be sent again."""

SHOPIFY: Final = Profile(
    name="shopify",
    form=Form.PLAIN,
    signature_header="x-shopify-hmac-sha256",
    schemes=MappingProxyType({"": Scheme(kinds=_RAW)}),
    several=False,
)
"""No time and no id are signed: what was sent once can be sent again."""

SLACK: Final = Profile(
    name="slack",
    form=Form.PREFIXED,
    signature_header="x-slack-signature",
    timestamp_header="x-slack-request-timestamp",
    head="v0:{timestamp}:",
    schemes=_schemes(v0=_HEX),
    several=False,
)
"""The time is signed, and no id."""

CONVOY: Final = Profile(
    name="convoy",
    form=Form.FIELDS,
    signature_header="x-convoy-signature",
    head="{timestamp},",
    schemes=_schemes(v1=_HEX),
)
"""Convoy's advanced signatures, SHA-256 in hexadecimal."""

OUTPOST: Final = Profile(
    name="outpost",
    form=Form.PREFIXED,
    signature_header="x-outpost-signature",
    schemes=_schemes(v0=_HEX),
)
"""Outpost's default mode; no time and no id are signed."""

MESSAGE: Final = Profile(
    name="message",
    form=Form.MESSAGE,
    signature_header="signature",
    id_header="webhook-id",
    schemes=MappingProxyType({"hmac-sha256": Scheme(), "ed25519": _ED25519}),
    several=False,
)
"""
RFC 9421 with RFC 9530, in one fixed form: the method, the URL, the digest and the id are signed.

A key service can sign it whatever the size of the body is.  The signature names its
key by `Key.id`, so both sides have to give a key the same one.
"""

PROFILES: Final[Mapping[str, Profile]] = MappingProxyType(
    {
        one.name: one
        for one in (STANDARD, SVIX, TWH, STRIPE, GITHUB, SHOPIFY, SLACK, CONVOY, OUTPOST, MESSAGE)
    }
)
"""By their names."""
