"""
The attacks on a pool, as rows of the table; `_pool` carries them out.
"""

from __future__ import annotations

from collections.abc import Iterator

from ._kinds import Outcome, make_attack
from ._scene import Scene

__all__ = ["POOL_ATTACKS"]


@make_attack(
    "TWHA60",
    "pool-rows",
    (15, 17, 38, 49, 50, 51),
    "works on connections that another tenant has just given back, in any state",
    "a tenant that is bound at each BEGIN, for that transaction alone",
    target="pool",
)
def pool_rows(_scene: Scene) -> Iterator[Outcome]:
    """
    Is carried out by `attack_pool`.
    """
    return iter(())


@make_attack(
    "TWHA61",
    "pool-residue",
    (15, 34, 35, 36),
    "finds what another tenant left in a session: settings, cursors, tables, locks",
    "connections that scrub when they change tenant; TEMPORARY revoked",
    target="pool",
)
def pool_residue(_scene: Scene) -> Iterator[Outcome]:
    """
    Is carried out by `attack_pool`.
    """
    return iter(())


@make_attack(
    "TWHA62",
    "pool-stuck",
    (38,),
    "cancels work at any moment, so that connections stay taken or in a transaction",
    "binding in one message at BEGIN, never in a hook around a cursor",
    target="pool",
)
def pool_stuck(_scene: Scene) -> Iterator[Outcome]:
    """
    Is carried out by `attack_pool`.
    """
    return iter(())


POOL_ATTACKS = (pool_rows, pool_residue, pool_stuck)
