"""
Which keys the versions of a secret are, in a secret store that is asked for them.

The store is any that has what `Version` and the functions below ask for; those of
`twh_platform.kms.secrets` do.  Nothing of them is imported here.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, Final, Protocol, TypeAlias

from ..errors import SecretError, SecretNotFoundError, SecretRevokedError, WebhookError
from ._keyring import MOST_KEYS, Key, Keyring, KeyState
from ._secrets import StandardSecret, WebhookKey

__all__ = ["ReadKey", "keyring_of", "stored_keyring"]

_logger = logging.getLogger("twh_platform.webhooks")

_STATES: Final = {
    "current": KeyState.ACTIVE,
    "pending": KeyState.PENDING,
    "previous": KeyState.RETIRING,
    None: KeyState.RETIRING,
}
_ORDER: Final = (KeyState.ACTIVE, KeyState.PENDING, KeyState.RETIRING)

ReadKey: TypeAlias = Callable[[str], WebhookKey]
"""Makes a typed secret of the text in the store, such as `StandardSecret`."""


class Version(Protocol):
    """
    What is known of a version of a secret.
    """

    @property
    def version(self) -> int: ...

    @property
    def stage(self) -> str | None: ...

    @property
    def expires_at(self) -> datetime | None: ...

    @property
    def current_since(self) -> datetime | None: ...

    @property
    def retires_at(self) -> datetime | None: ...

    @property
    def revoked_at(self) -> datetime | None: ...


def stored_keyring(
    store: Any, name: str, *, read: ReadKey = StandardSecret, now: float | None = None
) -> Keyring:
    """
    Make a keyring of a secret in a blocking store, as the owner who is bound here.

    The current version is active; older ones are retiring until their overlap
    ends, to the moment; a pending one is pending.  What is revoked or over is not in
    it.  Of two versions that sign alike there is the first; of more than ten the
    newest.  A version that is no secret of that type is left out, and logged.

    Args:
        store: Has ``versions(name)`` and ``get(name, version=...)``.

        name: The secret's name.

        read: Makes a typed secret of a version's text.

        now: Unix seconds; the real ones if None.

    Raises:
        twh_platform.errors.PlatformError: What the store raises.
    """
    moment = time.time() if now is None else now
    found = []
    for version in _accepted(store.versions(name), moment):
        try:
            found.append((version, store.get(name, version=version.version).secret))
        except (SecretNotFoundError, SecretRevokedError):
            continue  # revoked since the list was made
    return _keyring(name, found, read)


async def keyring_of(store: Any, name: str, *, read: ReadKey, now: float) -> Keyring:
    """
    As `stored_keyring`, of a store that blocks, which is asked in a thread, or is awaited.

    Args:
        store: As for `StoredKeys`.

        name: The secret's name.

        read: Makes a typed secret of a version's text.

        now: Unix seconds.

    Raises:
        twh_platform.errors.PlatformError: What the store raises.
    """
    values = _values if hasattr(store, "versions") else _cached_values
    return _keyring(name, await values(store, name, now), read)


async def _values(store: Any, name: str, now: float) -> list[tuple[Version, Any]]:
    versions = await _call(store.versions, name)
    found = []
    for version in _accepted(versions, now):
        try:
            one = await _call(store.get, name, version=version.version)
        except (SecretNotFoundError, SecretRevokedError):
            continue
        found.append((version, one.secret))
    return found


async def _cached_values(store: Any, name: str, now: float) -> list[tuple[Version, Any]]:
    values = list(await _call(store.accepted, name))
    stages = {type(one.version.stage) for one in values if one.version.stage is not None}
    for stage in stages:
        try:
            values.append(await _call(store.get, name, stage=stage("pending")))
        except (SecretNotFoundError, SecretRevokedError):
            continue
    by_version = {one.version.version: one for one in values}
    order = _accepted([one.version for one in by_version.values()], now)
    return [(one, by_version[one.version].secret) for one in order]


async def _call(call: Callable[..., Any], *given: Any, **named: Any) -> Any:
    if inspect.iscoroutinefunction(call):
        return await call(*given, **named)
    return await asyncio.to_thread(call, *given, **named)


def _accepted(versions: Iterable[Version], now: float) -> list[Version]:
    good = [one for one in versions if one.revoked_at is None and now < _end(one)]
    used = [one for one in good if one.current_since or one.stage == "pending"]
    used.sort(key=lambda one: (_ORDER.index(_STATES[one.stage]), -one.version))
    return used


def _end(version: Version) -> float:
    ends = [one.timestamp() for one in (version.expires_at, version.retires_at) if one]
    return min(ends, default=math.inf)


def _keyring(name: str, found: Iterable[tuple[Version, Any]], read: ReadKey) -> Keyring:
    keys: dict[str, Key] = {}
    for version, value in found:
        try:
            secret = read(value.text())
        except (WebhookError, SecretError) as error:
            _logger.warning(
                "secret %s, version %d, is no key: %s", name, version.version, error.code
            )
            continue
        end = _end(version)
        # A version is given before its end, and a key is good at its last moment.
        last = None if math.isinf(end) else math.nextafter(end, 0)
        key = Key(secret=secret, state=_STATES[version.stage], not_after=last)
        keys.setdefault(secret.fingerprint, key)
    return Keyring(list(keys.values())[:MOST_KEYS])
