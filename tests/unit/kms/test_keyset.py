"""
A keyset as a value and as a document: what may become of it, and what is refused.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import pickle
import traceback
from dataclasses import replace
from datetime import UTC, datetime

import pytest

pytest.importorskip("cryptography")

from twh_platform.errors import (
    ConfigurationError,
    KeyDestroyedError,
    KeyDisabledError,
    KeyNotFoundError,
)
from twh_platform.kms import Keyset, KeyState, LocalKeyService
from twh_platform.kms import _keyset_document as documents
from twh_platform.kms._keyset_document import Passphrase, decode_keyset, encode_keyset

NOW = datetime(2026, 1, 2, tzinfo=UTC)
PHRASE = "correct horse battery staple"


@pytest.fixture(autouse=True)
def _cheap(monkeypatch):
    monkeypatch.setattr(documents, "SCRYPT_N", 2**10)


@pytest.fixture
def keyset():
    """Three tenants: one rotated, one disabled, one destroyed."""
    made = Keyset.new().created("acme", "globex", "initech", now=NOW)
    made = made.rotated("acme").turned("globex", KeyState.DISABLED)
    return made.destroyed("initech", now=NOW)


def redone(document, **changes):
    """An unprotected document whose body was changed, with a checksum that fits."""
    fields = json.loads(document)
    fields["body"].update(changes)
    canonical = json.dumps(fields["body"], sort_keys=True, separators=(",", ":"))
    fields["checksum"] = hashlib.sha256(canonical.encode()).hexdigest()
    return json.dumps(fields).encode()


def refusal(document, passphrase=None):
    """The code that a document is refused with."""
    with pytest.raises(ConfigurationError) as caught:
        decode_keyset(document, passphrase)
    return caught.value.code


def test_a_keyset_starts_empty():
    """No tenant has a key, and nothing of it is shown."""
    made = Keyset.new()

    assert dict(made.keys) == {}
    assert repr(made) == "Keyset(revision=1)"
    with pytest.raises(KeyNotFoundError):
        made.usable("acme")


def test_a_key_that_exists_is_not_made_again(keyset):
    """Creating what is there, destroyed or not, changes nothing."""
    assert keyset.created("acme", "globex", "initech") is keyset


def test_a_rotation_that_another_made_is_taken_over(keyset):
    """Who saw version 1 while 2 is there does not make 3."""
    assert keyset.rotated("acme", seen=1) is keyset
    assert keyset.rotated("acme", seen=2).key("acme").version == 3


def test_a_disabled_key_is_neither_used_nor_rotated(keyset):
    """It may be enabled, and destroyed."""
    with pytest.raises(KeyDisabledError):
        keyset.usable("globex")
    with pytest.raises(KeyDisabledError):
        keyset.rotated("globex")

    assert keyset.turned("globex", KeyState.ENABLED).usable("globex").version == 1
    assert keyset.destroyed("globex").key("globex").state is KeyState.DESTROYED


def test_a_tombstone_has_no_material(keyset):
    """It tells when, and no call brings the key back."""
    info = keyset.info("initech")

    assert (info.state, info.versions, info.destroyed_at) == (KeyState.DESTROYED, (), NOW)
    for change in (
        lambda: keyset.rotated("initech"),
        lambda: keyset.turned("initech", KeyState.ENABLED),
        lambda: keyset.usable("initech"),
    ):
        with pytest.raises(KeyDestroyedError):
            change()
    assert keyset.destroyed("initech") is keyset


def test_revisions_rise_with_each_change(keyset):
    """Five changes since the first revision, of which creating three was one."""
    assert keyset.revision == 5


def test_keys_are_not_pickled_or_shown(keyset):
    """Neither a keyset, nor a key, nor a passphrase leaves by pickle or repr."""
    material = keyset.key("acme").versions[1]
    for one in (keyset, keyset.key("acme"), Passphrase(PHRASE)):
        with pytest.raises(TypeError):
            pickle.dumps(one)
        with pytest.raises(TypeError):
            copy.deepcopy(one)
        assert repr(bytes(material))[2:-1] not in repr(one)
        assert PHRASE not in repr(one)


@pytest.mark.parametrize("phrase", [None, PHRASE])
def test_a_document_holds_all_of_a_keyset(phrase, keyset):
    """What was encoded is decoded to the same."""
    secret = Passphrase(phrase) if phrase else None
    document = encode_keyset(keyset, secret)

    assert decode_keyset(document, Passphrase(phrase) if phrase else None) == keyset
    assert document.endswith(b"}\n")


def test_under_a_passphrase_nothing_is_readable(keyset):
    """Neither material nor tenants stand in the sealed document; in the plain one both do."""
    material = base64.b64encode(keyset.key("acme").versions[1])

    assert material not in encode_keyset(keyset, Passphrase(PHRASE))
    assert b"acme" not in encode_keyset(keyset, Passphrase(PHRASE))
    assert material in encode_keyset(keyset)


def test_a_passphrase_is_needed_right_and_meant(keyset):
    """A wrong one, none, and one that is not needed are told apart."""
    sealed, plain = encode_keyset(keyset, Passphrase(PHRASE)), encode_keyset(keyset)

    assert refusal(sealed, Passphrase("another horse battery")) == "keyset_passphrase_wrong"
    assert refusal(sealed) == "keyset_passphrase_missing"
    assert refusal(plain, Passphrase(PHRASE)) == "keyset_passphrase_unused"
    with pytest.raises(ConfigurationError):
        Passphrase("too short")


def test_composed_and_decomposed_passphrases_are_one(keyset):
    """A keyboard that writes an accent as two characters opens the same keyset."""
    document = encode_keyset(keyset, Passphrase("caf\u00e9 caf\u00e9 caf\u00e9"))

    assert decode_keyset(document, Passphrase("cafe\u0301 " * 2 + "cafe\u0301")) == keyset


def test_any_change_of_a_sealed_document_is_refused(keyset):
    """Each field is authenticated: altered, it opens nothing."""
    document = json.loads(encode_keyset(keyset, Passphrase(PHRASE)))
    for name in document:
        changed = dict(document)
        if isinstance(changed[name], int):
            changed[name] *= 2
        elif name in {"format", "protection"}:
            changed[name] += "x"
        else:
            raw = bytearray(base64.b64decode(changed[name]))
            raw[0] ^= 1
            changed[name] = base64.b64encode(raw).decode()
        code = refusal(json.dumps(changed).encode(), Passphrase(PHRASE))

        assert code in {"keyset_damaged", "keyset_passphrase_wrong"}, name


def test_damage_of_a_plain_document_is_found(keyset):
    """The checksum is over the whole body."""
    document = encode_keyset(keyset)

    assert refusal(document.replace(b'"version":2', b'"version":1')) == "keyset_damaged"
    assert refusal(document[:-20]) == "keyset_damaged"
    assert refusal(document.replace(b"twh-keyset/1", b"twh-keyset/2")) == "keyset_damaged"


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "short"},
        {"id": 7},
        {"revision": 0},
        {"revision": True},
        {"revision": 2**32},
        {"root": "AAAA"},
        {"root": "not base64!"},
        {"more": 1},
        {"keys": []},
        {"keys": {"not/a/tenant": {}}},
        {"keys": {"acme": {}}},
        {"keys": {"acme": None}},
    ],
    ids=str,
)
def test_a_body_that_is_no_keyset_is_refused(changes, keyset):
    """Even with a checksum that fits, and never by another exception."""
    assert refusal(redone(encode_keyset(keyset), **changes)) == "keyset_damaged"


@pytest.mark.parametrize(
    ("tenant", "changes"),
    [
        ("acme", {"version": 1}),
        ("acme", {"versions": {}}),
        ("acme", {"versions": {"2": "AAAA"}}),
        ("acme", {"state": "destroying"}),
        ("acme", {"state": "unheard-of"}),
        ("acme", {"state": "destroyed"}),
        ("acme", {"destroyed_at": NOW.isoformat()}),
        ("acme", {"created_at": "2026-01-02"}),
        ("acme", {"created_at": 7}),
        ("acme", {"more": 1}),
        ("initech", {"state": "enabled"}),
        ("initech", {"destroyed_at": None}),
        ("initech", {"versions": {"1": base64.b64encode(bytes(32)).decode()}}),
    ],
    ids=str,
)
def test_a_key_that_contradicts_itself_is_refused(tenant, changes, keyset):
    """A tombstone with material, a newest version that is not there: all damage."""
    document = encode_keyset(keyset)
    keys = json.loads(document)["body"]["keys"]
    keys[tenant].update(changes)

    assert refusal(redone(document, keys=keys)) == "keyset_damaged"


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff",
        b"[" * 100_000,
        b'{"format":"twh-keyset/1"}',
        b'{"format":"twh-keyset/1","format":"twh-keyset/1"}',
        b'{"format":"twh-keyset/1","protection":"none","checksum":"","body":null}',
    ],
    ids=lambda one: repr(one[:40]),
)
def test_what_is_no_document_is_refused(document):
    """Whatever it is, the answer is the one error."""
    assert refusal(document) == "keyset_damaged"


@pytest.mark.parametrize(
    "costs",
    [
        {"n": 2**30, "r": 8},
        {"n": 2**17, "r": 1024},
        {"n": 3},
        {"n": 1},
        {"n": 0},
        {"n": -2},
        {"p": 2**31},
        {"r": 0},
        {"n": "1024"},
        {"n": True},
    ],
    ids=str,
)
def test_costs_are_bounded_before_they_are_paid(costs, keyset):
    """A file cannot make the process use up memory or time."""
    document = json.loads(encode_keyset(keyset, Passphrase(PHRASE)))

    changed = json.dumps({**document, **costs}).encode()
    assert refusal(changed, Passphrase(PHRASE)) == "keyset_damaged"


def test_scrypt_is_paid_once_for_a_file(keyset, monkeypatch):
    """Writing and reading again derives nothing anew, and no nonce is used twice."""
    derived = []
    real = hashlib.scrypt
    monkeypatch.setattr(hashlib, "scrypt", lambda *a, **k: derived.append(1) or real(*a, **k))
    secret = Passphrase(PHRASE)
    first = encode_keyset(keyset, secret)
    second = encode_keyset(replace(keyset, revision=9), secret)
    decode_keyset(second, secret)

    assert len(derived) == 1
    assert json.loads(first)["salt"] == json.loads(second)["salt"]
    assert json.loads(first)["nonce"] != json.loads(second)["nonce"]


def test_no_message_quotes_a_document(keyset):
    """What is wrong is told without what is in it."""
    secret = base64.b64encode(keyset.root).decode()
    document = encode_keyset(keyset).replace(b'"root"', b'"toor"')[:-3]
    with pytest.raises(ConfigurationError) as caught:
        decode_keyset(document)

    assert secret not in repr(caught.value)
    assert caught.value.__cause__ is None


def shown(error):
    """All that a traceback with locals tells, causes included; ours alone, not the test's."""
    found = traceback.TracebackException.from_exception(error, capture_locals=True)
    frames = []
    while found is not None:
        frames += [one for one in found.stack if "twh_platform" in one.filename]
        found = found.__cause__ or found.__context__
    return "".join(value for one in frames for value in (one.locals or {}).values())


def test_no_traceback_has_a_key_or_a_passphrase_among_its_locals(keyset, tmp_path):
    """Whatever is wrong with a keyset, its frames show none of it."""
    sealed, plain = encode_keyset(keyset, Passphrase(PHRASE)), encode_keyset(keyset)
    material = bytes(keyset.key("acme").versions[1])
    marks = [PHRASE, "a wrong", base64.b64encode(material).decode(), repr(material)[2:-1]]
    path = tmp_path / "keyset.json"
    told = []
    for document, phrase in [
        (sealed[:-9] + b'AAAA=="}\n', PHRASE),
        (sealed, "a wrong horse battery"),
        (plain, PHRASE),
        (redone(plain, revision=0), None),
        (plain.replace(b"enabled", b"enabbed"), None),
        (plain[:-9], None),
        (plain, "a wrong"),
    ]:
        path.write_bytes(document)
        path.chmod(0o600)
        with pytest.raises(ConfigurationError) as caught:
            LocalKeyService(path, passphrase=phrase)
        told.append(shown(caught.value))

    assert all(told)
    assert [mark for mark in marks if mark in "".join(told)] == []


def test_a_plain_variable_would_be_shown(keyset):
    """Control: the same search finds a key that a frame of ours is made to hold."""
    material = bytes(keyset.key("acme").versions[1])
    with pytest.raises(AttributeError) as caught:
        encode_keyset(material)

    assert repr(material)[2:-1] in shown(caught.value)
