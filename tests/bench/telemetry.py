"""
What watching requests costs, against bare apps and public alternatives.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from ._database import machine, versions
from ._rows import Row, as_table

__all__ = ["rows"]

_PEERS = (
    "opentelemetry-sdk",
    "opentelemetry-instrumentation-asgi",
    "opentelemetry-instrumentation-fastapi",
    "prometheus_client",
    "prometheus-fastapi-instrumentator",
    "starlette_exporter",
)
_SERVING = ("starlette", "fastapi", "uvicorn", "uvloop", "httptools", "psycopg")


def rows(*, quick: bool = False, parts: Sequence[str] | None = None) -> list[Row]:
    """
    Measure and print.

    Args:
        quick: Shorter, and so less certain.

        parts: Of ``starlette``, ``fastapi``, ``routes``, ``sse``, ``server``,
            ``transaction``, ``instruments`` and ``page``; all if None.
    """
    from ._telemetry_instruments import instrument_rows, page_rows
    from ._telemetry_rounds import fastapi_rows, route_rows, sse_rows, starlette_rows
    from ._telemetry_server import server_rows, transaction_rows

    rounds = 11 if quick else 31
    known: dict[str, Callable[[], list[Row]]] = {
        "starlette": lambda: starlette_rows(rounds=rounds),
        "fastapi": lambda: fastapi_rows(rounds=rounds),
        "routes": lambda: route_rows(rounds=rounds),
        "sse": lambda: sse_rows(rounds=rounds),
        "server": lambda: server_rows(rounds=9 if quick else 25),
        "transaction": lambda: transaction_rows(seconds=6.0 if quick else 25.0),
        "instruments": lambda: instrument_rows(rounds=rounds),
        "page": lambda: page_rows(rounds=3 if quick else 7),
    }
    for part in parts or ():
        if part not in known:
            raise SystemExit(f"the parts are {', '.join(known)}, there is no {part}")
    lines = [*machine(), versions(_PEERS), versions(_SERVING)]
    lines += ["quick, and so less certain"] if quick else []
    sys.stdout.write("".join(f"{line}\n" for line in lines) + "\n")
    found: list[Row] = []
    for part, measure in known.items():
        if not parts or part in parts:
            found += measure()
    sys.stdout.write(as_table(found) + "\n")
    return found
