"""
Finding out why a webhook was refused: for our own logs, never for its sender.

What a signature covers cannot be read from it.  But it can be tried what it was:
if it holds for the body with one more line break, the line break is what got lost.
"""

from __future__ import annotations

import binascii
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from hashlib import sha256
from typing import Any, Final, NamedTuple

from ..errors import WebhookError, WebhookUsageError
from ._case import Case, Given, Way, found
from ._causes import Cause, Diagnosis
from ._guesses import body_guesses, head_guesses, secret_guesses, url_guesses
from ._headers import Headers
from ._keyring import Keyring, Keys, KeyState, keyring_of
from ._profiles import PROFILES, STANDARD, Form, Profile
from ._secrets import RawSecret, StandardSecret
from ._symptoms import by_code, by_facts
from ._verify import Body, Verifier

__all__ = ["Cause", "Diagnosis", "diagnose"]

MOST_OTHERS: Final = 100
_EVER: Final = 10**13
_GOOD: Final[dict[str, Any]] = {
    "state": KeyState.ACTIVE,
    "not_before": None,
    "not_after": None,
}


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
    given = Given(
        body=body,
        headers=list(headers) if isinstance(headers, Iterator) else headers,
        keyring=keyring_of(keys),
        profile=profile,
        now=clock(),
        others=others or {},
        request=(method, url),
    )
    code = _code(given)
    if not code:
        return Diagnosis(cause=Cause.NONE, how="the signature holds", proven=True)
    case = Case(given, code)
    for look in _LOOKS:
        diagnosis = look(case)
        if diagnosis is not None:
            return replace(diagnosis, code=code)
    how = "nothing that was tried explains it: another body, or a secret that is not ours"
    return Diagnosis(code=code, cause=Cause.UNKNOWN, how=how)


def _code(given: Given) -> str:
    unfit = ""
    try:
        verifier = Verifier(given.keyring, profile=given.profile, clock=given.clock)
    except WebhookUsageError as error:
        # Keys for another profile are one of the causes; what is no body is none.
        unfit = error.code
        verifier = Verifier((), profile=given.profile, clock=given.clock)
    method, url = given.request
    try:
        verifier.verify(given.body, given.headers, method=method, url=url)
    except WebhookUsageError:
        raise
    except WebhookError as error:
        return unfit or error.code
    return unfit


def _by_another_profile(case: Case) -> Diagnosis | None:
    if case.first(case.profile.signature_header):
        return None
    for profile in PROFILES.values():
        if profile.signature_header != case.profile.signature_header and _complete(case, profile):
            how = f"it has the headers of the profile {profile.name}"
            way = _holding(case.under(profile))
            more = ", and its signature holds" if way else ""
            return found(Cause.OTHER_PROFILE, how + more, way)
    return None


def _complete(case: Case, profile: Profile) -> bool:
    names = (profile.signature_header, profile.id_header, profile.timestamp_header)
    return all(case.first(name) for name in names if name)


def _holding(case: Case) -> Way | None:
    ways = [*case.ways(), *(way for way, _, _ in _readings(case))]
    return next((way for way in ways if case.holds(way, case.head, case.body)), None)


def _as_it_is(case: Case) -> Diagnosis | None:
    for way in case.ways():
        if case.holds(way, case.head, case.body):
            return _of_key(case, way) or _beside_signature(case, way)
    return None


def _of_key(case: Case, way: Way) -> Diagnosis | None:
    key, now = way.key, case.given.now
    if key is None or key.good(now):
        return None
    if key.state is KeyState.REVOKED:
        return found(Cause.KEY_REVOKED, "the signature is of a key that is revoked", way)
    if key.not_before is not None and now < key.not_before:
        how = f"the signature is of a key that is good in {key.not_before - now:.0f} s"
        return found(Cause.KEY_NOT_YET, how, way)
    how = f"the signature is of a key that was good until {now - (key.not_after or now):.0f} s ago"
    return found(Cause.KEY_EXPIRED, how, way)


def _beside_signature(case: Case, way: Way) -> Diagnosis:
    shown = by_code(case)
    if shown is None:
        how = "the signature is the right one, in another spelling or under another name"
        return found(Cause.SIGNATURE_SPELLING, how, way)
    return found(shown.cause, f"the signature is the right one; {shown.how}", way)


def _by_reading(case: Case) -> Diagnosis | None:
    for way, cause, how in _readings(case):
        if case.holds(way, case.head, case.body):
            return found(cause, f"the signature holds with {how}", way)
    return None


def _readings(case: Case) -> Iterator[tuple[Way, Cause, str]]:
    for key in case.given.keyring.keys:
        if isinstance(key.secret, (StandardSecret, RawSecret)):
            for guess in secret_guesses(key.secret.reveal()):
                for way in case.ways_by(key, guess.was):
                    yield way, guess.cause, guess.how


def _by_key_of_another(case: Case) -> Diagnosis | None:
    for name in list(case.given.others)[:MOST_OTHERS]:
        for key in keyring_of(case.given.others[name]).keys:
            for way in case.ways_of(key):
                if case.holds(way, case.head, case.body):
                    how = f"the signature holds with a key of {name}"
                    return found(Cause.KEY_OF_ANOTHER, how, way)
    return None


def _by_body(case: Case) -> Diagnosis | None:
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
                return found(guess.cause, f"the signature holds for the body {guess.how}", way)
    return None


def _by_head(case: Case) -> Diagnosis | None:
    ways = case.ways()
    for guess in head_guesses(case.profile, case.event, case.stamp):
        for way in ways:
            if case.holds(way, guess.was, case.body):
                return found(guess.cause, f"the signature holds {guess.how}", way)
    return None


def _by_message(case: Case) -> Diagnosis | None:
    if case.profile.form is not Form.MESSAGE:
        return None
    for trial in _message_trials(case):
        way = _message_way(case, trial)
        if way is None:
            continue
        if trial.cause is Cause.NONE:
            return _of_key(case, way) or _beside_signature(case, way)
        return found(trial.cause, f"the signature holds {trial.how}", way)
    return None


class _Trial(NamedTuple):
    cause: Cause
    how: str
    body: bytes
    request: tuple[str, str]


def _message_trials(case: Case) -> Iterator[_Trial]:
    method, url = case.given.request
    yield _Trial(Cause.NONE, "", case.body, case.given.request)
    digest = case.first("content-digest")
    for guess in body_guesses(case.body):
        case.bytes_left -= 2 * len(guess.was)
        if case.bytes_left <= 0:
            break
        # The digest tells it alone; the signature is of the digest.
        if binascii.b2a_base64(sha256(guess.was).digest(), newline=False) in digest:
            yield _Trial(guess.cause, f"for the body {guess.how}", guess.was, case.given.request)
    host = str(case.first("host"), "latin-1")
    for other, how in url_guesses(url, host):
        yield _Trial(Cause.URL_CHANGED, f"for the URL {how}", case.body, (method, other))
    for other in {"POST", "PUT", "PATCH"} - {method}:
        yield _Trial(Cause.URL_CHANGED, "for another method", case.body, (other, url))


def _message_way(case: Case, trial: _Trial) -> Way | None:
    try:
        # As if every key were good, and at any time.
        keys = Keyring(replace(one, **_GOOD) for one in case.given.keyring.keys)
        verifier = Verifier(
            keys, profile=case.profile, past=_EVER, future=_EVER, clock=case.given.clock
        )
        method, url = trial.request
        key_id = verifier.verify(trial.body, case.given.headers, method=method, url=url).key_id
    except WebhookError:
        return None
    key = next(one for one in case.given.keyring.keys if one.id == key_id)
    return Way(key_id, lambda _head, _body: True, 0, key)


_LOOKS: Final = (
    _by_message,
    _by_another_profile,
    _as_it_is,
    _by_body,
    _by_reading,
    _by_key_of_another,
    _by_head,
    by_facts,
    by_code,
)
