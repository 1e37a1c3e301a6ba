"""
The versions of a secret, and what each change makes of them: no clock, no store.

Every store asks these functions, so that all of them behave alike.  Versions
count from 1 and no number is used twice.  A stage has one version at most:

    put ──> CURRENT ──(put, promote, roll back)──> PREVIOUS ──> none
    put ──> PENDING ──promote──> CURRENT <──roll back── PREVIOUS

A version that was demoted goes on to be valid for the overlap.  One that is
revoked keeps its stage, so that whoever asks for it learns why he gets nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from ...errors import (
    ConfigurationError,
    SecretConflictError,
    SecretNotFoundError,
    SecretRevokedError,
)
from .._secret import FORMS, Secret

__all__ = [
    "DEFAULT_OVERLAP",
    "TIMES",
    "RotationPolicy",
    "SecretState",
    "SecretValue",
    "SecretVersion",
    "Stage",
    "add_version",
    "choose_version",
    "is_due",
    "promote_pending",
    "read_policy",
    "read_state",
    "revoke_version",
    "roll_back_current",
    "usable_versions",
    "valid_secret_name",
    "write_policy",
    "write_state",
]

DEFAULT_OVERLAP = 86_400.0
# Beyond it a date may have no year; whoever means for ever says nothing.
LONGEST_SECONDS = 100 * 366 * 86_400.0
"""Seconds for which a demoted version stays valid, if neither the call nor the policy says."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._/-]{0,127}", re.ASCII)
_KEPT = 10  # versions without a stage, that somebody may still want to name


class Stage(StrEnum):
    """
    What a version is for.
    """

    CURRENT = "current"
    """The one to use."""

    PREVIOUS = "previous"
    """The one before, still accepted during the overlap."""

    PENDING = "pending"
    """The next one, handed out before it is used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RotationPolicy:
    """
    How often a secret gets a new value by itself, and what that is made of.

        >>> RotationPolicy(every=30 * 86_400, overlap=86_400).random_bytes
        32

    Args:
        every: Seconds for which a value is the current one.

        overlap: Seconds for which the value before it stays valid; at most *every*.

        random_bytes: How many random bytes the next value has: 16 to 1,024.

        form: How they are written; see `Secret.random`.

    Raises:
        twh_platform.errors.ConfigurationError: With code ``rotation_policy_invalid``.
    """

    every: float
    overlap: float
    random_bytes: int = 32
    form: str = "raw"

    def __post_init__(self) -> None:
        fault = ""
        if not 0 < self.every <= LONGEST_SECONDS:
            fault = f"every={self.every!r} is no time above zero, of at most a century"
        elif not 0 <= self.overlap <= self.every:
            fault = f"overlap={self.overlap!r} is not between 0 and every"
        elif not 16 <= self.random_bytes <= 1024:  # noqa: PLR2004 -- as Secret.random
            fault = f"random_bytes={self.random_bytes!r} is not between 16 and 1,024"
        elif self.form not in FORMS:
            fault = f"form={self.form!r} is not one of {', '.join(FORMS)}"
        if fault:
            raise ConfigurationError(f"rotation policy: {fault}", code="rotation_policy_invalid")


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretVersion:
    """
    What is known of one version, without its value.

    Attributes:
        name: The secret's name.

        version: From 1 on.

        stage: What it is for; None for one that was superseded.

        created_at: When it was put.

        expires_at: From this moment on it is not given; None for never.

        current_since: When it last became the current one, if ever.

        retires_at: When the overlap after its demotion ends; until then it is given.

        revoked_at: When it was revoked, if it was; its value is gone.
    """

    name: str
    version: int
    stage: Stage | None
    created_at: datetime
    expires_at: datetime | None = None
    current_since: datetime | None = None
    retires_at: datetime | None = None
    revoked_at: datetime | None = None

    def usable(self, now: datetime) -> bool:
        """
        Whether its value is given at *now*.
        """
        return self._lives(now) and (self.retires_at is None or now < self.retires_at)

    def _lives(self, now: datetime) -> bool:
        # What a rollback asks: the end of the overlap is what it takes back.
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretValue:
    """
    One version with its value.

    Attributes:
        version: What is known of it.

        secret: The value, which does not show itself.
    """

    version: SecretVersion
    secret: Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretState:
    """
    All that a store knows of one secret but the values.

    Attributes:
        name: Its name.

        versions: Oldest first.

        policy: How it rotates, or None.
    """

    name: str
    versions: tuple[SecretVersion, ...] = ()
    policy: RotationPolicy | None = None

    @property
    def newest(self) -> int:
        """
        The highest number in use; 0 if there is no version.
        """
        return self.versions[-1].version if self.versions else 0

    @property
    def kept(self) -> frozenset[int]:
        """
        The numbers of the versions that have a value: all that were not revoked.
        """
        return frozenset(one.version for one in self.versions if one.revoked_at is None)

    def at(self, stage: Stage) -> SecretVersion | None:
        """
        The version of that stage, or None.
        """
        return next((one for one in self.versions if one.stage is stage), None)

    def numbered(self, version: int) -> SecretVersion | None:
        """
        The version of that number, or None.
        """
        return next((one for one in self.versions if one.version == version), None)


def valid_secret_name(name: object) -> str:
    """
    Return *name* if it may name a secret.

    That is 1 to 128 of ``a-z 0-9 . _ / -``, a letter or digit first, and no part
    between slashes that is empty, ``.`` or ``..``.

    Raises:
        twh_platform.errors.ConfigurationError: With code ``secret_name_invalid``.
    """
    if isinstance(name, str) and _NAME.fullmatch(name) and _has_parts(name):
        return name
    # Not repeated: who mixes up two arguments gives the value for a name.
    message = "a secret's name is 1 to 128 of a-z 0-9 . _ / -, in parts that are not empty"
    raise ConfigurationError(message, code="secret_name_invalid")


def _has_parts(name: str) -> bool:
    return not {"", ".", ".."} & set(name.split("/"))


def add_version(
    state: SecretState,
    *,
    now: datetime,
    stage: Stage = Stage.CURRENT,
    expires_at: datetime | None = None,
    expected: int | None = None,
    overlap: float | None = None,
    policy: RotationPolicy | None = None,
) -> SecretState:
    """
    What a new version makes of *state*; its number is the new `newest`.

    Args:
        state: Before.

        now: When.

        stage: ``CURRENT``, which demotes the current one, or ``PENDING``, which
            takes the place of a pending one.

        expires_at: From when on it is not given.

        expected: What `newest` has to be.

        overlap: Seconds for which the demoted version stays valid.

        policy: The secret's policy from now on; None leaves it.

    Raises:
        twh_platform.errors.SecretConflictError: If `newest` is another.

        twh_platform.errors.ConfigurationError: With code ``secret_stage_invalid``,
            or ``secret_time_invalid`` for a time without a zone.
    """
    if expected is not None and expected != state.newest:
        message = f"secret {state.name!r} is in version {state.newest}, not {expected}"
        raise SecretConflictError(message)
    if expires_at is not None and expires_at.tzinfo is None:
        message = f"secret {state.name!r}: expires_at has no time zone"
        raise ConfigurationError(message, code="secret_time_invalid")
    after = replace(state, policy=policy or state.policy)
    if stage is Stage.CURRENT:
        versions = _demoted(after, now, overlap)
    elif stage is Stage.PENDING:
        versions = _without(state.versions, Stage.PENDING)
    else:
        message = f"secret {state.name!r}: a new version is current or pending, not {stage}"
        raise ConfigurationError(message, code="secret_stage_invalid")
    new = SecretVersion(
        name=state.name,
        version=state.newest + 1,
        stage=stage,
        created_at=now,
        expires_at=expires_at,
        current_since=now if stage is Stage.CURRENT else None,
    )
    return replace(after, versions=_pruned((*versions, new), now))


def promote_pending(
    state: SecretState, *, now: datetime, overlap: float | None = None
) -> SecretState:
    """
    Make the pending version the current one.

    Raises:
        twh_platform.errors.SecretNotFoundError: If there is none.

        twh_platform.errors.SecretRevokedError: If it was revoked or has expired.
    """
    pending = _required(state, state.at(Stage.PENDING), "no pending version")
    if not pending.usable(now):
        raise _gone(pending)
    return _current_is(state, pending, _demoted(state, now, overlap), now)


def roll_back_current(
    state: SecretState, *, now: datetime, overlap: float | None = None
) -> SecretState:
    """
    Make the previous version the current one again, also when its overlap is over.

    The one that was current becomes the previous one.

    Raises:
        twh_platform.errors.SecretNotFoundError: If there is none.

        twh_platform.errors.SecretRevokedError: If it was revoked or has expired.
    """
    previous = _required(state, state.at(Stage.PREVIOUS), "no previous version")
    if not previous._lives(now):  # noqa: SLF001 -- the same module
        raise _gone(previous)
    return _current_is(state, previous, _demoted(state, now, overlap), now)


def revoke_version(state: SecretState, version: int, *, now: datetime) -> SecretState:
    """
    Refuse that version from now on; to revoke one again changes nothing.

    Raises:
        twh_platform.errors.SecretNotFoundError: If there is no such version.
    """
    found = _required(state, state.numbered(version), f"no version {version}")
    if found.revoked_at is not None:
        return state
    return _with(state, replace(found, revoked_at=now))


def choose_version(
    state: SecretState,
    *,
    now: datetime,
    stage: Stage = Stage.CURRENT,
    version: int | None = None,
) -> SecretVersion:
    """
    The version whose value may be given.

    Args:
        state: The secret.

        now: When.

        stage: The stage that is asked for, if *version* is None.

        version: The number that is asked for.

    Raises:
        twh_platform.errors.SecretNotFoundError: If there is none.

        twh_platform.errors.SecretRevokedError: If it was revoked, or with code
            ``secret_expired`` if its time is over.
    """
    if version is not None:
        found = _required(state, state.numbered(version), f"no version {version}")
    else:
        found = _required(state, state.at(stage), f"no {stage} version")
    if not found.usable(now):
        raise _gone(found)
    return found


def usable_versions(state: SecretState, *, now: datetime) -> tuple[SecretVersion, ...]:
    """
    All versions to accept now: the current one, then older ones within their overlap.

    The pending one is not among them.
    """
    usable = [one for one in state.versions if one.usable(now) and one.current_since is not None]
    return tuple(sorted(usable, key=lambda one: (one.stage is not Stage.CURRENT, -one.version)))


def is_due(state: SecretState, *, now: datetime) -> bool:
    """
    Whether the policy asks for a new value: without one, or a current version, never.

    A current version that was revoked is not replaced: somebody revoked it, and decides.
    """
    current = state.at(Stage.CURRENT)
    if state.policy is None or current is None or current.revoked_at is not None:
        return False
    since = current.current_since or current.created_at
    return now >= since + timedelta(seconds=state.policy.every)


def _required(state: SecretState, found: SecretVersion | None, what: str) -> SecretVersion:
    if found is None:
        raise SecretNotFoundError(f"secret {state.name!r} has {what}")
    return found


def _gone(version: SecretVersion) -> SecretRevokedError:
    what = f"version {version.version} of secret {version.name!r}"
    if version.revoked_at is not None:
        return SecretRevokedError(f"{what} was revoked")
    return SecretRevokedError(f"the time of {what} is over", code="secret_expired")


def _demoted(state: SecretState, now: datetime, overlap: float | None) -> tuple[SecretVersion, ...]:
    """
    The versions when none is current any more.
    """
    current = state.at(Stage.CURRENT)
    if current is None:
        return state.versions
    if not current.usable(now):
        # The previous one keeps its place: what is no good must not push it out.
        return _without(state.versions, Stage.CURRENT)
    seconds = overlap
    if seconds is None:
        seconds = state.policy.overlap if state.policy else DEFAULT_OVERLAP
    if not 0 <= seconds <= LONGEST_SECONDS:
        message = f"secret {state.name!r}: overlap={seconds!r} is no time of at most a century"
        raise ConfigurationError(message, code="secret_time_invalid")
    previous = replace(current, stage=Stage.PREVIOUS, retires_at=now + timedelta(seconds=seconds))
    versions = _without(state.versions, Stage.PREVIOUS)
    return tuple(previous if one.version == current.version else one for one in versions)


def _current_is(
    state: SecretState,
    chosen: SecretVersion,
    versions: tuple[SecretVersion, ...],
    now: datetime,
) -> SecretState:
    new = replace(chosen, stage=Stage.CURRENT, current_since=now, retires_at=None)
    return _with(replace(state, versions=versions), new)


def _without(versions: tuple[SecretVersion, ...], stage: Stage) -> tuple[SecretVersion, ...]:
    return tuple(replace(one, stage=None) if one.stage is stage else one for one in versions)


def _with(state: SecretState, version: SecretVersion) -> SecretState:
    versions = tuple(version if one.version == version.version else one for one in state.versions)
    return replace(state, versions=versions)


def _pruned(versions: tuple[SecretVersion, ...], now: datetime) -> tuple[SecretVersion, ...]:
    idle = [one for one in versions if one.stage is None and not _in_overlap(one, now)]
    dropped = {one.version for one in idle[:-_KEPT]}
    return tuple(one for one in versions if one.version not in dropped)


def _in_overlap(version: SecretVersion, now: datetime) -> bool:
    return version.retires_at is not None and version.usable(now)


def write_policy(policy: RotationPolicy | None) -> dict[str, Any] | None:
    """
    A policy as what JSON can hold.
    """
    if policy is None:
        return None
    return {
        "every": policy.every,
        "overlap": policy.overlap,
        "random_bytes": policy.random_bytes,
        "form": policy.form,
    }


def read_policy(document: Mapping[str, Any] | None) -> RotationPolicy | None:
    """
    What `write_policy` wrote.
    """
    return None if document is None else RotationPolicy(**document)


TIMES = ("created_at", "expires_at", "current_since", "retires_at", "revoked_at")
"""The fields of a version that are moments."""


def write_state(state: SecretState) -> dict[str, Any]:
    """
    A state as what JSON can hold: for stores and backups that keep it as a document.
    """
    versions = [
        {"version": one.version, "stage": one.stage and one.stage.value}
        | {time: _written(getattr(one, time)) for time in TIMES if getattr(one, time)}
        for one in state.versions
    ]
    return {"name": state.name, "versions": versions, "policy": write_policy(state.policy)}


def read_state(document: Mapping[str, Any]) -> SecretState:
    """
    What `write_state` wrote.

    Raises:
        KeyError, TypeError, ValueError: If it did not.
    """
    name = valid_secret_name(document["name"])
    versions = [
        SecretVersion(
            name=name,
            version=int(one["version"]),
            stage=one["stage"] and Stage(one["stage"]),
            **{time: datetime.fromisoformat(one[time]) for time in TIMES if one.get(time)},
        )
        for one in document["versions"]
    ]
    versions.sort(key=lambda one: one.version)
    policy = read_policy(document.get("policy"))
    return SecretState(name=name, versions=tuple(versions), policy=policy)


def _written(moment: datetime) -> str:
    return moment.isoformat()
