"""
The tables of the reference page, made from the tables of names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from . import _names
from ._names import OWN_METRICS, MetricName
from ._registry import Registry

__all__ = ["meanings_table", "metric_names", "metrics_table", "own_metrics"]


class Named(Protocol):
    """
    A `MetricName` or a `Definition`.
    """

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> str: ...

    @property
    def help(self) -> str: ...

    @property
    def labels(self) -> tuple[str, ...]: ...

    @property
    def buckets(self) -> tuple[float, ...]: ...


def metric_names() -> list[MetricName]:
    """
    Every metric of `_names`, in its order, but for those of each registry.
    """
    names = [one for one in vars(_names).values() if isinstance(one, MetricName)]
    return [one for one in names if one not in OWN_METRICS]


def own_metrics() -> list[Named]:
    """
    What every registry counts about itself.
    """
    return list(Registry().definitions())


def metrics_table(metrics: Iterable[Named]) -> str:
    """
    Write metrics as a Markdown table: name, kind, labels, what it says.
    """
    rows = [
        f"| `{one.name}` | {_kind(one)} | {_quoted(one.labels)} | {_cell(one.help)} |"
        for one in metrics
    ]
    return "\n".join(["| metric | kind | labels | says |", "|---|---|---|---|", *rows])


def meanings_table(what: str, meanings: Mapping[str, str]) -> str:
    """
    Write names with their meanings as a Markdown table.
    """
    rows = [f"| `{name}` | {_cell(meaning)} |" for name, meaning in meanings.items()]
    return "\n".join([f"| {what} | means |", "|---|---|", *rows])


def _kind(metric: Named) -> str:
    bounds = metric.buckets
    if not bounds:
        return metric.kind
    return f"{metric.kind}, {len(bounds)} buckets from {bounds[0]:g} to {bounds[-1]:g}"


def _quoted(labels: Iterable[str]) -> str:
    return ", ".join(f"`{one}`" for one in labels)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
