"""
What all tests share.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from twh_platform.errors import MissingExtraError

ROOT = Path(__file__).parent.parent


class BareModule(pytest.Module):
    """
    A test file that is skipped where the optional dependency it imports is missing.
    """

    def collect(self) -> Iterable[pytest.Item | pytest.Collector]:
        """
        Collect, or skip the whole file.
        """
        try:
            return super().collect()
        except self.CollectError as error:
            if not _is_optional(error.__cause__):
                raise
            pytest.skip(f"bare install: {error.__cause__}", allow_module_level=True)


def _is_optional(cause: BaseException | None) -> bool:
    """
    Tell a missing extra from a mistake in our own imports.
    """
    if isinstance(cause, MissingExtraError):
        return True
    ours = {"examples", "tests", "twh_platform"}
    name = cause.name if isinstance(cause, ModuleNotFoundError) else None
    return name is not None and name.partition(".")[0] not in ours


def pytest_pycollect_makemodule(
    module_path: Path, parent: pytest.Collector
) -> pytest.Module | None:
    """
    Forgive missing extras in the session that runs without any, and nowhere else.
    """
    if os.environ.get("TWH_TEST_BARE") != "1":
        return None
    module: pytest.Module = BareModule.from_parent(parent, path=module_path)
    return module


@pytest.fixture(scope="session")
def project_root() -> Path:
    """
    The folder of `pyproject.toml`.
    """
    return ROOT
