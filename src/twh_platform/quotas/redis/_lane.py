"""
What the tasks of one tick ask for leaves together, and each gets its own answer.

A lane belongs to one event loop and one server.  A call runs in a task of its
own: a caller that is cancelled, or has waited long enough, takes no connection
with it, and what comes for it later is not lost.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from ...errors import BackendUnavailableError
from .._exchange import Outcome, Take
from ._wire import Answer, Operation, StateError

__all__ = ["Lane", "Reply", "unavailable"]

# So that no call keeps the server from others for much longer than a quarter of a millisecond.
_MOST_TOGETHER = 64

Reply = tuple[Sequence[Operation], bytes | str | Exception]
Send = Callable[[list[Operation]], Awaitable[list[Reply]]]


def unavailable(cause: BaseException) -> BackendUnavailableError:
    """
    Say that the store did not answer, without what a driver's message may hold.
    """
    reason = type(cause).__name__
    error = BackendUnavailableError(f"Redis: {reason}", code="quota_store_unavailable")
    error.__cause__ = cause
    return error


class Lane:
    """
    Collects operations and sends them, over few connections.

    Args:
        send: Sends some, and gives the replies.

        give_back: Told of a take that was admitted when nobody waited any more.

        timeout: Seconds until whoever waits is told that there is no answer.

        patience: Seconds until a call is given up, with its connection.

        calls: How many may be on their way at a time.

        most: How many operations may wait.
    """

    def __init__(
        self,
        send: Send,
        give_back: Callable[[Take, Outcome], None],
        *,
        timeout: float,
        patience: float,
        calls: int,
        most: int,
    ) -> None:
        self._send = send
        self._give_back = give_back
        self._timeout = timeout
        self._patience = patience
        self._free = calls
        self._most = most
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Operation] = deque()
        self._expected: deque[Operation] = deque()
        # Each with the time at which it is given up.
        self._calls: list[tuple[asyncio.Task[None], float]] = []
        self._starting = False
        self._timer: asyncio.TimerHandle | None = None

    def put(self, operation: Operation) -> asyncio.Future[Answer]:
        """
        Have an operation sent with the others of this tick.

        Raises:
            twh_platform.errors.BackendUnavailableError: If too many wait.
        """
        if len(self._waiting) >= self._most:
            message = f"Redis: {self._most} operations are waiting already"
            raise BackendUnavailableError(message, code="quota_store_unavailable")
        future = operation.future = self._loop.create_future()
        operation.deadline = self._loop.time() + self._timeout
        self._waiting.append(operation)
        self._expected.append(operation)
        if not self._starting and self._free:
            self._start()
        if self._timer is None:
            self._timer = self._loop.call_at(operation.deadline, self._expire)
        return future

    async def finish(self) -> None:
        """
        Wait for the calls that are on their way.
        """
        while self._calls:
            await asyncio.wait([task for task, _ in self._calls])
            self._drop_finished()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start(self) -> None:
        # The task begins in the next tick: whatever is put until then goes with it.
        self._starting = True
        self._free -= 1
        task = self._loop.create_task(self._call())
        self._calls.append((task, self._loop.time() + self._patience))

    def _batch(self) -> list[Operation]:
        batch: list[Operation] = []
        waiting = self._waiting
        while waiting and len(batch) < _MOST_TOGETHER:
            operation = waiting.popleft()
            # What nobody waits for is not sent, but for a settlement whose caller went away.
            if not operation.future.done() or (operation.lasting and operation.future.cancelled()):
                batch.append(operation)
        return batch

    async def _call(self) -> None:
        self._starting = False
        batch = self._batch()
        if self._waiting and self._free:
            self._start()
        try:
            replies = await self._send(batch) if batch else []
        except Exception as error:  # noqa: BLE001  # whatever it is, each that waits is told
            replies = [(batch, error)]
        finally:
            self._free += 1
            if self._waiting and not self._starting:
                self._start()
        for operations, reply in replies:
            self._answer(operations, reply)

    def _answer(self, operations: Sequence[Operation], reply: bytes | str | Exception) -> None:
        if isinstance(reply, Exception):
            for operation in operations:
                if not operation.future.done():
                    operation.future.set_exception(unavailable(reply))
            return
        words = (reply.decode() if isinstance(reply, bytes) else reply).split()
        now, position = int(words[0]), 1
        for operation in operations:
            future = operation.future
            try:
                answer, position = operation.read(now, words, position)
            except (StateError, ValueError, IndexError) as error:
                position = operation.skip(words, position)
                if not future.done():
                    future.set_exception(unavailable(error))
                continue
            if future.done():
                self.abandon(operation, answer)
            else:
                future.set_result(answer)

    def abandon(self, operation: Operation, answer: Answer) -> None:
        """
        Have given back what a take got that nobody waits for any more.
        """
        request = operation.request
        if not isinstance(request, Take) or not isinstance(answer, Outcome):
            return
        if answer.admitted and not request.dry and not answer.stale:
            self._give_back(request, answer)

    def _expire(self) -> None:
        now = self._loop.time()
        expected = self._expected
        while expected and (expected[0].future.done() or expected[0].deadline <= now):
            future = expected.popleft().future
            if not future.done():
                future.set_exception(unavailable(TimeoutError(f"no answer in {self._timeout} s")))
        self._drop_finished()
        for task, until in self._calls:
            if until <= now:
                task.cancel()
        times = [until for _, until in self._calls if until > now]
        if expected:
            times.append(expected[0].deadline)
        self._timer = self._loop.call_at(min(times), self._expire) if times else None

    def _drop_finished(self) -> None:
        self._calls = [one for one in self._calls if not one[0].done()]
