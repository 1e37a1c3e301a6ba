"""
The commands of this project; `nox -l` lists them.
"""

from __future__ import annotations

import os
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "venv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "types", "tests", "attack", "bare", "coverage", "docs"]
nox.options.error_on_missing_interpreters = True

ATTACKS = "tests/attacks"
# Its thousands of sequences take three times as long while coverage watches.
TWIN = "tests/property/test_quota_lua.py"
# They wait for servers more than they work.  A file stays in one: its tests share databases.
WORKERS = ["--numprocesses=3", "--dist=loadfile"]
GROUPS = nox.project.load_toml("pyproject.toml")


def group(name: str) -> list[str]:
    """
    Return what a dependency group asks for; Debian's pip knows no groups.
    """
    return list(nox.project.dependency_groups(GROUPS, name))


@nox.session
def demo(session: nox.Session) -> None:
    """
    Run the warehouse on loopback; `-- --check` drives its tour and exits.
    """
    session.install("-e", ".[all]", *group("demo"))
    session.run("python", "-m", "examples.warehouse", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """
    Run the tests with every extra, the documents and docstrings; `-- ARGS` go to pytest.
    """
    session.install("-e", ".[all,testing]", *group("tests-all"), *group("jobs"))
    # What async SQLAlchemy runs in greenlets is measured in part: with --concurrency=greenlet
    # each thread has a greenlet, and a worker was seen to destroy those without an end.
    measured = ["coverage", "run", "-m", "pytest"]
    arguments = session.posargs or [*WORKERS, f"--ignore={ATTACKS}", f"--ignore={TWIN}"]
    session.run(*measured, *arguments, env=_coverage("all"))
    if not session.posargs:
        session.run("pytest", TWIN)
        for rest in ("attack", "lint", "types", "bare", "coverage", "docs"):
            session.notify(rest)


@nox.session
def attack(session: nox.Session) -> None:
    """
    Try every attack, on each PostgreSQL that is there and on Redis; prints what it got.
    """
    session.install("-e", ".[all,testing]", *group("tests-all"), *group("anchors"))
    session.run("pytest", ATTACKS, *session.posargs)


@nox.session
def bare(session: nox.Session) -> None:
    """
    Run the tests on a wheel without extras; what needs one is skipped.
    """
    session.install(".", *group("tests"))
    environment = {**_coverage("bare"), "TWH_TEST_BARE": "1"}
    arguments = session.posargs or [*WORKERS, "tests", f"--ignore={ATTACKS}"]
    session.run("coverage", "run", "-m", "pytest", *arguments, env=environment)


@nox.session(python=["3.12", "3.13"])
def versions(session: nox.Session) -> None:
    """
    Run the unit, contract and context tests on the newer Pythons; `-- ARGS` go to pytest.
    """
    session.install("-e", ".[all,testing]", *group("tests-all"))
    context = "tests/integration/tenancy/test_context.py"
    session.run("pytest", *(session.posargs or ["tests/unit", "tests/contracts", context]))


@nox.session
def coverage(session: nox.Session) -> None:
    """
    Join the coverage of both test sessions and hold it to the bar.
    """
    session.install(*group("coverage"))
    joined = {"COVERAGE_FILE": os.fspath(Path("build/joined-coverage").resolve())}
    parts = sorted(os.fspath(path) for path in Path("build/coverage").glob("*"))
    session.run("coverage", "combine", "--keep", *parts, env=joined)
    session.run("coverage", "report", env=joined)


@nox.session
def lint(session: nox.Session) -> None:
    """
    Check style and formatting.
    """
    session.install(*group("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """
    Check the types of the package, of its use in tests/typing and of the examples.
    """
    session.install("-e", ".[all,testing]", *group("types"))
    places = ["src", "tests/typing", "examples", "noxfile.py", "conftest.py", "tests/conftest.py"]
    session.run("mypy", *(place for place in places if Path(place).exists()))


@nox.session
def docs(session: nox.Session) -> None:
    """
    Build the documentation into build/docs; a warning is an error.
    """
    session.install("-e", ".[all,testing]", *group("docs"))
    session.run("sphinx-build", "-W", "--keep-going", "-b", "html", "docs", "build/docs")


@nox.session
def bench(session: nox.Session) -> None:
    """
    Compare with public alternatives, side by side; `-- tenancy --json FILE`.
    """
    session.install("-e", ".[all,testing]", *group("bench"))
    session.run("python", "-m", "tests.bench", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """
    Look for input that breaks the reader of webhooks, a minute; `-- --seconds N`.
    """
    session.install("-e", ".[webhooks]", *group("fuzz"))
    session.run("python", "-m", "tests.fuzz.webhooks", *session.posargs)


@nox.session
def audit(session: nox.Session) -> None:
    """
    Look for known faults: bandit over the source, pip-audit over the dependencies.
    """
    session.install("-e", ".[all]", *group("audit"))
    session.run("bandit", "-q", "-c", "pyproject.toml", "-r", "src")
    frozen = session.run("python", "-m", "pip", "freeze", "--exclude-editable", silent=True)
    pinned = Path(session.create_tmp()) / "requirements.txt"
    pinned.write_text(str(frozen))
    # Strict: what the advisory database does not know has not been audited.
    session.run(
        "pip-audit",
        "--strict",
        "--no-deps",
        "--disable-pip",
        "--progress-spinner=off",
        "-r",
        str(pinned),
    )


def _coverage(name: str) -> dict[str, str]:
    """
    Give each test session coverage files of its own, and delete those of earlier runs.
    """
    folder = Path("build/coverage").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"{name}*"):
        old.unlink()
    return {"COVERAGE_FILE": os.fspath(folder / name)}
