"""
What tenancy announces: a tenant was resolved, a request or a statement refused.

They hold ids and stable codes, never a token.  Subscribe with
`twh_platform.subscribe`, as telemetry and audit do.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from ._tenant import Tenant

__all__ = [
    "AdministratorEntered",
    "AdministratorLeft",
    "TenantRefused",
    "TenantResolved",
    "TenantViolation",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantResolved:
    """
    A request was admitted; announced while its tenant is bound.

    Attributes:
        tenant: The tenant.

        source: The stable name of the source that decided.

        user_id: The user, where the source has proved one.

        request_id: The id of the request, also in its problem responses.
    """

    tenant: Tenant
    source: str
    user_id: str | None
    request_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantRefused:
    """
    A request was refused before it reached the app.

    Attributes:
        code: The narrow stable code, such as ``tenant_suspended``; the client
            sees only the uniform one.

        status: The HTTP status of the answer.

        tenant_id: The tenant asked for, where the sources came to one.

        source: The source that named it, or an empty string.

        user_id: The user, where a source has proved one.

        request_id: The id of the request, also in the answer.

        method: The HTTP method, or ``WEBSOCKET``.

        path: The decoded path as received: unchecked text, to be quoted.
    """

    code: str
    status: int
    tenant_id: str | None
    source: str
    user_id: str | None
    request_id: str
    method: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantViolation:
    """
    A use of the database was refused: code without a tenant, or across tenants.

    Attributes:
        code: ``tenant_unbound``, ``tenant_id_malformed``,
            ``tenant_seal_invalid``, ``tenant_row_refused`` (a policy or a grant
            said no), or ``tenant_switched_in_transaction``; of a `TenantSession`
            ``session_of_another_tenant`` or ``object_of_another_tenant``; for
            connections of the administrators' login
            ``administrator_access_missing`` or
            ``administrator_switched_in_transaction``.

        tenant_id: The current tenant, or None.

        sqlstate: The server's SQLSTATE; empty if it was not asked.
    """

    code: str
    tenant_id: str | None
    sqlstate: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AdministratorEntered:
    """
    Somebody has begun to work across tenants.

    Attributes:
        access_id: Joins it to its `AdministratorLeft`, and to the server's
            sessions: 32 hex digits.

        actor: Who, as stated.

        reason: Why, as stated.

        entered_at: Since when, with time zone.
    """

    access_id: str
    actor: str
    reason: str
    entered_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class AdministratorLeft:
    """
    The same work is over, and with it the access.

    Attributes:
        access_id: As in `AdministratorEntered`.

        actor: Who, as stated.

        reason: Why, as stated.

        entered_at: Since when it lasted.

        duration: For how long, in seconds.

        transactions: How many it opened on the administrators' connections.

        error: The class of the exception that ended it, or None.
    """

    access_id: str
    actor: str
    reason: str
    entered_at: datetime
    duration: float
    transactions: int
    error: str | None
