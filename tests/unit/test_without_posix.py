"""
What of the package imports on a Python without the POSIX parts of the standard library.

Windows has none of them.  Hiding them here shows what a receiver of webhooks meets there.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import twh_platform

PACKAGE = Path(twh_platform.__file__).parent

# The standard library goes first: on this system its own modules need what is hidden.
_HIDDEN = """
import asyncio, concurrent.futures, importlib, json, logging, multiprocessing, os
import pkgutil, signal, socket, sqlite3, ssl, subprocess, sys, tempfile, uuid
POSIX = {"fcntl", "grp", "pwd", "resource", "termios"}
NAMES = (
    "O_CLOEXEC O_DIRECTORY O_NOFOLLOW O_NONBLOCK fchmod fchown fork forkpty geteuid getgid "
    "getloadavg getuid pread pwrite register_at_fork sched_getaffinity sysconf uname"
).split()
SIGNALS = ["SIGALRM", "SIGCHLD", "SIGHUP", "SIGKILL", "SIGQUIT", "SIGUSR1", "SIGUSR2"]
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name in POSIX:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
def hide():
    for name in POSIX:
        sys.modules.pop(name, None)
    sys.meta_path.insert(0, Blocker())
    for name in NAMES:
        delattr(os, name)
    for name in SIGNALS:
        delattr(signal, name)
hide()
"""

_IMPORT_ALL = """
package = importlib.import_module(sys.argv[1])
below = pkgutil.walk_packages(package.__path__, sys.argv[1] + ".", onerror=lambda name: None)
found = {}
for module in [sys.argv[1], *(one.name for one in below)]:
    try:
        importlib.import_module(module)
    except Exception as error:
        found[module] = f"{type(error).__name__}: {error}"
print(json.dumps(found))
"""

_SHARE = """
from twh_platform.errors import ConfigurationError
from twh_platform.telemetry import MetricsDirectory, Registry
registry = Registry()
registry.counter("jobs_total", "Jobs.").inc()
try:
    MetricsDirectory(sys.argv[1])
except ConfigurationError as error:
    print(json.dumps([error.code, "jobs_total 1.0" in registry.page().decode()]))
"""

_NEEDS_FCNTL = """
try:
    import fcntl
except ImportError as error:
    print(json.dumps([error.name, hasattr(os, "fork")]))
"""


def run_without_posix(code, *arguments):
    """
    Run *code* in a Python that has no POSIX and no extras, and read what it prints.
    """
    begin = f"{_HIDDEN}\nsys.path.insert(0, {str(PACKAGE.parent)!r})\n"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", begin + code, *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_what_is_hidden_is_hidden():
    """Control: a module that needs fcntl does not import."""
    assert run_without_posix(_NEEDS_FCNTL) == ["fcntl", False]


@pytest.mark.parametrize("capability", ["webhooks", "telemetry", "tenancy", "quotas"])
def test_a_capability_imports_without_posix(capability):
    """Each module imports, or names the extra that it wants."""
    found = run_without_posix(_IMPORT_ALL, f"twh_platform.{capability}")
    unfit = {name: said for name, said in found.items() if "install twh-platform[" not in said}

    assert unfit == {}


def test_workers_share_nothing_without_posix(tmp_path):
    """A directory of several workers is refused by name; a registry of its own works."""
    assert run_without_posix(_SHARE, str(tmp_path)) == ["metrics_directory_unsupported", True]
