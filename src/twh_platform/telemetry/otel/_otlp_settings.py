"""
Where spans go and how: ``OTEL_EXPORTER_OTLP_*`` and the arguments, read and checked once.

The exporters read the same variables, and differ: a header that is none is
written to the log with its value, and a certificate that is missing leaves them
with their own.  Here both stop the start.  Nothing of OpenTelemetry is needed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from ...errors import ConfigurationError

__all__ = ["GRPC", "HTTP", "READ", "OtlpSettings", "read_otlp", "variable"]

HTTP: Final = "http/protobuf"
GRPC: Final = "grpc"

READ: Final = (
    "CERTIFICATE",
    "CLIENT_CERTIFICATE",
    "CLIENT_KEY",
    "COMPRESSION",
    "ENDPOINT",
    "HEADERS",
    "INSECURE",
    "PROTOCOL",
    "TIMEOUT",
)
"""What is read after ``OTEL_EXPORTER_OTLP_TRACES_``, and then after ``OTEL_EXPORTER_OTLP_``."""

_PREFIXES: Final = ("OTEL_EXPORTER_OTLP_TRACES_", "OTEL_EXPORTER_OTLP_")
_PROTOCOLS: Final = (HTTP, GRPC)
_COMPRESSIONS: Final = ("gzip", "none")
_DEFAULT_ENDPOINTS: Final = {HTTP: "http://localhost:4318", GRPC: "http://localhost:4317"}
_TRACES_PATH: Final = "v1/traces"
_DEFAULT_TIMEOUT = 10.0  # seconds, as the specification has it
_LONGEST_TIMEOUT = 600.0  # seconds; more is a number of milliseconds
# RFC 9110, sections 5.6.2 and 5.5, without obs-text.  gRPC has fewer names, and for those
# that end in -bin values of bytes.  What a client finds wrong later it writes to the log, with
# the value.
_HEADER_NAMES: Final = {
    HTTP: re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII),
    GRPC: re.compile(r"(?!.*-bin$)[0-9A-Za-z_.-]+", re.ASCII | re.IGNORECASE),
}
_HEADER_VALUE = re.compile(r"(?:[!-~](?:[ -~]*[!-~])?)?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class OtlpSettings:
    """
    What an exporter is made of.

    Args:
        protocol: `HTTP` or `GRPC`.

        endpoint: For HTTP with the path of traces; for gRPC host and port.

        headers: Sent with each export, names in lower case; not in the `repr`.

        timeout: Seconds for one export, with its retries.

        compression: ``gzip`` or ``none``.

        is_secure: Whether it is TLS.

        certificate: The authorities that the collector's certificate is
            checked against; without, those that the exporter brings along.

        client_certificate: What we show.

        client_key: Its key.
    """

    protocol: str
    endpoint: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    timeout: float
    compression: str
    is_secure: bool
    certificate: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None


def variable(environ: Mapping[str, str], *names: str) -> tuple[str, str]:
    """
    The first of *names* that is set to something, and its value; the last, and nothing.
    """
    for name in names:
        if text := environ.get(name, "").strip():
            return name, text
    return names[-1], ""


def read_otlp(
    environ: Mapping[str, str],
    *,
    endpoint: str | None = None,
    protocol: str | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: float | None = None,
    compression: str | None = None,
) -> OtlpSettings:
    """
    Put together what the arguments say, then the variables of traces, then those of all signals.

    Args:
        environ: The variables.

        endpoint: Without the path of the signal.

        protocol: ``http/protobuf`` or ``grpc``.

        headers: Added to those of the environment; of a name given twice, this.

        timeout: Seconds.

        compression: ``gzip`` or ``none``.

    Raises:
        twh_platform.errors.ConfigurationError: For what has no meaning; no
            value that may be a secret is in the message.
    """
    named = _one_of("PROTOCOL", protocol, HTTP, _PROTOCOLS, environ)
    address, is_secure = _endpoint(named, endpoint, environ)
    files = {
        name.lower(): _file(name, environ)
        for name in ("CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY")
    }
    if (files["client_certificate"] is None) != (files["client_key"] is None):
        message = "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and _CLIENT_KEY go together"
        raise ConfigurationError(message)
    return OtlpSettings(
        protocol=named,
        endpoint=address,
        headers=_headers(named, headers, environ),
        timeout=_timeout(timeout, environ),
        compression=_one_of("COMPRESSION", compression, "none", _COMPRESSIONS, environ),
        is_secure=is_secure,
        **files,
    )


def _ask(suffix: str, environ: Mapping[str, str]) -> tuple[str, str]:
    return variable(environ, *(f"{prefix}{suffix}" for prefix in _PREFIXES))


def _one_of(
    suffix: str,
    given: str | None,
    default: str,
    known: tuple[str, ...],
    environ: Mapping[str, str],
) -> str:
    name, text = (suffix.lower(), given) if given is not None else _ask(suffix, environ)
    if (text or default) not in known:
        message = f"{name}={text!r} is none of {known!r}"
        raise ConfigurationError(message)
    return text or default


def _endpoint(protocol: str, given: str | None, environ: Mapping[str, str]) -> tuple[str, bool]:
    name, text = ("endpoint", given) if given is not None else _ask("ENDPOINT", environ)
    text = text or _DEFAULT_ENDPOINTS[protocol]
    parts = _parts(name, text)
    if protocol == GRPC:
        return parts.netloc, _is_secure(parts.scheme, environ)
    if not parts.scheme:
        raise ConfigurationError(f"{name} begins with neither http:// nor https://")
    # The variable of traces is taken as it is; the others are a base.
    whole = text if name == f"{_PREFIXES[0]}ENDPOINT" else f"{text.rstrip('/')}/{_TRACES_PATH}"
    return whole, parts.scheme == "https"


def _parts(name: str, text: str) -> SplitResult:
    try:
        parts = urlsplit(text if "://" in text else f"//{text}")
        is_address = (
            bool(parts.hostname) and parts.port != 0 and not (parts.query or parts.fragment)
        )
    except ValueError:
        # Its text has a part of the address, which may be of a password.
        raise ConfigurationError(f"{name} is no address of a collector") from None
    if not is_address or parts.scheme not in {"", "http", "https"}:
        raise ConfigurationError(f"{name} is no address of a collector")
    if parts.username is not None or parts.password is not None:
        raise ConfigurationError(f"{name} has a user in it; use OTEL_EXPORTER_OTLP_HEADERS")
    return parts


def _is_secure(scheme: str, environ: Mapping[str, str]) -> bool:
    name, text = _ask("INSECURE", environ)
    if text.lower() not in {"", "true", "false"}:
        message = f"{name}={text!r} is neither 'true' nor 'false'"
        raise ConfigurationError(message)
    return scheme == "https" if scheme else text.lower() != "true"


def _headers(
    protocol: str, given: Mapping[str, str] | None, environ: Mapping[str, str]
) -> dict[str, str]:
    name, text = _ask("HEADERS", environ)
    parts = [part.partition("=") for part in text.split(",") if part.strip()]
    if not all(equals for _, equals, _ in parts):
        raise ConfigurationError(f"{name} is no list of name=value with commas between")
    asked = {unquote(key.strip()): unquote(value.strip()) for key, _, value in parts}
    named = _HEADER_NAMES[protocol]
    return {**_fit(asked, name, named), **_fit(given or {}, "headers", named)}


def _fit(headers: Mapping[str, str], name: str, named: re.Pattern[str]) -> dict[str, str]:
    for key, value in headers.items():
        if not named.fullmatch(key) or not _HEADER_VALUE.fullmatch(value):
            raise ConfigurationError(f"{name} has a name or a value that no header can have")
    return {key.lower(): value for key, value in headers.items()}


def _timeout(given: float | None, environ: Mapping[str, str]) -> float:
    name, text = ("timeout", str(given)) if given is not None else _ask("TIMEOUT", environ)
    try:
        seconds = float(text) if text else _DEFAULT_TIMEOUT
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= _LONGEST_TIMEOUT:
        message = f"{name}={text!r} is no number of seconds up to {_LONGEST_TIMEOUT:.0f}"
        raise ConfigurationError(message)
    return seconds


def _file(suffix: str, environ: Mapping[str, str]) -> Path | None:
    name, text = _ask(suffix, environ)
    if not text:
        return None
    path = Path(text)
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        # Neither with its value nor with the cause: it may be the key itself.
        why = getattr(error, "strerror", None) or "it is no path"
        raise ConfigurationError(f"{name} is no file that can be read: {why}") from None
    if b"-----BEGIN " not in content:  # gRPC would take the authorities of others instead
        raise ConfigurationError(f"{name} is a file without anything in PEM")
    return path
