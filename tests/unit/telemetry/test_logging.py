"""
Log lines that carry the ids of their request, and that nothing can cut in two.
"""

from __future__ import annotations

import asyncio
import json
import logging
import logging.handlers
import pickle
import queue
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, date, datetime
from uuid import UUID

import pytest

from tests.support.telemetry import Watched, answer, http
from twh_platform.telemetry import (
    AccessLog,
    JsonFormatter,
    TelemetryFilter,
    add_ids,
    current_exchange,
    set_route,
)
from twh_platform.tenancy import Tenant, bind_tenant

NAMES = ("trace_id", "span_id", "trace_sampled", "tenant_id", "user_id", "request_id")


class Lines(logging.Handler):
    """What a logger writes, formatted at once."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self.addFilter(TelemetryFilter())
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the line."""
        self.lines.append(self.format(record))

    def objects(self) -> list[dict]:
        """Each line read as JSON."""
        return [json.loads(line) for line in self.lines]


@pytest.fixture
def logger():
    """A logger of its own."""
    logger = logging.Logger("shop")  # noqa: LOG001 -- nobody else shall have it
    logger.setLevel(logging.DEBUG)
    return logger


@pytest.fixture
def lines(logger):
    """Its lines as JSON."""
    lines = Lines(JsonFormatter())
    logger.addHandler(lines)
    return lines


def logs(logger, *args, **more):
    """An app that writes a line."""

    async def app(scope, receive, send):
        logger.info(*args, **more)
        await answer()(scope, receive, send)

    return app


async def test_a_line_has_the_ids_of_its_request(logger, lines):
    """Those that the exchange has, in the places that OpenTelemetry gave them."""
    watched = Watched(logs(logger, "packed %d", 7))
    await watched.get()
    line, one = lines.objects()[0], watched.ended[0]

    assert line["body"] == "packed 7"
    assert (line["trace_id"], line["span_id"]) == (one.trace_id, one.span_id)
    assert line["trace_flags"] == "00"
    assert line["attributes"]["request.id"] == one.seen["twh.request_id"]


def test_a_line_outside_of_a_request_has_none(logger, lines):
    """Nothing is made up."""
    logger.warning("starting")
    line = lines.objects()[0]

    assert line.keys() == {"timestamp", "severity_text", "severity_number", "scope_name", "body"}
    assert (line["severity_text"], line["severity_number"]) == ("WARNING", 13)
    assert line["scope_name"] == "shop"
    assert datetime.fromisoformat(line["timestamp"]).utcoffset() == UTC.utcoffset(None)
    assert line["timestamp"].endswith("Z")


def test_the_tenant_that_is_bound_counts(logger, lines):
    """In a job, where no request is."""
    with bind_tenant(Tenant(id="acme")):
        logger.info("counted")

    assert lines.objects()[0]["attributes"] == {"tenant.id": "acme"}


def test_the_filter_gives_text_lines_their_ids(logger):
    """With a dash for what there is none of."""
    text = " ".join(f"%({name})s" for name in NAMES)
    lines = Lines(logging.Formatter(text))
    logger.addHandler(lines)
    logger.info("starting")
    with bind_tenant(Tenant(id="acme")):
        logger.info("counted")

    assert lines.lines == ["- - - - - -", "- - - acme - -"]


async def test_a_queue_keeps_the_ids_of_who_logged(logger):
    """The listener formats in another thread."""
    records: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    handler = logging.handlers.QueueHandler(records)
    handler.addFilter(TelemetryFilter())
    logger.addHandler(handler)
    watched = Watched(logs(logger, "packed"))
    await watched.get()
    record = pickle.loads(pickle.dumps(records.get()))
    assert TelemetryFilter().filter(record)
    line = await asyncio.to_thread(JsonFormatter().format, record)

    assert json.loads(line)["trace_id"] == watched.ended[0].trace_id
    assert "extra." not in line


SENT = {"trace_id": "f" * 32, "tenant_id": "victim", "tenant.id": "victim", "request.id": "forged"}


@pytest.mark.parametrize("filtered", [True, False])
async def test_no_extra_says_whose_line_it_is(filtered, logger, lines):
    """A service that logs what a client sent; control: a name that is not ours stays."""
    if not filtered:
        lines.filters.clear()
    watched = Watched(logs(logger, "bought", extra={**SENT, "order": 7}))
    with bind_tenant(Tenant(id="acme")):
        await watched.get()
    line, one = lines.objects()[0], watched.ended[0]

    assert (line["trace_id"], line["span_id"]) == (one.trace_id, one.span_id)
    attributes = line["attributes"]
    assert attributes.pop("request.id") == one.seen["twh.request_id"]
    assert attributes.pop("tenant.id") == "acme"
    assert attributes == {"order": 7, **{f"extra.{name}": SENT[name] for name in SENT}}


async def test_no_extra_says_whose_text_line_it_is(logger):
    """The same where the filter gives the ids to a text line; control: without it they do."""
    filtered, bare = (Lines(logging.Formatter("%(trace_id)s %(tenant_id)s")) for _ in range(2))
    bare.filters.clear()
    for handler in (bare, filtered):
        logger.addHandler(handler)
    watched = Watched(logs(logger, "bought", extra=SENT))
    await watched.get()

    assert bare.lines == [f"{'f' * 32} victim"]
    assert filtered.lines == [f"{watched.ended[0].trace_id} -"]


async def test_ids_of_structlog_that_come_as_extra_are_ours(logger, lines):
    """As `render_to_log_kwargs` hands them on: they say the same, and are said once."""

    async def app(scope, receive, send):
        logger.info("packed", extra=add_ids(None, "info", {"order": 7}))
        await answer()(scope, receive, send)

    watched = Watched(app)
    await watched.get()
    line = lines.objects()[0]

    assert line["trace_id"] == watched.ended[0].trace_id
    assert line["attributes"].keys() == {"order", "request.id"}


class Loud:
    """Something with a secret in its repr."""

    def __repr__(self) -> str:
        return "Loud(password='hunter2')"


class Broken:
    """Something that cannot be written."""

    def __str__(self) -> str:
        raise RuntimeError

    __repr__ = __str__


class Text(str):
    """A text that cannot be written."""

    __slots__ = ()
    __str__ = Broken.__str__


class Day(date):
    """A day that cannot be written."""

    __str__ = Broken.__str__


class Number(int):
    """A number without a size."""

    __abs__ = Broken.__str__


@dataclass
class Account:
    """A value whose fields nobody asked for."""

    password: str = "hunter2"


def endless() -> list:
    """A list in itself."""
    found: list = []
    found.append(found)
    return found


VALUES = [
    ("text", "text"),
    (7, 7),
    (True, True),
    (None, None),
    (1.5, 1.5),
    (float("nan"), "nan"),
    (float("inf"), "inf"),
    (10**5000, "<int>"),
    (b"hunter2", "<7 bytes>"),
    (Loud(), "<Loud>"),
    (Broken(), "<Broken>"),
    (Account(), "<Account>"),
    ([1, Loud(), {"a": Loud()}], [1, "<Loud>", {"a": "<Loud>"}]),
    ({Loud(): 1, 2: 3}, {"<Loud>": 1, "2": 3}),
    (UUID(int=7), "00000000-0000-0000-0000-000000000007"),
    (datetime(2026, 9, 20, tzinfo=UTC), "2026-09-20 00:00:00+00:00"),
    (Text("x"), "<Text>"),
    (Day(2026, 9, 20), "<Day>"),
    (Number(7), "<Number>"),
    ({"a": Number(7), "b": 1}, {"a": "<Number>", "b": 1}),
    ("a\ud800b", "a\ufffdb"),
    ("\ud83d\ude00", "\U0001f600"),
]


@pytest.mark.parametrize(("value", "written"), VALUES, ids=[str(at) for at in range(len(VALUES))])
def test_any_value_may_come_along(value, written, logger, lines):
    """What is no JSON shows its type; no repr is ever called."""
    logger.info("packed", extra={"field": value})

    assert lines.objects()[0]["attributes"] == {"field": written}
    assert "hunter2" not in lines.lines[0]


def test_deep_and_long_values_are_cut(logger, lines):
    """A line has an end."""
    logger.info("x" * 100_000, extra={"deep": endless(), "long": ["x" * 100_000] * 1000})
    line = lines.objects()[0]

    assert len(line["body"]) == 16_385
    assert len(line["attributes"]["long"]) == 100
    assert "<list>" in lines.lines[0]


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n", "\x0b", "\x1b[31m", "\x85", "\u2028", "\x00"])
def test_one_record_is_one_line(end, logger, lines):
    """Whoever's text it is: it begins no line, and paints nothing."""
    logger.info("user %s", f"x{end}INFO admin logged in", extra={f"a{end}b": f"c{end}d"})

    assert lines.lines[0].isascii()
    assert lines.lines[0].isprintable()
    assert lines.objects()[0]["body"] == f"user x{end}INFO admin logged in"


def test_an_exception_is_told_with_its_class(logger, lines):
    """In the attributes of the conventions."""
    try:
        int("no\nnumber")
    except ValueError:
        logger.exception("failed")
    attributes = lines.objects()[0]["attributes"]

    assert attributes["exception.type"] == "ValueError"
    assert attributes["exception.message"].endswith(r"'no\nnumber'")
    assert attributes["exception.stacktrace"].startswith("Traceback")


@pytest.mark.parametrize(
    ("message", "args"), [("%d items", ("many",)), ("%s", ()), (Broken(), ()), ("%s", (Broken(),))]
)
def test_wrong_arguments_do_not_cost_the_line(message, args, logger, lines):
    """What there is of it is written."""
    logger.info(message, *args)

    assert len(lines.objects()) == 1


def test_an_exception_that_cannot_be_written_is_its_class(logger, lines):
    """Its text raises."""
    error = type("Odd", (Exception,), {"__str__": Broken.__str__})()
    logger.error("failed", exc_info=error)

    assert lines.objects()[0]["attributes"]["exception.message"] == "<Odd>"


async def test_the_processor_says_whose_line_it_is():
    """What the caller said of that is shown under another name."""
    events = []

    async def app(scope, receive, send):
        events.append(add_ids(None, "info", {"event": "packed", "tenant_id": "globex"}))
        await answer()(scope, receive, send)

    watched = Watched(app)
    with bind_tenant(Tenant(id="acme")):
        await watched.get()

    assert (events[0]["tenant_id"], events[0]["extra.tenant_id"]) == ("acme", "globex")
    assert events[0]["trace_id"] == watched.ended[0].trace_id
    assert events[0]["request_id"]


async def test_structlog_takes_the_processor():
    """In its usual chain."""
    structlog = pytest.importorskip("structlog")
    out: list[str] = []

    class Logger:
        def msg(self, line: str) -> None:
            out.append(line)

        info = msg

    log = structlog.wrap_logger(Logger(), processors=[add_ids, structlog.processors.JSONRenderer()])

    async def app(scope, receive, send):
        log.info("packed", order=7)
        await answer()(scope, receive, send)

    watched = Watched(app)
    await watched.get()

    assert json.loads(out[0])["trace_id"] == watched.ended[0].trace_id
    assert json.loads(out[0])["order"] == 7


def test_structlog_is_not_imported():
    """The processor is a plain function."""
    code = "import sys, twh_platform.telemetry; print('structlog' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)

    assert found.stdout == b"False\n"


async def test_the_access_log_has_a_line_for_each_request(logger, lines):
    """Its text for people, and its fields for machines."""

    async def app(scope, receive, send):
        set_route("/items/{id}")
        await answer(404)(scope, receive, send)

    watched = Watched(app, access=AccessLog(logger))
    await watched.get(http("/items/secret-7", query_string=b"token=secret"))
    line = lines.objects()[0]

    assert line["body"].startswith("GET /items/{id} 404 client_error 0.")
    assert line["attributes"]["http.route"] == "/items/{id}"
    assert line["attributes"]["http.response.status_code"] == 404
    assert line["attributes"]["http.response.body.size"] == 2
    assert "secret" not in lines.lines[0]


async def test_the_access_log_has_the_ids_of_other_lines(logger, lines):
    """Those that the app's own lines had."""
    watched = Watched(logs(logger, "packed"), access=AccessLog(logger))
    await watched.get()
    first, second = lines.objects()

    for name in ("trace_id", "span_id", "trace_flags"):
        assert first[name] == second[name]
    assert first["attributes"]["request.id"] == second["attributes"]["request.id"]


@pytest.mark.parametrize("path", ["/a\nGET /admin 200", "/\x1b[2J", "/\ud800", "/a\u2028b"])
async def test_no_client_writes_a_line_of_its_own(path, logger):
    """Not even where the path is asked for."""
    lines = Lines(logging.Formatter("%(message)s %(tenant_id)s %(url.path)s"))
    logger.addHandler(lines)
    watched = Watched(answer(), access=AccessLog(logger, path=True))
    await watched.get(http(path, method="GE\nT"))

    assert lines.lines[0].startswith("_OTHER - 200 success")
    assert lines.lines[0].isprintable()


async def test_the_access_log_shows_who_left_and_what_failed(logger, lines):
    """A server error is an ERROR."""

    async def app(scope, receive, send):
        raise LookupError

    watched = Watched(app, access=AccessLog(logger, level=logging.DEBUG))
    with pytest.raises(LookupError):
        await watched.get()
    line = lines.objects()[0]

    assert line["severity_text"] == "ERROR"
    assert line["attributes"]["error.type"] == "LookupError"
    assert line["attributes"]["outcome"] == "server_error"


async def test_a_logger_that_is_off_costs_no_ids(logger):
    """Nothing is made for a line that nobody reads."""
    logger.setLevel(logging.ERROR)
    seen = []

    async def app(scope, receive, send):
        seen.append(current_exchange())
        await answer()(scope, receive, send)

    watched = Watched(app, access=AccessLog(logger))
    await watched.get()

    assert not seen[0]._trace_id
