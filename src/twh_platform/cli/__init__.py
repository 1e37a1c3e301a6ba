"""
The command `twh-platform`.
"""

from ._main import main

__all__ = ["main"]
