"""
What is published as source can be tested and built from.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile

import hatchling

NEEDED = {
    ".ci/run",
    "conftest.py",
    "docs/conf.py",
    "examples/warehouse/__main__.py",
    "noxfile.py",
    "pyproject.toml",
    "src/twh_platform/py.typed",
    "tests/conftest.py",
}


def test_the_sdist_holds_what_the_tests_need(project_root, tmp_path):
    """Unpacked, it runs the same commands as the repository."""
    command = [sys.executable, "-m", hatchling.__name__, "build", "-t", "sdist", "-d", tmp_path]
    subprocess.run(command, cwd=project_root, check=True, capture_output=True)
    (archive,) = tmp_path.iterdir()
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}

    assert set() == NEEDED - names
