"""
The middleware: who is asked, what is taken, what is told, and what is given back.
"""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from tests.support.quotas import ACME, GLOBEX, limiter_of
from tests.support.structured_fields import read_list
from tests.support.tenancy import (
    Says,
    exchange,
    heard,
    http_scope,
    name_tenant,
    respond,
    websocket_scope,
)
from twh_platform.errors import BackendUnavailableError, ConfigurationError
from twh_platform.quotas import (
    Calendar,
    ClientAddress,
    Concurrency,
    FallbackQuotaStore,
    Limiter,
    MemoryQuotaStore,
    QuotaMiddleware,
    QuotaRefused,
    Rate,
    RetryAfter,
    RouteTable,
    charge_actual,
    quota_receipt,
)
from twh_platform.tenancy import MemoryTenantDirectory, TenantMiddleware, bind_tenant
from twh_platform.testing import ManualClock

ROUTES = RouteTable(["/items", "/items/{id}", "POST /auth/login", "/reports", "/healthz", "/ws"])
MINUTE = Rate(name="minute", limit=3, per=60)
LOGIN = Rate(name="login", limit=2, per=60, scope="client", routes=("POST /auth/login",))
IN_FLIGHT = Concurrency(name="in-flight", limit=2, lease=30, maximum_hold=300)


@pytest.fixture
def clock() -> ManualClock:
    """The store's clock and the limiter's."""
    return ManualClock(1_800_000_000.0)


@pytest.fixture
def limited(clock):
    """Make an app behind the middleware, with these rules."""

    def make(*rules, app=name_tenant, **options) -> QuotaMiddleware:
        limiter = limiter_of(MemoryQuotaStore(clock=clock), *rules, clock=clock)
        options = {"routes": ROUTES, "retry_after": RetryAfter(jitter=0.0), **options}
        return QuotaMiddleware(app, limiter=limiter, **options)

    return make


async def ask(app, path="/items", *headers, tenant=ACME, **more):
    """One request of a tenant."""
    with bind_tenant(tenant):
        return await exchange(app, http_scope(path, *headers, **more))


async def left(app, tenant=ACME, **asked) -> dict[str, int]:
    """What is left of each rule."""
    decision = await app._limiter.peek(tenant, **asked)
    return {one.rule.name: one.remaining for one in decision.statuses}


async def test_the_request_beyond_the_limit_is_refused(limited):
    """With the registered problem, the rule's name, and how long to wait."""
    app = limited(MINUTE)
    answers = [await ask(app) for _ in range(4)]

    assert [one.status for one in answers] == [200, 200, 200, 429]
    refusal = answers[-1]
    assert refusal.headers["content-type"] == "application/problem+json"
    assert refusal.headers["retry-after"] == "20"
    assert refusal.headers["ratelimit"] == '"minute";r=0;t=20'
    assert refusal.json == {
        "type": "https://iana.org/assignments/http-problem-types#quota-exceeded",
        "title": "The quota is used up for now",
        "status": 429,
        "code": "quota_exceeded",
        "request_id": refusal.headers["x-request-id"],
        "violated-policies": ["minute"],
    }


async def test_an_admitted_request_is_told_what_is_left(limited):
    """Beside the headers of the app, whose message stays as it is."""
    start = {"type": "http.response.start", "status": 200, "headers": [(b"x-own", b"1")]}

    async def constant(scope, receive, send):
        await send(start)
        await send({"type": "http.response.body", "body": b""})

    answers = [await ask(limited(MINUTE, app=constant)) for _ in range(2)]

    assert answers[0].headers == {
        "x-own": "1",
        "ratelimit-policy": '"minute";q=3;w=60',
        "ratelimit": '"minute";r=2;t=20',
    }
    assert start["headers"] == [(b"x-own", b"1")]


@pytest.mark.parametrize(("status", "told"), [(200, True), (404, True), (401, False), (403, False)])
async def test_whoever_is_not_admitted_by_the_app_learns_nothing(limited, status, told):
    """The quota may be another's than the reader's."""

    async def answer(scope, receive, send):
        await respond(send, "", status)

    assert ("ratelimit" in (await ask(limited(MINUTE, app=answer))).headers) == told


async def test_no_fields_if_none_are_wanted(limited):
    """A refusal still says when to come back."""
    app = limited(MINUTE, headers=None)
    answers = [await ask(app) for _ in range(4)]

    assert not any("ratelimit" in one.headers for one in answers)
    assert answers[-1].headers["retry-after"] == "20"


async def test_paths_of_one_route_share_a_limit(limited):
    """The template is the key; one counter per path would admit all fifty."""
    each = Rate(name="each", limit=5, per=60, scope="route")
    app = limited(each)
    answers = [await ask(app, f"/items/{number}") for number in range(50)]
    elsewhere = [await ask(app, f"/nowhere/{number}") for number in range(50)]

    assert sum(one.status == 200 for one in answers) == 5
    assert sum(one.status == 200 for one in elsewhere) == 5
    assert (await ask(app, "/items")).status == 200


async def test_head_counts_as_get(limited):
    """The same handler runs for both."""
    app = limited(Rate(name="reads", limit=2, per=60, routes=("GET /items",)))
    methods = ["HEAD", "GET", "HEAD", "GET", "POST"]
    answers = [await ask(app, method=method) for method in methods]

    assert [one.status for one in answers] == [200, 200, 429, 429, 200]


async def test_a_route_may_cost_more(limited):
    """For one method or for all; other units by name."""
    volume = Rate(name="volume", limit=100, per=60, unit="rows")
    costs = {"POST /reports": 2, "/items/{id}": {"rows": 40}}
    app = limited(MINUTE, volume, costs=costs)
    statuses = [(await ask(app, "/reports", method=one)).status for one in ("POST", "POST", "GET")]

    assert statuses == [200, 429, 200]
    assert await left(app) == {"minute": 0, "volume": 98}
    assert (await ask(limited(MINUTE, volume, costs=costs), "/items/7")).status == 200


async def test_a_cost_that_never_fits_is_refused_for_good(limited):
    """Waiting is no use, so nobody is told to wait."""
    refusal = await ask(limited(MINUTE, costs={"/reports": 4}), "/reports")

    assert (refusal.status, refusal.json["code"]) == (413, "quota_cost_too_large")
    assert refusal.json["violated-policies"] == ["minute"]
    assert "retry-after" not in refusal.headers


async def test_exempt_routes_take_nothing(limited):
    """Probes come as often as they like."""
    app = limited(Rate(name="one", limit=1, per=60), exempt=["/healthz", "GET /items"])
    probes = [await ask(app, path) for path in ["/healthz", "/items"] * 3]

    assert {one.status for one in probes} == {200}
    assert [(await ask(app, method="POST")).status for _ in range(2)] == [200, 429]


async def test_tenants_have_quotas_of_their_own(limited):
    """One that is used up leaves the others alone."""
    app = limited(MINUTE)
    statuses = [(await ask(app)).status for _ in range(5)]

    assert statuses[-1] == 429
    assert (await ask(app, tenant=GLOBEX)).status == 200


async def test_users_of_a_tenant_are_counted_apart(limited):
    """As the tenant's resolution names them, or a function of the service's."""
    user = Rate(name="user", limit=1, per=60, scope="user")
    app = limited(user)
    resolutions = [SimpleNamespace(user_id=name) for name in ("ann", "ann", "bob", None, None)]
    scopes = [http_scope("/items", **{"twh.resolution": one}) for one in resolutions]
    with bind_tenant(ACME):
        statuses = [(await exchange(app, scope)).status for scope in scopes]

    assert statuses == [200, 429, 200, 200, 200]


async def test_an_api_key_is_named_by_the_service(limited):
    """By its id, out of whatever the service keeps in the scope."""
    key = Rate(name="key", limit=1, per=60, scope="api_key")
    app = limited(key, identity=lambda scope: (None, scope["state"]["key_id"]))
    statuses = [(await ask(app, state={"key_id": one})).status for one in ("k1", "k1", "k2")]

    assert statuses == [200, 429, 200]


def whole(clock, limiter, app=name_tenant, source="acme") -> QuotaMiddleware:
    """The usual order: client rules outside, the tenant, its rules inside."""
    inner = QuotaMiddleware(app, limiter=limiter, routes=ROUTES)
    tenancy = TenantMiddleware(
        inner,
        resolver=Says(source),
        directory=MemoryTenantDirectory([ACME]),
        public_paths=["/auth/login"],
    )
    address = ClientAddress(trusted_proxies=["10.0.0.1"])
    return QuotaMiddleware(tenancy, limiter=limiter, routes=ROUTES, client_address=address)


def login_from(client: str, *headers: tuple[str, str]):
    """A login, before any tenant is known."""
    return http_scope("/auth/login", *headers, method="POST", client=(client, 1))


async def test_clients_are_limited_before_a_tenant_is_known(clock):
    """By address: one that is refused leaves the others alone."""
    app = whole(clock, limiter_of(MemoryQuotaStore(clock=clock), LOGIN, MINUTE, clock=clock))
    tried = ["192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.2"]
    answers = [await exchange(app, login_from(client)) for client in tried]

    assert [one.status for one in answers] == [200, 200, 429, 200]
    assert answers[2].json["violated-policies"] == ["login"]


async def test_a_forged_header_does_not_evade_the_login_limit(clock):
    """Neither from the client itself, nor through the proxy, which adds what it saw."""
    app = whole(clock, limiter_of(MemoryQuotaStore(clock=clock), LOGIN, clock=clock))
    direct = [("192.0.2.1", f"6.6.6.{number}") for number in range(4)]
    proxied = [("10.0.0.1", f"6.6.6.{number}, 192.0.2.9") for number in range(4)]
    statuses = [
        (await exchange(app, login_from(peer, ("x-forwarded-for", line)))).status
        for peer, line in direct + proxied
    ]

    assert statuses == [200, 200, 429, 429] * 2


async def test_requests_that_tenancy_refuses_count_for_the_client(clock):
    """Whoever tries tokens is limited, although no tenant is ever found."""
    tries = Rate(name="tries", limit=2, per=60, scope="client")
    limiter = limiter_of(MemoryQuotaStore(clock=clock), tries, clock=clock)
    app = whole(clock, limiter, source=None)
    scopes = [http_scope("/items", client=("192.0.2.1", 1)) for _ in range(3)]
    answers = [await exchange(app, scope) for scope in scopes]

    assert [one.status for one in answers] == [401, 401, 429]
    assert "ratelimit" not in answers[0].headers


async def test_the_rules_of_client_and_tenant_are_each_asked_once(clock):
    """The outer middleware asks the client's, the inner the tenant's; both are told."""
    everyone = Rate(name="client", limit=9, per=60, scope="client")
    limiter = limiter_of(MemoryQuotaStore(clock=clock), everyone, MINUTE, clock=clock)
    answer = await exchange(whole(clock, limiter), http_scope("/items", client=("192.0.2.1", 1)))

    lines = [value for name, value in answer.messages[0]["headers"] if name == b"ratelimit"]
    assert read_list(b", ".join(lines)) == [
        ("minute", {"r": 2, "t": 20}),
        ("client", {"r": 8, "t": 7}),
    ]


async def test_a_tenants_refusal_gives_back_what_the_client_gave(limited):
    """With both in one middleware, all rules are charged or none."""
    everyone = Rate(name="client", limit=9, per=60, scope="client")
    app = limited(everyone, MINUTE, client_address=ClientAddress())
    for _ in range(5):
        await ask(app, client=("192.0.2.1", 1))

    assert await left(app, client="192.0.2.1") == {"client": 6, "minute": 0}


async def test_nobody_known_nothing_asked(limited):
    """Without a tenant or an address there is nobody to count for."""
    app = limited(MINUTE, LOGIN)
    answer = await exchange(app, http_scope("/items"))

    assert (answer.status, answer.body) == (200, b"nobody")
    assert "ratelimit" not in answer.headers


class Silent:
    """A store that does not answer."""

    async def take(self, take, /):
        """As an unreachable server."""
        raise BackendUnavailableError("no answer", retry_after=7.0)


async def test_a_store_that_does_not_answer_is_503(caplog):
    """Where nothing stands in for it; never "no limit"."""
    app = QuotaMiddleware(
        name_tenant, limiter=limiter_of(Silent(), MINUTE), routes=ROUTES, retry_after=int
    )
    refusal = await ask(app)

    assert (refusal.status, refusal.headers["retry-after"]) == (503, "7")
    assert refusal.json["code"] == "quota_store_unavailable"
    assert refusal.json["type"].endswith("#temporary-reduced-capacity")
    assert "no answer" in caplog.text
    assert "no answer" not in refusal.body.decode()


@pytest.mark.parametrize(
    ("policy", "status", "told"),
    [("open", 200, '"minute";r=3'), ("closed", 503, None), ("share", 200, '"minute";r=1;t=30')],
)
async def test_while_the_store_is_silent_each_rules_policy_is_told(policy, status, told):
    """Admitted uncounted, refused, or counted against a share, which is what is shown."""
    rule = Rate(name="minute", limit=4, per=60, burst=3, on_failure=policy)
    store = FallbackQuotaStore(Silent(), instances=2)
    app = QuotaMiddleware(name_tenant, limiter=limiter_of(store, rule), routes=ROUTES)
    answer = await ask(app)

    assert answer.status == status
    assert answer.headers.get("ratelimit") == told
    if status == 503:
        assert answer.json["code"] == "quota_store_unavailable"
        assert answer.json["violated-policies"] == ["minute"]
        assert answer.headers["retry-after"] in {"1", "2"}


async def test_a_refusal_is_announced_once(limited):
    """By the limiter, with the route and not the path."""
    app = limited(MINUTE)
    with heard(QuotaRefused) as refusals:
        for _ in range(4):
            await ask(app, "/items/7")

    [refused] = refusals
    assert (refused.route, refused.rules, refused.tenant_id) == (
        "GET /items/{id}",
        ("minute",),
        "acme",
    )


async def test_lifespan_passes_through(limited):
    """It is no request."""
    seen = []

    async def app(scope, receive, send):
        seen.append(scope["type"])

    await limited(MINUTE, app=app)({"type": "lifespan"}, None, None)

    assert seen == ["lifespan"]


# What is given back, and when slots are free.


async def test_a_slot_is_free_when_the_last_byte_is_sent(limited):
    """Not with the first: a stream holds it, and work after the answer does not."""
    seen = []

    async def stream(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for more in (True, True, False):
            await send({"type": "http.response.body", "body": b"x", "more_body": more})
            seen.append((await left(app))["in-flight"])

    app = limited(IN_FLIGHT, app=stream)
    await ask(app)

    assert seen == [1, 1, 2]


async def test_requests_beyond_the_slots_are_refused_until_one_ends(limited):
    """Two at a time; a third is told to come in a second."""
    ready, end = asyncio.Semaphore(0), asyncio.Event()

    async def slow(scope, receive, send):
        ready.release()
        await end.wait()
        await respond(send, "done")

    app = limited(IN_FLIGHT, app=slow)
    running = [asyncio.create_task(ask(app)) for _ in range(2)]
    for _ in running:
        await ready.acquire()
    refusal = await ask(app)
    end.set()

    assert (refusal.status, refusal.headers["retry-after"]) == (429, "1")
    assert [(await one).status for one in running] == [200, 200]
    assert (await ask(app)).status == 200


@pytest.mark.parametrize("answered", [False, True])
async def test_an_app_that_fails_keeps_its_charge_and_frees_its_slot(limited, answered):
    """A failure has cost what it has cost."""

    async def fail(scope, receive, send):
        if answered:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ZeroDivisionError

    app = limited(MINUTE, IN_FLIGHT, app=fail)
    with pytest.raises(ZeroDivisionError):
        await ask(app)

    assert await left(app) == {"minute": 2, "in-flight": 2}


@pytest.mark.parametrize(
    ("answered", "refunds", "remaining"),
    [(False, True, 3), (False, False, 2), (True, True, 2)],
)
async def test_a_cancelled_request_gives_back_what_was_not_answered(
    limited, answered, refunds, remaining
):
    """Before the answer has begun everything, afterwards the slot."""
    begun = asyncio.Event()

    async def hang(scope, receive, send):
        if answered:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        begun.set()
        await asyncio.Event().wait()

    app = limited(MINUTE, IN_FLIGHT, app=hang, refund_unanswered=refunds)
    task = asyncio.create_task(ask(app))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert await left(app) == {"minute": remaining, "in-flight": 2}


async def test_an_app_that_returns_without_an_answer_gives_back(limited):
    """As one does whose client is gone."""

    async def nothing(scope, receive, send):
        pass

    app = limited(MINUTE, IN_FLIGHT, app=nothing)
    await ask(app)

    assert await left(app) == {"minute": 3, "in-flight": 2}


class Slow(MemoryQuotaStore):
    """A store whose settling takes a turn of the loop, as a remote one's does."""

    async def settle(self, settlement, /):
        """As told, but later."""
        await asyncio.sleep(0.01)
        return await super().settle(settlement)


@pytest.mark.parametrize("cancels", [1, 2, 3])
async def test_giving_back_survives_further_cancellation(clock, cancels):
    """However often the task is cancelled while it gives back."""
    begun = asyncio.Event()

    async def hang(scope, receive, send):
        begun.set()
        await asyncio.Event().wait()

    limiter = limiter_of(Slow(clock=clock), MINUTE, IN_FLIGHT, clock=clock)
    app = QuotaMiddleware(hang, limiter=limiter, routes=ROUTES)
    task = asyncio.create_task(ask(app))
    await begun.wait()
    for _ in range(cancels):
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0.05)

    assert await left(app) == {"minute": 3, "in-flight": 2}


def work_of(actual):
    """An app that says what its work has cost."""

    async def work(scope, receive, send):
        assert charge_actual(scope, actual)
        await respond(send, "done")

    return work


async def test_a_handler_states_what_it_really_cost(limited):
    """The last word counts, beyond the limit too, and is charged when the request is over."""

    async def work(scope, receive, send):
        assert charge_actual(scope, 1)
        assert charge_actual(scope, int(scope["query_string"]))
        await respond(send, "done")

    day = Calendar(name="day", limit=10, period="day")
    app = limited(day, app=work, costs={"/reports": 5})
    remaining = []
    for actual in (b"7", b"0", b"5", b"3"):
        await ask(app, "/reports", query_string=actual)
        remaining.append((await left(app))["day"])

    assert remaining == [3, 3, 3, 3]


async def test_more_than_was_taken_is_charged_beyond_the_limit(limited):
    """It has been used; later requests pay for it."""

    async def work(scope, receive, send):
        charge_actual(scope, 12)
        await respond(send, "done")

    app = limited(Calendar(name="day", limit=10, period="day"), app=work)

    assert [(await ask(app)).status for _ in range(2)] == [200, 429]


async def test_a_stated_cost_is_charged_even_if_nobody_was_answered(limited):
    """Who has said what it cost has used it."""

    async def work(scope, receive, send):
        charge_actual(scope, 2)

    app = limited(MINUTE, app=work)
    await ask(app)

    assert await left(app) == {"minute": 1}


@pytest.mark.parametrize("rules", [(), (IN_FLIGHT,)])
async def test_a_cost_may_be_stated_after_the_answer(limited, rules):
    """As a background task does, whether or not slots were freed with the last byte."""
    said = []

    async def work(scope, receive, send):
        await respond(send, "done")
        said.append((charge_actual(scope, 2), charge_actual(scope, 7)))

    app = limited(Calendar(name="day", limit=10, period="day"), *rules, app=work)
    await ask(app)

    assert said == [(True, True)]
    assert (await left(app))["day"] == 3


@pytest.mark.parametrize(
    ("actual", "said", "remaining"),
    [({"tokens": 70}, False, 100), ({"tokens": 70, "requests": 2}, True, 100), (2, True, 100)],
)
async def test_of_what_nothing_was_taken_nothing_is_charged(limited, actual, said, remaining):
    """A handler is told, so that nobody bills by a unit that costs 0 before the work."""
    tokens = Calendar(name="tokens", limit=100, period="day", unit="tokens")

    async def work(scope, receive, send):
        assert charge_actual(scope, actual) is said
        await respond(send, "done")

    app = limited(MINUTE, tokens, app=work, costs={"/items": {"tokens": 0}})
    await ask(app)
    taken = limited(MINUTE, tokens, app=work_of({"tokens": 70}))
    await ask(taken)

    assert await left(app) == {"minute": 1 if said else 2, "tokens": remaining}
    assert await left(taken) == {"minute": 2, "tokens": 30}


@pytest.mark.parametrize("kind", ["http.response.pathsend", "http.response.zerocopysend"])
async def test_a_file_that_the_server_sends_ends_the_answer(limited, kind):
    """As the last part of a body does: work after it holds no slot."""
    seen = []

    async def work(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": kind, "path": "/srv/x", "file": 3})
        seen.append(await left(app))

    app = limited(IN_FLIGHT, app=work)
    await ask(app)

    assert seen == [{"in-flight": 2}]


async def test_a_cost_that_is_charged_already_is_not_stated_again(limited):
    """What was said before the last byte is charged with it; nobody is told that more came."""
    said = []

    async def work(scope, receive, send):
        said.append(charge_actual(scope, 2))
        await respond(send, "done")
        said.append(charge_actual(scope, 7))

    app = limited(Calendar(name="day", limit=10, period="day"), app=work)
    await ask(app)

    assert said == [True, False]
    assert await left(app) == {"day": 8}


@pytest.mark.parametrize("rules", [(), (Concurrency(name="in-flight", limit=2),)])
async def test_a_request_may_take_longer_than_a_receipt_lasts(rules):
    """A websocket, open for long, is charged what it cost, and frees its slot."""

    async def work(scope, receive, send):
        await send({"type": "websocket.accept", "headers": []})
        await asyncio.sleep(0.3)
        charge_actual(scope, 7)

    day = Calendar(name="day", limit=10, period="day")
    limiter = limiter_of(MemoryQuotaStore(), day, *rules, receipt_seconds=0.2)
    control = (await limiter.take(GLOBEX)).receipt
    app = QuotaMiddleware(work, limiter=limiter, routes=ROUTES)
    await connected(app)

    assert not await control.commit(7)
    assert await left(app) == {"day": 3, **{one.name: 2 for one in rules}}


async def test_a_handler_may_settle_by_itself(limited):
    """The receipt is settled once, so the middleware has nothing left to do."""

    async def work(scope, receive, send):
        assert await quota_receipt(scope).commit(0)
        await respond(send, "done")

    app = limited(MINUTE, IN_FLIGHT, app=work)
    await ask(app)

    assert await left(app) == {"minute": 3, "in-flight": 2}


async def test_where_nothing_was_taken_there_is_no_receipt(limited):
    """An exempt route has none, and stating a cost has no effect."""
    seen = []

    async def probe(scope, receive, send):
        seen.append((quota_receipt(scope), charge_actual(scope, 5)))
        await respond(send, "ok")

    await ask(limited(MINUTE, app=probe, exempt=["/healthz"]), "/healthz")

    assert seen == [(None, False)]
    with pytest.raises(ConfigurationError):
        charge_actual({}, -1)


async def test_a_settlement_that_fails_does_not_fail_the_request(clock, caplog):
    """It was answered; what was taken stays taken, and it is in the log."""

    class Forgetful(MemoryQuotaStore):
        async def settle(self, settlement, /):
            raise BackendUnavailableError("gone", code="quota_store_unavailable")

    limiter = limiter_of(Forgetful(clock=clock), IN_FLIGHT, clock=clock)
    answer = await ask(QuotaMiddleware(name_tenant, limiter=limiter, routes=ROUTES))

    assert answer.status == 200
    assert "not settled, quota_store_unavailable" in caplog.text


async def test_the_slots_of_a_long_request_are_renewed(clock):
    """For as long as it runs, three times per lease."""
    short = Concurrency(name="in-flight", limit=1, lease=0.03, maximum_hold=300)
    renewed, app = asyncio.Event(), None

    class Watched(MemoryQuotaStore):
        async def renew(self, take, at, /):
            clock.advance(0.02)
            held = await super().renew(take, at)
            renewals.append(held)
            if len(renewals) == 4:
                renewed.set()
            return held

    async def hang(scope, receive, send):
        await renewed.wait()
        seen.append(await left(app))
        await respond(send, "done")

    renewals, seen = [], []
    limiter = limiter_of(Watched(clock=clock), short, clock=clock)
    app = QuotaMiddleware(hang, limiter=limiter, routes=ROUTES)
    await ask(app)

    assert renewals[:4] == [True] * 4
    assert seen == [{"in-flight": 0}]
    assert await left(app) == {"in-flight": 1}


async def test_renewing_ends_when_the_slot_is_gone(clock):
    """After the longest hold it is free, although the request goes on."""
    short = Concurrency(name="in-flight", limit=1, lease=0.03, maximum_hold=0.05)
    gone = asyncio.Event()

    class Watched(MemoryQuotaStore):
        async def renew(self, take, at, /):
            clock.advance(0.02)
            if not await super().renew(take, at):
                gone.set()
                return False
            return True

    async def hang(scope, receive, send):
        await gone.wait()
        seen.append(await left(app))
        await respond(send, "done")

    seen = []
    app = QuotaMiddleware(
        hang, limiter=limiter_of(Watched(clock=clock), short, clock=clock), routes=ROUTES
    )
    await ask(app)

    assert seen == [{"in-flight": 1}]


# Websockets.


async def connected(app, *, extension=False, tenant=ACME):
    """One websocket of a tenant, to its end."""
    extensions = {"websocket.http.response": {}} if extension else {}
    with bind_tenant(tenant):
        return await exchange(app, websocket_scope("/ws", extensions=extensions))


async def accept(scope, receive, send) -> None:
    """Accept and say goodbye."""
    await receive()
    await send({"type": "websocket.accept", "headers": []})
    await send({"type": "websocket.close", "code": 1000})


async def test_a_websocket_takes_at_its_handshake(limited):
    """And is told so in the answer to it."""
    app = limited(MINUTE, IN_FLIGHT, app=accept, costs={"WEBSOCKET /ws": 2})
    answer = await connected(app)

    assert answer.headers["ratelimit"] == '"minute";r=1;t=20, "in-flight";r=1'
    assert await left(app) == {"minute": 1, "in-flight": 2}


@pytest.mark.parametrize("extension", [False, True])
async def test_a_websocket_beyond_the_limit_is_refused_before_it_is_accepted(limited, extension):
    """With the problem where the server can send it, else by closing."""
    app = limited(Rate(name="one", limit=1, per=60), app=accept)
    await connected(app)
    [first, *_] = (await connected(app, extension=extension)).messages

    if extension:
        assert (first["type"], first["status"]) == ("websocket.http.response.start", 429)
    else:
        assert first == {"type": "websocket.close", "code": 1008, "reason": "quota_exceeded"}


async def test_a_websocket_that_its_app_refuses_keeps_its_charge(limited):
    """A refusal is an answer."""

    async def refuse(scope, receive, send):
        await send({"type": "websocket.close", "code": 1008})

    app = limited(MINUTE, IN_FLIGHT, app=refuse)
    await connected(app)

    assert await left(app) == {"minute": 2, "in-flight": 2}


@pytest.mark.parametrize(("accepted", "remaining"), [(False, 3), (True, 2)])
async def test_a_websocket_holds_its_slot_until_it_ends(limited, accepted, remaining):
    """By its task being cancelled, as a server does when it stops."""
    open_now = asyncio.Event()

    async def hang(scope, receive, send):
        if accepted:
            await send({"type": "websocket.accept", "headers": []})
        open_now.set()
        await asyncio.Event().wait()

    app = limited(MINUTE, IN_FLIGHT, app=hang)
    task = asyncio.create_task(connected(app))
    await open_now.wait()
    held = await left(app)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert held == {"minute": 2, "in-flight": 1}
    assert await left(app) == {"minute": remaining, "in-flight": 2}


# How it is put together.


async def test_the_routes_are_those_of_the_app_inside():
    """Found through the middlewares in between."""
    endpoint = SimpleNamespace(path="/items/{id}", endpoint=name_tenant, methods={"GET"})
    app = SimpleNamespace(app=SimpleNamespace(routes=[endpoint]))
    middleware = QuotaMiddleware(app, limiter=limiter_of(MemoryQuotaStore(), MINUTE))

    assert middleware._routes(http_scope("/items/7")) == "GET /items/{id}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "no app with routes is inside"),
        ({"routes": ROUTES, "costs": {"POST /report": 5}}, "POST /report"),
        ({"routes": ROUTES, "exempt": ["/health"]}, "/health"),
        ({"routes": ROUTES, "costs": {"/reports": -1}}, "cost=-1"),
    ],
)
def test_a_mistake_shows_when_the_service_starts(options, message):
    """A cost or an exemption that nothing meets would go unnoticed."""
    with pytest.raises(ConfigurationError, match=message):
        QuotaMiddleware(name_tenant, limiter=limiter_of(MemoryQuotaStore(), MINUTE), **options)


async def test_a_function_may_tell_the_route(limited):
    """For other frameworks; None is the route of all that it does not know."""
    each = Rate(name="each", limit=1, per=60, scope="route")
    app = limited(each, routes=lambda scope: scope["state"].get("route"))
    statuses = [
        (await ask(app, state={"route": one} if one else {})).status
        for one in ("a", "a", "b", None, None)
    ]

    assert statuses == [200, 429, 200, 200, 429]


def test_a_rule_for_a_route_that_is_not_there_is_told(caplog):
    """A rule that will never hold is no silent one."""
    rule = Rate(name="login", limit=1, per=60, scope="client", routes=["POST /logn"])
    limiter = Limiter(MemoryQuotaStore(), rules=[rule])
    QuotaMiddleware(None, limiter=limiter, routes=RouteTable(["POST /login"]))

    assert "POST /logn" in caplog.text
