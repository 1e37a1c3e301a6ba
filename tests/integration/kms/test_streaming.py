"""
Gate G8: 256 MiB through seal and open in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytest.importorskip("cryptography")

MIB = 1024 * 1024


def test_a_large_stream_needs_little_memory_and_no_cut_of_it_opens(project_root):
    """At most 2 MiB more memory; cut after any chunk, of the first 8 MiB here, it is refused."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.stream_probe", "256", "8"],
        capture_output=True,
        text=True,
        check=True,
        cwd=project_root,
        timeout=300,
    )
    told = json.loads(done.stdout)

    assert told["out"] == 256 * MIB
    assert told["grown"] <= 2 * MIB
    assert told["tried"] == told["refused"] == 8 * MIB // 16_384 + 1
