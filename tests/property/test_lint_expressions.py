"""
Laws of reading SQL: it never fails, it loses nothing, it is not fooled by strings.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from twh_platform.tenancy.postgres.lint._expressions import parse, replace, walk
from twh_platform.tenancy.postgres.lint._predicates import read_expression

_PIECES = st.sampled_from(
    [
        "(",
        ")",
        "a",
        '"b c"',
        "'it''s'",
        "E'\\'",
        "$$x$$",
        "::",
        "=",
        "AND",
        "OR",
        "NOT",
        "SELECT",
        ",",
    ]
)
TEXTS = st.text() | st.lists(_PIECES).map(" ".join)


@given(TEXTS)
def test_any_text_can_be_read(text):
    """Hostile or broken text is read to its end, and every node stands within it."""
    for node, _ in walk(parse(text).children):
        assert 0 <= node.start <= node.end <= len(text)


@given(TEXTS)
def test_any_text_is_some_expression(text):
    """Reading a policy never fails."""
    read_expression(text, table="t", columns={"a", "b c"})


@given(TEXTS)
def test_replacing_nothing_changes_nothing(text):
    """A remedy leaves alone what it does not name."""
    assert replace(text, {}) == text


@given(st.text(), st.text())
def test_names_in_strings_are_not_names(left, right):
    """What stands in quotes is neither a call nor a keyword."""
    quoted = "'" + f"{left} OR current_setting({right}".replace("'", "''") + "'"

    kinds = [node.kind for node, _ in walk(parse(f"a = {quoted}").children)]

    assert kinds == ["name", "operator", "string"]
