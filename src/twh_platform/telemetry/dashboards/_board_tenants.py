"""
Tenants, as far as they have labels of their own, and their quotas.
"""

from __future__ import annotations

from .._names import (
    DEGRADATIONS,
    DEGRADED,
    DEGRADED_SECONDS,
    QUOTA_BACKEND,
    QUOTA_DECISIONS,
    QUOTA_DRIFT,
    QUOTA_NOTICES,
    QUOTA_OVERRIDE_CHANGES,
    QUOTA_OVERRIDES_STALE,
    QUOTA_REMAINING,
    QUOTA_USAGE_LOST,
    QUOTA_WITHOUT_STORE,
    TENANT_DURATION,
    TENANT_QUOTA_REFUSALS,
    TENANT_REQUESTS,
)
from ._grafana import Board, Panel, Query, Row
from ._parts import most, of, quantile, rate_of, share

__all__ = ["QUOTAS", "TENANTS"]

_PICKED = 'tenant=~"$tenant"'
_TENANT = "{{tenant}}"
_RANGE = "$__range"
_VARIABLE = ("tenant", "Tenant", f"label_values({of(TENANT_REQUESTS)}, tenant)")


def _outcome(outcome: str, window: str = "$__rate_interval") -> str:
    matchers = f'{_PICKED},outcome="{outcome}"'
    part = rate_of(TENANT_REQUESTS, "tenant", matchers=matchers, window=window)
    return share(part, rate_of(TENANT_REQUESTS, "tenant", matchers=_PICKED, window=window))


_TRAFFIC = rate_of(TENANT_REQUESTS, "tenant", matchers=_PICKED)
_TRAFFIC_OF_RANGE = rate_of(TENANT_REQUESTS, "tenant", matchers=_PICKED, window=_RANGE)

TENANTS = Board(
    uid="twh-tenants",
    title="Tenants",
    about="The busiest tenants by name; all others are `other`.",
    folder="twh-tenants",
    variables=[_VARIABLE],
    rows=[
        Row(
            title="Traffic",
            panels=[
                Panel(
                    title="Busiest tenants",
                    about="Over the range that is shown.",
                    queries=[
                        Query(most(20, _TRAFFIC_OF_RANGE), "Requests a second", unit="reqps"),
                        Query(_outcome("server_error", _RANGE), "Errors", unit="percentunit"),
                        Query(
                            quantile(
                                0.95, TENANT_DURATION, "tenant", matchers=_PICKED, window=_RANGE
                            ),
                            "95 % are faster than",
                            unit="s",
                        ),
                        Query(
                            rate_of(
                                TENANT_QUOTA_REFUSALS, "tenant", matchers=_PICKED, window=_RANGE
                            ),
                            "Refused by quotas a second",
                            unit="reqps",
                        ),
                    ],
                    kind="table",
                    width=16,
                ),
                Panel(
                    title="Share of the traffic",
                    about="Of all requests over the range that is shown.",
                    queries=[
                        Query(
                            most(
                                10,
                                f"{_TRAFFIC_OF_RANGE} / ignoring (tenant) group_left ()"
                                f" {rate_of(TENANT_REQUESTS, window=_RANGE)}",
                            ),
                            _TENANT,
                        )
                    ],
                    kind="bargauge",
                    unit="percentunit",
                    most=1,
                ),
                Panel(
                    title="Requests",
                    about="Requests a second of the busiest ten.",
                    queries=[Query(most(10, _TRAFFIC), _TENANT)],
                    unit="reqps",
                    stacked=True,
                ),
                Panel(
                    title="Errors",
                    about="Which share ended in an error of the service.",
                    queries=[Query(most(10, _outcome("server_error")), _TENANT)],
                    unit="percentunit",
                    most=1,
                ),
                Panel(
                    title="Duration",
                    about="The 95th percentile, out of four coarse buckets.",
                    queries=[
                        Query(
                            most(10, quantile(0.95, TENANT_DURATION, "tenant", matchers=_PICKED)),
                            _TENANT,
                        )
                    ],
                    unit="s",
                ),
                Panel(
                    title="Mistakes of clients",
                    about="Which share was answered with 4xx.",
                    queries=[Query(most(10, _outcome("client_error")), _TENANT)],
                    unit="percentunit",
                    most=1,
                ),
                Panel(
                    title="Clients that left",
                    about="Which share ended because the client did not wait.",
                    queries=[Query(most(10, _outcome("client_disconnect")), _TENANT)],
                    unit="percentunit",
                    most=1,
                ),
                Panel(
                    title="Requests without a label of their own",
                    about="The share of tenants that are not among the busiest.",
                    queries=[
                        Query(
                            share(
                                rate_of(TENANT_REQUESTS, matchers='tenant="other"'),
                                rate_of(TENANT_REQUESTS),
                            ),
                            "other",
                        )
                    ],
                    unit="percentunit",
                    most=1,
                ),
            ],
        )
    ],
)

QUOTAS = Board(
    uid="twh-quotas",
    title="Quotas",
    about="Whom quotas refuse, who is about to be refused, and whether the counting is sound.",
    folder="twh-tenants",
    variables=[_VARIABLE],
    rows=[
        Row(
            title="Decisions",
            panels=[
                Panel(
                    title="Decisions by result",
                    about="For each rule that had a say, a second.",
                    queries=[Query(rate_of(QUOTA_DECISIONS, "result"), "{{result}}")],
                    unit="reqps",
                    stacked=True,
                ),
                Panel(
                    title="Duration of decisions",
                    about="The 95th percentile of what the store took, by who decided.",
                    queries=[Query(quantile(0.95, QUOTA_BACKEND, "origin"), "{{origin}}")],
                    unit="s",
                ),
                Panel(
                    title="Decisions by policy",
                    about="For each rule that had a say, a second.",
                    queries=[
                        Query(rate_of(QUOTA_DECISIONS, "policy", "result"), "{{policy}} {{result}}")
                    ],
                    unit="reqps",
                ),
                Panel(
                    title="Tenants that are refused",
                    about="Requests a second that quotas refused, of the ten who are refused most.",
                    queries=[
                        Query(
                            most(10, rate_of(TENANT_QUOTA_REFUSALS, "tenant", matchers=_PICKED)),
                            _TENANT,
                        )
                    ],
                    unit="reqps",
                ),
                Panel(
                    title="Least left",
                    about="Of the quota of a period that is used up most, at the last notice.",
                    queries=[
                        Query(
                            f"bottomk(15, min by (tenant) ({of(QUOTA_REMAINING, _PICKED)}))",
                            _TENANT,
                        )
                    ],
                    kind="bargauge",
                    unit="percentunit",
                    most=1,
                ),
                Panel(
                    title="Notices",
                    about="Thresholds that tenants have reached, a second.",
                    queries=[
                        Query(
                            rate_of(QUOTA_NOTICES, "policy", "threshold"),
                            "{{policy}} {{threshold}} %",
                        )
                    ],
                    unit="ops",
                ),
            ],
        ),
        Row(
            title="Whether the counting is sound",
            panels=[
                Panel(
                    title="Store",
                    about="Workers for which the store or the ledger does not answer.",
                    queries=[
                        Query(
                            "sum by (part) ("
                            + of(DEGRADED, 'part=~"quota_store|usage_ledger"')
                            + ")",
                            "{{part}}",
                        )
                    ],
                    bad=1,
                ),
                Panel(
                    title="Decided without the store",
                    about="Takes a second, counted when it is back.",
                    queries=[Query(rate_of(QUOTA_WITHOUT_STORE, "result"), "{{result}}")],
                    unit="ops",
                ),
                Panel(
                    title="Outages of the store",
                    about="How often it began not to answer, a second, and why.",
                    queries=[
                        Query(
                            rate_of(DEGRADATIONS, "reason", matchers='part="quota_store"'),
                            "{{reason}}",
                        )
                    ],
                    unit="ops",
                ),
                Panel(
                    title="Time without the store",
                    about="Seconds of outages that have ended, a second.",
                    queries=[
                        Query(
                            rate_of(DEGRADED_SECONDS, "part", matchers='part="quota_store"'),
                            "{{part}}",
                        )
                    ],
                    unit="percentunit",
                ),
                Panel(
                    title="Drift of capacity",
                    about="Levels that were not what is there, a second.",
                    queries=[
                        Query(rate_of(QUOTA_DRIFT, "policy", "found_by"), "{{policy}} {{found_by}}")
                    ],
                    unit="ops",
                ),
                Panel(
                    title="Overrides",
                    about="Changes of the limits of single tenants, and readings that failed.",
                    queries=[
                        Query(rate_of(QUOTA_OVERRIDE_CHANGES), "changed"),
                        Query(rate_of(QUOTA_OVERRIDES_STALE, "reason"), "stale: {{reason}}"),
                    ],
                    unit="ops",
                ),
                Panel(
                    title="Usage that was lost",
                    about="Notes of usage a second for which memory was full.",
                    queries=[Query(rate_of(QUOTA_USAGE_LOST), "lost")],
                    unit="ops",
                ),
            ],
        ),
    ],
)
