"""
Quotas met and raised: requests, items, locations, passwords.

It fills sandboxes of its own.  What it leaves used up is nobody else's.
"""

from __future__ import annotations

from typing import Any

from ..seed import MAIN, email
from .step import ANY, Contains, Matches, Step, client, log_in, problem

__all__ = ["quotas"]

_EXCEEDED = "https://iana.org/assignments/http-problem-types#quota-exceeded"
_POLICY = Matches(
    '"minute";q=10;w=60, "hour";q=100;w=3600, "month";q=10000,'
    ' "in-flight";q=5;qu="concurrent-requests"'
)


def quotas() -> list[Step]:
    """
    The steps, as two tenants of the tier FREE, the administrator and somebody who guesses.
    """
    return [*_sandboxes(), *_requests(), *_raised(), *_capacity(), *_billed(), *_guesses()]


def _refused(rule: str) -> Any:
    return problem("quota_exceeded", type=_EXCEEDED, status=429, **{"violated-policies": [rule]})


def _administers(title: str, request: str, status: int, expect: Any = ANY, **more: Any) -> Step:
    return Step(title, request, status, expect, bearer="administrator", **more)


def _sandboxes() -> list[Step]:
    steps: list[Step] = []
    for place, name in enumerate(("free", "full"), start=1):
        address = f"{name}@example.com"
        body = {
            "id": f"{name}-{{run}}",
            "tier": "FREE",
            "user": {"email": address, "name": "First", "password": "{password}"},
        }
        title = f"a sandbox of the tier FREE: {name}"
        steps += [
            _administers(title, "POST /tenants", 201, {"id": ANY}, body=body, shown=True),
            log_in("log in to it", f"{name}-{{run}}", address, name, at=place, shown=True),
        ]
    first, _ = MAIN
    steps.append(log_in(f"log in at {first}", first, email("admin", first), "other", at=3))
    return steps


def _requests() -> list[Step]:
    return [
        Step(
            "nine requests of ten a minute",
            "GET /items",
            200,
            bearer="free",
            expect_headers={"ratelimit-policy": _POLICY},
            times=9,
            shown=True,
        ),
        Step(
            "the tenth",
            "GET /items",
            200,
            bearer="free",
            expect_headers={"ratelimit": Matches('"minute";r=0;t=[1-6], .*'), "retry-after": None},
            shown=True,
        ),
        Step(
            "the eleventh",
            "GET /items",
            429,
            _refused("minute"),
            bearer="free",
            expect_headers={
                "ratelimit-policy": _POLICY,
                "ratelimit": Matches('"minute";r=0;t=[1-6], .*'),
                "retry-after": Matches("[1-8]"),
            },
            shown=True,
        ),
        Step(
            "another tenant has all of its ten, of which a report costs five",
            "GET /reports/low_stock",
            200,
            {"data": []},
            bearer="full",
            expect_headers={"ratelimit": Matches('"minute";r=5;t=[1-6], .*')},
            shown=True,
        ),
    ]


def _raised() -> list[Step]:
    own = "/admin/quotas/free-{run}"
    change = {"limits": {"minute": 20}, "reason": "ticket 4712: they move in"}
    return [
        _administers(
            "what the administrator sees of it",
            f"GET {own}",
            200,
            {
                "tier": "FREE",
                "exact": True,
                "override": None,
                "rules": Contains({"name": "month", "limit": 10_000, "used": 10}),
            },
            shown=True,
        ),
        _administers(
            "raise a limit for no reason",
            f"PUT {own}",
            422,
            problem("request_invalid", errors=[{"field": "reason", "detail": ANY}]),
            body={"limits": {"minute": 20}},
        ),
        _administers(
            "raise one that is none",
            f"PUT {own}",
            422,
            problem("request_invalid", errors=[{"field": "limits.second", "detail": ANY}]),
            body={**change, "limits": {"second": 20}},
        ),
        _administers(
            "raise it as if somebody had before",
            f"PUT {own}",
            412,
            problem("override_changed"),
            headers=(("If-Match", '"99999999"'),),
            body=change,
        ),
        _administers(
            "raise it for a tenant that nobody has",
            "PUT /admin/quotas/nobody-{run}",
            404,
            problem("tenant_unknown"),
            body=change,
        ),
        Step(
            "a tenant raises its own",
            f"PUT {own}",
            401,
            problem("credentials_invalid"),
            bearer="free",
            body=change,
        ),
        Step("it is still refused", "GET /items", 429, _refused("minute"), bearer="free"),
        _administers(
            "raise it",
            f"PUT {own}",
            200,
            {"override": {"version": ANY, "limits": {"minute": {"limit": 20}}, "reason": ANY}},
            body=change,
            keep=("version", "override.version"),
            shown=True,
        ),
        Step(
            "it is served within two seconds, and what it used counts",
            "GET /items",
            200,
            bearer="free",
            expect_headers={
                "ratelimit-policy": Matches('"minute";q=20;w=60, .*'),
                "ratelimit": Matches('"minute";r=(9|1[0-9]);t=[1-6], .*'),
            },
            within=2,
            shown=True,
        ),
        Step(
            "what it may use, and has used",
            "GET /quotas",
            200,
            {
                "tenant": "free-{run}",
                "plan": "FREE",
                "rules": Contains({"name": "minute", "limit": 20, "per_seconds": 60.0}),
            },
            bearer="free",
            shown=True,
        ),
        _administers(
            "lower it back",
            f"DELETE {own}?reason=they%20have%20moved",
            200,
            {"override": None, "history": [{"limits": {}}, {"version": ANY}]},
            headers=(("If-Match", '"{version}"'),),
            shown=True,
        ),
        Step(
            "it is refused within two seconds",
            "GET /items",
            429,
            _refused("minute"),
            bearer="free",
            within=2,
            shown=True,
        ),
    ]


def _capacity() -> list[Step]:
    requests = {"minute": 1000, "hour": 1000}
    room = {"limits": requests, "reason": "the tour fills it"}
    more = {"limits": {**requests, "items": 101}, "reason": "ticket 4713: one more"}

    def add(title: str, status: int, expect: Any, *, sku: str, **more: Any) -> Step:
        body = {"sku": sku, "name": "One of many", "unit_price_minor": 1}
        return Step(title, "POST /items", status, expect, **{"bearer": "full", **more}, body=body)

    place = {"code": "P-{n}", "name": "Place"}
    return [
        _administers("room for its requests", "PUT /admin/quotas/full-{run}", 200, body=room),
        add("a hundred items", 201, {"id": ANY}, sku="F-{n}", within=2, times=100),
        add(
            "the hundred and first; no waiting helps",
            429,
            _refused("items"),
            sku="F-101",
            expect_headers={"retry-after": None},
        ),
        add("another tenant adds one", 201, {"id": ANY}, sku="F-{run}", bearer="other"),
        Step("five locations", "POST /locations", 201, bearer="full", body=place, times=5),
        Step(
            "the sixth",
            "POST /locations",
            429,
            _refused("locations"),
            bearer="full",
            body={**place, "code": "P-6"},
            expect_headers={"retry-after": None},
        ),
        Step(
            "nothing of it is there",
            "GET /locations",
            200,
            {"data": [{"code": f"P-{n}"} for n in range(1, 6)]},
            bearer="full",
        ),
        Step(
            "what there is of what",
            "GET /quotas",
            200,
            {"rules": Contains({"name": "items", "limit": 100, "used": 100, "remaining": 0})},
            bearer="full",
        ),
        _administers("room for one more", "PUT /admin/quotas/full-{run}", 200, body=more),
        add("it is there within two seconds", 201, {"id": ANY}, sku="F-101", within=2),
        add("and no other", 429, _refused("items"), sku="F-102"),
    ]


def _billed() -> list[Step]:
    path = "/admin/usage?from={first_day}&to={last_day}"
    # Refused requests are not counted; those that a full capacity has refused are.
    used = {"free": 12, "full": 5 + 100 + 1 + 5 + 1 + 1 + 1 + 1 + 1}
    return [
        *(
            _administers(
                f"what {name} is billed",
                f"GET {path}&tenant={name}-{{run}}",
                200,
                Contains({"tenant": f"{name}-{{run}}", "rule": "month", "used": count}),
                kind="application/x-ndjson",
                within=5,  # usage is written once a second
            )
            for name, count in used.items()
        ),
        _administers(
            "all of it, for a spreadsheet",
            f"GET {path}&format=csv",
            200,
            Contains(
                {"tenant": "free-{run}", "rule": "month", "used": str(used["free"])},
            ),
            kind="text/csv",
            shown=True,
        ),
        _administers(
            "of days that are none",
            "GET /admin/usage?from=yesterday&to=2026-02-30",
            422,
            problem("request_invalid", errors=[{"field": "from"}, {"field": "to"}]),
        ),
        Step("nobody else sees it", f"GET {path}", 401, problem("credentials_invalid"), bearer=""),
    ]


def _guesses() -> list[Step]:
    first, _ = MAIN
    said = {"tenant": first, "email": email("admin", first)}

    def guess(title: str, status: int, expect: Any, *places: int, **more: Any) -> Step:
        header, _ = client(0)
        path = ", ".join(client(place)[1] for place in places)
        body = {**said, "password": "guess {n}", **more.pop("body", {})}
        return Step(
            title,
            "POST /auth/login",
            status,
            expect,
            bearer="",
            headers=((header, path),),
            body=body,
            **more,
        )

    good = {"password": "{password}"}
    return [
        guess("five guesses at a password", 401, problem("credentials_invalid"), 66, times=5),
        guess(
            "the sixth",
            429,
            _refused("login"),
            66,
            expect_headers={"retry-after": Matches("[1-9]|1[0-5]")},
        ),
        guess("the right one, from there", 429, _refused("login"), 66, body=good),
        guess("from there, with an address made up", 429, _refused("login"), 67, 66, body=good),
        guess("from another address", 200, {"access_token": ANY}, 67, body=good),
    ]
