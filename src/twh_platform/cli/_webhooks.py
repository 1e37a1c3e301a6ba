"""
What the commands of `webhooks` share: where secrets, bodies and headers come from.

A secret comes from a file or from a variable of the environment, never from an
argument: those are seen by every process of the machine and kept by shells.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .._hidden import HiddenBytes
from ..errors import ConfigurationError, WebhookError

if TYPE_CHECKING:
    from ..webhooks import Keyring, Profile
    from ..webhooks._secrets import WebhookKey

__all__ = [
    "SECRET_VARIABLE",
    "add_body",
    "add_profile",
    "add_received",
    "add_request",
    "add_secrets",
    "arrival_clock",
    "read_body",
    "read_headers",
    "read_keyring",
    "read_keys",
    "the_profile",
    "unusable",
]

SECRET_VARIABLE = "TWH_WEBHOOK_SECRET"  # noqa: S105 -- the name of a variable
"""The environment variable that has the secret if nothing else is given."""

_request_line = re.compile(rb"\S+ .*HTTP/[0-9.]+|HTTP/[0-9.]+ [0-9]{3}.*").fullmatch
_KEY_ID: Final = "what the one key is called, for `message`; its fingerprint if it is left out"
_PROFILES: Final = "standard, svix, twh, stripe, github, shopify, slack, convoy, outpost, message"


def add_secrets(parser: argparse.ArgumentParser) -> None:
    """
    Add the arguments for the secrets.
    """
    add = parser.add_argument
    add(
        "--secret-file",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="a file with a secret, without a line break at its end; repeat",
    )
    add(
        "--secret-env",
        action="append",
        default=[],
        metavar="NAME",
        help=f"a variable of the environment with one; {SECRET_VARIABLE} if none is given; repeat",
    )
    add("--key-id", metavar="ID", help=_KEY_ID)


def add_profile(parser: argparse.ArgumentParser) -> None:
    """
    Add the argument for the profile.
    """
    about = f"how the sender signs: {_PROFILES}"
    parser.add_argument("--profile", default="standard", metavar="NAME", help=about)


def add_body(parser: argparse.ArgumentParser) -> None:
    """
    Add the argument for the body.
    """
    about = "the body, byte for byte; standard input if it is left out or '-'"
    parser.add_argument("body", nargs="?", type=Path, metavar="FILE", help=about)


def add_request(parser: argparse.ArgumentParser) -> None:
    """
    Add the arguments for what it is sent to.
    """
    parser.add_argument("--url", default="", metavar="URL", help="what it is sent to")
    parser.add_argument("--method", default="POST", metavar="NAME", help="POST if it is left out")


def add_received(parser: argparse.ArgumentParser) -> None:
    """
    Add the arguments for a webhook that came: all of it, and what it is verified with.
    """
    add_body(parser)
    _add_arrival(parser)
    add_secrets(parser)
    add_profile(parser)
    add_request(parser)


def _add_arrival(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--headers", type=Path, metavar="FILE", help="the headers as they came, a line for each")
    add(
        "-H",
        "--header",
        action="append",
        default=[],
        metavar="LINE",
        help="a header, as 'webhook-id: msg_1'; repeat",
    )
    add("--at", type=int, metavar="SECONDS", help="judge its age as at this Unix time; else now")


def the_profile(options: argparse.Namespace) -> Profile:
    """
    The profile that is meant.

    Raises:
        twh_platform.errors.ConfigurationError: With code ``webhook_profile_unknown``.
    """
    from ..webhooks import PROFILES

    if options.profile not in PROFILES:
        message = f"a profile is one of {', '.join(PROFILES)}"
        raise ConfigurationError(message, code="webhook_profile_unknown")
    return PROFILES[options.profile]


def read_keyring(
    options: argparse.Namespace, profile: Profile, *, public: bool, lenient: bool = False
) -> Keyring:
    """
    The secrets that are meant, each of the type that the profile takes.

    Args:
        options: The arguments.

        profile: Of whose types they are.

        public: Put the public key in the place of a private one, to verify.

        lenient: Take what is no secret of such a type as a raw one.

    Raises:
        twh_platform.errors.ConfigurationError: With code ``webhook_secret_missing``
            or ``webhook_file_unusable``.

        twh_platform.errors.WebhookError: With code ``secret_malformed``.
    """
    from ..webhooks import Key, Keyring

    keys = read_keys(options, profile, lenient=lenient)
    if public:
        keys = [getattr(one, "public", one) for one in keys]
    # Of several each keeps its fingerprint: no two have one id.
    named = (options.key_id or "") if len(keys) == 1 else ""
    return Keyring(Key(secret=one, id=named) for one in keys)


def read_keys(
    options: argparse.Namespace, profile: Profile, *, lenient: bool = False
) -> list[WebhookKey]:
    """
    The secrets alone; see `read_keyring`.
    """
    texts = [_file_text(path) for path in options.secret_file]
    texts += [_variable_text(name) for name in options.secret_env]
    if not texts:
        if not os.environ.get(SECRET_VARIABLE):
            message = f"give --secret-file or --secret-env, or set {SECRET_VARIABLE}"
            raise ConfigurationError(message, code="webhook_secret_missing")
        texts = [_variable_text(SECRET_VARIABLE)]
    kinds = {kind for one in profile.schemes.values() for kind in one.kinds}
    return [_typed(text, kinds, lenient=lenient) for text in texts]


def read_body(options: argparse.Namespace) -> bytes:
    """
    The body, as it is.

    Raises:
        twh_platform.errors.ConfigurationError: With code ``webhook_file_unusable``.
    """
    if options.body is None or str(options.body) == "-":
        return sys.stdin.buffer.read()
    return _read(options.body)


def read_headers(options: argparse.Namespace) -> list[tuple[bytes, bytes]]:
    """
    The headers as pairs; lines of a request before them are passed over.

    Raises:
        twh_platform.errors.ConfigurationError: With code ``webhook_file_unusable``,
            also for a line that is no header.
    """
    lines = [line.encode("utf-8", "surrogateescape") for line in options.header]
    if options.headers is not None:
        lines = _read(options.headers).splitlines() + lines
    found = []
    for line in lines:
        text = line.removeprefix(b"> ").strip()
        if not text or text == b">" or _request_line(text):
            continue
        name, colon, value = text.partition(b":")
        if not colon or not name.strip():
            message = "a header is a line as 'webhook-id: msg_1'"
            raise ConfigurationError(message, code="webhook_file_unusable")
        found.append((name.strip(), value.strip()))
    return found


def arrival_clock(options: argparse.Namespace) -> Callable[[], float]:
    """
    The moment at which it is judged.
    """
    return time.time if options.at is None else lambda: float(options.at)


def unusable(path: Path, why: str) -> ConfigurationError:
    """
    The error of a file that cannot be read or written.
    """
    return ConfigurationError(f"{str(path)!r}: {why}", code="webhook_file_unusable")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise unusable(path, str(error.strerror)) from error


def _file_text(path: Path) -> HiddenBytes:
    return HiddenBytes(_read(path).removesuffix(b"\n").removesuffix(b"\r"))


def _variable_text(name: str) -> HiddenBytes:
    found = os.environb.get(os.fsencode(name))
    if not found:
        message = f"the environment variable {name!r} is not set, or empty"
        raise ConfigurationError(message, code="webhook_secret_missing")
    return HiddenBytes(found)


def _typed(text: HiddenBytes, kinds: set[str], *, lenient: bool) -> WebhookKey:
    from ..webhooks import RawSecret, StandardSecret

    if "ed25519" in kinds and text.startswith((b"whpk_", b"whsk_")):
        from ..webhooks.ed25519 import PrivateKey, PublicKey

        return (PublicKey if text.startswith(b"whpk_") else PrivateKey)(str(text, "latin-1"))
    if "standard" not in kinds:
        return RawSecret(text)
    try:
        return StandardSecret(str(text, "latin-1"))
    except WebhookError:
        if not lenient:
            raise
        return RawSecret(text)
