"""
What a lint reports: rules, the objects they look at, and findings.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ._survey import Survey

__all__ = ["SEVERITIES", "Finding", "Hit", "Rule", "Severity"]

Severity = Literal["error", "warning", "info"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")
"""From the gravest on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """
    What a rule found, before it is known which rule that was.

    Args:
        kind: The kind of the object, such as ``table`` or ``policy``.

        object: Its name, unique within its kind: ``public.items``.

        message: What is wrong with it, in one or two sentences.

        remedy: SQL that makes the finding go away.

        schema: The schema it is in; empty for roles and the like.

        about: What tells two findings of one rule at one object apart.

        severity: How grave it is here; None if as grave as the rule says.
    """

    kind: str
    object: str
    message: str
    remedy: str
    schema: str = ""
    about: str = ""
    severity: Severity | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """
    One kind of fault.

    Args:
        id: A stable id, such as ``TWH201``.

        name: A short name, such as ``table-without-policy``.

        severity: How grave it is; a finding may be graver.

        title: The fault in one sentence.

        why: What can happen.

        attacks: The numbers of the attacks that it stops, as the threat model
            counts them; empty for what only costs time.

        check: Yields what it finds.
    """

    id: str
    name: str
    severity: Severity
    title: str
    why: str
    attacks: tuple[int, ...]
    check: Callable[[Survey], Iterable[Hit]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """
    One fault at one object.

    Args:
        rule: The rule that found it.

        kind: The kind of the object.

        object: Its name.

        schema: The schema it is in; empty for roles and the like.

        message: What is wrong.

        remedy: SQL that makes it go away; read it before you run it.

        severity: How grave it is: as the rule says, or graver where more is at stake.

        about: What tells two findings of one rule at one object apart.
    """

    rule: Rule
    kind: str
    object: str
    schema: str
    message: str
    remedy: str
    severity: Severity
    about: str = ""

    @property
    def fingerprint(self) -> str:
        """
        What stays the same from run to run, in every database, whatever the message says.
        """
        parts = f"{self.rule.id}\0{self.kind}\0{self.object}\0{self.about}"
        return hashlib.sha256(parts.encode()).hexdigest()[:32]
