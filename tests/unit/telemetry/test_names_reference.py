"""
The reference page holds every name that leaves the process, as the tables of names say it.

After a change there, ``python tests/unit/telemetry/test_names_reference.py`` writes the page anew.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from twh_platform.telemetry import Registry
from twh_platform.telemetry._define import define
from twh_platform.telemetry._names import (
    CLIENT_SPAN_ATTRIBUTES,
    EVENT_ATTRIBUTES,
    SPAN_ATTRIBUTES,
    SPAN_EVENTS,
    MetricName,
)
from twh_platform.telemetry._reference import (
    meanings_table,
    metric_names,
    metrics_table,
    own_metrics,
)

TABLES = {
    "metrics": lambda: metrics_table(metric_names()),
    "own metrics": lambda: metrics_table(own_metrics()),
    "span attributes": lambda: meanings_table("attribute", SPAN_ATTRIBUTES),
    "client span attributes": lambda: meanings_table("attribute", CLIENT_SPAN_ATTRIBUTES),
    "span events": lambda: meanings_table("event", SPAN_EVENTS),
    "event attributes": lambda: meanings_table("attribute", EVENT_ATTRIBUTES),
}
PAGE = Path("docs", "reference", "telemetry-metrics.md")


def _between(name: str, text: str) -> str:
    return rf"(?s)(<!-- {name}: written by [^>]+ -->\n\n){text}(\n\n<!-- end -->)"


def filled(page: str) -> str:
    """
    The page with every table as it should be.
    """
    for name, make in TABLES.items():
        table = make()
        page = re.sub(
            _between(name, ".*?"), lambda found, new=table: found[1] + new + found[2], page
        )
    return page


@pytest.fixture(scope="module")
def page(project_root) -> str:
    """The reference of metrics."""
    return (project_root / PAGE).read_text()


@pytest.mark.parametrize("name", TABLES)
def test_the_page_has_the_table(name, page):
    """Row by row as the names have it, in the place that is marked for it."""
    assert re.search(_between(name, re.escape(TABLES[name]())), page)


def test_a_gap_is_noticed(page):
    """Control: a metric more, and the table is another one."""
    one = MetricName(name="one_more_total", kind="counter", help="None | other.", labels=("a", "b"))
    row = "| `one_more_total` | counter | `a`, `b` | None \\| other. |"

    assert metrics_table([one]).splitlines()[-1] == row
    assert metrics_table([*metric_names(), one]) not in page
    assert filled(page.replace("platform_kms_operations_total", "gone")) == page


def test_every_metric_of_the_table_can_be_defined():
    """Together: no two share a name, and each is one that a page may have."""
    registry = Registry()
    for name in metric_names():
        define(registry, name)

    assert len(registry.definitions()) == len(metric_names()) + len(own_metrics())


if __name__ == "__main__":
    path = Path(__file__).parents[3] / PAGE
    path.write_text(filled(path.read_text()))
