"""
Reading what administrators send: strictly, bounded, and each fault with its field.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, NoReturn
from urllib.parse import parse_qsl

from .._asgi import Problem, Receive, Scope, header_values
from ..errors import ConfigurationError, TenantUnresolvedError
from ..tenancy._tenant import valid_tenant_id
from ._limits import LONGEST_REASON, MOST_LIMITS, Limit, read_limits
from ._usage_ledger import UsageQuery

__all__ = [
    "ChangeRequest",
    "ExportRequest",
    "RefusedError",
    "changed_since",
    "expected_version",
    "invalid",
    "read_body",
    "read_change",
    "read_export",
    "read_reason",
]

LARGEST_BODY_BYTES = 64 * 1024
_MOST_PARAMETERS = 20
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_ETAG = re.compile(r'"(\d{1,19})"', re.ASCII)
_FORMATS = ("ndjson", "csv")
_NO_OBJECT = "The body is no JSON object"


class RefusedError(Exception):
    """
    The request is answered with a problem.

    Attributes:
        problem: The answer.
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.code)
        self.problem = problem


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeRequest:
    """
    An override as it was asked for.
    """

    limits: Mapping[str, Limit]
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRequest:
    """
    An export as it was asked for.
    """

    query: UsageQuery
    format: str


def invalid(*errors: tuple[str, str]) -> RefusedError:
    """
    The refusal of a request with faults: each a field and what is wrong with it.
    """
    listed = [{"field": field, "detail": detail} for field, detail in errors]
    return RefusedError(
        Problem(
            status=422,
            code="request_invalid",
            title="The request is not valid",
            extensions={"errors": listed},
        )
    )


async def read_body(scope: Scope, receive: Receive) -> dict[str, Any]:
    """
    Read a JSON object.

    Raises:
        RefusedError: If it is of another media type (415), larger than 64 KiB (413)
            or no such object (400).
    """
    media = [
        value.split(b";")[0].strip().lower() for value in header_values(scope, b"content-type")
    ]
    if media != [b"application/json"]:
        _refuse("media_type_unsupported", 415, "The body has to be application/json")
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            _refuse("body_invalid", 400, "The body is not complete")
        body += message.get("body", b"")
        if len(body) > LARGEST_BODY_BYTES:
            _refuse("body_too_large", 413, "The body is larger than 64 KiB")
        if not message.get("more_body"):
            return _read_object(bytes(body))


def _read_object(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(
            body.decode(), object_pairs_hook=_without_twins, parse_constant=_no_constant
        )
    # Deep nesting ends in a RecursionError, a number of thousands of digits in a ValueError.
    except (ValueError, RecursionError):
        _refuse("body_invalid", 400, _NO_OBJECT)
    if not isinstance(found, dict):
        _refuse("body_invalid", 400, _NO_OBJECT)
    return found


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name comes twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def read_change(body: Mapping[str, Any], fits: Callable[[str, Limit], None]) -> ChangeRequest:
    """
    Read what an override is to be.

    Args:
        body: ``{"limits": {...}, "reason": "..."}``.

        fits: Raises a `ConfigurationError` if a limit is none for the rule with
            this name.

    Raises:
        RefusedError: With a 422 that names each field.
    """
    faults = [(name[:80], "is not known") for name in body if name not in {"limits", "reason"}]
    limits: dict[str, Limit] = {}
    said = body.get("limits")
    if not isinstance(said, Mapping) or not 1 <= len(said) <= MOST_LIMITS:
        faults.append(("limits", f"is no object with 1 to {MOST_LIMITS} rules"))
        said = {}
    for name, limit in said.items():
        try:
            limits.update(read_limits({name: limit}))
            fits(name, limits[name])
        except ConfigurationError as error:
            faults.append((f"limits.{name[:80]}", str(error)))
    reason = _reason_fault(body.get("reason"))
    if reason or faults:
        raise invalid(*faults, *([("reason", reason)] if reason else []))
    return ChangeRequest(limits=limits, reason=body["reason"])


def read_reason(scope: Scope) -> str:
    """
    Read why an override is taken back, from the query: ``?reason=...``.

    Raises:
        RefusedError: With a 422.
    """
    said = _parameters(scope, {"reason"})
    fault = _reason_fault(said.get("reason"))
    if fault:
        raise invalid(("reason", fault))
    return said["reason"]


def _reason_fault(reason: object) -> str:
    fits = isinstance(reason, str) and reason.strip() and reason.isprintable()
    if fits and len(str(reason)) <= LONGEST_REASON:
        return ""
    return f"is not 1 to {LONGEST_REASON} printable characters"


def read_export(scope: Scope) -> ExportRequest:
    """
    Read which usage is asked for: ``?from=2026-09-01&to=2026-10-01&format=csv``.

    Raises:
        RefusedError: With a 422 that names each parameter.
    """
    said = _parameters(scope, {"from", "to", "format", "tenant"})
    faults = []
    days = {name: _day(said.get(name)) for name in ("from", "to")}
    faults += [(name, "is no day like 2026-09-01") for name, day in days.items() if day is None]
    first, until = days["from"], days["to"]
    if first is not None and until is not None and not first < until:
        faults.append(("to", "is not after from: it is the first day that is left out"))
    kind = said.get("format", "ndjson")
    if kind not in _FORMATS:
        faults.append(("format", f"is none of {', '.join(_FORMATS)}"))
    tenant_id = said.get("tenant")
    if tenant_id is not None and not _is_tenant_id(tenant_id):
        faults.append(("tenant", "is no tenant id"))
    if faults or first is None or until is None:
        raise invalid(*faults)
    return ExportRequest(
        query=UsageQuery(first=first, until=until, tenant_id=tenant_id), format=kind
    )


def _parameters(scope: Scope, known: set[str]) -> dict[str, str]:
    try:
        pairs = parse_qsl(
            scope.get("query_string", b"").decode("ascii"),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=_MOST_PARAMETERS,
        )
    except ValueError:
        pairs = [] if not scope.get("query_string") else [("query", "")]
    names = [name for name, _ in pairs]
    faults = [(name[:80], "is not known") for name in names if name not in known]
    faults += [(name, "comes twice") for name in known if names.count(name) > 1]
    if faults:
        raise invalid(*faults)
    return dict(pairs)


def _day(text: str | None) -> date | None:
    if text is None or not _DATE.fullmatch(text):
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


def _is_tenant_id(text: str) -> bool:
    try:
        return valid_tenant_id(text) == text
    except TenantUnresolvedError:
        return False


def expected_version(scope: Scope, current: int) -> int | None:
    """
    The version that a change is for, by If-Match (RFC 9110, section 13.1.1).

    Args:
        scope: The request's.

        current: The version of the override; 0 if there is none.

    Returns:
        *current* if one of the tags names it; None if any version will do.

    Raises:
        RefusedError: With a 412, if the tags name others.
    """
    lines = header_values(scope, b"if-match")
    tags = [one.strip() for one in b",".join(lines).decode("latin-1").split(",")]
    if not lines or tags == ["*"]:
        return None
    for tag in tags:
        match = _ETAG.fullmatch(tag)
        if match is not None and int(match[1]) == current:
            return current
    raise changed_since()


def changed_since() -> RefusedError:
    """
    The refusal of a change to what somebody else has changed since.
    """
    return RefusedError(
        Problem(
            status=412,
            code="override_changed",
            title="Somebody else has changed this: read it again",
        )
    )


def _refuse(code: str, status: int, title: str) -> NoReturn:
    raise RefusedError(Problem(status=status, code=code, title=title))
