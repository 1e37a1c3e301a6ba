"""
Work across tenants: the statement, who hears of it, and when it is over.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from tests.support.tenancy import heard
from twh_platform import subscribe
from twh_platform.errors import AdministratorError, ConfigurationError
from twh_platform.tenancy import (
    AdministratorEntered,
    AdministratorLeft,
    Tenant,
    TenantExecutor,
    administrator,
    bind_tenant,
    current_administrator,
    current_tenant,
)
from twh_platform.testing import ManualClock

ADA = "ada@example.com"
RECALL = "ticket 4711: recall of lot 12"


class AuditDownError(Exception):
    """What a record raises that cannot write."""


def access(**changes):
    """A statement that nothing is wrong with."""
    return administrator(**{"actor": ADA, "reason": RECALL, **changes})


def test_the_access_is_there_inside_and_gone_outside():
    """What was stated can be read inside, nested too, and restored."""
    assert current_administrator() is None
    with access() as outer:
        with access(reason="  another  ") as inner:
            assert current_administrator() is inner
        assert current_administrator() is outer
    assert current_administrator() is None
    assert (outer.actor, outer.reason, inner.reason) == (ADA, RECALL, "another")


def test_the_current_tenant_stays():
    """It binds no tenant and unbinds none."""
    with bind_tenant(Tenant(id="acme")), access():
        assert current_tenant().id == "acme"


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ({"actor": ""}, "administrator_actor_missing"),
        ({"actor": " \n\t "}, "administrator_actor_missing"),
        ({"reason": ""}, "administrator_reason_missing"),
        ({"reason": "   "}, "administrator_reason_missing"),
        ({"actor": "a" * 201}, "administrator_text_invalid"),
        ({"reason": "r" * 1001}, "administrator_text_invalid"),
        ({"reason": "ok\nadministrator eve left"}, "administrator_text_invalid"),
        ({"reason": "ok\x00"}, "administrator_text_invalid"),
        ({"reason": "ok\u2028and a line"}, "administrator_text_invalid"),
        ({"actor": "ada\u202eevil"}, "administrator_text_invalid"),
        ({"actor": "ada\x1b[2K"}, "administrator_text_invalid"),
    ],
)
def test_a_statement_that_is_none_is_refused(statement, code):
    """Missing, too long, or with characters that forge lines of a log."""
    with heard(AdministratorEntered) as signals, pytest.raises(AdministratorError) as caught:
        access(**statement)

    assert caught.value.code == code
    assert signals == []


@pytest.mark.parametrize("statement", [{"actor": None}, {"reason": None}, {"reason": b"why"}])
def test_a_statement_is_text(statement):
    """A user id that is None is a mistake, and no actor."""
    with pytest.raises(TypeError, match="are text"):
        access(**statement)


def test_both_can_only_be_given_by_name():
    """Nobody mistakes the one for the other, or leaves one out."""
    for arguments in ((ADA, RECALL), ()):
        with pytest.raises(TypeError):
            administrator(*arguments)
    with pytest.raises(TypeError, match="reason"):
        administrator(actor=ADA)


def test_entry_and_leave_are_announced_and_joined():
    """Who, why, since when, for how long, and how it ended."""
    clock = ManualClock(start=1_700_000_000)
    with heard(AdministratorEntered, AdministratorLeft) as signals, access(clock=clock.utc):
        assert len(signals) == 1
        clock.advance(61)

    [entered, left] = signals
    since = datetime.fromtimestamp(1_700_000_000, UTC)
    assert (entered.actor, entered.reason, entered.entered_at) == (ADA, RECALL, since)
    assert (left.actor, left.reason, left.entered_at) == (ADA, RECALL, since)
    assert (left.duration, left.transactions, left.error) == (61.0, 0, None)
    assert left.access_id == entered.access_id
    assert len(entered.access_id) == 32


def test_an_error_is_named_by_its_class_alone():
    """What its message says may be a row of somebody's."""
    with heard(AdministratorLeft) as signals, pytest.raises(ZeroDivisionError), access():
        _ = 1 / 0

    assert [left.error for left in signals] == ["ZeroDivisionError"]
    assert current_administrator() is None


def test_a_clock_that_went_back_gives_no_negative_duration():
    """The wall clock may be set while somebody works."""
    times = iter([datetime(2026, 1, 1, 12, tzinfo=UTC), datetime(2026, 1, 1, 11, tzinfo=UTC)])
    with heard(AdministratorLeft) as signals, access(clock=lambda: next(times)):
        pass

    assert signals[0].duration == 0.0


def test_both_are_logged(caplog):
    """Without a listener too: the entry as a warning, the leave as information."""
    caplog.set_level(logging.INFO, logger="twh_platform.tenancy.administrator")
    with access() as entered:
        pass

    levels = [record.levelname for record in caplog.records]
    texts = [record.getMessage() for record in caplog.records]
    assert levels == ["WARNING", "INFO"]
    assert texts[0] == f"access {entered.access_id} across tenants for {ADA}: {RECALL}"
    assert entered.access_id in texts[1]


def test_a_listener_that_fails_stops_nothing(caplog):
    """What is told about work does not decide it; that is what a record is for."""

    def fails(_signal):
        raise AuditDownError

    end = subscribe(AdministratorEntered, fails)
    with access() as entered:
        assert current_administrator() is entered
    end()


def test_a_record_is_written_before_there_is_access():
    """It is given the announcement, and the door is still closed."""
    written = []

    def record(entered):
        written.append((entered, current_administrator()))

    with access(record=record) as entered:
        assert written == [(entered, None)]


def test_without_a_record_there_is_no_access():
    """What it raises is raised on; nothing is opened, and no entry is announced."""

    def fails(_entered):
        raise AuditDownError

    with (
        heard(AdministratorEntered, AdministratorLeft) as signals,
        pytest.raises(AuditDownError),
        access(record=fails),
    ):
        pytest.fail("it was let in")

    assert signals == []
    assert current_administrator() is None


async def test_a_record_may_be_awaited():
    """In an `async with`, and then too before there is access."""
    written = []

    async def record(entered):
        await asyncio.sleep(0)
        written.append((entered, current_administrator()))

    async with access(record=record) as entered:
        assert written == [(entered, None)]
        assert current_administrator() is entered
    assert current_administrator() is None


async def test_an_awaited_record_that_fails_closes_the_door():
    """As one that is called; so does a cancellation while it writes."""

    async def fails(_entered):
        await asyncio.sleep(0)
        raise AuditDownError

    with pytest.raises(AuditDownError):
        async with access(record=fails):
            pytest.fail("it was let in")
    assert current_administrator() is None


async def test_a_record_may_be_called_in_an_async_with():
    """A function that blocks briefly is no reason for another one."""
    written = []
    async with access(record=written.append) as entered:
        assert written == [entered]


def test_a_record_that_nobody_awaits_closes_the_door():
    """A plain `with` cannot wait, and does not pretend to."""

    async def record(_entered):
        pytest.fail("it ran")

    with pytest.raises(ConfigurationError, match="async with"), access(record=record):
        pytest.fail("it was let in")
    assert current_administrator() is None


async def test_a_task_that_was_started_inside_loses_the_access():
    """It has it while the `with` lasts, and not a moment longer."""
    left = asyncio.Event()
    seen = []

    async def outlives():
        seen.append(current_administrator())
        await left.wait()
        seen.append(current_administrator())

    with access() as entered:
        task = asyncio.create_task(outlives())
        await asyncio.sleep(0)
    left.set()
    await task

    assert seen == [entered, None]


async def test_a_thread_that_was_started_inside_has_it():
    """As the current tenant has it: `to_thread` takes the context over."""
    with access() as entered:
        assert await asyncio.to_thread(current_administrator) is entered


def test_an_executor_does_not_have_it():
    """What takes a tenant along to plain threads leaves the access behind."""
    with access(), bind_tenant(Tenant(id="acme")), TenantExecutor(ThreadPoolExecutor(1)) as pool:
        assert pool.submit(current_tenant).result().id == "acme"
        assert pool.submit(current_administrator).result() is None


def test_left_in_another_context_it_is_over_everywhere():
    """A generator that is closed elsewhere leaves nobody with access."""
    one = access()
    contextvars.copy_context().run(one.__enter__)
    here = contextvars.copy_context()
    here.run(one.__exit__, None, None, None)

    assert current_administrator() is None
    assert here.run(current_administrator) is None


def test_it_is_entered_once():
    """Entered twice it could not tell what to restore; left twice it does nothing."""
    one = access()
    with heard(AdministratorLeft) as signals:
        with one, pytest.raises(RuntimeError, match="entered already"):
            one.__enter__()
        one.__exit__(None, None, None)

    assert len(signals) == 1
