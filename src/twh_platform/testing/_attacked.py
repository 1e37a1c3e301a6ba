"""
What the marker and the fixtures for attacks do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .._extras import missing_extra
from ..tenancy.postgres.attack import ATTACKS, AttackReport, AttackResult, attack

try:
    import pytest
except ImportError as error:
    raise missing_extra("testing", error) from error

__all__ = ["attack_names", "attacked"]

Known = pytest.StashKey[list[tuple[Any, AttackReport]]]


def attack_names(marker: pytest.Mark | None) -> dict[str, str]:
    """
    The attacks on a database that a marker asks for, by id, each with its id and name.
    """
    wanted = set(marker.args if marker else ())
    borne = set(_exceptions(marker))
    known = {name for one in ATTACKS for name in (one.id, one.name)}
    if strange := sorted((wanted | borne) - known):
        raise pytest.UsageError(f"twh_attack: there is no attack {strange[0]!r}")
    return {
        one.id: f"{one.id}-{one.name}"
        for one in ATTACKS
        if one.target == "database" and (not wanted or wanted & {one.id, one.name})
    }


def attacked(
    attack_id: str,
    target: Mapping[str, Any],
    marker: pytest.Mark | None,
    request: pytest.FixtureRequest,
    known: Known,
) -> AttackResult:
    """
    Attack a target, unless that was done for this module, and pick one result.
    """
    exceptions = _exceptions(marker)
    one = next(one for one in ATTACKS if one.id == attack_id)
    for name in (one.id, one.name):
        if name in exceptions:
            pytest.skip(f"{one.id} {one.name} is borne: {exceptions[name]}")
    asked = (request.path, tuple(attack_names(marker)), dict(target))
    reports = request.config.stash[known]
    for before, report in reports:
        if before == asked:
            return report.result(attack_id)
    made = attack(**{**target, "attacks": asked[1]})
    reports.append((asked, made))
    return made.result(attack_id)


def _exceptions(marker: pytest.Mark | None) -> Mapping[str, str]:
    given: Mapping[str, str] = marker.kwargs.get("exceptions", {}) if marker else {}
    return given
