"""
`twh-platform webhooks verify`: say whether a webhook is what it claims to be.
"""

from __future__ import annotations

import argparse
import sys

from ...errors import WebhookError, WebhookUsageError
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
    Say what is true about it, or why it is refused.
    """
    from ...webhooks import Verifier

    profile = the_profile(options)
    keyring = read_keyring(options, profile, public=True)
    verifier = Verifier(keyring, profile=profile, clock=arrival_clock(options))
    headers, body = read_headers(options), read_body(options)
    try:
        found = verifier.verify(body, headers, method=options.method, url=options.url)
    except WebhookUsageError:
        raise
    except WebhookError as error:
        sys.stdout.write(f"refused: {error.code}: {error}\n")
        return FOUND
    what = [f"holds: {found.profile}", f"scheme {found.scheme or 'without a name'}"]
    what.append(f"key {found.key_id}")
    if found.id:
        what.append(f"id {found.id}")
    if found.timestamp:
        what.append(f"{found.age} s old")
    sys.stdout.write(", ".join(what) + "\n")
    return OK


COMMAND = Command(
    path=("webhooks", "verify"),
    help="verify a webhook that was kept: its body and its headers",
    configure=add_received,
    run=run,
    epilog="The status is 1 if it is refused; `webhooks doctor` tells the probable cause.",
)
