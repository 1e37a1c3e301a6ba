"""
Dependencies: databases, other services, keys, secrets and webhooks.
"""

from __future__ import annotations

from .._names import (
    ADMINISTRATOR_DURATION,
    ADMINISTRATORS_ACTIVE,
    DB_OPERATION_DURATION,
    DEGRADATIONS,
    DEGRADED,
    DEGRADED_SECONDS,
    HTTP_CLIENT_DURATION,
    KMS_DURATION,
    KMS_KEY_CHANGES,
    KMS_OPERATIONS,
    KMS_REWRAPPED,
    KMS_SHRED_DURATION,
    POOL_CONNECTIONS,
    POOL_MOST,
    POOL_PENDING,
    POOL_TIMEOUTS,
    POOL_USE,
    POOL_WAIT,
    RLS_CONTEXT_ERRORS,
    SECRET_CHANGES,
    SECRET_READS,
    TENANCY_REFUSALS,
    WEBHOOK_REFUSALS,
    WEBHOOK_STORE_FAILURES,
    WEBHOOKS_RECEIVED,
)
from ._grafana import Board, Panel, Query, Row
from ._parts import errors_of, of, quantile, rate_of

__all__ = ["DEPENDENCIES"]

_POOL = "db_client_connection_pool_name"
_OPERATION = ("db_system_name", "db_operation_name")
_DB = "{{db_system_name}} {{db_operation_name}}"

_PARTS = Row(
    title="What does not answer",
    panels=[
        Panel(
            title="Parts that do not answer",
            about="Workers for which a part is known not to answer.",
            queries=[Query(f"sum by (part, provider) ({of(DEGRADED)})", "{{part}} {{provider}}")],
            bad=1,
        ),
        Panel(
            title="Outages",
            about="How often a part began not to answer, a second, and why.",
            queries=[Query(rate_of(DEGRADATIONS, "part", "reason"), "{{part}} {{reason}}")],
            unit="ops",
        ),
        Panel(
            title="Time without",
            about="Seconds of outages that have ended, a second.",
            queries=[Query(rate_of(DEGRADED_SECONDS, "part"), "{{part}}")],
            unit="percentunit",
        ),
    ],
)

_DATABASE = Row(
    title="Databases",
    panels=[
        Panel(
            title="Calls",
            about="Calls a second.",
            queries=[Query(rate_of(DB_OPERATION_DURATION, *_OPERATION), _DB)],
            unit="ops",
        ),
        Panel(
            title="Duration of calls",
            about="The 95th percentile; the points lead to traces.",
            queries=[
                Query(quantile(0.95, DB_OPERATION_DURATION, *_OPERATION), _DB, exemplars=True)
            ],
            unit="s",
        ),
        Panel(
            title="Failed calls",
            about="Which share failed.",
            queries=[
                Query(
                    errors_of(DB_OPERATION_DURATION, 'error_type!=""', "db_system_name"),
                    "{{db_system_name}}",
                )
            ],
            unit="percentunit",
        ),
        Panel(
            title="Connections",
            about="Connections by state, and how many there may be.",
            queries=[
                Query(
                    f"sum by ({_POOL}, db_client_connection_state) ({of(POOL_CONNECTIONS)})",
                    f"{{{{{_POOL}}}}} {{{{db_client_connection_state}}}}",
                ),
                Query(f"sum by ({_POOL}) ({of(POOL_MOST)})", f"{{{{{_POOL}}}}} at most"),
            ],
        ),
        Panel(
            title="Waiting for a connection",
            about="The 95th percentile of the wait, and how long connections are out.",
            queries=[
                Query(quantile(0.95, POOL_WAIT, _POOL), f"{{{{{_POOL}}}}} wait"),
                Query(quantile(0.95, POOL_USE, _POOL), f"{{{{{_POOL}}}}} use"),
            ],
            unit="s",
        ),
        Panel(
            title="Queue of the pool",
            about="Who waits now, and how often a second nobody came in time.",
            queries=[
                Query(f"sum by ({_POOL}) ({of(POOL_PENDING)})", f"{{{{{_POOL}}}}} waiting"),
                Query(rate_of(POOL_TIMEOUTS, _POOL), f"{{{{{_POOL}}}}} timeouts"),
            ],
        ),
    ],
)

_ISOLATION = Row(
    title="Isolation of tenants",
    panels=[
        Panel(
            title="Refused uses of the database",
            about="Without a tenant or across tenants: each is a fault of the service, and alerts.",
            queries=[Query(rate_of(RLS_CONTEXT_ERRORS, "code"), "{{code}}")],
            unit="ops",
        ),
        Panel(
            title="Refused requests",
            about="Refused before a tenant was bound, a second, by the code for logs.",
            queries=[Query(rate_of(TENANCY_REFUSALS, "code"), "{{code}}")],
            unit="reqps",
        ),
        Panel(
            title="Work across tenants",
            about="What is under way, and how much ended a second.",
            queries=[
                Query(f"sum ({of(ADMINISTRATORS_ACTIVE)})", "under way"),
                Query(rate_of(ADMINISTRATOR_DURATION, "outcome"), "{{outcome}}"),
            ],
        ),
    ],
)

_KEYS = Row(
    title="Keys and secrets",
    panels=[
        Panel(
            title="Uses of master keys",
            about="Uses a second; most need none, for data keys are kept.",
            queries=[Query(rate_of(KMS_OPERATIONS, "provider", "op"), "{{provider}} {{op}}")],
            unit="ops",
        ),
        Panel(
            title="Duration of uses of master keys",
            about="The 95th percentile by provider, with what was tried again.",
            queries=[Query(quantile(0.95, KMS_DURATION, "provider", "op"), "{{provider}} {{op}}")],
            unit="s",
        ),
        Panel(
            title="Failed uses of master keys",
            about="Which share failed; above 5 % it alerts.",
            queries=[
                Query(errors_of(KMS_OPERATIONS, 'outcome!="success"', "provider"), "{{provider}}")
            ],
            unit="percentunit",
            bad=0.05,
        ),
        Panel(
            title="Why they failed",
            about="Uses a second that failed, by code.",
            queries=[
                Query(
                    rate_of(KMS_OPERATIONS, "outcome", matchers='outcome!="success"'), "{{outcome}}"
                )
            ],
            unit="ops",
        ),
        Panel(
            title="Changes of keys",
            about="Master keys that were changed and data keys that were wrapped anew, a second.",
            queries=[
                Query(rate_of(KMS_KEY_CHANGES, "action", "outcome"), "{{action}} {{outcome}}"),
                Query(rate_of(KMS_REWRAPPED, "outcome"), "rewrapped {{outcome}}"),
            ],
            unit="ops",
        ),
        Panel(
            title="Shredding",
            about="The 95th percentile from order to proof.",
            queries=[
                Query(
                    quantile(0.95, KMS_SHRED_DURATION, "provider", "state"),
                    "{{provider}} {{state}}",
                )
            ],
            unit="s",
        ),
        Panel(
            title="Secrets",
            about="Readings by source and changes, a second.",
            queries=[
                Query(rate_of(SECRET_READS, "source", "outcome"), "{{source}} {{outcome}}"),
                Query(rate_of(SECRET_CHANGES, "action", "outcome"), "{{action}} {{outcome}}"),
            ],
            unit="ops",
        ),
    ],
)

_SERVICES = Row(
    title="Webhooks and other services",
    panels=[
        Panel(
            title="Webhooks by outcome",
            about="Webhooks a second.",
            queries=[
                Query(rate_of(WEBHOOKS_RECEIVED, "profile", "outcome"), "{{profile}} {{outcome}}")
            ],
            unit="reqps",
            stacked=True,
        ),
        Panel(
            title="Refused webhooks",
            about="Webhooks a second that were refused, by why.",
            queries=[Query(rate_of(WEBHOOK_REFUSALS, "code"), "{{code}}")],
            unit="reqps",
        ),
        Panel(
            title="Store of claims",
            about="How often a second it did not answer, by step.",
            queries=[Query(rate_of(WEBHOOK_STORE_FAILURES, "step"), "{{step}}")],
            unit="ops",
        ),
        Panel(
            title="Requests that we send",
            about="Requests a second by whom they go to.",
            queries=[Query(rate_of(HTTP_CLIENT_DURATION, "server_address"), "{{server_address}}")],
            unit="reqps",
        ),
        Panel(
            title="Their duration",
            about="The 95th percentile; the points lead to traces.",
            queries=[
                Query(
                    quantile(0.95, HTTP_CLIENT_DURATION, "server_address"),
                    "{{server_address}}",
                    exemplars=True,
                )
            ],
            unit="s",
        ),
        Panel(
            title="Their failures",
            about="Which share failed or was answered with an error.",
            queries=[
                Query(
                    errors_of(HTTP_CLIENT_DURATION, 'error_type!=""', "server_address"),
                    "{{server_address}}",
                )
            ],
            unit="percentunit",
        ),
    ],
)

DEPENDENCIES = Board(
    uid="twh-dependencies",
    title="Dependencies",
    about="Databases, other services, keys, secrets and webhooks.",
    folder="twh-platform",
    rows=[_PARTS, _DATABASE, _ISOLATION, _KEYS, _SERVICES],
)
