"""
The exporters of OTLP, made of settings that have been read.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from opentelemetry.sdk.trace.export import SpanExporter

from ...errors import ConfigurationError
from ._otlp_settings import GRPC, OtlpSettings

__all__ = ["exporter_of"]


def exporter_of(settings: OtlpSettings) -> Callable[[], SpanExporter]:
    """
    What makes the exporter, in the process that uses it.

    Raises:
        twh_platform.errors.ConfigurationError: Where the protocol's package is
            missing.
    """
    return _grpc(settings) if settings.protocol == GRPC else _http(settings)


def _http(settings: OtlpSettings) -> Callable[[], SpanExporter]:
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return partial(
        OTLPSpanExporter,
        endpoint=settings.endpoint,
        headers=dict(settings.headers),
        timeout=settings.timeout,
        compression=_compression(settings, Compression),
        certificate_file=_path(settings.certificate),
        client_certificate_file=_path(settings.client_certificate),
        client_key_file=_path(settings.client_key),
    )


def _grpc(settings: OtlpSettings) -> Callable[[], SpanExporter]:
    try:
        import grpc
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        message = "protocol 'grpc' needs the package opentelemetry-exporter-otlp-proto-grpc"
        raise ConfigurationError(message) from error

    def make() -> SpanExporter:
        credentials = None
        if settings.is_secure:
            credentials = grpc.ssl_channel_credentials(
                root_certificates=_bytes(settings.certificate),
                private_key=_bytes(settings.client_key),
                certificate_chain=_bytes(settings.client_certificate),
            )
        made: SpanExporter = OTLPSpanExporter(
            endpoint=settings.endpoint,
            insecure=not settings.is_secure,
            credentials=credentials,
            headers=dict(settings.headers),
            timeout=settings.timeout,
            compression=_compression(settings, grpc.Compression),
        )
        return made

    return make


def _compression(settings: OtlpSettings, known: Any) -> Any:
    return known.Gzip if settings.compression == "gzip" else known.NoCompression


def _path(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _bytes(path: Path | None) -> bytes | None:
    return None if path is None else path.read_bytes()
