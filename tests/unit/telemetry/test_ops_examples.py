"""
The files of examples/ops: each by its published schema or program, and all of them together.

No container is started here; what the service does without one is in
tests/integration/warehouse/test_ops_service.py.
"""

from __future__ import annotations

import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("yaml")
pytest.importorskip("hvac")
pytest.importorskip("psycopg")
pytest.importorskip("sqlalchemy")
pytest.importorskip("uvicorn")
pytest.importorskip("opentelemetry.sdk")

import yaml

from examples.ops.service import LOGINS, SECRETS, VARIABLES
from twh_platform.telemetry.dashboards._export import exported_files, write_files
from twh_platform.telemetry.dashboards._objectives import Objectives
from twh_platform.telemetry.otel._otlp_settings import read_otlp
from twh_platform.telemetry.otel._unread import unread
from twh_platform.testing._require import require_part

OPS = Path(__file__).parents[3] / "examples/ops"
COMPOSE = yaml.safe_load((OPS / "compose.yaml").read_text("utf-8"))
SERVICES = COMPOSE["services"]
COLLECTOR = yaml.safe_load((OPS / "otel-collector.yaml").read_text("utf-8"))
TEMPO = yaml.safe_load((OPS / "tempo.yaml").read_text("utf-8"))
PROMETHEUS = yaml.safe_load((OPS / "prometheus.yml").read_text("utf-8"))
JOB = PROMETHEUS["scrape_configs"][0]["job_name"]
EXPORTED = exported_files(Objectives(jobs=(JOB,)))  # as README.md has it

# By hand, from the documentation of the collector 0.159: every key that may stand where ours do.
KEYS = {
    "receivers/otlp": {"protocols"},
    "receivers/otlp/protocols": {"grpc", "http"},
    "processors/memory_limiter": {
        *("check_interval", "limit_mib", "spike_limit_mib", "limit_percentage"),
        "spike_limit_percentage",
    },
    "processors/batch": {
        *("send_batch_size", "send_batch_max_size", "timeout", "metadata_keys"),
        "metadata_cardinality_limit",
    },
    "processors/attributes/without_clients": {"actions", "include", "exclude"},
    "exporters/otlp_grpc/tempo": {
        *("endpoint", "tls", "sending_queue", "retry_on_failure", "timeout", "compression"),
        *("headers", "keepalive", "balancer_name", "auth"),
    },
    "exporters/debug": {
        *("verbosity", "sampling_initial", "sampling_thereafter", "use_internal_logger"),
        *("output_paths", "sending_queue"),
    },
    "extensions/health_check": {"endpoint", "path", "response_body", "tls"},
    "service": {"extensions", "pipelines", "telemetry"},
}


def _environment(name):
    return SERVICES[name].get("environment", {})


def _mounts():
    for name, service in SERVICES.items():
        for text in service.get("volumes", ()):
            source, target, *mode = text.split(":")
            yield name, source, target, mode


def _run(command, folder, **options):
    quiet = {"capture_output": True, "text": True, "timeout": 60}
    return subprocess.run(command, cwd=folder, check=False, **quiet, **options)


def _port(address):
    return int(address.rpartition(":")[2])


def test_compose_has_the_published_shape():
    """By the schema of the compose specification, as check-jsonschema brings it."""
    pytest.importorskip("check_jsonschema")
    schema = ("--builtin-schema", "vendor.compose-spec")
    program = (sys.executable, "-m", "check_jsonschema", *schema, "--force-filetype", "yaml", "-")
    text = (OPS / "compose.yaml").read_text("utf-8")

    bad_text = text.replace("    image:", "    imagee:", 1)

    good, bad = (_run(program, OPS, input=one) for one in (text, bad_text))

    assert good.returncode == 0, good.stdout + good.stderr
    assert bad.returncode == 1


def test_prometheus_takes_its_configuration(tmp_path):
    """By promtool, with the rules that are exported for the job, and the token's file."""
    promtool = require_part(
        "prometheus", shutil.which("promtool"), hint="apt-get install prometheus"
    )
    write_files(EXPORTED, tmp_path)
    (tmp_path / "metrics_token").write_text("token")
    text = (OPS / "prometheus.yml").read_text("utf-8")
    text = text.replace("/etc/prometheus/rules", str(tmp_path / "prometheus/rules"))
    (tmp_path / "here.yml").write_text(text.replace("/run/secrets", str(tmp_path)))
    command = (promtool, "check", "config", "here.yml")

    done = _run(command, tmp_path)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS: 2 rule files found" in done.stdout


@pytest.mark.parametrize("place", sorted(KEYS))
def test_the_collector_is_given_keys_that_it_knows(place):
    """As its documentation has them; README.md says what else these were checked against."""
    section, _, rest = place.partition("/")
    given = COLLECTOR[section]
    parts = [rest] if rest in given else [one for one in rest.split("/") if one]
    for part in parts:
        given = given[part]

    assert given
    assert set(given) <= KEYS[place]


def test_the_collector_uses_what_it_defines():
    """Each component of the pipelines is there, and none is left over; memory is limited first."""
    (pipeline,) = COLLECTOR["service"]["pipelines"].values()

    for kind in ("receivers", "processors", "exporters"):
        assert sorted(pipeline[kind]) == sorted(COLLECTOR[kind])
    assert pipeline["processors"][0] == "memory_limiter"
    assert pipeline["processors"][-1] == "batch"
    assert COLLECTOR["service"]["extensions"] == list(COLLECTOR["extensions"])


def test_spans_find_their_way():
    """From the service to the collector, from there to Tempo, and from Grafana to both."""
    settings = read_otlp(_environment("warehouse"))
    receivers = COLLECTOR["receivers"]["otlp"]["protocols"]
    to_tempo = COLLECTOR["exporters"]["otlp_grpc/tempo"]["endpoint"]
    at_tempo = TEMPO["distributor"]["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"]
    grafana = _environment("grafana")

    assert settings.endpoint == "http://collector:4318/v1/traces"
    assert _port(receivers["http"]["endpoint"]) == 4318
    assert to_tempo == f"tempo:{_port(at_tempo)}"
    assert grafana["TWH_TEMPO_URL"] == f"http://tempo:{TEMPO['server']['http_listen_port']}"
    assert grafana["TWH_PROMETHEUS_URL"] == "http://prometheus:9090"


def test_prometheus_scrapes_what_runs():
    """Each target is a service of the file, at a port that it listens on."""
    (reader,) = COLLECTOR["service"]["telemetry"]["metrics"]["readers"]
    ports = {
        "warehouse": int(_environment("warehouse")["WAREHOUSE_PORT"]),
        "collector": reader["pull"]["exporter"]["prometheus"]["port"],
        "tempo": TEMPO["server"]["http_listen_port"],
        "127.0.0.1": 9090,
    }

    targets = [
        target
        for job in PROMETHEUS["scrape_configs"]
        for group in job["static_configs"]
        for target in group["targets"]
    ]
    assert targets == [f"{host}:{port}" for host, port in ports.items()]


def test_the_variables_are_read_by_somebody():
    """By the service, or by `configure_telemetry`, which finds nothing without effect."""
    given = _environment("warehouse")
    ours = {name for name in given if name.startswith("WAREHOUSE_")}

    assert ours <= set(VARIABLES)
    assert {name: text for name, text in given.items() if name in ours} == {
        name: VARIABLES[name] for name in ours
    }
    assert list(unread(given)) == []
    page = (OPS.parents[1] / "docs/reference/otel-variables.md").read_text("utf-8")
    assert all(f"`{name}`" in page for name in given if name.startswith("OTEL_"))


def test_grafana_asks_where_the_export_says():
    """The variables of the data sources, and the folders of the provisioning, are those here."""
    sources = EXPORTED["grafana/provisioning/datasources/twh-platform.yaml"]
    providers = yaml.safe_load(EXPORTED["grafana/provisioning/dashboards/twh-platform.yaml"])
    (folder,) = [at for _, source, at, _ in _mounts() if source.endswith("grafana/dashboards")]

    assert set(re.findall(r"\$(\w+)", sources)) <= set(_environment("grafana"))
    for provider in providers["providers"]:
        assert provider["options"]["path"].startswith(f"{folder}/")


def test_what_is_mounted_is_there(tmp_path):
    """Files of this folder, or of the export, read-only; all else is a named volume."""
    write_files(EXPORTED, tmp_path / "monitoring")

    for name, source, _, mode in _mounts():
        if source.startswith("./"):
            root = tmp_path if source.startswith("./monitoring/") else OPS
            assert (root / source).exists(), (name, source)
            assert mode == ["ro"], (name, source)
        else:
            assert source in COMPOSE["volumes"], (name, source)


def test_the_rules_are_where_prometheus_looks(tmp_path):
    """What the export writes fits the pattern, in the folder that is mounted."""
    write_files(EXPORTED, tmp_path / "monitoring")
    (mounted,) = [(source, at) for _, source, at, _ in _mounts() if source.endswith("/rules")]
    (pattern,) = PROMETHEUS["rule_files"]

    folder, _, name = pattern.rpartition("/")
    assert folder == mounted[1]
    assert len(list((tmp_path / mounted[0]).glob(name))) == 2


def test_each_secret_is_made_mounted_and_asked_for(tmp_path):
    """By secrets.sh, but the token, which OpenBao makes; and by nobody else's hands."""
    shutil.copy(OPS / "secrets.sh", tmp_path)
    for _ in range(2):  # what is there stays
        subprocess.run(["sh", "secrets.sh"], cwd=tmp_path, check=True, timeout=60)
    made = {one.name: one.read_text() for one in (tmp_path / "secrets").iterdir()}
    defined = {name: one["file"] for name, one in COMPOSE["secrets"].items()}

    assert {name: f"./secrets/{name}" for name in {*made, "openbao_token"}} == defined
    assert set(SERVICES["warehouse"]["secrets"]) == set(SECRETS)
    assert {f"{login}_password" for login in LOGINS} <= set(SERVICES["postgres"]["secrets"])
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    assert len(set(made.values())) == len(made) - 1  # the authority is the certificate itself


def test_the_certificate_is_one_that_strict_clients_take(tmp_path):
    """By OpenSSL's strict rules, for the name that the warehouse calls."""
    shutil.copy(OPS / "secrets.sh", tmp_path)
    subprocess.run(["sh", "secrets.sh"], cwd=tmp_path, check=True, timeout=60)
    host = VARIABLES["WAREHOUSE_OPENBAO"].removeprefix("https://").partition(":")[0]
    command = ["openssl", "verify", "-x509_strict", "-verify_hostname", host]
    command += ["-CAfile", "secrets/openbao_ca", "secrets/openbao_certificate"]

    done = _run(command, tmp_path)

    assert done.returncode == 0, done.stderr


def test_no_secret_is_in_an_environment():
    """What is called a password, a token or a key is a file under /run/secrets."""
    for name, service in SERVICES.items():
        for variable, text in service.get("environment", {}).items():
            if re.search("PASS|TOKEN|SECRET|KEY", variable):
                assert text.startswith("/run/secrets/"), (name, variable)
        for text in service.get("secrets", ()):
            assert text in COMPOSE["secrets"], (name, text)


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_each_service_is_held(name):
    """A version, no rights that it does without, a health check if it can have one, loopback."""
    service = SERVICES[name]

    if "build" not in service:
        assert re.fullmatch(r"[a-z/-]+:v?\d+\.\d+(\.\d+)?(-[a-z]+)?", service["image"])
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert "healthcheck" in service or service["restart"] == "no"
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
    assert not {"privileged", "network_mode", "pid"} & set(service)


def test_the_databases_are_out_of_reach():
    """Of the outside, and of what watches: only the warehouse is in both networks."""
    assert COMPOSE["networks"]["data"] == {"internal": True}
    networks = {name: set(service["networks"]) for name, service in SERVICES.items()}

    assert [name for name, those in networks.items() if len(those) > 1] == ["warehouse"]
    for name in ("postgres", "redis", "openbao"):
        assert networks[name] == {"data"}
        assert "ports" not in SERVICES[name]


def test_the_image_is_made_of_extras_that_there_are():
    """And of files that there are; the secrets stay outside of it."""
    text = (OPS / "Dockerfile").read_text("utf-8")
    ignored = (OPS / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    (extras,) = re.findall(r'"\.\[([a-z,]+)\]"', text)
    project = (OPS.parents[1] / "pyproject.toml").read_text("utf-8")

    assert all(re.search(rf"^{extra} = ", project, re.MULTILINE) for extra in extras.split(","))
    for sources in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE):
        assert all((OPS.parents[1] / source).exists() for source in sources.split())
    assert "USER 10001" in text
    assert ignored.index("examples/ops/secrets") > ignored.index("!examples")
