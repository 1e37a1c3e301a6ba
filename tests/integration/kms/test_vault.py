"""
Vault and OpenBao: logins, tokens, and what goes wrong on the way.

What a real server can be asked runs on one where there is one; the faults need
the emulator, and say so in their names.
"""

from __future__ import annotations

import base64
import json
import os
import pickle
import signal
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

pytest.importorskip("hvac")
pytest.importorskip("cryptography")

import hvac

from tests.support.vault_emulator import Elsewhere, VaultEmulator
from tests.support.vault_servers import ORIGIN, vault_under_test
from twh_platform.errors import (
    ConfigurationError,
    DecryptionError,
    KeyAccessDeniedError,
    KeyDestroyedError,
    KeyNotFoundError,
    KeyServiceError,
    KeyServiceThrottledError,
    KeyServiceUnavailableError,
    KeyUnsupportedError,
)
from twh_platform.kms import Capability, DataKey, KeyContext, KeyState, WrappedKey
from twh_platform.kms._deadline import deadline
from twh_platform.kms._secret import Secret
from twh_platform.kms.vault import (
    AppRoleAuth,
    AwsCredentials,
    AwsIamAuth,
    JwtAuth,
    KubernetesAuth,
    TokenAuth,
    VaultKeyService,
    VaultSecretStore,
)
from twh_platform.kms.vault._session import VaultSession
from twh_platform.kms.vault._transport import VaultTransport
from twh_platform.tenancy import Tenant, bind_tenant
from twh_platform.testing import ManualClock

MARKER = "marked-server-text"


def context(tenant="acme", purpose="data"):
    """The context of a new data key."""
    return KeyContext(tenant_id=tenant, purpose=purpose, data_key_id=os.urandom(16))


@pytest.fixture
def stack():
    """What is closed at the end of a test."""
    with ExitStack() as opened:
        yield opened


@pytest.fixture(params=[ORIGIN])
def server(request):
    """A real server if there is one, else the emulator."""
    with vault_under_test() as vault:
        yield vault


@pytest.fixture(params=["emulated"])
def vault(request):
    """The emulator, for faults that a server cannot be asked for."""
    with VaultEmulator() as emulator:
        yield emulator


@pytest.fixture
def service(vault, stack):
    """A key service over the emulator."""
    return stack.enter_context(VaultKeyService(vault.address, TokenAuth(vault.root_token)))


def code_of(call, *args, **kwargs):
    """The class and the code of the error that a call raises."""
    with pytest.raises(KeyServiceError) as caught:
        call(*args, **kwargs)
    assert MARKER not in "".join(traceback.format_exception(caught.value))
    return type(caught.value), caught.value.code


# --- statuses


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (429, (KeyServiceThrottledError, "key_service_throttled")),
        (472, (KeyServiceUnavailableError, "vault_standby")),
        (473, (KeyServiceUnavailableError, "vault_standby")),
        (500, (KeyServiceUnavailableError, "vault_failed")),
        (501, (KeyServiceUnavailableError, "vault_not_initialized")),
        (502, (KeyServiceUnavailableError, "vault_failed")),
        (503, (KeyServiceUnavailableError, "vault_sealed")),
        (504, (KeyServiceUnavailableError, "vault_failed")),
        (405, (KeyUnsupportedError, "key_unsupported")),
        (418, (KeyServiceError, "key_service_error")),
    ],
)
def test_every_status_has_a_meaning(status, expected, vault, service):
    """What hvac leaves unmapped says whether to try again; the server's text is not told."""
    vault.fault(path="datakey", status=status)

    service.create("acme")
    try:
        (result,) = service.generate([context()])
    except KeyServiceError as error:
        result = error

    assert (type(result), result.code) == expected
    assert result.retryable is isinstance(result, KeyServiceUnavailableError)
    assert MARKER not in "".join(traceback.format_exception(result))


@pytest.mark.parametrize("status", [405, 412, 472, 473, 504])
def test_hvac_alone_does_not_know_these(status, vault):
    """Control: hvac raises one class for all of them, and repeats what the server said."""
    vault.fault(status=status)
    client = hvac.Client(vault.address, token=vault.root_token)

    with pytest.raises(hvac.exceptions.UnexpectedError, match=MARKER):
        client.secrets.transit.read_key("x")


@pytest.mark.parametrize(
    ("header", "seconds"), [("7", 7.0), ("99999", 300.0), ("soon", 1.0), ("", 1.0)]
)
def test_the_wait_that_is_asked_for_is_told(header, seconds, vault, service):
    """Retry-After comes with the error, within bounds."""
    vault.fault(status=429, headers={"Retry-After": header})

    with pytest.raises(KeyServiceThrottledError) as caught:
        service.describe("acme")

    assert caught.value.retry_after == seconds


def test_a_stale_read_is_tried_again(vault, service):
    """A standby that is behind is asked again, a few times and then no more."""
    service.create("acme")
    vault.fault(path="datakey", status=412, times=2)
    assert isinstance(service.generate([context()])[0], DataKey)
    vault.fault(path="datakey", status=412)

    assert code_of(service.generate, [context()])[1] == "vault_stale_read"
    assert vault.counted("datakey") == 3 + 3


def test_a_sealed_vault_is_unhealthy_and_comes_back(vault, service):
    """Health is a round trip, and says why it failed."""
    fault = vault.fault(status=503)
    sealed = service.health()
    fault.times = 0

    assert (sealed.ok, sealed.code) == (False, "vault_sealed")
    assert service.health().ok


def test_what_is_no_json_is_unavailable(vault, service):
    """The page of something on the way is no answer of Vault."""
    vault.fault(status=200, body=b"<html>welcome</html>")

    assert code_of(service.describe, "acme")[0] is KeyServiceUnavailableError


# --- the way there


def test_a_redirect_is_not_followed(vault, service, stack):
    """Another origin sees the token of hvac by itself, and never ours."""
    other = Elsewhere()
    address = stack.enter_context(other.running())
    vault.fault(path="keys|lookup", status=307, headers={"Location": f"{address}/v1/x"})

    hvac.Client(vault.address, token=vault.root_token).secrets.transit.read_key("x")
    leaked = list(other.tokens)
    other.headers.clear()

    assert leaked == [vault.root_token]
    assert code_of(service.describe, "acme")[1] == "vault_redirect_refused"
    assert other.headers == []


def test_a_login_is_not_redirected(vault, stack):
    """What proves who we are goes to no other origin."""
    other = Elsewhere()
    address = stack.enter_context(other.running())
    vault.fault(path="login", status=307, headers={"Location": f"{address}/v1/x"})
    auth = AppRoleAuth("role", secret_id="marked-secret")
    service = stack.enter_context(VaultKeyService(vault.address, auth))

    assert code_of(service.describe, "acme")[1] == "vault_redirect_refused"
    assert other.headers == []


def test_nobody_listening_is_unavailable(stack):
    """A refused connection is retryable, and names no more than the path."""
    with VaultEmulator() as gone:
        address = gone.address
    service = stack.enter_context(VaultKeyService(address, TokenAuth("hvs.marked")))

    with pytest.raises(KeyServiceUnavailableError) as caught:
        service.describe("acme")
    assert "hvs.marked" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("how", [{"delay": 30.0}, {"status": 200, "dribble": True}])
def test_a_call_ends_by_its_deadline(how, vault, service):
    """A server that is silent, or speaks a byte at a time, is waited for no longer."""
    service.create("acme")
    vault.fault(path="GET transit/keys", body=b'{"data": {}}' * 100, **how)

    began = time.monotonic()
    with deadline(0.5), pytest.raises(KeyServiceUnavailableError):
        service.describe("acme")

    assert time.monotonic() - began < 10


def test_no_time_left_is_no_attempt(vault, service):
    """After the deadline nothing is sent."""
    with deadline(0.0), pytest.raises(KeyServiceUnavailableError):
        service.describe("acme")

    assert vault.seen == []


def test_a_connection_that_breaks_is_unavailable(vault, service):
    """The server hangs up in the middle; the next call is answered again."""
    service.create("acme")
    vault.fault(path="datakey", hang_up=True, times=1)

    assert code_of(service.generate, [context()])[0] is KeyServiceUnavailableError
    assert isinstance(service.generate([context()])[0], DataKey)


def test_a_long_answer_in_chunks_is_read(vault, service):
    """A batch of 300 comes in two requests, whose answers are long."""
    contexts = [context() for _ in range(300)]
    keys = service.wrap([(bytes([at % 251]) * 32, one) for at, one in enumerate(contexts)])
    opened = service.unwrap(list(zip(keys, contexts, strict=True)))

    assert opened == [bytes([at % 251]) * 32 for at in range(300)]
    assert vault.counted("decrypt") == 2


def test_an_environment_proxy_and_netrc_are_not_asked(vault, stack, monkeypatch, tmp_path):
    """Neither a proxy nor a password of the environment gets between us and Vault."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password marked-password\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    service = stack.enter_context(VaultKeyService(vault.address, TokenAuth(vault.root_token)))

    service.create("acme")
    assert not any("authorization" in one.headers for one in vault.seen)


@pytest.mark.parametrize(
    "address",
    [
        "http://vault.example:8200",
        "https://user:marked@vault.example",
        "https://vault.example/v1/../x",
        "https://vault.example?next=1",
        "file:///etc/passwd",
        "vault.example:8200",
        "https://",
        "https://vault.example:99999",
        "",
    ],
)
def test_an_address_is_an_origin(address):
    """TLS except on loopback, and nothing in the address but where Vault is."""
    with pytest.raises(ConfigurationError) as caught:
        VaultKeyService(address, TokenAuth("hvs.x"))

    assert caught.value.code == "vault_address_invalid"
    assert "marked" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["", "..", "a/../b", "a//b", "/a", "a/", "a?b", "a#b", "ü", "a%2fb"]
)
def test_a_mount_is_checked_before_a_url_is_built(name):
    """What a server or a proxy could read as another path is refused."""
    with pytest.raises(ConfigurationError) as caught:
        VaultKeyService("https://vault.example", TokenAuth("hvs.x"), mount=name)

    assert caught.value.code == "vault_name_invalid"


def test_a_missing_mount_is_not_a_missing_key(vault, stack):
    """A 404 of the router does not make us create keys, or report a tenant without any."""
    auth = TokenAuth(vault.root_token)
    service = stack.enter_context(VaultKeyService(vault.address, auth, mount="nowhere"))
    store = stack.enter_context(VaultSecretStore(vault.address, auth, mount="nowhere"))

    assert code_of(service.describe, "acme") == (KeyServiceError, "vault_mount_missing")
    with bind_tenant(Tenant(id="acme")):
        assert code_of(store.versions, "name")[1] == "vault_mount_missing"
        assert code_of(store.names)[1] == "vault_mount_missing"


def test_namespaces_are_apart(vault, stack):
    """The header of the namespace is on every request, and its keys are others."""
    vault.mount("transit", "transit", namespace="team/one")
    auth = TokenAuth(vault.root_token)
    one = stack.enter_context(VaultKeyService(vault.address, auth, namespace="team/one"))
    root = stack.enter_context(VaultKeyService(vault.address, auth))
    one.create("acme")

    assert code_of(root.describe, "acme")[0] is KeyNotFoundError
    assert one.describe("acme").state is KeyState.ENABLED


# --- tokens


def session(vault, auth, clock, **options):
    """A session whose time is moved by hand."""
    transport = VaultTransport(vault.address)
    return VaultSession(transport, auth, clock=clock.monotonic, keeper=False, **options)


@pytest.fixture
def aged(request):
    """An emulator whose tokens age by hand."""
    clock = ManualClock()
    with VaultEmulator(clock=clock.monotonic) as emulator:
        emulator.workloads["app"] = "jwt-of-app"
        yield emulator, clock


JWT = {"role": "app", "jwt": "jwt-of-app"}


def test_emulated_token_is_renewed_at_two_thirds(aged):
    """It is renewed once two thirds of its life are over, and not before."""
    vault, clock = aged
    held = session(vault, JwtAuth(**JWT), clock, chance=lambda: 0.0)
    held.request("GET", "transit/keys/x", accept=(404,))
    clock.advance(2399)
    held.token()
    before = vault.counted("renew-self")
    clock.advance(2)
    held.token()

    assert (before, vault.counted("renew-self"), vault.logins) == (0, 1, 1)


def test_emulated_renewal_has_jitter(aged):
    """A fleet that started together does not renew together: up to a tenth earlier."""
    vault, clock = aged
    held = session(vault, JwtAuth(**JWT), clock, chance=lambda: 1.0)
    held.token()
    clock.advance(3600 * (2 / 3 - 0.1) + 1)
    held.token()

    assert vault.counted("renew-self") == 1


def test_emulated_login_follows_at_the_max_ttl(aged):
    """Where renewal gives hardly any time there is a new login, and no call fails."""
    vault, clock = aged
    held = session(vault, JwtAuth(**JWT), clock, chance=lambda: 0.0)
    for _ in range(40):
        clock.advance(600)
        held.request("GET", "transit/keys/x", accept=(404,))

    assert 3 <= vault.logins <= 8
    assert vault.counted("renew-self") >= 3
    assert vault.counted("GET transit") == 40


def test_emulated_batch_token_is_replaced(aged):
    """What cannot be renewed is got anew at two thirds."""
    vault, clock = aged
    vault.login_renewable = False
    held = session(vault, JwtAuth(**JWT), clock, chance=lambda: 0.0)
    held.token()
    clock.advance(2401)
    held.token()

    assert (vault.logins, vault.counted("renew-self")) == (2, 0)


def test_emulated_token_serves_on_while_vault_is_sealed(aged):
    """A renewal that fails costs nothing while the token lives."""
    vault, clock = aged
    held = session(vault, JwtAuth(**JWT), clock, chance=lambda: 0.0)
    token = held.token().value
    clock.advance(2500)
    fault = vault.fault(path="renew-self", status=503)
    during = held.token().value
    fault.times = 0
    clock.advance(11)
    held.token()

    assert during == token
    assert vault.counted("renew-self") == 2
    assert vault.logins == 1


def test_emulated_end_of_a_token_in_a_batch_repeats_only_the_rest(aged, stack):
    """What was wrapped before the token ended is not wrapped again."""
    vault, _ = aged
    service = stack.enter_context(VaultKeyService(vault.address, JwtAuth(**JWT)))
    contexts = [context(f"tenant-{at}") for at in range(4)]
    for one in contexts:
        service.create(one.tenant_id)
    keys = service.generate(contexts)
    vault.seen.clear()
    fault = vault.fault(path="rewrap", after=2, times=1, done=vault.revoke_all)
    moved = service.rewrap([(key.wrapped, one) for key, one in zip(keys, contexts, strict=True)])

    assert fault.times == 0
    assert all(isinstance(one, WrappedKey) for one in moved)
    assert vault.logins == 2
    assert vault.counted("rewrap") == 4 + 1


def test_emulated_denial_by_policy_makes_one_login(aged):
    """A 403 that a new token does not change is a denial, and makes no storm of logins."""
    vault, clock = aged
    held = session(vault, JwtAuth(**JWT), clock)
    vault.fault(path="transit/keys/denied", status=403)
    for _ in range(20):
        assert code_of(held.request, "GET", "transit/keys/denied")[0] is KeyAccessDeniedError
    assert vault.logins == 2
    clock.advance(31)
    code_of(held.request, "GET", "transit/keys/denied")

    assert vault.logins == 3


def test_emulated_threads_that_meet_the_end_log_in_once(aged):
    """Eight threads whose token was revoked share one new login."""
    vault, clock = aged
    held = session(vault, JwtAuth(**JWT), clock)
    held.token()
    vault.revoke_all()
    with ThreadPoolExecutor(8) as pool:
        work = [
            pool.submit(held.request, "GET", "transit/keys/x", accept=(404,)) for _ in range(32)
        ]
        answers = [one.result().status for one in work]

    assert set(answers) == {404}
    assert vault.logins == 2


def test_emulated_token_by_value_cannot_be_had_again(aged):
    """At its end calls are denied; nothing loops."""
    vault, clock = aged
    held = session(vault, TokenAuth(vault.token(60)), clock)
    held.token()
    clock.advance(61)

    for _ in range(3):
        assert code_of(held.token) == (KeyAccessDeniedError, "vault_token_ended")


def test_emulated_refused_login_rests(aged):
    """A login that is refused is not tried again by each request, and later it is."""
    vault, clock = aged
    held = session(vault, JwtAuth("app", jwt="stale"), clock)
    for _ in range(10):
        assert code_of(held.token) == (KeyAccessDeniedError, "vault_login_refused")
    before = vault.counted("login")
    clock.advance(6)
    code_of(held.token)

    assert (before, vault.counted("login")) == (1, 2)


def test_emulated_outage_at_a_login_is_no_denial(aged):
    """A token that ended while Vault cannot take logins is unavailable, until it can."""
    vault, clock = aged
    held = session(vault, JwtAuth(**JWT), clock)
    held.token()
    vault.revoke_all()
    vault.fault(path="login", status=503, times=3)
    errors = [code_of(held.request, "GET", "transit/keys/x")[1] for _ in range(3)]

    assert errors == ["vault_sealed"] * 3
    assert held.request("GET", "transit/keys/x", accept=(404,)).status == 404


def test_emulated_login_that_fails_early_lets_the_token_live(aged):
    """A token serves to its end where a new login is refused before."""
    vault, clock = aged
    vault.login_renewable = False
    held = session(vault, JwtAuth(**JWT), clock)
    token = held.token().value
    vault.workloads.clear()
    clock.advance(3000)
    later = held.token().value
    clock.advance(700)

    assert later == token
    assert code_of(held.token)[1] == "vault_login_refused"


def test_emulated_token_of_a_file_is_read_again(aged, tmp_path):
    """An agent that replaces the file gives the next token."""
    vault, clock = aged
    file = tmp_path / "token"
    file.write_text(f"{vault.token(60)}\n")
    held = session(vault, TokenAuth(file=file), clock)
    held.token()
    file.write_text(fresh := vault.token(60))
    clock.advance(61)

    assert held.token().value == fresh


def test_emulated_keeper_renews_while_nothing_is_asked(vault, stack):
    """A token lives on in a process that needs no keys for a while."""
    token = vault.token(4, renewable=True)
    service = stack.enter_context(VaultKeyService(vault.address, TokenAuth(token)))
    service.create("acme")
    time.sleep(6)

    assert vault.counted("renew-self") >= 1
    assert service.describe("acme").state is KeyState.ENABLED


def test_emulated_session_survives_a_fork(vault, service):
    """A child speaks on connections of its own, at the same time as its parent."""
    service.create("acme")
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        done = all(isinstance(service.generate([context()])[0], DataKey) for _ in range(30))
        os.write(write, b"ok" if done else b"no")
        os._exit(0)
    mine = [service.generate([context()])[0] for _ in range(30)]
    os.waitpid(child, 0)

    assert os.read(read, 2) == b"ok"
    assert len({one.plaintext for one in mine}) == 30


# --- logins


def test_approle(server, stack):
    """A role id and a secret id give a token that uses keys."""
    auth = AppRoleAuth(*approle(server, stack)[:1], secret_id=secret_id(server))
    service = server.key_service(stack, auth=auth)

    assert isinstance(service.generate([context()])[0], DataKey)


def test_a_wrapped_secret_id_is_unwrapped_once(server, stack):
    """It logs in again without unwrapping again; who comes second is told that it was used."""
    (role_id,) = approle(server, stack)
    wrapped = secret_id(server, wrap=True)
    auth = AppRoleAuth(role_id, wrapped_secret_id=wrapped, role_name="twh-test")
    server.key_service(stack, auth=auth).create("acme")
    server.key_service(stack, auth=auth).create("acme")
    late = server.key_service(stack, auth=AppRoleAuth(role_id, wrapped_secret_id=wrapped))

    assert code_of(late.create, "acme") == (KeyAccessDeniedError, "vault_wrapping_token_used")


def test_a_foreign_wrapping_token_is_not_unwrapped(server, stack):
    """What was wrapped by another path is no secret id, whoever handed it out."""
    (role_id,) = approle(server, stack)
    wrapped = secret_id(server, wrap=True)
    auth = AppRoleAuth(role_id, wrapped_secret_id=wrapped, role_name="another")
    service = server.key_service(stack, auth=auth)

    assert code_of(service.create, "acme")[1] == "vault_wrapping_token_foreign"


def approle(server, stack):
    """The role id of a role with all rights on the engines of the test."""
    if server.emulator is None:
        server.call("POST", "sys/auth/approle", {"type": "approle"})
        stack.callback(server.call, "DELETE", "sys/auth/approle")
        rules = f'path "{server.transit}/*" {{ capabilities = {ALL} }}'
        server.call("PUT", "sys/policies/acl/twh-test", {"policy": rules})
    server.call("POST", "auth/approle/role/twh-test", {"token_policies": ["twh-test"]})
    role = server.call("GET", "auth/approle/role/twh-test/role-id")
    return [role["data"]["role_id"]]


ALL = json.dumps(["create", "read", "update", "delete", "list"])


def secret_id(server, *, wrap=False):
    """A secret id of the role, or the token that it is wrapped in."""
    path = "auth/approle/role/twh-test/secret-id"
    if not wrap:
        return server.call("POST", path, {})["data"]["secret_id"]
    client = hvac.Client(server.address, token=server.token)
    return client.write_data(path, wrap_ttl="60s")["wrap_info"]["token"]


def test_emulated_kubernetes_token_is_read_at_each_login(aged, tmp_path):
    """The projected token is replaced on disk, and the next login has the new one."""
    vault, clock = aged
    file = tmp_path / "token"
    file.write_text("first")
    vault.workloads["pod"] = "first"
    held = session(vault, KubernetesAuth("pod", file=file), clock)
    held.token()
    file.write_text("second")
    vault.workloads["pod"] = "second"
    clock.advance(10_000)
    held.token()

    assert vault.logins == 2
    file.unlink()
    clock.advance(10_000)
    assert code_of(held.token)[1] == "vault_login_refused"


def test_emulated_jwt_of_a_callable(aged):
    """A JWT may come from whatever gives fresh ones."""
    vault, clock = aged
    given = iter(["jwt-of-app", "stale"])
    held = session(vault, JwtAuth("app", jwt=lambda: next(given)), clock)
    held.token()
    clock.advance(10_000)

    assert code_of(held.token) == (KeyAccessDeniedError, "vault_login_refused")


def test_emulated_aws_identity(aged):
    """Vault is given a signed question to AWS; the secret key stays here."""
    vault, clock = aged
    vault.workloads["ec2"] = ""
    secret = AwsCredentials(access_key="AKIDEXAMPLE", secret_key="marked", session_token="st")
    held = session(
        vault,
        AwsIamAuth(
            "ec2", credentials=lambda: secret, server_id="vault.example", region="eu-west-1"
        ),
        clock,
    )
    held.token()
    sent = json.dumps(vault.seen[-1].body)
    plain = base64.b64decode(vault.seen[-1].body["iam_request_headers"])

    assert vault.logins == 1
    assert "marked" not in sent + plain.decode()


def test_the_aws_signature_is_that_of_botocore():
    """The same request has the same signature there."""
    pytest.importorskip("botocore")
    from datetime import UTC, datetime

    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    from twh_platform.kms.vault._aws_signature import signed_identity_question

    secret = AwsCredentials(access_key="AKIDEXAMPLE", secret_key="secret", session_token="st")
    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    ours = signed_identity_question(secret, region="eu-west-1", server_id="v", now=now).value
    headers = json.loads(base64.b64decode(ours["iam_request_headers"]))
    given = {name: headers[name] for name in ("Content-Type", "X-Vault-AWS-IAM-Server-ID", "Host")}
    url = base64.b64decode(ours["iam_request_url"]).decode()
    request = AWSRequest(
        "POST", url, headers=given, data=base64.b64decode(ours["iam_request_body"])
    )
    request.context["timestamp"] = headers["X-Amz-Date"]
    request.headers["X-Amz-Date"] = headers["X-Amz-Date"]
    request.headers["X-Amz-Security-Token"] = "st"
    signer = SigV4Auth(Credentials("AKIDEXAMPLE", "secret", "st"), "sts", "eu-west-1")
    text = signer.string_to_sign(request, signer.canonical_request(request))

    assert headers["Authorization"].endswith(signer.signature(text, request))


# --- keys


def test_a_key_that_is_not_derived_is_not_used(server, stack):
    """Transit ignores the context of such a key: it would bind nothing."""
    service = server.key_service(stack)
    name = service.create("other").key_ref.partition("/")[2]
    name = name.replace(name.removeprefix("twh-"), "mfrw2zi")  # base32 of "acme"
    server.call("POST", f"{server.transit}/keys/{name}", {"derived": False})

    (result,) = service.generate([context()])
    assert result.code == "vault_key_unsuitable"
    assert code_of(service.create, "acme")[1] == "vault_key_unsuitable"


def test_a_destroyed_key_is_not_made_again_by_encrypting(server, stack):
    """Transit makes a missing key when it is asked to encrypt: the tombstone stands before."""
    service = server.key_service(stack)
    service.create("acme")
    service.destroy("acme")
    (result,) = service.wrap([(bytes(32), context())])

    assert isinstance(result, KeyDestroyedError)
    assert service.describe("acme").state is KeyState.DESTROYED
    with pytest.raises(KeyDestroyedError):
        service.create("acme")


def test_emulated_upsert_is_what_the_tombstone_is_for(vault, service):
    """Control: by itself `encrypt` brings a destroyed key's name back."""
    reference = service.create("acme").key_ref
    service.destroy("acme")
    client = hvac.Client(vault.address, token=vault.root_token)
    text = base64.b64encode(bytes(32)).decode()
    client.secrets.transit.encrypt_data(reference.partition("/")[2], text, context=text)

    assert reference.partition("/")[2] in vault.mounts["", "transit"]


def test_emulated_key_that_stays_is_not_reported_destroyed(vault, service):
    """A server that answers a DELETE and keeps the key has destroyed nothing."""
    service.create("acme")
    vault.fault(path="DELETE", status=204, body=b"")
    info = service.destroy("acme")

    assert info.state is KeyState.DESTROYING
    assert info.destroyed_at is not None


def test_emulated_vault_without_soft_deletion_says_so(stack):
    """Vault cannot disable a key: the capability is not there, and the call is refused."""
    with VaultEmulator(flavour="vault") as vault:
        auth = TokenAuth(vault.root_token)
        service = stack.enter_context(VaultKeyService(vault.address, auth))

        assert Capability.DISABLE not in service.capabilities
        assert code_of(service.disable, "acme")[0] is KeyUnsupportedError


def test_emulated_foreign_key_is_not_asked(vault, service):
    """What names another key is refused before anything is sent."""
    (key,) = service.generate([context()])
    vault.seen.clear()
    foreign = WrappedKey(
        provider="vault",
        key_ref="transit/attacker",
        key_version=1,
        ciphertext=key.wrapped.ciphertext,
    )
    (result,) = service.unwrap([(foreign, context())])

    assert isinstance(result, DecryptionError)
    assert vault.seen == []


@pytest.mark.parametrize(
    "data",
    [
        {"plaintext": base64.b64encode(bytes(16)).decode(), "ciphertext": "vault:v1:" + "A" * 80},
        {"plaintext": base64.b64encode(bytes(32)).decode(), "ciphertext": "other:v1:AAAA"},
        {"plaintext": "not base64!", "ciphertext": "vault:v1:" + "A" * 80},
        {"ciphertext": "vault:v1:" + "A" * 80},
        {},
    ],
)
def test_a_wrong_answer_is_not_believed(data, vault, service):
    """A short key, or a ciphertext of no known form, is an error and no data key."""
    service.create("acme")
    service.generate([context()])
    vault.fault(path="datakey", status=200, body=json.dumps({"data": data}).encode())
    (result,) = service.generate([context()])

    assert result.code == "vault_answer_invalid"


def test_a_service_that_is_down_fails_a_batch_as_a_whole(vault, service):
    """The first tenant's timeout is the batch's: the others are not tried in turn."""
    contexts = [context(f"t-{at}") for at in range(5)]
    keys = service.generate(contexts)
    vault.seen.clear()
    vault.fault(path="decrypt", status=503)

    pairs = [(key.wrapped, one) for key, one in zip(keys, contexts, strict=True)]
    assert code_of(service.unwrap, pairs)[1] == "vault_sealed"
    assert vault.counted("decrypt") == 1


def test_what_was_done_before_it_went_down_is_kept(vault, service):
    """A batch in which something succeeded answers item by item."""
    contexts = [context(f"t-{at}") for at in range(3)]
    keys = service.generate(contexts)
    vault.fault(path="decrypt", status=503, after=1)
    pairs = [(key.wrapped, one) for key, one in zip(keys, contexts, strict=True)]
    first, *rest = service.unwrap(pairs)

    assert first == keys[0].plaintext
    assert {one.code for one in rest} == {"vault_sealed"}


def test_a_version_below_the_minimum_is_refused(server, stack):
    """What an operator has retired in Vault opens no more, and is not listed."""
    service = server.key_service(stack)
    bound = context()
    (key,) = service.generate([bound])
    service.rotate("acme")
    name = key.wrapped.key_ref.partition("/")[2]
    body = {"min_decryption_version": 2}
    server.call("POST", f"{server.transit}/keys/{name}/config", body)

    assert isinstance(service.unwrap([(key.wrapped, bound)])[0], KeyServiceError)
    assert service.describe("acme").versions == (2,)


# --- secrets


def test_revoked_values_are_nowhere_in_the_engine(server, stack):
    """Neither the document nor an older version of it has the value any more."""
    store = server.secret_store(stack)
    with bind_tenant(Tenant(id="acme")):
        store.put("db/password", Secret("marked-value"))
        store.revoke("db/password", 1)
    path = f"{server.kv}/data/twh/acme/db~password"
    kept = json.dumps(server.call("GET", path))
    metadata = server.call("GET", path.replace("/data/", "/metadata/"))

    assert base64.b64encode(b"marked-value").decode() not in kept
    assert len(metadata["data"]["versions"]) == 1


def test_tenants_are_apart(server, stack):
    """A tenant's path has its id, and another sees neither name nor value."""
    store = server.secret_store(stack)
    with bind_tenant(Tenant(id="acme")):
        store.put("token", Secret("one"))
    with bind_tenant(Tenant(id="-odd_ID-")):
        assert store.names() == []
        store.put("token", Secret("two"))
        assert store.get("token").secret == Secret("two")
    with bind_tenant(Tenant(id="acme")):
        assert store.get("token").secret == Secret("one")


def test_emulated_secret_of_another_shape_is_refused(vault, stack):
    """What somebody wrote by hand is no secret of ours, and is not quoted."""
    store = stack.enter_context(VaultSecretStore(vault.address, TokenAuth(vault.root_token)))
    client = hvac.Client(vault.address, token=vault.root_token)
    client.write_data("secret/data/twh/acme/token", data={"data": {"value": MARKER}})

    with bind_tenant(Tenant(id="acme")):
        assert code_of(store.get, "token")[1] == "vault_answer_invalid"


# --- nothing is shown


def marked_logins():
    """Each way to log in, with marked credentials that no server takes."""
    keys = AwsCredentials(access_key="AKID", secret_key="marked-5", session_token="marked-6")
    return [
        AppRoleAuth("marked-1", secret_id="marked-2"),
        AppRoleAuth("marked-1", wrapped_secret_id="marked-3"),
        JwtAuth("app", jwt=lambda: "marked-4"),
        AwsIamAuth("ec2", credentials=lambda: keys),
    ]


def test_emulated_logins_show_nothing(vault, stack):
    """A login that fails tells no credential, in no frame of it."""
    shown = []
    for status in (503, 400):
        fault = vault.fault(path="login|wrapping", status=status)
        for auth in [TokenAuth("marked-0"), *marked_logins()]:
            service = stack.enter_context(VaultKeyService(vault.address, auth))
            with pytest.raises(KeyServiceError) as caught:
                service.describe("acme")
            shown += [_with_locals(caught.value), repr(auth)]
        fault.times = 0

    assert "login" in "".join(shown)
    assert [one for one in shown if "marked" in one] == []


def test_emulated_nothing_is_shown(vault, stack):
    """No repr, pickle or traceback with locals has a token, a key or a server's words."""
    token = vault.token(3600)
    service = stack.enter_context(VaultKeyService(vault.address, TokenAuth(token)))
    service.create("acme")
    vault.fault(path="datakey|encrypt|GET", status=500)
    shown = [repr(service), repr(service._session)]
    for call in (
        lambda: service.generate([context()]),
        lambda: service.wrap([(KEY, context())]),
        lambda: service.describe("acme"),
    ):
        with pytest.raises(KeyServiceError) as caught:
            call()
        shown.append(_with_locals(caught.value))
    text = "".join(shown)

    assert "exchange" in text
    assert [one for one in (token, "marked", str(base64.b64encode(KEY))[2:-1]) if one in text] == []
    with pytest.raises(TypeError):
        pickle.dumps(service._session.token())


KEY = b"marked key of thirty-two bytes!!"


def _with_locals(error):
    """A traceback as an error reporter writes it, of the frames of the package."""
    report = traceback.TracebackException.from_exception(error, capture_locals=True)
    frames = [one for one in report.stack if "twh_platform" in one.filename]
    return "\n".join(
        [*[f"{one.name} {one.locals}" for one in frames], *report.format_exception_only()]
    )


def test_emulated_threads_share_a_service(vault, service):
    """Calls of many threads do not mix up their answers."""
    barrier = threading.Barrier(8)

    def work(at):
        barrier.wait(10)
        bound = context(f"tenant-{at % 4}")
        (key,) = service.generate([bound])
        return service.unwrap([(key.wrapped, bound)]) == [key.plaintext]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))
