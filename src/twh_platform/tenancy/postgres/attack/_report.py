"""
What attacks came to, and how it is written.
"""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from ._kinds import VERDICTS, AttackResult, Verdict

__all__ = ["AttackReport"]

_WIDTH = 92
_SHOWN = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackReport:
    """
    What attacks came to.

    Attributes:
        database: The database's name; empty if only a pool was attacked.

        server_version: Such as ``15.18``.

        login: The role that was attacked from.

        tenants: The attacker's own tenant, and the one whose rows were to be stolen.

        inferred: What was inferred of the schema, in sentences.

        tables: How many rows of the other tenant there were to steal, by table,
            up to a thousand; None where the login may not read at all.

        results: By attack.

        changed: What is not as it was before, in sentences.  Nothing is
            committed, so somebody else has been at work.

        probe: A query for `attack_pool`: the tenant column of some rows of a
            table in which both tenants have some; empty if there is none.

        app: What a walk through the app came to; empty if there was none.

        app_clean: Whether that walk was clean.
    """

    database: str = ""
    server_version: str = ""
    login: str = ""
    tenants: tuple[str, str]
    inferred: tuple[str, ...] = ()
    tables: dict[str, int | None]
    results: tuple[AttackResult, ...]
    changed: tuple[str, ...] = ()
    probe: str = ""
    app: str = ""
    app_clean: bool = True

    @property
    def leaked(self) -> tuple[AttackResult, ...]:
        """
        The attacks that got something.
        """
        return tuple(one for one in self.results if one.verdict == "leaked")

    @property
    def inconclusive(self) -> tuple[AttackResult, ...]:
        """
        The attacks that got nothing and prove nothing, somewhere at least.
        """
        return tuple(one for one in self.results if one.verdict == "inconclusive")

    def result(self, attack: str) -> AttackResult:
        """
        The result of one attack, by its id or name.

        Raises:
            KeyError: If it was not carried out.
        """
        for one in self.results:
            if attack in {one.attack.id, one.attack.name}:
                return one
        raise KeyError(attack)

    def is_safe(self, *, allow_inconclusive: bool = False) -> bool:
        """
        Whether nothing leaked, and, unless it is allowed, nothing was inconclusive.
        """
        shown = allow_inconclusive or not any(one.at("inconclusive") for one in self.results)
        return not self.leaked and shown and not self.changed and self.app_clean

    def ensure_safe(self, *, allow_inconclusive: bool = False) -> None:
        """
        Accept the report, or raise with its text.

        Raises:
            AssertionError: Unless `is_safe`.
        """
        if not self.is_safe(allow_inconclusive=allow_inconclusive):
            raise AssertionError(self.text())

    def text(self) -> str:
        """
        The report for a reader.
        """
        lines = [*self._head(), ""]
        for verdict in VERDICTS:
            for one in self.results:
                if one.verdict == verdict:
                    lines += _paragraph(one)
        lines += ["", *self._foot()]
        return "\n".join(lines) + "\n"

    def _head(self) -> Iterator[str]:
        mine, theirs = self.tenants
        if self.database:
            yield (
                f"database {self.database}, PostgreSQL {self.server_version}, "
                f"as {self.login}: {mine!r} attacks {theirs!r}"
            )
        for sentence in self.inferred:
            yield _wrapped(sentence, "  ")
        if self.tables:
            told = ", ".join(
                f"{name} {'unreadable' if count is None else count}"
                for name, count in self.tables.items()
            )
            yield _wrapped(f"rows of {theirs!r} to steal: {told}", "  ")

    def _foot(self) -> Iterator[str]:
        targets = {one.attack.target for one in self.results}
        if "pool" not in targets:
            yield "pool: not attacked"
        yield f"app: {self.app or 'not attacked'}"
        for sentence in self.changed:
            yield _wrapped(f"CHANGED: {sentence}", "")
        if self.database and not self.changed:
            yield "left behind: nothing"
        count = Counter(one.verdict for one in self.results)
        yield ", ".join(f"{count[verdict]} {verdict}" for verdict in VERDICTS)

    def json(self) -> str:
        """
        The report as one JSON object.
        """
        content: dict[str, Any] = {
            "version": 1,
            "database": self.database,
            "server_version": self.server_version,
            "login": self.login,
            "tenant": self.tenants[0],
            "other": self.tenants[1],
            "inferred": list(self.inferred),
            "tables": self.tables,
            "results": [_as_dict(one) for one in self.results],
            "changed": list(self.changed),
            "app": self.app or None,
        }
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _as_dict(result: AttackResult) -> dict[str, Any]:
    attack = result.attack
    return {
        "attack": attack.id,
        "name": attack.name,
        "title": attack.title,
        "numbers": list(attack.numbers),
        "target": attack.target,
        "defence": attack.defence,
        "verdict": result.verdict,
        "rows": result.rows,
        "outcomes": [asdict(one) for one in result.outcomes],
    }


def _paragraph(result: AttackResult) -> list[str]:
    attack, verdict = result.attack, result.verdict
    word = "LEAKED" if verdict == "leaked" else verdict
    rows = f" ({result.rows} in all)" if verdict == "leaked" and result.rows else ""
    lines = [f"{word:<12} {attack.id} {attack.name}: {attack.title}{rows}"]
    if verdict in {"leaked", "inconclusive"}:
        told = list(_told(result, "leaked", "inconclusive"))
        lines += [*told[:_SHOWN], *([f"    and {len(told) - _SHOWN} more"] * (len(told) > _SHOWN))]
        lines.append(_wrapped(f"Defence: {attack.defence}", "    "))
    elif verdict == "advice":
        lines += [*list(_told(result, "advice"))[:_SHOWN]]
        lines.append(_wrapped(f"Advice: {attack.defence}", "    "))
    elif verdict == "absent":
        lines += [f"    {one.detail}" for one in result.outcomes if one.detail]
    return lines


def _told(result: AttackResult, *verdicts: Verdict) -> Iterator[str]:
    """
    Tell the outcomes, those of one kind together.
    """
    grouped: dict[tuple[Verdict, str], list[str]] = {}
    for one in result.outcomes:
        if one.verdict in verdicts:
            grouped.setdefault((one.verdict, one.detail), []).append(one.name)
    for (verdict, detail), objects in grouped.items():
        yield _wrapped(f"{verdict} {', '.join(objects)}: {detail}", "    ")


def _wrapped(text: str, indent: str) -> str:
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent=indent,
        subsequent_indent=f"{indent}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
