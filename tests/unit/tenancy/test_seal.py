"""
Tokens and the file of the key: what is written, believed, remembered and hidden.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import os

import pytest

from twh_platform.errors import ConfigurationError
from twh_platform.tenancy.postgres import Seal, SealKey, read_seal_key, write_seal_key

KEY = SealKey(id="a1b2", secret=bytes(range(32)))
NEXT = SealKey(id="c3d4", secret=bytes(32))
NOW = 1_700_000_000.0


@pytest.fixture
def key_file(tmp_path):
    """A file with the key."""
    path = tmp_path / "seal.key"
    write_seal_key(path, KEY)
    return path


def test_token_is_the_format_and_its_code():
    """A token is version, key, expiry, tenant, and HMAC-SHA256 over them."""
    payload = "1a1b21700000060acme"
    code = hmac.new(KEY.secret, payload.encode(), hashlib.sha256).hexdigest()

    assert KEY.token("acme", expires_at=1_700_000_060) == f"{payload}.{code}"


@pytest.mark.parametrize("expires_at", [-1, 10**10])
def test_expiry_keeps_its_width(expires_at):
    """An expiry of other than ten digits would move into the tenant's id."""
    with pytest.raises(ConfigurationError):
        KEY.token("acme", expires_at=expires_at)


@pytest.mark.parametrize("key_id", ["", "a1b", "A1B2", "a1b2c", "a1b.", "a1b2\n"])
def test_key_ids_are_four_digits(key_id):
    """Anything else as a key's id is refused."""
    with pytest.raises(ConfigurationError) as caught:
        SealKey(id=key_id, secret=bytes(32))

    assert caught.value.code == "seal_key_invalid"


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_secrets_are_32_bytes(length):
    """A secret of another length is refused, and is not in the message."""
    secret = b"\xabS" * (length // 2) + b"S" * (length % 2)
    with pytest.raises(ConfigurationError) as caught:
        SealKey(id="a1b2", secret=secret)

    assert caught.value.code == "seal_key_invalid"
    assert "\\xab" not in str(caught.value)


def test_secret_is_hidden(key_file):
    """Neither a key nor a seal shows the secret or the path of its file."""
    shown = repr(KEY) + repr(Seal(KEY)) + repr(Seal.from_file(key_file)) + str(KEY)

    assert "a1b2" in shown
    for form in (repr(KEY.secret), KEY.secret.hex(), base64.b64encode(KEY.secret).decode()):
        assert form not in shown


@pytest.mark.parametrize("lifetime", [1.9, 0, -60, 86_401, float("nan"), float("inf")])
def test_lifetime_has_bounds(lifetime):
    """A life too short to use, or without an end, is refused."""
    with pytest.raises(ConfigurationError):
        Seal(KEY, lifetime=lifetime)


def test_token_is_used_for_half_its_life(twh_clock):
    """The same token for the first half, another one after it."""
    seal = Seal(KEY, lifetime=60, clock=twh_clock)
    first = seal.token("acme")
    twh_clock.advance(29.9)
    assert seal.token("acme") == first

    twh_clock.advance(0.2)
    assert seal.token("acme") == KEY.token("acme", expires_at=1_700_000_090)


def test_each_tenant_has_its_token(twh_clock):
    """Tokens of two tenants do not mix."""
    seal = Seal(KEY, clock=twh_clock)
    tokens = {tenant: seal.token(tenant) for tenant in ("acme", "globex", "acme-2")}

    for tenant, token in tokens.items():
        assert token == KEY.token(tenant, expires_at=1_700_000_060)
        assert seal.token(tenant) == token


def test_another_key_is_used_at_once(twh_clock):
    """No token of the old key is given out after `use`."""
    seal = Seal(KEY, clock=twh_clock)
    seal.token("acme")
    seal.use(NEXT)

    assert seal.key is NEXT
    assert seal.token("acme") == NEXT.token("acme", expires_at=1_700_000_060)


def test_what_is_remembered_is_bounded(twh_clock):
    """However many tenants come, a few thousand tokens are kept."""
    seal = Seal(KEY, clock=twh_clock)
    for number in range(10_000):
        seal.token(f"t{number}")

    assert len(seal._tokens) <= 4096


def test_file_is_read_back(key_file):
    """What is written is read, and only its owner may read it."""
    assert read_seal_key(key_file) == KEY
    assert key_file.stat().st_mode & 0o777 == 0o600
    assert key_file.read_text().startswith("twh-seal-1 a1b2 ")


def test_file_is_replaced_whole(key_file):
    """A reader that has the old file open goes on reading it; nothing else is left."""
    with key_file.open() as old:
        write_seal_key(key_file, NEXT)
        assert "a1b2" in old.read()

    assert read_seal_key(key_file) == NEXT
    assert list(key_file.parent.iterdir()) == [key_file]


def test_failed_write_leaves_the_old_key(key_file, monkeypatch):
    """If the disk is full the old key stays, and no half of the new one."""

    def full(_descriptor: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)  # a mock: disks are not full on demand
    with pytest.raises(OSError, match="no space"):
        write_seal_key(key_file, NEXT)

    assert read_seal_key(key_file) == KEY
    assert list(key_file.parent.iterdir()) == [key_file]


GOOD = base64.b64encode(bytes(32)).decode()


@pytest.mark.parametrize(
    "content",
    [
        "",
        "twh-seal-1",
        f"twh-seal-2 a1b2 {GOOD}",
        f"twh-seal-1 A1B2 {GOOD}",
        f"twh-seal-1 a1b2 {GOOD[:-4]}",
        f"twh-seal-1 a1b2 {GOOD} more",
        f"twh-seal-1 a1b2 {GOOD[:-1]}",
        f"twh-seal-1 a1b2 *{GOOD[1:]}",
        "twh-seal-1 a1b2 é",
        f"twh-seal-1 a1b2 {GOOD}" + " " * 200,
        "\0" * 50,
    ],
)
def test_other_files_are_refused(tmp_path, content):
    """What is no key is refused in one way, and not shown."""
    path = tmp_path / "seal.key"
    path.touch(mode=0o600)
    path.write_text(content)
    with pytest.raises(ConfigurationError) as caught:
        read_seal_key(path)

    assert caught.value.code == "seal_key_invalid"
    assert GOOD[:20] not in str(caught.value)


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o601, 0o666])
def test_file_for_everybody_is_refused(key_file, mode):
    """A file that others may reach is refused, and the message says what to do."""
    key_file.chmod(mode)
    with pytest.raises(ConfigurationError, match="chmod 600") as caught:
        read_seal_key(key_file)

    assert caught.value.code == "seal_key_invalid"


def test_file_of_a_group_is_read(key_file):
    """A group may read it: that is how secrets are mounted."""
    key_file.chmod(0o640)

    assert read_seal_key(key_file) == KEY


def test_missing_file_is_refused(tmp_path):
    """A file that is not there is refused like one that is no key."""
    with pytest.raises(ConfigurationError) as caught:
        Seal.from_file(tmp_path / "none")

    assert caught.value.code == "seal_key_invalid"


def test_new_key_is_taken_up_within_a_second(key_file, twh_clock):
    """The file is looked at once a second, and its new key is used from then on."""
    seal = Seal.from_file(key_file, clock=twh_clock)
    seal.token("acme")
    write_seal_key(key_file, NEXT)
    twh_clock.advance(0.9)
    assert seal.token("acme").startswith("1a1b2")

    twh_clock.advance(0.2)
    assert seal.token("acme").startswith("1c3d4")
    assert seal.key == NEXT


def test_key_that_changed_while_it_was_read(key_file, twh_clock, monkeypatch):
    """A key that is written right after the first was read is not missed."""
    from twh_platform.tenancy.postgres import _seal

    def read_then_change(path):
        key = read_seal_key(path)
        write_seal_key(path, NEXT)
        return key

    monkeypatch.setattr(_seal, "read_seal_key", read_then_change)  # a mock: it is a race
    seal = Seal.from_file(key_file, clock=twh_clock)
    monkeypatch.undo()
    twh_clock.advance(1)

    assert seal.token("acme").startswith("1c3d4")


@pytest.mark.parametrize("harm", ["remove", "spoil", "open"])
def test_last_key_stays(key_file, twh_clock, caplog, harm):
    """If the file is gone, broken or open to all, the last key is used and a warning logged."""
    seal = Seal.from_file(key_file, clock=twh_clock)
    harms = {
        "remove": key_file.unlink,
        "spoil": lambda: key_file.write_text("nonsense"),
        "open": lambda: key_file.chmod(0o644),
    }
    harms[harm]()
    twh_clock.advance(1)
    with caplog.at_level(logging.WARNING):
        assert seal.token("acme") == KEY.token("acme", expires_at=1_700_000_061)
    assert "a1b2" in caplog.text

    key_file.unlink(missing_ok=True)
    write_seal_key(key_file, NEXT)
    twh_clock.advance(1)
    assert seal.token("acme").startswith("1c3d4")
