"""
Finding out why a webhook was refused: for our own logs, never for its sender.

What a signature covers cannot be read from it.  But it can be tried what it was:
if it holds for the body with one more line break, the line break is what got lost.
"""

from __future__ import annotations

import binascii
import hmac
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Final, NamedTuple, TypeAlias, final

from ..errors import WebhookError, WebhookUsageError
from ._causes import REMEDIES, Cause
from ._guesses import body_guesses, head_guesses, secret_guesses, url_guesses
from ._headers import Headers
from ._keyring import Key, Keyring, Keys, KeyState, keyring_of
from ._profiles import PROFILES, STANDARD, Form, Profile
from ._secrets import HmacSecret, RawSecret, SignatureKey, StandardSecret
from ._verify import Body, Verifier

__all__ = ["Cause", "Diagnosis", "diagnose"]

MOST_HASHED_BYTES: Final = 67_108_864
MOST_TRIALS: Final = 4_096
MOST_OTHERS: Final = 100
_TRIAL_BYTES: Final = 512
_SIGNATURE_BYTES: Final = 65_536
_LONGEST_VALUE: Final = 8_192
_MOST_PIECES: Final = 64
_MOST_SIGNATURES: Final = 16
_MILLISECONDS_DIGITS: Final = 13
_HALF_HOUR: Final = 1_800
_NEAR: Final = 300
_EVER: Final = 10**13
_GOOD: Final[dict[str, Any]] = {
    "state": KeyState.ACTIVE,
    "not_before": None,
    "not_after": None,
}
_LENGTHS: Final = frozenset({32, 64})
_BETWEEN: Final = re.compile(rb"[ \t,;]+")
_NAMED: Final = re.compile(rb"\A[A-Za-z0-9]{1,8}=(?=.)")
_REPLACEMENT: Final = "\ufffd".encode()


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


def diagnose(
    body: Body,
    headers: Headers,
    keys: Keys,
    *,
    profile: Profile = STANDARD,
    method: str = "",
    url: str = "",
    clock: Callable[[], float] = time.time,
    others: Mapping[str, Keys] | None = None,
) -> Diagnosis:
    r"""
    Find the probable cause why a webhook is refused.

    It tries what was signed and with what: at most 4,096 signatures, and 64 MiB of
    hashing, some hundredths of a second, or a few tenths at worst.  That is more than
    refusing costs: ask it for some refusals, not for each.  It accepts nothing.

        >>> from twh_platform.webhooks import sign
        >>> secret = StandardSecret.generate()
        >>> sent = sign(b"{}", secret)
        >>> found = diagnose(sent.body + b"\n", sent.headers, secret)
        >>> found.code, found.cause.value, found.proven
        ('signature_mismatch', 'line_break_added', True)

    Args:
        body: The bytes as they came.

        headers: All headers: a mapping, or pairs as ASGI gives them.

        keys: What they are verified with.  Keys of a `Keyring` that are revoked or
            out of their time are tried too.

        profile: How the sender should sign.

        method: Of the request; only `MESSAGE` signs it.

        url: What it was sent to, as the sender knows it; likewise.

        clock: Unix seconds.

        others: Keys of other endpoints, by what to call them, such as those of the
            sender's test mode; the first 100.

    Raises:
        twh_platform.errors.WebhookUsageError: With code ``body_not_bytes``,
            ``headers_invalid``, ``request_missing``, or ``secret_type_invalid``
            for what is no secret.

        twh_platform.errors.WebhookError: With code ``key_id_malformed``, as a
            `Verifier` does.
    """
    keyring = keyring_of(keys)
    if isinstance(headers, Iterator):
        headers = list(headers)
    case = _Case(
        body=body,
        headers=headers,
        keyring=keyring,
        profile=profile,
        now=clock(),
        others=others or {},
        request=(method, url),
    )
    code = case.code = _code(case)
    if not code:
        return Diagnosis(cause=Cause.NONE, how="the signature holds", proven=True)
    case.read()
    for look in _LOOKS:
        found = look(case)
        if found is not None:
            return replace(found, code=code)
    how = "nothing that was tried explains it: another body, or a secret that is not ours"
    return Diagnosis(code=code, cause=Cause.UNKNOWN, how=how)


def _code(case: _Case) -> str:
    unfit = ""
    try:
        verifier = Verifier(case.keyring, profile=case.profile, clock=case.clock)
    except WebhookUsageError as error:
        # Keys for another profile are one of the causes; what is no body is none.
        unfit = error.code
        verifier = Verifier((), profile=case.profile, clock=case.clock)
    method, url = case.request
    try:
        verifier.verify(case.given, case.headers, method=method, url=url)
    except WebhookUsageError:
        raise
    except WebhookError as error:
        return unfit or error.code
    return unfit


Fits: TypeAlias = Callable[[bytes, bytes], bool]


class _Way(NamedTuple):
    # A key, and whether one of the signatures is of it, for a head and a body.
    key_id: str
    fits: Fits
    cost: int
    key: Key | None = None


@final
class _Case:
    """
    What came, what it is tried with, and how much more may be tried.
    """

    code: str = ""

    def __init__(
        self,
        *,
        body: Body,
        headers: Headers,
        keyring: Keyring,
        profile: Profile,
        now: float,
        others: Mapping[str, Keys],
        request: tuple[str, str],
    ) -> None:
        self.given, self.headers, self.keyring = body, headers, keyring
        self.now, self.others, self.profile, self.request = now, others, profile, request
        self.bytes_left, self.trials_left = MOST_HASHED_BYTES, MOST_TRIALS

    def read(self) -> None:
        """
        Read what came, as far as it can be read; what it is of was checked.
        """
        profile = self.profile
        self.body, self.values = bytes(self.given), _loose(self.headers)
        self.event = self.first(profile.id_header)[:_LONGEST_VALUE]
        pieces = _BETWEEN.split(self.first(profile.signature_header)[:_LONGEST_VALUE])
        self.stamp = self.first(profile.timestamp_header)[:_LONGEST_VALUE] or _field(pieces, b"t=")
        found = filter(None, map(_decoded, pieces[:_MOST_PIECES]))
        self.signatures = list(found)[:_MOST_SIGNATURES]
        self.head = _head_of(profile, self.event, self.stamp)

    def clock(self) -> float:
        """
        The one moment of all of it.
        """
        return self.now

    def under(self, profile: Profile) -> _Case:
        """
        The same, as another profile reads it.
        """
        other = _Case(
            body=self.given,
            headers=self.headers,
            keyring=self.keyring,
            profile=profile,
            now=self.now,
            others=self.others,
            request=self.request,
        )
        other.read()
        return other

    def first(self, name: str) -> bytes:
        """
        The first value of a header, or nothing.
        """
        return self.values.get(name, [b""])[0]

    def ways(self) -> list[_Way]:
        """
        The keys as they are, those that are good now first.
        """
        keys = sorted(self.keyring.keys, key=lambda one: not one.good(self.now))
        return [way for key in keys for way in self.ways_of(key)]

    def ways_of(self, key: Key) -> Iterator[_Way]:
        """
        What one key is tried as.
        """
        secret = key.secret
        if isinstance(secret, HmacSecret):
            yield from self.ways_by(key, _key_bytes(secret))
            return
        public = secret if isinstance(secret, SignatureKey) else getattr(secret, "public", None)
        if isinstance(public, SignatureKey):
            signatures, fits = self.signatures, public.fits
            yield _Way(
                key.id,
                lambda head, body: any(fits(one, head + body) for one in signatures),
                _SIGNATURE_BYTES,
                key,
            )

    def ways_by(self, key: Key, raw: bytes) -> Iterator[_Way]:
        """
        What the bytes of a shared secret are tried as.
        """
        schemes = {one.algorithm.removeprefix("hmac-") for one in self.profile.schemes.values()}
        for algorithm in sorted(schemes - {"ed25519"}) or ["sha256"]:
            yield _Way(key.id, _mac(raw, algorithm, self.signatures), _TRIAL_BYTES, key)

    def holds(self, way: _Way, head: bytes, body: bytes) -> bool:
        """
        Whether a signature is of these bytes; no, once enough was tried.
        """
        cost = len(head) + len(body) + way.cost
        if not self.signatures or cost > self.bytes_left or not self.trials_left:
            return False
        self.bytes_left -= cost
        self.trials_left -= 1
        return way.fits(head, body)

    @property
    def age(self) -> int | None:
        """
        How old the timestamp says it is.
        """
        if not self.stamp.isdigit() or len(self.stamp) >= _MILLISECONDS_DIGITS:
            return None
        return int(self.now) - int(self.stamp)


def _found(cause: Cause, how: str, way: _Way | None = None) -> Diagnosis:
    key_id = way.key_id if way else ""
    return Diagnosis(cause=cause, how=how, proven=way is not None, key_id=key_id)


def _by_another_profile(case: _Case) -> Diagnosis | None:
    if case.first(case.profile.signature_header):
        return None
    for profile in PROFILES.values():
        if profile.signature_header != case.profile.signature_header and _complete(case, profile):
            how = f"it has the headers of the profile {profile.name}"
            way = _holding(case.under(profile))
            more = ", and its signature holds" if way else ""
            return _found(Cause.OTHER_PROFILE, how + more, way)
    return None


def _complete(case: _Case, profile: Profile) -> bool:
    names = (profile.signature_header, profile.id_header, profile.timestamp_header)
    return all(case.first(name) for name in names if name)


def _holding(case: _Case) -> _Way | None:
    ways = [*case.ways(), *(way for way, _, _ in _readings(case))]
    return next((way for way in ways if case.holds(way, case.head, case.body)), None)


def _as_it_is(case: _Case) -> Diagnosis | None:
    for way in case.ways():
        if case.holds(way, case.head, case.body):
            return _of_key(case, way) or _beside_signature(case, way)
    return None


def _of_key(case: _Case, way: _Way) -> Diagnosis | None:
    key, now = way.key, case.now
    if key is None or key.good(now):
        return None
    if key.state is KeyState.REVOKED:
        return _found(Cause.KEY_REVOKED, "the signature is of a key that is revoked", way)
    if key.not_before is not None and now < key.not_before:
        how = f"the signature is of a key that is good in {key.not_before - now:.0f} s"
        return _found(Cause.KEY_NOT_YET, how, way)
    how = f"the signature is of a key that was good until {now - (key.not_after or now):.0f} s ago"
    return _found(Cause.KEY_EXPIRED, how, way)


def _beside_signature(case: _Case, way: _Way) -> Diagnosis:
    found = _by_code(case)
    if found is None:
        how = "the signature is the right one, in another spelling or under another name"
        return _found(Cause.SIGNATURE_SPELLING, how, way)
    return replace(
        found, how=f"the signature is the right one; {found.how}", proven=True, key_id=way.key_id
    )


def _by_reading(case: _Case) -> Diagnosis | None:
    for way, cause, how in _readings(case):
        if case.holds(way, case.head, case.body):
            return _found(cause, f"the signature holds with {how}", way)
    return None


def _readings(case: _Case) -> Iterator[tuple[_Way, Cause, str]]:
    for key in case.keyring.keys:
        if isinstance(key.secret, (StandardSecret, RawSecret)):
            for guess in secret_guesses(key.secret.reveal()):
                for way in case.ways_by(key, guess.was):
                    yield way, guess.cause, guess.how


def _by_key_of_another(case: _Case) -> Diagnosis | None:
    for name in list(case.others)[:MOST_OTHERS]:
        for key in keyring_of(case.others[name]).keys:
            for way in case.ways_of(key):
                if case.holds(way, case.head, case.body):
                    how = f"the signature holds with a key of {name}"
                    return _found(Cause.KEY_OF_ANOTHER, how, way)
    return None


def _by_body(case: _Case) -> Diagnosis | None:
    ways = case.ways()
    # Half is left for the other looks, where the body is large.
    floor = case.bytes_left // 2
    for guess in body_guesses(case.body) if case.signatures else ():
        if guess.cause is Cause.JSON_REWRITTEN:
            case.bytes_left -= len(guess.was)  # writing it costs as much
        if case.bytes_left <= floor:
            return None
        for way in ways:
            if case.holds(way, case.head, guess.was):
                return _found(guess.cause, f"the signature holds for the body {guess.how}", way)
    return None


def _by_head(case: _Case) -> Diagnosis | None:
    ways = case.ways()
    for guess in head_guesses(case.profile, case.event, case.stamp):
        for way in ways:
            if case.holds(way, guess.was, case.body):
                return _found(guess.cause, f"the signature holds {guess.how}", way)
    return None


def _by_code(case: _Case) -> Diagnosis | None:
    look = _CODES.get(case.code)
    return look(case) if look else None


def _by_message(case: _Case) -> Diagnosis | None:
    if case.profile.form is not Form.MESSAGE:
        return None
    for trial in _message_trials(case):
        way = _message_way(case, trial)
        if way is None:
            continue
        if trial.cause is Cause.NONE:
            return _of_key(case, way) or _beside_signature(case, way)
        return _found(trial.cause, f"the signature holds {trial.how}", way)
    return None


class _Trial(NamedTuple):
    cause: Cause
    how: str
    body: bytes
    request: tuple[str, str]


def _message_trials(case: _Case) -> Iterator[_Trial]:
    method, url = case.request
    yield _Trial(Cause.NONE, "", case.body, case.request)
    digest = case.first("content-digest")
    for guess in body_guesses(case.body):
        case.bytes_left -= 2 * len(guess.was)
        if case.bytes_left <= 0:
            break
        # The digest tells it alone; the signature is of the digest.
        if binascii.b2a_base64(sha256(guess.was).digest(), newline=False) in digest:
            yield _Trial(guess.cause, f"for the body {guess.how}", guess.was, case.request)
    host = str(case.first("host"), "latin-1")
    for other, how in url_guesses(url, host):
        yield _Trial(Cause.URL_CHANGED, f"for the URL {how}", case.body, (method, other))
    for other in {"POST", "PUT", "PATCH"} - {method}:
        yield _Trial(Cause.URL_CHANGED, "for another method", case.body, (other, url))


def _message_way(case: _Case, trial: _Trial) -> _Way | None:
    try:
        # As if every key were good, and at any time.
        keys = Keyring(replace(one, **_GOOD) for one in case.keyring.keys)
        verifier = Verifier(keys, profile=case.profile, past=_EVER, future=_EVER, clock=case.clock)
        method, url = trial.request
        key_id = verifier.verify(trial.body, case.headers, method=method, url=url).key_id
    except WebhookError:
        return None
    key = next(one for one in case.keyring.keys if one.id == key_id)
    return _Way(key_id, lambda _head, _body: True, 0, key)


def _unknown_key(_: _Case) -> Diagnosis:
    return _found(Cause.KEY_UNKNOWN, "it names a key that is not ours, or not good now")


def _missing(case: _Case) -> Diagnosis:
    ours = _names(case.profile)
    theirs = {name for one in PROFILES.values() for name in _names(one)} - set(ours)
    if any(map(case.first, ours)) and any(map(case.first, theirs)):
        how = "some of its headers are those of another profile"
        return _found(Cause.HEADERS_MIXED, how)
    gone = ", ".join(name for name in ours if not case.first(name))
    return _found(Cause.HEADER_MISSING, f"{gone} is missing or empty")


def _twice(case: _Case) -> Diagnosis:
    names = [name for name in _names(case.profile) if len(case.values.get(name, ())) > 1]
    return _found(Cause.HEADER_TWICE, f"{', '.join(names)} came more than once")


def _malformed(case: _Case) -> Diagnosis:
    for name in (case.profile.id_header, case.profile.timestamp_header):
        before, comma, after = case.first(name).partition(b",")
        if comma and before.strip() == after.strip():
            how = f"{name} has its value twice in one line: something joined two headers"
            return _found(Cause.HEADER_TWICE, how)
    how = "one of its headers is too long, has too many signatures, or is no id"
    return _found(Cause.HEADER_MALFORMED, how)


def _stamp_malformed(case: _Case) -> Diagnosis:
    if len(case.stamp) == _MILLISECONDS_DIGITS and case.stamp.isdigit():
        return _found(Cause.TIMESTAMP_MILLISECONDS, "the timestamp has 13 digits: milliseconds")
    before, comma, after = case.stamp.partition(b",")
    if comma and before.strip() == after.strip():
        return _found(Cause.HEADER_TWICE, "the timestamp is there twice in one line")
    return _found(Cause.TIMESTAMP_MALFORMED, "the timestamp is no number of seconds")


def _time(case: _Case) -> Diagnosis | None:
    age = case.age
    if age is None:
        return None
    cause = Cause.CLOCKS_DIFFER if age < 0 else Cause.LATE
    how = f"its timestamp is {abs(age)} s {'ahead of' if age < 0 else 'behind'} our clock"
    near = round(age / _HALF_HOUR)
    if near and abs(age - near * _HALF_HOUR) <= _NEAR and abs(near) <= 14 * 2:
        how += f", near {abs(near) / 2:g} h: a local time, taken for UTC?"
    return _found(cause, how)


def _scheme(case: _Case) -> Diagnosis:
    names = ", ".join(sorted(filter(None, case.profile.schemes))) or "one without a name"
    kinds = ", ".join(sorted({key.secret.kind for key in case.keyring.keys})) or "none"
    how = f"no signature is of a scheme for our keys: schemes {names}; keys {kinds}"
    return _found(Cause.SCHEME_UNKNOWN, how)


def _type(case: _Case) -> Diagnosis:
    takes = sorted({kind for one in case.profile.schemes.values() for kind in one.kinds})
    how = f"the profile {case.profile.name} takes secrets of the types {', '.join(takes)}"
    return _found(Cause.SECRET_TYPE, how)


def _by_facts(case: _Case) -> Diagnosis | None:
    length = case.first("content-length")
    if length.isdigit() and len(length) <= len("9" * 18) and int(length) != len(case.body):
        how = f"Content-Length says {int(length)} bytes, and {len(case.body)} are here"
        return _found(Cause.BODY_LENGTH_CHANGED, how)
    if not case.body:
        return _found(Cause.BODY_EMPTY, "the body is empty: something may have read it before")
    if case.first("content-encoding").strip().lower() not in (b"", b"identity"):
        how = "it says that it is compressed: the signature is of the bytes on the wire"
        return _found(Cause.BODY_DECOMPRESSED, how)
    if _REPLACEMENT in case.body:
        how = "the body has replacement characters: it was read as text, which it was not"
        return _found(Cause.CHARSET_CHANGED, how)
    return None


_CODES: Final[dict[str, Callable[[_Case], Diagnosis | None]]] = {
    "missing_header": _missing,
    "duplicate_header": _twice,
    "malformed_header": _malformed,
    "timestamp_malformed": _stamp_malformed,
    "too_old": _time,
    "too_new": _time,
    "no_supported_scheme": _scheme,
    "secret_type_invalid": _type,
    "key_unknown": _unknown_key,
}
_LOOKS: Final = (
    _by_message,
    _by_another_profile,
    _as_it_is,
    _by_body,
    _by_reading,
    _by_key_of_another,
    _by_head,
    _by_facts,
    _by_code,
)


def _names(profile: Profile) -> list[str]:
    names = (profile.signature_header, profile.id_header, profile.timestamp_header)
    return [name for name in names if name]


def _head_of(profile: Profile, event: bytes, stamp: bytes) -> bytes:
    # As it came, also where it is malformed.
    return profile.head.encode().replace(b"{timestamp}", stamp).replace(b"{id}", event)


def _key_bytes(secret: HmacSecret) -> bytes:
    return bytes(secret._hidden)  # noqa: SLF001 -- of this package, for trials alone


def _mac(raw: bytes, algorithm: str, signatures: list[bytes]) -> Fits:
    def fits(head: bytes, body: bytes) -> bool:
        running = hmac.new(raw, head, algorithm)
        running.update(body)
        made = running.digest()
        return any(hmac.compare_digest(made, one) for one in signatures)

    return fits


def _loose(headers: Any) -> dict[str, list[bytes]]:
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    found: dict[str, list[bytes]] = {}
    for name, value in pairs:
        lower = (name if isinstance(name, str) else str(name, "latin-1")).lower()
        text = value.encode("utf-8", "replace") if isinstance(value, str) else value
        # Others than ours were not checked, and may be anything.
        if isinstance(text, (bytes, bytearray)):
            found.setdefault(lower, []).append(bytes(text))
    return found


def _field(pieces: list[bytes], name: bytes) -> bytes:
    return next((one.removeprefix(name) for one in pieces if one.startswith(name)), b"")


def _decoded(piece: bytes) -> bytes:
    # However it is spelled: in hexadecimal, in base64 for addresses, without padding.
    text = _NAMED.sub(b"", piece, count=1)
    with suppress(ValueError):
        return _sized(binascii.unhexlify(text))
    standard = text.translate(bytes.maketrans(b"-_", b"+/")).rstrip(b"=")
    with suppress(ValueError):
        return _sized(binascii.a2b_base64(standard + b"=" * (-len(standard) % 4), strict_mode=True))
    return b""


def _sized(raw: bytes) -> bytes:
    return raw if len(raw) in _LENGTHS else b""
