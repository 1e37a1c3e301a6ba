"""
The tables of attacks in the documents and the tests of attacks say the same.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

KINDS = ("attack", "fact", "residual")
# For each capability, which is a folder in tests/attacks: its page, and how many are known.
PAGES = {
    "kms": ("key-attacks.md", 64),
    "quotas": ("quota-attacks.md", 32),
    "telemetry": ("telemetry-attacks.md", 30),
    "tenancy": ("attacks.md", 54),
    "webhooks": ("webhook-attacks.md", 89),
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """What the table, or a test, says of one attack."""

    number: int
    title: str
    kind: str
    test: str


@pytest.fixture(scope="module", params=PAGES)
def capability(request: pytest.FixtureRequest) -> str:
    """What is attacked."""
    return request.param


@pytest.fixture(scope="module")
def table(project_root: Path, capability: str) -> list[tuple[Row, str]]:
    """The rows of its table, each with what it says stops the attack."""
    page = project_root / "docs" / "explanation" / PAGES[capability][0]
    return list(rows_of(page.read_text()))


@pytest.fixture(scope="module")
def tested(project_root: Path, capability: str) -> list[Row]:
    """What its tests say of themselves."""
    folder = project_root / "tests" / "attacks" / capability
    return [
        row for path in sorted(folder.rglob("test_*.py")) for row in attacks_in(path.read_text())
    ]


def rows_of(page: str) -> Iterator[tuple[Row, str]]:
    """Yield the rows of a table whose first column is a number."""
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and cells[0].isdigit():
            number, title, kind, by, test = cells
            name = test.strip("`") if test.startswith("`") else ""
            yield Row(number=int(number), title=title, kind=kind, test=name), by


def attacks_in(source: str) -> Iterator[Row]:
    """Yield what each test gives to `twh_attack`, without importing it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and _numbered(node.name):
            rows = {_row(node.name, call) for call in ast.walk(node) if _makes_row(call)}
            assert len(rows) == 1, f"{node.name} has to make rows of one number, title and kind"
            yield from rows


def _numbered(name: str) -> bool:
    return re.match(r"test_\d\d_", name) is not None


def _makes_row(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "twh_attack"


def _row(test: str, call: ast.AST) -> Row:
    given = {one.arg: one.value for one in call.keywords if one.arg != "form"}
    said = {"kind": "attack", **{name: ast.literal_eval(value) for name, value in given.items()}}
    return Row(test=test, **said)


def test_every_item_has_a_row(table, capability):
    """All the attacks that are known stand in the table, in order."""
    numbers = [row.number for row, _ in table]

    assert set(numbers) == set(range(1, PAGES[capability][1] + 1))
    assert numbers == sorted(numbers)


def test_the_rows_are_those_of_the_tests(table, tested):
    """No test without a row, no row that says something else than its test."""
    in_table = {row for row, _ in table if row.test}

    assert in_table ^ set(tested) == set()


def test_only_a_residual_may_lack_a_test(table):
    """What is called an attack or a fact was tried."""
    assert [row for row, _ in table if not row.test and row.kind != "residual"] == []


def test_every_row_says_what_stops_it(table):
    """The kind is one of three, and there is a defence or advice."""
    assert [row for row, by in table if row.kind not in KINDS or not by] == []


def test_every_attack_is_of_a_capability(project_root):
    """No test of an attack lies where no table is asked for it."""
    folder = project_root / "tests" / "attacks"

    assert {path.parent for path in folder.rglob("test_*.py")} == {folder / one for one in PAGES}


def test_every_attack_test_has_a_number(project_root):
    """In `tests/attacks` no test goes without a row."""
    folder = project_root / "tests" / "attacks"
    sources = [path.read_text() for path in folder.rglob("test_*.py")]
    names = re.findall(r"^\s*(?:async )?def (test_\w+)", "\n".join(sources), re.MULTILINE)

    assert [name for name in names if not _numbered(name)] == []
    assert len(names) == len(set(names))


def test_a_difference_is_noticed():
    """Control: another title or kind is another row."""
    source = "def test_08_x(twh_attack):\n    twh_attack(number=8, title='t', kind='fact')\n"
    [found] = attacks_in(source)
    said = [row for row, _ in rows_of("| 8 | t | attack | by | `test_08_x` |")]

    assert found not in said
    assert found in [row for row, _ in rows_of("| 8 | t | fact | by | `test_08_x` |")]
