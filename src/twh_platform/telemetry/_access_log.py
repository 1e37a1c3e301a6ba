"""
The access log: a line for each request that has ended.
"""

from __future__ import annotations

import logging
from typing import Any

from ._exchange import Exchange, WebSocketExchange
from ._labels import clean_label
from ._logging import ids_of, own_ids

__all__ = ["AccessLog"]


class AccessLog:
    """
    Write a line for each request or websocket that has ended.

        TelemetryMiddleware(app, access=AccessLog())

    The line is ``GET /items/{id} 200 success 0.012s 431B``; the fields come
    along under OpenTelemetry's names, with the ids, for a `JsonFormatter`.  It
    shows the route's template and nothing that the client wrote: no path, query
    or header, so nobody can write a line of their own into the log.

    Args:
        logger: Where to write; ``twh_platform.telemetry.access`` without.

        level: The level of a line; that of a server error is at least ERROR.

        path: Show the path that was sent as well, in the field ``url.path``.
            It can hold what identifies people.  It is cleaned and cut as
            `clean_label` does.
    """

    def __init__(
        self,
        logger: logging.Logger | None = None,
        *,
        level: int = logging.INFO,
        path: bool = False,
    ) -> None:
        self._logger = logger or logging.getLogger("twh_platform.telemetry.access")
        self._level = level
        self._path = path

    def __call__(self, exchange: Exchange) -> None:
        """
        Write its line.
        """
        failed = exchange.outcome == "server_error"
        level = max(self._level, logging.ERROR) if failed else self._level
        if not self._logger.isEnabledFor(level):
            return
        fields = _fields(exchange)
        if self._path:
            fields["url.path"] = clean_label(exchange.seen.get("path", ""))
        self._logger.log(
            level,
            "%s %s %s %s %.3fs %dB",
            exchange.method or "WEBSOCKET",
            clean_label(exchange.route or "-"),
            exchange.status or "-",
            exchange.outcome,
            exchange.duration,
            exchange.response_bytes,
            extra={**own_ids(ids_of(exchange)), **fields},
        )


def _fields(exchange: Exchange) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "http.request.method": exchange.method,
        "http.route": exchange.route,
        "http.response.status_code": exchange.status or None,
        "http.request.body.size": exchange.request_bytes,
        "http.response.body.size": exchange.response_bytes,
        "error.type": exchange.error_type,
        "outcome": exchange.outcome,
        "duration": round(exchange.duration, 6),
        "first_byte": round(exchange.first_byte, 6),
    }
    if isinstance(exchange, WebSocketExchange):
        fields["websocket.close_code"] = exchange.close_code
        fields["websocket.received"] = exchange.received
        fields["websocket.sent"] = exchange.sent
    return {name: value for name, value in fields.items() if value or name == "duration"}
