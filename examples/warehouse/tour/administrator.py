"""
What the administrator does, and what anybody may ask.
"""

from __future__ import annotations

from ..seed import EXPIRED, MAIN, SUSPENDED
from .step import ANY, Contains, Step, client, log_in, problem

__all__ = ["administrator"]


def administrator() -> list[Step]:
    """
    The steps; they make a sandbox of their own.
    """
    user = {"email": "first@example.com", "name": "First", "password": "{password}"}
    first, *others = MAIN
    sandbox = {"id": "box-{run}", "tier": "FREE", "user": user}
    tenants = [
        {"id": "acme", "tier": "GROWTH"},
        {"id": "globex", "tier": "STARTUP"},
        {"id": "hooli", "tier": "SCALE"},
        {"id": "initech", "tier": "DEVELOPER"},
        {"id": "umbrella", "tier": "FREE"},
        {"id": "wonka", "tier": "ENTERPRISE"},
        {"id": SUSPENDED, "status": "suspended"},
        {"id": EXPIRED, "kind": "sandbox"},
    ]
    return [
        Step("the service is well", "GET /healthz", 200, {"status": "ok"}, bearer="", shown=True),
        Step(
            "what it can do",
            "GET /openapi.json",
            200,
            {"openapi": "3.1.0", "paths": {"/items/{id}": ANY}},
            bearer="",
        ),
        Step(
            "log in as the administrator",
            "POST /auth/login",
            200,
            {"access_token": ANY},
            bearer="",
            headers=(client(1),),
            body={"email": "{administrator_email}", "password": "{password}"},
            keep=("administrator", "access_token"),
            shown=True,
        ),
        *(
            Step(
                f"the tenant {one['id']}",
                "GET /tenants",
                200,
                {"data": Contains(one)},
                bearer="administrator",
            )
            for one in tenants
        ),
        Step(
            "make a sandbox",
            "POST /tenants",
            201,
            {"id": "box-{run}", "kind": "sandbox", "status": "active", "expires_at": ANY},
            bearer="administrator",
            body=sandbox,
            shown=True,
        ),
        Step(
            "make it twice",
            "POST /tenants",
            409,
            problem("already_exists"),
            bearer="administrator",
            body=sandbox,
        ),
        log_in("log in to the sandbox", "box-{run}", "first@example.com", "sandboxed", at=2),
        Step(
            "it is empty", "GET /items", 200, {"data": [], "next_cursor": None}, bearer="sandboxed"
        ),
        Step(
            "ask for no reason where an item is, at all tenants",
            "POST /admin/recalls",
            422,
            problem("reason_invalid"),
            bearer="administrator",
            body={"sku": "SAW", "reason": " "},
            shown=True,
        ),
        *(
            Step(
                f"recall an item, which {holder} has too",
                "POST /admin/recalls",
                200,
                {"data": Contains({"tenant_id": holder, "name": "Saw", "quantity": ANY})},
                bearer="administrator",
                body={"sku": "SAW", "reason": "ticket 4711: blades of lot 12 break"},
                shown=holder == first,
            )
            for holder in (first, *others)
        ),
        Step(
            "a tenant's user recalls nothing",
            "POST /admin/recalls",
            401,
            problem("credentials_invalid"),
            bearer="sandboxed",
            body={"sku": "SAW", "reason": "curious"},
        ),
        Step(
            "suspend it",
            "PATCH /tenants/box-{run}",
            200,
            {"status": "suspended"},
            bearer="administrator",
            body={"status": "suspended"},
            shown=True,
        ),
        Step(
            "its token is refused at once",
            "GET /items",
            403,
            problem("tenant_refused"),
            bearer="sandboxed",
            within=10,
        ),
        Step(
            "a tenant that nobody has",
            "PATCH /tenants/nowhere",
            404,
            problem("not_found"),
            bearer="administrator",
            body={"status": "suspended"},
        ),
        Step(
            "no token for the administrator's routes",
            "GET /tenants",
            401,
            problem("credentials_invalid"),
            bearer="",
        ),
    ]
