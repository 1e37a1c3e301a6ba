"""
Attacks 35, 37, 43 to 50, 53 and 64 on keys in Vault, all of them on the emulator.

A real server cannot be asked for these faults.
"""

from __future__ import annotations

import os
import pickle
import traceback
from contextlib import ExitStack, contextmanager, suppress

import hvac
import pytest
from hvac.exceptions import Forbidden, UnexpectedError, VaultError

from tests.support.key_life import context_of, errors_in, fill
from tests.support.plain_vault import PlainTransit
from tests.support.vault_emulator import Elsewhere, VaultEmulator
from twh_platform.errors import ConfigurationError, KeyServiceError, SecretError
from twh_platform.kms import DataKey, GuardedKeyService, MemoryDataKeyStore, WrappedKey
from twh_platform.kms.lifecycle import MemoryShredJournal, rewrap, shred
from twh_platform.kms.secrets import Secret
from twh_platform.kms.vault import AppRoleAuth, JwtAuth, TokenAuth, VaultKeyService
from twh_platform.testing import ManualClock

WORDS = "marked-server-text"
"""What the emulator writes into its refusals."""


@pytest.fixture
def server_version():
    """Not that of a real server, if there is one."""
    return "Vault, emulated"


@pytest.fixture
def stack():
    """What is closed at the end of a test."""
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def emulated(stack, server):
    """The emulator, for faults that a server cannot be asked for."""
    return stack.enter_context(VaultEmulator())


@pytest.fixture
def service(emulated, stack):
    """A key service over the emulator."""
    auth = TokenAuth(emulated.root_token)
    return stack.enter_context(VaultKeyService(emulated.address, auth))


@pytest.fixture
def transit(emulated):
    """What hvac does with the same engine."""
    return PlainTransit(emulated.address, emulated.root_token)


def test_35_reads_data_keys_on_their_way(emulated, service, transit, twh_attack):
    """Rewrapping happens inside of Vault: no data key comes out."""
    attack = twh_attack(number=35, title="sees data keys that come out to be rewrapped")
    name, ciphertexts = transit.made()
    for one in ciphertexts:
        plain = transit.decrypt_data(name, one)["data"]["plaintext"]
        transit.encrypt_data(name, plaintext=plain)
    attack.control(emulated.counted("decrypt"))

    store = MemoryDataKeyStore()
    fill(service, store, "acme", 5)
    service.rotate("acme")
    emulated.seen.clear()
    assert rewrap(service, store).rewrapped == 5
    attack.ours(emulated.counted("decrypt|encrypt|datakey/plaintext"))
    assert emulated.counted("rewrap") == 1


class Softly:
    """A key service that takes disabling for destroying, as soft deletion looks like it."""

    def __init__(self, service):
        self.service, self.destroy = service, service.disable

    def __getattr__(self, name):
        return getattr(self.service, name)


def receipts_of(service):
    """The receipts that a tenant's shredding gives."""
    store = MemoryDataKeyStore()
    fill(service, store, "acme", 1)
    with suppress(KeyServiceError):
        return [shred("acme", service=service, store=store, journal=MemoryShredJournal())]
    return []


def test_37_restores_a_key_that_was_softly_deleted(service, transit, twh_attack):
    """What can be restored is disabled, and there is no receipt of it."""
    attack = twh_attack(number=37, title="restores a key that was deleted softly")
    name, ciphertexts = transit.made()
    transit.client.adapter.delete(f"/v1/transit/keys/{name}/soft-delete")
    assert transit.refused(name, ciphertexts) == 5  # "shredded"
    transit.client.adapter.post(f"/v1/transit/keys/{name}/soft-delete-restore")
    attack.control(5 - transit.refused(name, ciphertexts))

    attack.ours(receipts_of(Softly(service)))
    assert service.describe("acme").state == "disabled"


def test_37_confirms_a_deletion_and_keeps_the_key(emulated, service, transit, twh_attack):
    """After a deletion it is looked whether the key is gone."""
    attack = twh_attack(number=37, title="confirms a deletion and keeps the key")
    name, ciphertexts = transit.made()
    emulated.fault(path="DELETE", status=204, body=b"")
    transit.update_key_configuration(name, deletion_allowed=True)
    transit.delete_key(name)
    attack.control(5 - transit.refused(name, ciphertexts))

    attack.ours([one for one in receipts_of(service) if one.state == "destroyed"])


def failed(count, call, kind=Exception):
    """How many of so many calls end with an error of this kind."""
    errors = 0
    for _ in range(count):
        try:
            call()
        except kind:
            errors += 1
    return errors


@pytest.mark.parametrize("status", [503, 473, 472, 429])
def test_43_waits_for_a_vault_that_is_sealed(status, emulated, service, transit, twh_attack):
    """After five failures in a row the server is left alone, and callers are told at once."""
    attack = twh_attack(
        number=43, title="has every caller ask a Vault that serves nobody", form=str(status)
    )
    guard = GuardedKeyService(service, attempts=1, failures=5, rest=600, chance=lambda: 1.0)
    service.create("acme")
    emulated.fault(path="datakey", status=status)
    failed(50, lambda: transit.generate_data_key("x", "plaintext"), VaultError)
    attack.control(emulated.counted("datakey") - 5)

    emulated.seen.clear()
    assert failed(50, lambda: guard.generate([context_of()]), KeyServiceError) == 50
    attack.ours(emulated.counted("datakey") - 5)
    assert guard.is_resting


def test_44_is_answered_by_a_standby_that_is_behind(emulated, service, transit, twh_attack):
    """A stale read is tried again, twice and no more."""
    attack = twh_attack(number=44, title="is refused by a standby that is behind")
    name, _ = transit.made()
    service.create("acme")
    behind = {"path": "datakey", "status": 412}
    emulated.fault(**behind, times=2)
    attack.control(failed(2, lambda: transit.generate_data_key(name, "plaintext"), UnexpectedError))

    emulated.fault(**behind, times=2)
    attack.ours(errors_in(service.generate([context_of()])))
    emulated.seen.clear()
    emulated.fault(**behind)
    with pytest.raises(KeyServiceError) as caught:
        service.generate([context_of()])
    assert (caught.value.code, emulated.counted("datakey")) == ("vault_stale_read", 3)


@pytest.fixture
def aged(stack, server):
    """An emulator whose tokens age by hand, with one workload that may log in."""
    clock = ManualClock()
    emulator = stack.enter_context(VaultEmulator(clock=clock.monotonic))
    emulator.workloads["app"] = "jwt-of-app"
    return emulator


def logged_in(emulator):
    """A client of hvac that has logged in."""
    client = hvac.Client(emulator.address)
    client.auth.jwt.jwt_login("app", "jwt-of-app")
    return client


def test_45_ends_a_token_in_a_batch(aged, stack, twh_attack):
    """One login, and only what is not done is done again."""
    attack = twh_attack(number=45, title="has a batch done twice whose token ended half way")
    root = PlainTransit(aged.address, aged.root_token)
    keys = [root.made(1) for _ in range(4)]
    client = logged_in(aged)
    aged.fault(path="rewrap", after=2, times=1, done=aged.revoke_all)
    for _ in range(2):
        with suppress(Forbidden):
            for name, (ciphertext,) in keys:
                client.secrets.transit.rewrap_data(name, ciphertext)
        client = logged_in(aged)
    attack.control(aged.counted("rewrap") - 1 - len(keys))

    service = stack.enter_context(VaultKeyService(aged.address, JwtAuth("app", jwt="jwt-of-app")))
    contexts = [context_of(f"tenant-{number}") for number in range(4)]
    made = [service.generate([one])[0] for one in contexts]
    logins, _ = aged.logins, aged.seen.clear()
    aged.fault(path="rewrap", after=2, times=1, done=aged.revoke_all)
    pairs = [(key.wrapped, context) for key, context in zip(made, contexts, strict=True)]
    results = service.rewrap(pairs)
    attack.ours(aged.counted("rewrap") - 1 - len(contexts))
    attack.ours(4 - sum(isinstance(one, WrappedKey) for one in results))
    assert aged.logins == logins + 1


def test_46_is_denied_by_a_policy(aged, stack, twh_attack):
    """A denial that a new login does not change makes no other login."""
    attack = twh_attack(number=46, title="causes a login by each request that a policy denies")
    aged.fault(path="datakey", status=403)
    client = logged_in(aged)
    for _ in range(20):
        try:
            client.secrets.transit.generate_data_key("x", "plaintext")
        except Forbidden:
            client = logged_in(aged)
    attack.control(aged.logins - 2)

    service = stack.enter_context(VaultKeyService(aged.address, JwtAuth("app", jwt="jwt-of-app")))
    service.create("acme")
    before = aged.logins
    codes = {service.generate([context_of()])[0].code for _ in range(20)}
    attack.ours(aged.logins - before - 1)
    assert codes == {"key_access_denied"}


@contextmanager
def elsewhere():
    """Another origin, and its address."""
    other = Elsewhere()
    with other.running() as address:
        yield other, address


def test_47_redirects_a_request(emulated, service, transit, stack, twh_attack):
    """No redirect is followed."""
    attack = twh_attack(number=47, title="has the token sent to another origin by a redirect")
    other, address = stack.enter_context(elsewhere())
    emulated.fault(status=307, headers={"Location": f"{address}/v1/x"})
    transit.read_key("x")
    attack.control(list(other.tokens))

    other.headers.clear()
    for call in (service.describe, service.create, service.rotate, service.destroy):
        with pytest.raises(KeyServiceError) as caught:
            call("acme")
        assert caught.value.code == "vault_redirect_refused"
    attack.ours(other.headers)


def test_47_redirects_a_login(emulated, stack, twh_attack):
    """Nor at a login, where the credential itself would go along."""
    attack = twh_attack(number=47, title="has a credential sent to another origin by a redirect")
    other, address = stack.enter_context(elsewhere())
    emulated.fault(path="login", status=307, headers={"Location": f"{address}/v1/x"})
    with suppress(VaultError, KeyError, TypeError):
        hvac.Client(emulated.address).auth.approle.login("role", "marked-secret")
    attack.control(list(other.headers))

    other.headers.clear()
    auth = AppRoleAuth("role", secret_id="marked-secret")
    service = stack.enter_context(VaultKeyService(emulated.address, auth))
    assert failed(1, lambda: service.describe("acme"), KeyServiceError) == 1
    attack.ours(other.headers)


MOUNTS = ["a/../b", "../sys", "a/./b", "a//b", "a%2fb", "a?b", "a#b", "ü", ".."]


def test_48_mounts_by_a_path(emulated, stack, transit, twh_attack):
    """What a server or a proxy could read as another path is no mount."""
    attack = twh_attack(number=48, title="has a mount's name lead to another path")
    for one in MOUNTS:
        with suppress(VaultError):
            transit.read_key("x", mount_point=one)
    asked = [one.path for one in emulated.seen]
    attack.control(len(set(asked) - {f"{one}/keys/x" for one in MOUNTS}))

    taken = []
    for one in MOUNTS:
        with suppress(ConfigurationError):
            taken.append(VaultKeyService(emulated.address, TokenAuth("hvs.x"), mount=one))
    attack.ours(taken)


ADDRESSES = [
    "http://vault.example:8200",
    "http://169.254.169.254",
    "https://vault.example@evil.example",
    "https://vault.example/v1/../x",
    "https://vault.example?next=1",
    "file:///etc/passwd",
]


def test_49_gives_another_address(server, twh_attack):
    """An address is an origin with TLS, or on loopback."""
    attack = twh_attack(number=49, title="has Vault's address lead somewhere else")
    attack.control([hvac.Client(one, token="hvs.x") for one in ADDRESSES])

    taken = []
    for one in ADDRESSES:
        with suppress(ConfigurationError):
            taken.append(VaultKeyService(one, TokenAuth("hvs.x")))
    attack.ours(taken)


def test_49_sets_a_proxy(service, transit, monkeypatch, twh_attack):
    """Proxies of the environment are not used."""
    attack = twh_attack(number=49, title="has the token sent to a proxy of the environment")
    with elsewhere() as (other, address):
        monkeypatch.setenv("HTTP_PROXY", address)
        monkeypatch.setenv("http_proxy", address)
        transit.read_key("x")
        attack.control(list(other.tokens))

        other.headers.clear()
        service.create("acme")
        attack.ours(other.headers)


def test_50_reads_errors(emulated, stack, twh_attack):
    """Neither the token nor what the server wrote is in a traceback, its locals included."""
    attack = twh_attack(number=50, title="reads the token and the server's words in a traceback")
    token = emulated.token(3600)
    service = stack.enter_context(VaultKeyService(emulated.address, TokenAuth(token)))
    service.create("acme")
    emulated.fault(path="datakey|encrypt|GET", status=500)
    client = hvac.Client(emulated.address, token=token)
    marks = (token, WORDS)
    with pytest.raises(VaultError) as caught:
        client.secrets.transit.read_key("x")
    attack.control([one for one in marks if one in shown(caught.value, "hvac")])

    reports = []
    for call in (
        lambda: service.describe("acme"),
        lambda: service.generate([context_of()]),
        lambda: service.wrap([(b"marked key of thirty-two bytes!!", context_of())]),
    ):
        with pytest.raises(KeyServiceError) as caught:
            call()
        reports.append(shown(caught.value, "twh_platform"))
    attack.ours([one for one in (*marks, "marked key") if one in "".join(reports)])
    assert all("VaultKeyService" in one for one in reports)


def shown(error, package):
    """Tracebacks as a reporter of errors writes them, with the locals of a package's frames."""
    text, seen = [], set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        report = traceback.TracebackException.from_exception(error, capture_locals=True)
        frames = [one for one in report.stack if package in one.filename]
        text += [f"{one.name} {one.locals}" for one in frames]
        text += [*report.format_exception_only(), repr(vars(error))]
        error = error.__cause__ or error.__context__
    return "\n".join(text)


def traceback_of(secret):
    """What a reporter of errors writes of a function that had it."""

    def fails(secret):
        return int([secret])

    with pytest.raises(TypeError) as caught:
        fails(secret)
    return shown(caught.value, "test_43")


SHOWN = {
    "repr": repr,
    "str": str,
    "format": lambda one: f"{one}",
    "in a container": lambda one: repr([{"password": one}]),
    "pickle": lambda one: pickle.dumps(one).decode("latin-1"),
    "traceback": traceback_of,
}


@pytest.mark.parametrize("form", SHOWN)
def test_50_reads_a_secret(form, twh_attack):
    """A secret shows itself in one way only, by its name."""
    attack = twh_attack(number=50, title="reads a secret where values are shown", form=form)
    value = f"marked-{os.urandom(8).hex()}"
    attack.control([value] if value in SHOWN[form](value) else [])

    text = ""
    with suppress(SecretError):
        text = SHOWN[form](Secret(value))
    attack.ours([value] if value in text else [])


def test_53_may_not_decrypt(emulated, stack, twh_attack):
    """Health is a canary that was encrypted, decrypted and compared."""
    attack = twh_attack(number=53, title="lets Vault decrypt nothing while it calls itself well")
    token = emulated.token(3600)
    service = stack.enter_context(VaultKeyService(emulated.address, TokenAuth(token)))
    client = hvac.Client(emulated.address, token=token)
    assert service.health().ok
    emulated.tokens[token].denied = "decrypt"
    well = client.sys.read_health_status(method="GET")
    attack.control(well["initialized"] and not well["sealed"] and client.is_authenticated())
    attack.ours(service.health().ok)
    assert service.health().code == "key_access_denied"


STATUSES = [405, 412, 472, 473, 504]


def test_64_answers_by_a_status_of_no_meaning(emulated, service, transit, twh_attack):
    """Each status says whether it helps to try again."""
    attack = twh_attack(number=64, title="answers by a status that the client has no class for")
    service.create("acme")
    unknown, codes = [], set()
    for status in STATUSES:
        fault = emulated.fault(path="datakey", status=status)
        with pytest.raises(VaultError) as caught:
            transit.generate_data_key("x", "plaintext")
        unknown += [status] if caught.type is UnexpectedError else []
        codes.add(code_of(service))
        fault.times = 0
    attack.control(unknown)
    attack.ours(codes & {"key_service_error"})
    assert codes == {"key_unsupported", "vault_stale_read", "vault_standby", "vault_failed"}


def code_of(service):
    """The code of the error by which a data key is refused."""
    try:
        (result,) = service.generate([context_of()])
    except KeyServiceError as error:
        return error.code
    assert not isinstance(result, DataKey)
    return result.code


def test_64_asks_to_wait(emulated, service, transit, twh_attack):
    """How long a server wants to be left alone comes with the error."""
    attack = twh_attack(number=64, title="says when to come again, and is not heard")
    emulated.fault(status=429, headers={"Retry-After": "7"})
    with pytest.raises(VaultError) as caught:
        transit.read_key("x")
    attack.control("Retry-After" not in repr(vars(caught.value)))

    with pytest.raises(KeyServiceError) as caught:
        service.describe("acme")
    attack.ours(caught.value.retry_after != 7)
