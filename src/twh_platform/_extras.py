"""
What to install when an optional dependency is missing.
"""

from __future__ import annotations

from .errors import MissingExtraError

__all__ = ["missing_extra"]


def missing_extra(extra: str, cause: ImportError) -> MissingExtraError:
    """
    Build the error that a technology's module raises at import.

    Raise it `from` *cause*, so that the module which was really missing is
    still to be seen.
    """
    return MissingExtraError(
        f"{cause.name or extra} is not installed: install twh-platform[{extra}] to use this module"
    )
