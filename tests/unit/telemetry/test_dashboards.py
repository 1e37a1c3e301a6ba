"""
Dashboards name nothing that is not there, are what Grafana 11.6 reads, and are shipped.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from twh_platform.cli import main
from twh_platform.errors import ConfigurationError
from twh_platform.telemetry import dashboards
from twh_platform.telemetry.dashboards._boards import BOARDS, FOLDERS, board_documents, check_board
from twh_platform.telemetry.dashboards._export import exported_files
from twh_platform.telemetry.dashboards._grafana import Query
from twh_platform.telemetry.dashboards._objectives import Objectives
from twh_platform.telemetry.dashboards._promql import read_expression
from twh_platform.telemetry.dashboards._rules import rule_documents, rule_words
from twh_platform.telemetry.dashboards._vocabulary import known_metrics
from twh_platform.telemetry.dashboards._yaml import to_yaml
from twh_platform.testing import require_part

SHIPPED = Path(dashboards.__file__).with_name("shipped")
WORDS = rule_words(Objectives())
DURATION = "http_server_request_duration_seconds"
# What is for whoever looks closer: it is in no panel.
NOT_SHOWN = {
    "http_server_event_stream_duration_seconds",
    "python_gc_objects_collected_total",
    "python_gc_objects_uncollectable_total",
    "python_info",
}


def documents():
    """All dashboards, as values."""
    return [document for _, document in board_documents(WORDS)]


def expressions():
    """Every expression of every panel."""
    return [
        query.expr
        for board in BOARDS
        for row in board.rows
        for panel in row.panels
        for query in panel.queries
    ]


@pytest.mark.parametrize(
    ("expr", "labels"),
    [
        ("sum (rate(process_cpu_seconds_total[5m]))", set()),
        (f"sum by (job) (rate({DURATION}_count[$__rate_interval]))", {"job"}),
        (f"histogram_quantile(0.9, sum by (le) (rate({DURATION}_bucket[5m])))", set()),
        ("topk(3, up) or vector(0)", set()),
        ("1 - max without (instance) (up)", {"job"}),
        ("up * on (job) group_left () sum by (job) (up)", {"job", "instance"}),
        ("-avg_over_time(sum by (job) (up)[1h:1m] offset 5m) ^ 2", {"job"}),
        ('absent(up{job="a",instance=~"b"})', {"job"}),
    ],
)
def test_the_labels_of_an_expression_are_known(expr, labels):
    """What an expression comes to can be told without running it."""
    assert read_expression(expr, WORDS).labels == labels


@pytest.mark.parametrize(
    "expr",
    [
        "http_requests_total",
        'up{tenant="acme"}',
        "sum by (tenant) (up)",
        f"rate({DURATION}[5m])",
        "rate(process_threads[5m])",
        "rate(up)",
        f"histogram_quantile(0.9, sum (rate({DURATION}_bucket[5m])))",
        "sum by (job) (up) / up",
        "up and on (tenant) up",
        "sum (up) by (job) extra",
        "quantile_over_time(0.5, up[5m])",
        "label_replace(up, 'a', 'b', 'c', 'd')",
        'up{job~"a"}',
        "(up",
        "1 and up",
        "up * on (job) group_left (tenant) sum by (job) (up)",
        "",
    ],
)
def test_what_cannot_be_is_refused(expr):
    """The controls: a name, a label, a kind or a side that does not fit is found."""
    with pytest.raises(ConfigurationError) as refused:
        read_expression(expr, WORDS)

    assert refused.value.code == "dashboard_expression_invalid"


@pytest.mark.parametrize(
    "query",
    [
        Query("up", "{{tenant}}"),
        Query("sum by (http_route) (http_server_event_streams_active)"),
        Query('up{job=~"$jobs"}'),
        Query("process_cpu_seconds_total"),
        Query("1 + 1"),
    ],
)
def test_a_panel_that_cannot_be_is_refused(query):
    """The control: a legend, a variable or an expression without sense is found."""
    board = BOARDS[0]
    row = replace(board.rows[0], panels=[replace(board.rows[0].panels[0], queries=[query])])

    with pytest.raises(ConfigurationError) as refused:
        check_board(replace(board, rows=[row]), WORDS)

    assert refused.value.code == "dashboard_expression_invalid"


def test_each_metric_is_shown():
    """What is counted can be seen: a new metric gets a panel, or stands in the list above."""
    seen = {name for expr in expressions() for name in re.findall(r"[a-z]\w+", expr)}
    rules = json.dumps(rule_documents(Objectives()))
    shown = {
        name
        for name in known_metrics()
        if any(f"{name}{end}" in seen for end in ("", "_bucket", "_count", "_sum"))
    }

    missing = set(known_metrics()) - shown
    assert missing == NOT_SHOWN
    assert "http_server_request_duration_seconds_count" in rules


def test_what_is_shipped_is_what_is_generated():
    """The files in the package are those of `dashboards export`, to the byte."""
    found = {
        path.relative_to(SHIPPED).as_posix(): path.read_text()
        for path in SHIPPED.rglob("*")
        if path.is_file()
    }

    assert found == exported_files()


def test_dashboards_are_laid_out():
    """Panels have ids of their own, lie within 24 columns and on no other panel."""
    for document in documents():
        ids = [panel["id"] for panel in document["panels"]]
        cells = [
            (x, y)
            for place in (panel["gridPos"] for panel in document["panels"])
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        ]

        assert len(set(ids)) == len(ids)
        assert len(set(cells)) == len(cells)
        assert max(x for x, _ in cells) < 24


def test_dashboards_have_addresses_of_their_own():
    """Uids and titles are told apart, and each is in a folder that is provisioned."""
    assert len({board.uid for board in BOARDS}) == len({board.title for board in BOARDS}) == 7
    assert {board.folder for board in BOARDS} == set(FOLDERS)


def test_what_names_tenants_is_in_a_folder_of_its_own():
    """No expression outside of it groups by tenant."""
    for board in BOARDS:
        if board.folder != "twh-tenants":
            text = json.dumps(
                [
                    [query.expr for query in panel.queries]
                    for row in board.rows
                    for panel in row.panels
                ]
            )
            assert "tenant)" not in text.replace("(tenant) group_left", ""), board.title


def test_the_yaml_is_read_as_it_was_meant():
    """A reader of YAML finds the same rules and provisioning."""
    yaml = pytest.importorskip("yaml")
    files = exported_files(Objectives(jobs=("a.b",)))
    odd = {"a": [1, True, "no", "x: y", "#", "", 'q"\\', {"b": [], "c": {}}], "d": "1\n  2\n3"}

    for name, document in rule_documents(Objectives(jobs=("a.b",))).items():
        assert yaml.safe_load(files[f"prometheus/rules/{name}"]) == document
    assert yaml.safe_load(to_yaml(odd)) == odd
    provider = yaml.safe_load(files["grafana/provisioning/dashboards/twh-platform.yaml"])
    assert [one["folderUid"] for one in provider["providers"]] == [*FOLDERS]


def test_the_builder_of_grafana_reads_the_same():
    """Read and written again by Grafana's own builder, nothing is lost and nothing is added."""
    models = pytest.importorskip("grafana_foundation_sdk.models.dashboard")
    encoder = pytest.importorskip("grafana_foundation_sdk.cog.encoder")

    for document in documents():
        again = models.Dashboard.from_json(document)
        read = json.loads(json.dumps(again, cls=encoder.JSONEncoder))
        for variable in read["templating"]["list"]:
            # The builder adds them to every variable; Grafana's schema has none of them.
            added = {"auto": False, "auto_min": "10s", "auto_count": 30}
            assert {name: variable.pop(name) for name in added} == added
        assert read == document


# Grafana's types have enums, where JSON has what they stand for.
TYPES = """
import type { Dashboard, Panel, RowPanel } from '@grafana/schema';
import type { DataQuery } from '@grafana/schema';
type Plain<T> = unknown extends T ? T : T extends string ? `${T}` : T extends number | boolean ? T
  : T extends Array<infer E> ? Array<Plain<E>>
  : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;
export type Whole = Plain<Dashboard>;
"""


def compiled(folder, texts):
    """What the TypeScript compiler says of dashboards, with Grafana's schema of 11.6."""
    (folder / "whole.ts").write_text(TYPES)
    for name, text in texts.items():
        source = (
            f"import type {{ Whole }} from './whole.js';\nexport const d = {text} satisfies Whole;"
        )
        (folder / f"{name}.ts").write_text(source)
    options = "--noEmit --strict --skipLibCheck --module nodenext --moduleResolution nodenext"
    command = ["node", "node_modules/typescript/bin/tsc", *options.split(), "--target", "es2022"]
    done = subprocess.run(
        [*command, *(f"{name}.ts" for name in texts)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.stdout


@pytest.fixture(scope="module")
def schema(tmp_path_factory):
    """A folder with Grafana's types and the compiler in it."""
    programs = shutil.which("node") and shutil.which("npm")
    require_part("node", programs, hint="install Node.js 20 with npm")
    folder = tmp_path_factory.mktemp("schema")
    needed = {"@grafana/schema": "11.6.16", "typescript": "5.7.3"}
    (folder / "package.json").write_text(json.dumps({"type": "module", "dependencies": needed}))
    options = ("no-package-lock", "no-audit", "no-fund", "ignore-scripts", "fetch-retries=0")
    command = ["npm", "install", *(f"--{one}" for one in options)]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        done = None
    found = folder if done is not None and done.returncode == 0 else None
    return require_part("node", found, hint="npm could not install @grafana/schema")


def test_grafanas_types_accept_them(schema):
    """Each dashboard has the shape that the schema of Grafana 11.6 gives."""
    texts = {document["uid"]: json.dumps(document) for document in documents()}

    assert compiled(schema, texts) == ""


@pytest.mark.parametrize(
    "change", [{"panels": [{"gridPos": {"h": "8"}}]}, {"graphTooltip": "1"}, {"panelz": []}]
)
def test_grafanas_types_refuse_others(schema, change):
    """The control: what is missing, of another type or unknown is found."""
    wrong = {**documents()[0], **change}

    assert "error TS" in compiled(schema, {"wrong": json.dumps(wrong)})


def test_export_writes_what_is_asked_for(tmp_path, capsys):
    """The command writes every file, and a second time the same."""
    arguments = ["dashboards", "export", str(tmp_path), "--job", "shop", "--availability", "0.9995"]

    assert main(arguments) == main(arguments) == 0

    files = exported_files(Objectives(jobs=("shop",), availability=0.9995))
    assert {name: (tmp_path / name).read_text() for name in files} == files
    assert f"wrote {len(files)} files" in capsys.readouterr().out


def test_export_says_what_is_wrong(tmp_path, capsys):
    """An objective that cannot be, or a folder that is a file, is told in a line."""
    (tmp_path / "file").write_text("")

    assert main(["dashboards", "export", str(tmp_path), "--latency", "99"]) == 2
    assert main(["dashboards", "export", str(tmp_path / "file")]) == 2

    said = capsys.readouterr().err
    assert "latency=99.0" in said
    assert "cannot write" in said
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
