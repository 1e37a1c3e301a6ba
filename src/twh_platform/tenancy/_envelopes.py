"""
Carrying the tenant to a job or a sister service: seal here, open there.

What is in an envelope is read by `_envelope`; here it meets the clock, the
current tenant and the directory.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime, timedelta
from types import MappingProxyType

from .._asgi import Scope, header_values
from ..errors import EnvelopeError
from ._claim import TenantClaim
from ._clock import utc_now
from ._context import bind_tenant, require_tenant
from ._directory import TenantDirectory, ensure_found, served_tenant
from ._envelope import EnvelopeKeys, TenantEnvelope, valid_audience
from ._tenant import Tenant

__all__ = ["ENVELOPE_HEADER", "EnvelopeResolver", "TenantEnvelopes"]

ENVELOPE_HEADER = "X-Tenant-Envelope"


class TenantEnvelopes:
    """
    Seal the current tenant into a token, and open such tokens elsewhere.

        >>> envelopes = TenantEnvelopes(b"a secret of thirty-two bytes, or more")
        >>> with bind_tenant(Tenant(id="acme")):
        ...     token = envelopes.seal(audience="jobs", lifetime=300)
        >>> with envelopes.open(token, audience="jobs"):
        ...     require_tenant().id
        'acme'

    Whoever reads a token can present it until it expires, as often as he
    likes: it proves who sealed it, not who brings it.  Where once has to be
    once, claim `TenantEnvelope.id` until `TenantEnvelope.expires_at`.
    It is signed, not encrypted.

    Args:
        keys: Secrets of 32 bytes or more.  The first seals, each of them
            opens: to rotate, add the new one at the end everywhere, then move
            it to the front, then drop the old one when what it sealed has
            expired.

        leeway: Seconds by which the clocks of sealer and opener may differ.

        clock: The current moment, with time zone.

        randomness: Gives so many random bytes.

    Raises:
        twh_platform.errors.ConfigurationError: For no key, a short or a
            repeated one.
    """

    def __init__(
        self,
        keys: str | bytes | Iterable[str | bytes],
        *,
        leeway: float = 5.0,
        clock: Callable[[], datetime] = utc_now,
        randomness: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._keys = EnvelopeKeys(keys)
        self._leeway = timedelta(seconds=leeway)
        self._clock = clock
        self._randomness = randomness

    def __repr__(self) -> str:
        return f"TenantEnvelopes(keys={self._keys!r})"

    def seal(self, *, audience: str, lifetime: float = 300.0, user_id: str | None = None) -> str:
        """
        Return a token that carries the current tenant, safe in a header or a URL.

        Args:
            audience: Who may open it: 1 to 64 of ``A-Z a-z 0-9 . _ : / -``.

            lifetime: Seconds until it is refused: 0.001 to 2592000 (30 days).
                Long enough for the queue at its longest, and no longer.

            user_id: On whose behalf, if it matters: 1 to 255 bytes.

        Raises:
            twh_platform.errors.NoCurrentTenantError: If no tenant is bound.

            twh_platform.errors.ConfigurationError: If an argument is not as above.
        """
        return self._keys.pack(
            envelope_id=self._randomness(16),
            tenant_id=require_tenant().id,
            audience=audience,
            issued_at=self._clock(),
            lifetime=lifetime,
            user_id=user_id,
        )

    def verify(self, token: str, *, audience: str) -> TenantEnvelope:
        """
        Return what *token* says, without binding anything.

        Raises:
            twh_platform.errors.EnvelopeError: With code ``envelope_invalid``
                unless one of our keys signed it; of those, with
                ``envelope_audience`` for others' ones, ``envelope_expired``
                and ``envelope_not_yet_valid``.
        """
        envelope = self._keys.unpack(token)
        now = self._clock()
        if envelope.audience != valid_audience(audience):
            message = f"an envelope for {envelope.audience!r}, not for {audience!r}"
            raise EnvelopeError(message, code="envelope_audience")
        if now >= envelope.expires_at + self._leeway:
            message = f"an envelope that expired at {envelope.expires_at.isoformat()}"
            raise EnvelopeError(message, code="envelope_expired")
        if now < envelope.issued_at - self._leeway:
            message = f"an envelope from the future, {envelope.issued_at.isoformat()}"
            raise EnvelopeError(message, code="envelope_not_yet_valid")
        return envelope

    @contextmanager
    def open(
        self,
        token: str,
        *,
        audience: str,
        look_up: Callable[[str], Tenant | None] | None = None,
    ) -> Iterator[TenantEnvelope]:
        """
        Verify *token* and have its tenant bound inside the `with`.

        For work without an event loop; `open_served` asks a `TenantDirectory`.

        Args:
            token: What `seal` returned.

            audience: Who we are.

            look_up: Returns the tenant with this id, whatever its status, or
                None.  Without it only the id is known, and nobody is asked
                whether the tenant is still served.

        Raises:
            twh_platform.errors.EnvelopeError: As `verify`; nothing is bound.

            twh_platform.errors.TenantSuspendedError: As `open_served`.

            twh_platform.errors.TenantUnresolvedError: As `open_served`.
        """
        envelope = self.verify(token, audience=audience)
        tenant = Tenant(id=envelope.tenant_id)
        if look_up is not None:
            tenant = ensure_found(look_up(tenant.id), tenant.id, self._clock)
        with bind_tenant(tenant):
            yield envelope

    @asynccontextmanager
    async def open_served(
        self,
        token: str,
        *,
        audience: str,
        directory: TenantDirectory,
        lease: float | None = None,
    ) -> AsyncIterator[TenantEnvelope]:
        """
        Verify *token*, look its tenant up, and have it bound inside the `async with`.

        Args:
            token: What `seal` returned.

            audience: Who we are.

            directory: Where the tenant is looked up.

            lease: Seconds after which the work has to ask again, with
                `renew_lease`; see `bind_tenant`.  For jobs that run long.

        Raises:
            twh_platform.errors.EnvelopeError: As `verify`.

            twh_platform.errors.TenantSuspendedError: If the tenant may not be
                served now: suspended since it was sealed, expired, not ready.

            twh_platform.errors.TenantUnresolvedError: If it is gone.

            twh_platform.errors.BackendUnavailableError: If that cannot be
                known now.
        """
        envelope = self.verify(token, audience=audience)
        tenant = await served_tenant(directory, envelope.tenant_id, self._clock)
        with bind_tenant(tenant, lease=lease):
            yield envelope


class EnvelopeResolver:
    """
    The tenant that a sister service sealed into a request header.

    It decides, for only holders of a key can seal.  A repeated header is
    refused.  The user id comes along, and in the claims ``envelope_id``.

        >>> envelopes = TenantEnvelopes(b"a secret of thirty-two bytes, or more")
        >>> resolver = EnvelopeResolver(envelopes, audience="stock-service")

    Args:
        envelopes: Opens what the sister services seal.

        audience: Who we are.

        header: The header; its name is also in `ENVELOPE_HEADER`.

        source: The stable name of this source.
    """

    def __init__(
        self,
        envelopes: TenantEnvelopes,
        *,
        audience: str,
        header: str = ENVELOPE_HEADER,
        source: str = "envelope",
    ) -> None:
        self._envelopes = envelopes
        self._audience = valid_audience(audience)
        self._header = header.lower().encode("ascii")
        self._source = source

    async def resolve(self, scope: Scope) -> TenantClaim | None:
        """
        The claim of the envelope, or None if there is no such header.

        Raises:
            twh_platform.errors.EnvelopeError: As `TenantEnvelopes.verify`.
        """
        values = header_values(scope, self._header)
        if not values:
            return None
        if len(values) > 1:
            message = f"{len(values)} envelopes in one request"
            raise EnvelopeError(message)
        envelope = self._envelopes.verify(values[0].decode("latin-1"), audience=self._audience)
        return TenantClaim(
            tenant_id=envelope.tenant_id,
            source=self._source,
            decides=True,
            user_id=envelope.user_id,
            claims=MappingProxyType({"envelope_id": envelope.id}),
        )
