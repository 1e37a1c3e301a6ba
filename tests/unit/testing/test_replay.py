"""
One request, replayed as another tenant.
"""

from __future__ import annotations

import pytest

from tests.support.boxes import Boxes, authorize
from twh_platform.testing import AppClient, AppRequest, TenantPair, replay, tenant_pair


@pytest.fixture
def tenants() -> TenantPair:
    """
    The two tenants.
    """
    return tenant_pair()


async def add_box(app: Boxes, tenants: TenantPair, name: str, who: int = 0) -> str:
    """
    Add a box of a tenant and return its id.
    """
    request = authorize(AppRequest.of("POST /boxes", json={"name": name}), tenants[who])
    identity: str = (await AppClient(app).send(request)).json()["id"]
    return identity


async def test_two_answers_come_back(tenants):
    """The suite can go on with both answers."""
    app = Boxes()
    box = await add_box(app, tenants, "a secret name")

    answers = await replay(
        app, AppRequest.of(f"GET /boxes/{box}"), tenants=tenants, authorize=authorize
    )

    assert (answers.first.status, answers.other.status) == (200, 404)


@pytest.mark.parametrize(
    ("fault", "path", "message"),
    [
        ("list with rows of all tenants", "/boxes", "body: box_id of GET /boxes"),
        ("id in a header", "/boxes", "header x-last: box_id of GET /boxes"),
        ("cursor of another tenant's row", "/boxes", "body, base64: box_id of GET /boxes"),
        ("name in an error message", "/boxes/{}", "body: the marker 'a secret name'"),
        ("redirect to another tenant's file", "/boxes/{}/file", "header location: the marker"),
        ("403 in place of 404", "/boxes/{}", "status 403 instead of 404"),
        ("another tenant's write succeeds", "/boxes/{}", "status 200 instead of 404"),
    ],
)
async def test_a_leak_is_found(fault, path, message, tenants):
    """What the other tenant learns is told, with its place; without the fault it passes."""
    for faults in ([], [fault]):
        app = Boxes(faults)
        await add_box(app, tenants, "mine", who=1)
        box = await add_box(app, tenants, "a secret name")
        writes = {"json": {"name": "x"}} if "write" in fault else {}
        request = AppRequest.of(f"{'PATCH' if writes else 'GET'} {path.format(box)}", **writes)
        known = {"tenants": tenants, "authorize": authorize, "markers": ["a secret name"]}
        if faults:
            with pytest.raises(AssertionError, match=message):
                await replay(app, request, **known)
        else:
            await replay(app, request, **known)


async def test_a_request_that_is_refused_proves_nothing(tenants):
    """The first tenant's own request has to be a good one."""
    with pytest.raises(AssertionError, match=r"as first-.* is answered 404: that proves nothing"):
        await replay(Boxes(), AppRequest.of("GET /boxes/1"), tenants=tenants, authorize=authorize)


async def test_ids_that_are_no_uuids_are_named(tenants):
    """An id of another form is compared with one that nobody has if it is given."""
    app = Boxes(["403 in place of 404"], new_id=iter([4711]).__next__)
    box = await add_box(app, tenants, "mine")
    request = AppRequest.of(f"GET /boxes/{box}")

    await replay(app, request, tenants=tenants, authorize=authorize)
    with pytest.raises(AssertionError, match="answered otherwise: status 403"):
        await replay(app, request, tenants=tenants, authorize=authorize, ids=["4711"])
