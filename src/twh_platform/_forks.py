"""
What a fork must not carry into the child: locks that a thread of the parent held.
"""

from __future__ import annotations

import logging
import os
import weakref
from typing import Protocol

__all__ = ["Forked", "reset_after_fork"]

_logger = logging.getLogger("twh_platform")


class Forked(Protocol):
    """
    Something that begins anew in a forked child.
    """

    def after_fork(self) -> None:
        """
        Forget locks, and what other threads had under way.
        """
        ...


# Only weakly: what nobody else uses any more has nothing to reset.
_forked: weakref.WeakSet[Forked] = weakref.WeakSet()


def reset_after_fork(one: Forked) -> None:
    """
    Call its `after_fork` in each child that is forked from now on.
    """
    _forked.add(one)


def _in_child() -> None:
    for one in list(_forked):
        try:
            one.after_fork()
        except Exception:  # the others still hold the parent's locks
            _logger.exception("what was forked could not begin anew")


if hasattr(os, "register_at_fork"):  # else nothing forks
    os.register_at_fork(after_in_child=_in_child)
