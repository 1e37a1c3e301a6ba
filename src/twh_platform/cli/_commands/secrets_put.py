"""
`twh-platform secrets put`: keep a new version of a secret.
"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import ConfigurationError
from .._command import OK, Command
from .._secrets import (
    add_name,
    add_owner,
    add_store,
    owner,
    read_secret,
    secret_store,
    version_line,
)

if TYPE_CHECKING:
    from ...kms.secrets import RotationPolicy

__all__ = ["COMMAND"]


def configure(parser: argparse.ArgumentParser) -> None:
    """
    Add the arguments.
    """
    add_name(parser)
    add_store(parser)
    add_owner(parser)
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="FILE",
        help="the file with the value; standard input if it is left out",
    )
    source.add_argument("--random", action="store_true", help="make the value by the policy")
    add("--exact", action="store_true", help="keep the line break at the end of the value")
    add("--pending", action="store_true", help="keep it for later: `rotate` makes it current")
    add("--expected", type=int, metavar="N", help="refuse if the newest version is not N; 0: none")
    add("--expires-in", type=float, metavar="SECONDS", help="from then on it is not given")
    add("--overlap", type=float, metavar="SECONDS", help="how long the value before it stays valid")
    add("--every", type=float, metavar="SECONDS", help="rotate it by itself, this often")
    add("--bytes", type=int, default=32, metavar="N", help="random bytes of a value that is made")
    forms = ["raw", "hex", "base64url", "whsec"]
    add("--form", choices=forms, default="base64url", help="how a value that is made is written")


def run(options: argparse.Namespace) -> int:
    """
    Keep it, and say under which number.
    """
    from ...kms.secrets import Secret, Stage

    policy = _policy(options)
    if options.random:
        secret = Secret.random(options.bytes, options.form)
    else:
        secret = read_secret(options.source, exact=options.exact)
    expires_at = None
    if options.expires_in is not None:
        expires_at = _moment(options.expires_in)
    with secret_store(options) as store, owner(options):
        version = store.put(
            options.name,
            secret,
            stage=Stage.PENDING if options.pending else Stage.CURRENT,
            expires_at=expires_at,
            expected=options.expected,
            overlap=options.overlap,
            policy=policy,
        )
    sys.stdout.write(version_line(version))
    return OK


def _moment(seconds: float) -> datetime:
    try:
        return datetime.now(UTC) + timedelta(seconds=seconds)
    except (OverflowError, ValueError) as error:
        message = f"--expires-in {seconds!r} is no time"
        raise ConfigurationError(message, code="secret_time_invalid") from error


def _policy(options: argparse.Namespace) -> RotationPolicy | None:
    from ...kms.secrets import RotationPolicy

    if options.every is None:
        return None
    if options.overlap is None:
        message = "--every needs --overlap: for how long the value before stays valid"
        raise ConfigurationError(message, code="rotation_policy_invalid")
    return RotationPolicy(
        every=options.every,
        overlap=options.overlap,
        random_bytes=options.bytes,
        form=options.form,
    )


COMMAND = Command(
    path=("secrets", "put"),
    help="keep a new version of a secret; the value comes from standard input or a file",
    configure=configure,
    run=run,
)
