"""
Attacks 33, 36, 39, 40, 42 and 62: what rotates, is moved, is restored and is throttled.
"""

from __future__ import annotations

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

from cryptography.exceptions import InvalidTag
from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.support.key_faults import FaultyKeyService
from tests.support.key_life import context_of, errors_in, fill, opened, pairs_of
from tests.support.memory_keys import SwitchedKeyService
from twh_platform import Tenant, bind_tenant
from twh_platform.errors import (
    ConfigurationError,
    KeyServiceError,
    KeyServiceThrottledError,
    KeyServiceUnavailableError,
)
from twh_platform.kms import (
    CallBudget,
    DataKeyState,
    GuardedKeyService,
    Keyset,
    LocalKeyService,
    MemoryDataKeyStore,
    TenantCipher,
    create_keyset,
)
from twh_platform.kms.lifecycle import (
    MemoryShredJournal,
    SealedRow,
    reencrypt,
    remaining,
    retire_data_keys,
    rewrap,
    shred,
)
from twh_platform.testing import ManualClock

ACME = Tenant(id="acme")
ROW = {"column": "iban"}


def test_33_changes_what_is_rewrapped(twh_attack):
    """Who retires a data key during the rewrap finds it retired afterwards."""
    attack = twh_attack(number=33, title="retires data keys while they are rewrapped")
    service, store = LocalKeyService(Keyset.new()), MemoryDataKeyStore()
    fill(service, store, "acme", 20)
    service.rotate("acme")

    table = {one.data_key_id: one for one in store.page("acme")}
    read = list(table.values())
    moved = service.rewrap(pairs_of(store, "acme"))
    table = {name: replace(one, state=DataKeyState.DECRYPT) for name, one in table.items()}
    for record, wrapped in zip(read, moved, strict=True):
        table[record.data_key_id] = replace(record, wrapped=wrapped)
    attack.control(active(table.values()))

    meddled = FaultyKeyService(service)
    meddled.faults = [lambda *_: None, lambda *_: retire(store)]
    rewrap(meddled, store)
    attack.ours(active(store.page("acme")))
    assert remaining(service, store, "acme") == 0


def active(records):
    """How many may seal."""
    return sum(one.state is DataKeyState.ACTIVE for one in records)


def retire(store):
    """Another worker lets no data key seal any more."""
    for record in store.page("acme", limit=100):
        store.replace(replace(record, state=DataKeyState.DECRYPT), revision=record.revision)


def test_33_rotates_in_between(twh_attack):
    """What remains is counted, and not what was done."""
    attack = twh_attack(number=33, title="rotates in between, and is told that nothing remains")
    service, store = LocalKeyService(Keyset.new()), MemoryDataKeyStore()
    fill(service, store, "acme", 20)
    service.rotate("acme")

    theirs = {name: wrapped for wrapped, name in pairs_of(store, "acme")}
    todo = len(theirs)
    for name, wrapped in list(theirs.items()):
        [theirs[name]] = service.rewrap([(wrapped, name)])
        todo -= 1
        if todo == 10:
            service.rotate("acme")
    attack.control(older(service, theirs.values()) - todo)

    meddled = FaultyKeyService(service)
    meddled.faults = [*[lambda *_: None] * 3, lambda *_: service.rotate("acme") and None]
    rewrap(meddled, store, limit=10)
    told = remaining(service, store, "acme")
    attack.ours(older(service, [one for one, _ in pairs_of(store, "acme")]) - told)
    assert told > 0
    assert rewrap(service, store).complete
    assert remaining(service, store, "acme") == 0


def older(service, wrapped):
    """How many keys are not wrapped by the newest version."""
    return sum(one.key_version != service.describe("acme").version for one in wrapped)


class Shop:
    """A tenant's sealed values, its data keys, and the service that wraps them."""

    def __init__(self, service):
        self.service, self.store = service, MemoryDataKeyStore()
        self.cipher = TenantCipher(service, self.store)
        with bind_tenant(ACME):
            self.sealed = [self.cipher.seal(b"secret", ROW) for _ in range(10)]
        self.backup = self.store.page("acme")

    def shred(self):
        """Destroy the tenant's keys."""
        given = {"service": self.service, "store": self.store, "cipher": self.cipher}
        return shred("acme", journal=MemoryShredJournal(), **given)

    def opened(self, cipher):
        """How many values open."""
        count = 0
        for one in self.sealed:
            with suppress(KeyServiceError), bind_tenant(ACME):
                count += cipher.open(one, ROW) == b"secret"
        return count

    def restored(self):
        """The store from before the shred."""
        store = MemoryDataKeyStore()
        for record in self.backup:
            store.add(record)
        return store


def test_36_restores_the_data_keys(twh_attack):
    """A backup of the store is of no use where the master key is gone."""
    attack = twh_attack(number=36, title="restores a backup of the data keys after a shred")
    master, key = Fernet(Fernet.generate_key()), Fernet.generate_key()
    rows = {"acme": master.encrypt(key)}
    sealed, backup = [Fernet(key).encrypt(b"secret") for _ in range(10)], dict(rows)
    del rows["acme"]  # "shredded"
    rows.update(backup)
    again = Fernet(master.decrypt(rows["acme"]))
    attack.control([one for one in sealed if again.decrypt(one) == b"secret"])

    shop = Shop(LocalKeyService(Keyset.new()))
    shop.shred()
    store = shop.restored()
    attack.ours(shop.opened(TenantCipher(shop.service, store)))
    shop.store = store
    shop.cipher = TenantCipher(shop.service, store)
    with suppress(KeyServiceError):
        shop.shred()
    assert store.shredded("acme")


def naive_keyset(path):
    """A file of keys that is read whenever one is needed."""
    return {tenant: bytes.fromhex(key) for tenant, key in json.loads(path.read_text()).items()}


def test_36_restores_the_keyset(tmp_path, twh_attack):
    """A service that runs refuses an older keyset."""
    attack = twh_attack(number=36, title="restores a keyset under a service that runs")
    file = tmp_path / "naive.json"
    backup = json.dumps({"acme": os.urandom(32).hex()})
    file.write_text(backup)
    nonce = os.urandom(12)
    sealed = AESGCM(naive_keyset(file)["acme"]).encrypt(nonce, b"secret", None)
    file.write_text("{}")
    file.write_text(backup)
    plain = AESGCM(naive_keyset(file)["acme"]).decrypt(nonce, sealed, None)
    attack.control([plain] if plain == b"secret" else [])

    shop, path, before = shredded_shop(tmp_path)
    path.write_bytes(before)
    attack.ours(shop.opened(TenantCipher(shop.service, shop.restored())))


def shredded_shop(folder):
    """A shop on a keyset file, shredded, and the file as it was before."""
    path = folder / "keyset.json"
    create_keyset(path)
    shop = Shop(LocalKeyService(path))
    before = path.read_bytes()
    receipt = shop.shred()
    assert any("Copies of the keyset file" in one for one in receipt.caveats)
    return shop, path, before


def test_36_restores_everything(tmp_path, twh_attack):
    """Who has all of it from before, and a process that knows of nothing, has the data."""
    attack = twh_attack(
        number=36, title="restores keyset and data keys, and starts anew", kind="residual"
    )
    shop, path, before = shredded_shop(tmp_path)
    path.write_bytes(before)
    attack.ours(shop.opened(TenantCipher(LocalKeyService(path), shop.restored())))


class NaiveRotation:
    """Keys by version in a file; each worker knows what it has made itself."""

    def __init__(self, file):
        self.file = file
        file.write_text(json.dumps({"1": os.urandom(32).hex()}))
        self.both = threading.Barrier(2)

    def work(self, _):
        """Rotate, and wrap ten keys by the new version."""
        keys = json.loads(self.file.read_text())
        self.both.wait(10)
        version, made = str(len(keys) + 1), os.urandom(32)
        self.file.write_text(json.dumps({**keys, version: made.hex()}))
        self.both.wait(10)
        nonce = os.urandom(12)
        return [(version, nonce, AESGCM(made).encrypt(nonce, b"key", None)) for _ in range(10)]

    def lost(self, wrapped):
        """How many open no more."""
        keys, count = json.loads(self.file.read_text()), 0
        for version, nonce, sealed in wrapped:
            try:
                AESGCM(bytes.fromhex(keys[version])).decrypt(nonce, sealed, None)
            except InvalidTag:
                count += 1
        return count


def test_39_rotates_twice_at_once(tmp_path, twh_attack):
    """Of two who rotate at once one wins, and the other wraps by what the file has."""
    attack = twh_attack(number=39, title="rotates in two places at once")
    naive = NaiveRotation(tmp_path / "naive.json")
    with ThreadPoolExecutor(2) as pool:
        attack.control(naive.lost([one for each in pool.map(naive.work, range(2)) for one in each]))

    path, both = tmp_path / "keyset.json", threading.Barrier(2)
    create_keyset(path)
    LocalKeyService(path).create("acme")

    def work(_):
        service = LocalKeyService(path)
        both.wait(10)
        service.rotate("acme")
        contexts = [context_of() for _ in range(10)]
        return list(zip(service.generate(contexts), contexts, strict=True))

    with ThreadPoolExecutor(2) as pool:
        made = [one for each in pool.map(work, range(2)) for one in each]
    fresh = LocalKeyService(path)
    results = fresh.unwrap([(key.wrapped, context) for key, context in made])
    attack.ours(sum(key.plaintext != got for (key, _), got in zip(made, results, strict=True)))
    assert fresh.describe("acme").version in {2, 3}


def test_40_is_locked_out_while_keys_move(twh_attack):
    """Both services unwrap until all data keys have moved, and then the new one alone."""
    attack = twh_attack(number=40, title="is locked out while keys move to another provider")
    before, after = Fernet(Fernet.generate_key()), Fernet(Fernet.generate_key())
    lost = 0
    for token in [before.encrypt(b"secret") for _ in range(10)]:
        try:
            after.decrypt(token)
        except InvalidToken:
            lost += 1
    attack.control(lost)

    old, new = LocalKeyService(Keyset.new()), SwitchedKeyService("vault")
    shop = Shop(old)
    between = TenantCipher(new, shop.store, also=[old])
    attack.ours(10 - shop.opened(between))
    report = rewrap(new, shop.store, origin=old, check=True)
    attack.ours(10 - shop.opened(TenantCipher(new, shop.store)))
    assert report.rewrapped == len(shop.store.page("acme"))
    assert {one.wrapped.provider for one in shop.store.page("acme")} == {"vault"}


class Metered:
    """A key service with one quota for all, as those of a cloud have: 20 keys a second."""

    def __init__(self, clock):
        self.service = LocalKeyService(Keyset.new())
        self.name, self.capabilities = self.service.name, self.service.capabilities
        self.clock, self.left, self.since = clock, 20, 0.0

    def generate(self, contexts):
        """Make data keys, or ask to wait."""
        if self.clock.monotonic() >= self.since + 1:
            self.left, self.since = 20, self.clock.monotonic()
        self.left -= len(contexts)
        if self.left < 0:
            return [KeyServiceThrottledError("busy", retry_after=1.0) for _ in contexts]
        return self.service.generate(contexts)


def starved(service):
    """How many calls of one tenant fail while another asks without end."""
    failed = []
    for _ in range(10):
        for _ in range(30):
            errors_in(service.generate([context_of("globex")]))
        failed += errors_in(service.generate([context_of("acme")]))
    return failed


def test_42_uses_up_the_quota_of_all(twh_attack):
    """A tenant has a budget of its own, and the others have what is left."""
    attack = twh_attack(number=42, title="uses up the key service's quota, which is that of all")
    clock = ManualClock(start=0)
    attack.control(starved(Metered(clock)))

    budget = CallBudget(rate=1, burst=10)
    options = {"clock": clock.monotonic, "sleep": clock.advance, "attempts": 1}
    attack.ours(starved(GuardedKeyService(Metered(clock), budget=budget, **options)))


class Busy:
    """A key service that wants to be left alone for seven seconds."""

    name, capabilities = "local", LocalKeyService(Keyset.new()).capabilities

    def __init__(self, clock):
        self.clock, self.asked = clock, []
        self.service = LocalKeyService(Keyset.new())

    def generate(self, contexts):
        """Say so, or make data keys."""
        self.asked.append(self.clock.monotonic())
        if self.asked[-1] < 7:
            return [KeyServiceThrottledError("busy", retry_after=7.0 - self.asked[-1])]
        return self.service.generate(contexts)


def test_42_is_asked_again_too_early(twh_attack):
    """The wait that is asked for is kept, and jitter comes on top."""
    attack = twh_attack(number=42, title="has a service that throttles asked again too early")
    clock = ManualClock(start=0)
    naive, pause = Busy(clock), 0.1
    while errors_in(naive.generate([context_of()])):
        clock.advance(pause)
        pause *= 2
    attack.control(sum(at < 7 for at in naive.asked[1:]))

    clock = ManualClock(start=0)
    busy = Busy(clock)
    options = {"clock": clock.monotonic, "sleep": clock.advance, "chance": lambda: 0.5}
    (made,) = GuardedKeyService(busy, seconds=30, **options).generate([context_of()])
    attack.ours(sum(at < 7 for at in busy.asked[1:]))
    assert made.plaintext
    assert busy.asked[1] > 7


class Apart(SwitchedKeyService):
    """A key service at which one tenant's key cannot be reached."""

    away = False

    def unwrap(self, keys):
        """As any, but for one tenant."""
        if self.away and keys[0][1].tenant_id == "acme":
            return [KeyServiceUnavailableError("its store is away", code="key_unavailable")]
        return super().unwrap(keys)


def naive_job(service, store):
    """Stop at what can be tried again, and go on there the next time."""
    done = 0
    for tenant in store.tenants(after="", limit=10):
        results = service.rewrap(pairs_of(store, tenant))
        if any(one.retryable for one in errors_in(results)):
            return done
        done += len(results)
    return done


def test_42_ends_the_rewrapping_of_all(twh_attack):
    """A tenant beyond its budget is counted as failed, and the next one is done."""
    attack = twh_attack(number=42, title="ends the rewrapping of all keys by its own budget")
    service, store = LocalKeyService(Keyset.new()), MemoryDataKeyStore()
    for tenant in ("acme", "globex"):
        fill(service, store, tenant, 5)
        service.rotate(tenant)
    guard = GuardedKeyService(service, budget=CallBudget(rate=0.001, burst=10), attempts=1)
    guard.generate([context_of("acme") for _ in range(10)])
    attack.control(5 - naive_job(guard, store))

    report = rewrap(guard, store)
    rewrap(guard, store)
    attack.ours(older_of(service, store, "globex"))
    assert report.failed == {"key_budget_exceeded": 5}


def older_of(service, store, tenant):
    """How many of its data keys the first version wraps."""
    return sum(wrapped.key_version == 1 for wrapped, _ in pairs_of(store, tenant))


def test_42_ends_the_sealing_anew_of_all(twh_attack):
    """A row whose key cannot be reached is counted as failed, and the next one is done."""
    attack = twh_attack(
        number=42, title="ends the sealing anew of all rows by a key that cannot be reached"
    )
    service, store = Apart(), MemoryDataKeyStore()
    cipher, table = TenantCipher(service, store), {}
    for tenant in ("acme", "globex"):
        with bind_tenant(Tenant(id=tenant)):
            table[tenant] = cipher.seal(b"secret")
        retire_data_keys(store, tenant)
    cipher.clear()
    service.away, before = True, dict(table)
    rows = [
        SealedRow(tenant_id=tenant, sealed=sealed, context={}, key=tenant)
        for tenant, sealed in table.items()
    ]
    naive = 0
    for row in rows:
        with bind_tenant(Tenant(id=row.tenant_id)):
            try:
                cipher.open(row.sealed)
            except KeyServiceError:
                break
        naive += 1
    attack.control(1 - naive)

    def write(row, anew):
        table[row.tenant_id] = anew
        return True

    report = reencrypt(rows, cipher=cipher, store=store, write=write)
    attack.ours(table["globex"] == before["globex"])
    assert (report.failed, report.stopped) == ({"key_unavailable": 1}, None)


def test_62_reads_a_keyset_without_passphrase(tmp_path, twh_attack):
    """Whoever reads such a file has the keys; under a passphrase it is of no use."""
    attack = twh_attack(
        number=62, title="reads a local keyset that has no passphrase", kind="residual"
    )
    opened_by = []
    for passphrase in (None, "seven words that nobody else would choose"):
        path, stolen = tmp_path / f"{passphrase}.json", tmp_path / f"stolen {passphrase}.json"
        create_keyset(path, passphrase=passphrase)
        store = MemoryDataKeyStore()
        kept = fill(LocalKeyService(path, passphrase=passphrase), store, "acme", 1)
        stolen.write_bytes(path.read_bytes())
        stolen.chmod(0o600)
        with suppress(ConfigurationError):
            opened_by.append((passphrase, opened(LocalKeyService(stolen), store, "acme", kept)))
    attack.ours(sum(count for _, count in opened_by))
    assert opened_by == [(None, 1)]
