"""
What a fork does to those that begin anew.
"""

from __future__ import annotations

import os

import pytest

from twh_platform._forks import reset_after_fork

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]


class Anew:
    """Notes that it has begun anew, or fails."""

    def __init__(self, *, fails: bool) -> None:
        self.fails, self.is_new = fails, False
        reset_after_fork(self)

    def after_fork(self) -> None:
        """See `Forked`."""
        self.is_new = True
        if self.fails:
            raise RuntimeError("planted")


def test_one_that_fails_keeps_no_other_from_it():
    """Else the others went on with locks that nobody gives back."""
    those = [Anew(fails=number % 2 == 0) for number in range(20)]

    child = os.fork()
    if not child:
        os._exit(0 if all(one.is_new for one in those) else 1)

    assert os.waitpid(child, 0)[1] == 0
    assert not any(one.is_new for one in those)
