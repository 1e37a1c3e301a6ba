"""
How a refusal is told to a client: RFC 9457, with the registered problem types.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from .._asgi import Problem

__all__ = ["QUOTA_PROBLEM_TYPES", "quota_problem"]

_REGISTRY = "https://iana.org/assignments/http-problem-types"

QUOTA_PROBLEM_TYPES: Mapping[str, str] = MappingProxyType(
    {
        "quota_exceeded": f"{_REGISTRY}#quota-exceeded",
        "quota_store_unavailable": f"{_REGISTRY}#temporary-reduced-capacity",
        "quota_cost_too_large": "about:blank",
    }
)
"""
The problem type for each code; those of draft-ietf-httpapi-ratelimit-headers-11 where it has one.
"""

_WORDS = {
    "quota_exceeded": (429, "The quota is used up for now"),
    "quota_store_unavailable": (503, "Not available at the moment"),
    "quota_cost_too_large": (413, "This request is larger than its quota"),
}


def quota_problem(
    code: str,
    *,
    violated: Iterable[str] = (),
    retry_after: int | None = None,
    fields: Iterable[tuple[bytes, bytes]] = (),
) -> Problem:
    """
    The answer to a request that quotas refuse.

        >>> quota_problem("quota_exceeded", violated=["minute"], retry_after=6).status
        429

    Args:
        code: ``quota_exceeded``, ``quota_cost_too_large`` or
            ``quota_store_unavailable``, as in `Decision.code`.

        violated: The names of the rules that refuse: ``violated-policies``.

        retry_after: Seconds to wait; None where waiting is no use.

        fields: Further headers, such as those that `RateLimitHeaders` writes.
    """
    status, title = _WORDS[code]
    headers = {name.decode("ascii"): value.decode("ascii") for name, value in fields}
    if retry_after is not None:
        headers["retry-after"] = str(retry_after)
    return Problem(
        status=status,
        code=code,
        title=title,
        type=QUOTA_PROBLEM_TYPES[code],
        headers=headers,
        extensions={"violated-policies": list(violated)},
    )
