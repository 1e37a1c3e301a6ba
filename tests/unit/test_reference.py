"""
The reference names everything that users can meet.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import twh_platform

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
    """
    return {
        code
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        for code in _codes_at(node)
    }


def _codes_at(node: ast.AST) -> set[str]:
    if isinstance(node, ast.keyword) and node.arg == "code":
        return _strings(node.value)
    if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "code":
        return _strings(node.value)
    return set()


def _strings(value: ast.expr) -> set[str]:
    nodes = (node.value for node in ast.walk(value) if isinstance(node, ast.Constant))
    return {text for text in nodes if isinstance(text, str)}


def missing(words: set[str], reference: str) -> list[str]:
    """
    List the words that stand nowhere in the reference.
    """
    known = set(re.findall(r"\w+", reference))
    return sorted(words - known)


@pytest.fixture(scope="module")
def reference(project_root: Path) -> str:
    """
    The text of all reference pages.
    """
    pages = sorted((project_root / "docs" / "reference").rglob("*.md"))
    return "\n".join(page.read_text() for page in pages)


def test_every_public_name_is_in_the_reference(reference):
    """What can be imported can be looked up."""
    names = {name for _, name in public_names(PACKAGE) if name != "__version__"}

    assert missing(names, reference) == []


def test_every_error_code_is_in_the_reference(reference):
    """A code that is met in a log or a response can be looked up."""
    assert missing(error_codes(PACKAGE), reference) == []


def test_a_gap_is_noticed(tmp_path):
    """Control: a public name and a code that nobody documented are reported."""
    package = tmp_path / "planted"
    package.mkdir()
    (package / "__init__.py").write_text('__all__ = ["Gap"]\n')
    (package / "_hidden.py").write_text('__all__ = ["Hidden"]\nraise X(code="no_such_code")\n')

    assert list(public_names(package)) == [("planted", "Gap")]
    assert error_codes(package) == {"no_such_code"}
    assert missing({"Gap", "no_such_code"}, "Gapless, no_such") == ["Gap", "no_such_code"]
