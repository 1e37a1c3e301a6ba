"""
Where a request came in: the one endpoint that was given, or the one that was found.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple, TypeAlias, TypeGuard
from urllib.parse import quote

from .._asgi import Scope
from ..errors import ConfigurationError, WebhookError, WebhookUsageError
from ..tenancy._context import current_tenant
from ..tenancy._tenant import Tenant
from ._endpoint import WebhookEndpoint
from ._keyring import Keyring, Keys
from ._profiles import Form, Profile
from ._replay import Replay
from ._secrets import RawSecret, StandardSecret, WebhookKey
from ._verify import Verification, Verified, Verifier

__all__ = ["Endpoints", "Found", "PutOff", "ReadyEndpoint", "Resolver", "unnamed"]

Found: TypeAlias = Keys | Verifier | WebhookEndpoint | None
"""What a resolver finds for a request; None if there is no such endpoint."""

Resolver: TypeAlias = Callable[[Scope], Awaitable[Found]]


_NO_ADDRESS: Final = ("", "")


class PutOff:
    """
    In place of a `Verification`: a refusal that waits for the end of the body.
    """

    __slots__ = ("_error",)

    def __init__(self, error: WebhookError) -> None:
        self._error = error

    def update(self, chunk: bytes) -> None:
        """
        Pass over the next bytes of the body.
        """

    def finish(self) -> Verified:
        """
        Refuse it.

        Raises:
            twh_platform.errors.WebhookError: Why.
        """
        raise self._error


class ReadyEndpoint(NamedTuple):
    """
    A `WebhookEndpoint` that is ready to verify.

    Attributes:
        verifier: What verifies.

        id: Its id.

        tenant: Whose it is, if it says that.

        tenant_id: Whose it is, or who is bound.

        origin: What the sender calls us, if it signs that.

        found: Whether a resolver has found it, or found that there is none.

        unknown: Whether there is none.

        foreign: Whether it is another tenant's than the one that is bound.

        unnamed: Whether its claims would be those of others.
    """

    verifier: Verifier
    id: str
    tenant: Tenant | None
    tenant_id: str | None
    origin: str
    found: bool = False
    unknown: bool = False
    foreign: bool = False
    unnamed: bool = False

    def verify(self, scope: Scope, body: bytes) -> Verified:
        """
        Verify a webhook whose body is here as a whole.

        Raises:
            twh_platform.errors.WebhookError: Why it does not hold.
        """
        if self.foreign:
            raise _foreign()
        address = self._address(scope) if self.origin else _NO_ADDRESS
        return self.verifier.verify(body, scope["headers"], *address)

    def begin(self, scope: Scope) -> Verification | PutOff:
        """
        Begin to verify one whose body is still to come.

        Raises:
            twh_platform.errors.WebhookError: Why its headers alone show that it does
                not hold; where there is a resolver, that is put off.
        """
        try:
            if self.foreign:
                raise _foreign()
            address = self._address(scope) if self.origin else _NO_ADDRESS
            return self.verifier.begin(scope["headers"], *address)
        except WebhookUsageError:
            raise
        except WebhookError as error:
            # Refused at once, an endpoint of another profile, of other times or of
            # another tenant could be told from one that there is not.
            if not self.found:
                raise
            return PutOff(error)

    def _address(self, scope: Scope) -> tuple[str, str]:
        return scope["method"], self.origin + _target(scope)


class Endpoints:
    """
    The endpoints behind one middleware.

    Args:
        keys: Those of one endpoint, or what finds them.

        profile: How senders sign, where a `Verifier` does not say it.

        times: The options of a `Verifier` about time.

        origin: What senders call us.

        replay: How deliveries are remembered, if the middleware does that.

        remembers: Whether they are remembered, by it or by the handler.
    """

    __slots__ = ("_one", "_origin", "_profile", "_replay", "_resolver", "_times", "_wants_names")

    def __init__(
        self,
        keys: Keys | Verifier | WebhookEndpoint | Resolver,
        *,
        profile: Profile,
        times: dict[str, Any],
        origin: str,
        replay: Replay | None,
        remembers: bool,
    ) -> None:
        self._profile = profile
        self._times = times
        self._origin = origin.rstrip("/")
        self._replay = replay
        self._resolver = keys if _is_resolver(keys) else None
        self._wants_names = remembers and self._resolver is not None
        self._one = self._ready(keys) if self._resolver is None else self._decoy()  # type: ignore[arg-type]

    async def of(self, scope: Scope) -> ReadyEndpoint:
        """
        The endpoint of a request; where there is none, one that has a key nobody has.

        Raises:
            twh_platform.errors.BackendUnavailableError: What a resolver raises, as is
                all else that it raises.
        """
        resolver = self._resolver
        endpoint = self._one if resolver is None else await self._found(scope, resolver)
        bound = current_tenant()
        if bound is None or endpoint.unknown:
            return endpoint
        if endpoint.tenant is not None and endpoint.tenant.id != bound.id:
            return endpoint._replace(foreign=True)
        return endpoint._replace(tenant_id=bound.id)

    async def _found(self, scope: Scope, resolver: Resolver) -> ReadyEndpoint:
        found = await resolver(scope)
        # One that there is not is hashed like one that has one secret.
        return self._one if found is None else self._ready(found)

    def _ready(
        self, given: Keys | Verifier | WebhookEndpoint, *, unknown: bool = False
    ) -> ReadyEndpoint:
        if not isinstance(given, WebhookEndpoint):
            given = WebhookEndpoint(keys=given)
        verifier, tenant = given.keys, given.tenant
        if not isinstance(verifier, Verifier):
            verifier = Verifier(verifier, profile=self._profile, **self._times)
        if self._replay is not None:
            self._replay.retention.check_window(verifier.window)
        signs_address = verifier.profile.form is Form.MESSAGE
        if signs_address and not self._origin:
            message = f"profile {verifier.profile.name!r} signs our address: give origin=..."
            raise ConfigurationError(message, code="origin_missing")
        return ReadyEndpoint(
            verifier,
            given.id,
            tenant,
            tenant_id=None if tenant is None else tenant.id,
            origin=self._origin if signs_address else "",
            found=self._resolver is not None,
            unknown=unknown,
            # What is claimed at one endpoint without a name is claimed at all others.
            unnamed=self._wants_names and not given.id and tenant is None,
        )

    def _decoy(self) -> ReadyEndpoint:
        kinds = {kind for one in self._profile.schemes.values() for kind in one.kinds}
        secret: WebhookKey = StandardSecret.generate()
        if "standard" not in kinds:
            secret = RawSecret(secrets.token_bytes(32))
        keys = secret if kinds & {"standard", "raw"} else Keyring()
        return self._ready(keys, unknown=True)


def unnamed() -> WebhookError:
    """
    The error of a webhook that holds, at an endpoint whose claims would be others' too.
    """
    message = "with replay, a resolver returns WebhookEndpoint(keys=..., id=...)"
    return WebhookError(message, code="endpoint_unnamed")


def _foreign() -> WebhookError:
    message = "the endpoint is another tenant's than the one that is bound"
    return WebhookError(message, code="endpoint_foreign")


def _is_resolver(keys: object) -> TypeGuard[Resolver]:
    given = (Verifier, WebhookEndpoint, Keyring, WebhookKey)
    return callable(keys) and not isinstance(keys, given)


def _target(scope: Scope) -> str:
    raw: bytes = (scope.get("raw_path") or quote(scope["path"]).encode()).partition(b"?")[0]
    if raw and not raw.startswith(b"/"):
        # Behind our origin it would be a part of the host, or the port.
        raise WebhookError("the target has no slash at its front", code="request_malformed")
    query: bytes = scope.get("query_string", b"")
    return (raw + (b"?" + query if query else b"")).decode("latin-1")
