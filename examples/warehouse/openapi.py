"""
The OpenAPI document, made from the operations.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from .problems import PROBLEMS
from .web import Operation

__all__ = ["TENANT_HEADER", "TENANT_ID", "document", "refusals", "success"]

_REF = "#/components/schemas/{model}"

_PROBLEM: dict[str, Any] = {
    "type": "object",
    "description": "A refusal (RFC 9457).",
    "required": ["type", "title", "status", "code", "request_id"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string", "enum": sorted(PROBLEMS)},
        "request_id": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
        "detail": {"type": "string"},
        "fields": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"field": {"type": "string"}, "message": {"type": "string"}},
            },
        },
        "errors": {
            "type": "array",
            "description": "As `fields`, of the administrator's quota routes.",
            "items": {
                "type": "object",
                "properties": {"field": {"type": "string"}, "detail": {"type": "string"}},
            },
        },
        "violated-policies": {
            "type": "array",
            "description": "The quotas that have not enough left.",
            "items": {"type": "string"},
        },
    },
}

_TEXT_HEADER = {"schema": {"type": "string"}}
_HEADERS = {
    "RateLimit": {"description": "What is left of each quota.", **_TEXT_HEADER},
    "RateLimit-Policy": {"description": "The quotas that this request met.", **_TEXT_HEADER},
    "Retry-After": {
        "description": "Seconds to wait; missing where waiting is no use.",
        "schema": {"type": "integer", "minimum": 1},
    },
}
_COUNTED = ("RateLimit", "RateLimit-Policy")
_LATER = {"429", "503"}
# The reader of these may be somebody else than the quotas' owner.
_UNTOLD = {"401", "403"}

TENANT_ID = {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"}
_PLACES = {
    "id:uuid": {"type": "string", "format": "uuid"},
    "id": TENANT_ID,
    "tenant_id": TENANT_ID,
    "name": {"type": "string"},
}
TENANT_HEADER = {
    "name": "X-Tenant-ID",
    "in": "header",
    "required": False,
    "description": "Must agree with the token, if it is sent.",
    "schema": TENANT_ID,
}
_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The same request with the same key is carried out once.",
    "schema": {"type": "string", "pattern": "^[\\x21-\\x7e]{1,100}$"},
}
_IF_MATCH = {
    "name": "If-Match",
    "in": "header",
    "required": True,
    "description": "The `ETag` that the change is based on.",
    "schema": {"type": "string"},
}


def document(
    operations: Iterable[Operation], described: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """
    Describe *operations* in OpenAPI 3.1.

    Args:
        operations: Ours.

        described: Paths that others answer, as they are to be in the document.
    """
    listed = tuple(operations)
    models = {model for one in listed for model in (one.body, one.answer) if model is not None}
    ordered = sorted(models, key=lambda model: model.__name__)
    references, schemas = models_json_schema(
        [(model, _mode(model, listed)) for model in ordered], ref_template=_REF
    )
    names = {model: reference for (model, _), reference in references.items()}
    paths: dict[str, dict[str, Any]] = defaultdict(dict)
    for one in listed:
        paths[one.path.replace("{id:uuid}", "{id}")][one.method.lower()] = _operation(one, names)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Warehouse", "version": "1", "description": "An example service."},
        "paths": {**paths, **described},
        "components": {
            "headers": _HEADERS,
            "schemas": {**schemas.get("$defs", {}), "Problem": _PROBLEM},
            "securitySchemes": {
                "user": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                "administrator": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
            },
        },
    }


def _mode(model: type[BaseModel], operations: tuple[Operation, ...]) -> Any:
    return "validation" if any(one.body is model for one in operations) else "serialization"


def _operation(one: Operation, names: dict[Any, Any]) -> dict[str, Any]:
    summary, _, description = inspect.getdoc(one.handler).partition("\n\n")  # type: ignore[union-attr]
    described: dict[str, Any] = {
        "operationId": one.handler.__name__,
        "summary": " ".join(summary.split()).removesuffix("."),
        "parameters": list(_parameters(one)),
        "responses": {str(one.status): _success(one, names), **refusals(one.all_problems())},
        "security": _security(one),
    }
    if description:
        described["description"] = description
    if one.body is not None:
        content = {"application/json": {"schema": names[one.body]}}
        described["requestBody"] = {"required": True, "content": content}
    return described


def _security(one: Operation) -> list[dict[str, list[str]]]:
    if one.access == "public":
        return []
    return [{"administrator" if one.access == "administrator" else "user": []}]


def _parameters(one: Operation) -> Iterator[dict[str, Any]]:
    for place, schema in _PLACES.items():
        if f"{{{place}}}" in one.path:
            name = place.partition(":")[0]
            yield {"name": name, "in": "path", "required": True, "schema": schema}
    if one.query is not None:
        for name, schema in one.query.model_json_schema()["properties"].items():
            yield {"name": name, "in": "query", "required": False, "schema": schema}
    if one.for_user:
        yield TENANT_HEADER
    if one.idempotent:
        yield _IDEMPOTENCY_KEY
    if one.conditional:
        yield _IF_MATCH


def _success(one: Operation, names: dict[Any, Any]) -> dict[str, Any]:
    counted = one.for_user or "quota_exceeded" in one.problems
    return success(inspect.getdoc(one.answer) or "Done.", names[one.answer], counted=counted)


def success(
    description: str, schema: Mapping[str, Any], *, counted: bool = False
) -> dict[str, Any]:
    """
    Describe an answer in JSON.

    Args:
        description: What it is.

        schema: Of its body.

        counted: Whether the request was charged to a quota.
    """
    content = {"application/json": {"schema": schema}}
    headers = _headers(*(_COUNTED if counted else ()))
    return {"description": description, "content": content, "headers": headers}


def refusals(problems: Iterable[str]) -> dict[str, Any]:
    """
    Describe the refusals with these codes, by status.
    """
    codes: dict[str, list[str]] = defaultdict(list)
    for code in problems:
        codes[str(PROBLEMS[code].status)].append(code)
    content = {"application/problem+json": {"schema": {"$ref": _REF.format(model="Problem")}}}
    counted = "quota_exceeded" in chain(*codes.values())
    return {
        status: {
            "description": " or ".join(f"`{code}`" for code in sorted(found)),
            "content": content,
            "headers": _headers(
                *(_COUNTED if counted and status not in _UNTOLD else ()),
                *(("Retry-After",) if status in _LATER else ()),
            ),
        }
        for status, found in sorted(codes.items())
    }


def _headers(*names: str) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}
