"""
The sealed tenant: what a connection says about its tenant, and cannot make up.

A setting can be changed by whoever can run SQL, so a sealed database believes
it only with a message authentication code over it.  The key is in the
service's memory and in a table that the service's login cannot read::

    1 a1b2 1790000000 acme . 5f0c...
    | |    |          |      HMAC-SHA256 (RFC 2104) of all before the point, 64 hex digits
    | |    |          the tenant's id, 1 to 64 characters, none of them a point
    | |    the Unix second at which it expires, 10 digits
    | the key's id, 4 hex digits
    the version of this format

without the spaces.  The server compares the expiry with the start of the
transaction: one that began in time may go on.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import hmac
import logging
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Self

from ..._files import staged_file
from ...errors import ConfigurationError

__all__ = ["Seal", "SealKey", "read_seal_key", "staged_seal_key", "write_seal_key"]

_logger = logging.getLogger("twh_platform.tenancy")

_VERSION = "1"
_KEY_ID = re.compile(r"[0-9a-f]{4}")
_SECRET_BYTES = 32
_FILE_FORMAT = "twh-seal-1"
_LONGEST_FILE = 200
_SHORTEST_LIFETIME = 2.0
_LONGEST_LIFETIME = 86_400.0
_END_OF_TIME = 10**10
_REMEMBERED = 4096
_LOOK_EVERY = 1.0  # second, so that a new key is in use well within any overlap


@dataclass(frozen=True, slots=True, kw_only=True)
class SealKey:
    """
    A key that tenants are sealed with.

    Args:
        id: 4 hex digits, the database's name for it.

        secret: 32 random bytes.

    Raises:
        twh_platform.errors.ConfigurationError: With code
            ``seal_key_invalid``, for anything else.
    """

    id: str
    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not _KEY_ID.fullmatch(self.id) or len(self.secret) != _SECRET_BYTES:
            raise ConfigurationError(
                f"a seal key has an id of 4 hex digits, not {self.id[:20]!r}, "
                f"and {_SECRET_BYTES} bytes, not {len(self.secret)}",
                code="seal_key_invalid",
            )

    def token(self, tenant_id: str, *, expires_at: int) -> str:
        """
        Seal one tenant.

        Args:
            tenant_id: See `twh_platform.tenancy.valid_tenant_id`.

            expires_at: Unix seconds.

        Raises:
            twh_platform.errors.ConfigurationError: For a time that has no 10
                digits: one more would be read as part of the tenant's id.
        """
        if not 0 <= expires_at < _END_OF_TIME:
            message = f"a seal expires within 10 digits of seconds, not at {expires_at}"
            raise ConfigurationError(message)
        payload = f"{_VERSION}{self.id}{expires_at:010d}{tenant_id}"
        return f"{payload}.{hmac.digest(self.secret, payload.encode(), sha256).hex()}"


class Seal:
    """
    Seals the tenants of a service's connections.

    One instance serves all connections to one database.  Calls are safe from
    any thread.

    Args:
        key: What to seal with.

        lifetime: Seconds for which a token is good.  It is used for the first
            half of them, so the clocks of service and database may differ by
            the other half.  From two seconds to a day.

        clock: Gives Unix seconds.

    Raises:
        twh_platform.errors.ConfigurationError: For a lifetime out of
            these bounds.
    """

    def __init__(
        self, key: SealKey, *, lifetime: float = 60.0, clock: Callable[[], float] = time.time
    ) -> None:
        if not _SHORTEST_LIFETIME <= lifetime <= _LONGEST_LIFETIME:
            message = (
                f"a seal lives from {_SHORTEST_LIFETIME} to {_LONGEST_LIFETIME} seconds, "
                f"not {lifetime}"
            )
            raise ConfigurationError(message)
        self._key = key
        self._lifetime = lifetime
        self._clock = clock
        self._path: Path | None = None
        self._seen: tuple[int, int] | None = None
        self._look_at = float("inf")
        self._tokens: dict[str, tuple[str, float]] = {}

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        *,
        lifetime: float = 60.0,
        clock: Callable[[], float] = time.time,
    ) -> Self:
        """
        Seal with the key in a file, and with its successor once the file changes.

        The file is looked at once a second at the most.  One that is gone or
        broken leaves the last key in use, and a warning in the log.

        Raises:
            twh_platform.errors.ConfigurationError: As `read_seal_key`.
        """
        seal = cls(read_seal_key(path), lifetime=lifetime, clock=clock)
        seal._path = Path(path)
        # Not stamped: the file may have changed since, so the first look reads it again.
        seal._look_at = clock() + _LOOK_EVERY
        return seal

    def __repr__(self) -> str:
        return f"Seal(key_id={self._key.id!r}, lifetime={self._lifetime})"

    @property
    def key(self) -> SealKey:
        """
        The key in use.
        """
        return self._key

    def use(self, key: SealKey) -> None:
        """
        Seal with another key from now on.
        """
        # A new dictionary: what another thread is about to remember goes into the old one.
        self._key, self._tokens = key, {}

    def token(self, tenant_id: str) -> str:
        """
        The text that stands for the tenant, good for half its lifetime or more.
        """
        now = self._clock()
        if now >= self._look_at:
            self._look_at = now + _LOOK_EVERY
            self._look()
        known = self._tokens.get(tenant_id)
        if known is not None and known[1] > now:
            return known[0]
        return self._seal(tenant_id, now)

    def _seal(self, tenant_id: str, now: float) -> str:
        tokens, key = self._tokens, self._key
        if len(tokens) >= _REMEMBERED:
            tokens.clear()
        token = key.token(tenant_id, expires_at=int(now + self._lifetime))
        tokens[tenant_id] = (token, now + self._lifetime / 2)
        return token

    def _look(self) -> None:
        path = self._path
        if path is None:
            return
        try:
            stamp = _stamp(path)
            if stamp != self._seen:
                self.use(read_seal_key(path))
                self._seen = stamp
        except (OSError, ConfigurationError) as error:
            _logger.warning("the seal key stays %s: %s", self._key.id, error)


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_ino


def read_seal_key(path: str | os.PathLike[str]) -> SealKey:
    """
    Read a key that `write_seal_key` wrote.

    Raises:
        twh_platform.errors.ConfigurationError: With code
            ``seal_key_invalid``, for a file that cannot be read, is no key, or
            that every user of the machine may read.
    """
    try:
        return _key_in(_closed_content(path))
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"{os.fspath(path)!r} is no file of a seal key: {error}", code="seal_key_invalid"
        ) from error


def _closed_content(path: str | os.PathLike[str]) -> bytes:
    with Path(path).open("rb") as file:
        # Of the file that is open: another may have taken its place since.
        mode = os.fstat(file.fileno()).st_mode
        content = file.read(_LONGEST_FILE + 1)
    if mode & stat.S_IRWXO:
        raise ValueError(f"others may read it: chmod 600 {os.fspath(path)}")
    if len(content) > _LONGEST_FILE:
        raise ValueError("it is too long")
    return content


def _key_in(content: bytes) -> SealKey:
    kind, key_id, secret = content.decode("ascii").split()
    if kind != _FILE_FORMAT:
        raise ValueError(f"it does not begin with {_FILE_FORMAT}")
    return SealKey(id=key_id, secret=base64.b64decode(secret, validate=True))


def write_seal_key(path: str | os.PathLike[str], key: SealKey) -> None:
    """
    Write *key* to a file that only its owner can read, in place of what is there.

    A reader sees the old key or the new one, whole.

    Raises:
        OSError: If the folder cannot be written.
    """
    with staged_seal_key(path, key):
        pass


@contextlib.contextmanager
def staged_seal_key(path: str | os.PathLike[str], key: SealKey) -> Iterator[None]:
    """
    Write *key* beside *path* first, and put it in place at the end of the `with`.

    So that what comes in between, such as a commit, happens only if there is
    room and right to write it, and nothing is written if that fails.

    Raises:
        OSError: If the folder cannot be written.
    """
    target = Path(path)
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(target))
    secret = base64.b64encode(key.secret).decode("ascii")
    content = f"{_FILE_FORMAT} {key.id} {secret}\n".encode("ascii")
    with staged_file(target, content) as staged:
        yield
        staged.replace(target)
