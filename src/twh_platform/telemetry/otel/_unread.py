"""
What is set in the environment and has no effect here: said, and not passed over.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Final

from ...errors import ConfigurationError

__all__ = ["UNREAD", "refuse_file", "tell_unread", "unread"]

_logger = logging.getLogger("twh_platform.telemetry")

_SWITCHES: Final = ("OTEL_METRICS_EXPORTER", "OTEL_LOGS_EXPORTER", "OTEL_PROPAGATORS")
# What of them asks for nothing that is not done here anyway.
_FITS: Final = frozenset({"none", "prometheus", "console", "tracecontext", "baggage"})

UNREAD: Final = {
    "OTEL_METRICS_EXPORTER": "metrics are scraped, see MetricsApp",
    "OTEL_EXPORTER_OTLP_METRICS_": "metrics are scraped, see MetricsApp",
    "OTEL_METRIC_EXPORT_": "metrics are scraped, see MetricsApp",
    "OTEL_LOGS_EXPORTER": "logs are written as JSON, see JsonFormatter",
    "OTEL_EXPORTER_OTLP_LOGS_": "logs are written as JSON, see JsonFormatter",
    "OTEL_BLRP_": "logs are written as JSON, see JsonFormatter",
    "OTEL_PROPAGATORS": "formats are those of TrustBoundary(formats=, sent=)",
    "OTEL_BSP_EXPORT_TIMEOUT": "an export ends after OTEL_EXPORTER_OTLP_TIMEOUT",
    "OTEL_EXPORTER_ZIPKIN_": "spans leave by OTLP, which Zipkin does not take",
    "OTEL_EXPORTER_JAEGER_": "spans leave by OTLP, which Jaeger takes",
    "OTEL_PYTHON_ID_GENERATOR": "ids are made here, once for span, metric and log",
    "OTEL_PYTHON_TRACER_PROVIDER": "the provider is made here",
}
"""
Names, or beginnings of names, and what is done instead.
"""


def refuse_file(environ: Mapping[str, str]) -> None:
    """
    Refuse a configuration file, which would make all other variables void.

    Raises:
        twh_platform.errors.ConfigurationError: If one is named.
    """
    if environ.get("OTEL_CONFIG_FILE", "").strip():
        message = "OTEL_CONFIG_FILE is not read here; use the other OTEL_* variables"
        raise ConfigurationError(message)


def tell_unread(environ: Mapping[str, str]) -> None:
    """
    Write a warning for each variable that is set and has no effect; without its value.
    """
    for name, instead in unread(environ):
        _logger.warning("%s has no effect: %s", name, instead)


def unread(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """
    The variables that are set and have no effect, and what is done instead.
    """
    for name in sorted(environ):
        value = environ[name].strip()
        asked = {part.strip().lower() for part in value.split(",")}
        if value and not (name in _SWITCHES and asked <= _FITS):
            yield from (
                (name, instead) for start, instead in UNREAD.items() if name.startswith(start)
            )
