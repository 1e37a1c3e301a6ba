"""
One request for each tenant of a batch, and every answer in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from ...errors import KeyServiceError, KeyServiceUnavailableError
from .._context import KeyContext
from .._service import Result

__all__ = ["by_tenant", "fill", "filled"]

T = TypeVar("T")

_MOST_ITEMS = 250


def by_tenant(contexts: Sequence[KeyContext]) -> list[tuple[str, list[int]]]:
    """
    The places of each tenant's items, at most 250 at a time.
    """
    groups: dict[str, list[int]] = {}
    for at, context in enumerate(contexts):
        groups.setdefault(context.tenant_id, []).append(at)
    return [
        (tenant_id, places[start : start + _MOST_ITEMS])
        for tenant_id, places in groups.items()
        for start in range(0, len(places), _MOST_ITEMS)
    ]


def fill(
    results: list[Result[T] | None], places: Sequence[int], work: Callable[[], list[Result[T]]]
) -> None:
    """
    Put what *work* gives into its places, or its error into each of them.

    Once the service does not answer, what is left is not tried.
    """
    if not places:
        return
    earlier = next((one for one in results if isinstance(one, KeyServiceUnavailableError)), None)
    found: list[Result[T]]
    try:
        found = [earlier] * len(places) if earlier else work()
    except KeyServiceError as error:
        # Without its frames: they hold what the batch has got so far.
        found = [error.with_traceback(None)] * len(places)
    for at, one in zip(places, found, strict=True):
        results[at] = one


def filled(results: list[Result[T] | None]) -> list[Result[T]]:
    """
    The results, now that every place has one.

    Raises:
        twh_platform.errors.KeyServiceUnavailableError: If nothing was answered at all.
    """
    done = [one for one in results if one is not None]
    first = done[0] if done else None
    if isinstance(first, KeyServiceUnavailableError) and all(one is first for one in done):
        raise first
    return done
