"""
The keys of endpoints, out of a secret store and remembered.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias, final

from ..errors import ConfigurationError
from ..tenancy._context import bind_tenant, require_tenant
from ..tenancy._tenant import Tenant
from ._endpoint import WebhookEndpoint
from ._keyring import Keyring
from ._profiles import STANDARD, Profile
from ._read_through import Limits, ReadThrough
from ._secrets import StandardSecret
from ._stored_keyring import ReadKey, keyring_of
from ._verify import Verifier

__all__ = ["StoredKeys"]

_endpoint = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}", re.ASCII).fullmatch
# On Linux the monotonic clock stands still while the machine is suspended.
_elapsed = partial(time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))

_Asked: TypeAlias = tuple[str, str]  # a tenant's id, and a secret's name


@dataclass(slots=True)
class _Keys:
    keyring: Keyring
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
    *stale_if_error*.

    Names come from URLs, so from strangers: whoever asks for the same at the same
    time waits for one reading, and *readings*, *waiting* and *capacity* bound what
    invented names cost.  Endpoints that were found before have all of these to
    themselves; one that is read for the first time waits among strangers, and may be
    refused for a while.

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

        timeout: Seconds that a reading may take, with its wait for a turn.  One that
            takes longer goes on, and nobody waits for it.

        capacity: How many endpoints are remembered, and as many that there are not.

        readings: How many run at once in an event loop, of endpoints that were found
            before, and as many of others.

        waiting: How many of those others wait for a turn; beyond, it is
            `twh_platform.errors.BackendUnavailableError` with code
            ``secret_store_busy``.

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
        timeout: float = 10.0,
        capacity: int = 10_000,
        readings: int = 4,
        waiting: int = 100,
        clock: Callable[[], float] = _elapsed,
        now: Callable[[], float] = time.time,
    ) -> None:
        limits = Limits(
            max_age=max_age,
            stale_if_error=stale_if_error,
            retry_after=retry_after,
            timeout=timeout,
            capacity=capacity,
            readings=readings,
            waiting=waiting,
        )
        if "{endpoint}" not in name:
            message = f"name={name!r} has no {{endpoint}}: all endpoints would have one secret"
            raise ConfigurationError(message)
        self._store, self._name, self._read, self._profile = store, name, read, profile
        self._now = now
        self._remembered: ReadThrough[_Asked, _Keys]
        self._remembered = ReadThrough(limits, clock=clock, there=_any_keys)

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
        keys = await self._keys(endpoint, tenant)
        if keys is None:
            return None
        if keys.verifier is None:
            keys.verifier = Verifier(keys.keyring, profile=self._profile, clock=self._now)
        return keys.verifier

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
        keys = await self._keys(endpoint, tenant)
        return keys.keyring if keys else None

    def forget(self, name: str, *, tenant_id: str | None = None) -> None:
        """
        Read a secret anew when it is next asked for; a listener may call it in its thread.

        Args:
            name: The secret's name, as in the store.

            tenant_id: Whose; everybody's if None.
        """
        self._remembered.forget(lambda asked: asked[1] == name and tenant_id in (None, asked[0]))

    def clear(self, *, tenant_id: str | None = None) -> None:
        """
        Read everything anew, or everything of one tenant.
        """
        self._remembered.forget(lambda asked: tenant_id in (None, asked[0]))

    async def _keys(self, endpoint: str, tenant: Tenant | None) -> _Keys | None:
        # A name from a URL must not name another secret of the tenant's.
        if not isinstance(endpoint, str) or not _endpoint(endpoint):
            return None
        owner = tenant or require_tenant()
        name = self._name.replace("{endpoint}", endpoint)
        keys = await self._remembered.get((owner.id, name), partial(self._ask, owner, name))
        return keys if _any_keys(keys) else None

    async def _ask(self, owner: Tenant, name: str) -> _Keys:
        with bind_tenant(owner):
            found = await keyring_of(self._store, name, read=self._read, now=self._now())
        return _Keys(found)


def _any_keys(keys: _Keys) -> bool:
    return len(keys.keyring) > 0
