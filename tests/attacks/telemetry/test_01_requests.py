"""
Attacks 1 to 8, 24 and 26: what a request makes middleware tell that is not so.
"""

from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("starlette")

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route

from tests.attacks.telemetry._peers import Contrib, Exporter, Instrumentator, drive
from tests.support.telemetry import Client, Watched, http

DURATION = "http_server_request_duration_seconds_count"
SIZE = "http_server_response_body_size_bytes"
LEFT = {"type": "http.disconnect"}


async def fixed(request):
    """A hundred bytes, declared."""
    return PlainTextResponse("x" * 100)


async def stream(request):
    """Ten bytes, not declared."""

    async def parts():
        yield b"x" * 10

    return StreamingResponse(parts())


async def late(request):
    """Work goes on after the answer."""
    return PlainTextResponse("x", background=BackgroundTask(asyncio.sleep, 0.2))


async def hangs(request):
    """Never answer."""
    await asyncio.Event().wait()


async def events(request):
    """An event, and then nothing for a long time."""

    async def parts():
        yield b"data: 1\n\n"
        await request.app.state.go_on.wait()

    return StreamingResponse(parts(), media_type="text/event-stream")


def site() -> Starlette:
    """An app of each kind."""
    inner = Route("/items/{id}", fixed)
    return Starlette(
        routes=[
            Route("/fixed", fixed, methods=["GET"]),
            Route("/any", PlainTextResponse("any")),  # an app: of every method
            Route("/stream", stream),
            Route("/late", late),
            Route("/hangs", hangs),
            Route("/events", events),
            Mount("/shops/{shop}", routes=[inner]),
        ]
    )


async def test_01_has_one_response_take_the_size_of_another(twh_attack):
    """Bytes are counted for each response; none is remembered by the middleware."""
    peer, watched = Contrib(site()), Watched(site())
    attack = twh_attack(number=1, title="has a response reported with the size of another")
    for path in ("/fixed", "/stream"):
        await drive(peer.app, http(path))
        await watched.get(http(path))
    told = sum(point.sum for point in peer.points("http.server.response.size"))
    attack.control(told - 110)

    attack.ours(int(watched.value(f"{SIZE}_sum")) - 110)


async def test_03_loses_the_route(twh_attack):
    """The whole template, also below a mount."""
    peer, watched = Contrib(site()), Watched(site())
    attack = twh_attack(number=3, title="reaches a route that telemetry has no name for")
    paths = ["/fixed", "/shops/7/items/8", "/shops/9/items/10"]
    for path in paths:
        await drive(peer.app, http(path))
        await watched.get(http(path))
    points = peer.points("http.server.duration")
    attack.control(sum(point.count for point in points if "http.route" not in point.attributes))

    assert watched.labels(DURATION, "http_route") == {"/fixed", "/shops/{shop}/items/{id}"}
    attack.ours(int(watched.value(DURATION, http_route="")))


async def test_04_stretches_a_request_by_work_in_the_background(twh_attack):
    """Metric and exchange end at the last part of the body."""
    peer, watched = Contrib(site()), Watched(site())
    attack = twh_attack(number=4, title="stretches the metric by work after the answer")
    await drive(peer.app, http("/late"))
    await watched.get(http("/late"))
    attack.control(sum(point.sum >= 200 for point in peer.points("http.server.duration")))

    attack.ours(int(watched.value("http_server_request_duration_seconds_sum") >= 0.2))
    assert watched.ended[0].duration < 0.2


async def test_05_makes_series_by_the_host_header(twh_attack):
    """A header of the client is no label."""
    peer, watched = Contrib(site()), Watched(site())
    attack = twh_attack(number=5, title="makes series by writing Host headers")
    for number in range(50):
        scope = http("/fixed", headers=[(b"host", b"h%d.example" % number)])
        await drive(peer.app, dict(scope))
        await watched.get(dict(scope))
    attack.control(len(peer.points("http.server.duration")) - 1)

    attack.ours(len(watched.labels(DURATION, "http_route")) - 1)
    assert b"h7.example" not in watched.registry.page()


@pytest.mark.parametrize("kind", ["instrumentator", "starlette_exporter"])
async def test_06_makes_series_by_methods_of_its_own(kind, twh_attack):
    """Methods are out of a closed list."""
    peer = Instrumentator(site()) if kind == "instrumentator" else Exporter(site())
    attack = twh_attack(number=6, title="makes series by odd methods", form=kind)
    name = "http_requests_total" if kind == "instrumentator" else "starlette_requests_total"
    watched = Watched(site())
    for number in range(50):
        await drive(peer.app, http("/any", method=f"ODD{number}"))
        await watched.get(http("/any", method=f"ODD{number}"))
    attack.control(len({labels["method"] for labels, _ in peer.samples(name)}) - 1)

    attack.ours(len(watched.labels(DURATION, "http_request_method")) - 1)
    assert watched.value(DURATION, http_request_method="_OTHER") == 50


async def cancelled(app, scope) -> None:
    """Serve it as a server does whose client leaves."""
    task = asyncio.create_task(drive(app, scope))
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("kind", ["instrumentator", "starlette_exporter"])
async def test_07_burns_the_error_budget_by_leaving(kind, twh_attack):
    """Who leaves is counted, and as no error."""
    peer = Instrumentator(site()) if kind == "instrumentator" else Exporter(site())
    attack = twh_attack(number=7, title="leaves, and is an error or nothing", form=kind)
    watched = Watched(site())
    for app in (peer.app, watched.app):
        await cancelled(app, http("/hangs"))
    if kind == "instrumentator":
        found = peer.samples("http_requests_total")
        attack.control(int(sum(value for labels, value in found if labels["status"] == "5xx")))
    else:
        attack.control(1 - int(sum(value for _, value in peer.samples("starlette_requests_total"))))

    assert [one[0] for one in watched.seen] == ["client_disconnect"]
    errors = watched.value(DURATION) - watched.value(DURATION, error_type="")
    attack.ours(int(errors) + 1 - int(watched.value(DURATION)))


async def test_08_scans_unseen(twh_attack):
    """What is not found is counted, without the path."""
    peer, watched = Exporter(site()), Watched(site())
    attack = twh_attack(number=8, title="scans for paths and is not counted")
    for number in range(20):
        await drive(peer.app, http(f"/.env.{number}"))
        await watched.get(http(f"/.env.{number}"))
    attack.control(20 - int(sum(value for _, value in peer.samples("starlette_requests_total"))))

    attack.ours(20 - int(watched.value(DURATION, http_response_status_code="404")))


async def test_24_makes_series_by_paths_that_are_not_there(twh_attack):
    """All of them share a label."""
    peer, watched = Exporter(site(), filter_unhandled_paths=False), Watched(site())
    attack = twh_attack(number=24, title="makes series by scanning for paths")
    for number in range(200):
        await drive(peer.app, http(f"/.env.{number}"))
        await watched.get(http(f"/.env.{number}"))
    paths = {labels["path"] for labels, _ in peer.samples("starlette_requests_total")}
    attack.control(len(paths) - 1)

    attack.ours(len(watched.labels(DURATION, "http_route")) - 1)
    assert b".env" not in watched.registry.page()


@pytest.mark.parametrize("kind", ["instrumentator", "starlette_exporter"])
async def test_26_keeps_a_stream_open_unseen(kind, twh_attack):
    """An event stream is told while it is open, and is in no histogram of requests."""
    peer = Instrumentator(site()) if kind == "instrumentator" else Exporter(site())
    attack = twh_attack(number=26, title="keeps an event stream open unseen", form=kind)
    count = {
        "instrumentator": "http_request_duration_seconds_count",
        "starlette_exporter": "starlette_request_duration_seconds_count",
    }[kind]
    watched = Watched(site())
    seen = {}
    for which, app in (("peer", peer.app), ("ours", watched.app)):
        state = (app if which == "peer" else app.app).state
        state.go_on = asyncio.Event()
        task = asyncio.create_task(drive(app, http("/events"), Client()))
        await asyncio.sleep(0.05)
        seen[which] = any(value for _, value in peer.samples(count)) or bool(
            watched.value("http_server_event_streams_active")
        )
        state.go_on.set()
        await task
    polluted = int(sum(value for _, value in peer.samples(count)))
    attack.control((not seen["peer"]) + polluted)

    attack.ours((not seen["ours"]) + int(watched.value(DURATION)))
