"""
What an attack is, and what comes of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ._scene import Scene

__all__ = [
    "VERDICTS",
    "Attack",
    "AttackResult",
    "Outcome",
    "Target",
    "Verdict",
    "absent",
    "advice",
    "inconclusive",
    "leaked",
    "make_attack",
    "refused",
]

Verdict = Literal["leaked", "inconclusive", "advice", "refused", "absent"]

VERDICTS: tuple[Verdict, ...] = ("leaked", "inconclusive", "advice", "refused", "absent")
"""
From the gravest on.

``leaked``: the attacker got something.  ``inconclusive``: it shows nothing,
because there was nothing to steal or it could not be carried out.  ``advice``:
what PostgreSQL cannot close.  ``refused``: there was something, and the attacker
got none of it.  ``absent``: there is nothing of the kind to attack.
"""

Target = Literal["database", "pool"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """
    What came of an attack at one object.

    Attributes:
        name: Of the object, such as ``public.items``.

        verdict: One of `VERDICTS`.

        rows: How many the attacker got, as far as they were counted.

        detail: How, or why not.
    """

    name: str
    verdict: Verdict
    rows: int = 0
    detail: str = ""


def leaked(name: str, rows: int, detail: str = "") -> Outcome:
    """
    The attacker got something.
    """
    return Outcome(name=name, verdict="leaked", rows=rows, detail=detail)


def refused(name: str, detail: str = "") -> Outcome:
    """
    The attacker got nothing of what was there.
    """
    return Outcome(name=name, verdict="refused", detail=detail)


def inconclusive(name: str, detail: str) -> Outcome:
    """
    Nothing was shown.
    """
    return Outcome(name=name, verdict="inconclusive", detail=detail)


def advice(name: str, detail: str) -> Outcome:
    """
    It works, and no policy can stop it.
    """
    return Outcome(name=name, verdict="advice", detail=detail)


def absent(detail: str) -> Outcome:
    """
    There is nothing of the kind.
    """
    return Outcome(name="", verdict="absent", detail=detail)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """
    One thing that an attacker does.

    Attributes:
        id: A stable id, such as ``TWHA03``.

        name: A short name, such as ``stacked-statements``.

        title: What the attacker does.

        numbers: The numbers of the attacks that it is, as the threat model
            counts them.

        defence: What refuses it.

        target: What is attacked: the ``database`` or the ``pool``.

        run: Does it; yields what came of it, object by object.
    """

    id: str
    name: str
    title: str
    numbers: tuple[int, ...]
    defence: str
    target: Target
    run: Callable[[Scene], Iterable[Outcome]]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackResult:
    """
    What came of one attack.

    Attributes:
        attack: The attack.

        outcomes: By object.
    """

    attack: Attack
    outcomes: tuple[Outcome, ...]

    @property
    def verdict(self) -> Verdict:
        """
        The gravest of the outcomes.
        """
        found = {one.verdict for one in self.outcomes}
        return next((verdict for verdict in VERDICTS if verdict in found), "absent")

    @property
    def rows(self) -> int:
        """
        How many rows the attacker got in all.
        """
        return sum(one.rows for one in self.outcomes)

    def at(self, verdict: Verdict) -> tuple[Outcome, ...]:
        """
        The outcomes of this verdict.
        """
        return tuple(one for one in self.outcomes if one.verdict == verdict)

    def ensure_refused(self, *, allow_inconclusive: bool = False) -> None:
        """
        Accept the result, or say what the attacker got.

        Raises:
            AssertionError: If anything leaked, or nothing was shown.
        """
        grave = ["leaked"] if allow_inconclusive else ["leaked", "inconclusive"]
        open_ = [one for one in self.outcomes if one.verdict in grave]
        if open_:
            title = f"{self.attack.id} {self.attack.name}: the attacker {self.attack.title}"
            lines = [f"{one.verdict} {one.name}: {one.detail}" for one in open_]
            raise AssertionError("\n  ".join([title, *lines, f"Defence: {self.attack.defence}"]))


def make_attack(  # noqa: PLR0917 -- a declaration reads like a row of a table
    id: str,  # noqa: A002 -- the field's name
    name: str,
    numbers: tuple[int, ...],
    title: str,
    defence: str,
    target: Target = "database",
) -> Callable[[Callable[[Scene], Iterator[Outcome]]], Attack]:
    """
    Make an attack of a function that does it.
    """

    def make(run: Callable[[Scene], Iterator[Outcome]]) -> Attack:
        return Attack(
            id=id,
            name=name,
            title=title,
            numbers=numbers,
            defence=defence,
            target=target,
            run=run,
        )

    return make
