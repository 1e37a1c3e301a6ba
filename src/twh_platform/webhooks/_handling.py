"""
Handling a delivery once: claimed before the app is called, committed or released after.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Final

from .._asgi import ASGIApp, Message, Receive, Send
from ..errors import BackendUnavailableError, WebhookError
from ._arrival import Arrival
from ._delivery import Delivery
from ._replay import (
    Claim,
    ClaimState,
    ClaimToken,
    Replay,
    ReplayStore,
    conflict,
    kept,
)

__all__ = ["handle_once"]

_ENDS: Final = frozenset(
    {"http.response.body", "http.response.pathsend", "http.response.zerocopysend"}
)
_UNCLAIMED: Final = Claim(state=ClaimState.NEW)


async def handle_once(
    app: ASGIApp,
    replay: Replay,
    delivery: Delivery,
    arrival: Arrival,
    *,
    receive: Receive,
    send: Send,
) -> None:
    """
    Call the app with a delivery that nobody has handled, or answer that it was.

    Raises:
        twh_platform.errors.WebhookError: With code ``id_conflict`` or ``webhook_busy``.

        twh_platform.errors.BackendUnavailableError: If the store cannot be reached,
            and what cannot be claimed is not to be handled.
    """
    claim = await _claim(replay, delivery, arrival)
    if claim.state is ClaimState.DONE:
        await arrival.replayed(send)
        return
    if claim.state is ClaimState.CONFLICT:
        raise conflict()
    if claim.state is ClaimState.BUSY:
        raise WebhookError("another attempt is being handled", code="webhook_busy")
    arrival.served = True
    if claim.token is None:
        await app(arrival.scope, receive, send)
        return
    handling = _Handling(replay, claim.token, send, arrival)
    try:
        await app(arrival.scope, receive, handling.send)
    finally:
        await handling.end()


class _Handling:
    """
    A claimed webhook while the app has it.
    """

    __slots__ = ("_arrival", "_replay", "_send", "_settled", "_status", "_token")

    def __init__(self, replay: Replay, token: ClaimToken, send: Send, arrival: Arrival) -> None:
        self._replay = replay
        self._token = token
        self._send = send
        self._arrival = arrival
        self._status = 0
        self._settled = False

    async def send(self, message: Message) -> None:
        """
        Pass a message of the app on; commit before the last one of a 2xx answer.
        """
        kind = message["type"]
        if kind == "http.response.start":
            self._status = message["status"]
        elif kind in _ENDS and not message.get("more_body") and self._handled():
            await self._settle("commit", self._replay.store.commit)
        await self._send(message)

    async def end(self) -> None:
        """
        Release it, if it was not handled.
        """
        await self._settle("release", self._replay.store.release)

    def _handled(self) -> bool:
        return 200 <= self._status < 300  # noqa: PLR2004 -- RFC 9110, section 15.3

    async def _settle(self, step: str, settle: Callable[[ClaimToken], Awaitable[bool]]) -> None:
        if self._settled:
            return
        self._settled = True
        # Carried out even if this task is cancelled meanwhile.
        await asyncio.shield(kept(self._settle_once(step, settle)))

    async def _settle_once(
        self, step: str, settle: Callable[[ClaimToken], Awaitable[bool]]
    ) -> None:
        try:
            held = await settle(self._token)
        except BackendUnavailableError as error:
            # What was done is done: the claim stands until its lease ends.
            self._arrival.store_down(step, error, self._replay.store_down)
            return
        if not held:
            self._arrival.lease_ended()


async def _claim(replay: Replay, delivery: Delivery, arrival: Arrival) -> Claim:
    claiming = kept(
        replay.store.claim(
            delivery.key, delivery.fingerprint, lease=replay.lease, ttl=replay.retention.ttl
        )
    )
    try:
        return await asyncio.shield(claiming)
    except asyncio.CancelledError:
        claiming.add_done_callback(partial(_give_back, replay.store))
        raise
    except BackendUnavailableError as error:
        arrival.store_down("claim", error, replay.store_down)
        if replay.store_down == "closed":
            raise
        return _UNCLAIMED


def _give_back(store: ReplayStore, claiming: asyncio.Task[Claim]) -> None:
    if claiming.cancelled() or claiming.exception() is not None:
        return
    token = claiming.result().token
    if token is not None:
        kept(_given_back(store, token))


async def _given_back(store: ReplayStore, token: ClaimToken) -> None:
    with suppress(BackendUnavailableError):  # then its lease ends
        await store.release(token)
