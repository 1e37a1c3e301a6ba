"""
Talking to Grafana over HTTP, with a token that goes nowhere else.
"""

from __future__ import annotations

import json
import re
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from concurrent.futures import Future
from http import HTTPStatus
from http.client import HTTPException
from typing import Any, Final, NoReturn

from ..._hidden import HiddenBytes
from ...errors import BackendUnavailableError, ConfigurationError

__all__ = ["GrafanaApi"]

_SECONDS: Final = 10.0
_MOST_BYTES: Final = 4 << 20
_HERE: Final = frozenset({"127.0.0.1", "::1", "localhost"})
_WORD = re.compile(rb"[!-~]+")
# RFC 3986, section 2: no space, no line end, no backslash; and here no login, query or fragment.
_ADDRESS = re.compile(r"[!-~]+")
_NOT_HERE = frozenset("@?#\\")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """
    A redirect would take the token along.
    """

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """
        Never.
        """


class GrafanaApi:
    """
    Grafana's HTTP API.

    Args:
        url: Where it is, with its path if it has one; ``https``, or ``http`` on
            this machine.

        token: Of a service account that may change folders.

        seconds: How long an answer may take, all of it.

    Raises:
        twh_platform.errors.ConfigurationError: With code ``grafana_url_invalid``
            or ``grafana_token_missing``.
    """

    def __init__(self, url: str, token: HiddenBytes, *, seconds: float = _SECONDS) -> None:
        self._url = _checked(url).rstrip("/")
        self._token = HiddenBytes(token.strip())
        if not _WORD.fullmatch(self._token):
            raise ConfigurationError("no token, or not one", code="grafana_token_missing")
        self._seconds = seconds
        proxies = urllib.request.ProxyHandler({} if self._url.lower().startswith("http:") else None)
        self._opener = urllib.request.build_opener(_NoRedirects, proxies)

    def get(self, path: str, query: Mapping[str, str] | None = None) -> Any:
        """
        Read; None where there is nothing.

        Raises:
            twh_platform.errors.ConfigurationError: With code ``grafana_refused``.

            twh_platform.errors.BackendUnavailableError: With code
                ``grafana_unavailable``.
        """
        asked = f"?{urllib.parse.urlencode(query)}" if query else ""
        return self._send("GET", f"{path}{asked}", None)

    def post(self, path: str, value: Mapping[str, Any]) -> Any:
        """
        Write.

        Raises:
            twh_platform.errors.ConfigurationError: As `get`.

            twh_platform.errors.BackendUnavailableError: As `get`.
        """
        answer = self._send("POST", path, json.dumps(value).encode())
        if answer is None:
            _refused("POST", path, HTTPStatus.NOT_FOUND)
        return answer

    def _send(self, method: str, path: str, body: bytes | None) -> Any:
        request = urllib.request.Request(f"{self._url}{path}", data=body, method=method)  # noqa: S310
        request.add_header("Accept", "application/json")
        # Not among the headers that a redirect would repeat.
        request.add_unredirected_header("Authorization", f"Bearer {self._token.decode()}")
        if body is not None:
            request.add_header("Content-Type", "application/json")
        try:
            return json.loads(self._within(request))
        except urllib.error.HTTPError as error:
            with error:
                status = error.code
        except (OSError, ValueError, HTTPException, RecursionError) as error:
            message = f"{method} {path.partition('?')[0]}: no answer of Grafana"
            raise BackendUnavailableError(message, code="grafana_unavailable") from error
        if status == HTTPStatus.NOT_FOUND:
            return None
        _refused(method, path, status)

    def _within(self, request: urllib.request.Request) -> bytes:
        # In a thread of its own: the timeout of a socket begins anew with each byte.
        future: Future[bytes] = Future()

        def run() -> None:
            try:
                with self._opener.open(request, timeout=self._seconds) as response:
                    future.set_result(response.read(_MOST_BYTES))
            except BaseException as error:  # noqa: BLE001 -- handed to the one who waits
                future.set_exception(error)

        threading.Thread(target=run, name="twh-grafana", daemon=True).start()
        return future.result(self._seconds)


def _refused(method: str, path: str, status: int) -> NoReturn:
    message = f"{method} {path.partition('?')[0]}: Grafana answered {int(status)}"
    raise ConfigurationError(message, code="grafana_refused")


def _checked(url: str) -> str:
    try:
        parts = urllib.parse.urlsplit(url)
        parts.port  # noqa: B018 -- it raises
    except ValueError as error:
        raise ConfigurationError("no address", code="grafana_url_invalid") from error
    fine = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _HERE)
    if not fine or not parts.hostname or not _ADDRESS.fullmatch(url) or _NOT_HERE & set(url):
        message = "the address is https://host/path, or http:// on this machine, without a login"
        raise ConfigurationError(message, code="grafana_url_invalid")
    return url
