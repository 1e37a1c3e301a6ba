"""
Rewrapping: every data key comes under the newest version, whoever interferes.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

pytest.importorskip("cryptography")

from twh_platform import subscribe
from twh_platform.errors import (
    ConfigurationError,
    DecryptionError,
    KeyServiceError,
    KeyServiceUnavailableError,
)
from twh_platform.kms import (
    DataKeyRecord,
    DataKeyState,
    KeyContext,
    Keyset,
    LocalKeyService,
    MemoryDataKeyStore,
)
from twh_platform.kms._announcements import DataKeysRewrapped
from twh_platform.kms._service import require_result
from twh_platform.kms.lifecycle import remaining, rewrap
from twh_platform.kms.lifecycle._jobs import JobProgress
from twh_platform.tenancy import current_tenant


def fill(
    service: LocalKeyService, store: MemoryDataKeyStore, tenant_id: str, count: int
) -> dict[bytes, bytes]:
    """
    Add data keys of a tenant; returns them by id, as they are in plaintext.
    """
    kept = {}
    for _ in range(count):
        context = KeyContext(
            tenant_id=tenant_id, purpose="data", data_key_id=secrets.token_bytes(16)
        )
        made = require_result(service.generate([context])[0])
        kept[context.data_key_id] = made.plaintext
        record = DataKeyRecord(
            tenant_id=tenant_id,
            data_key_id=context.data_key_id,
            purpose="data",
            wrapped=made.wrapped,
            shared=False,
            created_at=datetime.now(UTC),
        )
        store.add(record)
    return kept


def opened(service: Any, store: MemoryDataKeyStore, tenant_id: str) -> dict[bytes, bytes]:
    """
    All data keys of a tenant, opened.
    """
    records = store.page(tenant_id, limit=1000)
    results = service.unwrap([(one.wrapped, one.context) for one in records])
    return {one.data_key_id: require_result(key) for one, key in zip(records, results, strict=True)}


class Meddled:
    """
    A key service that does something of ours before each rewrap (a stand-in for faults).
    """

    def __init__(
        self, inner: LocalKeyService, before: Callable[[Sequence[Any]], list[Any] | None]
    ) -> None:
        self._inner, self._before = inner, before

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def rewrap(self, keys: Sequence[Any]) -> list[Any]:
        """
        Rewrap, or give what the other gives.
        """
        return self._before(keys) or self._inner.rewrap(keys)


@pytest.fixture
def service() -> LocalKeyService:
    """
    A key service in memory.
    """
    return LocalKeyService(Keyset.new())


@pytest.fixture
def store() -> MemoryDataKeyStore:
    """
    A store in memory.
    """
    return MemoryDataKeyStore()


def test_all_data_keys_come_under_the_newest_version(service, store):
    """After a rotation and a rewrap nothing remains, and every data key is the same."""
    keys = {tenant: fill(service, store, tenant, 7) for tenant in ("acme", "globex")}
    for tenant in keys:
        service.rotate(tenant)
    assert remaining(service, store, "acme") == 7

    report = rewrap(service, store, limit=3)

    assert (report.tenants, report.looked, report.rewrapped, report.complete) == (2, 14, 14, True)
    assert [remaining(service, store, one) for one in keys] == [0, 0]
    assert {one: opened(service, store, one) for one in keys} == keys


def test_a_second_run_changes_nothing(service, store):
    """What is wrapped by the newest version is left alone, to the revision."""
    fill(service, store, "acme", 5)
    service.rotate("acme")
    rewrap(service, store)
    before = store.page("acme")

    report = rewrap(service, store)

    assert (report.rewrapped, report.current) == (0, 5)
    assert store.page("acme") == before


def test_a_run_that_was_stopped_goes_on_at_its_cursor(service, store):
    """Two halves look at each data key once."""
    fill(service, store, "acme", 6)
    fill(service, store, "globex", 6)
    for tenant in ("acme", "globex"):
        service.rotate(tenant)
    seen: list[JobProgress] = []

    first = rewrap(service, store, limit=4, progress=seen.append, stop=lambda: len(seen) == 3)
    second = rewrap(service, store, limit=4, after=first.cursor)

    assert (first.stopped, first.looked, first.rewrapped) == ("stopped", 10, 10)
    assert (second.looked, second.rewrapped, second.complete) == (2, 2, True)


def test_every_cursor_is_a_place_to_go_on(service, store):
    """From whichever cursor a run goes on, what is before and after it adds up."""
    fill(service, store, "acme", 5)
    fill(service, store, "globex", 5)
    cursors: list[str | None] = []
    rewrap(service, store, limit=2, progress=lambda one: cursors.append(one.cursor))

    rest = [rewrap(service, store, limit=2, after=one).looked for one in cursors]

    assert rest == [8, 6, 5, 3, 1, 0]


def test_a_partial_failure_keeps_the_good_ones(service, store):
    """Items that fail are counted by code and left as they were; the next run mends them."""
    keys = fill(service, store, "acme", 6)
    service.rotate("acme")
    bad = set(list(keys)[:2])

    def some(pairs: Sequence[Any]) -> list[Any]:
        good = service.rewrap(pairs)
        return [
            DecryptionError() if context.data_key_id in bad else result
            for (_, context), result in zip(pairs, good, strict=True)
        ]

    report = rewrap(Meddled(service, some), store)
    assert (report.rewrapped, report.failed, report.complete) == (
        4,
        {"decryption_failed": 2},
        False,
    )
    assert remaining(service, store, "acme") == 2
    assert rewrap(service, store).rewrapped == 2


def test_a_service_that_does_not_answer_ends_the_run_where_it_is(service, store):
    """The cursor stays before the page that failed, and going on loses nothing."""
    fill(service, store, "acme", 6)
    service.rotate("acme")
    calls: list[int] = []

    def down(pairs: Sequence[Any]) -> None:
        calls.append(len(pairs))
        if len(calls) == 2:
            raise KeyServiceUnavailableError

    report = rewrap(Meddled(service, down), store, limit=2)
    rest = rewrap(service, store, after=report.cursor)

    assert (report.looked, report.rewrapped, report.complete) == (2, 2, False)
    assert report.stopped == "key_service_unavailable"
    assert (rest.looked, rest.rewrapped, remaining(service, store, "acme")) == (4, 4, 0)


def test_a_tenant_whose_key_is_disabled_does_not_keep_the_others_waiting(service, store):
    """Its data keys are counted as failed, and the next tenant is done."""
    fill(service, store, "acme", 3)
    fill(service, store, "globex", 3)
    service.rotate("acme")
    service.rotate("globex")
    service.disable("acme")

    report = rewrap(service, store)

    assert report.failed == {"key_disabled": 3}
    assert remaining(service, store, "globex") == 0


def test_a_change_in_between_is_not_overwritten(service, store):
    """Who retires a data key during the rewrap finds it retired, and rewrapped."""
    fill(service, store, "acme", 1)
    service.rotate("acme")

    def retire(_: Sequence[Any]) -> None:
        (record,) = store.page("acme")
        changed = replace(record, state=DataKeyState.DECRYPT)
        store.replace(changed, revision=record.revision)

    report = rewrap(Meddled(service, retire), store)

    (record,) = store.page("acme")
    assert (record.state, record.wrapped.key_version) == (DataKeyState.DECRYPT, 2)
    assert report.rewrapped == 1


def test_two_jobs_at_once_do_each_key_once(service, store):
    """The one that comes second finds it current, and the count adds up."""
    fill(service, store, "acme", 4)
    service.rotate("acme")

    def other(_: Sequence[Any]) -> None:
        rewrap(service, store)

    report = rewrap(Meddled(service, other), store)

    assert (report.rewrapped, report.current, remaining(service, store, "acme")) == (0, 4, 0)
    assert {one.revision for one in store.page("acme")} == {2}


def test_a_shred_in_between_wins(service, store):
    """A tombstone is not replaced by a rewrapped key."""
    fill(service, store, "acme", 3)
    service.rotate("acme")

    def shred_it(_: Sequence[Any]) -> None:
        store.destroy("acme")

    report = rewrap(Meddled(service, shred_it), store)

    assert (report.rewrapped, report.gone) == (0, 3)
    assert store.page("acme") == []


def test_a_rotation_in_between_is_told_by_what_remains(service, store):
    """What was rewrapped by a version that is not the newest any more still remains."""
    fill(service, store, "acme", 4)
    service.rotate("acme")
    seen: list[JobProgress] = []

    def rotate_once(progress: JobProgress) -> None:
        seen.append(progress)
        if len(seen) == 1:
            service.rotate("acme")

    rewrap(service, store, limit=2, progress=rotate_once)
    assert remaining(service, store, "acme") == 2
    rewrap(service, store)
    assert remaining(service, store, "acme") == 0


def test_moving_to_another_key_service(service, store):
    """With an origin, data keys go from its master keys to those of the new service."""
    keys = fill(service, store, "acme", 5)
    target = LocalKeyService(Keyset.new())
    target.create("acme")

    without = rewrap(target, store)
    moved = rewrap(target, store, origin=service, check=True)

    assert without.failed == {"key_not_found": 5}
    assert (moved.rewrapped, moved.failed) == (5, {})
    assert opened(target, store, "acme") == keys


def test_another_key_is_noticed_before_it_is_stored(service, store):
    """With check, a rewrapped key that is another key is not stored; without, it would be."""
    keys = fill(service, store, "acme", 2)
    service.rotate("acme")

    def wrong(pairs: Sequence[Any]) -> list[Any]:
        return service.wrap([(bytes(32), context) for _, context in pairs])

    report = rewrap(Meddled(service, wrong), store, check=True)
    assert (report.rewrapped, report.failed) == (0, {"rewrap_mismatch": 2})
    assert opened(service, store, "acme") == keys
    rewrap(Meddled(service, wrong), store)
    assert opened(service, store, "acme") != keys


def test_the_rate_is_kept(service, store):
    """Ten data keys at two a second take four and a half seconds of waiting and more."""
    fill(service, store, "acme", 10)
    service.rotate("acme")
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    rewrap(service, store, rate=2, sleep=sleep, clock=lambda: now[0])

    assert now[0] == pytest.approx(4.0)
    assert remaining(service, store, "acme") == 0


def test_the_tenant_is_bound_for_the_store(service):
    """A store under row-level security is asked with its tenant bound, and left unbound."""
    asked: list[tuple[str, str | None]] = []

    class Asked(MemoryDataKeyStore):
        def page(self, tenant_id: str, **more: Any) -> list[DataKeyRecord]:
            tenant = current_tenant()
            asked.append((tenant_id, tenant.id if tenant else None))
            return super().page(tenant_id, **more)

    store = Asked()
    fill(service, store, "acme", 1)
    rewrap(service, store)

    assert asked
    assert {one == other for one, other in asked} == {True}
    assert current_tenant() is None


def test_it_is_announced_once_for_each_tenant(service, store):
    """Listeners learn how many data keys of whom, and what remains."""
    fill(service, store, "acme", 3)
    service.rotate("acme")
    told: list[DataKeysRewrapped] = []
    unsubscribe = subscribe(DataKeysRewrapped, told.append)

    rewrap(service, store, limit=2)
    rewrap(service, store)
    unsubscribe()

    assert told == [DataKeysRewrapped(tenant_id="acme", rewrapped=3, failed=0, remaining=0)]


@pytest.mark.parametrize(
    "cursor", ["acme", "acme:", "acme:00", ":" + "00" * 16, "acme:" + "x" * 32]
)
def test_a_cursor_of_something_else_is_refused(cursor, service, store):
    """A run does not begin at a place that it cannot know."""
    with pytest.raises(ConfigurationError) as refused:
        rewrap(service, store, after=cursor)

    assert refused.value.code == "job_cursor_invalid"


@pytest.mark.parametrize("wrong", [{"rate": 0}, {"rate": -1.0}, {"limit": 0}])
def test_a_pace_of_nothing_is_refused(wrong, service, store):
    """A job that could never end is not begun."""
    with pytest.raises(ConfigurationError):
        rewrap(service, store, **wrong)


def test_a_conflict_that_never_ends_is_counted(service):
    """A store that always has been changed by somebody else leaves a failure, no endless loop."""

    class Racing(MemoryDataKeyStore):
        def replace(self, record: DataKeyRecord, *, revision: int) -> bool:
            del record, revision
            return False

    store = Racing()
    fill(service, store, "acme", 1)
    service.rotate("acme")

    report = rewrap(service, store)

    assert report.failed == {"rewrap_conflict": 1}
    assert issubclass(KeyServiceUnavailableError, KeyServiceError)


def test_a_run_that_is_stopped_at_once_is_not_complete(service, store):
    """It has no cursor, as one that came to its end has none."""
    fill(service, store, "acme", 2)

    report = rewrap(service, store, stop=lambda: True)

    assert (report.cursor, report.stopped, report.complete) == (None, "stopped", False)
