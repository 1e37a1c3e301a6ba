"""
Secrets that get a new value by themselves, when their policy says so.

A rotation is a compare-and-set: of any number of runners that find a secret due
at once, one rotates it.  An election only saves the others the work.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import random
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Protocol, Self, TypeAlias

from ...errors import (
    BackendUnavailableError,
    ConfigurationError,
    KeyDestroyedError,
    PlatformError,
    SecretConflictError,
    SecretNotFoundError,
    SecretRevokedError,
)
from ...tenancy._carry import create_clean_task
from .._clock import utc_now
from .._owner import platform_owner, require_owner
from .._secret import Secret
from ._announcing import announcing_change, code_of
from ._store import SecretStore
from ._versions import RotationPolicy, SecretState, SecretVersion, Stage, is_due

__all__ = [
    "Election",
    "FileElection",
    "Maker",
    "RotationReport",
    "RotationTask",
    "rotate_due",
    "rotate_secret",
]

_logger = logging.getLogger("twh_platform.kms")

Maker: TypeAlias = Callable[[str, RotationPolicy], Secret]
"""Makes a secret's next value: it is given the name and the policy."""


class Election(Protocol):
    """
    Who of several processes does the work of this round.
    """

    def lead(self) -> AbstractContextManager[bool]:
        """
        Whether this process leads, for the time of the `with`; it does not wait.
        """
        ...


class FileElection:
    """
    An election among the processes of one machine, by a lock on a file.

    Args:
        path: The file; made with mode 600 if it is missing, and left there.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)

    @contextmanager
    def lead(self) -> Iterator[bool]:
        """
        See `Election.lead`.

        Raises:
            twh_platform.errors.BackendUnavailableError: With code
                ``election_unavailable``, if the file cannot be opened.
        """
        try:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            message = f"the file of the election {str(self._path)!r}: {error.strerror}"
            raise BackendUnavailableError(message, code="election_unavailable") from error
        try:
            yield _locked(file)
        finally:
            os.close(file)


def _locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class RotationReport:
    """
    What a round of rotation did, for one owner of secrets.

    Attributes:
        rotated: The new current versions.

        failed: The name and the code of the error of each that could not be rotated.

        shredded: The names of those whose keys are destroyed: nothing is sealed
            for their owner any more, and they stay as they are.

        looked: How many secrets there are.
    """

    rotated: tuple[SecretVersion, ...] = ()
    failed: tuple[tuple[str, str], ...] = ()
    shredded: tuple[str, ...] = ()
    looked: int = 0


def rotate_secret(
    store: SecretStore, name: str, *, makers: Mapping[str, Maker] | None = None
) -> SecretVersion:
    """
    Give a secret its next value now, whether it is due or not.

    A pending version is promoted; without one, a value is made.

    Args:
        store: The store, as the owner who is bound here.

        name: The secret.

        makers: Who makes the value, by pattern of names (``db/*``); the first
            that fits.  Random bytes by the policy, if none does.

    Raises:
        twh_platform.errors.ConfigurationError: With code
            ``rotation_policy_missing``, if it has no policy.

        twh_platform.errors.SecretNotFoundError: If there is none.

        twh_platform.errors.SecretConflictError: If somebody else rotated it meanwhile.
    """
    return _announced(store, _state(store, name), makers or {})


def rotate_due(
    store: SecretStore,
    *,
    now: datetime | None = None,
    makers: Mapping[str, Maker] | None = None,
    stop: threading.Event | None = None,
) -> RotationReport:
    """
    Give a new value to each secret of the current owner whose policy asks for one.

    One that cannot be rotated is reported and keeps its value; the others go on.
    Those of an owner that was shredded are no failures, for they never will be.
    One that somebody else rotated meanwhile is left at that.

    Args:
        store: The store, as the owner who is bound here.

        now: The moment, with time zone; this one if None.

        makers: See `rotate_secret`.

        stop: Once it is set, no further secret is begun.
    """
    moment = now or utc_now()
    rotated: list[SecretVersion] = []
    failed: list[tuple[str, str]] = []
    shredded: list[str] = []
    names = store.names()
    for name in names:
        if stop is not None and stop.is_set():
            break
        try:
            state = _state(store, name)
            if is_due(state, now=moment):
                rotated.append(_announced(store, state, makers or {}))
        except SecretConflictError:
            continue
        except KeyDestroyedError:
            shredded.append(name)
        except Exception as error:  # noqa: BLE001 -- a maker's fault is its secret's alone
            failed.append((name, code_of(error)))
    return RotationReport(
        rotated=tuple(rotated),
        failed=tuple(failed),
        shredded=tuple(shredded),
        looked=len(names),
    )


def _state(store: SecretStore, name: str) -> SecretState:
    return SecretState(name=name, versions=tuple(store.versions(name)), policy=store.policy(name))


def _announced(
    store: SecretStore, state: SecretState, makers: Mapping[str, Maker]
) -> SecretVersion:
    with announcing_change(require_owner().id, state.name, "rotated") as done:
        version = _rotated(store, state, makers)
        done.append(version.version)
    return version


def _rotated(store: SecretStore, state: SecretState, makers: Mapping[str, Maker]) -> SecretVersion:
    name, policy = state.name, state.policy
    if not state.versions:
        raise SecretNotFoundError(f"there is no secret {name!r}")
    if state.at(Stage.PENDING) is not None:
        try:
            return store.promote(name)
        except SecretNotFoundError:
            raise SecretConflictError(f"secret {name!r} was rotated by somebody else") from None
        except SecretRevokedError:
            pass  # then a value is made as if nothing had been pending
    if policy is None:
        message = f"secret {name!r} has no rotation policy: nobody knows what its values look like"
        raise ConfigurationError(message, code="rotation_policy_missing")
    made = _maker(name, makers)(name, policy)
    return store.put(name, made, expected=state.newest)


def _maker(name: str, makers: Mapping[str, Maker]) -> Maker:
    fitting = (maker for pattern, maker in makers.items() if fnmatchcase(name, pattern))
    return next(fitting, _random)


def _random(_name: str, policy: RotationPolicy) -> Secret:
    return Secret.random(policy.random_bytes, policy.form)


def _platform_alone() -> Iterable[AbstractContextManager[object]]:
    return (platform_owner(),)


class RotationTask:
    """
    A task of a service's lifespan that rotates what is due, every few minutes.

        async with RotationTask(store, FileElection("rotation.lock")):
            ...  # serve

    Args:
        store: The blocking store.

        election: Who of several processes does a round; without one, each tries.

        owners: Whose secrets: what binds each in turn, such as
            ``lambda: [platform_owner(), bind_tenant(tenant)]``.  The platform's
            own, if it is left out.

        interval: Seconds between rounds; each is a little longer or shorter, so
            that processes that began at once do not go on together.

        makers: See `rotate_secret`.

        chance: Random numbers from 0 to 1.

    Raises:
        twh_platform.errors.ConfigurationError: If the interval is not above zero.
    """

    def __init__(
        self,
        store: SecretStore,
        election: Election | None = None,
        *,
        owners: Callable[[], Iterable[AbstractContextManager[object]]] = _platform_alone,
        interval: float = 300.0,
        makers: Mapping[str, Maker] | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        if not interval > 0:
            raise ConfigurationError(f"interval={interval!r} is not above zero")
        self._store, self._election, self._owners = store, election, owners
        self._interval, self._makers, self._chance = interval, makers, chance
        self._stop = threading.Event()
        self._task: asyncio.Task[None] | None = None

    def run_once(self) -> list[RotationReport] | None:
        """
        Do one round, blocking: a report for each owner, or None if another process leads.
        """
        if self._election is None:
            return self._round()
        with self._election.lead() as leads:
            return self._round() if leads else None

    async def __aenter__(self) -> Self:
        self._stop.clear()
        self._task = create_clean_task(self._rounds())
        return self

    async def __aexit__(self, *_: object) -> None:
        # A secret that is being rotated is: the thread ends before the next one.
        self._stop.set()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
            self._task = None

    async def _rounds(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self.run_once)
            except Exception as error:  # noqa: BLE001 -- the next round may do better
                _logger.warning("a round of rotation failed: %s", code_of(error))
            await asyncio.sleep(self._interval * (0.9 + 0.2 * self._chance()))

    def _round(self) -> list[RotationReport]:
        return [self._of(owner) for owner in self._owners() if not self._stop.is_set()]

    def _of(self, owner: AbstractContextManager[object]) -> RotationReport:
        with owner:
            tenant_id = require_owner().id
            try:
                report = rotate_due(self._store, makers=self._makers, stop=self._stop)
            except PlatformError as error:
                # The next owner's secrets may be elsewhere.
                _logger.warning("rotation for %s failed: %s", tenant_id, error.code)
                return RotationReport(failed=(("", error.code),))
        for version in report.rotated:
            _logger.info(
                "secret %s of %s rotated to version %d", version.name, tenant_id, version.version
            )
        for name, code in report.failed:
            _logger.warning("secret %s of %s was not rotated: %s", name, tenant_id, code)
        if report.shredded:
            # Not louder: it is so in every round from now on.
            _logger.debug("%d secrets of %s are left: shredded", len(report.shredded), tenant_id)
        return report
