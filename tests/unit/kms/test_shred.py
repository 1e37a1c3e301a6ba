"""
Shredding: what is destroyed stays destroyed, and a receipt says only what was proved.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

pytest.importorskip("cryptography")

from twh_platform import Tenant, bind_tenant, subscribe
from twh_platform.errors import (
    ConfigurationError,
    DecryptionError,
    KeyAccessDeniedError,
    KeyDestroyedError,
    KeyDisabledError,
    KeyNotFoundError,
    KeyServiceError,
    KeyServiceUnavailableError,
    KeyUnsupportedError,
    TenantUnresolvedError,
)
from twh_platform.kms import (
    Capability,
    DataKeyRecord,
    KeyContext,
    Keyset,
    KeyState,
    LocalKeyService,
    MemoryDataKeyStore,
    TenantCipher,
)
from twh_platform.kms.lifecycle import (
    FileShredJournal,
    MemoryShredJournal,
    ShredReceipt,
    TenantShredded,
    receipt_text,
    shred,
    verify_receipt,
)

ACME, GLOBEX = Tenant(id="acme"), Tenant(id="globex")


class Fault(Exception):  # noqa: N818 -- stands for a process that dies
    """
    The process dies here.
    """


class Wrapped:
    """
    Something whose calls are counted, and replaced where a test says so (a stand-in for faults).
    """

    def __init__(self, inner: Any, **instead: Any) -> None:
        self._inner, self._instead = inner, instead

    def __getattr__(self, name: str) -> Any:
        return self._instead.get(name, getattr(self._inner, name))


class World:
    """
    A key service, a store, a cipher and a journal, with two tenants in them.
    """

    def __init__(self) -> None:
        self.service = LocalKeyService(Keyset.new())
        self.store = MemoryDataKeyStore()
        self.journal = MemoryShredJournal()
        self.cipher = TenantCipher(self.service, self.store)
        self.sealed = {}
        for tenant in (ACME, GLOBEX):
            with bind_tenant(tenant):
                self.sealed[tenant.id] = self.cipher.seal(b"secret", {"column": "iban"})

    def shred(self, **more: Any) -> ShredReceipt:
        """
        Shred acme.
        """
        given = {
            "service": self.service,
            "store": self.store,
            "journal": self.journal,
            "cipher": self.cipher,
        }
        return shred("acme", **{**given, **more})

    def opens(self, tenant: Tenant, cipher: TenantCipher | None = None) -> bytes:
        """
        Open what the tenant had sealed.
        """
        with bind_tenant(tenant):
            return (cipher or self.cipher).open(self.sealed[tenant.id], {"column": "iban"})


@pytest.fixture
def world() -> World:
    """
    Two tenants with sealed values, and warm caches.
    """
    return World()


def test_a_shredded_tenant_is_refused_and_the_other_is_not(world):
    """After a shred nothing of the tenant opens, with warm caches or cold ones."""
    assert world.opens(ACME) == b"secret"

    world.shred()

    for cipher in (world.cipher, TenantCipher(world.service, world.store)):
        with pytest.raises(KeyDestroyedError):
            world.opens(ACME, cipher)
    assert world.opens(GLOBEX) == b"secret"


def test_a_shredded_tenant_gets_no_new_keys(world):
    """Nothing is sealed for it any more, and no new master key takes the old one's place."""
    world.shred()

    with bind_tenant(ACME), pytest.raises(KeyDestroyedError):
        TenantCipher(world.service, world.store).seal(b"more", {})
    assert world.service.describe("acme").state is KeyState.DESTROYED


def test_the_receipt_says_what_was_done(world):
    """It names tenant, key, count, times, and the codes with which canaries were refused."""
    key_ref = world.service.describe("acme").key_ref

    receipt = world.shred(acknowledged=lambda _: 3)

    assert (receipt.tenant_id, receipt.provider, receipt.key_ref) == ("acme", "local", key_ref)
    assert (receipt.state, receipt.data_keys, receipt.acknowledged) == (KeyState.DESTROYED, 1, 3)
    assert (receipt.canary, receipt.sealed_canary) == ("key_destroyed", "data_key_destroyed")
    assert [name for name, _ in receipt.steps][1:4] == ["tombstone", "notify", "destroy"]
    assert receipt.began <= receipt.finished
    assert receipt.caveats


def test_a_receipt_is_verified(world):
    """What the key service has signed is read back as it was."""
    receipt = world.shred()

    text = receipt_text(receipt, world.service)

    assert verify_receipt(text + "\n", world.service) == receipt
    assert json.loads(text)["receipt"]["tenant"] == "acme"


@pytest.mark.parametrize(
    "forge",
    [
        lambda text: text.replace("acme", "acne"),
        lambda text: text.replace('"data_keys":1', '"data_keys":2'),
        lambda text: text.replace('"state":"destroyed"', '"state":"destroying"'),
        lambda text: text.replace(",", ", ", 1),
        lambda text: text.replace('"tenant":', '"tenant":"acme","tenant":'),
        lambda text: text.replace('"receipt"', '"journal"'),
        lambda text: text[:-1] + ',"more":1}',
        lambda text: text[:-1],
        lambda _: "",
        lambda _: "[]",
        lambda _: "null",
        lambda _: '{"receipt":1.5,"mac":{}}',
        lambda _: "[" * 60_000,
        lambda _: "9" * 100_000,
        lambda text: text.replace("acme", "acm\\u0065"),
    ],
)
def test_every_other_text_is_no_receipt(forge: Callable[[str], str], world):
    """A changed letter, another spelling, or something else altogether: always the same error."""
    text = receipt_text(world.shred(), world.service)

    with pytest.raises(DecryptionError) as refused:
        verify_receipt(forge(text), world.service)

    assert refused.value.code == "receipt_invalid"


def test_a_receipt_of_another_key_service_is_none(world):
    """Whoever can write JSON cannot write receipts."""
    text = receipt_text(world.shred(), LocalKeyService(Keyset.new()))

    with pytest.raises(DecryptionError):
        verify_receipt(text, world.service)


CRASHES = [
    ("store", "destroy", "before"),
    ("store", "destroy", "after"),
    ("service", "destroy", "before"),
    ("service", "destroy", "after"),
    ("service", "describe", "second"),
    ("service", "health", "before"),
    ("service", "health", "second"),
    ("service", "generate", "before"),
    ("cipher", "evict", "before"),
    ("cipher", "seal", "before"),
    *[
        ("journal", "save", f"{moment} {number}")
        for moment in ("before", "after")
        for number in range(1, 9)
    ],
]


@pytest.mark.parametrize(("part", "call", "when"), CRASHES)
def test_a_crash_anywhere_and_a_second_run_end_in_the_same_place(part, call, when, world):
    """Whichever call is the last one, the next run destroys, proves, and gives the receipt."""
    inner = getattr(world, part)
    moment, _, number = when.partition(" ")
    wanted, calls = int(number or (2 if moment == "second" else 1)), []

    def dies(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == wanted and moment != "after":
            raise Fault
        result = getattr(inner, call)(*args)
        if len(calls) == wanted:
            raise Fault
        return result

    with pytest.raises(Fault):
        world.shred(**{part: Wrapped(inner, **{call: dies})})
    receipt = world.shred(cipher=TenantCipher(world.service, world.store))

    assert (receipt.state, receipt.data_keys) == (KeyState.DESTROYED, 1)
    assert (receipt.canary, receipt.sealed_canary) == ("key_destroyed", "data_key_destroyed")
    assert verify_receipt(receipt_text(receipt, world.service), world.service) == receipt
    with pytest.raises(KeyDestroyedError):
        world.opens(ACME, TenantCipher(world.service, world.store))
    assert world.opens(GLOBEX) == b"secret"


def test_a_second_run_gives_the_same_receipt(world):
    """What was measured first is kept; the proof is made anew."""
    first = world.shred(acknowledged=lambda _: 2)

    assert world.shred(acknowledged=lambda _: 0) == first


def test_nothing_is_destroyed_before_there_is_a_canary(world):
    """If no canary can be made, or none kept, the tenant is as it was."""

    def fails(*_: Any, **__: Any) -> None:
        raise Fault

    for part, call in (("service", "generate"), ("service", "mac"), ("journal", "save")):
        with pytest.raises(Fault):
            world.shred(**{part: Wrapped(getattr(world, part), **{call: fails})})
        assert world.opens(ACME, TenantCipher(world.service, world.store)) == b"secret"


@pytest.mark.parametrize("lacking", ["TENANT_KEYS", "DESTROY", "MAC"])
def test_a_service_that_cannot_is_refused_and_nothing_is_done(lacking, world):
    """One master key for all tenants, or none that can be destroyed, is no place to shred in."""
    kept = world.service.capabilities & ~Capability[lacking]

    with pytest.raises(KeyUnsupportedError, match=lacking) as refused:
        world.shred(service=Wrapped(world.service, capabilities=kept))

    assert refused.value.code == "shred_unsupported"
    assert world.opens(ACME) == b"secret"


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1.0])
def test_a_time_that_no_receipt_can_have_is_told_before(seconds, world):
    """Nothing is destroyed, and no journal is left behind."""
    with pytest.raises(ConfigurationError):
        world.shred(cache_seconds=seconds)

    assert world.opens(ACME) == b"secret"
    assert world.journal.load("acme") is None


def test_the_platform_is_not_shredded(world):
    """Its keys sign the receipts."""
    with pytest.raises(KeyUnsupportedError):
        shred("_platform", service=world.service, store=world.store, journal=world.journal)


def test_a_tenant_that_never_had_a_key_is_not_found(world):
    """A wrong name makes no key, no tombstone and no receipt."""
    with pytest.raises(KeyNotFoundError):
        shred("acne", service=world.service, store=world.store, journal=world.journal)

    assert not world.store.shredded("acne")


def test_what_is_no_tenant_id_is_refused(world):
    """No path and no pattern becomes the name of a journal."""
    with pytest.raises(TenantUnresolvedError):
        shred("../x", service=world.service, store=world.store, journal=world.journal)


def test_a_disabled_key_is_refused_before_anything_is_done(world):
    """Of a key that is disabled no canary can be made."""
    world.service.disable("acme")

    with pytest.raises(KeyDisabledError):
        world.shred()

    assert not world.store.shredded("acme")


@pytest.mark.parametrize("state", [KeyState.ENABLED, KeyState.DISABLED, KeyState.DESTROYING])
def test_a_destruction_for_show_gives_no_receipt(state, world):
    """A key that can be restored, was made anew, or is kept without a date is not destroyed."""

    def describe(tenant_id: str) -> Any:
        return replace(world.service.describe(tenant_id), state=state, destroyed_at=None)

    with pytest.raises(KeyServiceError) as refused:
        world.shred(service=Wrapped(world.service, describe=describe))

    assert refused.value.code == "shred_incomplete"


def test_a_key_that_is_only_disabled_gives_no_receipt(world):
    """A service that calls a disabled key destroyed is found out by the reason of the refusal."""

    def destroy(tenant_id: str) -> Any:
        return replace(world.service.disable(tenant_id), state=KeyState.DESTROYED)

    def describe(tenant_id: str) -> Any:
        found = world.service.describe(tenant_id)
        disabled = found.state is KeyState.DISABLED
        return replace(found, state=KeyState.DESTROYED) if disabled else found

    lying = Wrapped(world.service, destroy=destroy, describe=describe)
    with pytest.raises(KeyServiceError, match="key_disabled") as refused:
        world.shred(service=lying)

    assert refused.value.code == "shred_incomplete"


def test_a_canary_that_still_opens_gives_no_receipt(world):
    """What the service says is believed only if its key is of no use any more."""
    before: dict[str, Any] = {}

    def unwrap(keys: Any) -> Any:
        before.setdefault("found", world.service.unwrap(keys))
        return before["found"]

    with pytest.raises(KeyServiceError, match="still opens") as refused:
        world.shred(service=Wrapped(world.service, unwrap=unwrap))

    assert refused.value.code == "shred_incomplete"


def test_a_cache_that_still_opens_gives_no_receipt(world):
    """A cipher of this process that keeps its keys is found out."""
    lazy = Wrapped(world.cipher, evict=lambda _: None)

    with pytest.raises(KeyServiceError, match="still opens"):
        world.shred(cipher=lazy)


@pytest.mark.parametrize("error", [KeyServiceUnavailableError, KeyAccessDeniedError])
def test_a_refusal_for_another_reason_is_no_proof(error, world):
    """A service that is down, or that lets us no longer, has proved nothing."""
    calls: list[int] = []

    def unwrap(keys: Any) -> Any:
        calls.append(1)
        return world.service.unwrap(keys) if len(calls) == 1 else [error() for _ in keys]

    with pytest.raises(KeyServiceError):
        world.shred(service=Wrapped(world.service, unwrap=unwrap))

    assert world.shred().state is KeyState.DESTROYED


def test_an_unhealthy_service_proves_nothing(world):
    """If every key is refused, the refusal of one says nothing about it."""
    healthy = world.service.health()
    answers = [healthy, replace(healthy, ok=False, code="key_destroyed")]

    with pytest.raises(KeyServiceUnavailableError, match="prove nothing"):
        world.shred(service=Wrapped(world.service, health=lambda: answers.pop(0)))

    assert world.store.shredded("acme")


def test_with_an_unhealthy_service_nothing_is_begun(world):
    """Whoever could not prove it afterwards is told before anything is destroyed."""
    ill = replace(world.service.health(), ok=False, code="key_not_found")

    with pytest.raises(KeyServiceUnavailableError, match="key_not_found; nothing was done"):
        world.shred(service=Wrapped(world.service, health=lambda: ill))

    assert world.opens(ACME, TenantCipher(world.service, world.store)) == b"secret"
    assert world.journal.load("acme") is None


def test_a_key_that_is_being_destroyed_gives_a_receipt_that_says_so(world):
    """Refused now, destroyed later: the receipt has the date, and a run after it the rest."""
    date = datetime.now(UTC).replace(microsecond=0) + timedelta(days=7)

    def describe(tenant_id: str) -> Any:
        found = world.service.describe(tenant_id)
        if found.state is not KeyState.DESTROYED:
            return found
        return replace(found, state=KeyState.DESTROYING, destroyed_at=date)

    pending = world.shred(service=Wrapped(world.service, describe=describe))
    done = world.shred()

    assert (pending.state, pending.destroyed_at) == (KeyState.DESTROYING, date)
    assert "cancelled" in pending.caveats[0]
    assert done.state is KeyState.DESTROYED
    assert done.finished >= pending.finished
    assert "cancelled" not in " ".join(done.caveats)


def test_a_key_that_was_made_anew_in_between_is_destroyed_too(world):
    """A process that has not heard of it gave the tenant a key of the same name: that goes too."""
    states = [KeyState.ENABLED, KeyState.DESTROYED]
    destroyed: list[str] = []

    def destroy(tenant_id: str) -> Any:
        destroyed.append(tenant_id)
        return world.service.destroy(tenant_id)

    def describe(tenant_id: str) -> Any:
        found = world.service.describe(tenant_id)
        return replace(found, state=states.pop(0)) if destroyed and states else found

    world.shred(service=Wrapped(world.service, describe=describe, destroy=destroy))

    assert destroyed == ["acme", "acme"]


def test_without_a_journal_all_is_destroyed_and_nothing_proved(world):
    """If the master key was gone before, the rest goes too, and there is no receipt."""
    world.service.destroy("acme")

    with pytest.raises(KeyServiceError) as refused:
        world.shred()

    assert refused.value.code == "shred_unproven"
    assert world.store.shredded("acme")
    with pytest.raises(KeyDestroyedError):
        world.opens(ACME)


def test_a_key_that_the_service_does_not_know_any_more_is_destroyed(world):
    """Services that forget a destroyed key say that they have none: so it is, after the canary."""

    def gone(tenant_id: str) -> Any:
        if world.service.describe(tenant_id).state is KeyState.DESTROYED:
            raise KeyNotFoundError
        return world.service.describe(tenant_id)

    def unwrap(keys: Any) -> Any:
        found = world.service.unwrap(keys)
        return [KeyNotFoundError() if isinstance(one, KeyDestroyedError) else one for one in found]

    receipt = world.shred(service=Wrapped(world.service, describe=gone, unwrap=unwrap))

    assert (receipt.state, receipt.canary) == (KeyState.DESTROYED, "key_not_found")


def test_a_journal_that_was_changed_is_not_believed(world):
    """Who could put another canary into it could have anything proved."""
    world.shred()
    text = world.journal.load("acme") or ""
    world.journal.save("acme", text.replace('"data_keys":1', '"data_keys":9'))

    with pytest.raises(DecryptionError) as refused:
        world.shred()

    assert refused.value.code == "receipt_invalid"


def test_a_journal_of_another_tenant_is_not_believed(world):
    """It is authenticated with its tenant."""
    world.shred()
    world.journal.save("globex", world.journal.load("acme") or "")

    with pytest.raises(DecryptionError):
        shred("globex", service=world.service, store=world.store, journal=world.journal)

    assert world.opens(GLOBEX) == b"secret"


def test_a_journal_in_a_folder_is_the_same(world, tmp_path):
    """A file for each tenant, replaced as a whole, readable by its owner only."""
    journal = FileShredJournal(tmp_path / "journals")

    receipt = world.shred(journal=journal)

    (file,) = (tmp_path / "journals").iterdir()
    assert file.name == "acme.shred"
    assert file.stat().st_mode & 0o077 == 0
    assert world.shred(journal=FileShredJournal(tmp_path / "journals")) == receipt


def test_others_are_told_between_the_tombstone_and_the_end(world):
    """Who is told finds the tombstone there already, and is waited for after the destruction."""
    told: list[tuple[str, bool, str]] = []

    def tell(what: str) -> Callable[[str], int]:
        def note(tenant_id: str) -> int:
            state = world.service.describe(tenant_id).state.value
            told.append((what, world.store.shredded(tenant_id), state))
            return 4

        return note

    world.shred(notify=tell("notify"), acknowledged=tell("acknowledged"))

    assert told == [("notify", True, "enabled"), ("acknowledged", True, "destroyed")]


def test_it_is_announced(world):
    """Listeners learn whose keys, where, and how long it took."""
    told: list[TenantShredded] = []
    unsubscribe = subscribe(TenantShredded, told.append)

    receipt = world.shred()
    unsubscribe()

    (signal,) = told
    assert (signal.tenant_id, signal.service, signal.state) == ("acme", "local", "destroyed")
    assert signal.seconds == receipt.seconds


def test_a_restored_backup_of_data_keys_does_not_open(world):
    """While the master key is gone, old rows of the store are of no use, and a run removes them."""
    context = KeyContext(tenant_id="acme", purpose="data", data_key_id=secrets.token_bytes(16))
    old = world.store.page("acme")
    world.shred()
    restored = MemoryDataKeyStore()
    for record in old:
        restored.add(record)

    (result,) = world.service.unwrap(
        [(old[0].wrapped, replace(context, data_key_id=old[0].data_key_id))]
    )
    assert isinstance(result, KeyDestroyedError)
    world.shred(store=restored, cipher=None)
    assert restored.shredded("acme")
    assert restored.page("acme") == []


def test_a_store_from_before_the_first_seal_is_shredded_again(world):
    """A restored store that never had the canary's data key gets its tombstone, and the receipt."""
    first = world.shred()
    restored = MemoryDataKeyStore()

    again = world.shred(store=restored, cipher=TenantCipher(world.service, restored))

    assert again == first
    assert restored.shredded("acme")


def test_a_restored_store_counts_once_more(world):
    """What comes back from a backup is overwritten again, and the receipt says so."""
    old = world.store.page("acme")
    first = world.shred()
    restored = MemoryDataKeyStore()
    for record in old:
        restored.add(record)

    again = world.shred(store=restored, cipher=TenantCipher(world.service, restored))

    assert again == replace(first, data_keys=2)
    assert world.shred() == again


def test_another_store_of_the_tenant_is_shredded_with_the_same_journal(world):
    """Each store is overwritten, and one receipt has the number of all its data keys."""
    other = MemoryDataKeyStore()
    cipher = TenantCipher(world.service, other, purpose="secrets")
    with bind_tenant(ACME):
        kept = cipher.seal(b"value", {})
    first = world.shred()

    second = world.shred(store=other, cipher=cipher)

    assert second == replace(first, data_keys=2)
    assert other.page("acme") == []
    with bind_tenant(ACME), pytest.raises(KeyDestroyedError):
        cipher.open(kept, {})


def test_a_store_that_was_not_reached_is_not_counted(world):
    """A crash at the first store, and a run for another one: it speaks of that one alone."""
    other = MemoryDataKeyStore()
    with pytest.raises(Fault):
        world.shred(store=Wrapped(world.store, destroy=lambda _: (_ for _ in ()).throw(Fault)))

    second = world.shred(store=other, cipher=TenantCipher(world.service, other))
    both = world.shred()

    assert (second.data_keys, second.canary, second.sealed_canary) == (0, "key_destroyed", None)
    assert (both.data_keys, both.sealed_canary) == (1, "data_key_destroyed")


@pytest.mark.parametrize("error", [None, KeyServiceUnavailableError])
def test_a_sealed_value_that_is_not_refused_elsewhere_gives_no_receipt(error, world):
    """In another store it may be unknown; opened, or without an answer, it proves the contrary."""
    world.shred()

    def opens(*_: Any) -> bytes:
        if error is not None:
            raise error
        return b"canary"

    with pytest.raises(error or KeyServiceError) as refused:
        world.shred(store=MemoryDataKeyStore(), cipher=Wrapped(world.cipher, open=opens))

    assert refused.value.code == (error.code if error else "shred_incomplete")


def test_the_journal_holds_no_key(world):
    """Neither a data key nor the plaintext of the canary is in what is kept."""
    seen: list[bytes] = []

    def generate(contexts: Any) -> Any:
        made = world.service.generate(contexts)
        seen.extend(one.plaintext for one in made)
        return made

    world.shred(service=Wrapped(world.service, generate=generate))

    text = world.journal.load("acme") or ""
    assert seen
    for key in seen:
        assert key.hex() not in text
    assert isinstance(json.loads(text), Mapping)
    assert DataKeyRecord is not None
