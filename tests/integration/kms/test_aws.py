"""
AWS KMS on moto: what the conformance suite does not ask, and what moto alone gets wrong.

The ids contain the word ``moto``: AWS itself was not asked.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import time
from dataclasses import replace

import pytest

pytest.importorskip("boto3")
pytest.importorskip("moto")

from botocore.exceptions import ClientError

from tests.support.strict_moto import ACCOUNT, MARKER, REGION, shared_moto
from twh_platform.errors import (
    ConfigurationError,
    DecryptionError,
    KeyAccessDeniedError,
    KeyDestroyedError,
    KeyDisabledError,
    KeyNotFoundError,
    KeyServiceError,
    KeyServiceThrottledError,
    KeyServiceUnavailableError,
    KeyUnsupportedError,
)
from twh_platform.kms import Capability, KeyContext, KeyState
from twh_platform.kms._deadline import deadline
from twh_platform.kms.aws import AwsKeyService

OTHER_REGION = "us-east-1"


@pytest.fixture
def moto():
    """The server, healed afterwards."""
    yield shared_moto()
    shared_moto().heal()


@pytest.fixture
def name():
    """What the names of one test begin with."""
    return f"twh-{secrets.token_hex(6)}"


@pytest.fixture
def make(moto, name):
    """Makes services over the same keys."""
    made = []

    def make(**options):
        options = {
            "key": f"alias/{name}-{{tenant}}",
            "allowed": [moto.allowed],
            "session": moto.session(),
            "endpoint_url": moto.url,
            "timeout": 20.0,
            "create_missing": True,
            "rotation_days": None,
            **options,
        }
        made.append(AwsKeyService(**options))
        return made[-1]

    yield make
    for service in made:
        service.close()


def context(tenant="acme", purpose="data"):
    """The context of a new data key."""
    return KeyContext(tenant_id=tenant, purpose=purpose, data_key_id=os.urandom(16))


def one(results):
    """The only result of a batch."""
    (result,) = results
    return result


class Naive:
    """Each tries something that AWS refuses, with a plain client; the code, or None if it went."""

    def __init__(self, kms, moto=None, *, plain=False):
        self.kms = kms
        self.moto = moto
        self.plain = plain
        self.key = self.kms.create_key(KeyUsage="ENCRYPT_DECRYPT")["KeyMetadata"]["KeyId"]
        self.blob = self.encrypt(self.key)

    def encrypt(self, key, **asked):
        """A wrapped text."""
        return self.kms.encrypt(KeyId=key, Plaintext=b"x" * 32, **asked)["CiphertextBlob"]

    def code(self, call, **asked):
        """The error's code."""
        try:
            getattr(self.kms, call)(**asked)
        except ClientError as error:
            return error.response["Error"]["Code"]
        return None

    def disabled(self):
        """A disabled key is used."""
        self.kms.disable_key(KeyId=self.key)
        return self.code("decrypt", CiphertextBlob=self.blob, KeyId=self.key)

    def pending(self):
        """A key that waits for its deletion is used."""
        self.kms.schedule_key_deletion(KeyId=self.key, PendingWindowInDays=7)
        return self.code("generate_data_key", KeyId=self.key, KeySpec="AES_256")

    def enabled_again(self):
        """A key that waits for its deletion is enabled."""
        self.kms.schedule_key_deletion(KeyId=self.key, PendingWindowInDays=7)
        return self.code("enable_key", KeyId=self.key)

    def window(self):
        """A key is to be deleted in three days."""
        return self.code("schedule_key_deletion", KeyId=self.key, PendingWindowInDays=3)

    def ambiguous(self):
        """One context is taken for another of the same letters."""
        blob = self.encrypt(self.key, EncryptionContext={"a": "bc"})
        wrong = {"ab": "c"}
        return self.code("decrypt", CiphertextBlob=blob, KeyId=self.key, EncryptionContext=wrong)

    def long_context(self):
        """A context of ten kilobytes is taken."""
        long = {"a": "x" * 10_000}
        return self.code("encrypt", KeyId=self.key, Plaintext=b"x", EncryptionContext=long)

    def other_key(self):
        """What one key has wrapped is opened by another."""
        other = Naive(self.kms).key
        return self.code("decrypt", CiphertextBlob=self.blob, KeyId=other)

    def garbage(self):
        """What no key has wrapped is opened."""
        return self.code("decrypt", CiphertextBlob=b"nonsense" * 20, KeyId=self.key)

    def source(self):
        """Something is re-encrypted from a key that has not wrapped it."""
        other = Naive(self.kms).key
        return self.code(
            "re_encrypt", CiphertextBlob=self.blob, SourceKeyId=other, DestinationKeyId=self.key
        )

    def hmac(self):
        """A data key is made by an HMAC key."""
        made = self.kms.create_key(KeyUsage="GENERATE_VERIFY_MAC", KeySpec="HMAC_256")
        key = made["KeyMetadata"]["KeyId"]
        return self.code("generate_data_key", KeyId=key, KeySpec="AES_256")

    def replica(self):
        """A multi-region key opens what it has wrapped."""
        made = self.kms.create_key(KeyUsage="ENCRYPT_DECRYPT", MultiRegion=True)
        arn = made["KeyMetadata"]["Arn"]
        return self.code("decrypt", CiphertextBlob=self.encrypt(arn), KeyId=arn)

    def by_arn(self):
        """A key is disabled by its ARN."""
        arn = self.kms.describe_key(KeyId=self.key)["KeyMetadata"]["Arn"]
        return self.code("disable_key", KeyId=arn)

    def usage(self):
        """A key of which no usage was asked is for encryption."""
        return self.kms.create_key()["KeyMetadata"].get("KeyUsage")

    def mac_arn(self):
        """A MAC names its key by ARN."""
        made = self.kms.create_key(KeyUsage="GENERATE_VERIFY_MAC", KeySpec="HMAC_256")
        asked = {"KeyId": made["KeyMetadata"]["KeyId"], "MacAlgorithm": "HMAC_SHA_256"}
        return self.kms.generate_mac(Message=b"x", **asked)["KeyId"][:4]


CORRECTIONS = {
    "disabled": (None, "DisabledException"),
    "pending": (None, "KMSInvalidStateException"),
    "enabled_again": (None, "KMSInvalidStateException"),
    "window": (None, "ValidationException"),
    "ambiguous": (None, "InvalidCiphertextException"),
    "long_context": (None, "ValidationException"),
    "other_key": ("AccessDeniedException", "IncorrectKeyException"),
    "garbage": ("AccessDeniedException", "InvalidCiphertextException"),
    "source": (None, "IncorrectKeyException"),
    "hmac": (None, "InvalidKeyUsageException"),
    "replica": ("AccessDeniedException", None),
    "by_arn": ("500", None),
    "usage": (None, "ENCRYPT_DECRYPT"),
    "mac_arn": ("", "arn:"),
}


@pytest.mark.parametrize("case", CORRECTIONS)
def test_strict_moto_is_right_where_moto_is_wrong(case, moto):
    """Control: plain moto does not do as AWS does, and the server in front of it does."""
    wrong, right = CORRECTIONS[case]
    plain = getattr(Naive(moto.client("kms", plain=True)), case)()
    strict = getattr(Naive(moto.client("kms")), case)()

    assert strict == right
    assert plain != right
    if wrong != "":
        assert plain == wrong


def test_moto_knows_who_asks_what(moto, make):
    """The count of calls that tests rely on sees each call, and no other."""
    service = make()
    service.create("acme")
    key_ref = one(service.generate([context()])).wrapped.key_ref
    bound = context()
    wrapped = one(service.generate([bound])).wrapped
    service.unwrap([(wrapped, bound)] * 3)

    assert moto.calls(key_ref)["Decrypt"] == 3
    assert "GenerateDataKey" not in moto.calls(key_ref)


@pytest.mark.parametrize(
    "key_ref",
    [
        f"arn:aws:kms:{REGION}:999999999999:key/mrk-00000000000000000000000000000000",
        f"arn:aws-cn:kms:{REGION}:{ACCOUNT}:key/00000000-0000-0000-0000-000000000000",
        f"arn:aws:kms:{REGION}:{ACCOUNT}:alias/evil",
        "alias/evil",
        "00000000-0000-0000-0000-000000000000",
        f"arn:aws:kms:{REGION}:{ACCOUNT}:key/x\n",
        f"arn:aws:s3:{REGION}:{ACCOUNT}:key/x",
    ],
)
def test_a_foreign_key_is_refused_before_moto_is_asked(key_ref, moto, make):
    """A wrapped key that names an attacker's key is not even shown to it."""
    service, bound = make(), context()
    wrapped = one(service.generate([bound])).wrapped
    before = moto.calls()
    foreign = replace(wrapped, key_ref=key_ref)
    results = [*service.unwrap([(foreign, bound)]), *service.rewrap([(foreign, bound)])]

    assert [(type(each), each.code) for each in results] == [
        (KeyAccessDeniedError, "key_ref_refused")
    ] * 2
    assert moto.calls() == before


@pytest.mark.parametrize(
    "allowed",
    [
        [],
        "arn:aws:kms:eu-central-1:123456789012:key/*",
        ["*"],
        ["arn:aws:kms:*:*:key/*"],
        ["arn:aws:kms:eu-central-1:123456789012:alias/x"],
        ["arn:*:kms:eu-central-1:123456789012:key/*"],
    ],
)
def test_a_list_of_allowed_keys_names_accounts_moto(allowed, make):
    """Nobody allows everything by accident."""
    with pytest.raises(ConfigurationError) as caught:
        make(allowed=allowed)

    assert caught.value.code == "aws_allowed_invalid"


@pytest.mark.parametrize("operation", ["GenerateDataKey", "Encrypt", "Decrypt", "ReEncrypt"])
def test_an_answer_by_another_key_is_not_believed_moto(operation, moto, make):
    """Attack: who stands in between answers with a key that is not ours."""
    service, bound = make(), context()
    key = one(service.generate([bound]))
    foreign = f"arn:aws:kms:{REGION}:999999999999:key/00000000-0000-0000-0000-000000000000"
    moto.fail(operation, change={"KeyId": foreign})
    results = {
        "GenerateDataKey": lambda: service.generate([bound]),
        "Encrypt": lambda: service.wrap([(key.plaintext, bound)]),
        "Decrypt": lambda: service.unwrap([(key.wrapped, bound)]),
        "ReEncrypt": lambda: service.rewrap([(key.wrapped, bound)]),
    }[operation]()

    assert (type(one(results)), one(results).code) == (KeyAccessDeniedError, "key_ref_refused")


def test_an_answer_by_another_key_of_ours_is_not_believed_moto(moto, make):
    """The key that unwraps is the one that was asked, and not just one that is allowed."""
    service, bound = make(), context()
    key = one(service.generate([bound]))
    other = one(service.generate([context("globex")])).wrapped.key_ref
    moto.fail("Decrypt", change={"KeyId": other})

    assert one(service.unwrap([(key.wrapped, bound)])).code == "key_answer_invalid"


@pytest.mark.parametrize(
    "change",
    [{"Plaintext": "AAAAAAAAAAAAAAAAAAAAAA=="}, {"Plaintext": ""}, {"Plaintext": "AAAA" * 16}],
    ids=["16", "0", "48"],
)
def test_a_data_key_of_another_length_is_refused_moto(change, moto, make):
    """A short key is no key: neither a new one nor one that was unwrapped."""
    service, bound = make(), context()
    wrapped = one(service.generate([bound])).wrapped
    moto.fail("*", change=change)
    results = [*service.generate([bound]), *service.unwrap([(wrapped, bound)])]

    assert [getattr(each, "code", None) for each in results] == ["key_answer_invalid"] * 2


@pytest.mark.parametrize("body", ["", "{}", "<html>busy</html>", "[]", '{"KeyId": 7}'])
def test_an_answer_of_another_form_is_an_error_of_ours_moto(body, moto, make):
    """Whatever answers in the service's place, nothing but our own errors comes out."""
    service, bound = make(), context()
    wrapped = one(service.generate([bound])).wrapped
    moto.fail("*", body=body)
    results = [
        *service.generate([bound]),
        *service.unwrap([(wrapped, bound)]),
        *service.rewrap([(wrapped, bound)]),
    ]

    assert all(isinstance(each, KeyServiceError) for each in results), results
    assert not service.health().ok


def test_an_alias_that_is_moved_closes_nothing_moto(moto, make, name):
    """What was wrapped opens by its recorded key; what is new is wrapped by the new one."""
    service, kms, bound = make(), moto.client("kms"), context()
    old = one(service.generate([bound]))
    new_key = kms.create_key()["KeyMetadata"]["Arn"]
    kms.update_alias(AliasName=f"alias/{name}-acme", TargetKeyId=new_key)
    new = one(service.generate([bound]))
    moved = one(service.rewrap([(old.wrapped, bound)]))

    assert old.wrapped.key_ref != new.wrapped.key_ref == moved.key_ref == new_key
    assert service.unwrap([(old.wrapped, bound), (new.wrapped, bound), (moved, bound)]) == [
        old.plaintext,
        new.plaintext,
        old.plaintext,
    ]


def test_a_replica_of_another_region_unwraps_moto(moto, make, name):
    """A multi-region key is one key: recorded there, used here, for old and for new."""
    service, bound = make(multi_region=True), context()
    key = one(service.generate([bound]))
    moto.client("kms").replicate_key(KeyId=key.wrapped.key_ref, ReplicaRegion=OTHER_REGION)
    there = key.wrapped.key_ref.replace(REGION, OTHER_REGION)
    moto.client("kms", region=OTHER_REGION).create_alias(
        AliasName=f"alias/{name}-acme", TargetKeyId=there
    )
    away = make(region=OTHER_REGION, create_missing=False)

    assert away.unwrap([(key.wrapped, bound)]) == [key.plaintext]
    assert one(away.rewrap([(key.wrapped, bound)])).key_ref == there
    assert service.unwrap([(one(away.rewrap([(key.wrapped, bound)])), bound)]) == [key.plaintext]


def test_a_key_that_is_not_in_our_region_is_asked_in_its_own_moto(make):
    """A single-region key, and a multi-region one without replica here, unwrap where they are."""
    bound, away = context(), make(region=OTHER_REGION)
    for multi_region in (False, True):
        service = make(multi_region=multi_region)
        key = one(service.generate([bound]))
        moved = one(away.rewrap([(key.wrapped, bound)])) if not multi_region else None

        assert away.unwrap([(key.wrapped, bound)]) == [key.plaintext]
        assert moved is None or OTHER_REGION in moved.key_ref


def test_a_multi_region_key_is_destroyed_in_every_region_moto(moto, make):
    """A replica that is left would open everything: `destroy` and `disable` leave none."""
    service, bound = make(multi_region=True), context()
    key = one(service.generate([bound]))
    moto.client("kms").replicate_key(KeyId=key.wrapped.key_ref, ReplicaRegion=OTHER_REGION)
    away = make(region=OTHER_REGION)
    service.disable("acme")
    assert isinstance(one(away.unwrap([(key.wrapped, bound)])), KeyDisabledError)
    service.enable("acme")
    assert away.unwrap([(key.wrapped, bound)]) == [key.plaintext]
    service.destroy("acme")

    assert isinstance(one(away.unwrap([(key.wrapped, bound)])), KeyDestroyedError)


@pytest.mark.parametrize("days", [7, 30])
def test_destruction_is_at_the_end_of_the_window_moto(days, make):
    """The date that is told lies as many days ahead, and says in which zone."""
    service = make(pending_window_days=days)
    service.create("acme")
    info = service.destroy("acme")
    ahead = info.destroyed_at.timestamp() - time.time()

    assert info.state is KeyState.DESTROYING
    assert info.destroyed_at.utcoffset().total_seconds() == 0
    assert abs(ahead - days * 86_400) < 3600


def test_deletion_that_an_administrator_cancels_is_told_moto(moto, make):
    """Until the date an administrator can take it back; the key is disabled then, not gone."""
    service, bound = make(), context()
    key = one(service.generate([bound]))
    service.destroy("acme")
    moto.client("kms").cancel_key_deletion(KeyId=key.wrapped.key_ref.rpartition("/")[2])

    assert service.describe("acme").state is KeyState.DISABLED
    assert isinstance(one(service.unwrap([(key.wrapped, bound)])), KeyDisabledError)


def test_a_state_that_may_not_be_asked_for_is_no_use_either_moto(moto, make):
    """Without the right to DescribeKey it stays open why a key is refused, not that it is."""
    service, bound = make(), context()
    key = one(service.generate([bound]))
    service.destroy("acme")
    moto.fail("DescribeKey", code="AccessDeniedException")
    error = one(service.unwrap([(key.wrapped, bound)]))

    assert (type(error), error.code) == (KeyDisabledError, "key_state_invalid")


class Pauses(list):
    """A sleep that only takes down how long."""

    def __call__(self, seconds):
        """Sleep."""
        self.append(seconds)


@pytest.mark.parametrize("code", ["NotFoundException", "DisabledException"])
def test_a_fresh_key_is_waited_for_moto(code, moto, make):
    """AWS is eventually consistent: a key of a moment ago may not be known everywhere."""
    pauses = Pauses()
    service = make(sleep=pauses, create_missing=False)
    service.create("acme")
    moto.fail("GenerateDataKey", code=code, times=3)
    result = one(service.generate([context()]))

    assert not isinstance(result, KeyServiceError)
    assert pauses == [0.05, 0.1, 0.2]


def test_waiting_for_a_fresh_key_is_bounded_moto(moto, make):
    """By a number of attempts, and by the deadline."""
    pauses = Pauses()
    service = make(sleep=pauses, create_missing=False)
    service.create("acme")
    moto.fail("GenerateDataKey", code="NotFoundException")
    lasting = one(service.generate([context()]))
    counted = len(pauses)
    with deadline(0.02):
        cut = one(service.generate([context()]))

    assert isinstance(lasting, KeyNotFoundError)
    assert counted == 5
    assert isinstance(cut, (KeyNotFoundError, KeyServiceUnavailableError))
    assert len(pauses) == counted


def test_an_older_key_is_not_waited_for_moto(moto, make):
    """After half a minute the same answer is the truth, and so it is after `disable`."""
    pauses, now = Pauses(), [0.0]
    service = make(sleep=pauses, clock=lambda: now[0], create_missing=False)
    service.create("acme")
    now[0] += 31
    moto.fail("GenerateDataKey", code="NotFoundException", times=1)
    assert isinstance(one(service.generate([context()])), KeyNotFoundError)
    service.enable("acme")
    service.disable("acme")

    assert isinstance(one(service.generate([context()])), KeyDisabledError)
    assert pauses == []


def test_who_creates_second_adopts_the_first_key_moto(moto, make, name):
    """The loser of a race takes the winner's key and has its own deleted."""
    service, kms = make(), moto.client("kms")
    winner = kms.create_key()["KeyMetadata"]["Arn"]
    moto.fail("DescribeKey", code="NotFoundException", times=1)
    kms.create_alias(AliasName=f"alias/{name}-acme", TargetKeyId=winner)
    info = service.create("acme")
    tagged = [
        key["KeyId"]
        for key in kms.list_keys()["Keys"]
        if {"TagKey": "twh:tenant", "TagValue": "acme"}
        in kms.list_resource_tags(KeyId=key["KeyId"])["Tags"]
    ]
    newest = kms.describe_key(KeyId=tagged[-1])["KeyMetadata"]

    assert info.key_ref == winner
    assert newest["KeyState"] == "PendingDeletion"


def test_a_key_that_may_not_be_named_is_not_left_moto(moto, make):
    """If the alias is denied, the key that it was for is deleted again."""
    service, kms = make(), moto.client("kms")
    moto.fail("CreateAlias", code="AccessDeniedException")
    before = {key["KeyId"] for key in kms.list_keys()["Keys"]}
    with pytest.raises(KeyAccessDeniedError):
        service.create("acme")
    (left,) = {key["KeyId"] for key in kms.list_keys()["Keys"]} - before

    assert kms.describe_key(KeyId=left)["KeyMetadata"]["KeyState"] == "PendingDeletion"


def test_a_new_key_rotates_by_itself_moto(moto, make):
    """New keys have automatic rotation, the tenant as a tag, and the tags that were asked."""
    service, kms = make(rotation_days=365, tags={"team": "warehouse"}), moto.client("kms")
    key = service.create("acme").key_ref
    tags = {tag["TagKey"]: tag["TagValue"] for tag in kms.list_resource_tags(KeyId=key)["Tags"]}

    assert kms.get_key_rotation_status(KeyId=key)["KeyRotationEnabled"]
    assert tags == {"team": "warehouse", "twh:tenant": "acme"}


def test_a_rotation_that_is_under_way_is_ours_too_moto(moto, make):
    """Two who rotate at once: the second is content with the first one's."""
    service = make()
    before = service.create("acme")
    moto.fail("RotateKeyOnDemand", code="ConflictException")

    assert service.rotate("acme") == before


def test_throttling_tells_how_long_to_wait_moto(moto, make):
    """Its Retry-After reaches whoever tries again; botocore itself tries once."""
    service, bound = make(), context()
    wrapped = one(service.generate([bound])).wrapped
    moto.fail("Decrypt", code="ThrottlingException", headers={"Retry-After": "7"})
    result = one(service.unwrap([(wrapped, bound)]))

    assert isinstance(result, KeyServiceThrottledError)
    assert result.retry_after == 7
    assert moto.calls(wrapped.key_ref)["Decrypt"] == 1


FAULTS = {
    "AccessDeniedException": KeyAccessDeniedError,
    "ConflictException": KeyServiceError,
    "DependencyTimeoutException": KeyServiceUnavailableError,
    "DisabledException": KeyDisabledError,
    "DryRunOperationException": KeyServiceError,
    "ExpiredTokenException": KeyAccessDeniedError,
    "IncorrectKeyException": DecryptionError,
    "InternalFailure": KeyServiceUnavailableError,
    "InvalidCiphertextException": DecryptionError,
    "InvalidGrantTokenException": KeyAccessDeniedError,
    "InvalidKeyUsageException": KeyUnsupportedError,
    "KMSInternalException": KeyServiceUnavailableError,
    # The key says that it is enabled: it changes its state just now.
    "KMSInvalidStateException": KeyServiceUnavailableError,
    "KeyUnavailableException": KeyServiceUnavailableError,
    "LimitExceededException": KeyServiceError,
    "NotFoundException": KeyNotFoundError,
    "TooManyRequestsException": KeyServiceThrottledError,
    "UnrecognizedClientException": KeyAccessDeniedError,
    "ValidationException": KeyServiceError,
    MARKER: KeyServiceError,
}


@pytest.mark.parametrize("code", FAULTS)
def test_errors_are_ours_and_say_nothing_of_the_servers_moto(code, moto, make):
    """Each error has its class, and none repeats what the server wrote."""
    service, bound = make(), context()
    wrapped = one(service.generate([bound])).wrapped
    moto.fail("Decrypt", code=code)
    error = one(service.unwrap([(wrapped, bound)]))

    assert type(error) is FAULTS[code]
    assert MARKER not in f"{error} {error!r} {error.code}"
    assert error.__cause__ is None
    assert error.__context__ is None
    assert error.__traceback__ is None


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (429, KeyServiceThrottledError),
        (500, KeyServiceUnavailableError),
        (503, KeyServiceUnavailableError),
        (403, KeyAccessDeniedError),
        (401, KeyAccessDeniedError),
        (302, KeyServiceError),
        (418, KeyServiceError),
    ],
)
def test_an_unknown_error_is_read_by_its_status_moto(status, kind, moto, make):
    """A proxy in between may answer with anything; a redirect is not followed."""
    service, bound = make(), context()
    wrapped = one(service.generate([bound])).wrapped
    moto.fail("Decrypt", code="NobodyKnows", status=status, headers={"Location": moto.plain_url})
    error = one(service.unwrap([(wrapped, bound)]))

    assert type(error) is kind
    assert error.retryable is issubclass(kind, KeyServiceUnavailableError)


USED = [
    "CreateAlias",
    "CreateKey",
    "Decrypt",
    "DescribeKey",
    "DisableKey",
    "EnableKey",
    "EnableKeyRotation",
    "Encrypt",
    "GenerateDataKey",
    "GenerateMac",
    "ReEncrypt",
    "RotateKeyOnDemand",
    "ScheduleKeyDeletion",
    "VerifyMac",
]


def test_every_error_that_kms_declares_is_in_the_map_moto():
    """AWS's own description of the operations that are used knows no other error."""
    import botocore.session

    from twh_platform.kms.aws._faults import KMS

    model = botocore.session.get_session().get_service_model("kms")
    declared = {error.name for name in USED for error in model.operation_model(name).error_shapes}
    # Of key stores that are no part of KMS: only CreateKey with such a store meets them.
    elsewhere = {name for name in declared if name.startswith(("Xks", "CustomKey", "CloudHsm"))}

    assert declared - elsewhere - set(KMS) == set()


def test_a_server_that_says_nothing_is_given_up_moto(moto, make):
    """An attempt ends at its timeout, a batch with the first, and a deadline comes before both."""
    service, bound = make(), context()
    wrapped = one(service.generate([bound])).wrapped
    hasty = make(timeout=0.4)
    moto.fail("Decrypt", seconds=5)
    begun = time.monotonic()
    results = hasty.unwrap([(wrapped, bound)] * 40)
    with deadline(0.3):
        cut = one(service.unwrap([(wrapped, bound)]))

    assert {(type(each), each.code) for each in [*results, cut]} == {
        (KeyServiceUnavailableError, "key_service_unreachable")
    }
    assert time.monotonic() - begun < 5


def test_no_server_at_all_is_unavailable_moto(make):
    """A port where nobody listens is told as unavailable, and health is red."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    service = make(endpoint_url=f"http://127.0.0.1:{port}")
    error, health = one(service.generate([context()])), service.health()

    assert (type(error), error.retryable) == (KeyServiceUnavailableError, True)
    assert (health.ok, health.code) == (False, "key_service_unreachable")


def test_health_tells_what_is_wrong_moto(moto, make):
    """Wrapping alone does not make it green, and the platform's key has to be there."""
    service, lacking = make(), make(create_missing=False)
    absent = lacking.health()
    assert service.health().ok
    moto.fail("Decrypt", code="AccessDeniedException")

    assert (absent.ok, absent.code) == (False, "key_not_found")
    assert (service.health().ok, service.health().code) == (False, "key_access_denied")


def test_a_shared_key_is_not_ours_to_end_moto(moto, make, name):
    """With one key for all, destroying one tenant's would destroy everyone's: it is refused."""
    key = moto.client("kms").create_key()["KeyMetadata"]["Arn"]
    moto.client("kms").create_alias(AliasName=f"alias/{name}", TargetKeyId=key)
    service = make(key=f"alias/{name}")
    acme, globex = (one(service.generate([context(tenant)])) for tenant in ("acme", "globex"))
    for call in (service.create, service.rotate, service.disable, service.enable, service.destroy):
        with pytest.raises(KeyUnsupportedError):
            call("acme")

    assert acme.wrapped.key_ref == globex.wrapped.key_ref == service.describe("acme").key_ref == key
    assert not service.capabilities & (Capability.TENANT_KEYS | Capability.DESTROY)


def test_an_hmac_key_makes_no_data_keys_moto(moto, make, name):
    """A key of the wrong kind is a fault of the setup, and told as such."""
    made = moto.client("kms").create_key(KeyUsage="GENERATE_VERIFY_MAC", KeySpec="HMAC_256")
    moto.client("kms").create_alias(
        AliasName=f"alias/{name}", TargetKeyId=made["KeyMetadata"]["KeyId"]
    )
    error = one(make(key=f"alias/{name}").generate([context()]))

    assert (type(error), error.code) == (KeyUnsupportedError, "key_usage_wrong")


@pytest.mark.parametrize(
    "options",
    [
        {"key": "twh-{tenant}"},
        {"key": "alias/aws/{tenant}"},
        {"key": "alias/{tenant}{tenant}"},
        {"key": "alias/" + "x" * 200 + "{tenant}"},
        {"key": "alias/a b"},
        {"key": "arn:aws:kms:eu-central-1:123456789012:alias/x"},
        {"mac_key": "receipts"},
        {"key": "alias/twh-{tenant}", "mac_key": "alias/twh-mac"},
        {"key": "alias/twh", "mac_key": "alias/twh"},
    ],
)
def test_a_name_that_cannot_be_right_is_refused_moto(options, make):
    """Also a MAC key that some tenant's id would name."""
    with pytest.raises(ConfigurationError) as caught:
        make(**options)

    assert caught.value.code == "aws_key_invalid"


@pytest.mark.parametrize(
    "options",
    [{"pending_window_days": 6}, {"pending_window_days": 31}, {"rotation_days": 89}],
)
def test_days_that_aws_does_not_take_are_refused_moto(options, make):
    """At once, and not when the first key is destroyed."""
    with pytest.raises(ConfigurationError) as caught:
        make(**options)

    assert caught.value.code == "aws_days_invalid"


@pytest.mark.parametrize("url", ["http://kms.example.com", "ftp://127.0.0.1", "kms.example.com"])
def test_data_keys_do_not_travel_in_the_clear_moto(url, make, monkeypatch):
    """An address without TLS is refused, also one of the environment."""
    with pytest.raises(ConfigurationError) as caught:
        make(endpoint_url=url)
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", "http://kms.example.com")
    with pytest.raises(ConfigurationError) as late:
        make(endpoint_url=None).generate([context()])

    assert caught.value.code == late.value.code == "aws_endpoint_insecure"


def test_a_region_has_to_be_said_moto(make, monkeypatch, tmp_path):
    """By the argument, or by the session."""
    import boto3

    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(ConfigurationError) as caught:
        make(session=boto3.Session())

    assert caught.value.code == "aws_region_missing"


@pytest.mark.parametrize("timeout", [0, -1, float("inf"), float("nan")])
def test_every_attempt_has_an_end_moto(timeout, make):
    """No service can be set up to wait for ever."""
    with pytest.raises(ConfigurationError) as caught:
        make(timeout=timeout)

    assert caught.value.code == "aws_timeout_invalid"


def test_missing_credentials_are_told_moto(make, monkeypatch, tmp_path):
    """The default chain is used, and where it finds nothing, that is said."""
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(variable, raising=False)
    for variable in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(variable, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    error = one(make(session=None, region=REGION).generate([context()]))

    assert (type(error), error.code) == (KeyAccessDeniedError, "aws_credentials_missing")


def test_a_debug_log_has_no_data_key_moto(moto, make, caplog):
    """Control: botocore writes data keys whole; through us it writes nothing at that level."""
    import base64

    service, kms, bound = make(), moto.client("kms"), context()
    service.create("acme")
    with caplog.at_level(logging.DEBUG):
        key = one(service.generate([bound]))
        service.wrap([(key.plaintext, bound)])
        ours = caplog.text
        arn = key.wrapped.key_ref
        naive = kms.generate_data_key(KeyId=arn, KeySpec="AES_256")["Plaintext"]

    assert base64.b64encode(naive).decode() in caplog.text
    assert base64.b64encode(key.plaintext).decode() not in caplog.text
    assert "a-secret-key-of-the-tests" not in ours
    assert "Response body" not in ours


def test_no_plaintext_among_the_locals_of_a_traceback_moto(moto, make):
    """Errors that are kept, logged or shown with locals hold no data key."""
    import traceback

    service, bound = make(), context()
    key = one(service.generate([bound]))
    moto.fail("Encrypt", change={"KeyId": "nonsense"})
    error = one(service.wrap([(key.plaintext, bound)]))
    shown = "".join(
        traceback.TracebackException.from_exception(error, capture_locals=True).format()
    )

    assert isinstance(error, KeyAccessDeniedError)
    assert repr(key.plaintext)[2:-1] not in shown


def test_a_forked_process_opens_connections_of_its_own_moto(make):
    """The child neither shares the parent's connections nor waits for its locks."""
    service, bound = make(), context()
    key = one(service.generate([bound]))
    before = dict(service._clients._clients)
    child = os.fork()
    if not child:
        fresh = not service._clients._clients
        opened = service.unwrap([(key.wrapped, bound)]) == [key.plaintext]
        os._exit(0 if fresh and opened else 1)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert service._clients._clients == before
    assert service.unwrap([(key.wrapped, bound)]) == [key.plaintext]


def test_a_mac_binds_its_use_though_the_key_is_shared_moto(moto, make, name):
    """One HMAC key serves several uses; what one made does not verify for another."""
    made = moto.client("kms").create_key(KeyUsage="GENERATE_VERIFY_MAC", KeySpec="HMAC_256")
    arn = made["KeyMetadata"]["Arn"]
    service = make(mac_key=arn)
    mac = service.mac(b"x", key="receipts")
    service.verify_mac(b"x", mac, key="receipts")
    foreign = replace(mac, key_ref=arn.replace(ACCOUNT, "999999999999"))
    for given, key in ((mac, "receipt"), (foreign, "receipts")):
        with pytest.raises(DecryptionError):
            service.verify_mac(b"x", given, key=key)

    assert mac.key_ref == arn
    with pytest.raises(KeyUnsupportedError):
        make().mac(b"x", key="receipts")
