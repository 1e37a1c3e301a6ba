"""
Blocking calls from a loop: how long they are waited for, and what a fork leaves of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar

import pytest

from twh_platform.errors import BackendUnavailableError, ConfigurationError
from twh_platform.kms._deadline import deadline
from twh_platform.kms._threads import Threads, TimedThreads, answer

PLACE: ContextVar[str] = ContextVar("place", default="nowhere")
HUNG = 77  # the exit status of a child in which nothing happened


class LateError(Exception):
    """What callers here raise when their time is over."""


@contextlib.contextmanager
def pool(count=1, *, seconds=30.0):
    """Threads that are let go at the end."""
    threads = TimedThreads(count, name="test", seconds=seconds, late=LateError)
    try:
        yield threads
    finally:
        threads.close()


@contextlib.contextmanager
def occupied(threads):
    """All of the one thread's time."""
    begun, end = threading.Event(), threading.Event()

    def hold():
        begun.set()
        assert end.wait(30)

    threads.submit(hold)
    assert begun.wait(10)
    try:
        yield
    finally:
        end.set()


def forked(act, *, seconds=20.0):
    """The exit status of a child that acts, and is ended after so many seconds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork() beside threads
        child = os.fork()
    if child == 0:
        timer = threading.Timer(seconds, os._exit, (HUNG,))
        timer.daemon = True
        timer.start()
        try:
            os._exit(0 if act() == 42 else 1)
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@contextlib.contextmanager
def no_complaints():
    """Nothing is told to the loop that nobody has asked for."""
    told = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    yield
    gc.collect()
    assert told == []


async def test_a_call_is_made_in_a_thread_and_its_answer_comes_back():
    """With its arguments, while the loop goes on."""
    with pool() as threads:
        found = await threads.run(lambda *args, **options: (args, options), 1, key=2)
        where = await threads.run(threading.get_ident)

    assert found == ((1,), {"key": 2})
    assert where != threading.get_ident()


async def test_what_a_call_raises_reaches_the_caller():
    """As it was raised."""

    def fail():
        raise BackendUnavailableError("away")

    with pool() as threads, pytest.raises(BackendUnavailableError, match="away"):
        await threads.run(fail)


async def test_the_context_goes_along_and_stays_there():
    """What the caller has bound is bound in the thread; what the thread binds is its own."""

    def move():
        before = PLACE.get()
        PLACE.set("there")
        return before

    PLACE.set("here")
    with pool() as threads, ThreadPoolExecutor(1) as plain:
        naive = await asyncio.get_running_loop().run_in_executor(plain, PLACE.get)
        carried = await threads.run(move)

    assert (naive, carried, PLACE.get()) == ("nowhere", "here", "here")


async def test_no_more_calls_run_at_once_than_there_are_threads():
    """The others wait for their turn."""
    running, most = [], []

    def call():
        running.append(1)
        most.append(len(running))
        time.sleep(0.01)
        running.pop()

    with pool(2) as threads:
        await asyncio.gather(*[threads.run(call) for _ in range(10)])

    assert len(most) == 10
    assert max(most) <= 2


async def test_a_caller_waits_for_its_seconds_and_no_longer():
    """And what had not begun by then never does."""
    done = []
    with pool(seconds=0.05) as threads:
        with occupied(threads), no_complaints(), pytest.raises(LateError):
            await threads.run(done.append, 1)
        threads.seconds = 30.0
        await threads.run(done.append, 2)

    assert done == [2]


async def test_an_earlier_deadline_of_the_caller_holds():
    """Seconds of the pool do not lengthen it."""
    with pool() as threads, occupied(threads), deadline(0.05), pytest.raises(LateError):
        await threads.run(int)


async def test_what_a_cancelled_waiter_asked_for_is_not_begun():
    """Control: a call that the loop's own way leaves in the queue is made."""
    done = []
    loop = asyncio.get_running_loop()
    with pool() as threads, no_complaints():
        with occupied(threads):
            ours = asyncio.create_task(threads.run(done.append, "ours"))
            naive = asyncio.create_task(
                asyncio.wait([loop.run_in_executor(threads._pool, done.append, "naive")])
            )
            await asyncio.sleep(0)
            ours.cancel()
            naive.cancel()
            await asyncio.gather(ours, naive, return_exceptions=True)
        await threads.run(int)

    assert ours.cancelled()
    assert done == ["naive"]


async def test_the_failure_of_a_call_that_nobody_waits_for_is_not_reported():
    """Neither after a timeout nor after a cancellation."""
    end = threading.Event()

    def fail():
        assert end.wait(30)
        raise ValueError("nobody wants to know")

    with pool(2, seconds=0.05) as threads, no_complaints():
        hasty = asyncio.create_task(threads.run(fail))
        leaving = asyncio.create_task(threads.run(fail))
        await asyncio.sleep(0)
        leaving.cancel()
        outcomes = await asyncio.gather(hasty, leaving, return_exceptions=True)
        end.set()
        threads.seconds = 30.0
        await asyncio.gather(threads.run(int), threads.run(int))

    assert [type(one) for one in outcomes] == [LateError, asyncio.CancelledError]


def test_a_call_that_ends_after_its_loop_does_no_harm(caplog):
    """Nobody waits, and nothing is logged."""
    end = threading.Event()
    with pool(seconds=0.05) as threads:
        with pytest.raises(LateError):
            asyncio.run(threads.run(end.wait, 30))
        end.set()
        assert threads.submit(int).result(10) == 0

    assert caplog.records == []


async def test_one_of_several_waiters_being_cancelled_disturbs_no_other():
    """What they wait for together is not taken back, also before it has begun."""
    with pool() as threads:
        with occupied(threads):
            future = threads.submit(lambda: 42)
            waiting = [asyncio.create_task(threads.answer(future)) for _ in range(3)]
            await asyncio.sleep(0)
            waiting[0].cancel()
            await asyncio.sleep(0)
        found = await asyncio.gather(*waiting, return_exceptions=True)

    assert isinstance(found[0], asyncio.CancelledError)
    assert found[1:] == [42, 42]


async def test_what_ends_as_its_time_is_over_is_still_an_answer():
    """A result that is there is not thrown away."""
    with pool() as threads:
        future = threads.submit(lambda: 42)
        assert future.result(10) == 42

        assert await answer(future, seconds=1e-9, late=LateError) == 42


async def test_closing_refuses_what_has_not_begun():
    """Its waiter is told, not cancelled; what runs is not waited for."""
    with pool() as threads, occupied(threads):
        queued = asyncio.create_task(threads.run(int))
        await asyncio.sleep(0)
        threads.close()
        with pytest.raises(ConfigurationError) as caught:
            await queued

    assert caught.value.code == "async_closed"


async def test_after_closing_no_call_is_made():
    """And no thread begins again."""
    with pool() as threads:
        threads.close()
        with pytest.raises(ConfigurationError) as caught:
            await threads.run(int)

    assert caught.value.code == "async_closed"
    assert threads._pool is None


def test_closing_can_leave_the_queue_to_be_done():
    """For those who wait elsewhere for what it does."""
    threads = Threads(1, name="test")
    with occupied(threads):
        queued = threads.submit(lambda: 42)
        threads.close(cancel=False)

    assert queued.result(10) == 42


def test_threads_begin_with_the_first_call():
    """One that is never used has none."""
    with pool() as threads:
        before = threads._pool
        threads.submit(int).result(10)

        assert before is None
        assert threads._pool is not None


@pytest.mark.parametrize(("count", "seconds"), [(0, 1.0), (-1, 1.0), (1, 0.0), (1, float("nan"))])
def test_numbers_that_make_no_sense_are_refused(count, seconds):
    """At the start, not at the first call."""
    with pytest.raises(ConfigurationError):
        TimedThreads(count, name="test", seconds=seconds, late=LateError)


def test_the_first_call_in_a_forked_child_is_answered():
    """Control: a plain pool that the parent has used hangs there."""
    with pool() as threads, ThreadPoolExecutor(1) as plain:
        threads.submit(int).result(10)
        plain.submit(int).result(10)

        assert forked(lambda: plain.submit(lambda: 42).result(), seconds=1.0) == HUNG
        assert forked(lambda: asyncio.run(threads.run(lambda: 42))) == 0
        assert asyncio.run(threads.run(lambda: 42)) == 42


def test_a_fork_while_all_threads_hang_leaves_the_child_free():
    """Nor does a lock that another thread holds stop it."""
    with pool() as threads, occupied(threads), threads._lock:
        assert forked(lambda: asyncio.run(threads.run(lambda: 42))) == 0


async def test_a_fork_within_a_running_loop_leaves_the_child_free():
    """As in a server that forks its workers from a coroutine."""
    with pool() as threads:
        await threads.run(int)

        assert forked(lambda: threads.submit(lambda: 42).result()) == 0


def test_a_closed_pool_is_closed_in_the_child():
    """A fork opens nothing again."""
    with pool() as threads:
        threads.close()

        assert forked(lambda: 42 if threads.submit(int).cancelled() else 0) == 0
