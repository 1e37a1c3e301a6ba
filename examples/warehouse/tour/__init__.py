"""
The tour: what to ask the warehouse, and what it must answer.

It is lists of steps.  `shell` writes them as lines to copy; `check` drives
them over HTTP and compares every answer.  A step reads variables (`{item}`) in
its path, headers, body and expectation, and may keep one from its answer.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import jwt

from ..auth import Role, Tokens
from ..ids import new_id
from ..seed import EXPIRED, MAIN, SUSPENDED
from ..settings import Settings
from .administrator import administrator
from .isolation import isolation
from .quotas import quotas
from .step import Step
from .work import work

__all__ = ["Tour", "tours"]


# Of documentation (RFC 5737) and of benchmarks (RFC 2544): nobody's.
_NETWORKS = ("192.0.2", "198.18.0", "198.51.100", "203.0.113")

# The months that are billed: this one and the last.
_SPAN = timedelta(days=40)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tour:
    """
    Steps that share their variables.
    """

    name: str
    steps: Sequence[Step]
    variables: Mapping[str, str]


def tours(settings: Settings, password: str) -> list[Tour]:
    """
    The whole demo: the administrator, the quotas, then each of the two main tenants.

    Args:
        settings: What the running app was given; its secret makes the tokens
            that no login would give.

        password: The password of every user.
    """
    common = {
        "password": password,
        "administrator_email": settings.administrator_email,
        "administrator": Tokens(settings).for_administrator(),
        "first_day": f"{settings.now() - _SPAN:%Y-%m-%d}",
        "last_day": f"{settings.now() + _SPAN:%Y-%m-%d}",
        **_odd_tokens(settings),
    }
    first, second = MAIN
    planned: list[tuple[str, list[Step], dict[str, str]]] = [
        ("administrator", administrator(), {}),
        ("quotas", quotas(), {}),
    ]
    for tenant, other in ((first, second), (second, first)):
        names = {"tenant_id": tenant, "other_id": other, **_tokens_of(settings, tenant, other)}
        planned.append((tenant, [*work(tenant, other), *isolation()], names))
    return [
        Tour(
            name=name,
            steps=steps,
            variables={
                **common,
                **names,
                "run": secrets.token_hex(4),
                "nothing": str(new_id()),
                "network": network,
            },
        )
        for (name, steps, names), network in zip(planned, _NETWORKS, strict=True)
    ]


def _tokens_of(settings: Settings, tenant: str, other: str) -> dict[str, str]:
    """
    Tokens that name the tenant, each with something wrong.
    """
    user: dict[str, Any] = {"tenant_id": tenant, "user_id": UUID(int=1), "role": Role.ADMIN}
    good = Tokens(settings).for_user(**user)
    claims = jwt.decode(good, options={"verify_signature": False})
    head, _, signature = good.split(".")
    swapped = jwt.encode({**claims, "tenant_id": other}, "x" * 32).split(".")[1]
    past = settings.now() - timedelta(hours=1)
    return {
        "forged": Tokens(replace(settings, secret=secrets.token_bytes(32))).for_user(**user),
        "unsigned": jwt.encode(claims, "", algorithm="none"),
        "expired": Tokens(replace(settings, now=lambda: past)).for_user(**user),
        "tampered": f"{head}.{swapped}.{signature}",
    }


def _odd_tokens(settings: Settings) -> dict[str, str]:
    """
    Good tokens for tenants that may not be served.
    """
    named = {"suspended": SUSPENDED, "expired_tenant": EXPIRED, "unknown_tenant": "nowhere"}
    return {
        name: Tokens(settings).for_user(tenant_id=tenant, user_id=UUID(int=1), role=Role.ADMIN)
        for name, tenant in named.items()
    }
