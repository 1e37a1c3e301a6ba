"""
One of the two tenants of a walk: what it was shown, and how it fills a step.
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Collection
from dataclasses import dataclass, field

from ..tenancy import Tenant
from ._harvest import Harvest, Scalar, resource_of
from ._http import AppAnswer, AppRequest
from ._leaks import Needle
from ._steps import OWN, Choose, Slot, WalkStep

__all__ = ["NotHarvestedError", "Read", "Side"]

_LETTERS = "bcdfghjkmnpqrstvwxz"  # no vowels, so no words


class NotHarvestedError(Exception):
    """
    The tenant was shown nothing that fits into this place.
    """


@dataclass(slots=True, kw_only=True)
class Read:
    """
    A request that a tenant read something of its own with.
    """

    step: WalkStep
    request: AppRequest
    answer: AppAnswer
    volatile: set[str] = field(default_factory=set)


class Side:
    """
    A tenant of a walk.

    Args:
        tenant: The tenant.

        ignore: Names of members whose values belong to nobody.

    Attributes:
        harvest: What it was shown.

        reads: Its requests that were answered well, by method and path.

        writes: The requests that it made something with, in their order.

        answered: An answer to each step, a good one if there was any.

        prefix: What its marks begin with.
    """

    def __init__(self, tenant: Tenant, *, ignore: Collection[str]) -> None:
        self.tenant = tenant
        self.harvest = Harvest(ignore)
        self.reads: dict[str, Read] = {}
        self.writes: list[tuple[WalkStep, AppRequest]] = []
        self.answered: dict[str, AppAnswer] = {}
        # Six characters that nobody writes by chance, then a number.
        letters = (secrets.choice(_LETTERS) for _ in range(4))
        self.prefix = "".join(letters) + f"{secrets.randbelow(90) + 10}"
        self._marks = 0
        self._made: list[Needle] = []
        self._marked: dict[tuple[str, str], list[str]] = {}

    def identity(self) -> list[Needle]:
        """
        What tells of the tenant, whatever else both were shown: its id, its marks, what it made.
        """
        return [
            Needle(self.tenant.id, "the tenant id"),
            Needle(self.prefix, "the mark"),
            *self._made,
        ]

    def new_mark(self) -> str:
        """
        Make a text that tells whose it is and that was not there before.
        """
        self._marks += 1
        return f"{self.prefix}{self._marks:04d}"

    def own(self, step: WalkStep, index: int = 0) -> Choose:
        """
        How the tenant fills a step with what is its own, the one *index* before the latest.

        Raises:
            NotHarvestedError: In a place that it has nothing for.
        """

        def choose(slot: Slot) -> Scalar:
            if slot.name == "mark":
                return self.marks_of(step, slot)[0] if step.safe else self._mark(step, slot)
            if slot.name == "uuid":
                return str(uuid.uuid4())
            if slot.name in OWN:
                return self.tenant.id
            found = self.harvest.named(slot.name)
            if not found:
                message = f"nothing that was shown fits {slot}"
                raise NotHarvestedError(message)
            return found[min(index, len(found) - 1)]

        return choose

    def _mark(self, step: WalkStep, slot: Slot) -> str:
        made = self.new_mark()
        self._marked.setdefault((step.operation, slot.place), []).append(made)
        return made

    def marks_of(self, step: WalkStep, slot: Slot) -> list[str]:
        """
        The marks that were put there, or else those that were put anywhere; the latest first.
        """
        anywhere = [mark for marks in self._marked.values() for mark in marks]
        return (self._marked.get((step.operation, slot.place)) or anywhere or [self.prefix])[::-1]

    def took(self, step: WalkStep, request: AppRequest, answer: AppAnswer) -> None:
        """
        Remember a request that was carried out, and what it showed.
        """
        self.harvest.take(step.operation, answer)
        for name, value in step.kept(answer.find_json()).items():
            self.harvest.keep(name, value)
        if not step.safe:
            self.writes.append((step, request))
            made = Harvest()
            made.take(step.operation, answer)
            name = f"{resource_of(step.path)}_id"
            self._made += [one for one in made.identities() if one.what.startswith(f"{name} ")]
