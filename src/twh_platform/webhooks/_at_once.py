"""
Awaiting in two parts: what is there already is had without a task's ever waiting.

A deadline costs several times what receiving does where the server has the body at
hand.  So the first step is taken by itself, and who has to wait sets the deadline then.
"""

from __future__ import annotations

from collections.abc import Awaitable, Generator
from typing import Any, TypeVar, final

__all__ = ["Started"]

T = TypeVar("T")


@final
class Started(Generator[Any, Any, T]):
    """
    An awaitable whose first step was taken, in the task that is to await the rest.

    Nothing else may be waited for in between.  One that is not awaited is to be closed.

    Attributes:
        done: Whether that was all: then `result` is there.

        result: What it returned; awaiting hands it over, and keeps nothing.
    """

    __slots__ = ("_steps", "_waits_for", "done", "result")

    def __init__(self, awaitable: Awaitable[T]) -> None:
        self._steps = awaitable.__await__()
        self.done = False
        self.result: T
        try:
            # What the event loop is to be told, and is told by who awaits the rest.
            self._waits_for = [next(self._steps)]
        except StopIteration as ended:
            self.done, self.result = True, ended.value

    def __await__(self) -> Generator[Any, Any, T]:
        return self

    def send(self, value: Any) -> Any:
        """
        Take the next step, as `await` does.
        """
        if self.done:
            ended = StopIteration(self.result)
            del self.result
            raise ended
        return self._waits_for.pop() if self._waits_for else self._steps.send(value)

    def throw(self, *error: Any) -> Any:
        """
        Have it deal with an error, such as a cancellation, where it waits.
        """
        return self._steps.throw(*error)

    def close(self) -> None:
        """
        Await no more of it.
        """
        self._steps.close()
