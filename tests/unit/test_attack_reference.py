"""
Every attack of the command is in the reference, as the attack itself says it.
"""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from twh_platform.cli._commands.tenancy_attack import configure
from twh_platform.tenancy.postgres.attack import ATTACKS, VERDICTS


@pytest.fixture(scope="module")
def page(project_root) -> str:
    """The page."""
    return (project_root / "docs" / "reference" / "attack.md").read_text()


def row(attack) -> str:
    """The row that an attack has to have."""
    numbers = ", ".join(map(str, attack.numbers))
    return f"| {attack.id} | {attack.name} | {attack.title} | {numbers} | {attack.defence} |"


def test_the_table_is_that_of_the_attacks(page):
    """One row for each attack, in order, and no other."""
    rows = re.findall(r"^\| TWHA.*$", page, re.MULTILINE)

    assert rows == [row(one) for one in ATTACKS]


def test_a_difference_is_noticed(page):
    """Control: an attack that says something else is not in the page."""
    assert row(replace(ATTACKS[0], title="does something else")) not in page


def test_ids_and_names_are_unique():
    """An id or a name means one attack; the numbers are those that the notes count."""
    names = [name for one in ATTACKS for name in (one.id, one.name)]

    assert len(names) == len(set(names))
    assert all(one.numbers and set(one.numbers) <= set(range(1, 55)) for one in ATTACKS)


def test_every_option_and_verdict_is_in_the_page(page):
    """What can be said on the command line, and what comes of it, can be looked up."""
    import argparse

    parser = argparse.ArgumentParser(add_help=False)
    configure(parser)
    options = [name for one in parser._actions for name in one.option_strings]

    assert [name for name in options if f"`{name}" not in page] == []
    assert [one for one in VERDICTS if f"| {one} |" not in page] == []
