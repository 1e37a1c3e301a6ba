"""
Gate G9: master keys are rotated and everything is rewrapped while a service is under load.

The job is another process, and is killed.
"""

from __future__ import annotations

import secrets
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import pytest

pytest.importorskip("cryptography")

from twh_platform import Tenant, bind_tenant
from twh_platform.errors import KeyServiceError
from twh_platform.kms import (
    CachePolicy,
    DataKeyRecord,
    KeyContext,
    LocalKeyService,
    SqliteDataKeyStore,
    Suite,
    TenantCipher,
    create_keyset,
)
from twh_platform.kms._service import require_result
from twh_platform.kms.lifecycle import ensure_retirable, key_uses, remaining

TENANTS = ("acme", "globex", "initech")
KEYS_EACH = 60
RATE = 30
PATIENCE = 60.0


class Place:
    """
    A keyset, and a store with many data keys of three tenants.
    """

    def __init__(self, folder: Path) -> None:
        self.keyset, self.data_keys = folder / "keyset.json", folder / "keys.sqlite"
        self.cursor = folder / "cursor"
        create_keyset(self.keyset)
        self.service = LocalKeyService(self.keyset)
        self.store = SqliteDataKeyStore(self.data_keys)
        self.plain: dict[bytes, bytes] = {}
        for tenant_id in TENANTS:
            self._fill(tenant_id)

    def _fill(self, tenant_id: str) -> None:
        contexts = [
            KeyContext(tenant_id=tenant_id, purpose="data", data_key_id=secrets.token_bytes(16))
            for _ in range(KEYS_EACH)
        ]
        made = [require_result(one) for one in self.service.generate(contexts)]
        for context, key in zip(contexts, made, strict=True):
            self.plain[context.data_key_id] = key.plaintext
            record = DataKeyRecord(
                tenant_id=tenant_id,
                data_key_id=context.data_key_id,
                purpose="data",
                wrapped=key.wrapped,
                shared=False,
                created_at=datetime.now(UTC),
            )
            self.store.add(record)

    def job(self, *more: str) -> subprocess.Popen[str]:
        """
        Start the job, at a pace at which it can be caught.
        """
        command = [sys.executable, "-m", "twh_platform.cli", "kms", "rewrap", "--rate", str(RATE)]
        where = ["--keyset", str(self.keyset), "--data-keys", str(self.data_keys)]
        arguments = [*where, "--cursor", str(self.cursor), *more]
        return subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True)

    def job_to_the_end(self) -> tuple[int | None, str]:
        """
        Run the job, and again if it says that some remain.

        A data key that was wrapped just before the rotation may be stored so
        late that the job has passed its place: then it is told, with status 1.
        """
        for _ in range(3):
            job = self.job()
            said, _ = job.communicate(timeout=PATIENCE)
            told = said.rstrip().endswith("none remains")
            assert (job.returncode, told) in {(0, True), (1, False)}
            if told:
                break
        return job.returncode, said

    def at(self) -> str:
        """
        How far the job says that it is.
        """
        return self.cursor.read_text() if self.cursor.exists() else ""

    def records(self) -> list[DataKeyRecord]:
        """
        All data keys of before the load.
        """
        pages = (self.store.page(one, limit=100_000) for one in TENANTS)
        return [one for page in pages for one in page if one.data_key_id in self.plain]

    def left(self) -> int:
        """
        What remains, as the inventory says.
        """
        return sum(remaining(self.service, self.store, one) for one in TENANTS)


class Load:
    """
    Threads that seal and open, each with a cache that is nearly always cold.
    """

    def __init__(self, place: Place) -> None:
        self.stop = threading.Event()
        self.counts: Counter[str] = Counter()
        self.errors: list[str] = []
        self._place = place
        self._threads = [threading.Thread(target=self._work, args=(number,)) for number in range(4)]

    def _work(self, number: int) -> None:
        service = LocalKeyService(self._place.keyset)
        store = SqliteDataKeyStore(self._place.data_keys)
        tenant = Tenant(id=TENANTS[number % len(TENANTS)])
        kept: list[bytes] = []
        while not self.stop.is_set():
            # A new cipher has a cold cache: every turn asks the store and the service.
            cipher = TenantCipher(service, store, policy=CachePolicy(max_age=0.1))
            try:
                with bind_tenant(tenant):
                    self._turn(cipher, kept)
            except KeyServiceError as error:
                self.errors.append(f"{error.code}: {error.__cause__!r}")

    def _turn(self, cipher: TenantCipher, kept: list[bytes]) -> None:
        kept.append(cipher.seal(b"value %d" % len(kept), {"n": str(len(kept))}))
        if len(kept) % 25 == 0:
            cipher.seal(b"of its own key", {}, suite=Suite.FIELD)
        for place in {0, len(kept) // 2, len(kept) - 1}:
            assert cipher.open(kept[place], {"n": str(place)}) == b"value %d" % place
            self.counts["opened"] += 1

    def __enter__(self) -> Self:
        for one in self._threads:
            one.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for one in self._threads:
            one.join()


@contextmanager
def killed_in_the_middle(place: Place, *more: str) -> Iterator[None]:
    """
    Start the job and kill it, without warning, when it has done some pages.
    """
    before = place.at()
    job = place.job(*more)
    give_up = time.monotonic() + PATIENCE
    while place.at() == before and time.monotonic() < give_up and job.poll() is None:
        time.sleep(0.01)
    job.send_signal(signal.SIGKILL)
    job.communicate()
    assert job.returncode == -signal.SIGKILL
    yield


def versions(records: list[DataKeyRecord]) -> Counter[int]:
    """
    How many are wrapped by which version, counted one by one.
    """
    return Counter(one.wrapped.key_version for one in records)


def all_open(place: Place) -> bool:
    """
    Whether every data key of before is the same today.
    """
    records = place.records()
    found = place.service.unwrap([(one.wrapped, one.context) for one in records])
    return len(records) == len(place.plain) and all(
        require_result(key) == place.plain[one.data_key_id]
        for one, key in zip(records, found, strict=True)
    )


def test_rotation_under_load_with_a_job_that_is_killed_twice(tmp_path):
    """Nothing fails to open, what remains is counted exactly, and no data key is done twice."""
    place = Place(tmp_path)
    total = len(TENANTS) * KEYS_EACH
    with Load(place) as load:
        with killed_in_the_middle(place, "--rotate"):
            first = versions(place.records())[1]
        with killed_in_the_middle(place):
            second = versions(place.records())[1]
        status, said = place.job_to_the_end()
        after = place.left()

    assert load.errors == []
    assert load.counts["opened"] > 0
    assert total > first > second > 0 == after
    assert (status, "none remains" in said) == (0, True)
    assert versions(place.records()) == {2: total}
    assert {one.revision for one in place.records()} == {2}
    assert all_open(place)


def test_what_remains_is_exact_after_a_kill(tmp_path):
    """The inventory agrees with a count of every row, and refuses to let the version go."""
    place = Place(tmp_path)

    with killed_in_the_middle(place, "--rotate"):
        counted = versions(place.records())
        told: Counter[int] = Counter()
        for one in key_uses(place.store):
            told[one.key_version] += one.data_keys

    assert told == counted
    assert place.left() == counted[1] > 0
    last = TENANTS[-1]
    with pytest.raises(KeyServiceError) as refused:
        ensure_retirable(place.service, place.store, last, 1)
    assert refused.value.code == "key_version_in_use"
    assert all_open(place)


def test_control_a_job_that_begins_again_without_looking_does_it_twice(tmp_path):
    """Control: a loop that rewraps whatever it finds repeats what was done before the kill."""
    place = Place(tmp_path)
    for tenant_id in TENANTS:
        place.service.rotate(tenant_id)

    def naive(stop_after: int) -> None:
        for number, record in enumerate(place.records()):
            if number == stop_after:
                return
            (new,) = place.service.rewrap([(record.wrapped, record.context)])
            changed = replace(record, wrapped=require_result(new))
            place.store.replace(changed, revision=record.revision)

    naive(stop_after=50)
    naive(stop_after=1_000_000)

    assert Counter(one.revision for one in place.records())[3] == 50
