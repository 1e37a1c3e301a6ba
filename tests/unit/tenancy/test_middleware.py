"""
The middleware: who gets in, and what everyone else is told.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

import pytest

from tests.support.tenancy import (
    Says,
    exchange,
    heard,
    http_scope,
    name_tenant,
    websocket_scope,
)
from twh_platform._signals import subscribe
from twh_platform.errors import (
    BackendUnavailableError,
    ConfigurationError,
    CredentialsError,
    NoCurrentTenantError,
    TenantMismatchError,
)
from twh_platform.tenancy import (
    MemoryTenantDirectory,
    PathResolver,
    Tenant,
    TenantClaim,
    TenantMiddleware,
    TenantRefused,
    TenantResolved,
    bind_tenant,
    current_tenant,
    resolution_of,
)

NOW = datetime(2030, 1, 1, tzinfo=UTC)
TENANTS = [
    Tenant(id="acme"),
    Tenant(id="globex"),
    Tenant(id="suspended", status="suspended"),
    Tenant(id="deleting", status="deleting"),
    Tenant(id="provisioning", status="provisioning"),
    Tenant(id="expired", kind="sandbox", expires_at=NOW),
    Tenant(id="trial", kind="sandbox", expires_at=NOW + timedelta(seconds=1)),
]


def guarded(source, app=name_tenant, **options) -> TenantMiddleware:
    """The middleware under test."""
    options.setdefault("directory", MemoryTenantDirectory(TENANTS))
    return TenantMiddleware(app, resolver=source, clock=lambda: NOW, **options)


async def never(scope, receive, send) -> None:
    """An app that must not be reached."""
    pytest.fail("a refused request reached the app")


async def test_the_tenant_is_bound_inside_and_gone_outside():
    """The app sees the tenant; after the request nobody does."""
    answer = await exchange(guarded(Says("acme")), http_scope())

    assert (answer.status, answer.body) == (200, b"acme")
    assert current_tenant() is None


async def test_a_tenant_about_to_expire_is_served():
    """Expiry is a moment, and the clock is ours."""
    answer = await exchange(guarded(Says("trial")), http_scope())

    assert answer.status == 200


async def test_how_it_was_resolved_is_in_the_scope():
    """User, source and claims are at hand, also for outer middleware."""
    source = Says("acme", source="jwt", user_id="u1", claims={"role": "clerk"})
    scope = http_scope()
    await exchange(guarded(source), scope)
    resolution = resolution_of(scope)

    assert resolution.tenant == TENANTS[0]
    assert (resolution.user_id, resolution.claim.source) == ("u1", "jwt")
    assert resolution.claim.claims == {"role": "clerk"}


REFUSED = {
    "nobody": "tenant_unknown",
    "suspended": "tenant_suspended",
    "deleting": "tenant_deleting",
    "provisioning": "tenant_provisioning",
    "expired": "tenant_expired",
}
MISMATCHES = ["tenant_not_member", "tenant_sources_disagree"]


@pytest.mark.parametrize("kind", [http_scope, websocket_scope])
async def test_all_refusals_look_alike(kind):
    """Status, headers and body are the same, but for the request's id."""
    sources = [Says(tenant_id) for tenant_id in REFUSED]
    sources += [Says(TenantMismatchError("why", code=code)) for code in MISMATCHES]
    seen = set()
    for source in sources:
        scope = kind(extensions={"websocket.http.response": {}})
        answer = await exchange(guarded(source, never), scope)
        secret = answer.json["request_id"]
        seen.add(
            (
                answer.status,
                str(answer.headers).replace(secret, ""),
                answer.body.decode().replace(secret, ""),
            )
        )

    assert len(seen) == 1
    assert answer.status == 403
    assert answer.json["code"] == "tenant_refused"


@pytest.mark.parametrize(("tenant_id", "code"), REFUSED.items())
async def test_the_reason_goes_to_us(tenant_id, code, caplog):
    """The signal and the log say what the answer does not."""
    caplog.set_level(logging.INFO, "twh_platform.tenancy")
    with heard(TenantRefused) as signals:
        answer = await exchange(guarded(Says(tenant_id, user_id="u1"), never), http_scope("/x"))

    assert signals == [
        TenantRefused(
            code=code,
            status=403,
            tenant_id=tenant_id,
            source="says",
            user_id="u1",
            request_id=answer.json["request_id"],
            method="GET",
            path="/x",
        )
    ]
    assert code in caplog.text
    assert answer.json["request_id"] in caplog.text


async def test_an_admitted_request_is_announced_as_its_tenant():
    """A listener is told who it is, and sees the tenant bound."""
    seen = []
    end = subscribe(TenantResolved, lambda signal: seen.append((signal, current_tenant())))
    await exchange(guarded(Says("acme", user_id="u1")), scope := http_scope())
    end()

    signal = TenantResolved(
        tenant=TENANTS[0], source="says", user_id="u1", request_id=scope["twh.request_id"]
    )
    assert seen == [(signal, TENANTS[0])]


@pytest.mark.parametrize(
    ("source", "code"),
    [
        (Says(None), "credentials_missing"),
        (Says("acme", decides=False), "tenant_undecided"),
        (Says(CredentialsError("late", code="token_expired")), "token_expired"),
    ],
)
async def test_missing_and_bad_credentials_look_alike(source, code):
    """401, with a challenge (RFC 9110, section 11.6.1)."""
    with heard(TenantRefused) as signals:
        answer = await exchange(guarded(source, never), http_scope())

    assert (answer.status, answer.json["code"]) == (401, "credentials_invalid")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert [signal.code for signal in signals] == [code]


@pytest.mark.parametrize(("seconds", "header"), [(0.2, "1"), (7.5, "8")])
async def test_a_backend_that_is_down_is_503(seconds, header):
    """Not knowing is neither a refusal nor a tenant; the client learns when to return."""
    source = Says(
        BackendUnavailableError("down: dsn", retry_after=seconds, code="directory_timeout")
    )
    with heard(TenantRefused) as signals:
        answer = await exchange(guarded(source, never), http_scope())

    assert (answer.status, answer.json["code"]) == (503, "backend_unavailable")
    assert answer.headers["retry-after"] == header
    assert b"dsn" not in answer.body
    assert signals[0].code == "directory_timeout"


@pytest.mark.parametrize(
    "error", [RuntimeError("boom"), ConfigurationError("boom"), TypeError("boom")]
)
async def test_an_error_that_is_not_ours_is_500_and_goes_on(error):
    """The client gets an answer, the server the exception, the app nothing."""
    sent = []

    async def send(message):
        sent.append(message)

    with heard(TenantRefused) as signals, pytest.raises(type(error), match="boom"):
        await guarded(Says(error), never)(http_scope(), None, send)
    assert sent[0]["status"] == 500
    assert b"boom" not in sent[1]["body"]
    assert signals[0].code == "resolution_failed"


async def test_a_directory_that_fails_does_not_admit():
    """An exception of the directory's own is handled in the same way."""

    class Broken:
        async def get(self, tenant_id):
            raise KeyError(tenant_id)

    middleware = guarded(Says("acme"), never, directory=Broken())
    with pytest.raises(KeyError):
        await exchange(middleware, http_scope())


async def test_a_directory_that_gives_another_tenant_is_refused():
    """A look-up that ignores case, for one, must not hand over its neighbour."""

    class Careless:
        async def get(self, tenant_id):
            return TENANTS[1]

    with heard(TenantRefused) as signals:
        answer = await exchange(guarded(Says("acme"), never, directory=Careless()), http_scope())
    assert answer.json["code"] == "tenant_refused"
    assert signals[0].code == "tenant_directory_mismatch"


async def test_the_apps_own_errors_are_its_own():
    """A tenant error raised inside is not taken for a refusal, and the tenant is gone."""

    async def failing(scope, receive, send):
        raise NoCurrentTenantError

    with pytest.raises(NoCurrentTenantError):
        await exchange(guarded(Says("acme"), failing), http_scope())
    assert current_tenant() is None


async def test_a_public_path_has_no_tenant():
    """Neither from the request, nor left from outside, nor planted in the scope."""
    source = Says("acme")
    middleware = guarded(source, public_paths=["/healthz"])
    scope = http_scope("/healthz", **{"twh.resolution": "spoofed"})
    with bind_tenant(TENANTS[1]):
        answer = await exchange(middleware, scope)

    assert answer.body == b"nobody"
    assert source.asked == 0
    assert "twh.resolution" not in scope


async def test_a_planted_resolution_is_not_believed():
    """What outer code left under our key is replaced, or gone when refused."""
    planted = TenantClaim(tenant_id="globex", source="spoofed", decides=True)
    scope = http_scope(**{"twh.resolution": planted, "state": {"tenant": "globex"}})
    answer = await exchange(guarded(Says("acme")), scope)
    refused = http_scope(**{"twh.resolution": planted})
    await exchange(guarded(Says("nobody"), never), refused)

    assert answer.body == b"acme"
    assert resolution_of(scope).tenant.id == "acme"
    with pytest.raises(NoCurrentTenantError):
        resolution_of(refused)
    with pytest.raises(NoCurrentTenantError):
        resolution_of({"twh.resolution": planted})


async def test_a_tenant_bound_outside_must_be_the_same():
    """Another one is a conflict; the same one is restored afterwards."""
    with bind_tenant(TENANTS[1]), heard(TenantRefused) as signals:
        refused = await exchange(guarded(Says("acme"), never), http_scope())
        served = await exchange(guarded(Says("globex")), http_scope())

        assert current_tenant() is TENANTS[1]
    assert (refused.status, served.body) == (403, b"globex")
    assert signals[0].code == "tenant_already_bound"


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        (http_scope("/t/acme/items"), ("/t/acme", "/t/acme/items")),
        (http_scope("/api/t/acme/items", root_path="/api"), ("/api/t/acme", "/api/t/acme/items")),
        (http_scope("/t/acme/items", root_path="/api"), ("/api/t/acme", "/api/t/acme/items")),
    ],
)
async def test_a_tenant_in_the_path_becomes_the_mount(scope, expected):
    """The app inside routes on the rest; the outer scope keeps its path."""
    before = scope["root_path"], scope["path"]
    inside = []

    async def app(scope, receive, send):
        inside.append((scope["root_path"], scope["path"]))

    await exchange(guarded(PathResolver("/t/{tenant}", decides=True), app), scope)
    assert inside == [expected]
    assert (scope["root_path"], scope["path"]) == before


async def test_lifespan_passes_without_a_tenant():
    """Start-up belongs to nobody and is not resolved."""
    source, seen = Says("acme"), []

    async def app(scope, receive, send):
        seen.append((scope["type"], current_tenant()))

    await guarded(source, app)({"type": "lifespan"}, None, None)
    assert seen == [("lifespan", None)]
    assert source.asked == 0


async def test_a_websocket_is_closed_before_it_is_accepted():
    """Without the response extension: close code 1008, the uniform reason."""
    answer = await exchange(guarded(Says("suspended"), never), websocket_scope())

    assert answer.messages == [
        {"type": "websocket.close", "code": 1008, "reason": "tenant_refused"}
    ]


async def test_one_instance_serves_many():
    """Nothing on the middleware changes while it serves."""
    middleware = guarded(Says("acme"), public_paths=["/healthz"])
    before = dict(vars(middleware))
    for path in ("/items", "/healthz", "/items"):
        await exchange(middleware, http_scope(path))

    assert vars(middleware) == before
