"""
What a command is.

Each is one module in `_commands` with a `COMMAND`; it is found there by itself.
Such a module imports on a bare install: what needs an extra is imported in `run`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["CANNOT", "FOUND", "OK", "Command"]

OK, FOUND, CANNOT = 0, 1, 2
"""Exit statuses: all is well; something was found; it could not be carried out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """
    One command.

    Args:
        path: Its words after ``twh-platform``: ``("tenancy", "lint")``.

        help: One line for the list of commands.

        configure: Adds its arguments to a parser.

        run: Does it and returns the exit status.  A `PlatformError` that it
            raises is printed, and the status is `CANNOT`.

        epilog: What stands below its own help.
    """

    path: tuple[str, ...]
    help: str
    configure: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    epilog: str = ""
