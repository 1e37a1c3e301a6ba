"""
What a SERVER span says about its request: names and rules of semantic conventions 1.44.

Nothing here trusts what it describes.  Texts are cut and made valid UTF-8, since
one lone surrogate would cost a whole batch of spans, and what looks like a
secret in a query does not get out of the process.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import unquote_plus

from ..._asgi import Scope
from ...errors import ConfigurationError
from .._exchange import Exchange, WebSocketExchange
from .._labels import error_name
from .._methods import OTHER_METHOD
from ._values import clean

__all__ = ["SECRET_QUERY_NAMES", "Capture"]

SECRET_QUERY_NAMES: Final = frozenset(
    {
        # Semantic conventions 1.44, url.query; compared in lower case.
        "awsaccesskeyid",
        "sig",
        "signature",
        "x-amz-credential",
        "x-amz-security-token",
        "x-amz-signature",
        "x-goog-signature",
        # What else is a secret by its usual name.
        "access_token",
        "api-key",
        "api_key",
        "apikey",
        "auth",
        "authorization",
        "client_secret",
        "code",
        "code_verifier",
        "credential",
        "device_code",
        "hmac",
        "id_token",
        "jwt",
        "key",
        "otp",
        "passwd",
        "password",
        "private_key",
        "pwd",
        "refresh_token",
        "samlresponse",
        "secret",
        "session",
        "session_id",
        "sessionid",
        "token",
        "totp",
        "x-goog-credential",
    }
)
"""
The names in a query whose values are not told, in lower case.

They are compared without regard to case and punctuation: ``accessToken`` and
``access-token`` are ``access_token``.  Nor is the value told of any name with
one of these in it: ``token``, ``secret``, ``passw``, ``passphrase``,
``apikey``, ``accesskey``, ``signature``, ``credential``, ``assertion``.
"""

_SECRET_WORD = re.compile(
    "token|secret|passw|passphrase|apikey|accesskey|signature|credential|assertion"
)
_PUNCTUATION = re.compile(r"[\W_]+")

_SECRET_HEADERS = frozenset(
    {"authorization", "cookie", "proxy-authorization", "set-cookie", "x-api-key", "x-auth-token"}
)
# RFC 9110, section 5.1: a field name is a token.
_HEADER_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+", re.ASCII)
_PORT = re.compile(r"[0-9]{1,5}")
_LONGEST = 1024
_LONGEST_NAME = 256
_LONGEST_TRACE = 16_384
_MOST_VALUES = 8
_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_REDACTED = "REDACTED"


class Capture:
    """
    Describe exchanges as attributes.

    Args:
        request_headers: Names of request headers to tell; others are not told.

        response_headers: Names of response headers.

        secret_names: Names in a query whose values are not told, besides
            `SECRET_QUERY_NAMES`, and compared as those are.

        client: Whether the client's address is told.

        messages: Whether the text of an exception is told.

        traces: Whether it is told where an exception came from.

    Raises:
        twh_platform.errors.ConfigurationError: For a header that is a secret,
            and for what is no header's name.
    """

    def __init__(
        self,
        *,
        request_headers: Iterable[str] = (),
        response_headers: Iterable[str] = (),
        secret_names: Iterable[str] = (),
        client: bool = True,
        messages: bool = False,
        traces: bool = False,
    ) -> None:
        self._request = _header_names("request", request_headers)
        self._response = _header_names("response", response_headers)
        self._secrets = {_bare(name) for name in (*SECRET_QUERY_NAMES, *secret_names)}
        self._client, self._messages, self._traces = client, messages, traces

    def at_start(self, exchange: Exchange) -> dict[str, Any]:
        """
        What is known when a request arrives.
        """
        scope = exchange.seen
        scheme = scope.get("scheme", "http")
        told: dict[str, Any] = {"url.path": clean(scope["path"]), "url.scheme": scheme}
        if isinstance(exchange, WebSocketExchange):
            told["network.protocol.name"] = "websocket"
            told["http.request.method"] = "GET"
        else:
            told["http.request.method"] = exchange.method
            if exchange.method == OTHER_METHOD:
                told["http.request.method_original"] = clean(scope["method"], _LONGEST_NAME)
        if query := scope.get("query_string"):
            told["url.query"] = self._query(query)
        if version := scope.get("http_version"):
            told["network.protocol.version"] = version
        if self._client and (client := scope.get("client")):
            told["client.address"] = told["network.peer.address"] = client[0]
            if client[1]:
                told["network.peer.port"] = client[1]
        self._of_headers(scope, scheme, told)
        return told

    def at_end(self, exchange: Exchange) -> dict[str, Any]:
        """
        What has become known by its end.
        """
        told: dict[str, Any] = {"platform.outcome": exchange.outcome}
        if exchange.status:
            told["http.response.status_code"] = exchange.status
        if exchange.route:
            told["http.route"] = clean(exchange.route)
        if exchange.error_type:
            told["error.type"] = exchange.error_type
        if exchange.request_bytes:
            told["http.request.body.size"] = exchange.request_bytes
        told["http.response.body.size"] = exchange.response_bytes
        if exchange.is_stream:
            told["platform.time_to_first_byte"] = exchange.first_byte
        if exchange.kept:
            told["platform.kept"] = exchange.kept
        if isinstance(exchange, WebSocketExchange):
            _of_websocket(exchange, told)
        self.who(exchange, told)
        if self._response:
            _headers("http.response.header.", self._response, exchange.response_headers, told)
        return told

    def who(self, exchange: Exchange, told: dict[str, Any]) -> dict[str, Any]:
        """
        Add on whose behalf it was, and what for.
        """
        tenant = exchange.tenant_id
        if tenant is not None:
            told["tenant.id"] = clean(tenant, _LONGEST_NAME)
            if (user := exchange.user_id) is not None:
                told["enduser.id"] = clean(user, _LONGEST_NAME)
        if exchange.operation:
            told["platform.operation"] = clean(exchange.operation)
        return told

    def of_error(self, error: BaseException) -> dict[str, Any]:
        """
        The attributes of an event that tells about an exception.
        """
        told: dict[str, Any] = {"exception.type": error_name(error)}
        if self._messages:
            told["exception.message"] = _words_of(error)
        if self._traces:
            # Frames only: the last line of a traceback is the message.
            frames = "".join(traceback.format_tb(error.__traceback__))
            told["exception.stacktrace"] = clean(frames[-_LONGEST_TRACE:], _LONGEST_TRACE)
        return told

    def _of_headers(self, scope: Scope, scheme: str, told: dict[str, Any]) -> None:
        headers = scope.get("headers") or ()
        host = None
        for name, value in headers:
            if name == b"host":
                host = value
            elif name == b"user-agent":
                told["user_agent.original"] = value.decode("latin-1")[:_LONGEST_NAME]
        if host is None:
            server = scope.get("server")
            if server is not None:
                told["server.address"] = clean(str(server[0]), _LONGEST_NAME)
                if server[1]:
                    told["server.port"] = server[1]
        else:
            _of_host(host, scheme, told)
        if self._request:
            _headers("http.request.header.", self._request, headers, told)

    def _query(self, query: bytes) -> str:
        text = query[: 2 * _LONGEST].decode("latin-1")
        parts = [self._parameter(part) for part in text.split("&")]
        # A cut within a parameter is of no harm: its name stands before its value.
        return "&".join(parts)[:_LONGEST]

    def _parameter(self, part: str) -> str:
        told = []
        for one in part.split(";"):  # which some servers take for "&"
            name, equals, _ = one.partition("=")
            if equals and self._is_secret(name):
                # What follows may be the rest of its value.
                told.append(f"{name}={_REDACTED}")
                break
            told.append(one)
        return ";".join(told)

    def _is_secret(self, name: str) -> bool:
        bare = _bare(unquote_plus(name))
        return bare in self._secrets or _SECRET_WORD.search(bare) is not None


def _bare(name: str) -> str:
    return _PUNCTUATION.sub("", name).lower()


def _words_of(error: BaseException) -> str:
    try:
        return clean(str(error))
    except Exception:  # noqa: BLE001 -- the app's own __str__ has failed
        return ""


def _of_websocket(exchange: WebSocketExchange, told: dict[str, Any]) -> None:
    told["websocket.messages.received"] = exchange.received
    told["websocket.messages.sent"] = exchange.sent
    if exchange.close_code:
        told["websocket.close_code"] = exchange.close_code


def _of_host(host: bytes, scheme: str, told: dict[str, Any]) -> None:
    text = host.decode("latin-1")[:_LONGEST_NAME]
    name, colon, port = text.rpartition(":")
    if colon and _PORT.fullmatch(port) and not name.endswith(":"):
        told["server.address"], told["server.port"] = name, int(port)
    else:
        told["server.address"] = text
        if scheme in _PORTS:
            told["server.port"] = _PORTS[scheme]


def _headers(
    prefix: str,
    names: Mapping[bytes, str],
    headers: Iterable[tuple[bytes, bytes]],
    told: dict[str, Any],
) -> None:
    for name, value in headers:
        key = names.get(name.lower())
        if key is not None:
            values = told.setdefault(prefix + key, [])
            if len(values) < _MOST_VALUES:
                values.append(value.decode("latin-1")[:_LONGEST])


def _header_names(side: str, given: Iterable[str]) -> dict[bytes, str]:
    names = [name.lower() for name in ((given,) if isinstance(given, str) else given)]
    if wrong := [name for name in names if not _HEADER_NAME.fullmatch(name)]:
        message = f"{side}_headers={wrong!r} are not names of headers"
        raise ConfigurationError(message)
    if secret := sorted(_SECRET_HEADERS.intersection(names)):
        message = f"{side}_headers={secret!r} are secrets, which no span tells"
        raise ConfigurationError(message)
    return {name.encode("ascii"): name for name in names}
