"""
`twh-platform tenancy lint`, as a user calls it.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from twh_platform.cli import main
from twh_platform.tenancy.postgres.lint import RULES
from twh_platform.tenancy.postgres.lint import _psycopg_snapshot as _needed  # noqa: F401 -- skips


@pytest.fixture
def bad(clinic):
    """The clinic with one error, one warning and one remark."""
    clinic.execute(
        "GRANT TRUNCATE, REFERENCES ON booking.rooms TO clinic_web;"
        "GRANT EXECUTE ON FUNCTION pg_cancel_backend TO clinic_web"
    )
    yield clinic.dsn(user="clinic_web")
    clinic.execute(
        "REVOKE TRUNCATE, REFERENCES ON booking.rooms FROM clinic_web;"
        "REVOKE EXECUTE ON FUNCTION pg_cancel_backend FROM clinic_web"
    )


def lint(*arguments: str) -> int:
    """Call it within this process."""
    return main(["tenancy", "lint", *arguments])


def test_a_good_database_is_status_0(clinic, capsys):
    """Nothing found: 0, and what was inferred is told."""
    assert lint(clinic.dsn()) == 0
    assert "application roles: clinic_web" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ([], 1),
        (["--fail-on", "error", "--ignore", "TWH501"], 0),
        (["--ignore", "TWH501", "--ignore", "references-granted"], 0),
        (["--ignore", "TWH501", "--ignore", "TWH503", "--fail-on", "info"], 1),
        (["--rule", "TWH503", "--fail-on", "error"], 0),
        (["--schema", "app"], 0),
        (["--schema", "booking"], 1),
    ],
)
def test_the_status_says_whether_anything_counts(arguments, status, bad, capsys):
    """Severities, rules and schemas decide between 0 and 1."""
    assert lint(bad, *arguments) == status


def test_the_dsn_comes_from_the_environment(bad, monkeypatch, capsys):
    """Without a DSN on the command line the environment's is used."""
    monkeypatch.setenv("TWH_LINT_DSN", bad)

    assert lint() == 1
    assert "TWH501" in capsys.readouterr().out


def test_what_cannot_be_done_is_status_2(monkeypatch, capsys, tmp_path):
    """No DSN, no server, no baseline: 2, one line on standard error, no password."""
    monkeypatch.delenv("TWH_LINT_DSN", raising=False)
    nowhere = "postgresql://u:hush@127.0.0.1:1/x"

    assert lint() == 2
    assert lint(nowhere) == 2
    assert lint(nowhere, "--baseline", str(tmp_path / "none.json")) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "hush" not in captured.err


def test_a_baseline_lets_only_new_findings_count(bad, clinic, tmp_path, capsys):
    """What was written down does not count; what comes after does."""
    baseline = str(tmp_path / "baseline.json")

    assert lint(bad, "--write-baseline", baseline) == 0
    assert lint(bad, "--baseline", baseline, "--fail-on", "info") == 0
    clinic.execute("GRANT TRIGGER ON booking.rooms TO clinic_web")
    assert lint(bad, "--baseline", baseline) == 1
    clinic.execute("REVOKE TRIGGER ON booking.rooms FROM clinic_web")
    assert "3 more in the baseline" in capsys.readouterr().out


def test_a_broken_baseline_is_refused(bad, tmp_path, capsys):
    """A file that is no baseline is not taken for an empty one."""
    for number, text in enumerate(("", "[]", '{"version": 2}', '{"version": 1, "findings": [1]}')):
        path = tmp_path / f"{number}.json"
        path.write_text(text)
        assert lint(bad, "--baseline", str(path)) == 2


def test_json_has_every_finding(bad, tmp_path):
    """Each finding has its rule, object, remedy and fingerprint."""
    path = tmp_path / "report.json"

    lint(bad, "--format", "json", "--output", str(path))

    report = json.loads(path.read_text())
    assert [one["rule"] for one in report["findings"]] == ["TWH501", "TWH503", "TWH513"]
    assert report["findings"][0]["remedy"].startswith("REVOKE TRUNCATE ON booking.rooms")
    assert len({one["fingerprint"] for one in report["findings"]}) == 3
    assert report["database"] == "clinic"


def test_sarif_has_rules_levels_and_fingerprints(bad, capsys):
    """Results refer to rules by index, with a level, a place and a fingerprint each."""
    lint(bad, "--format", "sarif")

    run = json.loads(capsys.readouterr().out)["runs"][0]
    rules = run["tool"]["driver"]["rules"]
    assert [one["id"] for one in rules] == [rule.id for rule in RULES]
    assert [one["level"] for one in run["results"]] == ["error", "warning", "note"]
    assert all(rules[one["ruleIndex"]]["id"] == one["ruleId"] for one in run["results"])
    assert all(one["partialFingerprints"] and one["locations"] for one in run["results"])


def test_it_is_a_program(clinic):
    """The module can be run where the script is not on PATH."""
    command = [sys.executable, "-m", "twh_platform.cli", "tenancy", "lint", clinic.dsn()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    assert "0 error, 0 warning, 0 info" in done.stdout
