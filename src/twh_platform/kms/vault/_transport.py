"""
One HTTP exchange with Vault: within the deadline, without redirects, mapped whole.

hvac builds the request.  It would follow a redirect to another origin and give
it the token, and its errors quote the server: neither happens here.
"""

from __future__ import annotations

import json
import os
import random
import re
import threading
import time
from collections.abc import Callable, Mapping
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import Any, NamedTuple, NoReturn
from urllib.parse import urlsplit

import requests
import requests.adapters
from hvac.adapters import RawAdapter
from urllib3.util import Timeout

from ..._forks import reset_after_fork
from ...errors import (
    ConfigurationError,
    KeyServiceError,
    KeyServiceUnavailableError,
)
from .._deadline import time_left
from ._status import STALE_READ, error_of

__all__ = ["Answer", "Hidden", "VaultTransport", "valid_path"]

_SUCCESS = range(200, 300)
_LARGEST_ANSWER = 16 * 1024 * 1024
_PIECE = 64 * 1024
_STALE_READS = 3
_STALE_PAUSE = 0.05

# Segments of letters, digits and a few marks.  The first is no dot: no "." or "..".
_SEGMENT = r"[A-Za-z0-9_-][A-Za-z0-9_.~-]*"
_PATH = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*", re.ASCII)
_LONGEST_PATH = 512
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}


class Hidden:
    """
    A value that does not show in a repr, and so in no traceback with locals.
    """

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        return "<hidden>"

    def __reduce__(self) -> NoReturn:
        message = "what is hidden is not pickled"
        raise TypeError(message)


class Answer:
    """
    What Vault said: a status and the JSON object of the body.
    """

    __slots__ = ("_body", "status")

    def __init__(self, status: int, body: Mapping[str, Any]) -> None:
        self.status = status
        self._body = body

    def __repr__(self) -> str:
        return f"<Answer {self.status}>"

    def part(self, name: str) -> dict[str, Any]:
        """
        One object of the body; empty if it is not there or is none.
        """
        found = self._body.get(name)
        return found if isinstance(found, dict) else {}

    @property
    def data(self) -> dict[str, Any]:
        """
        What was asked for.
        """
        return self.part("data")

    @property
    def errors(self) -> bool:
        """
        Whether the body lists errors, which nobody is to repeat.
        """
        return bool(self._body.get("errors"))


class _Asked(NamedTuple):
    token: Hidden | None
    body: Hidden | None


class VaultTransport:
    """
    Requests to one Vault, from any thread and in any process that was forked.

    Args:
        address: ``https://host:port``; ``http`` is for loopback only.

        namespace: The namespace of all requests.

        ca: A file or folder of certificates to trust instead of the usual.

        client_certificate: Files of a certificate and its key.

        timeout: Seconds that one exchange may take; a deadline makes it less.

        connections: How many are kept open.

        sleep: How to wait between two reads of a stale state.

    Raises:
        twh_platform.errors.ConfigurationError: With code
            ``vault_address_invalid`` or ``vault_name_invalid``.
    """

    def __init__(
        self,
        address: str,
        *,
        namespace: str | None = None,
        ca: str | os.PathLike[str] | None = None,
        client_certificate: tuple[str, str] | None = None,
        timeout: float = 2.0,
        connections: int = 8,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.address = _valid_address(address)
        self._namespace = valid_path(namespace, "namespace") if namespace else None
        self._verify: str | bool = os.fspath(Path(ca)) if ca else True
        self._certificate = client_certificate
        self._timeout = timeout
        self._connections = connections
        self._sleep = sleep
        self._lock = threading.Lock()
        self._adapter: RawAdapter | None = None
        reset_after_fork(self)

    def __repr__(self) -> str:
        return f"VaultTransport({self.address!r})"

    def exchange(
        self,
        method: str,
        path: str,
        *,
        token: Hidden | None = None,
        body: Hidden | None = None,
        accept: tuple[int, ...] = (),
    ) -> Answer:
        """
        Ask once, and again only where a standby has read a stale state (412).

        Args:
            method: The HTTP method.

            path: What follows ``/v1/``; checked, never built from free text.

            token: Who asks.

            body: What is sent, as JSON.

            accept: Statuses that are answers to the caller, besides success.

        Raises:
            twh_platform.errors.KeyServiceError: For every other status, and if
                no answer came in time.
        """
        attempt = 0
        while True:
            attempt += 1
            answer, headers = self._once(method, path, _Asked(token, body))
            if answer.status in _SUCCESS or answer.status in accept:
                return answer
            pause = attempt * _STALE_PAUSE * (1 + random.random())  # noqa: S311  not a secret
            stale = answer.status == STALE_READ and attempt < _STALE_READS
            if not stale or time_left(pause) < pause:
                raise error_of(
                    answer.status, headers, what=f"{method} {path}", details=answer.errors
                )
            self._sleep(pause)

    def close(self) -> None:
        """
        Let go of the connections.
        """
        with self._lock:
            adapter, self._adapter = self._adapter, None
        if adapter is not None:
            adapter.close()

    def after_fork(self) -> None:
        """
        Begin anew in a child, which must not speak on its parent's connections.
        """
        self._lock = threading.Lock()
        self._adapter = None

    def _once(self, method: str, path: str, asked: _Asked) -> tuple[Answer, Mapping[str, str]]:
        what = f"{method} {path}"
        budget = time_left(self._timeout)
        if budget <= 0:
            message = f"{what}: no time is left for an attempt"
            raise KeyServiceUnavailableError(message)
        fault: KeyServiceError | None = None
        try:
            return self._sent(method, path, asked, time.monotonic() + budget)
        except requests.exceptions.SSLError:
            fault = KeyServiceUnavailableError(
                f"{what}: the TLS connection to Vault failed", code="vault_tls_failed"
            )
        except (requests.exceptions.RequestException, OSError, TimeoutError) as error:
            fault = KeyServiceUnavailableError(
                f"{what}: no answer of Vault within {budget:.3g} s ({type(error).__name__})"
            )
        except Exception as error:  # noqa: BLE001  urllib3 and http.client have trees of their own
            fault = KeyServiceUnavailableError(
                f"{what}: the exchange with Vault failed ({type(error).__name__})"
            )
        # Outside of `except`: requests' error holds the request, and that the token.
        raise fault

    def _sent(
        self, method: str, path: str, asked: _Asked, ends_at: float
    ) -> tuple[Answer, Mapping[str, str]]:
        headers = {"Accept-Encoding": "identity"}
        if asked.token is not None:
            headers["X-Vault-Token"] = asked.token.value
        path, _, query = path.partition("?")
        response = self._connected().request(
            method.lower(),
            f"/v1/{valid_path(path, 'path')}",
            headers=headers,
            raise_exception=False,
            json=None if asked.body is None else asked.body.value,
            params=query or None,
            timeout=Timeout(total=max(0.001, ends_at - time.monotonic())),
            stream=True,
        )
        with response:
            return _read(response, ends_at), response.headers

    def _connected(self) -> RawAdapter:
        with self._lock:
            if self._adapter is None:
                self._adapter = self._new_adapter()
            return self._adapter

    def _new_adapter(self) -> RawAdapter:
        session = requests.Session()
        # Neither a proxy nor .netrc credentials of the environment.
        session.trust_env = False
        session.verify = self._verify
        session.cert = self._certificate
        session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        pool = requests.adapters.HTTPAdapter(
            pool_connections=1, pool_maxsize=self._connections, max_retries=0
        )
        session.mount("https://", pool)
        session.mount("http://", pool)
        return RawAdapter(
            base_uri=self.address,
            session=session,
            namespace=self._namespace,
            verify=self._verify,
            cert=self._certificate,
            allow_redirects=False,
        )


def _read(response: requests.Response, ends_at: float) -> Answer:
    pieces, size = [], 0
    read = getattr(response.raw, "read1", response.raw.read)
    while piece := read(_PIECE):
        pieces.append(piece)
        size += len(piece)
        if size > _LARGEST_ANSWER:
            message = "an answer without an end"
            raise ValueError(message)
        if time.monotonic() > ends_at:
            raise TimeoutError
    return Answer(response.status_code, _parsed(b"".join(pieces), response.status_code))


def _parsed(body: bytes, status: int) -> dict[str, Any]:
    try:
        found = json.loads(body) if body else {}
    except ValueError:
        # An error page of something on the way has a status that says enough.
        if status in _SUCCESS:
            raise
        found = {}
    return found if isinstance(found, dict) else {}


def valid_path(value: str, what: str) -> str:
    """
    Return *value* if it is a path that every server and proxy reads alike.

    Raises:
        twh_platform.errors.ConfigurationError: With code ``vault_name_invalid``.
    """
    if len(value) <= _LONGEST_PATH and _PATH.fullmatch(value):
        return value
    message = f"{what}={value[:80]!r} is not a path of letters, digits, '-', '_', '.' and '/'"
    raise ConfigurationError(message, code="vault_name_invalid")


def _valid_address(address: str) -> str:
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        raise _bad_address("it cannot be read") from None
    if parts.scheme not in {"https", "http"} or not parts.hostname:
        raise _bad_address("it is not https://host[:port]")
    if parts.username is not None or parts.password is not None:
        raise _bad_address("it has credentials: give an auth method")
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise _bad_address("it has a path or a query")
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        raise _bad_address("http is for loopback only")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}" + (f":{port}" if port else "")


def _bad_address(why: str) -> ConfigurationError:
    # It is not repeated: what is wrong with it may be a password in it.
    return ConfigurationError(f"the address of Vault: {why}", code="vault_address_invalid")
