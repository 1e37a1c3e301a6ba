"""
What a walk found, operation by operation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["WalkFinding", "WalkOperation", "WalkReport"]

Kind = Literal["leak", "existence", "work", "change"]
State = Literal["walked", "excepted", "not covered"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WalkFinding:
    """
    A way in which an operation tells of another tenant, or changes what it has.

    Attributes:
        kind: ``leak``, something of the first tenant is in an answer;
            ``existence``, what the first tenant has and what nobody has are
            answered differently; ``work``, they take a different amount of it;
            ``change``, what the first tenant has is not what it was.

        operation: The method and the path template.

        request: The method and the path that were sent.

        detail: What was found, and where.
    """

    kind: Kind
    operation: str
    request: str
    detail: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.request}: {self.detail}"


@dataclass(slots=True, kw_only=True)
class WalkOperation:
    """
    What became of one operation.

    Attributes:
        name: The method and the path template.

        state: ``walked``; ``excepted``, it could not be walked and an exception
            names it; ``not covered``, it could not be walked.

        reason: Why it was not walked, or the exception's reason.

        requests: How many requests the walk made to it.

        compared: How often an answer was compared with the one for what nobody has.

        findings: What was found.
    """

    name: str
    state: State = "not covered"
    reason: str = ""
    requests: int = 0
    compared: int = 0
    findings: list[WalkFinding] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """
        Yield the lines of a report.
        """
        counts = f"{self.requests} requests, {self.compared} compared"
        reason = f": {self.reason}" if self.reason else ""
        yield f"{self.state.upper():11}  {self.name}  ({counts}){reason}"
        yield from (f"{'':13}{finding}" for finding in self.findings)


@dataclass(frozen=True, slots=True, kw_only=True)
class WalkReport:
    """
    The outcome of a walk; its text has a line for each operation.

    Attributes:
        operations: Every operation, in the order of the document.
    """

    operations: Sequence[WalkOperation]

    @property
    def findings(self) -> list[WalkFinding]:
        """
        Everything that was found.
        """
        return [finding for one in self.operations for finding in one.findings]

    @property
    def gaps(self) -> list[WalkOperation]:
        """
        The operations that were neither walked nor excepted.
        """
        return [one for one in self.operations if one.state == "not covered"]

    def ensure_clean(self) -> None:
        """
        Return if nothing was found and nothing was left out.

        Raises:
            AssertionError: Otherwise, with what was found and what was left out.
        """
        if self.findings or self.gaps:
            wrong = [one for one in self.operations if one.findings or one in self.gaps]
            lines = [line for one in wrong for line in one.lines()]
            raise AssertionError("\n".join([self.summary(), *lines]))

    def summary(self) -> str:
        """
        One line of numbers.
        """
        states = [one.state for one in self.operations]
        return (
            f"{len(states)} operations: {states.count('walked')} walked, "
            f"{states.count('excepted')} excepted, {states.count('not covered')} not covered; "
            f"{sum(one.requests for one in self.operations)} requests, "
            f"{len(self.findings)} findings"
        )

    def __str__(self) -> str:
        return "\n".join(
            [self.summary(), *(line for one in self.operations for line in one.lines())]
        )
