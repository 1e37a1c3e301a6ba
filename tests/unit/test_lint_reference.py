"""
Every rule of the lint is in the reference, as the rule itself says it.
"""

from __future__ import annotations

import re

import pytest

from twh_platform.tenancy.postgres.lint import RULES


@pytest.fixture(scope="module")
def sections(project_root) -> dict[str, str]:
    """The page's sections by their headings, each as one line."""
    page = (project_root / "docs" / "reference" / "lint.md").read_text()
    parts = re.split(r"^#+ ", page, flags=re.MULTILINE)
    return {part.partition("\n")[0]: " ".join(part.split()) for part in parts}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_a_rule_is_documented(rule, sections):
    """Its id, severity, fault, reason and remedy stand in the reference."""
    section = sections[f"{rule.id} {rule.name}"]

    assert f" {rule.severity}; " in section
    assert rule.title in section
    assert f"Why: {rule.why}" in section
    assert "Remedy: " in section


def test_ids_and_names_are_unique():
    """An id or a name means one rule."""
    names = [name for rule in RULES for name in (rule.id, rule.name)]

    assert len(names) == len(set(names))


def test_a_gap_is_noticed(sections):
    """Control: a rule that nobody documented has no section."""
    assert "TWH999 no-such-rule" not in sections


def test_the_readme_counts_them(project_root):
    """The number of rules that a reader is promised is the number that there are."""
    assert f"{len(RULES)} rules" in (project_root / "README.md").read_text()
