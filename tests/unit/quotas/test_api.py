"""
The quotas over HTTP: what a tenant sees, what an administrator may, what hostile input gets.
"""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from tests.support.tenancy import Answer, exchange, heard, http_scope, websocket_scope
from twh_platform import Tenant
from twh_platform.errors import (
    AdministratorError,
    BackendUnavailableError,
    ConfigurationError,
    CredentialsError,
)
from twh_platform.quotas import (
    Calendar,
    Capacity,
    Concurrency,
    Limiter,
    MemoryOverrideStore,
    MemoryQuotaStore,
    MemoryUsageLedger,
    OverriddenPlans,
    Plan,
    Plans,
    QuotaApp,
    QuotaOverrideChanged,
    Rate,
    SlidingWindow,
    UsageCounter,
)
from twh_platform.tenancy import MemoryTenantDirectory, bind_tenant
from twh_platform.testing import ManualClock

NOW = datetime(2026, 9, 15, 12, tzinfo=UTC)
ACME = Tenant(id="acme", tier="FREE", time_zone="Europe/Berlin")
GLOBEX = Tenant(id="globex", tier="FREE")
PLAN = Plan(
    name="FREE",
    rules=(
        Rate(name="minute", limit=10, per=60, burst=5),
        SlidingWindow(name="window", limit=100, per=3600),
        Calendar(name="month", limit=1000, period="month"),
        Calendar(name="mine", limit=50, period="day", scope="user"),
        Calendar(name="reports", limit=9, period="day", scope="route", routes=("/reports",)),
        Concurrency(name="in-flight", limit=4),
        Capacity(name="items", limit=100, unit="items"),
        Calendar(name="tried", limit=1, period="day", mode="shadow"),
    ),
)
PATH = "/admin/quotas/acme"
SEPTEMBER = b"from=2026-09-01&to=2026-10-01"


async def ada(_scope) -> str:
    """An administrator, whoever asks."""
    return "ada@example.com"


@pytest.fixture
def clock() -> ManualClock:
    """The clock of all parts."""
    return ManualClock(NOW.timestamp())


@pytest.fixture
def overrides() -> OverriddenPlans:
    """The plans of the limiter."""
    return OverriddenPlans(Plans([PLAN]), MemoryOverrideStore(clock=lambda: NOW))


@pytest.fixture
def limiter(clock, overrides) -> Limiter:
    """The limiter behind the app."""
    return Limiter(MemoryQuotaStore(clock=clock), plans=overrides, clock=clock)


@pytest.fixture
def ledger() -> MemoryUsageLedger:
    """What usage is written into."""
    return MemoryUsageLedger()


@pytest.fixture
def make(limiter, overrides, ledger, clock) -> Callable[..., QuotaApp]:
    """Make the app with everything on."""

    def make(**options: Any) -> QuotaApp:
        return QuotaApp(
            limiter,
            **{
                "administrator": ada,
                "overrides": overrides,
                "ledger": ledger,
                "directory": MemoryTenantDirectory([ACME, GLOBEX]).get,
                "clock": clock.utc,
                **options,
            },
        )

    return make


@pytest.fixture
def app(make) -> QuotaApp:
    """The app with everything on."""
    return make()


async def ask(app, method, path, *headers, body: Any = None, query=b"", **more) -> Answer:
    """One request, with a JSON body if one is given."""
    raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    if raw is not None and not any(name == "content-type" for name, _ in headers):
        headers = (*headers, ("content-type", "application/json"))
    scope = http_scope(path, *headers, method=method, query_string=query, **more)
    return await exchange(app, scope, {"type": "http.request", "body": raw or b""})


async def put(app, limits, *headers, path=PATH, reason="ticket 4711") -> Answer:
    """Change a tenant's limits."""
    return await ask(app, "PUT", path, *headers, body={"limits": limits, "reason": reason})


async def own(app, tenant=ACME, **more) -> Answer:
    """What a tenant sees of its quotas."""
    with bind_tenant(tenant):
        return await ask(app, "GET", "/quotas", **more)


def rules(answer: Answer) -> dict[str, dict[str, Any]]:
    """The rules of an answer by name."""
    return {one["name"]: one for one in answer.json["rules"]}


# --- what a tenant sees


async def test_a_tenant_sees_every_rule_of_its_plan(app, limiter):
    """In the plan's order, with limits and use; what is only tried out is not shown."""
    await limiter.take(ACME, cost=3)
    await limiter.take(ACME, only=["items"], cost=7)
    answer = await own(app)
    found = rules(answer)

    assert (answer.status, answer.json["tenant"], answer.json["plan"]) == (200, "acme", "FREE")
    assert list(found) == [one.name for one in PLAN.rules[:-1]]
    assert {name: one.get("used") for name, one in found.items()} == {
        "minute": 3,
        "window": 3,
        "month": 3,
        "mine": None,
        "reports": None,
        "in-flight": 1,
        "items": 7,
    }
    assert answer.json["exact"] is True


async def test_each_kind_says_what_it_is(app, limiter):
    """With its period by the tenant's clock, or the time until it is full again."""
    await limiter.take(ACME, cost=5)
    found = rules(await own(app))

    assert found["month"] == {
        "name": "month",
        "kind": "calendar",
        "unit": "requests",
        "scope": "tenant",
        "mode": "hard",
        "limit": 1000,
        "period": "month",
        "used": 5,
        "remaining": 995,
        "period_start": "2026-09-01T00:00:00+02:00",
        "period_end": "2026-10-01T00:00:00+02:00",
    }
    assert (found["minute"]["per_seconds"], found["minute"]["burst"]) == (60.0, 5)
    assert found["minute"]["reset_after"] == 30.0
    assert found["reports"]["routes"] == ["/reports"]


async def test_looking_charges_nothing(app, limiter):
    """However often."""
    for _ in range(20):
        await own(app)

    assert {one.remaining for one in (await limiter.peek(ACME, only=["minute"])).statuses} == {5}


async def test_a_user_sees_its_own_use(make, limiter):
    """As the identity of the request says, and nobody else's."""
    await limiter.take(ACME, user="42")
    await limiter.take(ACME, user="7")
    app = make(identity=lambda _scope: ("42", None))

    assert rules(await own(app))["mine"]["used"] == 1


async def test_a_counter_of_the_last_period_is_not_this_periods(app, limiter, clock):
    """Control: what the store still holds is September's."""
    await limiter.take(ACME, cost=5)
    clock.advance(20 * 86400)

    assert rules(await own(app))["month"]["used"] == 0


async def test_soft_use_beyond_the_limit_is_shown(make, clock):
    """`used` is what was used, and `remaining` is not below nothing."""
    soft = Calendar(name="soft", limit=3, period="day", mode="soft")
    plans = Plans([Plan(name="FREE", rules=[soft])])
    limiter = Limiter(MemoryQuotaStore(clock=clock), plans=plans, clock=clock)
    await limiter.take(ACME, cost=10)
    found = rules(await own(QuotaApp(limiter)))

    assert (found["soft"]["used"], found["soft"]["remaining"]) == (10, 0)


async def test_levels_may_come_from_elsewhere(make, limiter):
    """Such as PostgreSQL, which keeps them exactly."""

    async def levels(tenant):
        return {"items": 98} if tenant.id == "acme" else {}

    await limiter.take(ACME, only=["items"], cost=7)
    app = make(levels=levels)

    assert (
        rules(await own(app))["items"]["used"],
        rules(await own(app))["items"]["remaining"],
    ) == (
        98,
        2,
    )
    assert rules(await own(app, GLOBEX))["items"]["used"] == 0


async def test_one_tenant_sees_nothing_of_another(app, limiter):
    """Nor does nobody."""
    await limiter.take(GLOBEX, cost=5)
    answer = await own(app)
    nobody = await ask(app, "GET", "/quotas")

    assert "globex" not in answer.body.decode()
    assert {one.get("used", 0) for one in rules(answer).values()} == {0}
    assert (nobody.status, nobody.json["code"]) == (403, "tenant_refused")


async def test_an_answer_is_not_stored(app):
    """Neither by caches nor by anybody who guesses its type."""
    answer = await own(app)

    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_a_store_that_is_down_is_told(make, limiter, monkeypatch):
    """503 and when to try again; never an invented number."""

    async def down(_take):
        raise BackendUnavailableError("redis://secret is down", retry_after=2.2)

    monkeypatch.setattr(limiter.store, "take", down)
    answer = await own(make())

    assert (answer.status, answer.headers["retry-after"]) == (503, "3")
    assert answer.json["code"] == "backend_unavailable"
    assert b"secret" not in answer.body


# --- who is an administrator


def test_there_is_no_administrators_part_without_administrators(limiter, overrides, ledger):
    """It cannot be mounted by mistake."""
    for options in ({"overrides": overrides}, {"ledger": ledger}):
        with pytest.raises(ConfigurationError, match="say who they are"):
            QuotaApp(limiter, **options)
    with pytest.raises(ConfigurationError, match="directory"):
        QuotaApp(limiter, overrides=overrides, administrator=ada)


@pytest.mark.parametrize("path", [PATH, "/admin/usage", "/admin/quotas/", "/admin/"])
async def test_without_one_nothing_is_there(path, limiter):
    """For whichever method."""
    app = QuotaApp(limiter)

    for method in ("GET", "PUT", "DELETE", "POST", "OPTIONS"):
        assert (await ask(app, method, path, query=SEPTEMBER)).status == 404


REFUSALS = [
    (CredentialsError("no token"), 401, "credentials_invalid"),
    (AdministratorError("not one"), 403, "administrator_refused"),
    (ConfigurationError("whatever"), 403, "administrator_refused"),
    (BackendUnavailableError("keys"), 503, "backend_unavailable"),
]


@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", PATH),
        ("HEAD", PATH),
        ("PUT", PATH),
        ("DELETE", PATH),
        ("GET", "/admin/quotas/nobody"),
        ("POST", "/admin/usage"),
        ("GET", "/admin/usage"),
        ("GET", "/admin/else"),
    ],
)
async def test_who_is_none_learns_nothing(method, path, refusal, make, overrides):
    """Not whether a tenant exists, nor which methods there are; and changes nothing."""
    error, status, code = refusal

    async def refuse(_scope) -> str:
        raise error

    answer = await ask(make(administrator=refuse), method, path, body={"limits": {"minute": 1}})

    assert answer.status == status
    assert method == "HEAD" or answer.json["code"] == code
    assert ("www-authenticate" in answer.headers) == (status == 401)
    assert await overrides.store.history("acme") == []


@pytest.mark.parametrize("actor", [None, "", "  ", False, 1, "a\nb", "a" * 201])
async def test_an_administrator_without_a_name_is_none(actor, make, overrides):
    """A function that forgets to raise opens nothing."""

    async def nobody(_scope):
        return actor

    answer = await put(make(administrator=nobody), {"minute": 1})

    assert (answer.status, answer.json["code"]) == (403, "administrator_refused")
    assert await overrides.store.history("acme") == []


async def test_a_failure_of_ours_is_raised_on(make):
    """The server answers 500; nobody is let in."""

    async def fail(_scope):
        raise KeyError("bug")

    with pytest.raises(KeyError):
        await put(make(administrator=fail), {"minute": 1})


# --- what an administrator sees and changes


async def test_an_administrator_sees_everything_of_a_tenant(app, limiter):
    """Plan, override, effective limits and use, those that are only tried out too."""
    await limiter.take(ACME, cost=2)
    answer = await ask(app, "GET", PATH)

    assert answer.status == 200
    assert answer.headers["etag"] == '"0"'
    assert {key: answer.json[key] for key in ("tenant", "tier", "plan", "override", "history")} == {
        "tenant": "acme",
        "tier": "FREE",
        "plan": "FREE",
        "override": None,
        "history": [],
    }
    assert list(rules(answer)) == [one.name for one in PLAN.rules]
    assert rules(answer)["month"]["used"] == 2


async def test_a_limit_is_raised(app, limiter):
    """It holds at once here, is announced, and is kept with who and why."""
    assert not (await limiter.take(ACME, cost=6)).allowed
    with heard(QuotaOverrideChanged) as changes:
        answer = await put(app, {"minute": {"limit": 100, "burst": 50}, "month": 2000})

    assert (answer.status, answer.headers["etag"]) == (200, '"1"')
    assert answer.json["override"] == {
        "version": 1,
        "limits": {"minute": {"limit": 100, "burst": 50}, "month": {"limit": 2000}},
        "actor": "ada@example.com",
        "reason": "ticket 4711",
        "changed_at": "2026-09-15T12:00:00+00:00",
    }
    assert rules(answer)["minute"]["limit"] == 100
    assert (await limiter.take(ACME, cost=50)).allowed
    assert not (await limiter.take(GLOBEX, cost=6)).allowed
    assert [(one.actor, one.reason) for one in changes] == [("ada@example.com", "ticket 4711")]


async def test_back_to_the_plan(app, limiter):
    """With a reason too; the history keeps both."""
    await put(app, {"minute": 100})
    answer = await ask(app, "DELETE", PATH, query=b"reason=the%20fair%20is%20over")
    again = await ask(app, "DELETE", PATH, query=b"reason=again")

    assert answer.status == again.status == 200
    assert answer.json["override"] is None
    assert [one["reason"] for one in answer.json["history"]] == ["the fair is over", "ticket 4711"]
    assert again.json["history"] == answer.json["history"]
    assert rules(answer)["minute"]["limit"] == 10


async def test_only_what_was_read_is_changed(app):
    """If-Match names the version; another is refused, and nothing changes."""
    first = await put(app, {"minute": 100}, ("if-match", '"0"'))
    stale = await put(app, {"minute": 200}, ("if-match", '"0"'))
    second = await put(app, {"minute": 300}, ("if-match", f'"7", {first.headers["etag"]}'))
    gone = await ask(app, "DELETE", PATH, ("if-match", '"1"'), query=b"reason=x")
    whatever = await put(app, {"minute": 400}, ("if-match", "*"))

    assert [one.status for one in (first, stale, second, gone, whatever)] == [
        200,
        412,
        200,
        412,
        200,
    ]
    assert stale.json["code"] == "override_changed"
    assert rules(whatever)["minute"]["limit"] == 400


@pytest.mark.parametrize(
    "tag", ["", " ", 'W/"0"', "0", '"0', '"-0"', '"' + "9" * 400 + '"', '"\u0660"', ","]
)
async def test_a_tag_that_is_none_matches_nothing(tag, app):
    """A weak one does not either (RFC 9110, section 13.1.1)."""
    assert (await put(app, {"minute": 1}, ("if-match", tag.encode()))).status == 412


async def test_of_two_who_change_at_once_one_wins(app, overrides):
    """Though both had read the same version when they began."""
    get = overrides.store.get

    async def slow(tenant_id):
        found = await get(tenant_id)
        await asyncio.sleep(0)
        return found

    overrides.store.get = slow
    answers = await asyncio.gather(
        *(put(app, {"minute": number}, ("if-match", '"0"')) for number in range(1, 6))
    )

    assert sorted(one.status for one in answers) == [200, 412, 412, 412, 412]
    assert len(await overrides.store.history("acme")) == 1


FAULTS = [
    ({}, ["limits", "reason"]),
    ({"limits": {}, "reason": "x"}, ["limits"]),
    ({"limits": [], "reason": "x"}, ["limits"]),
    ({"limits": {"nothing": 5}, "reason": "x"}, ["limits.nothing"]),
    ({"limits": {"minute": -1, "month": 1.5}, "reason": "x"}, ["limits.minute", "limits.month"]),
    ({"limits": {"minute": 0}, "reason": "x"}, ["limits.minute"]),
    ({"limits": {"minute": True}, "reason": "x"}, ["limits.minute"]),
    ({"limits": {"minute": "5"}, "reason": "x"}, ["limits.minute"]),
    ({"limits": {"minute": None}, "reason": "x"}, ["limits.minute"]),
    ({"limits": {"minute": 2**60}, "reason": "x"}, ["limits.minute"]),
    ({"limits": {"minute": {"limit": 5, "per": 1}}, "reason": "x"}, ["limits.minute"]),
    ({"limits": {"month": {"limit": 5, "burst": 1}}, "reason": "x"}, ["limits.month"]),
    ({"limits": {"x" * 500: 5}, "reason": "x"}, ["limits." + "x" * 80]),
    ({"limits": {f"r{n}": 5 for n in range(101)}, "reason": "x"}, ["limits"]),
    ({"limits": {"minute": 5}}, ["reason"]),
    ({"limits": {"minute": 5}, "reason": " "}, ["reason"]),
    ({"limits": {"minute": 5}, "reason": 7}, ["reason"]),
    ({"limits": {"minute": 5}, "reason": "a\nb"}, ["reason"]),
    ({"limits": {"minute": 5}, "reason": "a" * 1001}, ["reason"]),
    ({"limits": {"minute": 5}, "reason": "\ud800"}, ["reason"]),
    ({"limits": {"minute": 5}, "reason": "x", "actor": "mallory"}, ["actor"]),
]


@pytest.mark.parametrize(("body", "fields"), FAULTS)
async def test_every_fault_is_told_with_its_field(body, fields, app, overrides):
    """And nothing is changed."""
    answer = await ask(app, "PUT", PATH, body=body)

    assert (answer.status, answer.json["code"]) == (422, "request_invalid")
    assert [one["field"] for one in answer.json["errors"]] == fields
    assert await overrides.store.history("acme") == []


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"null", 400),
        (b"[]", 400),
        (b"{", 400),
        (b"\xff\xfe", 400),
        (b"[" * 60_000, 400),
        (b'{"a":' * 10_000, 400),
        (b'{"limits": {"minute": ' + b"9" * 5000 + b'}, "reason": "x"}', 400),
        (b'{"limits": {"minute": NaN}, "reason": "x"}', 400),
        (b'{"limits": {"minute": 1e999}, "reason": "x"}', 422),
        (b'{"limits": {"minute": 1}, "reason": "x", "reason": "y"}', 400),
        (b'{"limits": {"minute": 1, "minute": 2}, "reason": "x"}', 400),
        (b" " * 65_537, 413),
    ],
)
async def test_a_body_that_is_none_is_refused(body, status, app, overrides):
    """In one way, whatever is wrong with it."""
    answer = await ask(app, "PUT", PATH, body=body)

    assert answer.status == status
    assert await overrides.store.history("acme") == []


@pytest.mark.parametrize(
    "media", ["text/plain", "application/x-www-form-urlencoded", "", "multipart/form-data"]
)
async def test_a_form_of_another_site_changes_nothing(media, app, overrides):
    """Browsers send these types across sites without asking."""
    body = b'{"limits": {"minute": 1}, "reason": "x"}'
    answer = await ask(app, "PUT", PATH, ("content-type", media), body=body)

    assert (answer.status, answer.json["code"]) == (415, "media_type_unsupported")
    assert await overrides.store.history("acme") == []


async def test_a_client_that_goes_while_it_sends_changes_nothing(app, overrides):
    """Half a body is none."""
    scope = http_scope(PATH, ("content-type", "application/json; charset=utf-8"), method="PUT")
    half = {"type": "http.request", "body": b'{"limits": {"minute": 1}, ', "more_body": True}
    answer = await exchange(app, scope, half, {"type": "http.disconnect"})

    assert answer.status == 400
    assert await overrides.store.history("acme") == []


@pytest.mark.parametrize("query", [b"", b"reason=", b"reason=a&reason=b", b"reason=%0a", b"why=x"])
async def test_a_deletion_needs_a_reason(query, app, overrides):
    """One, and nothing else."""
    await put(app, {"minute": 1})
    answer = await ask(app, "DELETE", PATH, query=query)

    assert (answer.status, answer.json["code"]) == (422, "request_invalid")
    assert len(await overrides.store.history("acme")) == 1


@pytest.mark.parametrize(
    "name", ["nobody", "", "a b", "acme/", "../acme", "ACME", "acme\n", "a" * 65, "акме", "acme%00"]
)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_a_tenant_that_is_none_is_not_found(method, name, app):
    """Whatever is in its place."""
    body = {"limits": {"minute": 1}, "reason": "x"}
    answer = await ask(app, method, f"/admin/quotas/{name}", body=body, query=b"reason=x")

    assert (answer.status, answer.json["code"]) == (404, "tenant_unknown")


async def test_a_directory_that_gives_another_tenant_is_not_believed(make):
    """No change lands on whoever was not named."""

    async def wrong(_tenant_id):
        return GLOBEX

    assert (await put(make(directory=wrong), {"minute": 1})).status == 404


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/quotas", "GET, HEAD"),
        ("POST", PATH, "GET, HEAD, PUT, DELETE"),
        ("PATCH", PATH, "GET, HEAD, PUT, DELETE"),
        ("DELETE", "/admin/usage", "GET, HEAD"),
    ],
)
async def test_another_method_is_told_which_there_are(method, path, allowed, app):
    """405 with Allow."""
    answer = await ask(app, method, path)

    assert (answer.status, answer.json["code"]) == (405, "method_not_allowed")
    assert answer.headers["allow"] == allowed


@pytest.mark.parametrize("path", ["/", "", "/quotas/", "/Quotas", "/admin", "/admin/quotas"])
async def test_other_paths_are_not_there(path, app):
    """Exactly these are."""
    assert (await ask(app, "GET", path)).json["code"] == "not_found"


async def test_head_is_get_without_a_body(app):
    """With the same headers."""
    with bind_tenant(ACME):
        answers = [await ask(app, method, "/quotas") for method in ("GET", "HEAD")]
    usage = await ask(app, "HEAD", "/admin/usage", query=SEPTEMBER)

    assert answers[0].headers == answers[1].headers
    assert answers[1].body == usage.body == b""
    assert usage.headers["content-type"] == "application/x-ndjson"


async def test_it_is_the_same_under_a_prefix(app):
    """As a mounting app calls it."""
    with bind_tenant(ACME):
        answer = await ask(app, "GET", "/api/quotas", root_path="/api")

    assert answer.status == 200


async def test_websockets_and_lifespan_are_met(app):
    """The one is refused, the other answered."""
    refused = await exchange(app, websocket_scope("/quotas"))
    started = await exchange(
        app, {"type": "lifespan"}, {"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}
    )

    assert refused.messages == [{"type": "websocket.close", "code": 1008, "reason": "not_found"}]
    assert [one["type"] for one in started.messages] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]


# --- usage


def counter(number=0, **changes: Any) -> UsageCounter:
    """September of acme, in Berlin."""
    berlin = timezone(timedelta(hours=2))
    one = UsageCounter(
        tenant_id="acme",
        rule="month",
        scope="",
        birth=10**15 + number,
        instance="",
        unit="requests",
        period_start=datetime(2026, 9, 1, tzinfo=berlin),
        period_end=datetime(2026, 10, 1, tzinfo=berlin),
        taken=10,
        refunded=3,
    )
    return replace(one, **changes)


async def export(app, query=SEPTEMBER, **more) -> Answer:
    """Ask for usage, as a client that stays."""
    sent: list[Any] = []
    waiting = [{"type": "http.request", "body": b""}]

    async def receive():
        return waiting.pop() if waiting else await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    scope = http_scope("/admin/usage", query_string=query, **more)
    await app(scope, receive, send)
    return Answer(sent)


async def test_usage_as_ndjson(app, ledger):
    """A line for each tenant, rule, unit, scope and period."""
    await ledger.record([counter(), counter(1, taken=5, refunded=0)])
    answer = await export(app)

    assert answer.status == 200
    assert answer.body.endswith(b"}\n")
    assert json.loads(answer.body) == {
        "tenant": "acme",
        "rule": "month",
        "unit": "requests",
        "scope": "",
        "period_start": "2026-09-01T00:00:00+02:00",
        "period_end": "2026-10-01T00:00:00+02:00",
        "taken": 15,
        "refunded": 3,
        "used": 12,
        "closed": False,
    }


async def test_usage_as_csv(app, ledger, clock):
    """RFC 4180, with a header; the period is over a minute after its end."""
    await ledger.record([counter()])
    clock.advance((datetime(2026, 9, 30, 22, 0, 59, tzinfo=UTC) - NOW).total_seconds())
    before = await export(app, SEPTEMBER + b"&format=csv")
    clock.advance(1)
    answer = await export(app, SEPTEMBER + b"&format=csv")

    assert before.body.decode().endswith(",7,false\r\n")
    assert answer.body.decode() == (
        "tenant,rule,unit,scope,period_start,period_end,taken,refunded,used,closed\r\n"
        "acme,month,requests,,2026-09-01T00:00:00+02:00,2026-10-01T00:00:00+02:00,10,3,7,true\r\n"
    )
    assert answer.headers["content-type"] == "text/csv; charset=utf-8; header=present"
    assert answer.headers["content-disposition"] == (
        'attachment; filename="usage-2026-09-01-2026-10-01.csv"'
    )
    assert answer.headers["cache-control"] == "no-store"


async def test_a_tenant_id_is_no_formula(app, ledger):
    """Control: a spreadsheet would compute `-A1-B2`.  NDJSON has it as it is."""
    await ledger.record([counter(tenant_id="-A1-B2")])
    table = list(
        csv.DictReader(io.StringIO((await export(app, SEPTEMBER + b"&format=csv")).body.decode()))
    )
    line = json.loads((await export(app)).body)

    assert table[0]["tenant"] == "'-A1-B2"
    assert line["tenant"] == "-A1-B2"


async def test_nothing_is_an_empty_file(app):
    """With the header, in CSV."""
    assert (await export(app)).body == b""
    assert (await export(app, SEPTEMBER + b"&format=csv")).body.count(b"\r\n") == 1


async def test_one_tenant_only(app, ledger):
    """If it is asked for."""
    await ledger.record([counter(), counter(tenant_id="globex")])
    answer = await export(app, SEPTEMBER + b"&tenant=globex")

    assert [json.loads(line)["tenant"] for line in answer.body.splitlines()] == ["globex"]


async def test_many_rows_come_in_bounded_pieces(app, ledger):
    """All of them, in order, never more than a page at once."""
    await ledger.record([counter(number, scope=f"u.{number:05}") for number in range(2500)])
    answer = await export(app)
    scopes = [json.loads(line)["scope"] for line in answer.body.splitlines()]

    assert scopes == [f"u.{number:05}" for number in range(2500)]
    assert [one["body"].count(b"\n") for one in answer.messages[1:]] == [1000, 1000, 500]


@pytest.mark.parametrize(
    ("query", "fields"),
    [
        (b"", ["from", "to"]),
        (b"from=2026-09-01", ["to"]),
        (b"from=2026-09-01&to=2026-09-01", ["to"]),
        (b"from=2026-10-01&to=2026-09-01", ["to"]),
        (b"from=2026-02-30&to=2026-10-01", ["from"]),
        (b"from=20260901&to=2026-W40-1", ["from", "to"]),
        (b"from=%D9%A2026-09-01&to=2026-10-01", ["from"]),
        (b"from=%ff&to=2026-10-01", ["query"]),
        (SEPTEMBER + b"&from=2026-08-01", ["from"]),
        (SEPTEMBER + b"&format=xlsx", ["format"]),
        (SEPTEMBER + b"&tenant=a%27b", ["tenant"]),
        (SEPTEMBER + b"&tenant=", ["tenant"]),
        (SEPTEMBER + b"&tennant=acme", ["tennant"]),
        (SEPTEMBER + b"&x=1" * 30, ["query"]),
        (b"from", ["query"]),
        (b"\xff", ["query"]),
    ],
)
async def test_a_question_that_is_none_is_refused(query, fields, app):
    """With its field; a mistyped filter never means everybody."""
    answer = await export(app, query)

    assert (answer.status, answer.json["code"]) == (422, "request_invalid")
    assert [one["field"] for one in answer.json["errors"]] == fields


async def test_a_ledger_that_is_down_is_told(app, ledger, monkeypatch):
    """Before anything is sent."""

    async def down(*_args, **_named):
        raise BackendUnavailableError("down")

    monkeypatch.setattr(ledger, "page", down)
    answer = await export(app)

    assert (answer.status, answer.json["code"]) == (503, "backend_unavailable")


async def test_a_ledger_that_fails_half_way_breaks_the_answer_off(app, ledger, monkeypatch):
    """Nobody takes the first page for all."""
    await ledger.record([counter(number, scope=f"u.{number}") for number in range(1500)])
    page = ledger.page

    async def once(query, *, after, size):
        if after is not None:
            raise BackendUnavailableError("down")
        return await page(query, after=after, size=size)

    monkeypatch.setattr(ledger, "page", once)
    with pytest.raises(BackendUnavailableError):
        await export(app)


async def test_nothing_is_read_for_a_client_that_has_gone(app, ledger, monkeypatch):
    """After the page that it left at."""
    await ledger.record([counter(number, scope=f"u.{number}") for number in range(5000)])
    pages, page = [], ledger.page

    async def counted(query, *, after, size):
        pages.append(after)
        await asyncio.sleep(0)
        return await page(query, after=after, size=size)

    monkeypatch.setattr(ledger, "page", counted)
    scope = http_scope("/admin/usage", query_string=SEPTEMBER)
    await exchange(app, scope, {"type": "http.request"}, {"type": "http.disconnect"})

    assert len(pages) <= 2
