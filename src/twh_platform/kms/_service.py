"""
The seam to key services: what each of them is asked for.

A key service holds master keys that never leave it.  It wraps data keys, which
seal data here.  Calls block; `AsyncKeyService` is the same for a running loop.

Batches answer item by item: what failed stands as an error in its place, so
that the good ones are kept.  What fails as a whole is raised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Flag, StrEnum, auto
from typing import NoReturn, Protocol, TypeAlias, TypeVar, runtime_checkable

from ..errors import ConfigurationError, KeyServiceError
from ._context import KeyContext

__all__ = [
    "DATA_KEY_BYTES",
    "LONGEST_KEY_REF",
    "LONGEST_WRAPPED_BYTES",
    "Capability",
    "DataKey",
    "Health",
    "KeyInfo",
    "KeyService",
    "KeyState",
    "Mac",
    "Result",
    "WrappedKey",
    "require_result",
]

DATA_KEY_BYTES = 32
LONGEST_WRAPPED_BYTES = 1024
LONGEST_KEY_REF = 512

T = TypeVar("T")
Result: TypeAlias = T | KeyServiceError


class Capability(Flag):
    """
    What a key service, as it was put together, can do beyond wrapping.
    """

    TENANT_KEYS = auto()
    """Each tenant has a master key of its own, which can be destroyed alone."""

    NATIVE_REWRAP = auto()
    """Rewrapping happens inside: the data key does not come out."""

    MAC = auto()
    CREATE = auto()
    ROTATE = auto()
    DISABLE = auto()
    DESTROY = auto()

    VERSIONS = auto()
    """It tells which version of a master key wrapped a data key."""


class KeyState(StrEnum):
    """
    Where a master key is in its life.
    """

    ENABLED = "enabled"
    DISABLED = "disabled"
    DESTROYING = "destroying"
    DESTROYED = "destroyed"


@dataclass(frozen=True, slots=True, kw_only=True)
class WrappedKey:
    """
    A data key that only its key service can recover.

    Args:
        provider: The key service's `name`.

        key_ref: The master key, as the service calls it; never an alias.

        key_version: Its version, from 1 on; 0 if the service does not tell.

        ciphertext: What the service gave.

    Raises:
        twh_platform.errors.ConfigurationError: If a field is longer than any
            key service makes it.
    """

    provider: str
    key_ref: str
    key_version: int
    ciphertext: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not 0 < len(self.ciphertext) <= LONGEST_WRAPPED_BYTES:
            message = f"a wrapped key of {len(self.ciphertext)} bytes"
            raise ConfigurationError(message, code="wrapped_key_invalid")
        if not 0 < len(self.key_ref) <= LONGEST_KEY_REF or self.key_version < 0:
            message = f"a wrapped key of key {self.key_ref[:80]!r}, version {self.key_version}"
            raise ConfigurationError(message, code="wrapped_key_invalid")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataKey:
    """
    A new data key, open and wrapped.  It cannot be pickled or shown.

    Attributes:
        plaintext: 32 random bytes.

        wrapped: The same, for keeping.
    """

    plaintext: bytes = field(repr=False)
    wrapped: WrappedKey

    def __reduce__(self) -> NoReturn:
        message = "a data key is not pickled: pass its wrapped form"
        raise TypeError(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mac:
    """
    A message authentication code by a key that stays in the key service.

    Attributes:
        key_ref: The key, as the service calls it.

        tag: What it computed, in the service's own form.
    """

    key_ref: str
    tag: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyInfo:
    """
    A master key as its service describes it.

    Attributes:
        key_ref: What `WrappedKey.key_ref` says for it.

        state: Where it is in its life.

        version: The version that wraps; 0 if the service does not tell.

        versions: All that still unwrap, in ascending order; empty if the
            service does not tell.

        destroyed_at: When it is, or will be, destroyed; None if it is not.
    """

    key_ref: str
    state: KeyState
    version: int = 0
    versions: tuple[int, ...] = ()
    destroyed_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """
    Whether a key service works, seen by a real round trip.

    Attributes:
        ok: A canary was wrapped, unwrapped and compared.

        seconds: How long that took.

        code: The code of the error, if there was one.
    """

    ok: bool
    seconds: float
    code: str | None = None


@runtime_checkable
class KeyService(Protocol):
    """
    Master keys that never leave their service.

    All calls block, are safe to make from several threads, and raise
    `twh_platform.errors.KeyServiceError` and nothing else for what a service
    can meet.  Results of a batch are in the order of what was asked.
    """

    name: str
    """``local``, ``vault`` or ``aws``: what `WrappedKey.provider` says."""

    @property
    def capabilities(self) -> Capability:
        """
        What it can do beyond wrapping, as far as is known by now.
        """
        ...

    def generate(self, contexts: Sequence[KeyContext]) -> list[Result[DataKey]]:
        """
        Make a data key for each context, wrapped by its tenant's master key.
        """
        ...

    def wrap(self, keys: Sequence[tuple[bytes, KeyContext]]) -> list[Result[WrappedKey]]:
        """
        Wrap data keys of 32 bytes that exist.
        """
        ...

    def unwrap(self, keys: Sequence[tuple[WrappedKey, KeyContext]]) -> list[Result[bytes]]:
        """
        Recover data keys, each in the context that it was wrapped in.
        """
        ...

    def rewrap(self, keys: Sequence[tuple[WrappedKey, KeyContext]]) -> list[Result[WrappedKey]]:
        """
        Wrap them by the newest version of their tenant's master key.

        What is wrapped by it already may come back as it was.
        """
        ...

    def mac(self, message: bytes, *, key: str) -> Mac:
        """
        Authenticate *message* (at most 4,096 bytes) by the platform's MAC key *key*.
        """
        ...

    def verify_mac(self, message: bytes, mac: Mac, *, key: str) -> None:
        """
        Return if `mac` made this of *message*; raise `DecryptionError` if not.
        """
        ...

    def create(self, tenant_id: str) -> KeyInfo:
        """
        Make the tenant's master key; one that exists is described, not changed.
        """
        ...

    def rotate(self, tenant_id: str) -> KeyInfo:
        """
        Wrap by a new version from now on; what older ones wrapped still opens.
        """
        ...

    def disable(self, tenant_id: str) -> KeyInfo:
        """
        Refuse every use of the tenant's master key until it is enabled.
        """
        ...

    def enable(self, tenant_id: str) -> KeyInfo:
        """
        Take `disable` back.
        """
        ...

    def destroy(self, tenant_id: str) -> KeyInfo:
        """
        Destroy the tenant's master key for good, at once or as soon as the service lets one.

        From now on every use is refused.  To destroy what is destroyed is no error.
        """
        ...

    def describe(self, tenant_id: str) -> KeyInfo:
        """
        The tenant's master key as it is.
        """
        ...

    def health(self) -> Health:
        """
        Wrap and unwrap a canary.  It answers, and does not raise.
        """
        ...

    def close(self) -> None:
        """
        Let go of connections and threads.
        """
        ...


def require_result(result: Result[T]) -> T:
    """
    The value of one item of a batch, or its error raised.
    """
    if isinstance(result, KeyServiceError):
        raise result
    return result
