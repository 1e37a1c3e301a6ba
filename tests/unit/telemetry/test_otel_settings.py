"""
What `OTEL_EXPORTER_OTLP_*` means here, and what of `OTEL_*` has no effect and is said to have none.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
from pathlib import Path

import pytest

pytest.importorskip("opentelemetry.sdk")

from opentelemetry.util.re import parse_env_headers

from twh_platform.errors import ConfigurationError
from twh_platform.telemetry.otel import configure_telemetry
from twh_platform.telemetry.otel._otlp_settings import READ, read_otlp
from twh_platform.telemetry.otel._unread import UNREAD, unread

PAGE = Path(__file__).parents[3] / "docs/reference/otel-variables.md"


def _read(**variables):
    prefixed = {f"OTEL_EXPORTER_OTLP_{name}": value for name, value in variables.items()}
    return read_otlp(prefixed)


@pytest.mark.parametrize(
    ("variables", "endpoint", "is_secure"),
    [
        ({}, "http://localhost:4318/v1/traces", False),
        ({"ENDPOINT": "http://c:4318"}, "http://c:4318/v1/traces", False),
        ({"ENDPOINT": "https://c/otlp/"}, "https://c/otlp/v1/traces", True),
        ({"TRACES_ENDPOINT": "https://c/in"}, "https://c/in", True),
        ({"TRACES_ENDPOINT": "https://c/in", "ENDPOINT": "http://d"}, "https://c/in", True),
        ({"TRACES_ENDPOINT": " ", "ENDPOINT": "http://d"}, "http://d/v1/traces", False),
    ],
)
def test_a_base_gets_the_path_of_traces(variables, endpoint, is_secure):
    """And what is of traces alone is taken as it is; an empty variable is none."""
    settings = _read(**variables)

    assert (settings.endpoint, settings.is_secure) == (endpoint, is_secure)


@pytest.mark.parametrize(
    ("variables", "endpoint", "is_secure"),
    [
        ({}, "localhost:4317", False),
        ({"ENDPOINT": "http://c:4317"}, "c:4317", False),
        ({"ENDPOINT": "https://c:4317", "INSECURE": "true"}, "c:4317", True),
        ({"ENDPOINT": "c:4317"}, "c:4317", True),
        ({"ENDPOINT": "c:4317", "INSECURE": "true"}, "c:4317", False),
        ({"ENDPOINT": "c:4317", "INSECURE": "true", "TRACES_INSECURE": "false"}, "c:4317", True),
        ({"ENDPOINT": "http://[::1]:4317"}, "[::1]:4317", False),
    ],
)
def test_for_grpc_the_scheme_decides_about_tls(variables, endpoint, is_secure):
    """And only without one, whether it is asked for plainly."""
    settings = _read(PROTOCOL="grpc", **variables)

    assert (settings.endpoint, settings.is_secure) == (endpoint, is_secure)


@pytest.mark.parametrize(
    "variables",
    [
        {"ENDPOINT": "collector:4318"},
        {"ENDPOINT": "ftp://collector"},
        {"ENDPOINT": "http://:4318"},
        {"ENDPOINT": "http://collector:port"},
        {"ENDPOINT": "http://collector:4318?key=s3cret"},
        {"ENDPOINT": "http://user:s3cret@collector:4318"},
        {"HEADERS": "s3cret"},
        {"HEADERS": "x-key=s3cret,and more"},
        {"HEADERS": "x key=s3cret"},
        {"HEADERS": "x-key=s3cret%0D%0Ahost: other"},
        {"HEADERS": "x-key=%20s3cret"},
        {"HEADERS": "x!key=s3cret", "PROTOCOL": "grpc"},
        {"HEADERS": "x-key-bin=s3cret", "PROTOCOL": "grpc"},
        {"ENDPOINT": "http://user:s3cret/@collector"},
        {"TIMEOUT": "10000"},
        {"TIMEOUT": "0"},
        {"TIMEOUT": "soon"},
        {"TRACES_COMPRESSION": "br"},
        {"PROTOCOL": "http/json"},
        {"PROTOCOL": "grpc", "INSECURE": "perhaps"},
        {"CERTIFICATE": "/nowhere/ca.pem"},
        {"CLIENT_KEY": __file__},
        {"CLIENT_KEY": "-----BEGIN PRIVATE KEY-----\ns3cret\n-----END PRIVATE KEY-----"},
        {"CERTIFICATE": "s3cret" * 1000},
        {"CERTIFICATE": "s3cret\0"},
        {"CERTIFICATE": os.devnull},  # gRPC would take its own authorities
    ],
)
def test_what_has_no_meaning_stops_the_start(variables):
    """And no header and no password is in what is said."""
    with pytest.raises(ConfigurationError) as caught:
        _read(**variables)

    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


def test_the_sdk_itself_writes_a_header_to_the_log(caplog):
    """The control: a header that is none is in the log, with all of it."""
    parse_env_headers("s3cret", liberal=True)

    assert "s3cret" in caplog.text


def test_headers_of_both_are_sent_and_shown_nowhere():
    """Of a name given twice the argument's; names in lower case, as gRPC asks."""
    environ = {"OTEL_EXPORTER_OTLP_HEADERS": "Api-Key=of%20both, x-a=1,"}

    settings = read_otlp(environ, headers={"X-A": "2"})

    assert settings.headers == {"api-key": "of both", "x-a": "2"}
    assert "of both" not in repr(settings)


def test_variables_that_have_no_effect_are_told(caplog):
    """By name, with what is done instead, and without what they hold."""
    caplog.set_level(logging.WARNING)
    environ = {
        "OTEL_METRICS_EXPORTER": "otlp",
        "OTEL_PROPAGATORS": "b3,baggage",
        "OTEL_EXPORTER_OTLP_LOGS_HEADERS": "key=s3cret",
        "OTEL_BSP_EXPORT_TIMEOUT": "3000",
    }

    configure_telemetry(environ=environ, set_global=False).shutdown()

    assert len(caplog.records) == 4
    assert "OTEL_PROPAGATORS has no effect: formats are those of TrustBoundary" in caplog.text
    assert "s3cret" not in caplog.text


@pytest.mark.parametrize(
    "environ",
    [
        {"OTEL_METRICS_EXPORTER": "none"},
        {"OTEL_METRICS_EXPORTER": "prometheus"},
        {"OTEL_LOGS_EXPORTER": "console"},
        {"OTEL_PROPAGATORS": "tracecontext,baggage"},
        {"OTEL_EXPORTER_OTLP_TRACES_HEADERS": "a=b"},
        {"OTEL_BSP_EXPORT_TIMEOUT": ""},
    ],
)
def test_nothing_is_said_of_what_fits(environ):
    """What asks for what is done anyway, and what is read."""
    assert list(unread(environ)) == []


def test_a_configuration_file_is_refused():
    """It would make every other variable void."""
    with pytest.raises(ConfigurationError, match="OTEL_CONFIG_FILE"):
        configure_telemetry(environ={"OTEL_CONFIG_FILE": "sdk.yaml"}, set_global=False)


def test_grpc_says_what_to_install(monkeypatch):
    """At the start, where its package is missing."""
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", None)
    environ = {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc"}

    with pytest.raises(ConfigurationError, match="opentelemetry-exporter-otlp-proto-grpc"):
        configure_telemetry(environ=environ, set_global=False)


def test_the_page_has_all_of_them():
    """What is read and what is not, in the reference, and nothing else."""
    named = set(re.findall(r"^\| `(OTEL_[A-Z_]+\*?)` \|", PAGE.read_text("utf-8"), re.MULTILINE))
    general = {
        *("OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_SDK_DISABLED"),
        *("OTEL_TRACES_EXPORTER", "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG"),
        *("OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "OTEL_BSP_SCHEDULE_DELAY"),
        "OTEL_CONFIG_FILE",
    }

    exported = {f"OTEL_EXPORTER_OTLP_{name}" for name in READ}
    told = {f"{name}*" if name.endswith("_") else name for name in UNREAD}
    assert named == general | exported | told
