"""
What writes the figures of a run into the page on costs.
"""

from __future__ import annotations

import dataclasses
import re

import pytest

from tests.bench._rows import Row, paired_row
from tests.bench.page import (
    BLOCKS,
    PAGES,
    QUOTA_BLOCKS,
    SEAL_BLOCKS,
    TELEMETRY_BLOCKS,
    WEBHOOK_BLOCKS,
    render,
)

OUTPUT = "2 CPUs\nquick, and so less certain\n\n| name |\n\n90 s in all, load 3.1 at the end\n"

NAMES = {
    "us": (
        "time local: psycopg, against no RLS",
        "time local: psycopg, against set_config",
        "time at 0.63 ms: psycopg, against no RLS",
        "time at 0.63 ms: psycopg, against set_config",
        "scrub local: another tenant, against DISCARD ALL",
        "policy: PK lookup, against WHERE",
        "sealed transaction: psycopg, against no RLS",
        "sealed statement: PK lookup, libpq, against WHERE",
        "through PgBouncer: psycopg, sealed, against no RLS",
        "warehouse local: GET an item, sealed, against no isolation",
    ),
    "us CPU": (
        "time at 0.63 ms: psycopg, against no RLS",
        "warehouse local: GET an item, sealed, against no isolation",
    ),
    "turns": (
        "turns: psycopg, against no RLS",
        "turns: psycopg, against set_config",
    ),
    "us/request": ("middleware on a bare app", "middleware alone, jwt"),
}


def row(name: str, unit: str = "us", *, ours: float = 105.0) -> Row:
    """
    A row whose reference is 100.
    """
    return paired_row(name, "", unit=unit, ours=[ours], reference=[100.0], target=1.1)


def run() -> list[Row]:
    """
    A row for each block.
    """
    return [row(name, unit) for unit, names in NAMES.items() for name in names]


def page(*names: str) -> str:
    """
    A page of nothing but blocks, with an old figure in each.
    """
    return "".join(f"<!-- bench: {name} -->\nold\n<!-- end -->\nprose\n" for name in names)


def test_every_block_is_written_anew() -> None:
    """
    Nothing old stays between the markers, and nothing beside them is touched.
    """
    written = render(page(*BLOCKS), run(), OUTPUT)

    assert "old" not in written
    assert written.count("prose") == len(BLOCKS)
    assert render(written, run(), OUTPUT) == written


def test_a_table_shows_a_row_as_the_run_had_it() -> None:
    """
    Figures, interval, target and verdict; long times in milliseconds.
    """
    long = dataclasses.replace(row("policy: a scan, against WHERE"), ours=78_540.0)
    written = render(page(*BLOCKS), [*run(), long], OUTPUT)

    assert "| PK lookup | 105 | 100 | 1.050 (1.050-1.050) | <= 1.10 | reached |" in written
    assert "| a scan | 78.5 ms | 100 |" in written


def test_conditions_are_those_of_the_output() -> None:
    """
    What the run printed first, and how long it took; a run cut short has no page.
    """
    assert "- quick, and so less certain\n- 90 s in all, load 3.1 at the end\n" in render(
        page(*BLOCKS), run(), OUTPUT
    )
    with pytest.raises(ValueError, match="came to its end"):
        render(page(*BLOCKS), run(), "2 CPUs\n\n| name |\n")


@pytest.mark.parametrize(
    "prefix", ["turns", "policy", "sealed", "through", "warehouse", "middleware"]
)
def test_a_run_without_a_part_is_refused(prefix: str) -> None:
    """
    A page never has figures of two runs.
    """
    some = [one for one in run() if not one.name.startswith(prefix)]

    with pytest.raises(ValueError, match="no rows"):
        render(page(*BLOCKS), some, OUTPUT)


def test_a_run_without_the_public_alternative_is_refused() -> None:
    """
    Where it is not installed there is one row of the middleware, and its table would mislead.
    """
    some = [one for one in run() if one.name != "middleware alone, jwt"]

    with pytest.raises(ValueError, match="no rows"):
        render(page(*BLOCKS), some, OUTPUT)


def test_a_page_has_each_block_once() -> None:
    """
    A block that is missing, doubled or misspelt is an error, not an old figure.
    """
    for wrong in (list(BLOCKS)[1:], [*BLOCKS, "local"], [*BLOCKS, "locale"]):
        with pytest.raises(ValueError, match="the page has the blocks"):
            render(page(*wrong), run(), OUTPUT)


def test_the_page_on_costs_can_be_written() -> None:
    """
    It has the markers, and no table of times outside of them.
    """
    text = (PAGES / "cost.md").read_text()
    outside = re.sub(r"<!-- bench: .*?<!-- end -->", "", text, flags=re.DOTALL)

    assert render(text, run(), OUTPUT) != text
    assert "ours, us" in text
    assert "ours, us" not in outside


def test_the_page_on_quotas_can_be_written() -> None:
    """
    Every pattern of its blocks meets a name that the benchmark of quotas gives.
    """
    names = {
        "hits/s": (
            "redis, 1 rule",
            "redis, lease of 10",
            "redis, by limits fixed",
            "redis, 1 rule against limits fixed",
            "memory, store, 1 rule",
            "memory, limits fixed",
        ),
        "us": ("redis, server time of 1 rule", "memory, store, 1 rule at 100,000 keys"),
        "bytes": ("redis, memory of 3 rules",),
        "ms": ("redis frozen, time to an answer",),
        "us/request": ("quota middleware on Starlette",),
    }
    rows = [row(name, unit) for unit, some in names.items() for name in some]
    text = (PAGES / "quota-cost.md").read_text()
    written = render(text, rows, OUTPUT, QUOTA_BLOCKS)

    assert "| lease of 10; " in written
    assert "105 ms" not in written


def test_the_page_on_sealing_can_be_written() -> None:
    """
    Every pattern of its blocks meets a name that the benchmark of sealing gives.
    """
    names = {
        "us": (
            "suite 1, seal",
            "Fernet, open",
            "AWS Encryption SDK, cached, seal",
            "suite 2 against the AWS Encryption SDK, cached, open",
            "cryptography of suite 1, encrypt",
        ),
        "bytes": ("suite 1, size",),
        "calls": ("1,000 cold coroutines",),
    }
    rows = [row(name, unit) for unit, some in names.items() for name in some]
    text = (PAGES / "seal-cost.md").read_text()

    assert render(text, rows, OUTPUT, SEAL_BLOCKS) != text


def test_the_page_on_webhooks_can_be_written() -> None:
    """
    Every pattern of its blocks meets a name that the benchmark of webhooks gives.
    """
    names = {
        "us": (
            "ours, verify",
            "reject against accept",
            "stripe, verify",
            "verify against stripe",
            "receive in a file, read by the app",
        ),
        "bytes": ("ours, verify, memory", "receive in a file, beyond the spool"),
        "us CPU": ("receive and insert, Verifier.verify",),
    }
    rows = [row(name, unit) for unit, some in names.items() for name in some]
    text = (PAGES / "webhook-cost.md").read_text()

    assert render(text, rows, OUTPUT, WEBHOOK_BLOCKS) != text


def test_the_page_on_telemetry_can_be_written() -> None:
    """
    Every pattern of its blocks meets a name that the benchmark of telemetry gives.
    """
    names = {
        "us/request": (
            "starlette: ours, metrics",
            "starlette: OpenTelemetry, metrics, sampled",
            "starlette added: metrics, sampled, against OpenTelemetry, metrics, sampled",
            "fastapi: ours, metrics",
            "fastapi: FastAPI's own, metrics, sampled",
            "fastapi added: metrics, sampled, against FastAPI's own, metrics, sampled",
            "routes: ours, metrics",
            "sse: ours, metrics",
        ),
        "requests/s": ("server: ours, metrics",),
        "requests/CPU s": ("server's time: ours, metrics",),
        "us CPU": ("transaction: metrics",),
        "ns": ("instruments: inc, ours against theirs",),
        "ms": ("page: ours, many series, against theirs, many",),
    }
    rows = [row(name, unit) for unit, some in names.items() for name in some]
    text = (PAGES / "telemetry-cost.md").read_text()

    assert render(text, rows, OUTPUT, TELEMETRY_BLOCKS) != text
