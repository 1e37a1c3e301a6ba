"""
What keys and secrets announce: who used which, and what was changed.

None of them has a field that could hold a key, a plaintext or the value of a
secret.  Subscribe with `twh_platform.subscribe`, as telemetry and audit do.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "DataKeysRewrapped",
    "KeyChanged",
    "KeyServiceDegraded",
    "KeyServiceRestored",
    "KeyUsed",
    "SecretChanged",
    "SecretRead",
    "TenantShredded",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyUsed:
    """
    A key service was asked to use a master key.

    Attributes:
        service: ``local``, ``vault`` or ``aws``.

        operation: ``generate``, ``wrap``, ``unwrap``, ``rewrap``, ``mac`` or
            ``verify_mac``.

        tenant_id: Whose key; None for a MAC key, which is the platform's.

        key_ref: The key as the service calls it; None if it did not come to that.

        code: The code of the error, or None if it went well.

        seconds: How long it took, with what was tried again; of a batch, the
            whole of it.  None where nobody measured it.
    """

    service: str
    operation: str
    tenant_id: str | None
    key_ref: str | None
    code: str | None
    seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyServiceDegraded:
    """
    A key service does not answer: from now on what is cached has to do.

    Attributes:
        service: ``local``, ``vault`` or ``aws``.

        code: The code of the error that opened the breaker.
    """

    service: str
    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyServiceRestored:
    """
    A key service answers again.

    Attributes:
        service: ``local``, ``vault`` or ``aws``.

        seconds: For how long it did not.
    """

    service: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyChanged:
    """
    A tenant's master key was changed, or somebody tried to.

    Attributes:
        service: ``local``, ``vault`` or ``aws``.

        action: ``created``, ``rotated``, ``disabled``, ``enabled`` or ``destroyed``.

        tenant_id: Whose key.

        key_ref: The key as the service calls it; None if it did not come to that.

        key_version: Its newest version; None where there is none or it is not told.

        code: The code of the error, or None if it was done.
    """

    service: str
    action: str
    tenant_id: str
    key_ref: str | None = None
    key_version: int | None = None
    code: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretRead:
    """
    A secret was read, or somebody tried to.

    Attributes:
        tenant_id: Whose.

        name: The secret's name.

        version: The version that was given; None if none was.

        source: ``store``, ``cache``, or ``stale`` for what a cache gave beyond
            its age because the store did not answer; ``backup`` and ``restore``
            for the whole of a store.

        code: The code of the error, or None if it was given.
    """

    tenant_id: str
    name: str
    version: int | None
    source: str
    code: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretChanged:
    """
    A secret was changed, or somebody tried to.

    Attributes:
        tenant_id: Whose.

        name: The secret's name.

        version: The version that it is about; None if it did not come to one.

        action: ``put``, ``promoted``, ``rolled_back``, ``revoked``, ``rotated``
            or ``restored``.

        code: The code of the error, or None if it was done.
    """

    tenant_id: str
    name: str
    version: int | None
    action: str
    code: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantShredded:
    """
    A tenant's keys were destroyed, and with them what they had sealed.

    Attributes:
        tenant_id: Whose.

        service: ``local``, ``vault`` or ``aws``.

        state: The master key's state as the service tells: ``destroyed``, or
            ``destroying`` where the service keeps a key for a while that it
            refuses to use.

        seconds: From the order to the proof.
    """

    tenant_id: str
    service: str
    state: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DataKeysRewrapped:
    """
    Data keys of a tenant were wrapped anew.

    Attributes:
        tenant_id: Whose.

        rewrapped: How many now are wrapped by the newest version.

        failed: How many could not be; they are as they were.

        remaining: How many are still wrapped by an older one.
    """

    tenant_id: str
    rewrapped: int
    failed: int
    remaining: int
