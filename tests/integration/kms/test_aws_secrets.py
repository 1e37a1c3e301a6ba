"""
AWS Secrets Manager on moto: what other readers of AWS see, and what may go wrong there.

The ids contain the word ``moto``: AWS itself was not asked.
"""

from __future__ import annotations

import json
import logging
import secrets
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("boto3")
pytest.importorskip("moto")

from tests.support.strict_moto import MARKER, shared_moto
from twh_platform.errors import (
    ConfigurationError,
    KeyAccessDeniedError,
    KeyDisabledError,
    KeyServiceThrottledError,
    KeyServiceUnavailableError,
    PlatformError,
    SecretConflictError,
    SecretError,
    SecretNotFoundError,
    SecretRevokedError,
)
from twh_platform.kms._secret import Secret
from twh_platform.kms.aws import AwsSecretStore
from twh_platform.kms.secrets._versions import Stage
from twh_platform.tenancy import Tenant, bind_tenant, require_tenant

NAME = "smtp/password"


@pytest.fixture
def moto():
    """The server, healed afterwards; a tenant is bound."""
    with bind_tenant(Tenant(id=f"acme-{secrets.token_hex(6)}")):
        yield shared_moto()
    shared_moto().heal()


@pytest.fixture
def store(moto):
    """An empty store."""
    store = AwsSecretStore(session=moto.session(), endpoint_url=moto.url, timeout=20.0)
    yield store
    store.close()


@pytest.fixture
def native(moto):
    """What another reader of AWS gets of a label, or its error's code."""
    client = moto.client("secretsmanager")

    def read(label="AWSCURRENT", name=NAME):
        from botocore.exceptions import ClientError

        asked = {"SecretId": f"twh/{require_tenant().id}/{name}", "VersionStage": label}
        try:
            answer = client.get_secret_value(**asked)
        except ClientError as error:
            return error.response["Error"]["Code"]
        return answer.get("SecretBinary") or answer["SecretString"]

    return read


def test_other_readers_find_the_stages_moto(store, native):
    """The labels of AWS follow each change."""
    store.put(NAME, Secret("one"))
    store.put(NAME, Secret("two"))
    store.put(NAME, Secret("three"), stage=Stage.PENDING)
    before = [native(label) for label in ("AWSCURRENT", "AWSPREVIOUS", "AWSPENDING")]
    store.promote(NAME)
    after = [native(label) for label in ("AWSCURRENT", "AWSPREVIOUS", "AWSPENDING")]
    store.roll_back(NAME)

    assert before == [b"two", b"one", b"three"]
    assert after == [b"three", b"two", "ResourceNotFoundException"]
    assert [native(), native("AWSPREVIOUS")] == [b"two", b"three"]


def test_a_first_version_that_is_pending_is_not_current_moto(store, native):
    """AWS makes the first version the current one by itself; the store takes that back."""
    store.put(NAME, Secret("next"), stage=Stage.PENDING)

    assert b"next" not in (native(), native("AWSPREVIOUS"))
    assert native("AWSPENDING") == b"next"
    with pytest.raises(SecretNotFoundError):
        store.get(NAME)


def test_other_readers_do_not_get_what_was_revoked_moto(store, native):
    """`AWSCURRENT` goes to the store's own record, which has no value."""
    store.put(NAME, Secret("leaked"))
    store.revoke(NAME, 1)
    record = json.loads(native())

    assert "leaked" not in native()
    assert record["ids"] == {}
    with pytest.raises(SecretRevokedError):
        store.get(NAME)
    store.put(NAME, Secret("new"))
    assert native() == b"new"


def test_the_record_has_no_value_moto(store, native):
    """What is known of a secret is kept without it."""
    value = secrets.token_hex(16)
    store.put(NAME, Secret(value))

    assert value not in native("twh-state")
    assert json.loads(native("twh-state"))["revision"] == 1


def test_labels_that_were_not_moved_are_moved_by_the_next_change_moto(store, native, moto):
    """A change stands once it is recorded, whatever becomes of AWS's labels."""
    store.put(NAME, Secret("one"))
    moto.fail("UpdateSecretVersionStage", code="InternalServiceError")
    put = store.put(NAME, Secret("two"))
    stale = native()
    moto.heal()
    store.put(NAME, Secret("three"))

    assert put.version == 2
    assert stale == b"one"
    assert (native(), native("AWSPREVIOUS")) == (b"three", b"two")


def test_of_racing_changes_one_wins_each_number_moto(store):
    """Twelve who put at once make twelve versions, and each value is one of theirs."""
    tenant = require_tenant()

    def put(value):
        with bind_tenant(tenant):
            for _ in range(20):
                try:
                    return store.put(NAME, Secret(value)).version
                except SecretConflictError:
                    continue
        return None

    values = [f"value-{at}" for at in range(12)]
    with ThreadPoolExecutor(4) as pool:
        versions = list(pool.map(put, values))
    current = store.get(NAME)

    assert sorted(versions) == list(range(1, 13))
    assert current.secret.text() == values[versions.index(12)]


def test_what_others_put_is_no_version_of_ours_moto(store, moto, native):
    """A secret that the store has not made is empty to it; what it puts takes the labels."""
    client = moto.client("secretsmanager")
    called = f"twh/{require_tenant().id}/{NAME}"
    theirs = client.create_secret(Name=called, SecretString="by hand")["VersionId"]

    assert store.versions(NAME) == []
    assert store.names() == []
    store.put(NAME, Secret("ours"))
    assert native() == b"ours"
    assert client.get_secret_value(SecretId=called, VersionId=theirs)["SecretString"] == "by hand"


@pytest.mark.parametrize("text", ["", "{}", "[]", "no json", '{"format": 2}'])
def test_a_record_that_was_tampered_with_is_refused_moto(text, store, moto):
    """Nothing is given by a record that is not the store's, and nothing of it is shown."""
    store.put(NAME, Secret("one"))
    moto.client("secretsmanager").put_secret_value(
        SecretId=f"twh/{require_tenant().id}/{NAME}",
        SecretString=text or "marked",
        VersionStages=["twh-state"],
    )
    with pytest.raises(SecretError) as caught:
        store.get(NAME)

    assert caught.value.code == "secret_state_unreadable"
    assert "marked" not in str(caught.value)
    assert caught.value.__context__ is None


def test_a_record_of_another_name_is_refused_moto(store, moto, native):
    """Attack: the record of one secret is put in the place of another's."""
    store.put(NAME, Secret("one"))
    store.put("other", Secret("two"))
    moto.client("secretsmanager").put_secret_value(
        SecretId=f"twh/{require_tenant().id}/{NAME}",
        SecretString=native("twh-state", "other"),
        VersionStages=["twh-state"],
    )

    with pytest.raises(SecretError, match="not written by this store"):
        store.get(NAME)


FAULTS = {
    "AccessDeniedException": KeyAccessDeniedError,
    "DecryptionFailure": KeyDisabledError,
    "InternalServiceError": KeyServiceUnavailableError,
    "InvalidRequestException": SecretError,
    "ResourceNotFoundException": SecretNotFoundError,
    "ThrottlingException": KeyServiceThrottledError,
}


@pytest.mark.parametrize("code", FAULTS)
def test_errors_are_ours_and_say_nothing_of_the_servers_moto(code, store, moto):
    """Each error has its class, and none repeats what the server wrote."""
    store.put(NAME, Secret("one"))
    moto.fail("GetSecretValue", code=code)
    with pytest.raises(PlatformError) as caught:
        store.get(NAME)

    assert type(caught.value) is FAULTS[code]
    assert MARKER not in f"{caught.value} {caught.value!r}"
    assert caught.value.__cause__ is None


def test_a_secret_that_is_to_be_deleted_is_told_moto(store, moto):
    """AWS refuses every use of it, and so do we."""
    store.put(NAME, Secret("one"))
    moto.client("secretsmanager").delete_secret(SecretId=f"twh/{require_tenant().id}/{NAME}")
    with pytest.raises(SecretError) as caught:
        store.get(NAME)

    assert caught.value.code == "aws_secret_refused"
    assert store.names() == []


def test_every_error_that_is_declared_is_in_the_map_moto():
    """AWS's own description of the operations that are used knows no other error."""
    import botocore.session

    from twh_platform.kms.aws._faults import SECRETS

    model = botocore.session.get_session().get_service_model("secretsmanager")
    used = ["CreateSecret", "DescribeSecret", "GetSecretValue", "ListSecrets", "PutSecretValue"]
    used += ["UpdateSecretVersionStage"]
    declared = {error.name for name in used for error in model.operation_model(name).error_shapes}

    assert declared - set(SECRETS) == set()


def test_a_debug_log_has_no_secret_moto(store, caplog, native):
    """Control: botocore writes secrets whole; through us it writes nothing at that level."""
    import base64

    value = f"marked-{secrets.token_hex(8)}"
    forms = (value, base64.b64encode(value.encode()).decode())
    with caplog.at_level(logging.DEBUG):
        store.put(NAME, Secret(value))
        store.get(NAME)
        ours = caplog.text
        native()

    assert not any(form in ours for form in forms)
    assert forms[1] in caplog.text


@pytest.mark.parametrize("prefix", ["twh ", "x" * 65, "twh:*", "ä"])
def test_a_prefix_that_aws_does_not_take_is_refused_moto(prefix, moto):
    """At once, and not when the first secret is put."""
    with pytest.raises(ConfigurationError) as caught:
        AwsSecretStore(prefix=prefix, session=moto.session())

    assert caught.value.code == "aws_prefix_invalid"
