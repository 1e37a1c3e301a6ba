"""
Sealing anew: what retired data keys had sealed, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("cryptography")

from twh_platform import Tenant, bind_tenant
from twh_platform.errors import KeyServiceUnavailableError
from twh_platform.kms import (
    DataKeyState,
    Keyset,
    LocalKeyService,
    MemoryDataKeyStore,
    Suite,
    TenantCipher,
    from_text,
    to_text,
)
from twh_platform.kms._envelope import parse
from twh_platform.kms.lifecycle import JobProgress, SealedRow, reencrypt, retire_data_keys


class Table:
    """
    Sealed values of two tenants, with a compare-and-set.
    """

    def __init__(self, cipher: TenantCipher, *, text: bool = False) -> None:
        self.cells: dict[str, tuple[str, Any]] = {}
        for number in range(6):
            tenant_id = "acme" if number < 4 else "globex"
            with bind_tenant(Tenant(id=tenant_id)):
                sealed: Any = cipher.seal(b"value %d" % number, {"row": str(number)})
            self.cells[str(number)] = (tenant_id, to_text(sealed) if text else sealed)

    def rows(self, after: str = "") -> Iterator[SealedRow]:
        """
        All after one, in order.
        """
        for key, (tenant_id, sealed) in sorted(self.cells.items()):
            if key > after:
                yield SealedRow(tenant_id=tenant_id, key=key, sealed=sealed, context={"row": key})

    def write(self, row: SealedRow, sealed: Any) -> bool:
        """
        Put it there, if what was there is there still.
        """
        if self.cells[row.key][1] != row.sealed:
            return False
        self.cells[row.key] = (row.tenant_id, sealed)
        return True

    def opened(self, cipher: TenantCipher) -> dict[str, bytes]:
        """
        All values.
        """
        found = {}
        for row in self.rows():
            sealed = from_text(row.sealed) if isinstance(row.sealed, str) else row.sealed
            with bind_tenant(Tenant(id=row.tenant_id)):
                found[row.key] = cipher.open(sealed, row.context)
        return found

    def ids(self) -> set[bytes]:
        """
        The data keys in use.
        """
        return {
            parse(from_text(one) if isinstance(one, str) else one).data_key_id
            for _, one in self.cells.values()
        }


class World:
    """
    A cipher over a store in memory, and a table.
    """

    def __init__(self, *, text: bool = False) -> None:
        self.service = LocalKeyService(Keyset.new())
        self.store = MemoryDataKeyStore()
        self.table = Table(self.fresh(), text=text)
        self.values = self.table.opened(self.fresh())

    def fresh(self) -> TenantCipher:
        """
        A cipher with a cold cache.
        """
        return TenantCipher(self.service, self.store)

    def run(self, **more: Any) -> Any:
        """
        Seal anew.
        """
        after = more.pop("after", "")
        write = more.pop("write", self.table.write)
        cipher = more.pop("cipher", None) or self.fresh()
        return reencrypt(self.table.rows(after), cipher, self.store, write, **more)


@pytest.fixture
def world() -> World:
    """
    Six sealed values of two tenants.
    """
    return World()


def test_what_a_retired_data_key_had_sealed_is_sealed_anew(world):
    """The other tenant's values stay as they are, to the byte, and every value is the same."""
    before = dict(world.table.cells)
    assert retire_data_keys(world.store, "acme") == 1
    (old,) = {one.data_key_id for one in world.store.page("acme")}

    report = world.run()

    assert (report.sealed, report.current, report.complete) == (4, 2, True)
    assert old not in world.table.ids()
    assert {key: world.table.cells[key] for key in "45"} == {key: before[key] for key in "45"}
    assert world.table.opened(world.fresh()) == world.values


def test_a_second_run_changes_nothing(world):
    """Values of data keys that seal are left alone."""
    retire_data_keys(world.store, "acme")
    world.run()
    before = dict(world.table.cells)

    report = world.run()

    assert (report.sealed, report.current) == (0, 6)
    assert world.table.cells == before


def test_only_the_named_data_keys_are_retired(world):
    """Others go on sealing, and one that is retired already does not count."""
    (mine,) = world.store.page("acme")

    assert retire_data_keys(world.store, "acme", data_key_ids=[bytes(16)]) == 0
    assert retire_data_keys(world.store, "acme", data_key_ids=[mine.data_key_id]) == 1
    assert retire_data_keys(world.store, "acme", data_key_ids=[mine.data_key_id]) == 0
    (retired,) = world.store.page("acme")
    assert retired.state is DataKeyState.DECRYPT


def test_a_run_goes_on_at_its_cursor(world):
    """Stopped in the middle and gone on, each value is looked at once."""
    retire_data_keys(world.store, "acme")
    seen: list[JobProgress] = []

    first = world.run(every=1, progress=seen.append, stop=lambda: len(seen) == 3)
    second = world.run(after=first.cursor)

    assert (first.looked, first.sealed, first.stopped) == (3, 3, "stopped")
    assert (second.looked, second.sealed, second.complete) == (3, 1, True)
    assert seen[-1].cursor == first.cursor == "2"


def test_a_value_that_was_written_meanwhile_is_left_alone(world):
    """Compare-and-set: the other's value stays, and is counted."""
    retire_data_keys(world.store, "acme")
    with bind_tenant(Tenant(id="acme")):
        theirs = world.fresh().seal(b"newer", {"row": "1"})

    def write(row: SealedRow, sealed: Any) -> bool:
        if row.key == "1":
            world.table.cells["1"] = ("acme", theirs)
        return world.table.write(row, sealed)

    report = world.run(write=write)

    assert (report.raced, report.sealed, report.complete) == (1, 3, False)
    assert world.table.cells["1"] == ("acme", theirs)


def test_a_value_that_does_not_open_is_counted_and_left(world):
    """One bad row keeps nobody else waiting."""
    retire_data_keys(world.store, "acme")
    world.table.cells["2"] = ("acme", b"no envelope")

    report = world.run()

    assert (report.failed, report.sealed) == ({"decryption_failed": 1}, 3)
    assert world.table.cells["2"] == ("acme", b"no envelope")


def test_a_key_service_that_is_away_ends_the_run(world):
    """The value at which it happened is not counted, and the cursor stays before it."""
    retire_data_keys(world.store, "acme")
    inner = world.fresh()

    class Away:
        calls = 0

        def open(self, sealed: bytes, context: Any) -> bytes:
            Away.calls += 1
            if Away.calls == 3:
                raise KeyServiceUnavailableError
            return inner.open(sealed, context)

        def seal(self, plaintext: bytes, context: Any, *, suite: Suite) -> bytes:
            return inner.seal(plaintext, context, suite=suite)

    report = world.run(cipher=Away())

    assert (report.stopped, report.cursor) == ("key_service_unavailable", "1")
    assert world.run(after=report.cursor).sealed == 2
    assert world.table.opened(world.fresh()) == world.values


def test_a_suite_is_left(world):
    """What is sealed by another suite is sealed anew by the one that is asked for."""
    report = world.run(suite=Suite.DETERMINISTIC)

    suites = {parse(sealed).suite for _, sealed in world.table.cells.values()}
    assert (report.sealed, suites) == (6, {Suite.DETERMINISTIC})
    assert world.run(suite=Suite.DETERMINISTIC).sealed == 0
    assert world.table.opened(world.fresh()) == world.values


def test_text_stays_text():
    """A value that is kept as text is written back as text."""
    world = World(text=True)
    retire_data_keys(world.store, "acme")

    report = world.run()

    assert report.sealed == 4
    assert all(isinstance(sealed, str) for _, sealed in world.table.cells.values())
    assert world.table.opened(world.fresh()) == world.values


def test_the_rate_is_kept_for_what_is_sealed(world):
    """Values that are left alone cost no time."""
    retire_data_keys(world.store, "acme")
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    world.run(rate=2, sleep=sleep, clock=lambda: now[0])

    assert now[0] == pytest.approx(1.5)
