"""
What an option may be.
"""

from __future__ import annotations

from ..errors import ConfigurationError

__all__ = ["require_positive"]


def require_positive(**options: float) -> None:
    """
    Refuse options that are not above zero, by their names.

    Raises:
        twh_platform.errors.ConfigurationError: If one is not; a NaN is not.
    """
    for name, value in options.items():
        if not value > 0:
            message = f"{name}={value!r} is not above zero"
            raise ConfigurationError(message)
