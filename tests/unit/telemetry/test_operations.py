"""
Business operations: timed, counted, and a span where there is one.
"""

from __future__ import annotations

import asyncio
import importlib
import re
from types import SimpleNamespace

import pytest

from tests.support.client_spans import Spans, in_request
from twh_platform import Tenant, bind_tenant
from twh_platform._asgi import RESOLUTION
from twh_platform.errors import (
    AdministratorError,
    BackendUnavailableError,
    ConfigurationError,
    CredentialsError,
    NoCurrentTenantError,
    QuotaCostError,
    QuotaExceededError,
    TenantMismatchError,
    WebhookError,
    WebhookUsageError,
)
from twh_platform.telemetry import Registry
from twh_platform.telemetry._operations import Operations, current_operation


def _counts(registry):
    found = re.findall(
        r'operation_duration_seconds_count\{operation="(.*?)",outcome="(.*?)"\} (\d+)',
        registry.page().decode(),
    )
    return {(name, outcome): int(count) for name, outcome, count in found}


async def test_functions_of_both_kinds_are_timed():
    """By their outcome, and they return what they return."""
    registry = Registry()
    operation = Operations(registry)

    @operation("order.place")
    async def place(number):
        """Doc."""
        return number, current_operation()

    @operation("order.refund")
    def refund():
        raise LookupError

    assert [await place(7), await place(8)] == [(7, "order.place"), (8, "order.place")]
    with pytest.raises(LookupError):
        refund()
    assert place.__doc__ == "Doc."
    assert _counts(registry) == {("order.place", "success"): 2, ("order.refund", "error"): 1}


async def test_one_function_runs_many_times_at_once():
    """Each call is an operation of its own."""
    registry = Registry()

    @Operations(registry)("order.place")
    async def place():
        await asyncio.sleep(0)
        return current_operation()

    assert await asyncio.gather(*(place() for _ in range(20))) == ["order.place"] * 20
    assert _counts(registry) == {("order.place", "success"): 20}


async def test_cancelling_is_no_error():
    """It is an outcome of its own."""
    registry = Registry()

    with pytest.raises(asyncio.CancelledError), Operations(registry)("order.place"):
        raise asyncio.CancelledError

    assert _counts(registry) == {("order.place", "cancelled"): 1}


def test_a_figure_counts_successes():
    """And nothing else."""
    registry = Registry()
    orders = registry.counter("orders_total", "Orders.", labels=("kind",))
    operation = Operations(registry)

    with operation("order.place", counter=orders.labels("shop")):
        pass
    with pytest.raises(LookupError), operation("order.place", counter=orders.labels("shop")):
        raise LookupError

    assert b'orders_total{kind="shop"} 1.0\n' in registry.page()


def test_operations_nest():
    """Inside is the inner one, afterwards the outer one."""
    operation = Operations()

    with operation("order.place"):
        with operation("stock.take"):
            assert current_operation() == "stock.take"
        assert current_operation() == "order.place"
    assert current_operation() == ""


@pytest.mark.parametrize("name", ["", "Order", "order place", "order.", "a" * 65, "order.{id}"])
def test_names_are_out_of_a_closed_list(name):
    """What is no name is refused when the service is put together."""
    with pytest.raises(ConfigurationError):
        Operations()(name)


def test_generators_are_refused():
    """Their call is over before their work begins."""

    def numbers():
        yield 1

    with pytest.raises(ConfigurationError, match="generator"):
        Operations()("order.list")(numbers)


async def test_an_operation_in_a_request_is_a_span_of_it():
    """Below the SERVER span, which says the outermost operation; errors without their text."""
    pytest.importorskip("opentelemetry.sdk")
    from tests.support.spans import Watch, answering, call

    watch = Watch()
    operation = Operations(spans=watch.telemetry.tracing)

    async def app(scope, receive, send):
        with operation("order.place"), pytest.raises(LookupError), operation("stock.take"):
            raise LookupError("secret")
        await answering(scope, receive, send)

    await call(watch.around(app))

    take, place, server = watch.spans
    assert (take.name, place.name) == ("stock.take", "order.place")
    assert take.parent.span_id == place.context.span_id
    assert place.parent.span_id == server.context.span_id
    assert server.attributes["platform.operation"] == "order.place"
    assert take.attributes["error.type"] == "LookupError"
    assert "secret" not in take.to_json()


async def test_an_operation_in_a_request_that_is_not_sampled_is_none():
    """It is counted all the same."""
    pytest.importorskip("opentelemetry.sdk")
    from tests.support.spans import Watch, answering, call

    watch, registry = Watch(ratio=0.0), Registry()
    operation = Operations(registry, spans=watch.telemetry.tracing)

    async def app(scope, receive, send):
        with operation("order.place"):
            await answering(scope, receive, send)

    await call(watch.around(app))

    assert watch.spans == ()
    assert _counts(registry) == {("order.place", "success"): 1}


class HTTPException(Exception):  # noqa: N818 -- as frameworks call it
    """What frameworks answer with its status."""

    def __init__(self, status, name="status_code") -> None:
        setattr(self, name, status)


class NotFound(HTTPException):
    """One of Werkzeug's, which says its status as a code."""

    code = 404


class UpstreamError(Exception):
    """A client's error for what it was answered: not our caller's fault."""

    status_code = 404


class StockShort(Exception):  # noqa: N818 -- a domain's word
    """What is told to `Operations`."""


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (QuotaExceededError(), "refused"),
        (QuotaCostError(), "refused"),
        (TenantMismatchError(), "refused"),
        (CredentialsError(), "refused"),
        (WebhookError(), "refused"),
        (HTTPException(409), "refused"),
        (NotFound(404, "description"), "refused"),
        (StockShort(), "refused"),
        (HTTPException(503), "error"),
        (HTTPException("409"), "error"),
        (UpstreamError(), "error"),
        (BackendUnavailableError(), "error"),
        (ConfigurationError(), "error"),
        (NoCurrentTenantError(), "error"),
        (AdministratorError(), "error"),
        (WebhookUsageError(), "error"),
        (LookupError(), "error"),
    ],
)
def test_what_is_the_callers_fault_is_refused(error, outcome):
    """And is no error; what our own code did wrong is one, as are others' answers to us."""
    registry = Registry()
    operation = Operations(registry, refusals=[StockShort])

    with pytest.raises(type(error)), operation("order.place"):
        raise error

    assert _counts(registry) == {("order.place", outcome): 1}


@pytest.mark.parametrize("framework", ["starlette", "fastapi", "litestar", "aiohttp", "werkzeug"])
def test_the_exceptions_of_frameworks_are_known(framework):
    """The ones that answer a client's fault, of each of them."""
    pytest.importorskip(framework)
    if framework == "litestar":
        from litestar.exceptions import NotFoundException

        error: Exception = NotFoundException()
    elif framework == "aiohttp":
        from aiohttp.web import HTTPNotFound

        error = HTTPNotFound()
    elif framework == "werkzeug":
        from werkzeug.exceptions import NotFound as WerkzeugNotFound

        error = WerkzeugNotFound()
    else:
        error = importlib.import_module(f"{framework}.exceptions").HTTPException(404)
    registry = Registry()

    with pytest.raises(type(error)), Operations(registry)("order.place"):
        raise error

    assert _counts(registry) == {("order.place", "refused"): 1}


async def test_a_refusal_is_no_error_of_a_span():
    """It says its outcome; the control beside it, that failed, its error."""
    pytest.importorskip("opentelemetry.sdk")
    from tests.support.spans import Watch, answering, call

    watch = Watch()
    operation = Operations(spans=watch.telemetry.tracing)

    async def app(scope, receive, send):
        for error in (QuotaExceededError(), LookupError()):
            with pytest.raises(type(error)), operation("order.place"):
                raise error
        await answering(scope, receive, send)

    await call(watch.around(app))

    refused, failed, _ = watch.spans
    assert (refused.status.is_unset, failed.status.is_ok or failed.status.is_unset) == (True, False)
    assert refused.attributes["platform.outcome"] == "refused"
    assert "error.type" not in refused.attributes
    assert failed.attributes["error.type"] == "LookupError"


def test_an_operation_says_for_whom_it_was():
    """The tenant that is bound, and the user of the request if that is the request's tenant."""
    spans, said = Spans(), {"platform.operation": "order.place"}
    operation = Operations(spans=spans)
    with in_request() as exchange:
        exchange.seen[RESOLUTION] = SimpleNamespace(tenant=Tenant(id="acme"), user_id="ada")
        for tenant_id in ("acme", "globex"):
            with bind_tenant(Tenant(id=tenant_id)), operation("order.place"):
                pass

    own, other = spans.made
    assert own.attributes == {**said, "tenant.id": "acme", "enduser.id": "ada"}
    assert other.attributes == {**said, "tenant.id": "globex"}
