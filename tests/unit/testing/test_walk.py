"""
The walk over small services that leak, and over one that does not.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from tests.support.boxes import FAULTS, OPERATIONS, Boxes, authorize
from twh_platform import Tenant
from twh_platform.errors import ConfigurationError
from twh_platform.testing import WalkReport, WalkStep, tenant_pair, walk

NAMED = {"name": "{mark}"}
STEPS = [
    WalkStep("POST /boxes", NAMED, headers={"Idempotency-Key": "{mark}"}),
    WalkStep("POST /boxes", NAMED),
    WalkStep("POST /notes", {"box_id": "{box_id}", "text": "{mark}"}),
    WalkStep("PATCH /boxes/{id}", NAMED),
    WalkStep("GET /notes", query={"box_id": "{box_id}"}),
]
HEALTH = {"GET /health": "the same for everyone"}


async def walked(app: Any, **options: Any) -> WalkReport:
    """
    Walk through the boxes.
    """
    usual = {"routes": list(OPERATIONS), "steps": STEPS, "exceptions": HEALTH}
    return await walk(app, tenants=tenant_pair(), authorize=authorize, **{**usual, **options})


def found(report: WalkReport) -> set[tuple[str, str]]:
    """
    The kinds of findings, with their operations.
    """
    return {(one.kind, one.operation) for one in report.findings}


async def test_a_clean_service_passes():
    """A service that keeps tenants apart is walked from end to end without a finding."""
    app = Boxes()

    report = await walked(app, work=lambda: app.work)

    report.ensure_clean()
    states = [one.state for one in report.operations]
    assert (states.count("walked"), states.count("excepted")) == (8, 1)
    assert all(one.compared for one in report.operations if "{id}" in one.name)


EXPECTED = {
    "id in a body": ("leak", "GET /boxes"),
    "id in a header": ("leak", "GET /boxes"),
    "redirect to another tenant's file": ("leak", "GET /boxes/{id}/file"),
    "name in an error message": ("leak", "GET /boxes/{id}"),
    "403 in place of 404": ("existence", "PATCH /boxes/{id}"),
    "another tenant's write succeeds": ("change", "GET /boxes/{id}"),
    "list with rows of all tenants": ("leak", "GET /boxes"),
    "cursor of another tenant's row": ("leak", "GET /boxes"),
    "cache without the tenant": ("leak", "GET /boxes"),
    "names unique across tenants": ("existence", "POST /boxes"),
    "note on another tenant's box": ("existence", "POST /notes"),
    "answer by key without the tenant": ("leak", "POST /boxes"),
    "more work for another tenant's box": ("work", "GET /boxes/{id}"),
    "total with rows of all tenants": ("existence", "GET /notes"),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_planted_leak_is_found(fault):
    """Each way of telling of another tenant is found, where it is."""
    app = Boxes([fault])

    report = await walked(app, work=lambda: app.work)

    assert EXPECTED[fault] in found(report)
    with pytest.raises(AssertionError, match=EXPECTED[fault][0]):
        report.ensure_clean()


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("list with rows of all tenants", ("leak", "GET /boxes")),
        ("403 in place of 404", ("existence", "GET /boxes/{id}")),
    ],
)
async def test_ids_that_are_numbers_are_known_too(fault, expected):
    """A service that counts its rows is walked in the same way."""
    clean = await walked(Boxes(new_id=itertools.count(1).__next__))
    leaky = await walked(Boxes([fault], new_id=itertools.count(1).__next__))

    clean.ensure_clean()
    assert expected in found(leaky)


async def test_a_cache_is_found_without_marks():
    """What the other tenant has made is known in the first one's answers by its id."""
    steps = [WalkStep("POST /boxes", {"name": "{uuid}"})]
    routes = ["GET /boxes", "POST /boxes"]
    options = {"steps": steps, "routes": routes, "exceptions": {}}

    clean = await walked(Boxes(), **options)
    leaky = await walked(Boxes(["cache without the tenant"]), **options)

    clean.ensure_clean()
    assert ("leak", "GET /boxes") in found(leaky)


async def test_a_message_says_what_leaked_and_where():
    """The failure names the request, the place, the encoding and whose it is."""
    report = await walked(Boxes(["cursor of another tenant's row"]))

    texts = [str(one) for one in report.findings]
    shown = next(one for one in texts if one.startswith("leak: GET /boxes: other-"))
    assert "is shown: body, base64: box_id of POST /boxes '" in shown


async def test_what_cannot_be_asked_is_no_success():
    """An operation that there is no good request for fails the walk, with the reason."""
    without = [step for step in STEPS if "notes" not in step.operation]

    report = await walked(Boxes(), steps=without)

    gaps = {one.name: one.reason for one in report.gaps}
    assert set(gaps) == {"POST /notes", "GET /notes"}
    assert "500" in gaps["POST /notes"]
    with pytest.raises(AssertionError, match="2 not covered"):
        report.ensure_clean()


async def test_an_empty_list_proves_nothing():
    """A list that shows the first tenant nothing of its own is not covered."""

    class Empty(Boxes):
        def list_notes(self):
            return 200, {"data": []}

    report = await walked(Empty())

    assert [one.name for one in report.gaps] == ["GET /notes"]


async def test_what_is_volatile_is_no_change():
    """A member that is named as volatile may differ in the end; control: unnamed, it is found."""

    class Timed(Boxes):
        asked = 0

        def list_notes(self):
            self.asked += 1
            status, body = super().list_notes()
            return status, {**body, "reset_after": self.asked // 10}

    named, unnamed = [await walked(Timed(), volatile=one) for one in (["reset_after"], [])]

    named.ensure_clean()
    assert ("change", "GET /notes") in found(unnamed)


async def test_an_exception_excuses_no_leak():
    """An operation that is excepted is asked all the same."""
    exceptions = {**HEALTH, "* /boxes/{id}": "for another day"}

    report = await walked(Boxes(["name in an error message"]), exceptions=exceptions)

    assert ("leak", "GET /boxes/{id}") in found(report)


async def test_a_needless_exception_is_a_gap():
    """An exception for what was walked is to be dropped."""
    report = await walked(Boxes(), exceptions={**HEALTH, "GET /boxes": "forgotten"})

    assert [one.name for one in report.gaps] == ["GET /boxes"]
    assert "needless" in report.gaps[0].reason


@pytest.mark.parametrize(
    "options",
    [
        {"exceptions": {"GET /nowhere": "a typing error"}},
        {"exceptions": {"GET /health": ""}},
        {"steps": [WalkStep("POST /nowhere")]},
        {"routes": []},
        {"steps": [WalkStep("POST /boxes", NAMED, keep={"x": "no.such.member"})]},
    ],
)
async def test_what_does_not_fit_is_said(options):
    """A mistake in the arguments is no finding."""
    with pytest.raises(ConfigurationError):
        await walked(Boxes(), **options)


async def test_ids_that_cannot_be_told_apart_are_refused():
    """A tenant id that is part of the other's would be found everywhere."""
    tenants = Tenant(id="acme"), Tenant(id="acme-2")

    with pytest.raises(ConfigurationError, match="told apart"):
        await walk(Boxes(), tenants=tenants, authorize=authorize, routes=["GET /boxes"])


@pytest.mark.parametrize(
    "step", [WalkStep("POST /boxes", {"title": "x"}), WalkStep("PATCH /boxes/{id}", NAMED)]
)
async def test_a_step_that_fails_ends_the_walk(step):
    """What the suite says about its own app has to hold."""
    with pytest.raises(AssertionError, match=r"as other-\w+(:| was answered 500)"):
        await walked(Boxes(), steps=[step])


async def test_an_awaited_authorize_is_fine():
    """Tokens may be fetched."""

    async def fetched(request, tenant):
        return authorize(request, tenant)

    routes = list(OPERATIONS)
    report = await walk(
        Boxes(),
        tenants=tenant_pair(uuids=True),
        authorize=fetched,
        routes=routes,
        steps=STEPS,
        exceptions=HEALTH,
    )

    report.ensure_clean()


async def test_what_changes_by_itself_is_no_change():
    """A member that differs from answer to answer is left out of the comparison."""

    class Ticking(Boxes):
        def get_box(self, identity):
            self.ticks = getattr(self, "ticks", 0) + 1
            status, row = super().get_box(identity)
            return status, {**row, "asked": self.ticks}

    report = await walked(Ticking())

    report.ensure_clean()


async def test_an_app_that_breaks_is_not_covered():
    """An operation that fails for foreign and absent ids alike has shown nothing."""

    class Broken(Boxes):
        def find(self, identity, *, writing=False):
            if not self.of_tenant([row for row in self.boxes if row["id"] == identity]):
                raise RuntimeError("boom")
            return super().find(identity, writing=writing)

    report = await walked(Broken())

    assert {one.name for one in report.gaps} == {
        f"{method} /boxes/{{id}}" for method in ("GET", "PATCH", "DELETE")
    }
    assert "RuntimeError('boom')" in report.gaps[0].reason
