"""
Each alert fires, stays silent and resolves, by promtool in simulated time.

All stories are one run of promtool.  Minutes are those of the simulation.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass, field

import pytest

from twh_platform.errors import ConfigurationError
from twh_platform.telemetry.dashboards._alerts import alerts
from twh_platform.telemetry.dashboards._export import exported_files
from twh_platform.telemetry.dashboards._objectives import Objectives
from twh_platform.telemetry.dashboards._rules import rule_documents, rule_files, rule_words
from twh_platform.testing import require_part

OBJECTIVES = Objectives(jobs=("shop",))
COUNT = "http_server_request_duration_seconds_count"
BUCKET = "http_server_request_duration_seconds_bucket"
REQUESTS = f'{COUNT}{{job="shop",instance="a",error_type=""}}'
FAST = f'{BUCKET}{{job="shop",instance="a",error_type="",le="0.5"}}'
ERRORS = f'{COUNT}{{job="shop",instance="a",error_type="500"}}'


def gauge(*phases):
    """A gauge: for so many minutes this value, None where it is missing."""
    return " ".join(
        f"_x{minutes}" if value is None else f"{value}+0x{minutes - 1}" for minutes, value in phases
    )


def counter(*phases):
    """A counter: for so many minutes so much a minute, None where it is missing."""
    total, parts = 0, []
    for minutes, each in phases:
        if each is None:
            parts.append(f"_x{minutes}")
            continue
        parts.append(f"{total + each}+{each}x{minutes - 1}")
        total += each * minutes
    return " ".join(parts)


@dataclass
class Story:
    """What happens to some series, and in which minutes an alert fires and is silent."""

    alert: str
    name: str
    series: dict[str, str]
    fires: tuple[float, ...] = ()
    silent: tuple[float, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)


def burning(each, bad, *, healthy=60, ill=60, well=60):
    """Requests a minute, of which so many end in an error for a while."""
    return {
        REQUESTS: counter((healthy, each), (ill, each - bad), (well, each)),
        ERRORS: counter((healthy, None), (ill, bad), (well, 0)),
    }


def of(name, **labels):
    """A series of the shop."""
    values = {"job": "shop", "instance": "a", **labels}
    return f"{name}{{{','.join(f'{key}={json.dumps(value)}' for key, value in values.items())}}}"


def once(name, *, minutes=120, at=60, **labels):
    """A counter that appears with its first event."""
    return {of(name, **labels): counter((at, None), (1, 1), (minutes - at, 0))}


def events(name, *, rate=6, **labels):
    """A counter that grows for ten minutes of an hour and a half."""
    return {of(name, **labels): counter((30, 0), (10, rate), (60, 0))}


def degraded(part, bad=30, **labels):
    """A part that does not answer from minute 30 on."""
    return {of("platform_degraded", part=part, **labels): gauge((30, 0), (bad, 1), (60, 0))}


AVAILABLE, LATENCY = {"job": "shop", "slo": "availability"}, {"job": "shop", "slo": "latency"}
TENANT = "platform_tenant_requests_total"
LAG = "platform_event_loop_lag_seconds_bucket"
KMS = "platform_kms_operations_total"
POOL = {"db_client_connection_pool_name": "main"}
VAULT = {"job": "shop", "provider": "vault"}
UP, UP_B = of("up"), of("up", instance="b")


def tenants(bad, *, tenant="acme"):
    """A busy tenant, whose requests fail for a while."""
    return {
        of(TENANT, tenant=tenant, outcome="success"): counter((60, 10), (10, 10 - bad), (60, 10)),
        of(TENANT, tenant=tenant, outcome="server_error"): counter((60, 0), (10, bad), (60, 0)),
    }


def lag(slow):
    """Wake-ups of an event loop, some of them late for half an hour."""
    late = ((30, 0), (30, slow), (60, 0))
    return {
        of(LAG, le="0.1"): counter((120, 600)),
        of(LAG, le="0.5"): counter(*((minutes, 600 + each) for minutes, each in late)),
        of(LAG, le="+Inf"): counter(*((minutes, 600 + each) for minutes, each in late)),
    }


def keys(good, bad, code="key_service_unavailable"):
    """Uses of keys, some of which fail for ten minutes."""
    provider = {"op": "unwrap", "provider": "vault"}
    return {
        of(KMS, **provider, outcome="success"): counter((30, 100), (10, good), (60, 100)),
        of(KMS, **provider, outcome=code): counter((30, 0), (10, bad), (60, 0)),
    }


SHREDS = "platform_kms_shred_seconds_count"
DROPPED = "platform_telemetry_spans_dropped_total"
STORE = "platform_webhook_store_failures_total"
FASTEST, FAST_BURN = "TwhBudgetBurnFastest", "TwhBudgetBurnFast"
SLOW, SLOWEST, DOWN = "TwhBudgetBurnSlow", "TwhBudgetBurnSlowest", "TwhServiceDown"
SHOP = {"job": "shop"}

STORIES = [
    Story(
        DOWN,
        "no target answers",
        {UP: gauge((30, 1), (10, 0), (20, 1)), UP_B: gauge((30, 1), (12, 0), (20, 1))},
        fires=(32, 35, 39),
        silent=(10, 29, 30, 43, 50),
        labels=SHOP,
    ),
    Story(
        DOWN,
        "the targets are gone",
        {UP: "1+0x29 stale _x10 1+0x20"},
        fires=(32, 35, 40),
        silent=(29, 43),
        labels=SHOP,
    ),
    Story(
        DOWN,
        "one of two answers",
        {UP: gauge((60, 1)), UP_B: gauge((10, 1), (50, 0))},
        silent=(9, 15, 30, 59),
    ),
    Story(
        "TwhTargetDown",
        "one of two is down",
        {UP: gauge((60, 1)), UP_B: gauge((10, 1), (30, 0), (20, 1))},
        fires=(21, 39),
        silent=(9, 15, 41, 50),
        labels={"job": "shop", "instance": "b"},
    ),
    Story(
        "TwhTargetDown",
        "a restart",
        {UP: gauge((20, 1), (5, 0), (60, 1))},
        silent=(22, 24, 30, 60),
    ),
    Story(
        FASTEST,
        "every request fails, as none did before",
        burning(60, 60, ill=10),
        fires=(65, 69),
        silent=(30, 60, 76, 90),
        labels=AVAILABLE,
    ),
    Story(
        FASTEST,
        "every request of a new service fails",
        {ERRORS: counter((20, 60)), UP: gauge((20, 1))},
        fires=(5, 19),
        silent=(0,),
        labels=AVAILABLE,
    ),
    Story(FASTEST, "one in a hundred fails", burning(100, 1), silent=(60, 90, 119, 150)),
    Story(FASTEST, "nobody is there", {REQUESTS: counter((90, 0))}, silent=(10, 60, 90)),
    Story(
        FASTEST,
        "every request of few fails",
        {REQUESTS: counter((60, 1)), ERRORS: counter((60, None), (60, 1))},
        silent=(62, 65, 90, 119),
    ),
    Story(
        FASTEST,
        "half are slow",
        {
            REQUESTS: counter((120, 60)),
            FAST: counter((60, 60), (30, 30), (30, 60)),
        },
        fires=(80, 89),
        silent=(30, 60, 97, 115),
        labels=LATENCY,
    ),
    Story(
        FAST_BURN,
        "one in a hundred fails",
        burning(100, 1, healthy=1, ill=120, well=120),
        fires=(60, 119),
        silent=(1, 153, 230),
        labels=AVAILABLE,
    ),
    Story(FAST_BURN, "five in a thousand fail", burning(1000, 5, ill=300), silent=(90, 240, 350)),
    Story(
        SLOW,
        "four in a thousand fail",
        burning(1000, 4, healthy=1, ill=240, well=240),
        fires=(180, 239),
        silent=(1, 365, 470),
        labels=AVAILABLE,
    ),
    Story(SLOW, "two in a thousand fail", burning(1000, 2, ill=300), silent=(90, 240, 350)),
    Story(
        SLOWEST,
        "two in a thousand fail",
        burning(1000, 2, healthy=1, ill=240, well=420),
        fires=(180, 239, 300),
        silent=(1, 610, 650),
        labels=AVAILABLE,
    ),
    Story(SLOWEST, "one in two thousand fails", burning(2000, 1, ill=300), silent=(90, 240, 350)),
    Story(
        "TwhQuietServiceFails",
        "every request of few fails",
        {
            REQUESTS: counter((60, 1), (60, 0), (120, 1)),
            ERRORS: counter((60, None), (60, 1), (120, 0)),
        },
        fires=(110, 120),
        silent=(59, 80, 170, 230),
        labels={"job": "shop", "slo": "availability"},
    ),
    Story(
        "TwhQuietServiceFails",
        "every request of many fails",
        burning(60, 60),
        silent=(65, 90, 119),
    ),
    Story(
        "TwhTenantErrors",
        "one tenant's requests fail",
        tenants(10),
        fires=(66, 69),
        silent=(60, 80, 120),
        labels={"job": "shop", "tenant": "acme"},
    ),
    Story(
        "TwhTenantErrors", "those of all the others", tenants(10, tenant="other"), silent=(66, 69)
    ),
    Story(
        "TwhTenantErrors",
        "a tenant that is hardly there",
        {of(TENANT, tenant="acme", outcome="server_error"): counter((120, 1))},
        silent=(60, 119),
    ),
    Story(
        "TwhEventLoopLag",
        "one in ten is late",
        lag(66),
        fires=(40, 59),
        silent=(29, 33, 70, 110),
        labels={"job": "shop", "instance": "a"},
    ),
    Story("TwhEventLoopLag", "one in two hundred is late", lag(3), silent=(29, 40, 59, 110)),
    Story(
        "TwhRlsContextError",
        "the first of all",
        once("platform_rls_context_errors_total", code="TW001"),
        fires=(60, 64),
        silent=(59, 67, 119),
        labels={"job": "shop", "code": "TW001"},
    ),
    Story(
        "TwhRlsContextError",
        "one more",
        {of("platform_rls_context_errors_total", code="TW001"): counter((60, 0), (1, 1), (60, 0))},
        fires=(61, 64),
        silent=(59, 67, 119),
        labels={"job": "shop", "code": "TW001"},
    ),
    Story(
        "TwhRlsContextError",
        "one long ago, and a gap of ten minutes",
        {of("platform_rls_context_errors_total", code="TW001"): "5+0x59 _x10 5+0x60"},
        silent=(30, 59, 65, 71, 75, 119),
    ),
    Story(
        "TwhKeyServiceErrors",
        "one in five fails",
        keys(80, 20),
        fires=(36, 39),
        silent=(29, 31, 48, 90),
        labels=VAULT,
    ),
    Story("TwhKeyServiceErrors", "one in a hundred fails", keys(99, 1), silent=(33, 36, 39)),
    Story(
        "TwhKeyServiceErrors",
        "one in five proves that a key is destroyed",
        keys(80, 20, "key_destroyed")
        | {of(SHREDS, provider="vault", state="destroyed"): counter((30, 0), (10, 20), (60, 0))},
        silent=(33, 36, 39, 60),
    ),
    Story(
        "TwhKeyServiceErrors",
        "somebody else destroys keys",
        keys(80, 20, "key_destroyed"),
        fires=(36, 39),
        silent=(29, 31, 48),
        labels=VAULT,
    ),
    Story(
        "TwhKeyServiceDown",
        "it does not answer",
        degraded("key_service", provider="vault"),
        fires=(32, 59),
        silent=(29, 30, 61, 90),
        labels=VAULT,
    ),
    Story(
        "TwhKeyServiceDown",
        "another part does not answer",
        degraded("quota_store", provider="redis"),
        silent=(32, 59),
    ),
    Story(
        "TwhQuotaStoreDown",
        "it does not answer",
        degraded("quota_store", provider="redis"),
        fires=(33, 59),
        silent=(29, 31, 61, 90),
        labels=SHOP,
    ),
    Story("TwhQuotaStoreDown", "for a minute", degraded("quota_store", 1), silent=(30, 31, 32, 60)),
    Story(
        "TwhUsageLedgerDown",
        "it does not answer",
        degraded("usage_ledger"),
        fires=(41, 59),
        silent=(29, 39, 61, 90),
        labels=SHOP,
    ),
    Story(
        "TwhUsageLedgerDown", "five minutes", degraded("usage_ledger", 5), silent=(34, 40, 41, 60)
    ),
    Story(
        "TwhReplayStoreDown",
        "it does not answer",
        events(STORE, step="claim", code="store_unavailable"),
        fires=(34, 39),
        silent=(29, 31, 46, 90),
        labels=SHOP,
    ),
    Story(
        "TwhReplayStoreDown",
        "it was down yesterday",
        {of(STORE, step="claim", code="store_unavailable"): counter((90, 0))},
        silent=(5, 30, 89),
    ),
    Story(
        "TwhPoolExhausted",
        "nobody gets a connection",
        events("db_client_connection_timeouts_total", **POOL),
        fires=(34, 39),
        silent=(29, 31, 46, 90),
        labels={**SHOP, **POOL},
    ),
    Story(
        "TwhPoolExhausted",
        "everybody does",
        {of("db_client_connection_timeouts_total", **POOL): counter((90, 0))},
        silent=(5, 30, 89),
    ),
    Story(
        "TwhSpansDropped",
        "the queue is full",
        events(DROPPED, reason="queue_full"),
        fires=(37, 45),
        silent=(29, 33, 57, 90),
        labels={"job": "shop", "reason": "queue_full"},
    ),
    Story(
        "TwhSpansDropped",
        "none",
        {of(DROPPED, reason="queue_full"): counter((90, 0))},
        silent=(5, 30, 89),
    ),
    Story(
        "TwhLabelOverflow",
        "a metric has too many series",
        events("telemetry_series_refused_total", metric="orders_total"),
        fires=(37, 45),
        silent=(29, 33, 57, 90),
        labels={"job": "shop", "metric": "orders_total"},
    ),
    Story(
        "TwhLabelOverflow",
        "none",
        {of("telemetry_series_refused_total", metric="orders_total"): counter((90, 0))},
        silent=(5, 30, 89),
    ),
    Story(
        "TwhMetricsIncomplete",
        "a file is damaged",
        events("telemetry_worker_files_skipped_total", reason="damaged"),
        fires=(37, 45),
        silent=(29, 33, 57, 90),
        labels={"job": "shop", "reason": "damaged"},
    ),
    Story(
        "TwhMetricsIncomplete",
        "none",
        {of("telemetry_worker_files_skipped_total", reason="damaged"): counter((90, 0))},
        silent=(5, 30, 89),
    ),
]


def promtool(folder, *arguments):
    """What promtool says, and whether it is content."""
    program = require_part(
        "prometheus", shutil.which("promtool"), hint="apt-get install prometheus"
    )
    done = subprocess.run(
        [program, *arguments], cwd=folder, capture_output=True, text=True, timeout=150, check=False
    )
    return done.returncode, done.stdout + done.stderr


def expected(story, rules):
    """What promtool is to find, minute by minute."""
    rule = rules[story.alert]
    labels = {**story.labels, "severity": rule.severity}
    summary = (
        re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda found: labels[found[1]], rule.summary)
        if (story.fires)
        else ""
    )
    runbook = f"{OBJECTIVES.runbooks}/{rule.runbook}.md"
    found = {
        "exp_labels": labels,
        "exp_annotations": {"summary": summary, "runbook_url": runbook},
    }
    for minute in sorted({*story.fires, *story.silent}):
        alert = {"eval_time": f"{round(minute * 60)}s", "alertname": story.alert}
        yield {**alert, "exp_alerts": [found] if minute in story.fires else []}


def simulated(stories, folder):
    """Run stories, each over its own alert and what that reads: promtool takes its time."""
    rules = {one.name: one for one in alerts(OBJECTIVES)}
    for name in {story.alert for story in stories}:
        tests = [
            {
                "interval": "1m",
                "name": f"{name}: {story.name}",
                "input_series": [
                    {"series": series, "values": values} for series, values in story.series.items()
                ],
                "alert_rule_test": [*expected(story, rules)],
            }
            for story in stories
            if story.alert == name
        ]
        (folder / f"{name}.rules.json").write_text(json.dumps(needed(name)))
        document = {"rule_files": [f"{name}.rules.json"], "evaluation_interval": "30s"}
        if name in {FAST_BURN, SLOW, SLOWEST}:
            document["evaluation_interval"] = "2m"  # hours, and they need not be quick
        (folder / f"{name}.json").write_text(json.dumps({**document, "tests": tests}))
    return promtool(
        folder, "test", "rules", *(f"{name}.json" for name in {one.alert for one in stories})
    )


def needed(name):
    """The rules that an alert leans on, and itself."""
    documents = rule_documents(OBJECTIVES)
    (recording,) = documents["twh-platform.recording.yml"]["groups"]
    (alerting,) = documents["twh-platform.alerts.yml"]["groups"]
    rules = [one for one in alerting["rules"] if one["alert"] == name]
    wanted, found = "\n".join(one["expr"] for one in rules), []
    for rule in reversed(recording["rules"]):
        if re.search(rf"{rule['record']}\b", wanted):
            found.insert(0, rule)
            wanted += rule["expr"]
    return {"groups": [{"name": "needed", "rules": [*found, *rules]}]}


def test_each_alert_fires_stays_silent_and_resolves(tmp_path):
    """Promtool agrees with every story, and the stories leave no alert out."""
    status, said = simulated(STORIES, tmp_path)

    assert status == 0, said
    for alert in (one.name for one in alerts(OBJECTIVES)):
        told = [story for story in STORIES if story.alert == alert]
        assert any(max(story.silent) > max(story.fires) for story in told if story.fires), alert
        assert any(not story.fires for story in told), alert


def test_a_story_that_is_wrong_is_found(tmp_path):
    """The control: where an alert fires too early or too late, promtool says so."""
    story = next(one for one in STORIES if one.alert == DOWN)
    late = Story(DOWN, "late", story.series, fires=(45,), labels=story.labels)
    early = Story(DOWN, "early", story.series, fires=(10,), labels=story.labels)

    assert simulated([late], tmp_path)[0] == 1
    assert simulated([early], tmp_path)[0] == 1


@pytest.mark.parametrize("name", [DOWN, FASTEST])
def test_an_outage_pages_within_five_minutes(name):
    """A total outage and errors only are told of within five minutes (gate of the rules)."""
    begins = {"no target answers": 30, "every request fails, as none did before": 60}
    (story,) = [one for one in STORIES if one.alert == name and one.name in begins]
    rule = next(one for one in alerts(OBJECTIVES) if one.name == name)

    assert min(story.fires) <= begins[story.name] + 5
    assert rule.severity == "page"


def test_promtool_finds_nothing(tmp_path):
    """The shipped rules are well-formed."""
    for name, text in rule_files(Objectives()):
        (tmp_path / name).write_text(text)

    status, said = promtool(
        tmp_path, "check", "rules", *(name for name, _ in rule_files(Objectives()))
    )

    assert status == 0, said
    assert said.count("SUCCESS") == 2


def test_each_alert_has_a_runbook(project_root):
    """What an alert links to is there, names the alert, and is in the list of runbooks."""
    folder = project_root / "docs" / "runbooks"
    index = (folder / "index.md").read_text()
    for alert in alerts(Objectives()):
        page = folder / f"{alert.runbook}.md"

        assert f"`{alert.name}`" in page.read_text(), alert.name
        assert f"\n{alert.runbook}\n" in index, alert.name


def test_objectives_are_in_the_rules():
    """What is asked for is what Prometheus compares with."""
    asked = Objectives(
        jobs=("a", "b.c"), availability=0.95, latency_seconds=1.0, runbooks="https://x/"
    )

    files = exported_files(asked)
    recording = files["prometheus/rules/twh-platform.recording.yml"]
    alerting = files["prometheus/rules/twh-platform.alerts.yml"]

    assert 'job=~"a|b\\\\\\\\.c"' in recording or 'job=~"a|b\\\\.c"' in recording
    assert "vector(0.05)" in recording
    assert 'le="1.0"' in recording
    assert 'absent(up{job="b.c"})' in alerting
    assert "https://x/telemetry-service-down.md" in alerting


@pytest.mark.parametrize(
    "wrong",
    [
        {"availability": 1.0},
        {"availability": 0.9},
        {"latency": 99.0},
        {"latency_seconds": 0.3},
        {"jobs": ()},
        {"jobs": ('a"}',)},
        {"least_requests": 0},
        {"runbooks": 'x"'},
    ],
)
def test_objectives_that_cannot_be(wrong):
    """What no rule could be made of is refused: 14.4 times a budget of 10 % is never reached."""
    with pytest.raises(ConfigurationError) as refused:
        Objectives(**wrong)

    assert refused.value.code == "objectives_invalid"


def test_what_is_recorded_has_labels():
    """A rule can be read as what it was made of: by job and objective."""
    words = rule_words(Objectives())

    assert words["job:slo_error_ratio:rate3d"].labels == {"job", "slo"}
    assert words["slo:error_budget:ratio"].labels == {"slo"}
