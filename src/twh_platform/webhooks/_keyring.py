"""
The secrets of one endpoint over time: which sign, and which are accepted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final, TypeAlias, final

from ..errors import WebhookError, WebhookUsageError
from ._secrets import WebhookKey

__all__ = ["Key", "KeyState", "Keyring", "Keys", "keyring_of"]

MOST_KEYS: Final = 10


class KeyState(Enum):
    """
    What a key is good for.
    """

    PENDING = "pending"
    """Accepted, and does not sign yet."""

    ACTIVE = "active"
    """Accepted, and signs."""

    RETIRING = "retiring"
    """Accepted, and signs beside the active ones for receivers who know only it."""

    REVOKED = "revoked"
    """Neither."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """
    A secret with its state.

    Attributes:
        secret: What is signed or verified with.

        id: What `Verified.key_id` says; the secret's fingerprint if "" is given.

        state: What it is good for.

        not_before: Unix seconds from which on it is good; from ever if None.

        not_after: The last second at which it is good; for ever if None.

    Raises:
        twh_platform.errors.WebhookUsageError: With code ``secret_type_invalid``, if the
            secret is a text or bytes.
    """

    secret: WebhookKey
    id: str = ""
    state: KeyState = KeyState.ACTIVE
    not_before: float | None = None
    not_after: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.secret, WebhookKey):
            message = f"a key's secret is typed, not {type(self.secret).__name__}"
            raise WebhookUsageError(message, code="secret_type_invalid")
        if not self.id:
            object.__setattr__(self, "id", self.secret.fingerprint)

    def good(self, now: float) -> bool:
        """
        Whether it is neither revoked nor out of its time.
        """
        return (
            self.state is not KeyState.REVOKED
            and (self.not_before is None or self.not_before <= now)
            and (self.not_after is None or now <= self.not_after)
        )


@final
class Keyring:
    """
    The keys of one endpoint, in the order in which they are tried.

    It does not change: each step of a rotation returns another one.

        >>> from twh_platform.webhooks import StandardSecret
        >>> first, second = StandardSecret.generate(), StandardSecret.generate()
        >>> old = Keyring([Key(secret=first, id="first")])
        >>> both = old.add(Key(secret=second, id="second", state=KeyState.PENDING))
        >>> turned = both.activate("second")
        >>> turned
        Keyring(second: active, first: retiring)
        >>> turned.revoke("first")
        Keyring(second: active, first: revoked)

    Args:
        keys: At most 10.

    Raises:
        twh_platform.errors.WebhookError: With code ``keyring_full``; or with
            ``key_duplicate``, if two keys have one id, or sign alike, which
            they do if one is the other with zero bytes behind it.
    """

    __slots__ = ("keys", "timeless")

    keys: tuple[Key, ...]

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self.keys = tuple(keys)
        if len(self.keys) > MOST_KEYS:
            raise WebhookError(f"a keyring has at most {MOST_KEYS} keys", code="keyring_full")
        _check_distinct("id", [one.id for one in self.keys])
        _check_distinct("fingerprint", [one.secret.fingerprint for one in self.keys])
        self.timeless = all(one.not_before is one.not_after is None for one in self.keys)

    def __iter__(self) -> Iterator[Key]:
        return iter(self.keys)

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        return f"Keyring({', '.join(f'{one.id}: {one.state.value}' for one in self.keys)})"

    def accepted(self, now: float) -> tuple[Key, ...]:
        """
        The keys that a signature may be made with: pending, active and retiring.
        """
        return tuple(one for one in self.keys if one.good(now))

    def signing(self, now: float) -> tuple[Key, ...]:
        """
        The keys to sign with: the active ones, then the retiring ones.
        """
        good = [one for one in self.keys if one.good(now)]
        active = tuple(one for one in good if one.state is KeyState.ACTIVE)
        return active + tuple(one for one in good if one.state is KeyState.RETIRING)

    def add(self, key: Key) -> Keyring:
        """
        With another key, first in the order.

        Raises:
            twh_platform.errors.WebhookError: With code ``keyring_full`` or
                ``key_duplicate``.
        """
        return Keyring((key, *self.keys))

    def activate(self, key_id: str, *, until: float | None = None) -> Keyring:
        """
        With that key active, and those that were active retiring.

        Args:
            key_id: Which.

            until: The last second, in Unix time, at which those are good; no end if None.

        Raises:
            twh_platform.errors.WebhookError: With code ``key_unknown``, or
                ``key_revoked``: what was revoked stays so.
        """

        def step(key: Key) -> Key:
            if key.id == key_id:
                return replace(key, state=KeyState.ACTIVE, not_after=None)
            if key.state is KeyState.ACTIVE:
                return replace(key, state=KeyState.RETIRING, not_after=until)
            return key

        if self._named(key_id).state is KeyState.REVOKED:
            raise WebhookError("a revoked key stays revoked", code="key_revoked")
        return self._each(step)

    def revoke(self, key_id: str) -> Keyring:
        """
        With that key revoked: nothing that it signs is accepted from now on.

        Raises:
            twh_platform.errors.WebhookError: With code ``key_unknown``.
        """
        found = self._named(key_id)
        return self._each(lambda key: replace(key, state=KeyState.REVOKED) if key is found else key)

    def _named(self, key_id: str) -> Key:
        for one in self.keys:
            if one.id == key_id:
                return one
        raise WebhookError("the keyring has no key of that id", code="key_unknown")

    def _each(self, step: Callable[[Key], Key]) -> Keyring:
        return Keyring(step(one) for one in self.keys)


def _check_distinct(what: str, values: list[str]) -> None:
    if len(set(values)) < len(values):
        raise WebhookError(f"two keys have the same {what}", code="key_duplicate")


Keys: TypeAlias = Keyring | WebhookKey | Iterable[WebhookKey]
"""What can be given for the keys of an endpoint."""


def keyring_of(keys: Keys) -> Keyring:
    """
    Make a keyring of whatever was given; secrets alone are active.

    Raises:
        twh_platform.errors.WebhookUsageError: With code ``secret_type_invalid``.
    """
    if isinstance(keys, Keyring):
        return keys
    if isinstance(keys, WebhookKey):
        return Keyring([Key(secret=keys)])
    if isinstance(keys, (str, bytes)) or not isinstance(keys, Iterable):
        message = f"keys are typed secrets or a Keyring, not {type(keys).__name__}"
        raise WebhookUsageError(message, code="secret_type_invalid")
    return Keyring(Key(secret=one) for one in keys)
