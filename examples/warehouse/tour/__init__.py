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
from ..vault import Vault
from .administrator import administrator
from .isolation import isolation
from .keys import accounts, keys
from .quotas import quotas
from .step import Aside, Step
from .telemetry import Seen, telemetry
from .webhooks import webhooks
from .work import work

__all__ = ["Seen", "Tour", "tours"]


# Of documentation (RFC 5737) and of benchmarks (RFC 2544): nobody's.
_NETWORKS = ("192.0.2", "198.18.0", "198.51.100", "203.0.113", "198.19.0", "198.19.1", "198.18.1")

# The months that are billed: this one and the last.
_SPAN = timedelta(days=40)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tour:
    """
    Steps that share their variables.
    """

    name: str
    steps: Sequence[Step | Aside]
    variables: Mapping[str, str]


def tours(settings: Settings, password: str, seen: Seen | None = None) -> list[Tour]:
    """
    The whole demo: the administrator, the quotas, each of the two main tenants,
    webhooks, telemetry, the keys.

    Args:
        settings: What the running app was given; the secret in its vault makes
            the tokens that no login would give.

        password: The password of every user.

        seen: Where the log and the spans are, if anywhere.
    """
    vault = Vault.of(settings)
    tokens = Tokens(settings, vault)
    common = {
        "password": password,
        "administrator_email": settings.administrator_email,
        "administrator": tokens.for_administrator(),
        "first_day": f"{settings.now() - _SPAN:%Y-%m-%d}",
        "last_day": f"{settings.now() + _SPAN:%Y-%m-%d}",
        **_odd_tokens(tokens),
    }
    first, second = MAIN
    planned: list[tuple[str, Sequence[Step | Aside], dict[str, str]]] = [
        ("administrator", administrator(), {}),
        ("quotas", quotas(), {}),
    ]
    for tenant, other in ((first, second), (second, first)):
        odd = _tokens_of(settings, vault, tenant, other)
        names = {"tenant_id": tenant, "other_id": other, **odd}
        planned.append((tenant, [*work(tenant, other), *isolation()], names))
    planned.append(("webhooks", webhooks(settings, vault.seal()), {}))
    planned.append(("telemetry", telemetry(seen or Seen()), {}))
    # Last, since it revokes what the administrator's token is signed with.
    planned.append(("keys", keys(settings, vault.seal()), {}))
    return [
        Tour(
            name=name,
            steps=steps,
            variables={
                **common,
                **names,
                **accounts(),
                "run": secrets.token_hex(4),
                "nothing": str(new_id()),
                "network": network,
            },
        )
        for (name, steps, names), network in zip(planned, _NETWORKS, strict=True)
    ]


def _tokens_of(settings: Settings, vault: Vault, tenant: str, other: str) -> dict[str, str]:
    """
    Tokens that name the tenant, each with something wrong.
    """
    user: dict[str, Any] = {"tenant_id": tenant, "user_id": UUID(int=1), "role": Role.ADMIN}
    good = Tokens(settings, vault).for_user(**user)
    claims = jwt.decode(good, options={"verify_signature": False})
    head, _, signature = good.split(".")
    swapped = jwt.encode({**claims, "tenant_id": other}, "x" * 32).split(".")[1]
    past = settings.now() - timedelta(hours=1)
    return {
        "forged": jwt.encode(claims, secrets.token_bytes(32)),
        "unsigned": jwt.encode(claims, "", algorithm="none"),
        "expired": Tokens(replace(settings, now=lambda: past), vault).for_user(**user),
        "tampered": f"{head}.{swapped}.{signature}",
    }


def _odd_tokens(tokens: Tokens) -> dict[str, str]:
    """
    Good tokens for tenants that may not be served.
    """
    named = {"suspended": SUSPENDED, "expired_tenant": EXPIRED, "unknown_tenant": "nowhere"}
    return {
        name: tokens.for_user(tenant_id=tenant, user_id=UUID(int=1), role=Role.ADMIN)
        for name, tenant in named.items()
    }
