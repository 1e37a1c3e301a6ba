"""
Verifying a webhook: from headers, body and keys to what is true about it, or an error.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeAlias, final

from ..errors import WebhookError, WebhookUsageError
from ._candidates import Candidate, candidates_of
from ._headers import READERS, HeaderReader, Headers, Token, timestamp_of, valid_id
from ._keyring import Keys, KeyState, keyring_of
from ._messages import BodyDigest, MessageReader
from ._profiles import STANDARD, Form, Profile
from ._usual import Body, usual_of
from ._verified import MISMATCH, Verified, mismatch, new_error

__all__ = ["Body", "Verification", "Verified", "Verifier", "verify"]

_Comparing: TypeAlias = tuple[Sequence[Candidate | BodyDigest], Callable[[], WebhookError]]
"""What may have made the signature, and what is raised if none of it has."""

_Stated: TypeAlias = tuple[bytes, int, int, list[Token], bytes, _Comparing]
"""The id, the timestamp, the age, the signatures, what is signed before the body, and the keys."""


@final
class Verifier:
    """
    Verifies the webhooks of one endpoint; make it once and use it for all.

        >>> from twh_platform.webhooks import StandardSecret, sign
        >>> secret = StandardSecret.generate()
        >>> verifier = Verifier(secret)
        >>> sent = sign(b"{}", secret, event_id="msg_1")
        >>> verifier.verify(sent.body, sent.headers).id
        'msg_1'

    The signature covers the bytes as they came: what a framework has parsed and
    written again is other bytes.  It may be used by several threads.

    Args:
        keys: A secret, several, or a `Keyring`.

        profile: How the sender signs.

        past: How many seconds old a signature may be; the profile's if None.

        future: How many seconds ahead of our clock; the profile's if None.

        clock: Unix seconds.

    Raises:
        twh_platform.errors.WebhookUsageError: With code ``secret_type_invalid``,
            if a key is of a kind that the profile does not verify with; with
            ``tolerance_invalid``, if one is no whole number of seconds from 0 on.

        twh_platform.errors.WebhookError: With code ``key_id_malformed``, if `MESSAGE`
            cannot write a key's id.
    """

    __slots__ = (
        "_candidates",
        "_clock",
        "_future",
        "_message",
        "_past",
        "_reader",
        "_schemes",
        "_signatures",
        "_timeless",
        "_usual",
        "profile",
    )

    def __init__(
        self,
        keys: Keys,
        *,
        profile: Profile = STANDARD,
        past: int | None = None,
        future: int | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        keyring = keyring_of(keys)
        self.profile = profile
        self._past = profile.past if past is None else _tolerance("past", past)
        self._future = profile.future if future is None else _tolerance("future", future)
        self._clock = clock
        pairs = [(key, one) for key in keyring.keys for one in candidates_of(key, profile)]
        self._candidates = [one for key, one in pairs if key.state is not KeyState.REVOKED]
        self._schemes = {one.name for one in self._candidates}
        self._timeless = keyring.timeless
        # MESSAGE has a reader of its own.
        self._signatures = READERS.get(profile.form, READERS[Form.PLAIN])
        self._message = MessageReader(self._candidates) if profile.form is Form.MESSAGE else None
        names = (profile.signature_header, profile.id_header, profile.timestamp_header)
        self._reader = HeaderReader(tuple(filter(None, names)))
        self._usual = usual_of(
            profile,
            self._candidates if self._timeless else [],
            past=self._past,
            future=self._future,
            clock=clock,
        )

    @property
    def window(self) -> int:
        """
        Seconds for which a signature is good, before and after its time; 0 if no time is signed.
        """
        return self._past + self._future if self.profile.timed else 0

    def verify(self, body: Body, headers: Headers, method: str = "", url: str = "") -> Verified:
        """
        Verify a webhook whose body is there as a whole.

        Args:
            body: The bytes as they came.

            headers: All headers: a mapping, or pairs as ASGI gives them.

            method: Of the request; only `MESSAGE` signs it.

            url: What it was sent to, as the sender knows it; likewise.

        Raises:
            twh_platform.errors.WebhookError: For everything that does not
                hold; its code says what, for our logs only.

            twh_platform.errors.WebhookUsageError: If these are no bytes, or no
                headers.
        """
        if type(body) is not bytes:
            body = _checked(body)
        verified = self._usual(body, headers)
        if verified:
            return verified
        if verified is False:
            # Here, as `mismatch` does: a call more is a fifth of what raising costs.
            error = new_error(WebhookError, MISMATCH)
            error.code = "signature_mismatch"
            raise error
        event, timestamp, age, tokens, head, comparing = self._stated(headers, method, url)
        candidates, refusal = comparing
        found = None
        # Each key is tried, also after one that matched.
        for one in candidates:
            if one.matches(one.whole(head, body), tokens) and found is None:
                found = one
        if found is None:
            raise refusal()
        return _verified(event, timestamp, age, found, self.profile)

    def begin(self, headers: Headers, method: str = "", url: str = "") -> Verification:
        """
        Begin to verify a webhook whose body is still to come.

        Whether there is a key for it is said at the end, so that a receiver which
        answers at once tells nobody what keys an endpoint has.  Only `MESSAGE`, whose
        signature is of the headers alone, says it here.

        Args:
            headers: See `verify`.

            method: See `verify`.

            url: See `verify`.

        Raises:
            twh_platform.errors.WebhookError: If the headers alone show that it
                will not hold.
        """
        return Verification(self.profile, self._stated(headers, method, url))

    def _stated(self, headers: Headers, method: str, url: str) -> _Stated:
        profile = self.profile
        now = self._clock()
        if self._message is not None:
            event, timestamp, age, tokens, digest = self._message.read(
                headers, now, method=method, url=url, times=self._times
            )
            return event, timestamp, age, tokens, b"", ([digest], mismatch)
        values = self._reader.values(headers)
        stamp, tokens = self._signatures(values[0])
        event = values[1] if profile.id_header else b""
        if profile.id_header and not valid_id(event):
            raise WebhookError("the id is malformed", code="malformed_header")
        timestamp = age = 0
        if profile.timed:
            stamp = values[-1] if profile.timestamp_header else stamp
            timestamp, age = self._times(stamp, int(now))
        head = profile.signed_head(event, stamp)
        if self._schemes.isdisjoint([name for name, _ in tokens]):
            return event, timestamp, age, tokens, head, ((), _unsupported)
        candidates = self._candidates
        if not self._timeless:
            candidates = [one for one in candidates if one.key.good(now)]
        return event, timestamp, age, tokens, head, (candidates, mismatch)

    def _times(self, stamp: bytes, now: int) -> tuple[int, int]:
        timestamp = timestamp_of(stamp)
        age = now - timestamp
        if age > self._past:
            raise WebhookError(f"it is {age} s old", code="too_old")
        if -age > self._future:
            raise WebhookError(f"it is {-age} s ahead of our clock", code="too_new")
        return timestamp, age


@final
class Verification:
    """
    One webhook on its way in; made by `Verifier.begin`.

    Its memory does not grow with the body, except for Ed25519, which signs the
    body as a whole.
    """

    __slots__ = ("_facts", "_profile", "_refusal", "_running", "_tokens")

    def __init__(self, profile: Profile, stated: _Stated) -> None:
        event, timestamp, age, tokens, head, (candidates, self._refusal) = stated
        self._profile = profile
        self._facts = event, timestamp, age
        self._tokens = tokens
        self._running = [(one, one.begin(head)) for one in candidates]

    def update(self, chunk: Body) -> None:
        """
        Take in the next bytes of the body.

        Raises:
            twh_platform.errors.WebhookUsageError: With code ``body_not_bytes``.
        """
        if type(chunk) is not bytes:
            chunk = _checked(chunk)
        for _, running in self._running:
            running.update(chunk)

    def finish(self) -> Verified:
        """
        Say what is true about it, now that all of it is here.

        Raises:
            twh_platform.errors.WebhookError: With code ``signature_mismatch``, or
                ``no_supported_scheme``.
        """
        tokens = self._tokens
        matched = [one for one, running in self._running if one.matches(running, tokens)]
        if not matched:
            raise self._refusal()
        return _verified(*self._facts, matched[0], self._profile)


def verify(
    body: Body,
    headers: Headers,
    keys: Keys,
    *,
    profile: Profile = STANDARD,
    method: str = "",
    url: str = "",
    clock: Callable[[], float] = time.time,
) -> Verified:
    """
    Verify a webhook, in one line; a `Verifier` that is kept is faster.

        >>> from twh_platform.webhooks import StandardSecret, sign
        >>> secret = StandardSecret.generate()
        >>> sent = sign(b"{}", secret)
        >>> verify(sent.body, sent.headers, secret).profile
        'standard'

    Args:
        body: The bytes as they came.

        headers: All headers: a mapping, or pairs as ASGI gives them.

        keys: A secret, several, or a `Keyring`.

        profile: How the sender signs.

        method: See `Verifier.verify`.

        url: See `Verifier.verify`.

        clock: Unix seconds.

    Raises:
        twh_platform.errors.WebhookError: For everything that does not hold.

        twh_platform.errors.WebhookUsageError: See `Verifier` and `Verifier.verify`.
    """
    verifier = Verifier(keys, profile=profile, clock=clock)
    return verifier.verify(body, headers, method=method, url=url)


def _verified(
    event: bytes, timestamp: int, age: int, found: Candidate | BodyDigest, profile: Profile
) -> Verified:
    return Verified(event.decode(), timestamp, age, found.key.id, found.scheme, profile.name)


def _unsupported() -> WebhookError:
    message = "no signature is of a scheme that we have a key for"
    return WebhookError(message, code="no_supported_scheme")


def _tolerance(name: str, seconds: object) -> int:
    if not isinstance(seconds, int) or isinstance(seconds, bool) or seconds < 0:
        message = f"{name} is a whole number of seconds, 0 or more, not {seconds!r}"
        raise WebhookUsageError(message, code="tolerance_invalid")
    return seconds


def _checked(body: object) -> Body:
    if isinstance(body, (bytes, bytearray)):
        return body
    if isinstance(body, memoryview):
        try:
            return body if body.c_contiguous else body.tobytes()
        except ValueError as error:
            message = "a body is the bytes that came, not a memoryview that was released"
            raise WebhookUsageError(message, code="body_not_bytes") from error
    message = f"a body is the bytes that came, not {type(body).__name__}"
    raise WebhookUsageError(message, code="body_not_bytes")
