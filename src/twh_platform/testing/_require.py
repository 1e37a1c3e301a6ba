"""
Whether a part that a test needs may be missing.

`TWH_REQUIRE` names the parts whose absence is a failure, separated by commas.
Every other absence is a skip that says how to get the part.
"""

from __future__ import annotations

import os
from typing import TypeVar

from .._extras import missing_extra

__all__ = ["require_part"]

T = TypeVar("T")


def require_part(part: str, found: T | None, *, hint: str) -> T:
    """
    Return *found*, or end the running test because *part* is missing.

    ::

        redis = require_part(
            "redis", shutil.which("redis-server"), hint="apt-get install redis-server"
        )

    Args:
        part: The name that `TWH_REQUIRE` knows it by, such as ``postgres``.

        found: What was found; None means that the part is missing.

        hint: How to get it, for the one who reads the skip.

    Raises:
        twh_platform.errors.MissingExtraError: If pytest is not installed.

        Exception:
            What `pytest.fail` raises if `TWH_REQUIRE` names the part, what
            `pytest.skip` raises otherwise.
    """
    if found is not None:
        return found
    try:
        import pytest
    except ImportError as error:
        raise missing_extra("testing", error) from error
    required = {name.strip() for name in os.environ.get("TWH_REQUIRE", "").split(",")}
    if part in required:
        pytest.fail(f"{part} is missing and TWH_REQUIRE asks for it: {hint}", pytrace=False)
    pytest.skip(f"{part} is missing: {hint}")
