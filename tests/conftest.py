"""
What all tests share.
"""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def project_root() -> Path:
    """
    The folder of `pyproject.toml`.
    """
    return ROOT
