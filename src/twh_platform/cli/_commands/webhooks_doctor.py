"""
`twh-platform webhooks doctor`: find out why a webhook is refused.
"""

from __future__ import annotations

import argparse
import sys

from .._command import FOUND, OK, Command
from .._webhooks import (
    add_received,
    arrival_clock,
    read_body,
    read_headers,
    read_keyring,
    the_profile,
)

__all__ = ["COMMAND"]


def run(options: argparse.Namespace) -> int:
    """
    Say the cause, how it was found, and what to look at.
    """
    from ...webhooks import diagnose

    profile = the_profile(options)
    found = diagnose(
        headers=read_headers(options),
        body=read_body(options),
        keys=read_keyring(options, profile, public=True, lenient=True),
        profile=profile,
        method=options.method,
        url=options.url,
        clock=arrival_clock(options),
    )
    if not found.code:
        sys.stdout.write("it holds\n")
        return OK
    lines = [("refused", found.code), ("cause", found.cause.value), ("found", found.how)]
    lines.append(("proven", "yes" if found.proven else "no"))
    if found.key_id:
        lines.append(("key", found.key_id))
    lines.append(("remedy", found.remedy))
    sys.stdout.write("".join(f"{name}: {value}\n" for name, value in lines))
    return FOUND


COMMAND = Command(
    path=("webhooks", "doctor"),
    help="find the probable cause why a webhook is refused",
    configure=add_received,
    run=run,
    epilog="What it says is for you, not for the sender: it would help to forge.",
)
