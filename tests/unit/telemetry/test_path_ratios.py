"""
Templates of paths, matched before a router has spoken.
"""

from __future__ import annotations

import pytest

from twh_platform.errors import ConfigurationError
from twh_platform.telemetry._path_ratios import PathRatios


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/items", None),
        ("/items/", None),
        ("/items/7", "one"),
        ("/items/7/", None),
        ("/items/7/parts", None),
        ("/items/7/parts/8", None),
        ("/other/7", None),
        ("", None),
    ],
)
def test_a_template_is_matched_as_a_whole(path, expected):
    """Where it is the longest one, too: a parameter is one segment, and not empty."""
    assert PathRatios({"/items/{id}": "one"}).find(path) == expected


def test_what_is_cut_short_is_not_taken_for_a_parameter():
    """A long path is cut into no more segments than are needed to refuse it."""
    ratios = PathRatios({"/{tenant}/items": "items", "/static/*": "below"})

    assert ratios.find("/acme/items") == "items"
    assert ratios.find("/acme/items" + "/x" * 1000) is None
    assert ratios.find("/static" + "/x" * 1000) == "below"


def test_the_most_particular_template_counts():
    """A literal before a parameter, and a longer one before what is below a shorter one."""
    ratios = PathRatios({"/a/*": "below", "/a/{x}": "one", "/a/b": "literal", "/*": "all"})

    assert ratios.find("/a/b") == "literal"
    assert ratios.find("/a/c") == "one"
    assert ratios.find("/a/c/d") == "below"
    assert ratios.find("/z") == "all"


@pytest.mark.parametrize("template", ["items", "/it*ms", "/{id", "/a{id}b", "/{}", ""])
def test_what_is_no_template_is_refused(template):
    """And named."""
    with pytest.raises(ConfigurationError, match="is not like"):
        PathRatios({template: "one"})
