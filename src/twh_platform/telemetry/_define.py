"""
Metrics of the table of names, put on a registry.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ._names import MetricName
from ._registry import Numbers, Registry

__all__ = ["define", "define_read"]


def define(registry: Registry, name: MetricName) -> Any:
    """
    Define a metric of the table, and return its counter, gauge or histogram.

    Raises:
        twh_platform.errors.ConfigurationError: As `Registry.counter`.
    """
    if name.kind == "counter":
        return registry.counter(name.name, name.help, labels=name.labels)
    if name.kind == "gauge":
        return registry.gauge(name.name, name.help, labels=name.labels, merge=name.merge)
    return registry.histogram(
        name.name, name.help, labels=name.labels, buckets=name.buckets, exemplars=name.exemplars
    )


def define_read(registry: Registry, name: MetricName, read: Callable[[], Numbers]) -> None:
    """
    Define a counter or gauge of the table that is read when the page is rendered.

    Args:
        registry: Where it is defined.

        name: Out of the table.

        read: As in `Registry.gauge_of`.

    Raises:
        twh_platform.errors.ConfigurationError: As `Registry.counter`.
    """
    if name.kind == "counter":
        registry.counter_of(name.name, name.help, read, labels=name.labels)
    else:
        registry.gauge_of(name.name, name.help, read, labels=name.labels, merge=name.merge)
