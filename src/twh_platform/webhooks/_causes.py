"""
Why a webhook can be refused, what to look at then, and both together: a diagnosis.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

__all__ = ["REMEDIES", "Cause", "Diagnosis"]


class Cause(StrEnum):
    """
    Why a webhook was refused, as far as it can be told.
    """

    NONE = "none"
    """It was not refused."""

    UNKNOWN = "unknown"
    """Nothing that was tried explains it: the body or the secret is another one."""

    LINE_BREAK_ADDED = "line_break_added"
    """White space at the ends of the body was not there when it was signed."""

    LINE_BREAK_CUT = "line_break_cut"
    """The line break at the end of the body is gone."""

    LINE_ENDS_CHANGED = "line_ends_changed"
    """LF and CRLF were exchanged in the body."""

    BOM_ADDED = "bom_added"
    """The body got a byte order mark."""

    BOM_CUT = "bom_cut"
    """The body lost its byte order mark."""

    JSON_REWRITTEN = "json_rewritten"
    """The body was parsed, and written again in another way."""

    TEXT_QUOTED = "text_quoted"
    """The body was written as one string of JSON, or was one and is not any more."""

    CHARSET_CHANGED = "charset_changed"
    """The body's text was decoded and encoded with different character sets."""

    BODY_DECOMPRESSED = "body_decompressed"
    """The sender signed what was compressed."""

    BODY_COMPRESSED = "body_compressed"
    """The sender signed before it was compressed."""

    BODY_EMPTY = "body_empty"
    """The body is empty here, or was when it was signed."""

    BODY_LENGTH_CHANGED = "body_length_changed"
    """The body is not as long as its `Content-Length` says."""

    REPR_SIGNED = "repr_signed"
    """The sender signed how Python shows the bytes, with ``b'...'`` around them."""

    SECRET_DECODED = "secret_decoded"  # noqa: S105 -- names a mistake
    """The sender takes the secret's text as the key, and we decode it."""

    SECRET_NOT_DECODED = "secret_not_decoded"  # noqa: S105 -- names a mistake
    """The sender decodes the secret's text, and we take it as the key."""

    SECRET_LINE_BREAK = "secret_line_break"  # noqa: S105 -- names a mistake
    """The sender's key has a line break at its end."""

    SECRET_TYPE = "secret_type"  # noqa: S105 -- names a mistake
    """The secret is of a type that the profile does not verify with."""

    KEY_REVOKED = "key_revoked"
    """It is signed with a key that was revoked."""

    KEY_NOT_YET = "key_not_yet"
    """It is signed with a key whose time has not begun."""

    KEY_EXPIRED = "key_expired"
    """It is signed with a key whose time is over."""

    KEY_OF_ANOTHER = "key_of_another"
    """It is signed with a key of another endpoint."""

    KEY_UNKNOWN = "key_unknown"
    """It names a key that is not ours."""

    URL_CHANGED = "url_changed"
    """The sender signed another URL or method than we are asked by."""

    OTHER_PROFILE = "other_profile"
    """The sender signs by another profile."""

    SCHEME_UNKNOWN = "scheme_unknown"
    """No signature is of a scheme that there is a key for."""

    SIGNATURE_SPELLING = "signature_spelling"
    """The signature is the right one, in another spelling."""

    ID_CHANGED = "id_changed"
    """The id is not the one that was signed."""

    TIMESTAMP_CHANGED = "timestamp_changed"
    """The timestamp is not the one that was signed."""

    TIMESTAMP_MILLISECONDS = "timestamp_milliseconds"
    """The timestamp counts milliseconds."""

    TIMESTAMP_MALFORMED = "timestamp_malformed"
    """The timestamp is no number of seconds."""

    CLOCKS_DIFFER = "clocks_differ"
    """It is from the future: one of the clocks is wrong."""

    LATE = "late"
    """It is old: it was kept for long, was sent again as it was, or a clock is wrong."""

    HEADER_MISSING = "header_missing"
    """A header of the signature is not there."""

    HEADER_TWICE = "header_twice"
    """A header of the signature is there more than once, or twice in one line."""

    HEADER_MALFORMED = "header_malformed"
    """A header of the signature has another form."""

    HEADERS_MIXED = "headers_mixed"
    """The headers are parts of the sets of two profiles."""


_BODY: Final = "verify the bytes as they came, before a framework or a proxy changes them"
_TYPE: Final = "use the type of secret that the sender's profile has"
_HEADERS: Final = "look at what proxies do with headers on the way"
REMEDIES: Final[dict[Cause, str]] = {
    Cause.UNKNOWN: "compare the secret's fingerprint with the sender's, and the body's length",
    Cause.LINE_BREAK_ADDED: _BODY,
    Cause.LINE_BREAK_CUT: _BODY,
    Cause.LINE_ENDS_CHANGED: _BODY,
    Cause.BOM_ADDED: _BODY,
    Cause.BOM_CUT: _BODY,
    Cause.JSON_REWRITTEN: _BODY,
    Cause.TEXT_QUOTED: _BODY,
    Cause.CHARSET_CHANGED: _BODY,
    Cause.BODY_EMPTY: _BODY,
    Cause.BODY_LENGTH_CHANGED: _BODY,
    Cause.BODY_DECOMPRESSED: "verify before anything decompresses",
    Cause.BODY_COMPRESSED: "the sender has to sign what it sends, after it is compressed",
    Cause.REPR_SIGNED: "the sender has to sign bytes, not how Python shows them",
    Cause.SECRET_DECODED: _TYPE,
    Cause.SECRET_NOT_DECODED: _TYPE,
    Cause.SECRET_TYPE: _TYPE,
    Cause.SECRET_LINE_BREAK: "the sender reads its secret from a file with a line break",
    Cause.KEY_REVOKED: "the sender has to sign with the new secret",
    Cause.KEY_NOT_YET: "begin to accept the next secret before the sender signs with it",
    Cause.KEY_EXPIRED: "the sender has to sign with the new secret, or the overlap be longer",
    Cause.KEY_OF_ANOTHER: "give the endpoint the secret that it has at the sender",
    Cause.KEY_UNKNOWN: "give the key the id that it has at the sender",
    Cause.URL_CHANGED: "verify with the URL that the sender calls, not with the one behind a proxy",
    Cause.OTHER_PROFILE: "verify with the profile of the sender",
    Cause.SCHEME_UNKNOWN: "give the endpoint a key for the sender's scheme",
    Cause.SIGNATURE_SPELLING: "the sender has to write the signature as its profile says",
    Cause.ID_CHANGED: _HEADERS,
    Cause.TIMESTAMP_CHANGED: "the sender has to sign the timestamp that it sends",
    Cause.TIMESTAMP_MILLISECONDS: "the sender has to send and to sign seconds",
    Cause.TIMESTAMP_MALFORMED: "the sender has to send Unix seconds",
    Cause.CLOCKS_DIFFER: "set both clocks by NTP; a timestamp is in UTC",
    Cause.LATE: "the sender has to sign each attempt anew; else look at both clocks",
    Cause.HEADER_MISSING: _HEADERS,
    Cause.HEADER_TWICE: _HEADERS,
    Cause.HEADER_MALFORMED: _HEADERS,
    Cause.HEADERS_MIXED: _HEADERS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """
    Why a webhook was refused.

    It has nothing of a secret, of a body or of a signature in it, and no text of
    the sender's: it can be logged.  It is not for the sender, whom it would help
    to forge.

    Attributes:
        cause: The probable cause.

        how: How it was found, in a sentence.

        code: That of the error; "" if the signature holds.

        proven: Whether the signature holds once this one thing is undone.

        key_id: The key that it then is of, "" if none was found.
    """

    cause: Cause
    how: str
    code: str = ""
    proven: bool = False
    key_id: str = ""

    @property
    def remedy(self) -> str:
        """
        What to look at first.
        """
        return REMEDIES.get(self.cause, "")
