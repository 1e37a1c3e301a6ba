"""
The functions of a sealed database as we make them, and how others differ.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import lru_cache

from ._policies import install_sql
from ._seal_sql import seal_sql

__all__ = ["TENANT_FUNCTION", "difference", "is_transition", "made_by_us"]

TENANT_FUNCTION = "twh.current_tenant()"
"""The function that policies ask, and that the seal replaces."""

_VOLATILITIES = {"i": "IMMUTABLE", "s": "STABLE", "v": "VOLATILE"}
_PARALLELS = {"s": "SAFE", "r": "RESTRICTED", "u": "UNSAFE"}
# All of ours are.  IMMUTABLE, a plan would keep one tenant for the next.
_MADE = ("plpgsql", "STABLE", "PARALLEL SAFE")

_CREATE = "CREATE OR REPLACE FUNCTION "
_END = "$$;"


@lru_cache(maxsize=2)
def made_by_us(*, allow_unsealed: bool) -> Mapping[str, str]:
    """
    The statements that make the functions, by signature.
    """
    made = {}
    for part in (install_sql() + seal_sql(allow_unsealed=allow_unsealed)).split(_CREATE)[1:]:
        # What has no body in dollars is what the seal puts another in the place of.
        if _END in part:
            end = part.index(_END) + len(_END)
            made[part[: part.index(")") + 1]] = _CREATE + part[:end]
    return made


def is_transition(body: str | None) -> bool:
    """
    Whether a body of `TENANT_FUNCTION` is the one that believes unsealed tenants.
    """
    return body == _body(made_by_us(allow_unsealed=True)[TENANT_FUNCTION])


def difference(
    statement: str,
    *,
    body: str,
    definer: bool,
    config: Collection[str],
    language: str,
    volatility: str,
    parallel: str,
    leakproof: bool,
) -> str:
    """
    In what a function is not the one that a statement of ours makes; empty if it is.

    Args:
        statement: One of `made_by_us`.

        body: The function's body.

        definer: Whether it is SECURITY DEFINER.

        config: Its own settings, as the catalog has them.

        language: The name of its language.

        volatility: As the catalog has it: ``i``, ``s`` or ``v``.

        parallel: The same: ``s``, ``r`` or ``u``.

        leakproof: Whether it is LEAKPROOF.
    """
    head = statement.partition("$$")[0]
    path = re.search(r"SET search_path = ([\w, ]*\w)", head)
    wanted = [f"search_path={path[1]}"] if path else []
    if body != _body(statement):
        return "has another body than ours"
    if definer != ("SECURITY DEFINER" in head):
        return f"is {'' if definer else 'not '}SECURITY DEFINER"
    found = (language, _VOLATILITIES[volatility], f"PARALLEL {_PARALLELS[parallel]}")
    if found != _MADE:
        return f"is {' '.join(found)}, not {' '.join(_MADE)}"
    if leakproof:
        return "is LEAKPROOF"
    if list(config) != wanted:
        return f"has settings {list(config)}, not {wanted}"
    return ""


def _body(statement: str) -> str:
    return statement.split("$$")[1]
