"""
Vectors of Wycheproof, from the folder that `TWH_TEST_VECTORS` names.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from twh_platform.testing import require_part

__all__ = ["wycheproof"]

HINT = (
    "set TWH_TEST_VECTORS to a folder whose folder wycheproof holds testvectors_v1 of "
    "https://github.com/C2SP/wycheproof"
)


def wycheproof(name: str) -> list[dict[str, Any]]:
    """All cases of one file, each with what its group says."""
    path = Path(os.environ.get("TWH_TEST_VECTORS") or "/nonexistent", "wycheproof", name)
    found = require_part("vectors", path if path.is_file() else None, hint=HINT)
    groups = json.loads(found.read_text())["testGroups"]
    cases = [{**group, **case} for group in groups for case in group["tests"]]
    assert cases
    return cases
