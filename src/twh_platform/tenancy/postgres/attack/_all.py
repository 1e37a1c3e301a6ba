"""
All attacks, in the order in which they are tried.
"""

from __future__ import annotations

from collections.abc import Iterable

from ....errors import ConfigurationError
from ._kinds import Attack
from ._oracles import ORACLES
from ._pool_attacks import POOL_ATTACKS
from ._reads import READS
from ._writes import WRITES

__all__ = ["ATTACKS", "chosen"]

ATTACKS: tuple[Attack, ...] = (*READS, *WRITES, *ORACLES, *POOL_ATTACKS)
"""Every attack there is, on the database and on the pool."""


def chosen(attacks: Iterable[str], ignore: Iterable[str]) -> tuple[Attack, ...]:
    """
    The attacks that were asked for, by id or name.

    Raises:
        twh_platform.errors.ConfigurationError: With code ``attack_unknown``.
    """
    wanted, unwanted = set(attacks), set(ignore)
    known = {name for one in ATTACKS for name in (one.id, one.name)}
    for name in sorted(wanted | unwanted):
        if name not in known:
            raise ConfigurationError(f"there is no attack {name!r}", code="attack_unknown")
    return tuple(
        one
        for one in ATTACKS
        if (not wanted or wanted & {one.id, one.name}) and not unwanted & {one.id, one.name}
    )
