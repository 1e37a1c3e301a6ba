"""
One request at the middleware: as far as it has come, what is answered and what is told.
"""

from __future__ import annotations

import logging
from typing import Final

from .._asgi import Problem, Scope, Send, request_id
from .._signals import announce, has_listeners
from ..errors import BackendUnavailableError, PlatformError, WebhookError
from ._announcements import ReplayStoreDown, WebhookRefused, WebhookReplayed, WebhookVerified
from ._body_length import LENGTH_CODES, length_problem
from ._resolving import ReadyEndpoint
from ._verify import Verified

__all__ = ["Arrival"]

_logger = logging.getLogger("twh_platform.webhooks")

_REFUSED: Final = Problem(
    status=401,
    code="webhook_refused",
    title="The webhook is refused",
    headers={"www-authenticate": "Webhook"},  # RFC 9110, section 15.5.2 wants one
)
_TOO_SLOW: Final = Problem(status=408, code="body_timeout", title="The body did not come in time")
_CONFLICT: Final = Problem(
    status=409, code="id_conflict", title="This id is known with another body"
)
_BUSY: Final = Problem(
    status=409,
    code="webhook_busy",
    title="This webhook is being handled",
    headers={"retry-after": "5"},
)
_UNAVAILABLE: Final = Problem(
    status=503,
    code="webhook_unavailable",
    title="Not available at the moment",
    headers={"retry-after": "1"},
)
# All others, but for lengths, are failures of authentication, and those have one answer.
_ANSWERS: Final = {
    "body_timeout": _TOO_SLOW,
    "endpoint_unnamed": _UNAVAILABLE,
    "id_conflict": _CONFLICT,
    "webhook_busy": _BUSY,
}


class Arrival:
    """
    One request, as far as it has come.

    Attributes:
        scope: Its scope.

        profile: The name of the profile it is verified by.

        limit: The most bytes of its body.

        endpoint: Where it came in, once that is known.

        served: Whether the app was called.
    """

    __slots__ = ("endpoint", "limit", "profile", "scope", "served")

    def __init__(self, scope: Scope, profile: str, limit: int) -> None:
        self.scope = scope
        self.profile = profile
        self.limit = limit
        self.endpoint: ReadyEndpoint | None = None
        self.served = False

    def left(self) -> None:
        """
        Note that its body will not come: nothing is answered.
        """
        _logger.info(
            "request %s: the sender left before its body was here, or it was read before",
            request_id(self.scope),
        )

    def verified(self, verified: Verified) -> None:
        """
        Announce that its signature holds.
        """
        endpoint = self.endpoint
        if endpoint is not None:
            announce(
                WebhookVerified(
                    profile=verified.profile,
                    scheme=verified.scheme,
                    key_id=verified.key_id,
                    endpoint=endpoint.id,
                    tenant_id=endpoint.tenant_id,
                    age=verified.age,
                )
            )

    def refusal(self, error: PlatformError) -> Problem:
        """
        Note why it is refused, and say what is answered.
        """
        problem = self._answer(error)
        endpoint = self.endpoint
        if endpoint is not None and endpoint.unknown and problem is _REFUSED:
            error = WebhookError("there is no such endpoint", code="endpoint_unknown")
        _logger.log(
            _level(error.code, problem),
            "request %s: webhook refused with %d, %s: %s",
            request_id(self.scope),
            problem.status,
            error.code,
            error,
        )
        if has_listeners(WebhookRefused):
            announce(
                WebhookRefused(
                    code=error.code,
                    status=problem.status,
                    profile=self.profile,
                    endpoint=endpoint.id if endpoint else "",
                    tenant_id=endpoint.tenant_id if endpoint else None,
                )
            )
        return problem

    async def replayed(self, send: Send) -> None:
        """
        Answer that it was handled, as it was.
        """
        endpoint = self.endpoint
        if endpoint is not None and has_listeners(WebhookReplayed):
            announce(
                WebhookReplayed(
                    profile=self.profile, endpoint=endpoint.id, tenant_id=endpoint.tenant_id
                )
            )
        headers = [
            (b"content-length", b"0"),
            (b"x-request-id", request_id(self.scope).encode()),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    def store_down(self, step: str, error: BackendUnavailableError, policy: str) -> None:
        """
        Note that the store did not answer.
        """
        _logger.warning(
            "request %s: no %s of a webhook, %s: %s",
            request_id(self.scope),
            step,
            error.code,
            error,
        )
        announce(ReplayStoreDown(step=step, code=error.code, store_down=policy))

    def lease_ended(self) -> None:
        """
        Note that another may have handled it meanwhile.
        """
        _logger.warning(
            "request %s: the lease on a webhook ended before its handler did",
            request_id(self.scope),
        )

    def _answer(self, error: PlatformError) -> Problem:
        if isinstance(error, BackendUnavailableError):
            return _UNAVAILABLE
        if error.code in LENGTH_CODES:
            return length_problem(error, self.scope, self.limit)
        return _ANSWERS.get(error.code, _REFUSED)


def _level(code: str, problem: Problem) -> int:
    if code == "endpoint_unnamed":  # nothing is taken in until it is mended
        return logging.ERROR
    return logging.WARNING if problem in (_UNAVAILABLE, _CONFLICT) else logging.INFO
