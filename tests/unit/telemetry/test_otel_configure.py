"""
What `configure_telemetry` makes of the environment.
"""

from __future__ import annotations

import pytest

pytest.importorskip("opentelemetry.sdk")

from opentelemetry import propagate, trace

from twh_platform.errors import ConfigurationError
from twh_platform.telemetry.otel import TrustPropagator, configure_telemetry


def _configured(**environ):
    return configure_telemetry(environ=environ, set_global=False)


@pytest.mark.parametrize(
    "environ", [{"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"}]
)
def test_tracing_can_be_switched_off(environ):
    """Then there is nothing to hand to the middleware, and nothing to end."""
    telemetry = _configured(**environ)

    assert telemetry.tracing is None
    assert telemetry.force_flush()
    assert telemetry.stats().exported == 0
    telemetry.shutdown()


@pytest.mark.parametrize(
    "environ",
    [
        {"OTEL_TRACES_EXPORTER": "zipkin"},
        {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"},
        {"OTEL_TRACES_SAMPLER": "jaeger_remote"},
        {"OTEL_TRACES_SAMPLER_ARG": "much"},
        {"OTEL_TRACES_SAMPLER_ARG": "2"},
        {"OTEL_BSP_MAX_QUEUE_SIZE": "many"},
        {"OTEL_BSP_SCHEDULE_DELAY": "-1"},
    ],
)
def test_what_has_no_meaning_here_is_refused(environ):
    """At the start, and not by spans that are missing later."""
    with pytest.raises(ConfigurationError):
        _configured(**environ)


def test_a_compression_that_there_is_not_is_refused():
    """As a variable would be, by the exporter."""
    with pytest.raises(ConfigurationError):
        configure_telemetry(compression="br", set_global=False, environ={})


@pytest.mark.parametrize(
    ("environ", "sampled"),
    [
        ({"OTEL_TRACES_SAMPLER": "always_on"}, 1000),
        ({"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, 0),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "1"}, 1000),
        ({"OTEL_TRACES_SAMPLER": "parentbased_traceidratio"}, 1000),
    ],
)
def test_the_sampler_is_that_of_the_environment(environ, sampled):
    """For requests, and for what no request was the reason for."""
    telemetry = _configured(**environ)
    tracer = telemetry.provider.get_tracer("x")

    verdicts = [telemetry.sampler.decide(f"{n:016x}{n << 50:016x}") for n in range(1, 1001)]

    assert sum(verdict.sampled for verdict in verdicts) == sampled
    assert tracer.start_span("x").is_recording() is bool(sampled)


def test_arguments_count_more_than_variables():
    """Attributes of both are there; of a name given twice, the argument's."""
    telemetry = configure_telemetry(
        service_name="ours",
        resource={"b": "2"},
        set_global=False,
        environ={"OTEL_SERVICE_NAME": "theirs", "OTEL_RESOURCE_ATTRIBUTES": "a=1,b=1"},
    )

    found = telemetry.provider.resource.attributes
    assert (found["service.name"], found["a"], found["b"]) == ("ours", "1", "2")
    assert found["host.name"]


def test_provider_and_propagator_become_global(monkeypatch):
    """Labelled mocks: the SDK lets that be done once in a process."""
    told = []
    monkeypatch.setattr(trace, "set_tracer_provider", told.append)
    monkeypatch.setattr(propagate, "set_global_textmap", told.append)

    telemetry = configure_telemetry(environ={})

    assert told[0] is telemetry.provider
    assert isinstance(told[1], TrustPropagator)


def test_grpc_asks_for_its_package():
    """By name, where it is missing."""
    try:
        import opentelemetry.exporter.otlp.proto.grpc  # noqa: F401
    except ImportError:
        with pytest.raises(ConfigurationError, match="opentelemetry-exporter-otlp-proto-grpc"):
            _configured(OTEL_EXPORTER_OTLP_PROTOCOL="grpc")
    else:
        assert _configured(OTEL_EXPORTER_OTLP_PROTOCOL="grpc").tracing is not None
