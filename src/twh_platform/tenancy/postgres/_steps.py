"""
What is asked of PostgreSQL, written once for every driver.

A generator yields an `Ask` and is sent its rows.  A driver's module carries it out
on a connection that is given: `_psycopg_steps`, `_asyncpg_steps`,
`_sqlalchemy_steps`.  Statements run in the transaction of that connection, so
they never need another one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Sequence
from inspect import isawaitable
from typing import Any, NamedTuple, TypeAlias, TypeVar

from .._tenant import Tenant

__all__ = ["Ask", "Call", "Rows", "Steps", "drive", "drive_async"]

T = TypeVar("T")
Rows: TypeAlias = Sequence[Sequence[Any]]


class Ask(NamedTuple):
    """
    A statement that returns rows.

    Attributes:
        sql: With ``$1::type`` to ``$9::type`` for the parameters.  SQL of the
            caller's own goes in without parameters: then it is sent as it is.

        parameters: Their values, in order.
    """

    sql: str
    parameters: tuple[Any, ...] = ()


class Call(NamedTuple):
    """
    A function of the caller's, sync or async, for what is in no database.
    """

    function: Callable[[Tenant], Any]
    tenant: Tenant


Steps: TypeAlias = Generator[Ask | Call, Any, T]


def drive(steps: Steps[T], ask: Callable[[Ask], Rows]) -> T:
    """
    Carry steps out on a driver that waits.
    """
    answer: Any = None
    while True:
        try:
            step = steps.send(answer)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
        answer = ask(step) if isinstance(step, Ask) else step.function(step.tenant)


async def drive_async(steps: Steps[T], ask: Callable[[Ask], Awaitable[Rows]]) -> T:
    """
    Carry steps out on a driver that is awaited.
    """
    answer: Any = None
    while True:
        try:
            step = steps.send(answer)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
        answer = ask(step) if isinstance(step, Ask) else step.function(step.tenant)
        if isawaitable(answer):
            answer = await answer
