"""
Webhooks: a tenant of the tier FREE subscribes, and a receiver verifies what it is sent.

The receiver is a process of its own that knows a secret and nothing else.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterable, Mapping
from typing import Any

import psycopg

from twh_platform import Tenant, bind_tenant
from twh_platform.tenancy.postgres import Seal
from twh_platform.tenancy.postgres.psycopg import TenantConnection

from ..settings import Settings
from .receiver import Receiver
from .step import ABSENT, ANY, Aside, Contains, Matches, Members, Step, log_in, problem

__all__ = ["webhooks"]

_TENANT = "hooks-{run}"
_ONE = "/webhooks/{hook}"
_ADDRESS = "first@example.com"
_HANDLED, _KNOWN, _REFUSED = 204, 200, 401

# All that is said of a subscription after its secret was shown.
_SHOWN = Members(
    frozenset(
        {
            *("data", "next_cursor", "id", "url", "events", "profile", "state", "secrets"),
            *("version", "created_at", "updated_at", "fingerprint", "not_after"),
        }
    )
)

_READABLE = """
SELECT format('%I.%I', schemaname, tablename) FROM pg_tables
WHERE schemaname NOT IN ('pg_catalog', 'information_schema')
AND has_table_privilege(format('%I.%I', schemaname, tablename), 'SELECT')
"""
_FIND = "SELECT count(*) FROM {table} AS t WHERE strpos(t::text, %s) > 0"


def webhooks(settings: Settings, seal: Seal) -> list[Step | Aside]:
    """
    The steps, as a manager of a sandbox and whoever is on the line to the receiver.

    Args:
        settings: Which database is looked into.

        seal: What the app seals tenants with for the database.
    """
    receiver = Receiver()
    return [
        *_sandbox(),
        Aside("a port for a receiver", receiver.reserve, {"url": ANY}, keep=("hook_url", "url")),
        *_subscribed(settings, seal),
        *_sent(receiver),
        *_rotated(receiver),
        *_given_up(),
        Aside("the receiver ends", receiver.close, expect=True),
    ]


def _asks(title: str, request: str, status: int, expect: Any = ANY, **more: Any) -> Step:
    return Step(title, request, status, expect, bearer="subscriber", **more)


def _sandbox() -> list[Step]:
    user = {"email": _ADDRESS, "name": "First", "password": "{password}"}
    room = {"limits": {"minute": 1000, "hour": 1000}, "reason": "the tour asks much of it"}
    return [
        Step(
            "a sandbox of the tier FREE",
            "POST /tenants",
            201,
            {"id": _TENANT},
            bearer="administrator",
            body={"id": _TENANT, "tier": "FREE", "user": user},
            shown=True,
        ),
        log_in("log in to it", _TENANT, _ADDRESS, "subscriber", at=1, shown=True),
        Step(
            "room for its requests",
            f"PUT /admin/quotas/{_TENANT}",
            200,
            bearer="administrator",
            body=room,
        ),
    ]


def _subscribed(settings: Settings, seal: Seal) -> list[Step | Aside]:
    body = {"url": "{hook_url}", "events": ["stock.low", "item.changed"]}

    def refused(url: str) -> Step:
        said = problem("url_refused")
        return _asks(f"not to {url}", "POST /webhooks", 422, said, body={**body, "url": url})

    return [
        refused("http://hooks.example.com/"),
        refused("https://user:password@hooks.example.com/"),
        refused("https://169.254.169.254/"),
        _asks(
            "subscribe; the secret is shown this once",
            "POST /webhooks",
            201,
            {
                "url": "{hook_url}",
                "events": ["item.changed", "stock.low"],
                "profile": "standard",
                "secret": Matches("whsec_[A-Za-z0-9+/]{43}="),
                "secrets": [{"state": "active", "fingerprint": Matches("[0-9a-f]{16}")}],
            },
            body=body,
            keep=("first_secret", "secret"),
            tells=_states,
        ),
        _asks(
            "the list has it, and no secret",
            "GET /webhooks",
            200,
            {"data": [{"id": ANY, "secret": ABSENT}]},
            keep=("hook", "data.0.id"),
        ),
        _asks("what it has in all", "GET /webhooks", 200, _SHOWN),
        _asks(
            "a second is one too many for the tier",
            "POST /webhooks",
            429,
            problem("quota_exceeded", **{"violated-policies": ["webhooks"]}),
            body={**body, "url": "https://hooks.example.com/"},
            expect_headers={"retry-after": None},
        ),
        Aside(
            "no table has the secret, and the same look finds the URL",
            lambda variables: _looked_for(settings, seal, variables),
            {"secret": 0, "url": 1},
            tells=lambda found: [
                f"rows with the secret {found['secret']}, tables {found['tables']}"
            ],
        ),
    ]


def _tests(title: str, status: int, **more: Any) -> Step:
    """
    Have the test event sent.
    """
    expect = {
        "outcome": "answered",
        "status": status,
        "sent": {"headers": Contains({"name": "webhook-signature"})},
    }
    return _asks(title, f"POST {_ONE}/test", 200, expect, tells=_attempt, **more)


def _sent(receiver: Receiver) -> list[Step | Aside]:
    return [
        Aside(
            "a receiver with that secret: what is not signed is refused",
            receiver.start("first_secret"),
            _REFUSED,
        ),
        _tests("a test event: the receiver verifies it", _HANDLED, keep=("sent", "sent")),
        Aside(
            "a copy with another letter is refused", receiver.copy("sent", tampered=True), _REFUSED
        ),
        Aside("a copy is known, and not handled again", receiver.copy("sent"), _KNOWN),
        _tests("another event is handled", _HANDLED),
    ]


def _rotated(receiver: Receiver) -> list[Step | Aside]:
    return [
        _asks(
            "a new secret, and both are signed with for an hour",
            f"POST {_ONE}/rotate",
            200,
            {
                "secret": Matches("whsec_.*"),
                "secrets": [
                    {"state": "active", "not_after": None},
                    {"state": "retiring", "not_after": ANY},
                ],
            },
            body={"overlap_seconds": 3600},
            keep=("second_secret", "secret"),
            tells=_states,
        ),
        _tests("the receiver, with the old secret, verifies", _HANDLED),
        Aside("it is given the new one", receiver.start("second_secret"), _REFUSED),
        _tests("and verifies", _HANDLED),
        _asks(
            "the old one, by its fingerprint",
            f"GET {_ONE}",
            200,
            {"secrets": [{"state": "active"}, {"state": "retiring"}]},
            keep=("old_fingerprint", "secrets.1.fingerprint"),
        ),
        _asks(
            "revoke it",
            f"POST {_ONE}/revoke",
            200,
            {"secrets": [{"state": "active"}, {"state": "revoked"}]},
            body={"fingerprint": "{old_fingerprint}"},
            tells=_states,
        ),
        _tests("the receiver verifies as before", _HANDLED),
        Aside("one that has only the old secret", receiver.start("first_secret"), _REFUSED),
        _tests("refuses", _REFUSED),
        _asks(
            "the new one, by its fingerprint",
            f"GET {_ONE}",
            200,
            keep=("new_fingerprint", "secrets.0.fingerprint"),
        ),
        _asks(
            "revoke that: there would be none to sign with",
            f"POST {_ONE}/revoke",
            409,
            problem("secret_in_use"),
            body={"fingerprint": "{new_fingerprint}"},
        ),
    ]


def _given_up() -> list[Step]:
    change = {"url": "https://hooks.example.com/warehouse", "state": "paused"}
    changed = {**change, "events": ["item.changed", "stock.low"]}
    match = (("If-Match", "*"),)
    body = {"url": change["url"], "events": ["stock.low"], "profile": "twh"}
    return [
        _asks("send it elsewhere", f"PATCH {_ONE}", 200, changed, headers=match, body=change),
        _asks("give it up", f"DELETE {_ONE}", 200, {"id": "{hook}"}),
        _asks("it is gone", f"GET {_ONE}", 404, problem("not_found")),
        _asks(
            "there is room for another, signed by the house's own profile",
            "POST /webhooks",
            201,
            {"profile": "twh", "secret": ANY},
            body=body,
            keep=("another", "id"),
            shown=True,
        ),
        _asks(
            "its secrets, by their fingerprints",
            "GET /webhooks/{another}",
            200,
            {"secret": ABSENT, "secrets": Contains({"state": "active"})},
            shown=True,
            tells=_states,
        ),
        _asks(
            "a second is refused",
            "POST /webhooks",
            429,
            problem("quota_exceeded"),
            body=body,
            shown=True,
        ),
        _asks(
            "a new secret for it",
            "POST /webhooks/{another}/rotate",
            200,
            {"secret": ANY},
            body={"overlap_seconds": 3600},
            shown=True,
        ),
    ]


def _looked_for(settings: Settings, seal: Seal, variables: Mapping[str, str]) -> dict[str, int]:
    """
    Look for a secret in all that the application's own login can read of the tenant.
    """
    text = variables["first_secret"].removeprefix("whsec_")
    dsn = settings.app_dsn.replace("postgresql+psycopg://", "postgresql://", 1)
    kind = TenantConnection.using(seal=seal)
    with bind_tenant(Tenant(id=f"hooks-{variables['run']}")), kind.connect(dsn) as connection:
        tables = [name for (name,) in connection.execute(_READABLE)]
        needles = (text, text.encode().hex(), b64decode(text).hex())
        return {
            "secret": sum(_count(connection, tables, one) for one in needles),
            "url": _count(connection, tables, variables["hook_url"]),
            "tables": len(tables),
        }


def _count(connection: psycopg.Connection[Any], tables: Iterable[str], needle: str) -> int:
    return sum(
        row[0]
        for table in tables
        for row in connection.execute(_FIND.format(table=table), (needle,))
    )


def _states(body: Mapping[str, Any]) -> list[str]:
    return [
        f"{one['fingerprint']} {one['state']}"
        + (f" until {one['not_after']:.19}Z" if one["state"] == "retiring" else "")
        for one in body["secrets"]
    ]


def _attempt(body: Mapping[str, Any]) -> list[str]:
    headers = {one["name"]: one["value"] for one in body["sent"]["headers"]}
    signatures = [f"{one:.24}..." for one in headers["webhook-signature"].split()]
    return [f"the receiver answers {body['status']}", *signatures]
