"""
`twh-platform webhooks sign`: sign a body as a sender does.
"""

from __future__ import annotations

import argparse
import shlex
import sys

from ...errors import ConfigurationError
from .._command import OK, Command
from .._webhooks import (
    add_body,
    add_profile,
    add_request,
    add_secrets,
    read_body,
    read_keyring,
    the_profile,
)

__all__ = ["COMMAND"]


def configure(parser: argparse.ArgumentParser) -> None:
    """
    Add the arguments.
    """
    add_body(parser)
    add_secrets(parser)
    add_profile(parser)
    add_request(parser)
    add = parser.add_argument
    add("--id", dest="event_id", metavar="ID", help="the event's id; a new one if it is left out")
    add("--timestamp", type=int, metavar="SECONDS", help="Unix seconds; now if it is left out")
    add("--curl", action="store_true", help="write a command that sends it to --url")
    add(
        "--content-type",
        default="application/json",
        metavar="TYPE",
        help="for --curl; application/json if it is left out",
    )


def run(options: argparse.Namespace) -> int:
    """
    Write the headers, or the command.
    """
    from ...webhooks import Signer

    if options.curl and not options.url:
        raise ConfigurationError("--curl needs --url", code="webhook_url_missing")
    profile = the_profile(options)
    request = Signer(read_keyring(options, profile, public=False), profile=profile).sign(
        read_body(options),
        event_id=options.event_id,
        timestamp=options.timestamp,
        method=options.method,
        url=options.url,
    )
    lines = [f"{name}: {value}" for name, value in request.headers.items()]
    if options.curl:
        lines = [_curl(options, [f"content-type: {options.content_type}", *lines])]
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return OK


def _curl(options: argparse.Namespace, headers: list[str]) -> str:
    words = ["curl", "--request", options.method]
    for line in headers:
        words += ["--header", line]
    words += ["--data-binary", f"@{options.body or '-'}", "--url", options.url]
    return shlex.join(words)


COMMAND = Command(
    path=("webhooks", "sign"),
    help="sign a body: write the headers to send with it, or a command of curl",
    configure=configure,
    run=run,
    epilog="The secret is in a file or a variable, never an argument.\n\n"
    "  twh-platform webhooks sign order.json --secret-file secret \\\n"
    "      --curl --url http://127.0.0.1:8000/hooks | sh",
)
