"""
Quotas: what a tenant has left, what the administrator gives it, what is billed.

`QuotaApp` answers.  Here is what it stands on, and what the OpenAPI document
says of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.routing import Route

from twh_platform import Tenant, bind_tenant
from twh_platform.quotas import QUOTA_PROBLEM_TYPES, QuotaApp
from twh_platform.tenancy import finish_within

from ..openapi import TENANT_HEADER, TENANT_ID, refusals, success
from ..services import Services

__all__ = ["DESCRIBED", "quota_routes"]


def quota_routes(services: Services) -> list[Route]:
    """
    The routes that `QuotaApp` answers; the administrator is whoever has that token.
    """

    async def levels(tenant: Tenant) -> Mapping[str, int]:
        return await finish_within(services.settings.database_seconds, _levels(services, tenant))

    app = QuotaApp(
        services.quotas.limiter,
        administrator=services.tokens.administrator_of,
        overrides=services.quotas.plans,
        ledger=services.quotas.usage,
        directory=services.directory.get,
        levels=levels,
        clock=services.settings.now,
    )
    return [
        Route(path, app, methods=[method.upper() for method in methods])
        for path, methods in DESCRIBED.items()
    ]


async def _levels(services: Services, tenant: Tenant) -> Mapping[str, int]:
    with bind_tenant(tenant):
        async with services.app.begin() as db:
            return await services.quotas.capacity.levels(db)


_COUNT = {"type": "integer", "minimum": 0}
_MOMENT = {"type": "string", "format": "date-time"}
_TEXT = {"type": "string"}
_RULE = {
    "type": "object",
    "description": "A rule, and what is used of it.",
    "required": ["name", "kind", "unit", "scope", "mode", "limit"],
    "properties": {
        "name": _TEXT,
        "kind": {"enum": ["rate", "sliding_window", "calendar", "concurrency", "capacity"]},
        "unit": _TEXT,
        "scope": {"enum": ["tenant", "user", "api_key", "route"]},
        "mode": {"enum": ["hard", "soft", "shadow"]},
        "limit": _COUNT,
        "used": _COUNT,
        "remaining": _COUNT,
        "per_seconds": {"type": "number"},
        "burst": _COUNT,
        "period": {"enum": ["hour", "day", "week", "month", "year"]},
        "period_start": _MOMENT,
        "period_end": _MOMENT,
        "reset_after": {"type": "number", "minimum": 0},
        "routes": {"type": "array", "items": _TEXT},
    },
    "unevaluatedProperties": False,
}
_OWN = {
    "plan": _TEXT,
    "exact": {"type": "boolean", "description": "False while the store does not answer."},
    "rules": {"type": "array", "items": _RULE},
}
_LIMIT = {
    "type": "object",
    "required": ["limit"],
    "properties": {"limit": _COUNT, "burst": {"type": "integer", "minimum": 1}},
    "additionalProperties": False,
}
_LIMITS = {"type": "object", "minProperties": 1, "maxProperties": 100}
_REASON = {"type": "string", "minLength": 1, "maxLength": 1000}
_VERSION = {
    "type": "object",
    "required": ["version", "limits", "actor", "reason", "changed_at"],
    "properties": {
        "version": {"type": "integer", "minimum": 1},
        "limits": {"type": "object", "additionalProperties": _LIMIT},
        "actor": _TEXT,
        "reason": _REASON,
        "changed_at": _MOMENT,
    },
}
_TENANTS = {
    "tenant": _TEXT,
    "tier": _TEXT,
    "time_zone": _TEXT,
    **_OWN,
    "override": {"anyOf": [_VERSION, {"type": "null"}]},
    "history": {"type": "array", "items": _VERSION},
}
_CHANGE = {
    "type": "object",
    "required": ["limits", "reason"],
    "properties": {
        "limits": {
            **_LIMITS,
            "additionalProperties": {"anyOf": [_COUNT, _LIMIT]},
            "description": "All of the tenant's own limits, by rule; others are the plan's.",
        },
        "reason": _REASON,
    },
    "additionalProperties": False,
}
_LINE = {
    "type": "object",
    "required": [
        "tenant",
        "rule",
        "unit",
        "scope",
        "period_start",
        "period_end",
        "taken",
        "refunded",
        "used",
        "closed",
    ],
    "properties": {
        "tenant": _TEXT,
        "rule": _TEXT,
        "unit": _TEXT,
        "scope": _TEXT,
        "period_start": _MOMENT,
        "period_end": _MOMENT,
        "taken": _COUNT,
        "refunded": _COUNT,
        "used": _COUNT,
        "closed": {"type": "boolean", "description": "Whether nothing is added any more."},
    },
}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties}


def _query(name: str, schema: dict[str, Any], *, required: bool = False) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": required, "schema": schema}


_TENANT = {"name": "tenant_id", "in": "path", "required": True, "schema": TENANT_ID}
_IF_MATCH = {
    "name": "If-Match",
    "in": "header",
    "required": False,
    "description": "The `ETag` that the change is based on.",
    "schema": _TEXT,
}
_DAY = {"type": "string", "format": "date"}
_FORBIDDEN = {"credentials_invalid", "backend_unavailable", "internal_error"}
_OF_TENANT = {*_FORBIDDEN, "tenant_unknown", "not_found"}
_CHANGES = {*_OF_TENANT, "request_invalid", "override_changed"}


def _administers(
    name: str, summary: str, *parameters: dict[str, Any], codes: set[str], **more: Any
) -> dict[str, Any]:
    return {
        "operationId": name,
        "summary": summary,
        "parameters": [_TENANT, *parameters],
        "responses": {"200": success("The tenant's quotas.", _object(_TENANTS)), **refusals(codes)},
        "security": [{"administrator": []}],
        **more,
    }


DESCRIBED: dict[str, dict[str, Any]] = {
    "/quotas": {
        "get": {
            "operationId": "show_quotas",
            "summary": "Show the tenant's limits, and what is used of them",
            "parameters": [TENANT_HEADER],
            "responses": {
                "200": success(
                    "What the tenant has.", _object({"tenant": _TEXT, **_OWN}), counted=True
                ),
                **refusals({*_FORBIDDEN, "tenant_refused", *QUOTA_PROBLEM_TYPES}),
            },
            "security": [{"user": []}],
        }
    },
    "/admin/quotas/{tenant_id}": {
        "get": _administers("show_tenant_quotas", "Show a tenant's quotas", codes=_OF_TENANT),
        "put": _administers(
            "change_tenant_quotas",
            "Give a tenant limits of its own",
            _IF_MATCH,
            codes={*_CHANGES, "body_invalid", "body_too_large", "media_type_unsupported"},
            requestBody={"required": True, "content": {"application/json": {"schema": _CHANGE}}},
        ),
        "delete": _administers(
            "reset_tenant_quotas",
            "Give a tenant the limits of its plan again",
            _IF_MATCH,
            _query("reason", _REASON, required=True),
            codes=_CHANGES,
        ),
    },
    "/admin/usage": {
        "get": {
            "operationId": "export_usage",
            "summary": "Export what tenants have used",
            "description": "Periods that began from the one day up to the other, left out; "
            "a day is that of the tenant's calendar.",
            "parameters": [
                _query("from", _DAY, required=True),
                _query("to", _DAY, required=True),
                _query("format", {"enum": ["ndjson", "csv"], "default": "ndjson"}),
                _query("tenant", TENANT_ID),
            ],
            "responses": {
                "200": {
                    "description": "A line for each tenant, rule and period.",
                    "content": {
                        "application/x-ndjson": {"schema": _LINE},
                        "text/csv": {"schema": _TEXT},
                    },
                },
                **refusals({*_FORBIDDEN, "request_invalid"}),
            },
            "security": [{"administrator": []}],
        }
    },
}
"""The paths of `QuotaApp` in the OpenAPI document."""
