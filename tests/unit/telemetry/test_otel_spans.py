"""
SERVER spans: what they say, when they end, whose ids they have.
"""

from __future__ import annotations

import asyncio
import sys
from contextvars import ContextVar

import pytest

pytest.importorskip("opentelemetry.sdk")

from opentelemetry import baggage, trace
from opentelemetry.context import Context
from opentelemetry.context.contextvars_context import ContextVarsRuntimeContext
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, StatusCode

from tests.support.spans import Watch, answering, call
from twh_platform._asgi import RESOLUTION
from twh_platform.errors import ConfigurationError
from twh_platform.telemetry import (
    ClientCalls,
    HeadSampler,
    Keep,
    Registry,
    TrustBoundary,
    set_route,
)
from twh_platform.telemetry._exchange import current_exchange
from twh_platform.telemetry._middleware import TelemetryMiddleware
from twh_platform.telemetry.otel import OtelTracing

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = (b"traceparent", f"00-{TRACE}-{SPAN}-01".encode())
PEER = ("10.1.2.3", 4711)
trusting = TrustBoundary(networks=["10.0.0.0/8"])


async def test_a_span_says_what_the_conventions_ask_for():
    """Names of semantic conventions 1.44, with the route and no path in the name."""
    watch = Watch()

    async def app(scope, receive, send):
        set_route("/items/{id}")
        await answering(scope, receive, send)

    await call(watch.around(app), "/items/7", query=b"a=1", headers=[(b"user-agent", b"curl")])

    assert (watch.span.name, watch.span.kind) == ("GET /items/{id}", SpanKind.SERVER)
    assert (
        dict(watch.span.attributes).items()
        >= {
            "http.request.method": "GET",
            "http.route": "/items/{id}",
            "http.response.status_code": 200,
            "url.path": "/items/7",
            "url.query": "a=1",
            "url.scheme": "http",
            "server.address": "shop.example",
            "server.port": 80,
            "client.address": "203.0.113.9",
            "network.protocol.version": "1.1",
            "user_agent.original": "curl",
        }.items()
    )
    assert watch.span.status.status_code is StatusCode.UNSET


async def test_an_odd_method_is_no_name():
    """The name is HTTP, the method _OTHER, and what was sent stands beside it."""
    watch = Watch()

    await call(watch.around(answering), "/x", method="BREW")

    assert watch.span.name == "HTTP"
    assert watch.span.attributes["http.request.method"] == "_OTHER"
    assert watch.span.attributes["http.request.method_original"] == "BREW"


async def test_the_ids_are_the_exchanges():
    """What the log said from the first line on is what the span is called."""
    watch, seen = Watch(), []

    async def app(scope, receive, send):
        exchange = current_exchange()
        seen.append((exchange.trace_id, exchange.span_id))
        await answering(scope, receive, send)

    await call(watch.around(app))

    context = watch.span.context
    assert seen == [(f"{context.trace_id:032x}", f"{context.span_id:016x}")]


async def test_the_duration_is_the_exchanges():
    """Span and metric agree to the nanosecond: there is one clock and one end."""
    watch, ended = Watch(), []

    await call(watch.around(answering, access=ended.append))

    length = watch.span.end_time - watch.span.start_time
    assert length == round(ended[0].duration * 1e9)


async def test_a_trusted_peer_is_the_parent():
    """With its trace, its state, and its decision, whatever the ratio is."""
    watch = Watch(ratio=0.0, trust=trusting)
    sent = [PARENT, (b"tracestate", b"congo=1")]

    await call(watch.around(answering), headers=sent, client=PEER)

    span = watch.span
    assert f"{span.context.trace_id:032x}-{span.parent.span_id:016x}" == f"{TRACE}-{SPAN}"
    assert span.parent.is_remote
    assert span.context.trace_state.to_header() == "congo=1"


async def test_a_stranger_is_a_link():
    """A new root points at what was sent."""
    watch = Watch(trust=trusting)

    await call(watch.around(answering), headers=[PARENT])

    (link,) = watch.span.links
    assert watch.span.parent is None
    assert f"{watch.span.context.trace_id:032x}" != TRACE
    assert f"{link.context.trace_id:032x}-{link.context.span_id:016x}" == f"{TRACE}-{SPAN}"


async def test_what_is_not_sampled_makes_no_span_and_has_ids():
    """Instrumentation inside records nothing, and sends the right ids on."""
    watch, seen = Watch(ratio=0.0), []
    tracer = watch.telemetry.provider.get_tracer("inside")

    async def app(scope, receive, send):
        exchange = current_exchange()
        with tracer.start_as_current_span("child") as child:
            own = child.get_span_context()
            seen.append((exchange.trace_id == f"{own.trace_id:032x}", child.is_recording()))
        current = trace.get_current_span().get_span_context()
        seen.append(exchange.span_id == f"{current.span_id:016x}")
        await answering(scope, receive, send)

    await call(watch.around(app))

    assert seen == [(True, False), True]
    assert watch.spans == ()


async def test_a_child_of_a_sampled_request_is_below_it():
    """Spans of others find ours as the current one."""
    watch = Watch()
    tracer = watch.telemetry.provider.get_tracer("inside")

    async def app(scope, receive, send):
        with tracer.start_as_current_span("child"):
            pass
        await answering(scope, receive, send)

    await call(watch.around(app))

    child, server = watch.spans
    assert child.parent.span_id == server.context.span_id
    assert child.context.trace_id == server.context.trace_id


async def test_an_error_is_an_event_without_its_text():
    """The class is told; the message may hold a secret."""
    watch = Watch()

    async def app(scope, receive, send):
        raise ValueError("password=hunter2")

    with pytest.raises(ValueError, match="hunter2"):
        await call(watch.around(app))

    (event,) = watch.span.events
    assert watch.span.status.status_code is StatusCode.ERROR
    assert watch.span.attributes["error.type"] == "ValueError"
    assert dict(event.attributes) == {"exception.type": "ValueError"}
    assert "hunter2" not in watch.span.to_json()


async def test_texts_and_traces_of_errors_are_there_on_request():
    """Where the owner says that they hold no secrets."""
    watch = Watch(tracing={"messages": True, "traces": True})

    async def app(scope, receive, send):
        odd(30)

    def odd(depth):
        if not depth:
            raise ValueError("seven")
        even(depth - 1)

    def even(depth):
        if not depth:
            raise ValueError("seven")
        odd(depth - 1)

    with pytest.raises(ValueError, match="seven"):
        await call(watch.around(app))

    (event,) = watch.span.events
    assert event.attributes["exception.message"] == "seven"
    assert len(event.attributes["exception.stacktrace"]) > 2_400  # not cut as other texts are
    assert "in app" in event.attributes["exception.stacktrace"]
    assert "seven" in event.attributes["exception.stacktrace"]  # of the source line


async def test_a_client_that_leaves_is_no_error():
    """The status stays unset, there is no error.type, and the outcome says it."""
    watch = Watch()

    async def app(scope, receive, send):
        asyncio.current_task().cancel()
        await asyncio.sleep(0)

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(call(watch.around(app)))

    assert watch.span.status.status_code is StatusCode.UNSET
    assert watch.span.attributes["platform.outcome"] == "client_disconnect"
    assert "error.type" not in watch.span.attributes


async def test_tenant_and_user_are_told():
    """The verified ones, as they are known at the end."""
    watch = Watch()

    class Tenant:
        id = "acme"

    class Resolution:
        tenant, user_id = Tenant(), "u-7"

    async def app(scope, receive, send):
        scope[RESOLUTION] = Resolution()
        await answering(scope, receive, send)

    await call(watch.around(app))

    assert watch.span.attributes["tenant.id"] == "acme"
    assert watch.span.attributes["enduser.id"] == "u-7"


async def test_headers_are_told_only_if_named():
    """Each as a list; what is a secret, or no header, cannot be named."""
    watch = Watch(tracing={"request_headers": ["X-Shop"], "response_headers": ["x-of"]})

    await call(watch.around(answering), headers=[(b"x-shop", b"7"), (b"x-not", b"8")])

    assert list(watch.span.attributes["http.request.header.x-shop"]) == ["7"]
    assert list(watch.span.attributes["http.response.header.x-of"]) == ["us"]
    assert "http.request.header.x-not" not in watch.span.attributes
    for wrong in ("Authorization", "cookie", "x shop", "é"):
        with pytest.raises(ConfigurationError):
            OtelTracing(request_headers=[wrong])


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (b"sig=abc&a=1", "sig=REDACTED&a=1"),
        (b"X-Amz-Signature=abc", "X-Amz-Signature=REDACTED"),
        (b"SIGNATURE=abc", "SIGNATURE=REDACTED"),
        (b"%73ig=abc", "%73ig=REDACTED"),
        (b"to%6ben=a&token=b&token=", "to%6ben=REDACTED&token=REDACTED&token=REDACTED"),
        (b"+token=abc", "+token=REDACTED"),
        (b"a=token&b", "a=token&b"),
        (b"invoice=7", "invoice=REDACTED"),
        (b"accessToken=a&auth-token=b", "accessToken=REDACTED&auth-token=REDACTED"),
        (b"x-api-key=a&user[password]=b", "x-api-key=REDACTED&user[password]=REDACTED"),
        (b"new_password1=a&token%00=b", "new_password1=REDACTED&token%00=REDACTED"),
        (b"SAMLResponse=a&client_assertion=b", "SAMLResponse=REDACTED&client_assertion=REDACTED"),
        (b"code_verifier=a&otp=1&hmac=b", "code_verifier=REDACTED&otp=REDACTED&hmac=REDACTED"),
        (b"a=1;token=b;c&d=2", "a=1;token=REDACTED&d=2"),
        (b"keyword=a&page=2&encoding=x", "keyword=a&page=2&encoding=x"),
    ],
)
async def test_secrets_in_a_query_are_not_told(sent, told):
    """However their names are written; the names stay."""
    watch = Watch(tracing={"secret_names": ["Invoice"]})

    await call(watch.around(answering), query=sent)

    assert watch.span.attributes["url.query"] == told


async def test_texts_that_utf8_cannot_say_do_not_cost_the_batch():
    """A lone surrogate in the path of one request leaves the spans of the others alone."""
    watch = Watch(tracing={"request_headers": ["x-a"]})

    await call(watch.around(answering), "/\ud800" + "x" * 5000, headers=[(b"x-a", b"\xff\x00")])

    path = watch.span.attributes["url.path"]
    assert len(path.encode()) == 1024
    watch.span.attributes["http.request.header.x-a"][0].encode()


async def test_an_error_is_kept_with_the_ids_it_had():
    """A request that was not sampled gets its span afterwards."""
    watch, seen = Watch(ratio=0.0), []

    async def app(scope, receive, send):
        seen.append(f"{current_exchange().trace_id}-{current_exchange().span_id}")
        raise LookupError

    with pytest.raises(LookupError):
        await call(watch.around(app), headers=[PARENT])

    span = watch.span
    assert seen == [f"{span.context.trace_id:032x}-{span.context.span_id:016x}"]
    assert (span.kind, span.status.status_code) == (SpanKind.SERVER, StatusCode.ERROR)
    assert span.attributes["platform.kept"] == "error"
    assert [event.name for event in span.events] == ["exception"]
    assert len(span.links) == 1


async def test_a_slow_request_is_kept():
    """From the first clock to the end of the same."""
    watch, ended = Watch(ratio=0.0), []
    sampler = HeadSampler(ratio=0.0, keep=Keep(slow=0.0))

    await call(watch.around(answering, sampler=sampler, access=ended.append))

    span = watch.span
    assert span.attributes["platform.kept"] == "slow"
    assert span.end_time - span.start_time == round(ended[0].duration * 1e9)


async def test_baggage_of_a_trusted_peer_is_there_for_others():
    """Sampled or not, without the tenant; a stranger's is not."""
    watch, seen = Watch(ratio=0.0, trust=trusting), []

    async def app(scope, receive, send):
        seen.append(dict(baggage.get_all()))
        await answering(scope, receive, send)

    for client in (PEER, ("203.0.113.9", 1)):
        sent = [(b"baggage", b"flag=new%20one,tenant.id=victim")]
        await call(watch.around(app), headers=sent, client=client)

    assert seen == [{"flag": "new one"}, {}]


async def test_what_was_current_before_is_so_again():
    """Nothing of a request is left behind."""
    for ratio in (0.0, 1.0):
        await call(Watch(ratio=ratio).around(answering))

        assert trace.get_current_span() is trace.INVALID_SPAN
        assert current_exchange() is None


async def test_a_foreign_provider_gives_the_ids():
    """Its span's ids are what the exchange has from the start."""
    memory, provider, seen = InMemorySpanExporter(), TracerProvider(), []
    provider.add_span_processor(SimpleSpanProcessor(memory))

    async def app(scope, receive, send):
        seen.append(f"{current_exchange().trace_id}-{current_exchange().span_id}")
        await answering(scope, receive, send)

    tracing = OtelTracing(provider)
    await call(TelemetryMiddleware(app, tracing=tracing, sampler=HeadSampler(ratio=1.0)))

    (span,) = memory.get_finished_spans()
    assert seen == [f"{span.context.trace_id:032x}-{span.context.span_id:016x}"]


async def test_a_foreign_sampler_is_asked_as_well():
    """What it does not want is not sampled, and can still be kept."""
    memory, provider, ended = InMemorySpanExporter(), TracerProvider(ALWAYS_OFF), []
    provider.add_span_processor(SimpleSpanProcessor(memory))
    sampler = HeadSampler(ratio=1.0, keep=Keep(slow=0.0))
    tracing = OtelTracing(provider)

    await call(
        TelemetryMiddleware(answering, tracing=tracing, sampler=sampler, access=ended.append)
    )

    (span,) = memory.get_finished_spans()
    assert (ended[0].sampled, ended[0].kept) == (False, "slow")
    assert f"{span.context.span_id:016x}" == ended[0].span_id


async def test_a_failing_processor_fails_no_request():
    """It is counted, logged now and then, and the answer is given."""
    watch = Watch()

    class Broken(SimpleSpanProcessor):
        def on_start(self, span, parent_context=None):
            raise RuntimeError

    watch.telemetry.provider.add_span_processor(Broken(watch.memory))
    sent = await call(watch.around(answering))

    assert len(sent) == 2
    assert watch.telemetry.tracing.failures == 1


async def test_a_forged_flag_samples_nothing():
    """A stranger's -01 costs nothing; a sampler that believes its parent pays for each."""
    watch, control = Watch(ratio=0.01), ParentBased(TraceIdRatioBased(0.01))
    app = watch.around(answering)

    for number in range(300):
        sent = f"00-{number + 1:032x}-{SPAN}-01".encode()
        await call(app, headers=[(b"traceparent", sent)])

    remote = trace.SpanContext(1, 1, is_remote=True, trace_flags=trace.TraceFlags(1))
    parent = trace.set_span_in_context(trace.NonRecordingSpan(remote))
    assert control.should_sample(parent, 1, "GET").decision.is_sampled()
    assert len(watch.spans) < 30


async def test_a_websocket_is_one_span():
    """However many messages it has: they are attributes."""
    watch, waiting = Watch(), [{"type": "websocket.connect"}]
    waiting += [{"type": "websocket.receive", "text": "x"}] * 20
    waiting += [{"type": "websocket.disconnect", "code": 1000}]
    inbox = iter(waiting)

    async def receive():
        return next(inbox)

    async def send(message):
        pass

    async def echo(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": "x"})

    await watch.around(echo)({"type": "websocket", "path": "/", "headers": []}, receive, send)

    attributes = dict(watch.span.attributes)
    assert watch.span.name == "WS"
    assert attributes["websocket.messages.received"] == 20
    assert attributes["websocket.close_code"] == 1000
    assert attributes["http.response.status_code"] == 101


async def test_a_route_that_utf8_cannot_say_can_be_exported():
    """In the span's name and among its attributes."""
    watch = Watch()

    async def app(scope, receive, send):
        set_route("/x\ud800")
        await answering(scope, receive, send)

    await call(watch.around(app))

    assert (watch.span.name, watch.span.attributes["http.route"]) == ("GET /x?", "/x?")


@pytest.mark.parametrize("messages", [False, True])
async def test_an_error_without_words_has_its_span(messages):
    """Its own __str__ raises: the control fails, and the type is told all the same."""

    class MuteError(Exception):
        def __str__(self):
            raise LookupError

    async def app(scope, receive, send):
        raise MuteError

    watch = Watch(tracing={"messages": messages})
    with pytest.raises(LookupError):
        str(MuteError())
    with pytest.raises(MuteError):
        await call(watch.around(app))

    (event,) = watch.span.events
    assert event.attributes["exception.type"].endswith("MuteError")
    assert event.attributes.get("exception.message", "") == ""
    assert watch.telemetry.tracing.failures == 0


@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize("contrib", [False, True])
async def test_a_server_started_in_a_span_that_is_not_recorded(contrib, status, monkeypatch):
    """Each request has a trace of its own, and is recorded; a span of contrib's is looked for."""
    if contrib:
        pytest.importorskip("opentelemetry.instrumentation.asgi")
    else:
        monkeypatch.delitem(sys.modules, "opentelemetry.instrumentation.asgi", raising=False)
    watch = Watch()

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    watched = watch.around(app)
    boot = trace.NonRecordingSpan(trace.SpanContext(0x1234, 0x77, is_remote=False))
    with trace.use_span(boot):
        for _ in range(10):
            await call(watched)

    expected = 9 if contrib and status == 200 else 10  # the first might be contrib's
    assert len({span.context.trace_id for span in watch.spans}) == expected
    assert len({span.context.span_id for span in watch.spans}) == expected


def _off(monkeypatch, kind):
    if kind == "no-op":
        return trace.NoOpTracerProvider()
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(_Never()))
    return provider


class _Never(InMemorySpanExporter):
    def export(self, spans):
        raise AssertionError


@pytest.mark.parametrize("kind", ["no-op", "disabled"])
@pytest.mark.parametrize("status", [200, 500])
async def test_a_provider_that_is_switched_off(kind, status, monkeypatch, caplog):
    """A request keeps its ids and records nothing, at its end neither; calls below it go well."""
    tracing, seen = OtelTracing(_off(monkeypatch, kind)), []
    calls = ClientCalls(Registry(), spans=tracing, trust=TrustBoundary(hosts=["stock.example"]))

    async def app(scope, receive, send):
        request = calls.request("GET", "stock.example", 443, "https")
        seen.append(calls.outbound_headers(request, "stock.example")["traceparent"])
        request.end(200)
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    sampler = HeadSampler(ratio=1.0, keep=Keep())
    ended = []
    options = {"sampler": sampler, "trust": trusting, "access": ended.append}
    await call(TelemetryMiddleware(app, tracing=tracing, **options), headers=[PARENT], client=PEER)

    assert seen == [f"00-{TRACE}-{ended[0].span_id}-00"]
    assert ended[0].span_id != SPAN
    assert (ended[0].sampled, ended[0].kept, tracing.failures) == (False, "", 0)
    assert not caplog.records


def test_outside_of_requests_a_provider_that_is_switched_off():
    """There is no span below nothing: what would have none of the ids is not begun."""
    tracing = OtelTracing(trace.NoOpTracerProvider())
    calls = ClientCalls(Registry(), spans=tracing, trust=TrustBoundary(hosts=["stock.example"]))

    calls.database("postgresql", "SELECT").end()
    request = calls.request("GET", "stock.example", 443, "https")

    assert tracing.begin("order") is None
    assert calls.outbound_headers(request, "stock.example") == {}


class Stack:
    """A context that is kept in a list."""

    def __init__(self):
        self.attached, self.stack = 0, [Context()]

    def get_current(self):
        """The last one."""
        return self.stack[-1]

    def attach(self, context):
        """Put it on top."""
        self.attached += 1
        self.stack.append(context)
        return len(self.stack) - 1

    def detach(self, token):
        """Take it off again."""
        del self.stack[token:]


class Pairs(ContextVarsRuntimeContext):
    """A context that is kept in a ContextVar, among other things."""

    def __init__(self):
        self.attached, self.variable = 0, ContextVar("pairs")

    def get_current(self):
        """The first of the pair."""
        return self.variable.get((Context(), None))[0]

    def attach(self, context):
        """Keep it as the first of a pair."""
        self.attached += 1
        return self.variable.set((context, None))

    def detach(self, token):
        """Keep what was before."""
        self.variable.reset(token)


@pytest.mark.parametrize("make", [Stack, Pairs])
@pytest.mark.parametrize("ratio", [0.0, 1.0])
async def test_a_context_of_another_make(make, ratio, monkeypatch):
    """Whoever keeps the current context in another way is asked by way of the API."""
    runtime = make()
    monkeypatch.setattr("opentelemetry.context._RUNTIME_CONTEXT", runtime)
    watch, seen = Watch(ratio=ratio), []
    before = runtime.attached

    async def app(scope, receive, send):
        seen.append((current_exchange().trace_id, trace.get_current_span().get_span_context()))
        await answering(scope, receive, send)

    await call(watch.around(app))

    ((trace_id, own),) = seen
    assert int(trace_id, 16) == own.trace_id
    assert runtime.attached > before
    assert runtime.get_current() == {}
