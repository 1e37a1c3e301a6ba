"""
The keys of endpoints out of a secret store.

The store is any that has what the protocols below ask for; those of
`twh_platform.kms.secrets` do.  Nothing of them is imported here.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final, Protocol, TypeAlias, final

from ..errors import (
    BackendUnavailableError,
    ConfigurationError,
    SecretError,
    SecretNotFoundError,
    SecretRevokedError,
    WebhookError,
)
from ..tenancy._carry import create_clean_task
from ..tenancy._context import bind_tenant, require_tenant
from ..tenancy._tenant import Tenant
from ._endpoint import WebhookEndpoint
from ._keyring import MOST_KEYS, Key, Keyring, KeyState
from ._profiles import STANDARD, Profile
from ._secrets import StandardSecret, WebhookKey
from ._verify import Verifier

__all__ = ["ReadKey", "StoredKeys", "stored_keyring"]

_logger = logging.getLogger("twh_platform.webhooks")

_endpoint = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}", re.ASCII).fullmatch
# On Linux the monotonic clock stands still while the machine is suspended.
_elapsed = partial(time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
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


_Asked: TypeAlias = tuple[str, str]  # a tenant's id, and a secret's name


@dataclass(slots=True)
class _Entry:
    keyring: Keyring
    read_at: float
    verifier: Verifier | None = None


@final
class StoredKeys:
    """
    Finds the keys of endpoints in a secret store, and remembers them for seconds.

        keys = StoredKeys(SqliteSecretStore("secrets.sqlite", cipher))

        async def endpoint(scope):
            name = scope["path"].rpartition("/")[2]
            return await keys.endpoint(name, tenant=tenant_of(scope))

        app = WebhookMiddleware(app, endpoint, replay=store_of_claims)

    The secret of an endpoint belongs to its tenant, under a name made of the
    endpoint's.  What is revoked is refused *max_age* seconds later, or as soon as
    `forget` is told, which a `KeyChangeListener` does; the end of an overlap is kept
    to the moment.  While the store does not answer, what was read last serves until
    *stale_if_error*.  Whoever asks for the same at the same time waits for one
    reading.

    Args:
        store: A store that blocks, which is asked in a thread, or one to be awaited.
            It has ``versions(name)`` and ``get(name, version=...)``, or, as a cache
            has it, ``accepted(name)`` and ``get(name, stage=...)``: then its own age
            comes on top of *max_age*.

        name: The secret's name, with ``{endpoint}`` in it.

        read: Makes a typed secret of a version's text.

        profile: How the sender signs.

        max_age: Seconds for which what was read is believed.

        stale_if_error: Seconds since it was read for which it serves while the store
            does not answer; 0 for never.

        retry_after: Seconds for which a store that did not answer is not asked again
            for the same keys.

        capacity: How many endpoints are remembered, and as many that there are not.

        clock: Seconds that never go back and count sleep.

        now: Unix seconds.

    Raises:
        twh_platform.errors.ConfigurationError: If a number is out of its range, or
            *name* has no ``{endpoint}``.
    """

    def __init__(
        self,
        store: Any,
        *,
        name: str = "webhooks/{endpoint}",
        read: ReadKey = StandardSecret,
        profile: Profile = STANDARD,
        max_age: float = 30.0,
        stale_if_error: float = 900.0,
        retry_after: float = 1.0,
        capacity: int = 10_000,
        clock: Callable[[], float] = _elapsed,
        now: Callable[[], float] = time.time,
    ) -> None:
        if not (max_age > 0 and stale_if_error >= 0 and retry_after >= 0 and capacity > 0):
            message = (
                f"max_age={max_age!r} and capacity={capacity!r} are above zero,"
                f" stale_if_error={stale_if_error!r} and retry_after={retry_after!r} not below"
            )
            raise ConfigurationError(message)
        if "{endpoint}" not in name:
            message = f"name={name!r} has no {{endpoint}}: all endpoints would have one secret"
            raise ConfigurationError(message)
        self._store, self._name, self._read, self._profile = store, name, read, profile
        self._max_age, self._stale, self._retry_after = max_age, stale_if_error, retry_after
        self._capacity, self._clock, self._now = capacity, clock, now
        # Apart, so that asking for what is not there drives out nothing that is.
        self._found: dict[_Asked, _Entry] = {}
        self._missing: dict[_Asked, _Entry] = {}
        self._held_off: dict[_Asked, float] = {}
        self._readings: dict[_Asked, asyncio.Task[_Entry]] = {}

    async def verifier(self, endpoint: str, *, tenant: Tenant | None = None) -> Verifier | None:
        """
        A `Verifier` with the endpoint's keys, kept for as long as they are believed.

        Args:
            endpoint: 1 to 64 lower-case letters, digits, ``_`` and ``-``.

            tenant: Whose it is; whoever is bound if None.

        Returns:
            None if there is no such endpoint, or it has no key that is accepted.

        Raises:
            twh_platform.errors.BackendUnavailableError: If the store does not answer.

            twh_platform.errors.NoCurrentTenantError: If no tenant is given or bound.
        """
        entry = await self._entry(endpoint, tenant)
        if entry is None or not len(entry.keyring):
            return None
        if entry.verifier is None:
            entry.verifier = Verifier(entry.keyring, profile=self._profile, clock=self._now)
        return entry.verifier

    async def endpoint(
        self, endpoint: str, *, tenant: Tenant | None = None
    ) -> WebhookEndpoint | None:
        """
        The endpoint by its name and its owner, as `WebhookMiddleware` asks for it.

        Its id is *endpoint*; its tenant, the owner, is bound while the app handles the
        webhook.  See `verifier`.
        """
        owner = tenant or require_tenant()
        verifier = await self.verifier(endpoint, tenant=owner)
        if verifier is None:
            return None
        return WebhookEndpoint(keys=verifier, id=endpoint, tenant=owner)

    async def keyring(self, endpoint: str, *, tenant: Tenant | None = None) -> Keyring | None:
        """
        The endpoint's keys, as for a `Signer`; see `verifier`.
        """
        entry = await self._entry(endpoint, tenant)
        return entry.keyring if entry and len(entry.keyring) else None

    def forget(self, name: str, *, tenant_id: str | None = None) -> None:
        """
        Read a secret anew when it is next asked for; a listener may call it in its thread.

        Args:
            name: The secret's name, as in the store.

            tenant_id: Whose; everybody's if None.
        """
        self._forget(lambda asked: asked[1] == name and tenant_id in (None, asked[0]))

    def clear(self, *, tenant_id: str | None = None) -> None:
        """
        Read everything anew, or everything of one tenant.
        """
        self._forget(lambda asked: tenant_id in (None, asked[0]))

    def _forget(self, meant: Callable[[_Asked], bool]) -> None:
        kinds: tuple[dict[_Asked, Any], ...]
        kinds = (self._readings, self._found, self._missing, self._held_off)
        for kept in kinds:
            for asked in filter(meant, list(kept)):
                kept.pop(asked, None)

    async def _entry(self, endpoint: str, tenant: Tenant | None) -> _Entry | None:
        # A name from a URL must not name another secret of the tenant's.
        if not isinstance(endpoint, str) or not _endpoint(endpoint):
            return None
        owner = tenant or require_tenant()
        asked = (owner.id, self._name.replace("{endpoint}", endpoint))
        entry = self._found.get(asked) or self._missing.get(asked)
        if entry and self._clock() < entry.read_at + self._max_age:
            return entry
        try:
            return await self._reading(asked, owner)
        except BackendUnavailableError:
            if entry and self._clock() < entry.read_at + self._stale:
                return entry
            raise

    async def _reading(self, asked: _Asked, owner: Tenant) -> _Entry:
        if self._clock() < self._held_off.get(asked, -math.inf):
            message = "the secret store did not answer a moment ago"
            raise BackendUnavailableError(message, code="secret_store_unavailable")
        task = self._readings.get(asked)
        if task is None or task.done() or task.get_loop() is not asyncio.get_running_loop():
            task = self._readings[asked] = create_clean_task(self._ask(asked, owner))
            task.add_done_callback(lambda done: self._landed(asked, done))
        # Whoever is cancelled leaves the reading to the others.
        return await asyncio.shield(task)

    async def _ask(self, asked: _Asked, owner: Tenant) -> _Entry:
        began = self._clock()  # the answer is no younger than the question
        with bind_tenant(owner):
            found = await self._values(asked[1])
        return _Entry(_keyring(asked[1], found, self._read), began)

    def _landed(self, asked: _Asked, task: asyncio.Task[_Entry]) -> None:
        error = None if task.cancelled() else task.exception()
        if self._readings.get(asked) is not task:
            return  # it was told to forget meanwhile
        del self._readings[asked]
        if isinstance(error, BackendUnavailableError):
            _keep(self._held_off, asked, self._clock() + self._retry_after, self._capacity)
        if task.cancelled() or error is not None:
            return
        entry = task.result()
        for kept in (self._found, self._missing, self._held_off):
            kept.pop(asked, None)
        _keep(self._found if len(entry.keyring) else self._missing, asked, entry, self._capacity)

    async def _values(self, name: str) -> list[tuple[Version, Any]]:
        moment = self._now()
        if not hasattr(self._store, "versions"):
            return await self._cached_values(name, moment)
        versions = await self._call(self._store.versions, name)
        found = []
        for version in _accepted(versions, moment):
            try:
                one = await self._call(self._store.get, name, version=version.version)
            except (SecretNotFoundError, SecretRevokedError):
                continue
            found.append((version, one.secret))
        return found

    async def _cached_values(self, name: str, moment: float) -> list[tuple[Version, Any]]:
        values = list(await self._call(self._store.accepted, name))
        stages = {type(one.version.stage) for one in values if one.version.stage is not None}
        for stage in stages:
            try:
                values.append(await self._call(self._store.get, name, stage=stage("pending")))
            except (SecretNotFoundError, SecretRevokedError):
                continue
        by_version = {one.version.version: one for one in values}
        order = _accepted([one.version for one in by_version.values()], moment)
        return [(one, by_version[one.version].secret) for one in order]

    async def _call(self, call: Callable[..., Any], *given: Any, **named: Any) -> Any:
        if inspect.iscoroutinefunction(call):
            return await call(*given, **named)
        return await asyncio.to_thread(call, *given, **named)


def _keep(kept: dict[_Asked, Any], asked: _Asked, value: Any, capacity: int) -> None:
    # What was read longest ago goes.
    while len(kept) >= capacity:
        del kept[next(iter(kept))]
    kept[asked] = value


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
