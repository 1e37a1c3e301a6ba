"""
Run benchmarks and print their table.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ._rows import Row, as_json

_CAPABILITIES = ("tenancy", "quotas", "kms", "webhooks", "telemetry")


def main() -> None:
    """
    Read the command line, run what it names, print and write the rows.
    """
    options = _parser().parse_args()
    start = time.monotonic()
    rows: list[Row] = []
    for capability in options.capability or _CAPABILITIES:
        rows += _rows_of(capability)(quick=options.quick, parts=options.part or None)
    load = os.getloadavg()[0]
    sys.stdout.write(f"{time.monotonic() - start:.0f} s in all, load {load:.1f} at the end\n")
    if options.json:
        options.json.write_text(as_json(rows))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("capability", nargs="*", help=f"of {', '.join(_CAPABILITIES)}; all if none")
    parser.add_argument("--json", type=Path, metavar="FILE", help="one object per row")
    parser.add_argument("--quick", action="store_true", help="shorter, and so less certain")
    parser.add_argument("--part", action="append", metavar="NAME", help="only this part; repeat")
    return parser


def _rows_of(capability: str) -> Callable[..., list[Row]]:
    if capability == "tenancy":
        from .tenancy import rows

        return rows
    if capability == "quotas":
        from .quotas import rows as quota_rows

        return quota_rows
    if capability == "kms":
        from .kms import rows as key_rows

        return key_rows
    if capability == "webhooks":
        from .webhooks import rows as webhook_rows

        return webhook_rows
    if capability == "telemetry":
        from .telemetry import rows as telemetry_rows

        return telemetry_rows
    raise SystemExit(f"there is a benchmark of {', '.join(_CAPABILITIES)}, none of {capability}")


if __name__ == "__main__":
    main()
