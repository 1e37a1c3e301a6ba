"""
A step of the tour: one request and the answer that is right.

An `Aside` is what no request can show: a look into the database itself, or the
check of a receipt with nothing but the keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "ABSENT",
    "ANY",
    "Aside",
    "Contains",
    "Holds",
    "Lacks",
    "Matches",
    "Members",
    "Step",
    "client",
    "log_in",
    "problem",
]


class _Absent:
    def __repr__(self) -> str:
        return "ABSENT"


ABSENT = _Absent()
"""In a dict: matches a member that is not there."""


class _Any:
    def __repr__(self) -> str:
        return "ANY"


ANY = _Any()
"""Matches any value that is not null."""


@dataclass(frozen=True, slots=True)
class Contains:
    """
    Matches a list with an element that matches.
    """

    element: Any


@dataclass(frozen=True, slots=True)
class Lacks:
    """
    Matches a list without any element that matches.
    """

    element: Any


@dataclass(frozen=True, slots=True)
class Members:
    """
    Matches whatever has no members but those with these names, at any depth.
    """

    names: frozenset[str]


@dataclass(frozen=True, slots=True)
class Matches:
    """
    Matches a text of which all is like a regular expression.

    In a header, what a named group has matched is kept as a variable.
    """

    pattern: str


@dataclass(frozen=True, slots=True)
class Holds:
    """
    Matches a text that has all of these parts.
    """

    parts: tuple[str, ...]


def _silent(_body: Any) -> Iterable[str]:
    return ()


@dataclass(frozen=True, slots=True)
class Step:
    """
    One request, and the answer that is right.

    Args:
        title: What is tried, for the reader.

        request: The HTTP method and the path with its query.

        status: The right status.

        expect: What the body must match: a dict names the members that count,
            a list must have as many elements.

        bearer: The variable that holds the token; empty for none.

        headers: Further headers.

        body: What is sent as JSON; a string is sent as it is.

        expect_headers: Headers that the answer must have; None for one that it
            must not.

        keep: A variable, and where its value is in the body: `data.0.id`.  What has
            members is kept as JSON.

        twin: A variable that names something of another tenant.  The step is
            sent again with the id of nothing in its place, and the answer must
            be the same.

        kind: The content type, if it is not the usual one for JSON.  Of CSV,
            NDJSON and OpenMetrics the body is the list of its lines.

        times: How often it is sent; `{n}` counts from 1.

        within: Ask again for so many seconds while the answer is another one.

        shown: Whether it stands in the tour that is printed.

        tells: Of the body, lines that are worth reading when the tour is taken.
    """

    title: str
    request: str
    status: int
    expect: Any = ANY
    bearer: str = field(default="token", kw_only=True)
    headers: tuple[tuple[str, str], ...] = field(default=(), kw_only=True)
    body: Any = field(default=None, kw_only=True)
    expect_headers: Mapping[str, str | Matches | None] = field(default_factory=dict, kw_only=True)
    keep: tuple[str, str] | None = field(default=None, kw_only=True)
    twin: str = field(default="", kw_only=True)
    kind: str = field(default="", kw_only=True)
    times: int = field(default=1, kw_only=True)
    within: float = field(default=0.0, kw_only=True)
    shown: bool = field(default=False, kw_only=True)
    tells: Callable[[Any], Iterable[str]] = field(default=_silent, kw_only=True)

    @property
    def method(self) -> str:
        """
        The HTTP method.
        """
        return self.request.partition(" ")[0]

    @property
    def path(self) -> str:
        """
        The path with its query.
        """
        return self.request.partition(" ")[2]


@dataclass(frozen=True, slots=True)
class Aside:
    """
    Something done beside the warehouse, and what has to come of it.

    Args:
        title: What is tried, for the reader.

        does: Is given the variables and returns what `expect` is compared with,
            as if it were a body.  It may block.

        expect: As in a `Step`.

        keep: As in a `Step`.

        tells: As in a `Step`.
    """

    title: str
    does: Callable[[Mapping[str, str]], Any]
    expect: Any = ANY
    keep: tuple[str, str] | None = field(default=None, kw_only=True)
    tells: Callable[[Any], Iterable[str]] = field(default=_silent, kw_only=True)


def problem(code: str, **members: Any) -> dict[str, Any]:
    """
    What the body of a refusal must match.
    """
    return {"code": code, "title": ANY, "request_id": ANY, **members}


def client(number: int) -> tuple[str, str]:
    """
    The header by which the proxy in front says whose request it is.

    Only so many logins a minute are taken from one address, so that nobody
    tries passwords.  The users of a tour sit at as many places.
    """
    return ("X-Forwarded-For", f"{{network}}.{number}")


def log_in(title: str, tenant: str, address: str, keep: str, *, at: int, **more: Any) -> Step:
    """
    Exchange the password for a token, kept in the variable *keep*; *at* is the place.
    """
    return Step(
        title,
        "POST /auth/login",
        200,
        {"access_token": ANY, "token_type": "Bearer", "expires_in": 900},
        bearer="",
        headers=(client(at),),
        body={"tenant": tenant, "email": address, "password": "{password}"},
        keep=(keep, "access_token"),
        **more,
    )
