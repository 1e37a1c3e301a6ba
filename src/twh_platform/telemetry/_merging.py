"""
What the series of several workers become on one page.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from math import isnan

from ._definitions import Definition, Series

__all__ = ["add_up", "merged"]

Labelled = dict[tuple[str, ...], Series]


def merged(
    definition: Definition, mine: Iterable[Series], others: list[tuple[int, Labelled]], pid: int
) -> Iterator[Series]:
    """
    Merge one metric's series over the workers; a gauge that holds NaN has not been set.

    Args:
        definition: The metric.

        mine: This process's series.

        others: The process id and the series of each other worker.

        pid: This process's id.
    """
    if definition.kind == "gauge" and definition.merge == "each":
        yield from _each(mine, others, pid)
        return
    seen = set()
    for series in mine:
        seen.add(series.labels)
        found = [one for _, labelled in others if (one := labelled.get(series.labels))]
        yield from _reduce(definition, [series, *found])
    for at, (_, labelled) in enumerate(others):
        for labels, series in labelled.items():
            if labels not in seen:
                seen.add(labels)
                found = [one for _, later in others[at + 1 :] if (one := later.get(labels))]
                yield from _reduce(definition, [series, *found])


def add_up(one: Series, other: Series) -> Series:
    """
    Add two series of counters or histograms; of two exemplars the later one stays.
    """
    exemplars = dict(one.exemplars)
    for bucket, exemplar in other.exemplars.items():
        if bucket not in exemplars or exemplars[bucket][2] <= exemplar[2]:
            exemplars[bucket] = exemplar
    numbers = [a + b for a, b in zip(one.numbers, other.numbers, strict=True)]
    return Series(one.labels, numbers, exemplars)


def _reduce(definition: Definition, found: list[Series]) -> Iterator[Series]:
    if definition.kind != "gauge":
        yield functools.reduce(add_up, found)
        return
    numbers = [series.numbers[0] for series in found]
    if definition.merge == "sum":
        yield Series(found[0].labels, [sum(numbers)], {})
    elif known := [number for number in numbers if not isnan(number)]:
        least_or_most = min if definition.merge == "min" else max
        yield Series(found[0].labels, [least_or_most(known)], {})


def _each(mine: Iterable[Series], others: list[tuple[int, Labelled]], pid: int) -> Iterator[Series]:
    # Two workers may have one process id, in two namespaces: the first one is shown.
    seen = set()
    everybody = [(pid, mine), *((one, labelled.values()) for one, labelled in others)]
    for worker, all_series in everybody:
        for series in all_series:
            labels = (*series.labels, str(worker))
            if labels not in seen and not isnan(series.numbers[0]):
                seen.add(labels)
                yield series._replace(labels=labels)
