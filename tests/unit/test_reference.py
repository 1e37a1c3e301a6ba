"""
The reference names everything that users can meet.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

import twh_platform
from twh_platform.errors import TenantSuspendedError
from twh_platform.tenancy import Tenant, TenantStatus

PACKAGE = Path(twh_platform.__file__).parent


def public_names(package: Path) -> Iterator[tuple[str, str]]:
    """
    Yield each name in `__all__` of each module that users may import, with its module.
    """
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        module = ".".join(part for part in parts if part != "__init__")
        if not any(part.startswith("_") for part in module.split(".")):
            yield from ((module, name) for name in _all_of(path.read_text()))


def _all_of(source: str) -> list[str]:
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return []


def error_codes(package: Path) -> set[str]:
    """
    Collect every string that is given to something called `code`.

    By name, by the name of a constant, or as the first argument of a function
    whose first parameter is called so.
    """
    trees = [ast.parse(path.read_text()) for path in package.rglob("*.py")]
    return {
        code
        for tree in trees
        for node in ast.walk(tree)
        for value in _given_as_code(node, _takes_code(tree))
        for code in _strings(value, _constants(tree))
    }


def _given_as_code(node: ast.AST, functions: set[str]) -> Iterator[ast.expr]:
    keyword = isinstance(node, ast.keyword) and node.arg == "code"
    assigned = isinstance(node, ast.Assign) and ast.unparse(node.targets[0])
    if keyword or assigned in {"code", "error.code"}:
        yield node.value
    elif isinstance(node, ast.Call) and ast.unparse(node.func) in functions:
        yield from node.args[:1]


def _takes_code(tree: ast.Module) -> set[str]:
    functions = (node for node in tree.body if isinstance(node, ast.FunctionDef))
    return {one.name for one in functions if one.args.args and one.args.args[0].arg == "code"}


def _constants(tree: ast.Module) -> dict[str, ast.expr]:
    nodes = (node for node in tree.body if isinstance(node, ast.Assign))
    return {ast.unparse(node.targets[0]): node.value for node in nodes}


def _strings(value: ast.expr, constants: dict[str, ast.expr]) -> set[str]:
    if isinstance(value, ast.Name) and value.id in constants:
        value = constants[value.id]
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        return {value.value}
    return set()


def documented_names(page: str) -> set[str]:
    """
    Collect the full names that a page documents, by autodoc or in a table.

    A table names them in its first column, from the module that the page names first.
    """
    module = (re.findall(r"twh_platform(?:\.\w+)*", page) or [""])[0]
    found = set()
    for line in page.splitlines():
        if scope := re.match(r"\.\. (?:current|auto)?module:: (\S+)", line):
            module = scope[1]
        elif directive := re.match(r"\.\. auto(?:class|exception|function|data):: (\S+)", line):
            name = directive[1]
            found.add(name if name.startswith("twh_platform.") else f"{module}.{name}")
        elif line.startswith("| `"):
            found |= {f"{module}.{name}" for name in re.findall(r"`(\w+)`", line.split("|")[1])}
    return found


def documented_codes(page: str) -> set[str]:
    """
    Collect the codes that a page has in the first column of a table.
    """
    return set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))


@pytest.fixture(scope="module")
def pages(project_root: Path) -> dict[str, str]:
    """
    The reference, page by page.
    """
    folder = project_root / "docs" / "reference"
    return {page.stem: page.read_text() for page in sorted(folder.rglob("*.md"))}


def test_every_public_name_is_in_the_reference(pages):
    """What can be imported can be looked up, under the module that it is imported from."""
    names = {f"{module}.{name}" for module, name in public_names(PACKAGE)}

    assert names - set().union(*map(documented_names, pages.values())) == set()


def test_every_error_code_is_in_the_reference(pages):
    """A code that is met in a log or a response can be looked up."""
    assert error_codes(PACKAGE) - documented_codes(pages["errors"]) == set()


NOT_SERVED = [status for status in TenantStatus if status is not TenantStatus.ACTIVE]


@pytest.mark.parametrize("status", NOT_SERVED)
def test_every_status_that_is_not_served_has_its_code_in_the_reference(status, pages):
    """The codes that are put together from a status can be looked up too."""
    with pytest.raises(TenantSuspendedError) as caught:
        Tenant(id="acme", status=status).ensure_served(datetime.now(UTC))

    assert caught.value.code in documented_codes(pages["errors"])


def test_every_code_in_the_reference_exists(pages):
    """A code that is gone from the source is gone from the reference."""
    listed = documented_codes(pages["errors"])

    assert listed - error_codes(PACKAGE) == {f"tenant_{status}" for status in NOT_SERVED} - {
        "tenant_suspended"
    }


@pytest.mark.parametrize(
    "source",
    [
        'raise X(code="no_such_code")',
        '_CODE = "no_such_code"\nraise X(code=_CODE)',
        'def refuse(code, message): ...\nrefuse("no_such_code", "x")',
        'class X(Exception):\n    code = "no_such_code"',
    ],
)
def test_every_way_of_giving_a_code_is_noticed(source, tmp_path):
    """Control: a code is found however the source spells it."""
    (tmp_path / "planted.py").write_text(source)

    assert error_codes(tmp_path) == {"no_such_code"}


def test_a_gap_is_noticed(tmp_path):
    """Control: a public name and a code that nobody documented are reported."""
    package = tmp_path / "planted"
    package.mkdir()
    (package / "__init__.py").write_text('__all__ = ["Gap"]\n')
    (package / "_hidden.py").write_text('__all__ = ["Hidden"]\nraise X(code="no_such_code")\n')

    assert list(public_names(package)) == [("planted", "Gap")]
    assert error_codes(package) == {"no_such_code"}


PAGE = """
`twh_platform.planted` knows the word Gap.

| name | is |
|---|---|
| `listed` | not a `Gap` |

.. module:: twh_platform.planted.deep

.. autoclass:: Deep
"""


def test_a_mention_is_no_entry():
    """Control: a name has to have an entry of its own, under its own module."""
    assert documented_names(PAGE) == {
        "twh_platform.planted.listed",
        "twh_platform.planted.deep.Deep",
    }
    assert documented_codes(PAGE) == {"listed"}
