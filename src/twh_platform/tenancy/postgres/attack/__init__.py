"""
Attacking a service's own database and pool, as one who can run SQL of his own.

    >>> from twh_platform.tenancy.postgres.attack import attack
    >>> report = attack(dsn, tenant="acme", other="globex")  # doctest: +SKIP
    >>> print(report.text())  # doctest: +SKIP

`twh-platform tenancy attack` does the same from the command line.
"""

from ._all import ATTACKS
from ._attack import attack
from ._kinds import VERDICTS, Attack, AttackResult, Outcome
from ._pool import Bind, attack_pool
from ._report import AttackReport

__all__ = [
    "ATTACKS",
    "VERDICTS",
    "Attack",
    "AttackReport",
    "AttackResult",
    "Bind",
    "Outcome",
    "attack",
    "attack_pool",
]
