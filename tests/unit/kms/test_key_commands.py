"""
The commands on keys: what they say, and how they end.
"""

from __future__ import annotations

import io
from argparse import Namespace
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("cryptography")

from twh_platform import Tenant, bind_tenant
from twh_platform.cli import main
from twh_platform.cli._keys import key_service
from twh_platform.cli._progress import ProgressBar
from twh_platform.errors import ConfigurationError, KeyNotFoundError
from twh_platform.kms import (
    DataKeyRecord,
    KeyContext,
    LocalKeyService,
    SqliteDataKeyStore,
    TenantCipher,
    create_keyset,
)
from twh_platform.kms._service import require_result
from twh_platform.kms.lifecycle import JobProgress, remaining, rewrap

TOKEN = '[auth]\nmethod = "token"\nfile = "token"\n'


class Place:
    """
    A keyset and a store of data keys in files, with a sealed value of two tenants.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.keyset, self.data_keys = folder / "keyset.json", folder / "keys.sqlite"
        create_keyset(self.keyset)
        service, store = LocalKeyService(self.keyset), SqliteDataKeyStore(self.data_keys)
        self.cipher = TenantCipher(service, store)
        self.where = ["--keyset", str(self.keyset), "--data-keys", str(self.data_keys)]
        for tenant_id in ("acme", "globex"):
            with bind_tenant(Tenant(id=tenant_id)):
                self.cipher.seal(b"x", {})

    def run(self, *words: str) -> int:
        """
        Run a command of `kms` on these files.
        """
        return main(["kms", *words, *self.where])

    def shred(self, *more: str) -> int:
        """
        Shred acme.
        """
        return self.run("shred", "acme", "--receipts", str(self.folder / "receipts"), *more)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """
    Files with keys.
    """
    return Place(tmp_path)


def test_status_tells_what_is_in_use(place, capsys):
    """A line for each tenant and version, with the version that wraps if it is another."""
    assert place.run("rewrap", "--rotate", "--tenant", "acme") == 0
    capsys.readouterr()
    LocalKeyService(place.keyset).rotate("globex")

    assert place.run("status") == 0

    acme, globex = capsys.readouterr().out.splitlines()
    assert acme.startswith("acme: 1 data key by version 2 of local ")
    assert globex.endswith("; 2 wraps")


def test_a_version_in_use_is_told_with_its_count(place, capsys):
    """No, and how many, and 1; after the rewrap yes, and 0."""
    LocalKeyService(place.keyset).rotate("acme")

    assert place.run("status", "--tenant", "acme", "--retire", "1") == 1
    assert "still wraps 1 data key of tenant 'acme'" in capsys.readouterr().out
    assert place.run("rewrap") == 0
    assert place.run("status", "--tenant", "acme", "--retire", "1") == 0
    assert "yes: " in capsys.readouterr().out


def test_to_retire_needs_one_tenant(place, capsys):
    """Each tenant has versions of its own."""
    assert place.run("status", "--retire", "1") == 2

    assert "one --tenant" in capsys.readouterr().err


def test_rewrap_goes_on_at_its_cursor(place, capsys):
    """The file says where, is not believed if it is another file, and goes at the end."""
    cursor = place.folder / "cursor"
    cursor.write_text("globex:" + "00" * 16 + "\n")

    assert place.run("rewrap", "--rotate", "--cursor", str(cursor)) == 0

    out = capsys.readouterr().out
    assert f"going on at {cursor}: nothing is rotated\n1 data key of 1 tenant:" in out
    assert not cursor.exists()
    cursor.write_text("something else")
    assert place.run("rewrap", "--cursor", str(cursor)) == 2


def test_what_cannot_be_rewrapped_is_told(place, capsys):
    """By its code, with the tenants that remain, and 1."""
    service = LocalKeyService(place.keyset)
    service.rotate("acme")
    service.disable("acme")

    assert place.run("rewrap") == 1

    out = capsys.readouterr().out
    assert "1 failed: key_disabled" in out
    assert "acme: 1 remains\n" in out


def late_data_keys(place: Place, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """
    Has data keys of version 1 stored behind the place of a run, one at each page of acme's.

    A stand-in for services that wrapped them before a rotation and are slow to store.
    """
    service, store = LocalKeyService(place.keyset), SqliteDataKeyStore(place.data_keys)
    names = [bytes([*bytes(15), number]) for number in range(count)]
    contexts = [KeyContext(tenant_id="acme", purpose="data", data_key_id=one) for one in names]
    made = [require_result(one).wrapped for one in service.generate(contexts)]
    waiting = list(zip(names, made, strict=True))
    inner = LocalKeyService.rewrap

    def rewrap_and_add(self: LocalKeyService, keys: Sequence[Any]) -> list[Any]:
        if waiting and keys[0][1].tenant_id == "acme":
            name, wrapped = waiting.pop()
            record = DataKeyRecord(
                tenant_id="acme",
                data_key_id=name,
                purpose="data",
                wrapped=wrapped,
                shared=False,
                created_at=datetime.now(UTC),
            )
            store.add(record)
        return inner(self, keys)

    monkeypatch.setattr(LocalKeyService, "rewrap", rewrap_and_add)


@pytest.mark.parametrize("late", [1, 2])
def test_what_is_stored_behind_the_place_is_rewrapped(late, place, monkeypatch, capsys):
    """By another pass from the start, before the command says how it ended."""
    late_data_keys(place, monkeypatch, late)

    assert place.run("rewrap", "--rotate") == 0

    out = capsys.readouterr().out
    assert out.count("1 remains: once more from the start\n") == late
    assert out.count("3 data keys of 2 tenants: 1 rewrapped, 2 were current") == 1
    assert out.endswith("none remains\n")


def test_control_one_pass_leaves_what_is_stored_behind_its_place(place, monkeypatch):
    """It has come to its end, nothing failed, and one remains."""
    late_data_keys(place, monkeypatch, 1)
    service, store = LocalKeyService(place.keyset), SqliteDataKeyStore(place.data_keys)
    service.rotate("acme")

    report = rewrap(service, store)

    assert (report.complete, remaining(service, store, "acme")) == (True, 1)


def test_a_rotation_that_is_not_finished_is_not_begun_again(place, monkeypatch, capsys):
    """After three passes it ends with 1; the same command then ends it, and the next rotates."""
    late_data_keys(place, monkeypatch, 3)
    again = ["rewrap", "--rotate", "--cursor", str(place.folder / "cursor")]

    assert place.run(*again) == 1
    out = capsys.readouterr().out
    assert out.endswith("acme: 1 remains\n")
    assert out.count("once more") == 2

    assert place.run(*again, "--tenant", "acme") == 0
    out = capsys.readouterr().out
    assert out.startswith("acme: not rotated again, version 2 waits for 1 data key\n")
    assert out.endswith("none remains\n")

    assert place.run(*again, "--tenant", "acme") == 0
    assert capsys.readouterr().out.startswith("acme: version 3 wraps\n")


def test_who_is_finished_is_rotated_beside_who_is_not(place, capsys):
    """What waits at one tenant keeps no other from a new version."""
    LocalKeyService(place.keyset).rotate("acme")

    assert place.run("rewrap", "--rotate") == 0

    out = capsys.readouterr().out
    assert out.startswith("acme: not rotated again, version 2 waits for 1 data key\n")
    assert "globex: version 2 wraps\n2 data keys of 2 tenants: 2 rewrapped" in out


def test_what_failed_is_not_tried_again_at_once(place, capsys):
    """A pass more would be refused as the last one was."""
    service = LocalKeyService(place.keyset)
    service.rotate("acme")
    service.disable("acme")

    assert place.run("rewrap") == 1

    assert "once more" not in capsys.readouterr().out


def test_who_was_shredded_does_not_keep_others_from_a_rotation(place, capsys):
    """Of all tenants it is passed over, and told; by its name it is refused."""
    assert place.shred("--yes") == 0
    capsys.readouterr()

    assert place.run("rewrap", "--rotate") == 0

    out = capsys.readouterr().out
    assert out.startswith("acme: passed over, its keys are destroyed\nglobex: version 2 wraps\n")
    assert "1 data key of 2 tenants: 1 rewrapped" in out
    assert place.run("rewrap", "--rotate", "--tenant", "acme") == 2


@pytest.mark.parametrize("shredded", [True, False])
def test_a_key_that_is_not_found_keeps_nobody_from_a_rotation(shredded, place, capsys):
    """A service that forgets destroyed keys knows none: what the store says of it counts."""
    if shredded:
        SqliteDataKeyStore(place.data_keys).destroy("acme")
    new = place.folder / "new.json"
    create_keyset(new, tenants=("globex",))
    where = ["--keyset", str(new), "--data-keys", str(place.data_keys)]
    more = ["--from-keyset", str(place.keyset)]

    assert main(["kms", "rewrap", "--rotate", *where, *more]) == (0 if shredded else 1)

    out = capsys.readouterr().out
    assert "globex: version 2 wraps" in out
    assert ("acme: passed over" in out) == shredded
    assert ("acme: not rotated, key_not_found" in out) == (not shredded)
    assert ("acme: 1 remains" in out) == (not shredded)


def test_a_tenant_is_added_to_a_keyset(place, capsys):
    """Once, however often it is asked for; who is in it is left alone."""
    where = ["--keyset", str(place.keyset)]
    with pytest.raises(KeyNotFoundError):
        LocalKeyService(place.keyset).describe("initech")

    assert main(["kms", "add-tenant", "initech", "acme", "initech", *where]) == 0

    made, there = capsys.readouterr().out.splitlines()
    assert made.startswith("initech: made, local ")
    assert there.startswith("acme: is there, local ")
    assert LocalKeyService(place.keyset).describe("initech").version == 1


@pytest.mark.parametrize("tenant_id", ["acme", "../x"])
def test_a_tenant_that_cannot_be_is_not_added(tenant_id, place, capsys):
    """One that was shredded, or what is no id."""
    place.shred("--yes")
    before = place.keyset.read_bytes()

    assert main(["kms", "add-tenant", tenant_id, "--keyset", str(place.keyset)]) == 2

    assert place.keyset.read_bytes() == before


def test_data_keys_move_from_another_keyset(place, capsys):
    """With --from-keyset what the other one wrapped is taken over."""
    new = place.folder / "new.json"
    create_keyset(new, tenants=("acme", "globex"))
    where = ["--keyset", str(new), "--data-keys", str(place.data_keys)]

    assert main(["kms", "rewrap", "--from-keyset", str(place.keyset), "--check", *where]) == 0

    assert "2 rewrapped" in capsys.readouterr().out
    cipher = TenantCipher(LocalKeyService(new), SqliteDataKeyStore(place.data_keys))
    with bind_tenant(Tenant(id="acme")):
        assert cipher.open(place.cipher.seal(b"y", {}), {}) == b"y"


def test_shred_writes_a_receipt_that_is_verified(place, capsys):
    """It says what was done; the receipt is in the folder, and is one."""
    assert place.shred("--yes") == 0
    receipt = place.folder / "receipts" / "acme.receipt.json"
    first = receipt.read_bytes()
    assert "tenant acme: destroyed at" in capsys.readouterr().out

    assert main(["kms", "receipt", str(receipt), "--keyset", str(place.keyset)]) == 0
    assert "canary refused: key_destroyed" in capsys.readouterr().out
    assert place.shred("--yes") == 0
    assert receipt.read_bytes() == first


def test_a_forged_receipt_is_none(place, capsys):
    """One letter is enough."""
    place.shred("--yes")
    receipt = place.folder / "receipts" / "acme.receipt.json"
    receipt.write_text(receipt.read_text().replace("acme", "acne"))

    assert main(["kms", "receipt", str(receipt), "--keyset", str(place.keyset)]) == 1

    assert "not a receipt" in capsys.readouterr().out


def test_without_a_yes_nothing_is_shredded(place, capsys):
    """Where nobody can be asked it is refused."""
    assert place.shred() == 2

    assert "give --yes" in capsys.readouterr().err
    assert not SqliteDataKeyStore(place.data_keys).shredded("acme")


@pytest.mark.parametrize(("typed", "status"), [("acme\n", 0), ("globex\n", 2), ("", 2)])
def test_on_a_terminal_the_id_is_typed_once_more(typed, status, place, monkeypatch):
    """The id itself, and no other word, is the yes."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal(typed))

    assert place.shred() == status
    assert SqliteDataKeyStore(place.data_keys).shredded("acme") == (status == 0)


def test_a_tenant_that_is_none_is_not_shredded(place, capsys):
    """A wrong name makes nothing, and destroys nothing."""
    folder = place.folder / "receipts"

    assert place.run("shred", "acne", "--yes", "--receipts", str(folder)) == 2

    assert not folder.exists()
    assert "acne" in capsys.readouterr().err


def test_a_key_service_is_described_in_a_file(place, capsys):
    """A file of TOML in the place of the keyset."""
    described = place.folder / "service.toml"
    described.write_text(f'provider = "local"\nkeyset = "{place.keyset}"\n')

    words = ["--service", str(described), "--data-keys", str(place.data_keys)]
    assert main(["kms", "status", *words]) == 0

    assert capsys.readouterr().out.count("version 1 of local") == 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nothing",
        'provider = "oracle"',
        "provider = []",
        'provider = "local"',
        'provider = "local"\nkeyset = "x"\ntoken = "t"',
        'provider = "local"\nkeyset = "{keyset}"\ncreate_missing = true',
        'provider = "local"\nkeyset = "{keyset}"\n[auth]\nmethod = "token"',
        'provider = "vault"\naddress = "https://v"\ncreate_missing = true\n' + TOKEN,
        'provider = "vault"\naddress = "https://v"\nkeyset = "x"\n' + TOKEN,
        'provider = "vault"\naddress = "https://v"\n' + TOKEN + 'role = "x"',
        'provider = "vault"\naddress = "https://v"',
        'provider = "vault"\naddress = "https://v"\nauth = 1',
        'provider = "vault"\naddress = "https://v"\n[auth]\nmethod = "userpass"',
        'provider = "vault"\naddress = "https://v"\n[auth]\nmethod = "token"\ntoken = "t"',
        'provider = "vault"\naddress = "https://v"\n[auth]\nmethod = "approle"',
        'provider = "aws"\nsecret_key = "x"',
        'provider = "aws"\nregion = "eu-west-1"',
        'provider = "aws"\nkey = "alias/{tenant}"\nallowed = ["x"]\ncreate_missing = true',
    ],
)
def test_a_wrong_description_is_refused(text, place, capsys):
    """What is missing, unknown, or a secret that stands where it should not."""
    pytest.importorskip("hvac")
    pytest.importorskip("boto3")
    described = place.folder / "service.toml"
    described.write_text(text.replace("{keyset}", str(place.keyset)))

    words = ["--service", str(described), "--data-keys", str(place.data_keys)]
    assert main(["kms", "status", *words]) == 2

    assert "service.toml" in capsys.readouterr().err
    with pytest.raises(ConfigurationError) as refused, key_service(Namespace(service=described)):
        pass
    assert refused.value.code == "key_service_invalid"


@pytest.mark.parametrize("missing", ["--keyset", "--data-keys"])
def test_what_is_not_given_is_asked_for(missing, place, monkeypatch, capsys):
    """The message names the options and the variables."""
    for name in ("TWH_KEYSET", "TWH_DATA_KEYS", "TWH_OWNER_DSN"):
        monkeypatch.delenv(name, raising=False)
    at = place.where.index(missing)

    assert main(["kms", "status", *place.where[:at], *place.where[at + 2 :]]) == 2

    assert missing in capsys.readouterr().err


def test_the_environment_says_where(place, monkeypatch, capsys):
    """Without options the variables are taken."""
    monkeypatch.setenv("TWH_KEYSET", str(place.keyset))
    monkeypatch.setenv("TWH_DATA_KEYS", str(place.data_keys))

    assert main(["kms", "status"]) == 0

    assert "acme: 1 data key by" in capsys.readouterr().out


def test_a_file_that_is_not_there_is_not_made(place, capsys):
    """A wrong name is not told as "no data keys"."""
    where = ["--keyset", str(place.keyset), "--data-keys", str(place.folder / "keyz.sqlite")]

    assert main(["kms", "status", *where]) == 2

    assert "no file of data keys" in capsys.readouterr().err
    assert not (place.folder / "keyz.sqlite").exists()


def test_the_bar_is_drawn_on_a_terminal_only():
    """Elsewhere nothing is written, and nothing is counted."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    progress = JobProgress(tenant_id="acme", looked=5, changed=4, failed=1, cursor=None)
    seen, hidden = Terminal(), io.StringIO()
    ProgressBar(lambda: 10, out=seen)(progress)
    ProgressBar(lambda: 1 // 0, out=hidden)(progress)

    assert "50%  5/10, 1 failed  acme" in seen.getvalue()
    assert hidden.getvalue() == ""
