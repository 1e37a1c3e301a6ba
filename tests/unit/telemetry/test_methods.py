"""
Methods as labels.
"""

from __future__ import annotations

import pytest

from twh_platform.telemetry import KNOWN_METHODS, KnownMethods
from twh_platform.telemetry._methods import known_method


@pytest.mark.parametrize("method", sorted(KNOWN_METHODS))
def test_known_methods_are_their_own_label(method):
    """The methods of the conventions are shown as they are."""
    assert known_method(method) == (method, None)


@pytest.mark.parametrize("method", ["get", "GET ", "BREW", "", "PROPFIND", "_OTHER", "GÉT"])
def test_other_methods_are_one_label(method):
    """Methods are case-sensitive; what is not known is `_OTHER`, with what was sent."""
    assert KnownMethods()(method) == ("_OTHER", method)


def test_a_thousand_odd_methods_are_one_label():
    """No client makes labels, and what is kept of a long method is short."""
    known = KnownMethods()

    assert {known(f"X{n}")[0] for n in range(1_000)} == {"_OTHER"}
    assert known("X" * 10_000) == ("_OTHER", "X" * 128)


def test_the_environment_replaces_the_list():
    """The variable is a full list; a blank one is none."""
    variable = "OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS"
    known = KnownMethods.of_environment({variable: "GET, PROPFIND,,post"})

    assert [known(method)[0] for method in ("GET", "PROPFIND", "post", "POST")] == [
        "GET",
        "PROPFIND",
        "post",
        "_OTHER",
    ]
    assert KnownMethods.of_environment({variable: " , "})("POST") == ("POST", None)
    assert KnownMethods.of_environment({})("QUERY") == ("QUERY", None)
