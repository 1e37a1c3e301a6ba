"""
Finding the command that is meant, and running it.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any

from ..errors import PlatformError
from . import _commands
from ._command import CANNOT, Command

__all__ = ["main"]

_GROUPS = {
    "dashboards": "dashboards for Grafana and rules for Prometheus",
    "kms": "master keys and what they wrap",
    "quotas": "how much tenants may use",
    "secrets": "secrets of tenants and of the platform",
    "tenancy": "isolation of tenants in PostgreSQL",
    "webhooks": "signing and verifying webhooks",
    "keys": "secrets and keys that webhooks are signed with",
    "seal": "keys of a database that believes sealed tenants only",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run the command line.

    Args:
        arguments: The words after ``twh-platform``; those of the process if None.

    Returns:
        The exit status: 0 all is well, 1 something was found, 2 it could not be
        carried out.
    """
    options = _parser().parse_args(arguments)
    command: Command = options.command
    try:
        return command.run(options)
    except PlatformError as error:
        sys.stderr.write(f"twh-platform {' '.join(command.path)}: {error}\n")
        return CANNOT
    except KeyboardInterrupt:
        return CANNOT


def _commands_found() -> Iterator[Command]:
    for module in sorted(pkgutil.iter_modules(_commands.__path__), key=lambda one: one.name):
        yield importlib.import_module(f"{_commands.__name__}.{module.name}").COMMAND


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="twh-platform",
        description="Tenants, quotas, keys, secrets, webhooks and telemetry on PostgreSQL.",
    )
    parser.add_argument("--version", action="version", version=version("twh-platform"))
    groups: dict[tuple[str, ...], Any] = {
        (): parser.add_subparsers(metavar="COMMAND", required=True)
    }
    for command in _commands_found():
        for depth in range(1, len(command.path)):
            group = command.path[:depth]
            if group not in groups:
                about = _GROUPS.get(group[-1], "")
                made = groups[group[:-1]].add_parser(group[-1], help=about, description=about)
                groups[group] = made.add_subparsers(metavar="COMMAND", required=True)
        own = groups[command.path[:-1]].add_parser(
            command.path[-1],
            help=command.help,
            description=command.help,
            epilog=command.epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.configure(own)
        own.set_defaults(command=command)
    return parser
