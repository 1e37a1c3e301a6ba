"""
One request, sent again as another tenant.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace
from typing import NamedTuple

from .._asgi import ASGIApp
from ..tenancy import Tenant
from ._compare import Said, otherwise
from ._harvest import Harvest, absent_like
from ._http import AppAnswer, AppClient, AppRequest
from ._leaks import UUID_TEXT, Needle, find_leaks, without_sent

__all__ = ["Authorize", "Replayed", "authorized", "replay"]

Authorize = Callable[[AppRequest, Tenant], AppRequest | Awaitable[AppRequest]]

_REFUSED = 400


class Replayed(NamedTuple):
    """
    The two answers to one request.

    Attributes:
        first: The answer to the tenant that the request is of.

        other: The answer to the other tenant.
    """

    first: AppAnswer
    other: AppAnswer


async def replay(
    app: ASGIApp,
    request: AppRequest,
    *,
    tenants: tuple[Tenant, Tenant],
    authorize: Authorize,
    markers: Collection[str] = (),
    ids: Collection[str] = (),
    volatile: Collection[str] = (),
    client: AppClient | None = None,
) -> Replayed:
    """
    Send a request as one tenant and then as another, who must learn nothing of the first.

    The first tenant's answer has to be a good one.  Then no id in it, no
    marker and no tenant id may stand in the headers or the body of the other's,
    as it is or encoded, unless the request itself says it.  And where the
    request names ids, the other is answered as it is for ids that nobody has.

    Args:
        app: The app, running; for one that has a lifespan see `AppClient`.

        request: The request, without anything that says whose it is.

        tenants: The first tenant and the other one.

        authorize: Returns the request as one that the tenant sends.

        markers: Texts that are the first tenant's alone.

        ids: Ids in the request that are the first tenant's; UUIDs are known
            as such.

        volatile: Names of headers, in lower case, and of JSON members whose
            values differ from answer to answer.

        client: What sends the requests, if not an `AppClient` as it comes.

    Raises:
        AssertionError: If the other tenant learns something, with what and
            where; or if the first one is refused.
    """
    client = client or AppClient(app)
    owner, stranger = tenants

    async def send(asked: AppRequest, tenant: Tenant) -> AppAnswer:
        return await client.send(await authorized(authorize, asked, tenant))

    first = await send(request, owner)
    if first.status >= _REFUSED:
        message = f"{request} as {owner.id} is answered {first.status}: that proves nothing"
        raise AssertionError(f"{message}\n{first.text[:500]}")
    named = _ids_in(request, ids)

    async def ask_for_nobodys() -> Said:
        made = _made_up(named)
        return Said(await send(_with(request, named, made), stranger), tuple(made))

    before = await ask_for_nobodys() if named else None
    other = await send(request, stranger)
    faults = [str(leak) for leak in find_leaks(other, _needles(first, owner, markers, request))]
    if before is not None:
        nobody = before, await ask_for_nobodys()
        if differs := otherwise(Said(other, tuple(named)), nobody, frozenset(volatile)):
            faults.append(f"ids that nobody has are answered otherwise: {differs}")
    if faults:
        title = f"{request} as {stranger.id} tells of {owner.id}:"
        raise AssertionError("\n  ".join([title, *faults]))
    return Replayed(first, other)


async def authorized(authorize: Authorize, request: AppRequest, tenant: Tenant) -> AppRequest:
    """
    The request as one that the tenant sends.
    """
    made = authorize(request, tenant)
    return await made if inspect.isawaitable(made) else made


def _needles(
    first: AppAnswer, owner: Tenant, markers: Collection[str], request: AppRequest
) -> list[Needle]:
    shown = Harvest()
    shown.take(f"{request.method} {request.path.partition('?')[0]}", first)
    known = [Needle(owner.id, "the tenant id"), *(Needle(one, "the marker") for one in markers)]
    return without_sent([*known, *shown.identities()], request)


def _ids_in(request: AppRequest, ids: Collection[str]) -> list[str]:
    text = request.path + request.body.decode(errors="replace")
    return list(dict.fromkeys([*ids, *UUID_TEXT.findall(text)]))


def _made_up(ids: Collection[str]) -> list[str]:
    made = (absent_like(int(one) if one.isdigit() else one) for one in ids)
    return [f"{one}x" if new is None else str(new) for one, new in zip(ids, made, strict=True)]


def _with(request: AppRequest, ids: list[str], made: list[str]) -> AppRequest:
    path, body = request.path, request.body
    for one, new in zip(ids, made, strict=True):
        path, body = path.replace(one, new), body.replace(one.encode(), new.encode())
    return replace(request, path=path, body=body)
