"""
Gate G6: one tenant is shredded while four processes have its keys in their caches.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("cryptography")

from twh_platform import Tenant, bind_tenant
from twh_platform.errors import KeyDestroyedError
from twh_platform.kms import (
    DataKeyStore,
    LocalKeyService,
    SqliteDataKeyStore,
    TenantCipher,
    create_keyset,
    to_text,
)
from twh_platform.kms.lifecycle import FileShredJournal, shred

PROCESSES = 4
MAX_AGE = 2.0
PATIENCE = 60.0
ROOT = Path(__file__).parents[3]


class Place:
    """
    A keyset, a store of data keys, and a sealed value for each of two tenants.
    """

    def __init__(self, folder: Path, store: DataKeyStore | None = None) -> None:
        self.folder = folder
        self.keyset, self.data_keys = folder / "keyset.json", folder / "keys.sqlite"
        create_keyset(self.keyset)
        self.service = LocalKeyService(self.keyset)
        self.store = store or SqliteDataKeyStore(self.data_keys)
        self.cipher = TenantCipher(self.service, self.store)
        self.sealed = {}
        for tenant_id in ("acme", "globex"):
            with bind_tenant(Tenant(id=tenant_id)):
                self.sealed[tenant_id] = self.cipher.seal(b"GB29", {"column": "iban"})

    def shred(self, store: DataKeyStore | None = None) -> Any:
        """
        Shred acme.
        """
        return shred(
            "acme",
            service=self.service,
            store=store or self.store,
            journal=FileShredJournal(self.folder / "receipts"),
            cipher=self.cipher,
            cache_seconds=MAX_AGE,
        )


@contextmanager
def workers(
    place: Place, *, store: str | None = None, max_age: float = MAX_AGE
) -> Iterator[list[subprocess.Popen[str]]]:
    """
    Processes that open both values all the time; each has said that it is warm.
    """
    values = [f"{tenant_id}:{to_text(sealed)}" for tenant_id, sealed in place.sealed.items()]
    command = [sys.executable, "-m", "tests.support.key_worker"]
    arguments = [str(place.keyset), store or str(place.data_keys), str(max_age), *values]
    started = [
        subprocess.Popen(
            [*command, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        for _ in range(PROCESSES)
    ]
    try:
        for one in started:
            assert heard(one) == {"warm": ["acme", "globex"]}
        yield started
    finally:
        for one in started:
            one.kill()
            one.communicate()


def heard(process: subprocess.Popen[str]) -> dict[str, Any]:
    """
    The next line of a process.
    """
    assert process.stdout is not None
    found: dict[str, Any] = json.loads(process.stdout.readline())
    return found


def ended(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    """
    What a process says until its end.
    """
    rest, _ = process.communicate(timeout=PATIENCE)
    return [json.loads(line) for line in rest.splitlines()]


def test_processes_that_are_not_told_refuse_within_the_age_of_their_caches(tmp_path):
    """Every one of them opens the value before, and none when its keys have come of age."""
    place = Place(tmp_path)
    with workers(place) as processes:
        time.sleep(MAX_AGE / 2)
        place.shred()
        shredded = time.time()
        refusals = [heard(one) for one in processes]
        time.sleep(MAX_AGE)
        said = [ended(one) for one in processes]

    assert {(one["refused"], one["code"]) for one in refusals} == {("acme", "data_key_destroyed")}
    latest = max(one["at"] for one in refusals) - shredded
    assert latest <= MAX_AGE + 1.0
    assert min(one["last"] for one in refusals) > 0
    assert [list(one) for lines in said for one in lines] == [["opened"]] * PROCESSES


def test_the_other_tenant_does_not_notice(tmp_path):
    """Not one opening of the other tenant's value fails, before and after."""
    place = Place(tmp_path)
    with workers(place) as processes:
        place.shred()
        for one in processes:
            assert heard(one)["refused"] == "acme"
        time.sleep(MAX_AGE)
        said = [ended(one)[-1]["opened"] for one in processes]

    assert min(one["globex"] for one in said) > max(one["acme"] for one in said)
    with bind_tenant(Tenant(id="globex")):
        assert place.cipher.open(place.sealed["globex"], {"column": "iban"}) == b"GB29"


def test_a_process_that_starts_later_is_refused(tmp_path):
    """With a cold cache there is nothing to open with."""
    place = Place(tmp_path)
    place.shred()
    cold = TenantCipher(LocalKeyService(place.keyset), SqliteDataKeyStore(place.data_keys))

    with bind_tenant(Tenant(id="acme")), pytest.raises(KeyDestroyedError):
        cold.open(place.sealed["acme"], {"column": "iban"})


def test_a_shred_that_is_killed_is_ended_by_the_next(tmp_path):
    """The command is killed at many moments; run once more it destroys, proves, and agrees."""
    place = Place(tmp_path)
    command = [sys.executable, "-m", "twh_platform.cli", "kms", "shred", "acme", "--yes"]
    folder = tmp_path / "receipts"
    where = ["--keyset", str(place.keyset), "--data-keys", str(place.data_keys)]
    arguments = [*where, "--receipts", str(folder)]
    for moment in (0.25, 0.3, 0.35, 0.4, 0.5):
        process = subprocess.Popen([*command, *arguments], stdout=subprocess.DEVNULL)
        time.sleep(moment)
        process.kill()
        process.wait()

    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=True)

    assert "tenant acme: destroyed" in done.stdout
    assert (folder / "acme.receipt.json").is_file()
    assert place.store.shredded("acme")
    with bind_tenant(Tenant(id="globex")):
        assert place.cipher.open(place.sealed["globex"], {"column": "iban"}) == b"GB29"


def test_processes_that_are_told_refuse_at_once(tmp_path, request):
    """With caches that live for ten minutes, PostgreSQL's notification ends them in seconds."""
    pytest.importorskip("psycopg")
    from tests.integration.kms._house import built
    from tests.support.postgres_keys import APP, KEEPER

    with built(request.getfixturevalue("twh_postgres")) as house:
        place = Place(tmp_path, store=house.store(APP))
        keeper = house.store(KEEPER)
        with workers(place, store=house.dsn(APP), max_age=600.0) as processes:
            receipt = place.shred(store=keeper)
            shredded = receipt.finished.timestamp()
            refusals = [heard(one) for one in processes]
            said = [ended(one) for one in processes]

    assert {(one["refused"], one["code"]) for one in refusals} == {("acme", "data_key_destroyed")}
    assert max(one["at"] for one in refusals) - shredded < 5.0
    assert [list(one) for lines in said for one in lines] == [["opened"]] * PROCESSES
    assert receipt.data_keys == 1


def test_the_commands_work_on_postgresql(tmp_path, request, capsys):
    """An administrator of keys rotates, rewraps, asks and shreds; an auditor finds the tenants."""
    pytest.importorskip("psycopg")
    from tests.integration.kms._house import built
    from tests.support.postgres_keys import APP, AUDITOR, KEEPER
    from twh_platform.cli import main

    with built(request.getfixturevalue("twh_postgres")) as house:
        place = Place(tmp_path, store=house.store(APP))
        where = ["--keyset", str(place.keyset), "--dsn", house.dsn(KEEPER)]
        all_of_them = [*where, "--auditor-dsn", house.dsn(AUDITOR)]
        assert main(["kms", "rewrap", "--rotate", *all_of_them]) == 0
        assert main(["kms", "status", *all_of_them]) == 0
        assert main(["kms", "status", "--tenant", "acme", "--retire", "1", *where]) == 0
        assert main(["kms", "status", *where]) == 2
        words = ["kms", "shred", "acme", "--yes", "--receipts", str(tmp_path / "receipts")]
        assert main([*words, *where]) == 0

    said = capsys.readouterr().out
    assert "2 data keys of 2 tenants: 2 rewrapped" in said
    assert "tenant acme: destroyed" in said
