"""
Every name that leaves the process: metrics with their labels, and the attributes of spans.

The reference page is made from this table, and dashboards and rules may use
nothing else.  HTTP names are those of OpenTelemetry's semantic conventions
1.44, written as Prometheus writes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ._definitions import BYTES, SECONDS, Kind, Merge

__all__ = [
    "CLIENT_METRICS",
    "HTTP_METRICS",
    "OWN_METRICS",
    "PROCESS_METRICS",
    "TENANT_METRICS",
    "WEBSOCKET_METRICS",
    "MetricName",
]

COARSE_SECONDS: Final = (0.1, 0.5, 2.5, 10.0)
"""
Upper bounds in seconds for what has a label for each tenant.
"""

LONG_SECONDS: Final = (1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 86_400.0)
"""
Upper bounds in seconds for connections that stay open.
"""

BACKEND_SECONDS: Final = (0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0, 30.0)
"""
Upper bounds in seconds for what answers out of memory or from another machine.
"""

SHORT_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""
Upper bounds in seconds for what stops everything else.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricName:
    """
    A metric as the reference page shows it.

    Args:
        name: As on the page.

        kind: What it is.

        help: One sentence.

        labels: Its label names.

        buckets: Upper bounds, of a histogram only.

        merge: What the gauges of several workers become.

        exemplars: Whether a histogram keeps traces.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    merge: Merge = "sum"
    exemplars: bool = False


_OF_REQUEST = ("http_request_method", "http_route", "http_response_status_code")

REQUEST_DURATION: Final = MetricName(
    name="http_server_request_duration_seconds",
    kind="histogram",
    help="From the arrival of a request to its last byte out; without event streams.",
    labels=(
        "http_request_method",
        "url_scheme",
        "http_route",
        "http_response_status_code",
        "error_type",
        "network_protocol_version",
    ),
    buckets=SECONDS,
    exemplars=True,
)
ACTIVE_REQUESTS: Final = MetricName(
    name="http_server_active_requests",
    kind="gauge",
    help="Requests that are being answered.",
    labels=("http_request_method", "url_scheme"),
)
REQUEST_BODY_SIZE: Final = MetricName(
    name="http_server_request_body_size_bytes",
    kind="histogram",
    help="Bytes of request bodies that the app has read, of requests with one.",
    labels=_OF_REQUEST,
    buckets=BYTES,
)
RESPONSE_BODY_SIZE: Final = MetricName(
    name="http_server_response_body_size_bytes",
    kind="histogram",
    help="Bytes of response bodies that were sent, of responses with one.",
    labels=_OF_REQUEST,
    buckets=BYTES,
)
TIME_TO_FIRST_BYTE: Final = MetricName(
    name="http_server_time_to_first_byte_seconds",
    kind="histogram",
    help="From the arrival of a request to the first byte of a response in several parts.",
    labels=("http_request_method", "http_route"),
    buckets=SECONDS,
    exemplars=True,
)
RESPONSE_STREAMS: Final = MetricName(
    name="http_server_response_stream_total",
    kind="counter",
    help="Responses in several parts that have ended: completed, client_disconnect, error.",
    labels=("http_route", "outcome"),
)
EVENT_STREAMS_ACTIVE: Final = MetricName(
    name="http_server_event_streams_active",
    kind="gauge",
    help="Event streams (text/event-stream) that are open.",
    labels=("http_route",),
)
EVENT_STREAM_DURATION: Final = MetricName(
    name="http_server_event_stream_duration_seconds",
    kind="histogram",
    help="How long event streams were open; they are in no request duration.",
    labels=("http_route", "outcome"),
    buckets=LONG_SECONDS,
)
EVENT_STREAM_SILENCE: Final = MetricName(
    name="http_server_event_stream_silence_seconds",
    kind="gauge",
    help="How long the most silent open event stream has sent nothing.",
    labels=("http_route",),
    merge="max",
)

HTTP_METRICS: Final = (
    REQUEST_DURATION,
    ACTIVE_REQUESTS,
    REQUEST_BODY_SIZE,
    RESPONSE_BODY_SIZE,
    TIME_TO_FIRST_BYTE,
    RESPONSE_STREAMS,
    EVENT_STREAMS_ACTIVE,
    EVENT_STREAM_DURATION,
    EVENT_STREAM_SILENCE,
)
"""
What `TelemetryMiddleware` counts for requests.
"""

WEBSOCKETS_ACTIVE: Final = MetricName(
    name="websocket_connections_active",
    kind="gauge",
    help="Websockets that were accepted and are open.",
    labels=("http_route",),
)
WEBSOCKET_DURATION: Final = MetricName(
    name="websocket_connection_duration_seconds",
    kind="histogram",
    help="How long websockets were open; those that were refused count as 0.",
    labels=("http_route", "outcome"),
    buckets=LONG_SECONDS,
)
WEBSOCKET_MESSAGES: Final = MetricName(
    name="websocket_messages_total",
    kind="counter",
    help="Messages of websockets by direction: received, sent.",
    labels=("http_route", "direction"),
)

WEBSOCKET_METRICS: Final = (WEBSOCKETS_ACTIVE, WEBSOCKET_DURATION, WEBSOCKET_MESSAGES)
"""
What `TelemetryMiddleware` counts for websockets.
"""

TENANT_REQUESTS: Final = MetricName(
    name="platform_tenant_requests_total",
    kind="counter",
    help="Requests by tenant: success, client_error, server_error, client_disconnect.",
    labels=("tenant", "outcome"),
)
TENANT_DURATION: Final = MetricName(
    name="platform_tenant_request_duration_seconds",
    kind="histogram",
    help="As http_server_request_duration_seconds, by tenant.",
    labels=("tenant",),
    buckets=COARSE_SECONDS,
)

TENANT_METRICS: Final = (TENANT_REQUESTS, TENANT_DURATION)
"""
What is counted for each tenant that has a label; see `TenantLabels`.
"""

OPERATION_DURATION: Final = MetricName(
    name="platform_operation_duration_seconds",
    kind="histogram",
    help=(
        "Business operations by outcome: success, refused (it is the caller's fault), error,"
        " cancelled."
    ),
    labels=("operation", "outcome"),
    buckets=SECONDS,
    exemplars=True,
)

OPERATION_METRICS: Final = (OPERATION_DURATION,)
"""
What `Operations` counts.
"""

SERIES: Final = MetricName(
    name="telemetry_series",
    kind="gauge",
    help="Series of the living workers.",
)
SERIES_REFUSED: Final = MetricName(
    name="telemetry_series_refused_total",
    kind="counter",
    help="Series beyond the budget.",
    labels=("metric",),
)
VALUES_DROPPED: Final = MetricName(
    name="telemetry_values_dropped_total",
    kind="counter",
    help="Values that could not be counted.",
)
WORKER_FILES_SKIPPED: Final = MetricName(
    name="telemetry_worker_files_skipped_total",
    kind="counter",
    help="Files of workers, or parts of them, that were left out of a page.",
    labels=("reason",),
)
RETAINED_SERIES_DROPPED: Final = MetricName(
    name="telemetry_retained_series_dropped_total",
    kind="counter",
    help="Series of ended workers that were given up.",
)
LABEL_OVERFLOW: Final = MetricName(
    name="platform_telemetry_label_overflow_total",
    kind="counter",
    help=(
        "What was counted under other, for want of a label: of tenants, or of a metric whose"
        " label values were too many."
    ),
    labels=("of",),
)

OWN_METRICS: Final = (
    SERIES_REFUSED,
    VALUES_DROPPED,
    WORKER_FILES_SKIPPED,
    RETAINED_SERIES_DROPPED,
    LABEL_OVERFLOW,
    SERIES,
)
"""
What every registry counts about itself.
"""

SPANS_EXPORTED: Final = MetricName(
    name="platform_telemetry_spans_exported_total",
    kind="counter",
    help="Spans that the collector has taken.",
)
SPANS_DROPPED: Final = MetricName(
    name="platform_telemetry_spans_dropped_total",
    kind="counter",
    help="Spans that never arrived, by reason: queue_full, export_failed, shutdown.",
    labels=("reason",),
)
SPANS_QUEUED: Final = MetricName(
    name="platform_telemetry_spans_queued",
    kind="gauge",
    help="Spans that wait to be exported.",
)
EXPORT_DURATION: Final = MetricName(
    name="platform_telemetry_export_seconds",
    kind="histogram",
    help="How long exporting a batch took, by outcome: success, failure.",
    labels=("outcome",),
    buckets=SECONDS,
)

EXPORT_METRICS: Final = (SPANS_EXPORTED, SPANS_DROPPED, SPANS_QUEUED, EXPORT_DURATION)
"""
What `configure_telemetry` counts about itself.
"""

PROCESS_CPU: Final = MetricName(
    name="process_cpu_seconds_total",
    kind="counter",
    help="Seconds of CPU that the process has used, in user and system mode.",
)
PROCESS_RESIDENT: Final = MetricName(
    name="process_resident_memory_bytes",
    kind="gauge",
    help="Memory that the process has in RAM.",
)
PROCESS_OPEN_FDS: Final = MetricName(
    name="process_open_fds",
    kind="gauge",
    help="Open file descriptors.",
)
PROCESS_MAX_FDS: Final = MetricName(
    name="process_max_fds",
    kind="gauge",
    help="How many file descriptors may be open in each process.",
    merge="min",
)
PROCESS_START: Final = MetricName(
    name="process_start_time_seconds",
    kind="gauge",
    help="When the process began, in seconds since 1970; of several, the latest.",
    merge="max",
)
PROCESS_THREADS: Final = MetricName(
    name="process_threads",
    kind="gauge",
    help="Threads of Python.",
)
PYTHON_INFO: Final = MetricName(
    name="python_info",
    kind="gauge",
    help="Which Python it is; always 1.",
    labels=("implementation", "version", "platform"),
    merge="max",
)
GC_COLLECTIONS: Final = MetricName(
    name="python_gc_collections_total",
    kind="counter",
    help="Runs of the garbage collector.",
    labels=("generation",),
)
GC_COLLECTED: Final = MetricName(
    name="python_gc_objects_collected_total",
    kind="counter",
    help="Objects that the garbage collector has freed.",
    labels=("generation",),
)
GC_UNCOLLECTABLE: Final = MetricName(
    name="python_gc_objects_uncollectable_total",
    kind="counter",
    help="Objects that the garbage collector could not free.",
    labels=("generation",),
)
GC_PAUSE: Final = MetricName(
    name="python_gc_pause_seconds",
    kind="histogram",
    help="How long runs of the garbage collector stopped everything else.",
    buckets=SHORT_SECONDS,
)
LOOP_LAG: Final = MetricName(
    name="platform_event_loop_lag_seconds",
    kind="histogram",
    help="How late the event loop called what was due.",
    buckets=SHORT_SECONDS,
)

PROCESS_METRICS: Final = (
    PROCESS_CPU,
    PROCESS_RESIDENT,
    PROCESS_OPEN_FDS,
    PROCESS_MAX_FDS,
    PROCESS_START,
    PROCESS_THREADS,
    PYTHON_INFO,
    GC_COLLECTIONS,
    GC_COLLECTED,
    GC_UNCOLLECTABLE,
    GC_PAUSE,
    LOOP_LAG,
)
"""
What `watch_process` counts, and last what `watch_loop` does.
"""

# What the other capabilities announce.  Labels `code`, `outcome` and `reason` are the stable
# codes of the reference of errors; an outcome is `success` where there is none.

TENANCY_REFUSALS: Final = MetricName(
    name="platform_tenancy_refusals_total",
    kind="counter",
    help="Requests that were refused before a tenant was bound, by the code for logs.",
    labels=("code",),
)
RLS_CONTEXT_ERRORS: Final = MetricName(
    name="platform_rls_context_errors_total",
    kind="counter",
    help="Uses of the database without a tenant, or across tenants, that were refused.",
    labels=("code",),
)
ADMINISTRATORS_ACTIVE: Final = MetricName(
    name="platform_administrators_active",
    kind="gauge",
    help="Pieces of work across tenants that are under way.",
)
ADMINISTRATOR_DURATION: Final = MetricName(
    name="platform_administrator_session_seconds",
    kind="histogram",
    help="How long work across tenants took, by outcome: success, error.",
    labels=("outcome",),
    buckets=LONG_SECONDS,
)

TENANCY_METRICS: Final = (
    TENANCY_REFUSALS,
    RLS_CONTEXT_ERRORS,
    ADMINISTRATORS_ACTIVE,
    ADMINISTRATOR_DURATION,
)
"""
What tenancy announces.
"""

QUOTA_DECISIONS: Final = MetricName(
    name="platform_quota_decisions_total",
    kind="counter",
    help=(
        "Decisions, for each rule that had a say: allowed; degraded was admitted without the"
        " store; limited, too_large and error were refused; exceeded was admitted beyond a soft"
        " or shadow rule."
    ),
    labels=("policy", "result"),
)
QUOTA_BACKEND: Final = MetricName(
    name="platform_quota_backend_seconds",
    kind="histogram",
    help=(
        "How long the store of quotas took for a decision, by who decided: store, lease, cache;"
        " local, open, closed where it did not answer."
    ),
    labels=("origin",),
    buckets=BACKEND_SECONDS,
)
TENANT_QUOTA_REFUSALS: Final = MetricName(
    name="platform_tenant_quota_refusals_total",
    kind="counter",
    help="Requests of a tenant that its quotas refused.",
    labels=("tenant",),
)
QUOTA_REMAINING: Final = MetricName(
    name="platform_quota_remaining_ratio",
    kind="gauge",
    help=(
        "What a tenant had left, 0 to 1, of the quota of a period that it has used up most, at"
        " the last notice; missing below the first notice and after the period."
    ),
    labels=("tenant",),
    merge="min",
)
QUOTA_NOTICES: Final = MetricName(
    name="platform_quota_notices_total",
    kind="counter",
    help="Thresholds (per cent) of a quota that tenants have reached.",
    labels=("policy", "threshold"),
)
QUOTA_WITHOUT_STORE: Final = MetricName(
    name="platform_quota_without_store_total",
    kind="counter",
    help=(
        "Takes that were decided without the store, counted when it is back: admitted_locally,"
        " admitted_uncounted, refused."
    ),
    labels=("result",),
)
QUOTA_DRIFT: Final = MetricName(
    name="platform_quota_capacity_drift_total",
    kind="counter",
    help="Levels of capacity that were not what is there: found by reconcile, give_back.",
    labels=("policy", "found_by"),
)
QUOTA_OVERRIDE_CHANGES: Final = MetricName(
    name="platform_quota_override_changes_total",
    kind="counter",
    help="Changes of the limits of single tenants that were made by this service.",
)
QUOTA_OVERRIDES_STALE: Final = MetricName(
    name="platform_quota_overrides_stale_total",
    kind="counter",
    help="Readings of the overrides that failed; what was known goes on to hold.",
    labels=("reason",),
)
QUOTA_USAGE_LOST: Final = MetricName(
    name="platform_quota_usage_lost_total",
    kind="counter",
    help="Notes of usage that were lost because memory was full, as far as was announced.",
)

QUOTA_METRICS: Final = (
    QUOTA_DECISIONS,
    QUOTA_BACKEND,
    TENANT_QUOTA_REFUSALS,
    QUOTA_REMAINING,
    QUOTA_NOTICES,
    QUOTA_WITHOUT_STORE,
    QUOTA_DRIFT,
    QUOTA_OVERRIDE_CHANGES,
    QUOTA_OVERRIDES_STALE,
    QUOTA_USAGE_LOST,
)
"""
What quotas announce.
"""

KMS_OPERATIONS: Final = MetricName(
    name="platform_kms_operations_total",
    kind="counter",
    help="Uses of master keys; a batch counts once for each tenant, key and outcome.",
    labels=("op", "provider", "outcome"),
)
KMS_DURATION: Final = MetricName(
    name="platform_kms_operation_seconds",
    kind="histogram",
    help=(
        "How long uses of master keys took, with what was tried again; a batch counts as in"
        " platform_kms_operations_total, and each time as a whole."
    ),
    labels=("op", "provider", "outcome"),
    buckets=BACKEND_SECONDS,
)
KMS_KEY_CHANGES: Final = MetricName(
    name="platform_kms_key_changes_total",
    kind="counter",
    help="Master keys that were created, rotated, disabled, enabled or destroyed.",
    labels=("action", "provider", "outcome"),
)
KMS_REWRAPPED: Final = MetricName(
    name="platform_kms_data_keys_rewrapped_total",
    kind="counter",
    help="Data keys that were to be wrapped anew, by outcome: success, failure.",
    labels=("outcome",),
)
KMS_SHRED_DURATION: Final = MetricName(
    name="platform_kms_shred_seconds",
    kind="histogram",
    help="From the order to destroy a tenant's keys to the proof, by the state of the key.",
    labels=("provider", "state"),
    buckets=SECONDS,
)
SECRET_READS: Final = MetricName(
    name="platform_secret_reads_total",
    kind="counter",
    help="Readings of secrets by source: store, cache, stale, backup, restore.",
    labels=("source", "outcome"),
)
SECRET_CHANGES: Final = MetricName(
    name="platform_secret_changes_total",
    kind="counter",
    help="Secrets that were put, promoted, rolled_back, revoked, rotated or restored.",
    labels=("action", "outcome"),
)

KMS_METRICS: Final = (
    KMS_OPERATIONS,
    KMS_DURATION,
    KMS_KEY_CHANGES,
    KMS_REWRAPPED,
    KMS_SHRED_DURATION,
    SECRET_READS,
    SECRET_CHANGES,
)
"""
What keys and secrets announce.
"""

WEBHOOKS_RECEIVED: Final = MetricName(
    name="platform_webhooks_received_total",
    kind="counter",
    help=(
        "Webhooks by outcome: verified (the signature holds), replayed (handled before) and"
        " refused, either of which may have been verified first."
    ),
    labels=("profile", "outcome"),
)
WEBHOOK_REFUSALS: Final = MetricName(
    name="platform_webhook_refusals_total",
    kind="counter",
    help="Webhooks that were refused, by why: a wrong signature is one of the codes.",
    labels=("profile", "code"),
)
WEBHOOK_STORE_FAILURES: Final = MetricName(
    name="platform_webhook_store_failures_total",
    kind="counter",
    help="Times the store of claims did not answer, by step: claim, commit, release.",
    labels=("step", "code"),
)

WEBHOOK_METRICS: Final = (WEBHOOKS_RECEIVED, WEBHOOK_REFUSALS, WEBHOOK_STORE_FAILURES)
"""
What receiving webhooks announces.
"""

DEGRADED: Final = MetricName(
    name="platform_degraded",
    kind="gauge",
    help=(
        "Parts that are known not to answer: quota_store, usage_ledger, key_service;"
        " workers are added up."
    ),
    labels=("part", "provider"),
)
DEGRADATIONS: Final = MetricName(
    name="platform_degradations_total",
    kind="counter",
    help="Times a part began not to answer, by the code or the exception.",
    labels=("part", "provider", "reason"),
)
DEGRADED_SECONDS: Final = MetricName(
    name="platform_degraded_seconds_total",
    kind="counter",
    help="Seconds for which a part did not answer, added when it does again.",
    labels=("part", "provider"),
)

DEGRADED_METRICS: Final = (DEGRADED, DEGRADATIONS, DEGRADED_SECONDS)
"""
What any of them announces about a part that it leans on.
"""

SPAN_EVENTS: Final = {
    "platform.tenancy.refused": "The request was refused before a tenant was bound.",
    "platform.tenancy.violation": "A use of the database was refused.",
    "platform.quota.refused": "A quota refused the request.",
    "platform.quota.exceeded": "It was admitted beyond a soft or shadow rule.",
    "platform.kms.failed": "A master key could not be used.",
    "platform.secret.failed": "A secret could not be read.",
    "platform.webhook.refused": "The webhook was refused.",
    "platform.webhook.replayed": "The webhook had been handled before.",
    "platform.webhook.store_down": "The store of claims did not answer.",
    "platform.degraded": "A part was found not to answer.",
    "platform.restored": "A part was found to answer again.",
}
"""
The events that announcements become on the current span, each with its meaning.
"""

EVENT_ATTRIBUTES: Final = {
    "platform.code": "Why: the stable code.",
    "platform.reason": "Why a part does not answer: a code, or the class of an exception.",
    "platform.rules": "The names of the rules of a quota.",
    "platform.provider": "The key service: local, vault, aws.",
    "platform.profile": "The profile of a webhook.",
    "platform.step": "Of the store of claims: claim, commit, release.",
    "platform.sqlstate": "What the database answered, where it was asked.",
}
"""
The attributes of those events; a tenant is on the span, and nobody's path or value anywhere.
"""

DB_SECONDS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
"""
Upper bounds in seconds for calls of databases, and for waiting for their connections.
"""

DB_OPERATION_DURATION: Final = MetricName(
    name="db_client_operation_duration_seconds",
    kind="histogram",
    help="Calls of databases by their first keyword or command, and by what went wrong.",
    labels=("db_system_name", "db_operation_name", "error_type"),
    buckets=DB_SECONDS,
    exemplars=True,
)
HTTP_CLIENT_DURATION: Final = MetricName(
    name="http_client_request_duration_seconds",
    kind="histogram",
    help="Requests that we send, to the headers of the response.",
    labels=("http_request_method", "server_address", "http_response_status_code", "error_type"),
    buckets=SECONDS,
    exemplars=True,
)
POOL_CONNECTIONS: Final = MetricName(
    name="db_client_connections",
    kind="gauge",
    help="Connections of pools by state: used, idle.",
    labels=("db_client_connection_pool_name", "db_client_connection_state"),
)
POOL_MOST: Final = MetricName(
    name="db_client_connection_max",
    kind="gauge",
    help="Connections that pools may have.",
    labels=("db_client_connection_pool_name",),
)
POOL_PENDING: Final = MetricName(
    name="db_client_connection_pending_requests",
    kind="gauge",
    help="Who waits for a connection of a pool.",
    labels=("db_client_connection_pool_name",),
)
POOL_WAIT: Final = MetricName(
    name="db_client_connection_wait_time_seconds",
    kind="histogram",
    help="How long it took to get a connection out of a pool.",
    labels=("db_client_connection_pool_name",),
    buckets=DB_SECONDS,
)
POOL_USE: Final = MetricName(
    name="db_client_connection_use_time_seconds",
    kind="histogram",
    help="How long connections were out of a pool.",
    labels=("db_client_connection_pool_name",),
    buckets=DB_SECONDS,
)
POOL_TIMEOUTS: Final = MetricName(
    name="db_client_connection_timeouts_total",
    kind="counter",
    help="How often a pool had no connection in time.",
    labels=("db_client_connection_pool_name",),
)

CLIENT_METRICS: Final = (
    DB_OPERATION_DURATION,
    HTTP_CLIENT_DURATION,
    POOL_CONNECTIONS,
    POOL_MOST,
    POOL_PENDING,
    POOL_WAIT,
    POOL_USE,
    POOL_TIMEOUTS,
)
"""
What `ClientCalls` counts.
"""

SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.44.0"
"""
Which semantic conventions the names of spans and attributes are out of.
"""

SPAN_ATTRIBUTES: Final = {
    "http.request.method": "Out of the known methods, else _OTHER.",
    "http.request.method_original": "What was sent, where the method is _OTHER.",
    "http.route": "The template of the route.",
    "http.response.status_code": "The status that was sent.",
    "http.request.header.*": "Headers that were asked for, a list of values each.",
    "http.response.header.*": "Headers that were asked for, a list of values each.",
    "http.request.body.size": "Bytes that the app has read.",
    "http.response.body.size": "Bytes that were sent.",
    "url.path": "The path that was sent.",
    "url.query": "The query that was sent, with REDACTED for secret values.",
    "url.scheme": "http, https, ws or wss.",
    "server.address": "The name that the client asked for.",
    "server.port": "The port that the client asked for.",
    "client.address": "The client, as the server or a layer before us tells it.",
    "network.peer.address": "The same; what is behind a proxy is not known.",
    "network.peer.port": "Its port.",
    "network.protocol.name": "websocket, for websockets only.",
    "network.protocol.version": "1.1, 2 and so on.",
    "user_agent.original": "The User-Agent that was sent.",
    "error.type": "The class of the exception or the status; missing where all went well.",
    "exception.type": "Of an event: the class of the exception.",
    "exception.message": "Of an event: its text, if that was asked for.",
    "exception.stacktrace": "Of an event: where it was raised, if that was asked for.",
    "tenant.id": "The verified tenant.",
    "enduser.id": "The verified user.",
    "platform.operation": "The business operation.",
    "platform.outcome": (
        "success, client_error, server_error, client_disconnect; of operations refused, cancelled."
    ),
    "platform.kept": "Why it was recorded without having been sampled: error, slow.",
    "platform.time_to_first_byte": "Seconds, of a response in several parts.",
    "websocket.close_code": "What a websocket was closed with.",
    "websocket.messages.received": "Messages of the client.",
    "websocket.messages.sent": "Messages of the app.",
}
"""
The attributes of SERVER spans and of operations, each with its meaning.
"""

CLIENT_SPAN_ATTRIBUTES: Final = {
    "db.system.name": "postgresql, redis and so on.",
    "db.operation.name": "The first keyword or the command, out of a closed list.",
    "db.collection.name": "The first table, where it can be told for sure.",
    "db.namespace": "The database, or the number of it.",
    "db.response.status_code": "The SQLSTATE of an error.",
    "db.operation.batch.size": "How many commands went in one call, if several.",
    "http.request.method": "Out of the known methods, else _OTHER.",
    "http.response.status_code": "The status that came.",
    "server.address": "Whom we called.",
    "server.port": "The port there.",
    "url.scheme": "http or https; nothing else of the address is told.",
    "error.type": "The class of the exception or the status; missing where all went well.",
    "tenant.id": "The current tenant.",
    "enduser.id": "The verified user.",
    "platform.operation": "The business operation.",
    "platform.outcome": "cancelled, where nobody waited for the answer.",
    "platform.provider": "The key service that was asked: local, vault, aws.",
}
"""
The attributes of CLIENT spans: no statement, no value, no path and no query.
"""
