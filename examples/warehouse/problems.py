"""
Every refusal, by its code: the one place where ours are spelled.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm.exc import StaleDataError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from twh_platform import Problem, request_id
from twh_platform.errors import (
    AdministratorError,
    BackendUnavailableError,
    CredentialsError,
    DecryptionError,
    KeyDestroyedError,
    KeyNotFoundError,
    KeyServiceError,
    QuotaExceededError,
    SecretConflictError,
)
from twh_platform.quotas import QUOTA_PROBLEM_TYPES, quota_problem
from twh_platform.tenancy import REFUSALS
from twh_platform.tenancy.postgres import refusal_of, sqlstate_of

__all__ = ["HANDLERS", "PROBLEMS", "Refusal"]

_logger = logging.getLogger("warehouse")

_OWN: Mapping[str, tuple[int, str]] = {
    "body_malformed": (400, "The body is not JSON"),
    "cursor_invalid": (400, "The cursor was not given out here"),
    "idempotency_key_invalid": (400, "The idempotency key is not acceptable"),
    "role_insufficient": (403, "Your role does not allow this"),
    "not_found": (404, "There is nothing here"),
    "method_not_allowed": (405, "This method is not allowed here"),
    "already_exists": (409, "Something with this key exists already"),
    "keys_missing": (409, "The tenant has no keys"),
    "order_closed": (409, "The order is not in a state that allows this"),
    "quantity_exceeded": (409, "More than the order has left"),
    "secret_changed": (409, "Somebody else has changed the secret: look again"),
    "secret_in_use": (409, "It is the current version: rotate the secret first"),
    "secret_not_rotated": (409, "This secret is not changed here"),
    "secrets_too_many": (409, "It has as many secrets as are accepted at a time: revoke one"),
    "stock_short": (409, "There is not enough stock"),
    "tenant_shredded": (410, "The tenant's keys were destroyed: what they sealed is gone"),
    "precondition_failed": (412, "It has changed since you read it"),
    "body_too_large": (413, "The body is too large"),
    "content_type_unsupported": (415, "The body must be application/json"),
    "bank_account_invalid": (422, "The bank account is not valid"),
    "confirmation_wrong": (422, "The confirmation is not the tenant's id"),
    "idempotency_conflict": (422, "The idempotency key was used for another request"),
    "reason_invalid": (422, "The reason is missing, or cannot be printed"),
    "reference_unknown": (422, "The body refers to something that does not exist"),
    "url_refused": (422, "Webhooks are not sent to this URL"),
    "validation_failed": (422, "Some fields are not acceptable"),
    "precondition_required": (428, "An If-Match header is required"),
    "sealed_unreadable": (500, "A sealed value does not open: it was not sealed for this place"),
}

# What `QuotaApp` answers to administrators, for the OpenAPI document.
_ADMINISTERING: Mapping[str, tuple[int, str]] = {
    "body_invalid": (400, "The body is no JSON object"),
    "tenant_unknown": (404, "There is no such tenant"),
    "override_changed": (412, "Somebody else has changed this: read it again"),
    "media_type_unsupported": (415, "The body has to be application/json"),
    "request_invalid": (422, "The request is not valid"),
}

# What the middleware refuses with, a handler refuses with in the same words.
PROBLEMS: Mapping[str, Problem] = {
    **{
        code: Problem(status=status, code=code, title=title)
        for code, (status, title) in {**_OWN, **_ADMINISTERING}.items()
    },
    **REFUSALS,
    **{code: quota_problem(code) for code in QUOTA_PROBLEM_TYPES},
}


# RFC 9110, section 15.6: from here on the fault is ours.
_SERVER_ERROR = 500


def _problem_of(
    code: str,
    detail: str = "",
    *,
    headers: Mapping[str, str] | None = None,
    **members: Any,
) -> Problem:
    """
    The problem of this code, as `Refusal` takes it.
    """
    known = PROBLEMS[code]
    merged = {**known.headers, **(headers or {})}
    return replace(known, detail=detail, headers=merged, extensions=members)


class Refusal(Exception):  # noqa: N818 -- it is an answer, not a fault
    """
    Ends a request with the problem of this code.

    Args:
        code: One of `PROBLEMS`, with a status below 500.

        detail: What is particular to this occurrence; safe for the client.

        headers: Further response headers.

        members: Further members of the body.

    Raises:
        ValueError: For a fault of ours, which must not count as a refusal.
    """

    def __init__(
        self,
        code: str,
        detail: str = "",
        *,
        headers: Mapping[str, str] | None = None,
        **members: Any,
    ) -> None:
        super().__init__(code)
        self.problem = _problem_of(code, detail, headers=headers, **members)
        if self.problem.status >= _SERVER_ERROR:
            message = f"{code} is no refusal: its status is {self.problem.status}"
            raise ValueError(message)


# What the database says about the body that was sent.
_SAID: Mapping[str, str] = {
    "23505": "already_exists",  # unique_violation
    "23503": "reference_unknown",  # foreign_key_violation
}


def database_problem(error: DBAPIError) -> Problem:
    """
    Say what a complaint of the database means to the client.

    What another tenant has and what nobody has are answered alike.
    """
    state = sqlstate_of(error)
    problem = refusal_of(error)
    if problem is None and state in _SAID:
        return _problem_of(_SAID[state])
    if problem is not None and problem.code == "backend_unavailable":
        _logger.warning("the database did not answer: %s %s", type(error.orig).__name__, state)
        return problem
    _logger.error("the database complained: %s", state, exc_info=error)
    return problem or _problem_of("internal_error")


# What keys refuse; whatever else is a fault of ours.
_KEYS: Mapping[type[KeyServiceError], str] = {
    DecryptionError: "sealed_unreadable",
    KeyDestroyedError: "tenant_shredded",
    KeyNotFoundError: "keys_missing",
}


async def _refused(_request: Request, error: Exception) -> Any:
    assert isinstance(error, Refusal)  # noqa: S101 -- for the type checker
    return error.problem


async def _database(_request: Request, error: Exception) -> Any:
    assert isinstance(error, DBAPIError)  # noqa: S101 -- for the type checker
    return database_problem(error)


async def _not_in_time(_request: Request, error: Exception) -> Any:
    _logger.warning("the database did not answer: %s", type(error).__name__)
    return _problem_of("backend_unavailable")


async def _keys(request: Request, error: Exception) -> Any:
    assert isinstance(error, KeyServiceError)  # noqa: S101 -- for the type checker
    if error.retryable:
        _logger.warning("the keys did not answer: %s", error.code)
        return _problem_of("backend_unavailable")
    for kind, code in _KEYS.items():
        if isinstance(error, kind):
            # A value in the wrong place: somebody has written past the app.
            level = logging.WARNING if kind is DecryptionError else logging.INFO
            _logger.log(level, "request %s: %s", request_id(request.scope), error.code)
            return _problem_of(code)
    return await _unexpected(request, error)


async def _conflict(_request: Request, _error: Exception) -> Any:
    return _problem_of("secret_changed")


async def _credentials(_request: Request, _error: Exception) -> Any:
    return _problem_of("credentials_invalid")


async def _unstated(request: Request, error: Exception) -> Any:
    assert isinstance(error, AdministratorError)  # noqa: S101 -- for the type checker
    if error.code in {"administrator_reason_missing", "administrator_text_invalid"}:
        return _problem_of("reason_invalid")
    return await _unexpected(request, error)


async def _gone(_request: Request, _error: Exception) -> Any:
    return _problem_of("body_malformed")  # half a body, and nobody who reads this


async def _full(_request: Request, error: Exception) -> Any:
    assert isinstance(error, QuotaExceededError)  # noqa: S101 -- for the type checker
    # No Retry-After: a capacity is given back by whoever makes room, not by time.
    return quota_problem(error.code, violated=[one.rule.name for one in error.decision.violated])


async def _stale(_request: Request, _error: Exception) -> Any:
    return _problem_of("precondition_failed")


async def _http(_request: Request, error: Exception) -> Any:
    assert isinstance(error, HTTPException)  # noqa: S101 -- for the type checker
    code = "method_not_allowed" if error.status_code == 405 else "not_found"  # noqa: PLR2004
    return _problem_of(code, headers=error.headers)


async def _unexpected(request: Request, error: Exception) -> Any:
    _logger.error("request %s failed", request_id(request.scope), exc_info=error)
    return _problem_of("internal_error")


HANDLERS: dict[Any, Any] = {
    Refusal: _refused,
    HTTPException: _http,
    DBAPIError: _database,
    ClientDisconnect: _gone,
    StaleDataError: _stale,
    QuotaExceededError: _full,
    PoolTimeoutError: _not_in_time,
    BackendUnavailableError: _not_in_time,
    CredentialsError: _credentials,
    KeyServiceError: _keys,
    SecretConflictError: _conflict,
    AdministratorError: _unstated,
    Exception: _unexpected,
}
