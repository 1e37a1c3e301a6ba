"""
The way of spans over gRPC: to a real server of grpcio that works, is slow, refuses, is dead.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
import subprocess
import sys
import textwrap
import time

import pytest

pytest.importorskip("opentelemetry.sdk")
pytest.importorskip("opentelemetry.exporter.otlp.proto.grpc")

from tests.support.otlp_grpc import receiving_grpc
from tests.support.spans import answering, call
from twh_platform.telemetry import Registry
from twh_platform.telemetry._middleware import TelemetryMiddleware
from twh_platform.telemetry.otel import configure_telemetry


@pytest.fixture
def receiver():
    """A collector of this test's own."""
    with receiving_grpc() as one:
        yield one


@pytest.fixture
def configured():
    """Make telemetry over gRPC, and end it."""
    made = []

    def configure(environ, **options):
        variables = {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", **environ}
        given = {"set_global": False, "ratio": 1.0, "delay": 0.05, **options}
        made.append(configure_telemetry(environ=variables, **given))
        return made[-1]

    yield configure
    for one in made:
        one.shutdown()


def _watched(telemetry, app=answering):
    return TelemetryMiddleware(app, tracing=telemetry.tracing, sampler=telemetry.sampler)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A key and a certificate of 127.0.0.1 that signs itself."""
    pytest.importorskip("cryptography")
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "collector")])
    now = dt.datetime.now(dt.UTC)
    day = dt.timedelta(days=1)
    addresses = [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(x509.SubjectAlternativeName(addresses), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    plain = serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(pem, pkcs8, plain))
    (folder / "certificate.pem").write_bytes(made.public_bytes(pem))
    return folder


async def test_spans_arrive_compressed_with_metadata(receiver, configured):
    """What the environment says is what the collector sees; names of headers are in lower case."""
    telemetry = configured(
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{receiver.address}",
            "OTEL_EXPORTER_OTLP_HEADERS": "X-Key=a%20key,x-scope-orgid=shop",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
            "OTEL_SERVICE_NAME": "warehouse",
        }
    )

    await call(_watched(telemetry))

    assert telemetry.force_flush(20)
    (span,) = receiver.spans
    assert (span.is_server, span.resource["service.name"]) == (True, "warehouse")
    assert receiver.metadata[0]["x-key"] == "a key"
    assert receiver.metadata[0]["x-scope-orgid"] == "shop"
    assert telemetry.stats().exported == 1


async def test_spans_arrive_by_tls_with_a_certificate_of_our_own(certificate, configured):
    """Both sides show one, and check the other's."""
    key, shown = certificate / "key.pem", certificate / "certificate.pem"
    with receiving_grpc(key=key.read_bytes(), certificate=shown.read_bytes()) as receiver:
        telemetry = configured(
            {
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"https://{receiver.address}",
                "OTEL_EXPORTER_OTLP_CERTIFICATE": str(shown),
                "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": str(shown),
                "OTEL_EXPORTER_OTLP_CLIENT_KEY": str(key),
            }
        )

        await call(_watched(telemetry))

        assert telemetry.force_flush(20)
        assert len(receiver.spans) == 1


async def test_a_stranger_at_the_address_gets_no_span(certificate, configured, caplog):
    """The control of the last: the system's authorities do not know this certificate."""
    key, shown = certificate / "key.pem", certificate / "certificate.pem"
    with receiving_grpc(key=key.read_bytes(), certificate=shown.read_bytes()) as receiver:
        telemetry = configured(
            {"OTEL_EXPORTER_OTLP_ENDPOINT": f"https://{receiver.address}"}, timeout=1.0
        )

        await call(_watched(telemetry))

        assert telemetry.force_flush(20)
        assert (receiver.calls, telemetry.stats().export_failed) == (0, 1)


@pytest.mark.parametrize("status", ["UNAVAILABLE", "INVALID_ARGUMENT", "UNAUTHENTICATED"])
async def test_a_refusing_collector_costs_spans_alone(receiver, configured, status, caplog):
    """Whether it refuses for good or for now."""
    receiver.status = status
    telemetry = configured({}, endpoint=f"http://{receiver.address}", timeout=0.3)

    assert len(await call(_watched(telemetry))) == 2

    assert telemetry.force_flush(20)
    assert telemetry.stats().export_failed == 1
    assert receiver.calls >= 1


async def test_a_dead_collector_costs_spans_alone(receiver, configured, caplog):
    """Requests are answered; what was not taken is counted."""
    registry = Registry()
    receiver.die()
    telemetry = configured({}, endpoint=f"http://{receiver.address}", timeout=0.3, metrics=registry)
    app = _watched(telemetry)

    for _ in range(5):
        assert len(await call(app)) == 2

    assert telemetry.force_flush(20)
    page = registry.page().decode()
    assert 'platform_telemetry_spans_dropped_total{reason="export_failed"} 5' in page


async def test_a_slow_collector_fills_the_queue_and_no_request_waits(receiver, configured):
    """What does not fit is dropped and counted; what fits arrives."""
    receiver.delay = 0.3
    endpoint = f"http://{receiver.address}"
    telemetry = configured({}, endpoint=endpoint, queue_size=20, batch_size=5)
    app = _watched(telemetry)

    started = time.monotonic()
    for _ in range(200):
        await call(app)
    seconds = time.monotonic() - started

    assert telemetry.force_flush(30)
    stats = telemetry.stats()
    assert (stats.exported + stats.queue_full, len(receiver.spans)) == (200, stats.exported)
    assert seconds < 10  # 40 batches would take 12


def test_a_process_that_ends_flushes(receiver):
    """At exit, without being asked to."""
    program = """
        from twh_platform.telemetry.otel import configure_telemetry
        telemetry = configure_telemetry(delay=60.0)
        telemetry.provider.get_tracer("x").start_span("last").end()
    """
    environment = {
        **os.environ,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{receiver.address}",
        "OTEL_TRACES_SAMPLER": "always_on",
    }

    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], env=environment, check=True, timeout=60
    )

    assert [span.name for span in receiver.spans] == ["last"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_forked_child_exports_its_own(receiver, when):
    """Whether or not the parent has exported by then: preload."""
    program = f"""
        import os, signal
        signal.alarm(40)  # so that what hangs ends
        from twh_platform.telemetry.otel import configure_telemetry
        telemetry = configure_telemetry(delay=60.0, set_global=False, ratio=1.0)
        tracer = telemetry.provider.get_tracer("x")
        tracer.start_span("before").end()
        if {when == "after"}:
            assert telemetry.force_flush(20)
        child = os.fork()
        if not child:
            tracer.start_span("child").end()
            os._exit(0 if telemetry.force_flush(20) else 3)
        assert os.waitpid(child, 0)[1] == 0
        tracer.start_span("parent").end()
    """
    environment = {
        **os.environ,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{receiver.address}",
    }

    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program)],
        env=environment,
        check=True,
        timeout=60,
    )

    assert sorted(span.name for span in receiver.spans) == ["before", "child", "parent"]
