"""
The service of examples/ops without its containers: made secrets, roles, a start, requests.

PostgreSQL and Redis are real and are set up by the files of the example; OpenBao
is the emulator where there is none.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

pytest.importorskip("hvac")
pytest.importorskip("cryptography")
pytest.importorskip("psycopg")
pytest.importorskip("sqlalchemy")
pytest.importorskip("uvicorn")
pytest.importorskip("opentelemetry.sdk")

import requests

from tests.support.otlp import receiving
from tests.support.vault_servers import ORIGIN, vault_under_test
from twh_platform.testing import PostgresServer
from twh_platform.testing._require import require_part

OPS = Path(__file__).parents[3] / "examples/ops"


@dataclass
class Running:
    """
    What was started.
    """

    url: str
    folder: Path
    environ: dict[str, str]
    receiver: object
    log: Path

    def secret(self, name):
        """
        What is in the file of a secret.
        """
        return (self.folder / "secrets" / name).read_text().strip()

    def ask(self, path, body=None, **headers):
        """
        The status and the text that are answered.
        """
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers)
        request.add_header("content-type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


def _port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _program(name, package):
    return require_part(name, shutil.which(name), hint=f"apt-get install {package}")


@contextmanager
def _process(*command, **options):
    with subprocess.Popen(command, **options) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.wait(30)


def _service(environ, command):
    program = (sys.executable, "-m", "examples.ops.service", command)
    quiet = {"capture_output": True, "text": True, "timeout": 120}
    done = subprocess.run(program, env=environ, check=False, **quiet)
    return done.returncode, done.stdout + done.stderr


def _answers(running):
    with contextlib.suppress(urllib.error.URLError):
        return running.ask("/healthz")[0] == 200
    return False


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """Everything, set up as README.md has it."""
    folder = tmp_path_factory.mktemp("ops")
    shutil.copy(OPS / "secrets.sh", folder)
    subprocess.run(["sh", "secrets.sh"], cwd=folder, check=True, timeout=60)
    secrets = folder / "secrets"
    redis = _program("redis-server", "redis-server")
    with ExitStack() as stack:
        server = stack.enter_context(PostgresServer())
        superuser = urlsplit(server.dsn())
        roles = {**os.environ, "SECRETS": str(secrets), "POSTGRES_USER": superuser.username}
        roles |= {"PGHOST": server.host, "PGPORT": str(server.port)}
        roles |= {"PGPASSWORD": superuser.password or ""}
        subprocess.run(["sh", OPS / "postgres/roles.sh"], env=roles, check=True, timeout=60)
        redis_port, port = _port(), _port()
        own = ("--port", str(redis_port), "--bind", "127.0.0.1", "--dir", str(folder))
        quiet = {"stdout": subprocess.DEVNULL}
        stack.enter_context(_process(redis, str(secrets / "redis_conf"), *own, **quiet))
        vault = stack.enter_context(vault_under_test())
        with contextlib.suppress(requests.HTTPError):  # a real server may have it
            vault.call("POST", "sys/mounts/transit", {"type": "transit"})
        (secrets / "openbao_token").write_text(vault.token)
        receiver = stack.enter_context(receiving())
        environ = {
            **{name: text for name, text in os.environ.items() if not name.startswith("OTEL_")},
            "WAREHOUSE_DATABASE": f"{server.host}:{server.port}/warehouse",
            "WAREHOUSE_REDIS": f"127.0.0.1:{redis_port}/0",
            "WAREHOUSE_OPENBAO": vault.address,
            "WAREHOUSE_SECRETS": str(secrets),
            "WAREHOUSE_STATE": str(folder),
            "WAREHOUSE_HOST": "127.0.0.1",
            "WAREHOUSE_PORT": str(port),
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
            "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
            "OTEL_TRACES_SAMPLER": "always_on",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }
        for _ in range(2):  # the second finds everything there
            status, said = _service(environ, "prepare")
            assert status == 0, said
        log = folder / "log"
        stack.enter_context(
            _process(
                *(sys.executable, "-m", "examples.ops.service", "serve"),
                env=environ,
                stderr=stack.enter_context(log.open("w")),
            )
        )
        ends_at = time.monotonic() + 60
        made = Running(f"http://127.0.0.1:{port}", folder, environ, receiver, log)
        while not _answers(made):
            assert time.monotonic() < ends_at, log.read_text()
            time.sleep(0.1)
        yield made


def _log_in(running):
    body = {"tenant": "acme", "email": "admin@acme.example", "password": ""}
    body["password"] = running.secret("demo_password")
    status, answer = running.ask("/auth/login", body)
    assert status == 200, answer
    return {"Authorization": f"Bearer {json.loads(answer)['access_token']}"}


def test_its_health_check_is_content(running):
    """The one of the compose file; and not where nothing is."""
    status, said = _service(running.environ, "health")
    nowhere, _ = _service({**running.environ, "WAREHOUSE_PORT": str(_port())}, "health")

    assert (status, said) == (0, "")
    assert nowhere == 1


def test_a_tenant_works_with_keys_that_are_not_in_a_file(running):
    """Its key is in Transit, of the server that the suite has, and no keyset is made."""
    token = _log_in(running)
    body = {"name": "Bolts Ltd", "bank_account": "DE89370400440532013000"}

    status, answer = running.ask("/suppliers", body, **token)

    assert status == 201, f"{answer} on {ORIGIN}"
    assert not (running.folder / "keyset.json").exists()


def test_the_page_asks_for_its_token(running):
    """The one that Prometheus has in a file."""
    token = {"Authorization": f"Bearer {running.secret('metrics_token')}"}

    status, page = running.ask("/metrics", **token)

    assert running.ask("/metrics")[0] == 401
    assert running.ask("/metrics", Authorization="Bearer other")[0] == 401
    assert (status, "http_server_request_duration_seconds_bucket" in page) == (200, True)


def test_spans_arrive_as_the_variables_say(running):
    """Where to, compressed, of this service; each with what the collector takes out."""
    _log_in(running)

    running.receiver.wait(1)
    span = next(one for one in running.receiver.server_spans if one.name == "POST /auth/login")
    assert span.resource["service.name"] == "warehouse"
    assert running.receiver.headers[0]["content-encoding"] == "gzip"
    assert {"client.address", "user_agent.original"} <= set(span.attributes)


def test_no_secret_is_in_the_log(running):
    """Each line is JSON, and none has what is in a file of secrets."""
    lines = running.log.read_text().splitlines()
    secrets = [one.read_text().strip() for one in (running.folder / "secrets").iterdir()]

    assert all(json.loads(line) for line in lines)
    assert not [line for line in lines if any(secret in line for secret in secrets)]
