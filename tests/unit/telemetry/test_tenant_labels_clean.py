"""
Label values: whatever is sent, the page stays readable.
"""

from __future__ import annotations

import pytest

from twh_platform.telemetry import clean_label


class _Broken:
    def __str__(self) -> str:
        raise RuntimeError


class _Odd(str):
    __slots__ = ()

    def __str__(self) -> str:
        return self * 3


@pytest.mark.parametrize(
    ("value", "label"),
    [
        ("GET", "GET"),
        ("", ""),
        ("/items/{id}", "/items/{id}"),
        ('say "hi"\\', 'say "hi"\\'),
        (
            "gr\N{LATIN SMALL LETTER U WITH DIAERESIS}n",
            "gr\N{LATIN SMALL LETTER U WITH DIAERESIS}n",
        ),
        ("a\nb\r\x00", "a\N{REPLACEMENT CHARACTER}b" + "\N{REPLACEMENT CHARACTER}" * 2),
        ("\ud800", "\N{REPLACEMENT CHARACTER}"),
        ("\N{RIGHT-TO-LEFT OVERRIDE}x", "\N{REPLACEMENT CHARACTER}x"),
        ("\N{LINE SEPARATOR}", "\N{REPLACEMENT CHARACTER}"),
        ("x" * 129, "x" * 128),
        ("\N{SNOWMAN}" * 100, "\N{SNOWMAN}" * 42),
        (404, "404"),
        (None, "None"),
        (b"a", "b'a'"),
        (_Broken(), "\N{REPLACEMENT CHARACTER}"),
        (_Odd("ab"), "ababab"),
    ],
)
def test_a_value_becomes_a_clean_label(value, label):
    """A clean one stays as it is, and all of them can be encoded."""
    found = clean_label(value)

    assert found == label
    assert type(found) is str
    assert len(found.encode()) <= 128
