"""
Write one run's figures into its page: `python -m tests.bench.page tenancy rows.json output.txt`.

The first file is what `--json` wrote, the second what the same run printed.
On the page, what stands between ``<!-- bench: NAME -->`` and ``<!-- end -->``
is written anew, for every name in its blocks; the prose around it stays.  A
block without rows is an error, so the page never has figures of two runs.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ._rows import Row

__all__ = ["BLOCKS", "PAGES", "QUOTA_BLOCKS", "TELEMETRY_BLOCKS", "render"]

PAGES = Path(__file__).parents[2] / "docs" / "explanation"

_BLOCK = re.compile(r"(<!-- bench: (?P<name>\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
_WORDS = {True: "reached", False: "missed", None: "undecided"}
_MILLISECOND = 1000.0
_LONG = 10 * _MILLISECOND
_SHORT = 100.0

Write = Callable[[Sequence[Row], str], str]


def render(
    page: str, rows: Sequence[Row], output: str, blocks: Mapping[str, Write] | None = None
) -> str:
    """
    The page with the figures of these rows.

    Args:
        page: Its text.

        rows: Those of a whole run.

        output: What the run printed; its first paragraph says how it was
            measured, its last line how long it took.

        blocks: What writes each block; `BLOCKS` if None.

    Raises:
        ValueError: If the page lacks a block or has one that is unknown, or
            if the run lacks rows.
    """
    known = BLOCKS if blocks is None else blocks
    named = [match["name"] for match in _BLOCK.finditer(page)]
    if sorted(named) != sorted(known):
        message = f"the page has the blocks {named}, not {list(known)}"
        raise ValueError(message)
    return _BLOCK.sub(
        lambda match: f"{match[1]}\n{known[match['name']](rows, output)}\n{match[3]}", page
    )


def _chosen(rows: Iterable[Row], pattern: str, *, unit: str = "us") -> Iterator[tuple[str, Row]]:
    """
    The rows whose whole name matches, each with what the first group says.

    Raises:
        ValueError: If there are none.
    """
    found = [
        (match[1], row)
        for row in rows
        if row.unit == unit and (match := re.fullmatch(pattern, row.name))
    ]
    if not found:
        message = f"this run has no rows in {unit} of {pattern!r}"
        raise ValueError(message)
    yield from found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    """
    A table of times, one line per row.

    Args:
        head: Of the first column.

        pattern: Which names; the group is what the first column shows.

        reference: Of the third column.

        aimed: Whether only rows that have a target are shown.

        unit: Which unit.

        needs: A row that a run leaves out if something is not installed.

        label: Of each line.

        ours: Of the second column.
    """

    head: str
    pattern: str
    reference: str = "reference"
    aimed: bool = False
    unit: str = "us"
    needs: str = ""
    label: str = "{name}"
    ours: str = "ours"

    def __call__(self, rows: Sequence[Row], _output: str) -> str:
        """
        Write it.
        """
        if self.needs:
            next(_chosen(rows, f"({self.needs})", unit=self.unit))
        units = self.unit.replace("us/request", "us")
        heads = (self.head, f"{self.ours}, {units}", f"{self.reference}, {units}", "ratio (95 %)")
        chosen = [
            (self.label.format(name=name, workload=row.workload.partition(";")[0]), row)
            for name, row in _chosen(rows, self.pattern, unit=self.unit)
            if row.target is not None or not self.aimed
        ]
        return _table((*heads, "target", "verdict"), (_cells(*one) for one in chosen))


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    ruled = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in ruled) + "\n"


def _cells(label: str, row: Row) -> tuple[str, ...]:
    low, high = row.spread
    target = "" if row.target is None else f"{row.direction} {row.target:.2f}"
    verdict = _WORDS[row.ok] if target else ""
    ratio = f"{row.ratio:.3f} ({low:.3f}-{high:.3f})"
    ours, reference = (_figure(one, row.unit) for one in (row.ours, row.reference))
    return label, ours, reference, ratio, target, verdict


def _figure(value: float, unit: str) -> str:
    if value >= _LONG and unit.startswith("us"):
        return f"{value / _MILLISECOND:.1f} ms"
    return f"{value:.3g}" if value < _SHORT else f"{value:,.0f}"


def _turns(rows: Sequence[Row], _output: str) -> str:
    plain = _chosen(rows, r"turns: (.+), against no RLS", unit="turns")
    usual = dict(_chosen(rows, r"turns: (.+), against set_config", unit="turns"))
    lines = [
        (stack, f"{row.reference:.0f}", f"{usual[stack].reference:.0f}", f"{row.ours:.0f}")
        for stack, row in plain
    ]
    return _table(("stack", "no RLS", "`set_config` as a statement", "ours"), lines)


def _between(pattern: str, *, unit: str = "us") -> Callable[[Sequence[Row]], str]:
    def between(rows: Sequence[Row]) -> str:
        ratios = [row.ratio for _, row in _chosen(rows, pattern, unit=unit)]
        return f"{min(ratios):.2f} to {max(ratios):.2f}"

    return between


def _sentence(text: str, *parts: Callable[[Sequence[Row]], str]) -> Write:
    return lambda rows, _output: text.format(*(part(rows) for part in parts)) + "\n"


def _conditions(_rows: Sequence[Row], output: str) -> str:
    paragraph = output.partition("\n\n")[0].splitlines()
    lasted = re.search(r"^\d+ s in all.*$", output, re.MULTILINE)
    if lasted is None:
        message = "the output is of no run that came to its end"
        raise ValueError(message)
    return "".join(f"- {line}\n" for line in [*paragraph, lasted[0]])


def _distance(rows: Sequence[Row]) -> str:
    [distance, *_] = [label for label, _ in _chosen(rows, r"time at ([\d.]+ ms): .+")]
    return distance


_FAR = r"[\d.]+ ms"

BLOCKS: dict[str, Write] = {
    "conditions": _conditions,
    "far-cpu": _sentence(
        "In CPU time, the transactions at {} below have ratios of {} against no RLS.",
        _distance,
        _between(rf"time at {_FAR}: (.+), against no RLS", unit="us CPU"),
    ),
    "turns": _turns,
    "local": _Table(
        head="server next door",
        pattern=r"time local: (.+), against no RLS",
        reference="no RLS",
    ),
    "usual-local": _sentence(
        "Against the usual way, `set_config` as a statement after BEGIN, "
        "the same transactions take {} of the time.",
        _between(r"time local: (.+), against set_config"),
    ),
    "remote": _Table(
        head="at a distance", pattern=rf"time at ({_FAR}: .+, against .+)", aimed=True
    ),
    "usual-remote": _sentence(
        "Against `set_config` as a statement the ratios are {}.",
        _between(rf"time at {_FAR}: (.+), against set_config"),
    ),
    "policies": _Table(head="statement", pattern=r"policy: (.+), against WHERE", reference="WHERE"),
    "scrub": _Table(head="change of tenant", pattern=rf"scrub ((?:local|at {_FAR}): .+)"),
    "sealed-transactions": _Table(head="sealed transaction", pattern=r"sealed transaction: (.+)"),
    "sealed-statements": _Table(head="sealed statement", pattern=r"sealed statement: (.+)"),
    "pooler": _Table(head="through PgBouncer", pattern=r"through PgBouncer: (.+)"),
    "warehouse": _Table(
        head="request", pattern=r"warehouse (.+), against no isolation", reference="none"
    ),
    "warehouse-cpu": _Table(
        head="request",
        pattern=r"warehouse local: (.+), against no isolation",
        reference="none",
        unit="us CPU",
    ),
    "middleware": _Table(
        head="request",
        pattern=r"middleware (.+)",
        unit="us/request",
        needs="middleware alone, jwt",  # fastapi-tenancy is in the group `bench`
    ),
}
"""What writes each block, from the rows and the output of a run."""

_HITS = "hits/s"
QUOTA_BLOCKS: dict[str, Write] = {
    "conditions": _conditions,
    "redis": _Table(
        head="on Redis",
        pattern=r"redis, (\d rules?(?:, .+)?|lease of .+)",
        reference="EVALSHA `return 1`",
        unit=_HITS,
        label="{name}; {workload}",
    ),
    "redis-others": _Table(
        head="others, in the same run",
        pattern=r"redis, by (.+)",
        reference="EVALSHA `return 1`",
        unit=_HITS,
        label="{name}; {workload}",
        ours="theirs",
        needs="redis, by limits fixed",
    ),
    "redis-against": _Table(
        head="ours against limits",
        pattern=r"redis, (.+ against .+)",
        reference="theirs",
        unit=_HITS,
        label="{name}; {workload}",
    ),
    "server": _Table(head="the server's time", pattern=r"redis, (s.+)"),
    "bytes": _Table(head="memory of Redis", pattern=r"redis, (memory .+)", unit="bytes"),
    "frozen": _Table(
        head="Redis does not answer", pattern=r"redis frozen, (.+)", reference="theirs", unit="ms"
    ),
    "memory": _Table(
        head="in memory",
        pattern=r"memory, (.+)",
        unit=_HITS,
        label="{name}; {workload}",
        ours="it",
        needs="memory, limits fixed",
    ),
    "flat": _Table(head="many keys", pattern=r"memory, (.+ at .+)", reference="100 keys"),
    "middleware": _Table(head="a request", pattern=r"quota middleware (.+)", unit="us/request"),
}
"""The same for the page on what quotas cost."""

_RAW = "AES-256-GCM"
_HMAC = "raw HMAC"
SEAL_BLOCKS: dict[str, Write] = {
    "conditions": _conditions,
    "ours": _Table(
        head="ours",
        pattern=r"(suite \d, (?:seal|open))",
        reference=_RAW,
        label="{name}; {workload}",
    ),
    "others": _Table(
        head="others, in the same run",
        pattern=r"((?:Fernet|Tink|AWS).+)",
        reference=_RAW,
        label="{name}; {workload}",
        ours="theirs",
        needs="AWS Encryption SDK, cached, seal",
    ),
    "against": _Table(head="64 B", pattern=r"(suite \d against .+)", reference="theirs"),
    "alone": _Table(
        head="the commitment alone",
        pattern=r"cryptography of suite 1, (.+)",
        reference=_RAW,
        label="{name}; {workload}",
    ),
    "bytes": _Table(
        head="bytes added", pattern=r"(suite \d), size", reference="format", unit="bytes"
    ),
    "calls": _Table(
        head="calls of the key service", pattern=r"(.+)", reference="one call", unit="calls"
    ),
}
"""The same for the page on what sealing costs."""

WEBHOOK_BLOCKS: dict[str, Write] = {
    "conditions": _conditions,
    "ours": _Table(
        head="ours",
        pattern=r"ours, (.+)",
        reference=_HMAC,
        label="{name}; {workload}",
    ),
    "reject": _Table(
        head="the same webhook",
        pattern=r"(reject against accept)",
        ours="refused",
        reference="verified",
        label="{workload}",
    ),
    "others": _Table(
        head="others, in the same run",
        pattern=r"((?:standardwebhooks|svix|stripe), (?:verify|reject|sign))",
        reference=_HMAC,
        label="{name}; {workload}",
        ours="theirs",
        needs="stripe, verify",
    ),
    "against": _Table(
        head="ours against theirs",
        pattern=r"((?:verify|reject|sign) against (?:standardwebhooks|svix|stripe))",
        reference="theirs",
        label="{name}; {workload}",
        needs="verify against stripe",
    ),
    "memory": _Table(
        head="1 MiB", pattern=r"(.+), memory", ours="allocated", reference="64 KiB", unit="bytes"
    ),
    "large": _Table(
        head="16 MiB, kept", pattern=r"receive (in .+ by the app)", reference="hashing alone"
    ),
    "large-memory": _Table(
        head="16 MiB, kept",
        pattern=r"receive (in a file, beyond the spool)",
        ours="allocated",
        reference="64 KiB",
        unit="bytes",
    ),
    "usual": _Table(
        head="4 KiB and a transaction",
        pattern=r"receive and insert, (.+)",
        ours="with it",
        reference="without verification",
        unit="us CPU",
    ),
}
"""The same for the page on what webhooks cost."""

_REQUEST = "us/request"
TELEMETRY_BLOCKS: dict[str, Write] = {
    "conditions": _conditions,
    "starlette": _Table(
        head="Starlette, one route",
        pattern=r"starlette: (ours, .+)",
        reference="bare",
        unit=_REQUEST,
    ),
    "starlette-others": _Table(
        head="others, in the same run",
        pattern=r"starlette: ((?!ours).+)",
        reference="bare",
        unit=_REQUEST,
        ours="theirs",
        needs="starlette: OpenTelemetry, metrics, sampled",
    ),
    "starlette-added": _Table(
        head="what is added",
        pattern=r"starlette added: (.+)",
        reference="other",
        unit=_REQUEST,
        needs="starlette: OpenTelemetry, metrics, sampled",
    ),
    "fastapi": _Table(
        head="FastAPI, one route", pattern=r"fastapi: (ours, .+)", reference="bare", unit=_REQUEST
    ),
    "fastapi-others": _Table(
        head="others, in the same run",
        pattern=r"fastapi: ((?!ours).+)",
        reference="bare",
        unit=_REQUEST,
        ours="theirs",
        needs="fastapi: FastAPI's own, metrics, sampled",
    ),
    "fastapi-added": _Table(
        head="what is added",
        pattern=r"fastapi added: (.+)",
        reference="other",
        unit=_REQUEST,
    ),
    "routes": _Table(
        head="added to a request",
        pattern=r"routes: (.+)",
        reference="behind none",
        unit=_REQUEST,
        ours="behind 60 routes",
    ),
    "sse": _Table(
        head="20 chunks", pattern=r"sse: (.+)", reference="bare", unit=_REQUEST, ours="with it"
    ),
    "server": _Table(
        head="uvicorn and wrk",
        pattern=r"server: (.+)",
        reference="bare",
        unit="requests/s",
        ours="with it",
    ),
    "server-time": _Table(
        head="for each second of the server's CPU time",
        pattern=r"server's time: (.+)",
        reference="bare",
        unit="requests/CPU s",
        ours="with it",
    ),
    "transaction": _Table(
        head="a transaction",
        pattern=r"transaction: (.+)",
        reference="no telemetry",
        unit="us CPU",
        ours="with it",
    ),
    "instruments": _Table(
        head="one call", pattern=r"instruments: (.+)", reference="other", unit="ns", ours="it"
    ),
    "page": _Table(
        head="the longest turn", pattern=r"page: (.+)", reference="other", unit="ms", ours="it"
    ),
}
"""The same for the page on what telemetry costs."""

_CAPABILITIES = {
    "tenancy": ("cost.md", BLOCKS),
    "quotas": ("quota-cost.md", QUOTA_BLOCKS),
    "kms": ("seal-cost.md", SEAL_BLOCKS),
    "webhooks": ("webhook-cost.md", WEBHOOK_BLOCKS),
    "telemetry": ("telemetry-cost.md", TELEMETRY_BLOCKS),
}


def main() -> None:
    """
    Read the two files, and write the page.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.bench.page", description=__doc__)
    parser.add_argument("capability", choices=_CAPABILITIES)
    parser.add_argument("rows", type=Path, help="what --json wrote")
    parser.add_argument("output", type=Path, help="what the same run printed")
    options = parser.parse_args()
    rows = [Row.from_mapping(values) for values in json.loads(options.rows.read_text())]
    name, blocks = _CAPABILITIES[options.capability]
    page = PAGES / name
    page.write_text(render(page.read_text(), rows, options.output.read_text(), blocks))


if __name__ == "__main__":
    main()
