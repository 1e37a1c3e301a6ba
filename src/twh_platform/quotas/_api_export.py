"""
Usage as a file: CSV or NDJSON, page by page, while it is being read.
"""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta

from .._asgi import Receive, Send
from ._api_requests import ExportRequest
from ._usage_ledger import UsageLedger, UsageRow

__all__ = ["COLUMNS", "GRACE", "send_export"]

COLUMNS = (
    "tenant",
    "rule",
    "unit",
    "scope",
    "period_start",
    "period_end",
    "taken",
    "refunded",
    "used",
    "closed",
)
"""The columns of a CSV and the members of an NDJSON line, in this order."""

GRACE = timedelta(seconds=60)
"""How long after its end a period is closed: what was counted last is written by then."""

_PAGE = 1000
_TYPES = {"csv": b"text/csv; charset=utf-8; header=present", "ndjson": b"application/x-ndjson"}
# A spreadsheet takes a field that begins so for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


async def send_export(
    ledger: UsageLedger,
    asked: ExportRequest,
    receive: Receive,
    send: Send,
    *,
    now: datetime,
    headers_only: bool,
) -> None:
    """
    Send the rows that were asked for, a bounded number at a time.

    The first page is read before the answer begins.  If a later one cannot be
    read the error is raised on, so that the server breaks the answer off and
    nobody takes a part for the whole.

    Args:
        ledger: Where the rows are.

        asked: Which, and how.

        receive: Tells when the client has gone: then no more is read.

        send: Takes the answer.

        now: Periods that ended `GRACE` before it are closed.

        headers_only: For HEAD.

    Raises:
        twh_platform.errors.BackendUnavailableError: If the ledger cannot be read.
    """
    page = [] if headers_only else await ledger.page(asked.query, after=None, size=_PAGE)
    await send({"type": "http.response.start", "status": 200, "headers": _headers(asked)})
    if headers_only:
        await send({"type": "http.response.body", "body": b""})
        return
    gone = asyncio.ensure_future(_disconnect(receive))
    write = _csv if asked.format == "csv" else _ndjson
    body = _csv_line(COLUMNS).encode() if asked.format == "csv" else b""
    try:
        while not gone.done():
            more = len(page) == _PAGE
            body += write(page, now)
            await send({"type": "http.response.body", "body": body, "more_body": more})
            if not more:
                return
            page = await ledger.page(asked.query, after=page[-1], size=_PAGE)
            body = b""
    finally:
        gone.cancel()


async def _disconnect(receive: Receive) -> None:
    with suppress(Exception):  # one that cannot be asked any more has gone too
        while (await receive())["type"] != "http.disconnect":
            pass


def _headers(asked: ExportRequest) -> list[tuple[bytes, bytes]]:
    name = f"usage-{asked.query.first}-{asked.query.until}.{asked.format}"
    return [
        (b"content-type", _TYPES[asked.format]),
        (b"content-disposition", f'attachment; filename="{name}"'.encode()),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
    ]


def _values(row: UsageRow, now: datetime) -> tuple[str | int | bool, ...]:
    return (
        row.tenant_id,
        row.rule,
        row.unit,
        row.scope,
        row.period_start.isoformat(),
        row.period_end.isoformat(),
        row.taken,
        row.refunded,
        row.used,
        row.period_end + GRACE <= now,
    )


def _ndjson(page: Sequence[UsageRow], now: datetime) -> bytes:
    lines = (
        json.dumps(dict(zip(COLUMNS, _values(row, now), strict=True)), separators=(",", ":"))
        for row in page
    )
    return "".join(f"{line}\n" for line in lines).encode()


def _csv(page: Sequence[UsageRow], now: datetime) -> bytes:
    return "".join(_csv_line(map(_cell, _values(row, now))) for row in page).encode()


def _csv_line(cells: Iterable[str]) -> str:
    line = io.StringIO()
    csv.writer(line).writerow(cells)  # RFC 4180, with CRLF
    return line.getvalue()


def _cell(value: str | int | bool) -> str:  # noqa: FBT001 -- one of a row
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    return f"'{text}" if isinstance(value, str) and text.startswith(_FORMULA) else text
