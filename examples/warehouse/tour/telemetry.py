"""
Telemetry: one request, found on the page of metrics, in the log and among the spans.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..telemetry import METRICS_PATH
from .collector import Collector
from .step import ANY, Aside, Contains, Holds, Lacks, Matches, Step, client, log_in, problem

__all__ = ["Seen", "telemetry"]

_TENANT = "meter-{run}"
_ADDRESS = "first@example.com"
_STRANGE = "0af7651916cd43dd8448eb211c80319c"
_OPENMETRICS = "application/openmetrics-text"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """
    Where the tour can look for what the warehouse has told; what is None is left out.

    Args:
        log: A file of its JSON lines.

        collector: Who is sent its spans.
    """

    log: Path | None = None
    collector: Collector | None = None


def telemetry(seen: Seen) -> list[Step | Aside]:
    """
    The steps, as a manager of a sandbox and whoever scrapes the page.
    """
    steps: list[Step | Aside] = [*_sandbox(), _traced(seen), *_odd(), *_page()]
    if seen.collector is not None:
        steps += [_exemplar(), _span(seen.collector)]
    if seen.log is not None:
        steps.append(_log(seen.log))
    return steps


def _asks(title: str, request: str, status: int, expect: Any = ANY, **more: Any) -> Step:
    return Step(title, request, status, expect, bearer="metered", **more)


def _sandbox() -> list[Step]:
    user = {"email": _ADDRESS, "name": "First", "password": "{password}"}
    item = {"sku": "M-1", "name": "A metre", "unit_price_minor": 1}
    return [
        Step(
            "a sandbox of the tier FREE",
            "POST /tenants",
            201,
            {"id": _TENANT},
            bearer="administrator",
            body={"id": _TENANT, "tier": "FREE", "user": user},
        ),
        log_in("log in to it", _TENANT, _ADDRESS, "metered", at=1),
        _asks("an item", "POST /items", 201, body=item, keep=("item", "id")),
        _asks(
            "a place for it",
            "POST /locations",
            201,
            body={"code": "M", "name": "Metres"},
            keep=("place", "id"),
        ),
    ]


def _traced(seen: Seen) -> Step:
    flags = "0[13]" if seen.collector is not None else "0[02]"
    header = f"00-(?!{_STRANGE})(?P<trace>[0-9a-f]{{32}})-(?P<span>[0-9a-f]{{16}})-{flags}"
    body = {"item_id": "{item}", "location_id": "{place}", "quantity": 7, "reason": "counted"}
    return _asks(
        "some are found; the answer tells a trace id, which is not that of a stranger",
        "POST /stock/adjust",
        201,
        {"kind": "adjustment"},
        body=body,
        headers=(("traceparent", f"00-{_STRANGE}-b7ad6b7169203331-01"),),
        expect_headers={"traceresponse": Matches(header)},
    )


def _odd() -> list[Step]:
    return [
        _asks("a path of nothing", "GET /nothing-{run}", 404, problem("not_found")),
        _asks(
            "ask until the quota of the tier is used up",
            "GET /items",
            429,
            problem("quota_exceeded", **{"violated-policies": ["minute"]}),
            within=20,
        ),
    ]


def _scrape(title: str, expect: Any, **more: Any) -> Step:
    # A page is served again for a second.
    return Step(
        title,
        f"GET {METRICS_PATH}",
        200,
        expect,
        bearer="",
        headers=(("Accept", f"{_OPENMETRICS};version=1.0.0"),),
        kind=_OPENMETRICS,
        within=5,
        **more,
    )


def _page() -> list[Step]:
    refused = 'platform_tenant_quota_refusals_total{tenant="meter-{run}"} '
    served = 'platform_tenant_requests_total{tenant="meter-{run}",outcome="success"} '
    moved = 'warehouse_stock_movements_total{kind="adjustment"} '
    return [
        Step(
            "the page of metrics is not for whom a proxy speaks for",
            f"GET {METRICS_PATH}",
            403,
            problem("metrics_refused"),
            bearer="",
            headers=(client(9),),
            shown=True,
        ),
        _scrape("the page counts the refusals of that tenant", Contains(Holds((refused,)))),
        _scrape("and its requests", Contains(Holds((served,))), shown=True),
        _scrape("it counts what the business does", Contains(Holds((moved,)))),
        _scrape("it shows no path that a client wrote", Lacks(Holds(("nothing-{run}",)))),
        _scrape("nor the id of any record", Lacks(Holds(("{item}",)))),
    ]


def _exemplar() -> Step:
    bucket = "http_server_request_duration_seconds_bucket{"
    parts = (bucket, 'http_route="/stock/adjust"', '# {trace_id="{trace}",span_id="{span}"}')
    return _scrape("the trace id is an exemplar of the duration", Contains(Holds(parts)))


def _span(collector: Collector) -> Aside:
    def look(variables: Mapping[str, str]) -> list[dict[str, Any]]:
        found = collector.of_trace(variables["trace"])
        return [{"id": one.span_id, "name": one.name, "server": one.is_server} for one in found]

    return Aside(
        "the collector has the span of that request, and those below it",
        look,
        Contains({"id": "{span}", "name": "POST /stock/adjust", "server": True}),
        tells=lambda spans: [f"{len(spans)} spans", *sorted({one["name"] for one in spans})],
    )


def _log(path: Path) -> Aside:
    def look(variables: Mapping[str, str]) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        return [
            {"body": line["body"], "span": line["span_id"], **line["attributes"]}
            for line in lines
            if line.get("trace_id") == variables["trace"]
        ]

    return Aside(
        "the log has its lines, with the tenant",
        look,
        Contains({"body": "stock.adjust", "span": "{span}", "tenant.id": _TENANT}),
        tells=lambda lines: [line["body"] for line in lines],
    )
