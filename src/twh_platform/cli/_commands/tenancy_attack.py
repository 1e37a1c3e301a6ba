"""
`twh-platform tenancy attack`: attack a service's own database, pool and app.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import ConfigurationError
from ...tenancy import Tenant
from ...tenancy.postgres import Seal
from ...tenancy.postgres.attack import AttackReport, attack, attack_pool
from .._command import FOUND, OK, Command
from .._output import write_report

__all__ = ["COMMAND", "DSN_VARIABLE"]

DSN_VARIABLE = "TWH_ATTACK_DSN"
"""The environment variable that holds the DSN if the command line does not."""

_OBJECT = "PACKAGE.MODULE:NAME"


def configure(parser: argparse.ArgumentParser) -> None:
    """
    Add the arguments.
    """
    add = parser.add_argument
    add(
        "dsn",
        nargs="?",
        metavar="DSN",
        help=f"the service's own login; {DSN_VARIABLE} if it is left out",
    )
    add("--tenant", required=True, metavar="ID", help="the attacker's own tenant, which exists")
    add("--other", required=True, metavar="ID", help="the tenant to steal from, which has rows")
    add("--tenant-key", metavar="K", help="what the tenant column has for it, if not the ID")
    add("--other-key", metavar="K", help="the same for the other one")
    add("--seal", type=Path, metavar="FILE", help="the key of a sealed database")
    add(
        "--setting",
        action="append",
        default=[],
        metavar="S",
        help="the setting that binds a tenant, where that is not done by tenant connections; "
        "repeat",
    )
    add("--role", metavar="R", help="what the service becomes after it has logged in")
    add("--schema", action="append", default=[], metavar="S", help="attack only this; repeat")
    add(
        "--tenant-column",
        action="append",
        default=[],
        metavar="C",
        help="a tenant column's name, besides those inferred; repeat",
    )
    add("--attack", action="append", default=[], metavar="ID", help="only this attack; repeat")
    add("--ignore", action="append", default=[], metavar="ID", help="leave one out; repeat")
    _configure_targets(parser)
    add("--format", choices=("text", "json"), default="text", help="text if left out")
    add(
        "--output", type=Path, metavar="FILE", help="where to write it; standard output if left out"
    )
    add(
        "--allow-inconclusive",
        action="store_true",
        help="let attacks that prove nothing pass, as where the other tenant has no rows",
    )


def _configure_targets(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--pool", metavar=_OBJECT, help="attack this engine or pool too, or what a function makes")
    add("--probe", metavar="SQL", help="what the pool is asked; found in the schema if left out")
    add("--bind", metavar=_OBJECT, help="makes a tenant current; bind_tenant if left out")
    add("--transactions", type=int, default=400, metavar="N", help="of the pool; 400 if left out")
    add("--app", metavar=_OBJECT, help="walk through this ASGI app too; what it makes stays")
    add("--authorize", metavar=_OBJECT, help="returns a request as one that a tenant sends")
    add("--steps", metavar=_OBJECT, help="what each tenant does first in the app")


def run(options: argparse.Namespace) -> int:
    """
    Attack, write the report, and say with the status whether anything counts.
    """
    dsn = options.dsn or os.environ.get(DSN_VARIABLE)
    if not dsn:
        raise ConfigurationError(f"give a DSN, or set {DSN_VARIABLE}", code="attack_dsn_missing")
    if options.app and not options.authorize:
        raise ConfigurationError("--app needs --authorize", code="attack_object_invalid")
    report = attack(
        dsn,
        tenant=options.tenant,
        other=options.other,
        tenant_key=options.tenant_key,
        other_key=options.other_key,
        settings=options.setting,
        seal=Seal.from_file(options.seal) if options.seal else None,
        role=options.role,
        schemas=options.schema,
        tenant_columns=options.tenant_column,
        attacks=options.attack,
        ignore=options.ignore,
    )
    if options.pool:
        report = _with_pool(report, options)
    if options.app:
        report = asyncio.run(_with_app(report, options))
    _write(report, options)
    return OK if report.is_safe(allow_inconclusive=options.allow_inconclusive) else FOUND


def _with_pool(report: AttackReport, options: argparse.Namespace) -> AttackReport:
    probe = options.probe or report.probe
    if not probe:
        raise ConfigurationError(
            "there is no table in which both tenants have rows: give --probe",
            code="attack_not_bound",
        )
    found = asyncio.run(
        attack_pool(
            _loaded(options.pool),
            tenant=options.tenant,
            other=options.other,
            tenant_key=options.tenant_key,
            other_key=options.other_key,
            probe=probe,
            bind=_loaded(options.bind) if options.bind else None,
            transactions=options.transactions,
        )
    )
    kept = [
        one for one in found.results if not {one.attack.id, one.attack.name} & {*options.ignore}
    ]
    return replace(report, results=(*report.results, *kept))


async def _with_app(report: AttackReport, options: argparse.Namespace) -> AttackReport:
    from ...testing import AppClient, walk

    app = _loaded(options.app)
    async with AppClient(app) as client:
        try:
            walked = await walk(
                app,
                # The walk's first tenant is the one whose data must not be seen.
                tenants=(Tenant(id=options.other), Tenant(id=options.tenant)),
                authorize=_loaded(options.authorize),
                steps=_loaded(options.steps) if options.steps else (),
                client=client,
            )
            walked.ensure_clean()
        except AssertionError as error:
            return replace(report, app=str(error), app_clean=False)
    return replace(report, app=walked.summary())


def _loaded(name: str) -> Any:
    """
    Import an object, also from the folder that the command is run in.

    Raises:
        twh_platform.errors.ConfigurationError: With code ``attack_object_invalid``.
    """
    module, _, attribute = name.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(
            f"{name!r} is no {_OBJECT}: {error}", code="attack_object_invalid"
        ) from error
    return found


def _write(report: AttackReport, options: argparse.Namespace) -> None:
    made = report.json() if options.format == "json" else report.text()
    write_report(made, options.output, code="attack_output_invalid")


COMMAND = Command(
    path=("tenancy", "attack"),
    help="attack a service's own database, pool and app as another tenant",
    configure=configure,
    run=run,
    epilog="Exit status: 0 all attacks were refused, 1 something leaked or proved nothing,\n"
    "2 it could not be done.  The attacks on the database commit nothing.  Those on a\n"
    "pool commit and write no row; those on an app leave what its steps create.  Use a\n"
    "copy all the same.  A DSN on the command line is seen by other users of the\n"
    "machine: prefer the environment, or a password file.",
)
