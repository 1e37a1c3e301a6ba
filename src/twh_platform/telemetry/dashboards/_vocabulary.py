"""
What an expression may name: the samples of our metrics, and what Prometheus adds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from .. import _names
from .._definitions import Definition
from .._names import MetricName
from .._registry import Registry

__all__ = ["TARGET_LABELS", "Sample", "Vocabulary", "known_metrics", "vocabulary"]

TARGET_LABELS: Final = frozenset({"job", "instance"})
"""
What Prometheus adds to whatever it scrapes.
"""


class Sample(NamedTuple):
    """
    A name as expressions have it.

    Args:
        labels: Its label names.

        grows: Whether it is a counter, so that `rate` means something.
    """

    labels: frozenset[str]
    grows: bool


Vocabulary = Mapping[str, Sample]

_OF_PROMETHEUS: Final = {
    "up": Sample(TARGET_LABELS, grows=False),
    "scrape_duration_seconds": Sample(TARGET_LABELS, grows=False),
    "scrape_samples_scraped": Sample(TARGET_LABELS, grows=False),
    "ALERTS": Sample(
        TARGET_LABELS | {"alertname", "alertstate", "severity", "slo", "tenant"}, grows=False
    ),
}


def known_metrics() -> dict[str, MetricName | Definition]:
    """
    The table of names, and what a registry counts about itself, by name.
    """
    known: dict[str, MetricName | Definition] = {
        one.name: one for one in vars(_names).values() if isinstance(one, MetricName)
    }
    return known | {one.name: one for one in Registry().definitions()}


def vocabulary() -> dict[str, Sample]:
    """
    Every sample that an expression may name, without those that rules record.
    """
    return {**_OF_PROMETHEUS, **dict(_samples(known_metrics().values()))}


def _samples(metrics: Iterable[MetricName | Definition]) -> Iterator[tuple[str, Sample]]:
    for metric in metrics:
        labels = TARGET_LABELS.union(metric.labels)
        if metric.kind == "histogram":
            yield f"{metric.name}_bucket", Sample(labels | {"le"}, grows=True)
            yield f"{metric.name}_sum", Sample(labels, grows=True)
            yield f"{metric.name}_count", Sample(labels, grows=True)
        elif metric.merge == "each":
            yield metric.name, Sample(labels | {"pid"}, grows=False)
        else:
            yield metric.name, Sample(labels, grows=metric.kind == "counter")
