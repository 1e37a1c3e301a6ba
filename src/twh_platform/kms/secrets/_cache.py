"""
Secrets in the memory of a process, for seconds.

What was revoked goes from here within `max_age`, and at once where somebody
tells: `forget` and `clear` are for a listener.  While the store does not answer,
what was read last serves until `stale_if_error`, and then is refused: whoever
holds the store down does not keep a revoked secret alive for longer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime
from typing import Self, TypeAlias

from ..._forks import reset_after_fork
from ...errors import (
    BackendUnavailableError,
    ConfigurationError,
    PlatformError,
    SecretConflictError,
)
from .._clock import elapsed, utc_now
from .._owner import require_owner
from .._secret import Secret
from ._announcing import announce_read
from ._async_store import secret_threads
from ._store import SecretStore, accepted_values
from ._versions import RotationPolicy, SecretValue, SecretVersion, Stage, valid_secret_name

__all__ = ["AsyncCachedSecrets", "CachedSecrets"]

_ATTEMPTS = 5

Values: TypeAlias = tuple[SecretValue, ...]
Asked: TypeAlias = Stage | int | None  # a stage, a version, or all that is accepted
Key: TypeAlias = tuple[str, str, Asked]


@dataclass(slots=True)
class _Entry:
    values: Values
    read_at: float
    ask_after: float = 0.0  # not before this moment, since the store did not answer


class _Flight:
    # One reading of the store, shared by all who wait for it.
    __slots__ = ("done", "error", "stale", "thread", "values")

    def __init__(self) -> None:
        self.done = threading.Event()
        self.thread = threading.get_ident()
        self.values: Values | None = None
        self.error: Exception | None = None
        self.stale = False


class CachedSecrets:
    """
    A secret store that remembers what it read, for seconds.

    It is a secret store itself: changes go through, and forget what was known of
    the secret here; other processes learn by their listener, or by `max_age`.
    Whoever misses at the same moment shares one reading.  What is told to
    `forget` while it is being read is read again.  An expiry or the end of an
    overlap is kept to the moment, cached or not.

        >>> from twh_platform.kms.secrets import CachedSecrets, MemorySecretStore, Secret
        >>> from twh_platform.tenancy import Tenant, bind_tenant
        >>> secrets = CachedSecrets(MemorySecretStore(), max_age=30)
        >>> with bind_tenant(Tenant(id="acme")):
        ...     secrets.put("smtp/password", Secret("s3cr3t")).version
        ...     secrets.get("smtp/password").secret.text()
        1
        's3cr3t'

    Args:
        store: The store.

        max_age: Seconds for which what was read is believed.

        stale_if_error: Seconds since it was read for which it serves while the
            store does not answer; 0 for never.

        retry_after: Seconds for which a store that did not answer is not asked
            again for what can be served stale.

        capacity: Of how many secrets values are remembered.

        clock: Seconds that never go back and count sleep.

        now: The wall clock, with time zone.

    Raises:
        twh_platform.errors.ConfigurationError: If a number is not above zero.
    """

    def __init__(
        self,
        store: SecretStore,
        *,
        max_age: float = 30.0,
        stale_if_error: float = 900.0,
        retry_after: float = 1.0,
        capacity: int = 10_000,
        clock: Callable[[], float] = elapsed,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        if not (max_age > 0 and stale_if_error >= 0 and retry_after >= 0 and capacity > 0):
            message = (
                f"max_age={max_age!r} and capacity={capacity!r} are above zero,"
                f" stale_if_error={stale_if_error!r} and retry_after={retry_after!r} not below"
            )
            raise ConfigurationError(message)
        self._store = store
        self._max_age, self._stale, self._retry_after = max_age, stale_if_error, retry_after
        self._capacity, self._clock, self._now = capacity, clock, now
        self._entries: dict[tuple[str, str], dict[Asked, _Entry]] = {}
        self.after_fork()
        reset_after_fork(self)

    def after_fork(self) -> None:
        """
        Forget locks, and readings that only the parent will end.
        """
        self._lock = threading.Lock()
        self._flights: dict[Key, _Flight] = {}

    def get(
        self, name: str, *, stage: Stage = Stage.CURRENT, version: int | None = None
    ) -> SecretValue:
        """
        See `SecretStore.get`; from memory if that is young enough.
        """
        asked: Asked = stage if version is None else version
        return self._values(
            (require_owner().id, valid_secret_name(name), asked),
            lambda: (self._store.get(name, stage=stage, version=version),),
        )[0]

    def accepted(self, name: str) -> Values:
        """
        All values to accept, the current one first; see `accepted_values`.
        """
        values = self._values(
            (require_owner().id, valid_secret_name(name), None),
            lambda: accepted_values(self._store, name, now=self._now()),
        )
        return self._usable(values)

    def warm(self, name: str, *, stage: Stage = Stage.CURRENT) -> SecretValue | None:
        """
        The value if it is in memory and young enough; it never asks the store.
        """
        values = self._fresh((require_owner().id, valid_secret_name(name), stage))
        return values[0] if values else None

    def forget(self, name: str, *, tenant_id: str | None = None) -> None:
        """
        Read the secret anew when it is next asked for.

        Args:
            name: The secret's name.

            tenant_id: Whose; the current tenant's if None.
        """
        owner = require_owner().id if tenant_id is None else tenant_id
        self._forget(lambda whose, what: (whose, what) == (owner, name))

    def clear(self, *, tenant_id: str | None = None) -> None:
        """
        Forget everything, or everything of one tenant.
        """
        self._forget(lambda whose, _: tenant_id is None or whose == tenant_id)

    def put(
        self,
        name: str,
        secret: Secret,
        *,
        stage: Stage = Stage.CURRENT,
        expires_at: datetime | None = None,
        expected: int | None = None,
        overlap: float | None = None,
        policy: RotationPolicy | None = None,
    ) -> SecretVersion:
        """
        See `SecretStore.put`.
        """
        try:
            return self._store.put(
                name,
                secret,
                stage=stage,
                expires_at=expires_at,
                expected=expected,
                overlap=overlap,
                policy=policy,
            )
        finally:
            self.forget(name)

    def versions(self, name: str) -> list[SecretVersion]:
        """
        See `SecretStore.versions`; never from memory.
        """
        return self._store.versions(name)

    def promote(self, name: str, *, overlap: float | None = None) -> SecretVersion:
        """
        See `SecretStore.promote`.
        """
        try:
            return self._store.promote(name, overlap=overlap)
        finally:
            self.forget(name)

    def roll_back(self, name: str, *, overlap: float | None = None) -> SecretVersion:
        """
        See `SecretStore.roll_back`.
        """
        try:
            return self._store.roll_back(name, overlap=overlap)
        finally:
            self.forget(name)

    def revoke(self, name: str, version: int) -> SecretVersion:
        """
        See `SecretStore.revoke`.
        """
        try:
            return self._store.revoke(name, version)
        finally:
            # Also where the answer was lost: the store may have done it.
            self.forget(name)

    def names(self, *, prefix: str = "") -> list[str]:
        """
        See `SecretStore.names`; never from memory.
        """
        return self._store.names(prefix=prefix)

    def policy(self, name: str) -> RotationPolicy | None:
        """
        See `SecretStore.policy`; never from memory.
        """
        return self._store.policy(name)

    def _values(self, key: Key, ask: Callable[[], Values]) -> Values:
        values = self._fresh(key)
        if values is not None:
            _announce(key, values, "cache")
            return values
        for _ in range(_ATTEMPTS):
            flight, mine = self._board(key)
            if flight.thread == threading.get_ident() and not mine:
                return ask()  # a reading that needs itself waits for nobody
            if mine:
                self._fly(key, flight, ask)
            flight.done.wait()
            if flight.values is not None and not flight.stale:
                if not mine:
                    _announce(key, flight.values, "cache")
                return flight.values
            if flight.error is not None:
                return self._instead(key, flight.error)
        message = f"secret {key[1]!r} changes faster than it can be read"
        raise SecretConflictError(message)

    def _fresh(self, key: Key) -> Values | None:
        entry = self._entry(key)
        if entry is None:
            return None
        now = self._clock()
        if now >= entry.read_at + self._max_age:
            return None
        # What has expired since: the store says what to answer.
        whole = len(self._usable(entry.values)) == len(entry.values)
        return entry.values if whole else None

    def _entry(self, key: Key) -> _Entry | None:
        return self._entries.get(key[:2], {}).get(key[2])

    def _usable(self, values: Values) -> Values:
        now = self._now()
        return tuple(one for one in values if one.version.usable(now))

    def _board(self, key: Key) -> tuple[_Flight, bool]:
        with self._lock:
            flight = self._flights.get(key)
            if flight is not None:
                return flight, False
            flight = self._flights[key] = _Flight()
            return flight, True

    def _fly(self, key: Key, flight: _Flight, ask: Callable[[], Values]) -> None:
        asked_at = self._clock()  # the answer is no younger than the question
        try:
            self._refuse_held_off(key)
            values = ask()
        except Exception as error:  # noqa: BLE001 -- handed to all who wait
            flight.error = error
        else:
            flight.values = values
        finally:
            with self._lock:
                if self._flights.get(key) is flight:
                    del self._flights[key]
                if flight.values is not None and not flight.stale:
                    self._remember(key, _Entry(flight.values, asked_at))
            flight.done.set()

    def _refuse_held_off(self, key: Key) -> None:
        entry = self._entry(key)
        if entry is not None and self._clock() < entry.ask_after:
            message = "the secret store did not answer a moment ago"
            raise BackendUnavailableError(message, code="secret_store_unavailable")

    def _instead(self, key: Key, error: Exception) -> Values:
        """
        What is served although the store could not be read, or the error.
        """
        entry = self._entry(key)
        if not isinstance(error, BackendUnavailableError):
            if isinstance(error, PlatformError):
                self._drop(key)
            raise error
        now = self._clock()
        if entry is None or now >= entry.read_at + self._stale:
            raise error
        if now >= entry.ask_after:
            entry.ask_after = now + self._retry_after
        values = self._usable(entry.values)
        if not values:
            raise error
        _announce(key, values, "stale")
        return values

    def _remember(self, key: Key, entry: _Entry) -> None:
        if key[:2] not in self._entries:
            # The secret that was read longest ago goes.
            while len(self._entries) >= self._capacity:
                del self._entries[next(iter(self._entries))]
        self._entries.setdefault(key[:2], {})[key[2]] = entry

    def _drop(self, key: Key) -> None:
        with self._lock:
            self._entries.get(key[:2], {}).pop(key[2], None)

    def _forget(self, meant: Callable[[str, str], bool]) -> None:
        with self._lock:
            for key in [key for key in self._entries if meant(*key)]:
                del self._entries[key]
            for flying in [key for key in self._flights if meant(*key[:2])]:
                self._flights.pop(flying).stale = True


def _announce(key: Key, values: Values, source: str) -> None:
    for one in values:
        announce_read(key[0], key[1], one.version.version, source)


class AsyncCachedSecrets:
    """
    Cached secrets for a running event loop: what is warm is given without a thread.

        async with AsyncCachedSecrets(CachedSecrets(store)) as secrets:
            value = await secrets.get("smtp/password")

    Any number of tasks that miss at once wait for one reading, and one of them
    being cancelled does not disturb the others.

    Args:
        secrets: The blocking ones.

        threads: How many readings run at once.

        seconds: How long a task waits; then
            `twh_platform.errors.BackendUnavailableError` with code
            ``secret_store_timeout`` is raised.
    """

    def __init__(self, secrets: CachedSecrets, *, threads: int = 4, seconds: float = 10.0) -> None:
        self._secrets = secrets
        self._threads = secret_threads(threads, seconds)
        self.after_fork()
        reset_after_fork(self)

    def after_fork(self) -> None:
        """
        Forget readings that only the parent will end.
        """
        self._loads: dict[Key, Future[Values]] = {}

    async def get(self, name: str, *, stage: Stage = Stage.CURRENT) -> SecretValue:
        """
        See `CachedSecrets.get`.
        """
        found = self._secrets.warm(name, stage=stage)
        key = (require_owner().id, name, stage)
        if found is None:
            values = await self._load(key, lambda: (self._secrets.get(name, stage=stage),))
            return values[0]
        _announce(key, (found,), "cache")
        return found

    async def accepted(self, name: str) -> Values:
        """
        See `CachedSecrets.accepted`.
        """
        key = (require_owner().id, valid_secret_name(name), None)
        return await self._load(key, lambda: self._secrets.accepted(name))

    async def aclose(self) -> None:
        """
        Let the threads go; readings that still run are not waited for.

        One that has not begun is refused, as are later ones: with
        `twh_platform.errors.ConfigurationError`, code ``async_closed``.
        """
        self._threads.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _load(self, key: Key, read: Callable[[], Values]) -> Values:
        load = self._loads.get(key)
        mine = load is None or load.done()
        if load is None or load.done():
            load = self._loads[key] = self._threads.submit(read)
            load.add_done_callback(lambda done: self._landed(key, done))
        # Whoever is cancelled leaves the reading to the others.
        values = await self._threads.answer(load)
        if not mine:
            _announce(key, values, "cache")
        return values

    def _landed(self, key: Key, load: Future[Values]) -> None:
        if self._loads.get(key) is load:
            self._loads.pop(key, None)
