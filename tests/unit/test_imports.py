"""
Which way imports point, and what a bare install can import.

The rules are functions over sources, so that planted faults can show that each
of them is able to fail.
"""

from __future__ import annotations

import ast
import functools
import graphlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import twh_platform

PACKAGE = Path(twh_platform.__file__).parent
EXTRAS = set(importlib.metadata.metadata("twh-platform").get_all("Provides-Extra") or ())

LEAVES = {"errors", "_asgi", "_breaker", "_signals", "_extras", "_forks", "_hidden", "_files"}
CONTEXT = {"tenancy._context", "tenancy._tenant", "tenancy._carry"}
SEAMS = (
    "_async_service",
    "_blind_index",
    "_cache",
    "_checks",
    "_cipher",
    "_data_keys",
    "_directory",
    "_envelope",
    "_fallback",
    "_guard",
    "_keyset",
    "_lease",
    "_leasing",
    "_limiter",
    "_local",
    "_notices",
    "_overridden_plans",
    "_overrides",
    "_service",
    "_sink",
    "_sqlite_data_keys",
    "_store",
    "_stream",
    "_suites",
    "_tails",
    "_usage",
)
# What stands on the seams of its capability, and is opened by a door of its own.
ROOMS = {"kms.secrets", "kms.lifecycle"}
TOP = {"platform", "config", "console", "cli", "testing"}
LAYERS = ["leaf", "context", "middle", "seam", "room", "middleware", "technology", "top"]

Edge = tuple[str, str]
Bare = tuple[list[str], dict[str, str]]


def read_sources(package: Path) -> dict[str, str]:
    """
    Map each module, named from the package on, to its source; the root is "".
    """
    sources = {}
    for path in package.rglob("*.py"):
        parts = path.relative_to(package).with_suffix("").parts
        sources[".".join(part for part in parts if part != "__init__")] = path.read_text()
    return sources


def imports_of(module: str, sources: dict[str, str]) -> Iterator[str]:
    """
    Yield the full names that a module imports, wherever in it the import stands.
    """
    yield from _imports(module, sources[module], is_package=module in _packages(sources))


# By the text: each control changes one module of some hundreds.
@functools.cache
def _imports(module: str, source: str, *, is_package: bool) -> list[str]:
    return list(_read_imports(module, source, is_package=is_package))


def _read_imports(module: str, source: str, *, is_package: bool) -> Iterator[str]:
    here = ["twh_platform", *filter(None, module.split("."))]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            up = node.level - is_package
            base = here[: len(here) - up] if node.level else []
            prefix = ".".join([*base, *filter(None, [node.module])])
            yield from (f"{prefix}.{alias.name}" for alias in node.names)


def resolve(full_name: str, sources: dict[str, str]) -> str:
    """
    Find the module that an imported name of ours comes from, through re-exports.
    """
    name = full_name.removeprefix("twh_platform").removeprefix(".")
    if name in sources:
        return name
    package, _, attribute = name.rpartition(".")
    if package not in sources:
        return resolve(f"twh_platform.{package}", sources) if package else ""
    if package not in _packages(sources):
        return package
    for origin in imports_of(package, sources):
        if origin.startswith("twh_platform.") and origin.rpartition(".")[2] == attribute:
            return resolve(origin, sources)
    return package


def edges(sources: dict[str, str]) -> list[Edge]:
    """
    List who imports whom within the package.
    """
    return [
        (module, resolve(name, sources))
        for module in sources
        for name in imports_of(module, sources)
        if name.partition(".")[0] == "twh_platform"
    ]


def layer(module: str) -> str:
    """
    Name the layer of a module.
    """
    parts = module.split(".")
    if module in LEAVES:
        return "leaf"
    if parts[0] in TOP or not module:
        return "top"
    if module in CONTEXT:
        return "context"
    if "_middleware" in parts or parts[-1].startswith("_api") or len(parts) == 1:
        return "middleware"
    if ".".join(parts[:2]) in ROOMS:
        return "room"
    return _layer_in_capability(parts)


def _layer_in_capability(parts: list[str]) -> str:
    if len(parts) > 2 or not parts[1].startswith("_"):
        return "technology"
    return "seam" if parts[1].startswith(SEAMS) else "middle"


def direction_faults(sources: dict[str, str]) -> list[str]:
    """
    List the imports that point upwards.
    """
    return [
        f"{importer} ({layer(importer)}) imports {imported or 'the front door'} ({layer(imported)})"
        for importer, imported in edges(sources)
        if importer and LAYERS.index(layer(importer)) < LAYERS.index(layer(imported))
    ]


def front_door_faults(sources: dict[str, str]) -> list[str]:
    """
    List the modules that import their own front door.
    """
    return [importer for importer, imported in edges(sources) if importer and not imported]


def crossing_faults(sources: dict[str, str]) -> list[str]:
    """
    List the imports from one capability into another, but for tenancy's open rooms.
    """
    closed = LEAVES | TOP
    return [
        f"{importer} imports {imported}"
        for importer, imported in edges(sources)
        if (mine := importer.split(".")[0]) != (theirs := imported.split(".")[0])
        and mine not in {*closed, ""}
        and theirs not in closed
        and imported not in CONTEXT
        and not imported.startswith("tenancy.postgres")
    ]


def third_party_faults(sources: dict[str, str]) -> list[str]:
    """
    List the imports from outside in modules that are not named like an extra.
    """
    return [
        f"{module} imports {name}"
        for module in sources
        for name in imports_of(module, sources)
        if name.partition(".")[0] not in {*sys.stdlib_module_names, "twh_platform"}
        and not any(part.strip("_").split("_")[0] in EXTRAS for part in module.split("."))
    ]


def cycles(sources: dict[str, str]) -> list[str]:
    """
    Name the modules of one circle of imports, if there is any.
    """
    graph: dict[str, set[str]] = {}
    for importer, imported in edges(sources):
        if importer != imported and not {importer, imported} & _packages(sources):
            graph.setdefault(importer, set()).add(imported)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def _packages(sources: dict[str, str]) -> frozenset[str]:
    return _packages_among(frozenset(sources))


@functools.cache
def _packages_among(names: frozenset[str]) -> frozenset[str]:
    return frozenset({name.rpartition(".")[0] for name in names} | {""})


# What a bare install does.  Run with -I -S, the interpreter knows no other package.
_BARE = """
import importlib, importlib.machinery, json, sys
parent, *modules = json.loads(sys.argv[1])
class OnlyOurs:
    def find_spec(self, name, path=None, target=None):
        if name == "twh_platform":
            return importlib.machinery.PathFinder.find_spec(name, [parent])
if parent:
    sys.meta_path.append(OnlyOurs())
before = set(sys.modules)
import twh_platform
roots = {name.partition(".")[0] for name in set(sys.modules) - before}
strangers = {name for name in roots if not name.startswith("_")}
loaded = sorted(strangers - {*sys.stdlib_module_names, "twh_platform"})
found = {}
from twh_platform.errors import MissingExtraError
for module in modules:
    try:
        importlib.import_module(module)
        found[module] = "imported"
    except MissingExtraError as error:
        found[module] = str(error)
    except BaseException as error:
        found[module] = f"FAULT {error!r}"
print(json.dumps([loaded, found]))
"""


def import_bare(package: Path, *, isolated: bool = True) -> Bare:
    """
    Import every module of *package* without any extra.

    Args:
        package: The folder of the package.

        isolated: Leave out all installed packages; False takes them as they are.

    Returns:
        What the front door alone loads from outside, and how each module fared.
    """
    names = [f"twh_platform.{name}" for name in sorted(read_sources(package)) if name]
    flags = ["-I", "-S"] if isolated else []
    arguments = [json.dumps([str(package.parent) if isolated else "", *names])]
    done = subprocess.run(
        [sys.executable, *flags, "-c", _BARE, *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded, found = json.loads(done.stdout)
    return loaded, found


def bare_faults(bare: Bare) -> list[str]:
    """
    List what neither imports nor says honestly which extra it wants.
    """
    loaded, found = bare
    faults = [f"import twh_platform loads {name}" for name in loaded]
    for module, outcome in found.items():
        extra = re.fullmatch(r".*: install twh-platform\[(\w+)\] to use this module", outcome)
        honest = extra is not None and extra[1] in EXTRAS and not outcome.startswith("FAULT")
        if outcome != "imported" and not honest:
            faults.append(f"{module}: {outcome}")
    return faults


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    """
    The package as it is.
    """
    return read_sources(PACKAGE)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    A copy of the package, to plant faults in.
    """
    return Path(shutil.copytree(PACKAGE, tmp_path_factory.mktemp("copy") / "twh_platform"))


@pytest.fixture(scope="module")
def clean(copy: Path) -> set[str]:
    """
    What is wrong with the copy before anything is planted in it.
    """
    return set(bare_faults(import_bare(copy)))


@contextmanager
def planted_in(file: Path, text: str) -> Iterator[None]:
    """
    Append *text* to a file, which may be missing, and leave it as it was.
    """
    before = file.read_bytes() if file.exists() else None
    with file.open("a") as end:
        end.write(f"\n{text}\n")
    try:
        yield
    finally:
        if before is None:
            file.unlink()
        else:
            file.write_bytes(before)


@pytest.mark.parametrize(
    "rule", [direction_faults, front_door_faults, crossing_faults, third_party_faults, cycles]
)
def test_imports_point_one_way(rule, sources):
    """The package keeps every rule about its imports."""
    assert rule(sources) == []


PLANTED = [
    (direction_faults, "errors", "from .tenancy import Tenant"),
    (direction_faults, "_asgi", "from .tenancy._tenant import Tenant"),
    (direction_faults, "tenancy._context", "from ._claim import anything"),
    (direction_faults, "tenancy._planted", "from ._middleware import TenantMiddleware"),
    (direction_faults, "tenancy._planted", "def f():\n    from .postgres import psycopg"),
    (direction_faults, "tenancy._planted", "from twh_platform.testing import ManualClock"),
    (front_door_faults, "tenancy._planted", "from twh_platform import anything_at_all"),
    (front_door_faults, "testing._planted", "import twh_platform"),
    (crossing_faults, "quotas._planted", "from ..tenancy._planted_too import anything"),
    (crossing_faults, "tenancy._planted", "from twh_platform.quotas import Limiter"),
    (third_party_faults, "tenancy._planted", "import psycopg"),
    (third_party_faults, "tenancy._planted", "def f():\n    from starlette.types import Scope"),
    (cycles, "tenancy._planted", "from ._planted_too import x"),
]


@pytest.mark.parametrize(("rule", "module", "planted"), PLANTED)
def test_a_planted_import_is_found(rule, module, planted, sources):
    """Control: each rule reports the fault that is planted for it."""
    others = {
        "quotas": "",
        "quotas._planted_too": "from ..tenancy import Tenant, current_tenant",
        "tenancy._planted_too": "from ._planted import x",
        "tenancy._middleware": "",
        "tenancy._planted": "",
        "testing._planted": "",
    }
    clean = {**others, **sources, "tenancy._planted_too": ""}
    faulty = {**clean, **others, module: f"{clean.get(module, '')}\n{planted}\n"}

    assert set(rule(faulty)) - set(rule(clean))


def test_a_bare_install_imports_or_says_what_to_install():
    """Without extras every module imports, or names the extra that it wants."""
    bare = import_bare(PACKAGE)

    assert bare_faults(bare) == []
    assert "imported" in bare[1].values()


@pytest.mark.parametrize(
    ("module", "planted"),
    [
        ("tenancy/_planted.py", "import psycopg"),
        ("_planted.py", "raise ImportError('x: install twh-platform[psycopg] to use this module')"),
        (
            "_planted.py",
            "from ._extras import missing_extra\nraise missing_extra('x', ImportError())",
        ),
        ("__init__.py", "import sys, types; sys.modules['psycopg'] = types.ModuleType('psycopg')"),
    ],
)
def test_a_planted_dependency_is_found(module, planted, copy, clean):
    """Control: a module that needs more than it says is reported."""
    with planted_in(copy / module, planted):
        found = set(bare_faults(import_bare(copy)))

    assert found - clean


@pytest.mark.skipif(os.environ.get("TWH_TEST_BARE") != "1", reason="for `nox -s bare`")
def test_the_bare_session_is_bare():
    """Where no extra is installed the same holds with nothing hidden."""
    bare = import_bare(PACKAGE, isolated=False)
    missing = [outcome for outcome in bare[1].values() if "install twh-platform[" in outcome]

    assert bare_faults(bare) == []
    assert missing
