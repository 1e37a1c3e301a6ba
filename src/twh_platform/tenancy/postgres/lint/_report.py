"""
A report: what was found, and how it is written.
"""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ._findings import SEVERITIES, Finding, Rule, Severity

__all__ = ["Report"]

_WIDTH = 92
_SARIF_LEVELS = {"error": "error", "warning": "warning", "info": "note"}
_SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """
    What a lint found.

    Args:
        database: The database's name.

        server_version: Such as ``15.18``.

        inferred: What was inferred of the tenant and the application, in sentences.

        findings: What is new, the gravest first.

        known: What the baseline has.

        rules: The rules that were asked.
    """

    database: str
    server_version: str
    inferred: tuple[str, ...]
    findings: tuple[Finding, ...]
    known: tuple[Finding, ...]
    rules: tuple[Rule, ...]

    def at_least(self, severity: Severity) -> tuple[Finding, ...]:
        """
        The new findings of this severity and above.
        """
        graver = SEVERITIES[: SEVERITIES.index(severity) + 1]
        return tuple(one for one in self.findings if one.severity in graver)

    def text(self) -> str:
        """
        The report for a reader.
        """
        return "\n".join([*self._head(), *map(_paragraph, self.findings), self._sum()]) + "\n"

    def _head(self) -> Iterator[str]:
        yield f"database {self.database}, PostgreSQL {self.server_version}, {len(self.rules)} rules"
        for sentence in self.inferred:
            yield _wrapped(sentence, "  ")
        yield ""

    def _sum(self) -> str:
        count = Counter(one.severity for one in self.findings)
        words = ", ".join(f"{count[severity]} {severity}" for severity in SEVERITIES)
        known = f"; {len(self.known)} more in the baseline" if self.known else ""
        return f"{words}{known}"

    def json(self) -> str:
        """
        The report as one JSON object.
        """
        content = {
            "version": 1,
            "database": self.database,
            "server_version": self.server_version,
            "inferred": list(self.inferred),
            "findings": [_as_dict(one) for one in self.findings],
            "known": [_as_dict(one) for one in self.known],
        }
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"

    def sarif(self) -> str:
        """
        The report as SARIF 2.1.0, for code scanning.

        Objects of a database stand in no file.  Each result therefore has a
        logical location, and a stand-in for a physical one, because some
        readers ask for it: ``postgresql/<database>``.
        """
        rules = {rule.id: number for number, rule in enumerate(self.rules)}
        driver = {
            "name": "twh-platform tenancy lint",
            "rules": [_sarif_rule(rule) for rule in self.rules],
        }
        results = [
            *(self._sarif_result(one, rules[one.rule.id], "new") for one in self.findings),
            *(self._sarif_result(one, rules[one.rule.id], "unchanged") for one in self.known),
        ]
        run = {
            "tool": {"driver": driver},
            "columnKind": "unicodeCodePoints",
            "results": results,
            "properties": {"inferred": list(self.inferred)},
        }
        log = {"$schema": _SARIF_SCHEMA, "version": "2.1.0", "runs": [run]}
        return json.dumps(log, indent=2, ensure_ascii=False) + "\n"

    def _sarif_result(self, finding: Finding, rule: int, state: str) -> dict[str, Any]:
        return {
            "ruleId": finding.rule.id,
            "ruleIndex": rule,
            "level": _SARIF_LEVELS[finding.severity],
            "message": {
                "text": f"{finding.kind} {finding.object}: {finding.message}\n\n{finding.remedy}"
            },
            "locations": [
                {
                    "physicalLocation": {
                        "artifactLocation": {"uri": f"postgresql/{_path(self.database)}"},
                        "region": {"startLine": 1},
                    },
                    "logicalLocations": [
                        {"fullyQualifiedName": finding.object, "kind": finding.kind}
                    ],
                }
            ],
            "partialFingerprints": {"twhFinding/v1": finding.fingerprint},
            "baselineState": state,
        }


def _paragraph(finding: Finding) -> str:
    head = (
        f"{finding.severity} {finding.rule.id} {finding.rule.name}: {finding.kind} {finding.object}"
    )
    return "\n".join(
        (
            head,
            _wrapped(finding.message, "  "),
            _wrapped(f"Why: {finding.rule.why}", "  "),
            "  Remedy:",
            textwrap.indent(finding.remedy, "    "),
            "",
        )
    )


def _wrapped(text: str, indent: str) -> str:
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent=indent,
        subsequent_indent=f"{indent}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _as_dict(finding: Finding) -> dict[str, Any]:
    return {
        "rule": finding.rule.id,
        "name": finding.rule.name,
        "severity": finding.severity,
        "kind": finding.kind,
        "object": finding.object,
        "schema": finding.schema,
        "message": finding.message,
        "why": finding.rule.why,
        "attacks": list(finding.rule.attacks),
        "remedy": finding.remedy,
        "fingerprint": finding.fingerprint,
    }


def _sarif_rule(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.id,
        "name": "".join(word.capitalize() for word in rule.name.split("-")),
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": f"{rule.title} {rule.why}"},
        "help": {"text": rule.why},
        "defaultConfiguration": {"level": _SARIF_LEVELS[rule.severity]},
        "properties": {"tags": ["security", "tenancy"], "attacks": list(rule.attacks)},
    }


def _path(name: str) -> str:
    from urllib.parse import quote

    return quote(name, safe="")


def order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """
    Sort findings: the gravest first, then by rule and object.
    """
    return tuple(
        sorted(
            findings,
            key=lambda one: (
                SEVERITIES.index(one.severity),
                one.rule.id,
                one.kind,
                one.object,
                one.about,
            ),
        )
    )
