"""
Gate G5: one effect for one webhook, with replicas that race and replicas that die.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("psycopg_pool")

import psycopg

from tests.support.postgres_webhooks import APP, OWNER, tenant_pool, webhooks_database
from tests.support.serving import eventually
from tests.support.webhook_payer import HOW
from tests.support.webhooks import BODY, SECRET, App, deliver, signed_headers
from twh_platform.errors import (
    BackendUnavailableError,
    ConfigurationError,
    NoCurrentTenantError,
    WebhookError,
)
from twh_platform.tenancy import Tenant, bind_tenant, unbind_tenant
from twh_platform.tenancy.postgres.psycopg import TenantConnection
from twh_platform.webhooks import (
    ClaimState,
    Delivery,
    Replay,
    Retention,
    WebhookEndpoint,
    WebhookMiddleware,
    webhook_delivery,
)
from twh_platform.webhooks.postgres import webhooks_sql
from twh_platform.webhooks.postgres.psycopg import claim_in, claim_in_async, purge_in
from twh_platform.webhooks.postgres.store import PostgresReplayStore

ROOT = Path(__file__).parents[3]
SHORT = Retention(ttl=0.01, horizon=0, window=0, skew=0)


@pytest.fixture
def database(request):
    """Empty tables."""
    return webhooks_database(request)


@pytest.fixture
def dsn(database) -> str:
    """Where the application logs in."""
    return database.dsn(user=APP)


@pytest.fixture(autouse=True)
def acme() -> Iterator[None]:
    """The tenant whose turn it is."""
    with bind_tenant(Tenant(id="acme")):
        yield


@pytest.fixture
def delivery() -> Delivery:
    """A webhook that was verified."""
    return Delivery(key=secrets.token_bytes(32), fingerprint=secrets.token_bytes(32))


def paid(database, delivery: Delivery | None = None) -> int:
    """How often the effect is there, as the superuser sees it."""
    with psycopg.connect(database.dsn()) as connection:
        query = "SELECT count(*) FROM twh.payments WHERE %s OR event = %s"
        key = "" if delivery is None else delivery.key.hex()
        return connection.execute(query, [delivery is None, key]).fetchone()[0]


@contextmanager
def replica(dsn: str, how: str, stop: str, delivery: Delivery) -> Iterator[subprocess.Popen[str]]:
    """A process that handles it; dead in the end."""
    arguments = [dsn, how, stop, delivery.key.hex(), delivery.fingerprint.hex()]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.webhook_payer", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ,
    )
    with process:
        yield process
        process.kill()


def crash_between(dsn: str, how: str, delivery: Delivery) -> None:
    """Handle it up to the second step, and die there."""
    with replica(dsn, how, "crash", delivery) as process:
        assert process.stdout.readline() == "between\n"


def retry(dsn: str, how: str, delivery: Delivery) -> str:
    """What a further attempt comes to, in this process."""
    try:
        return HOW[how](dsn, delivery, lambda: None)
    except WebhookError as error:
        return error.code


def test_a_crash_between_claim_and_commit(database, dsn, delivery):
    """Claim and effect go together: the retry handles it, and the next is a replay."""
    crash_between(dsn, "within", delivery)
    left = paid(database, delivery)

    assert left == 0
    assert [retry(dsn, "within", delivery) for _ in range(3)] == ["paid", "replayed", "replayed"]
    assert paid(database, delivery) == 1


def test_control_a_claim_before_the_effect_loses_it(database, dsn, delivery):
    """Control: the retry is taken for a replay, and the payment never happens."""
    crash_between(dsn, "before", delivery)

    assert retry(dsn, "before", delivery) == "replayed"
    assert paid(database, delivery) == 0


def test_control_a_claim_after_the_effect_repeats_it(database, dsn, delivery):
    """Control: the retry pays again."""
    crash_between(dsn, "after", delivery)

    assert retry(dsn, "after", delivery) == "paid"
    assert paid(database, delivery) == 2


async def test_the_bound_of_a_store_with_leases(database, dsn, delivery):
    """One effect more for each crash between effect and commit, and none is lost."""
    await asyncio.to_thread(crash_between, dsn, "leased", delivery)
    told = ["busy"]

    async def handled() -> bool:
        told.append(await asyncio.to_thread(retry, dsn, "leased", delivery))
        return told[-1] == "paid"

    await eventually(handled)

    assert await asyncio.to_thread(retry, dsn, "leased", delivery) == "replayed"
    assert paid(database, delivery) == 2


@pytest.mark.parametrize("how", ["within", "after"])
def test_replicas_that_race(database, dsn, how):
    """Eight at a time pay each of ten webhooks once; control: looking first does not."""
    deliveries = [Delivery(key=os.urandom(32), fingerprint=os.urandom(32)) for _ in range(10)]
    start = threading.Barrier(8)

    def race(_: int) -> list[str]:
        with bind_tenant(Tenant(id="acme")):
            told = []
            for one in deliveries:
                start.wait()
                told.append(retry(dsn, how, one))
            return told

    with ThreadPoolExecutor(8) as pool:
        told = [one for each in pool.map(race, range(8)) for one in each]

    once = [paid(database, one) for one in deliveries] == [1] * 10
    assert once is (how == "within")
    assert not once or told.count("paid") == 10


async def test_two_replicas_of_a_service(database, dsn):
    """Through the middleware: every delivery comes twice, to two pools at once."""
    headers = [signed_headers(event_id=f"evt_{number}") for number in range(20)]

    def service(pool) -> WebhookMiddleware:
        class Paying(App):
            async def answer(self, receive, send):
                scope = self.scopes.pop(0)
                async with pool.connection() as connection:
                    await claim(connection, webhook_delivery(scope))
                await super().answer(receive, send)

        return WebhookMiddleware(Paying(), SECRET, replay="handler")

    async def claim(connection, delivery) -> None:
        with suppress(WebhookError):
            await claim_in_async(connection, delivery)
            await pay(connection, delivery)

    async def pay(connection, delivery) -> None:
        statement = "INSERT INTO twh.payments (event) VALUES (%s)"
        await connection.execute(statement, [delivery.key.hex()])

    async with tenant_pool(database) as first, tenant_pool(database) as second:
        replicas = service(first), service(second)
        answers = await asyncio.gather(
            *(deliver(one, headers=each) for each in headers for one in replicas)
        )

    assert {one.status for one in answers} == {200}
    assert paid(database) == 20


def test_the_same_id_with_another_body(dsn, delivery):
    """It is a conflict, and the transaction can go on."""
    other = Delivery(key=delivery.key, fingerprint=bytes(32))
    retry(dsn, "within", delivery)
    with TenantConnection.connect(dsn) as connection:
        with pytest.raises(WebhookError) as refused:
            claim_in(connection, other)
        going = connection.execute("SELECT 1").fetchone()

    assert (refused.value.code, going) == ("id_conflict", (1,))


def test_a_rollback_gives_the_claim_back(database, dsn, delivery):
    """Also to a savepoint."""
    with TenantConnection.connect(dsn) as connection:
        with connection.transaction(force_rollback=True):
            claim_in(connection, delivery)
        claim_in(connection, delivery)
        connection.rollback()

    assert retry(dsn, "within", delivery) == "paid"


def test_tenants_are_apart(database, dsn, delivery):
    """Row-level security: what one has handled is nothing to another, nor to nobody."""
    retry(dsn, "within", delivery)
    with bind_tenant(Tenant(id="globex")), TenantConnection.connect(dsn) as connection:
        seen = connection.execute("SELECT count(*) FROM twh.webhook_claims").fetchone()
        claim_in(connection, delivery)
    with unbind_tenant(), pytest.raises(NoCurrentTenantError):
        retry(dsn, "within", delivery)

    assert seen == (0,)


def test_what_has_ended_is_claimed_anew_and_purged(dsn, delivery):
    """Past its time it is unknown; what is still remembered is not deleted."""
    kept = Delivery(key=bytes(32), fingerprint=bytes(32))
    with TenantConnection.connect(dsn) as connection:
        claim_in(connection, kept)
        for _ in range(2):
            claim_in(connection, delivery, retention=SHORT)
            connection.execute("SELECT pg_sleep(0.02)")
        counts = [purge_in(connection) for _ in range(2)]
        with pytest.raises(WebhookError):
            claim_in(connection, kept)

    assert counts == [1, 0]


def test_forgetting_before_a_signature_ends_is_refused(dsn, delivery):
    """Nothing is claimed then; with a longer memory it is, once."""
    lasting = replace(delivery, window=10 * 86_400)
    longer = Retention(ttl=11 * 86_400, window=10 * 86_400)
    with TenantConnection.connect(dsn) as connection:
        with pytest.raises(ConfigurationError) as refused:
            claim_in(connection, lasting)
        claim_in(connection, lasting, retention=longer)
        with pytest.raises(WebhookError):
            claim_in(connection, lasting, retention=longer)

    assert refused.value.code == "retention_too_short"


def test_the_sql_may_be_run_again(database):
    """A migration that is repeated changes nothing."""
    database.execute(webhooks_sql(role=APP), user=OWNER)


async def test_a_database_that_is_down_is_unavailable(database, delivery):
    """In bounded time, without the server's text; and the sender is asked to come again."""
    app = App()

    def nobody():
        return psycopg.AsyncConnection.connect("host=127.0.0.1 port=1 dbname=hidden")

    class Opening:
        async def __aenter__(self):
            return await nobody()

        async def __aexit__(self, *_):
            pass

    store = PostgresReplayStore(Opening)
    with pytest.raises(BackendUnavailableError) as down:
        await store.claim(delivery.key, delivery.fingerprint, lease=1, ttl=1)
    answer = await deliver(WebhookMiddleware(app, SECRET, replay=Replay(store=store)))

    assert (down.value.code, answer.status, app.scopes) == ("replay_store_unavailable", 503, [])
    assert "hidden" not in str(down.value)


async def test_the_store_in_the_middleware(database):
    """Claims are the tenant's whose endpoint it is; purging leaves what counts."""
    app, globex = App(), Tenant(id="globex")
    endpoint = WebhookEndpoint(keys=SECRET, id="orders", tenant=globex)
    headers = signed_headers(event_id="evt_1")
    async with tenant_pool(database) as pool:
        store = PostgresReplayStore(pool.connection, timeout=10)
        guarded = WebhookMiddleware(app, endpoint, replay=store)
        with unbind_tenant():
            statuses = [(await deliver(guarded, headers=headers)).status for _ in range(2)]
        known = webhook_delivery(app.scopes[0])
        with bind_tenant(globex):
            claim = await store.claim(known.key, known.fingerprint, lease=1, ttl=1)
            purged = await store.purge()

    assert (statuses, app.bodies, app.tenants) == ([200, 200], [BODY], ["globex"])
    assert (claim.state, purged) == (ClaimState.DONE, 0)
