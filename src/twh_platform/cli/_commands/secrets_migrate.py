"""
`twh-platform secrets migrate`: move readable secrets into the store.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import ConfigurationError
from .._command import FOUND, OK, Command
from .._secrets import add_owner, add_store, owner, secret_store

if TYPE_CHECKING:
    from ...kms.secrets import ColumnSource, MigrationReport, VersionedSecretStore

__all__ = ["COMMAND"]


def configure(parser: argparse.ArgumentParser) -> None:
    """
    Add the arguments.
    """
    add_store(parser)
    add_owner(parser)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--env", type=Path, metavar="FILE", help="an env file")
    source.add_argument("--sqlite", type=Path, metavar="FILE", help="a SQLite file with a column")
    source.add_argument("--postgres", metavar="DSN", help="a PostgreSQL database with a column")
    add = parser.add_argument
    add(
        "--variable",
        action="append",
        default=[],
        metavar="VARIABLE=NAME",
        help="of an env file: a variable, and the secret's name; repeat",
    )
    add("--column", metavar="TABLE.COLUMN", help="the column with the secrets")
    add("--key", default="id", metavar="COLUMN", help="names the row; a part of the secret's name")
    add("--owner", metavar="COLUMN", help="has the id of the tenant whose row it is")
    add("--prefix", metavar="NAME", help="the names are NAME/KEY; the column's if left out")
    add(
        "--also",
        action="append",
        type=Path,
        default=[],
        metavar="FILE",
        help="another file to search for what was moved from an env file; repeat",
    )


def run(options: argparse.Namespace) -> int:
    """
    Move, search, and write a line for each value that was moved or is left.
    """
    with secret_store(options) as store, owner(options):
        report = _migrate(options, store)
    for name in report.moved:
        sys.stdout.write(f"moved {name}\n")
    for one in report.left:
        sys.stdout.write(f"still readable: {one.name} in {one.where} ({one.form})\n")
    before = f", {report.before} before" if report.before else ""
    found = f"{len(report.left)} readable" if report.left else "nothing readable left"
    sys.stdout.write(f"{len(report.moved)} moved{before}; {found}\n")
    return FOUND if report.left else OK


def _migrate(options: argparse.Namespace, store: VersionedSecretStore) -> MigrationReport:
    from ...kms.secrets import migrate_column, migrate_env_file

    if options.env is not None:
        names = dict(map(_variable, options.variable))
        return migrate_env_file(options.env, store, names, also=options.also)
    prefix = options.prefix or (options.column or "").rpartition(".")[2].lower()
    return migrate_column(_source(options), store, prefix=prefix)


def _variable(text: str) -> tuple[str, str]:
    variable, equals, name = text.partition("=")
    if not (variable and equals and name):
        # Not repeated: it may be a line of the env file, value and all.
        message = "--variable is VARIABLE=NAME"
        raise ConfigurationError(message, code="migration_source_invalid")
    return variable, name


def _source(options: argparse.Namespace) -> ColumnSource:
    table, dot, column = (options.column or "").rpartition(".")
    if not (table and dot and column):
        message = "--column is TABLE.COLUMN"
        raise ConfigurationError(message, code="migration_source_invalid")
    if options.postgres is not None:
        from ...kms.secrets._psycopg_migrate import PostgresColumn

        return PostgresColumn(options.postgres, table, column, key=options.key, owner=options.owner)
    from ...kms.secrets import SqliteColumn

    return SqliteColumn(options.sqlite, table, column, key=options.key, owner=options.owner)


COMMAND = Command(
    path=("secrets", "migrate"),
    help="move readable secrets into the store, and prove that none is left",
    configure=configure,
    run=run,
    epilog="Exit status: 0 nothing readable is left, 1 something is, 2 it could not be done.\n"
    "The proof covers the source, not its backups and logs: rotate what was moved.",
)
