"""
Data keys wrapped by AWS KMS.

The context of a data key is the encryption context of its wrapping: AWS
authenticates it, shows it in CloudTrail, and policies can ask for it.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import boto3

from ...errors import (
    ConfigurationError,
    DecryptionError,
    KeyAccessDeniedError,
    KeyDestroyedError,
    KeyDisabledError,
    KeyNotFoundError,
    KeyServiceError,
    KeyServiceUnavailableError,
    KeyUnsupportedError,
)
from ...tenancy._tenant import valid_tenant_id
from .._checks import checked_data_key, checked_mac_key, checked_mac_message
from .._clock import elapsed
from .._context import KeyContext, length_prefixed
from .._deadline import time_left
from .._owner import PLATFORM
from .._secret import HiddenBytes
from .._service import (
    DATA_KEY_BYTES,
    LONGEST_WRAPPED_BYTES,
    Capability,
    DataKey,
    Health,
    KeyInfo,
    KeyState,
    Mac,
    Result,
    WrappedKey,
    require_result,
)
from ._batches import each
from ._clients import Clients
from ._faults import KMS
from ._fresh import FreshKeys
from ._metadata import info_of, related_arns
from ._refs import AllowedKeys, KeyArn, KeyNames

__all__ = ["AwsKeyService"]

T = TypeVar("T")

_MAC_ALGORITHM = "HMAC_SHA_256"
_LONGEST_TAG = 64
_LIFE = Capability.CREATE | Capability.ROTATE | Capability.DISABLE | Capability.DESTROY
_SHORTEST_WINDOW, _LONGEST_WINDOW = 7, 30
_ROTATION_DAYS = range(90, 2561)


class AwsKeyService:
    """
    A key service in AWS KMS::

        service = AwsKeyService(
            key="alias/twh-{tenant}",
            allowed=["arn:aws:kms:eu-central-1:111122223333:key/*"],
        )

    Each call is one attempt, with botocore's own retries off: put a
    `GuardedKeyService` around it.  A batch is one request per key, a few at a
    time, for AWS KMS has no batches.

    Where *key* has no ``{tenant}``, all tenants share one master key.  They are
    told apart by the encryption context, and the key's life is not the
    service's to change.

    Args:
        key: The alias of a tenant's master key, or the shared one's alias or ARN.

        allowed: Patterns of key ARNs, such as
            ``arn:aws:kms:*:111122223333:key/*``.  A key that none of them fits
            is neither asked nor believed.

        session: A `boto3.Session`; None for the default credential chain.

        region: None for the session's own.

        endpoint_url: None for AWS's own; ``https``, or ``http`` on this machine.

        timeout: Seconds that one attempt may take; a deadline makes it less.

        pending_window_days: Days from `destroy` to the destruction, 7 to 30.

        mac_key: The alias or ARN of an HMAC key of spec ``HMAC_256``.

        create_missing: Make a tenant's master key when the first data key is
            asked for.  AWS bills each by the month.

        multi_region: Make new master keys as multi-region primary keys.

        rotation_days: The period of automatic rotation of new master keys, 90
            to 2,560; None for none.

        tags: For new master keys, besides ``twh:tenant``.

        parallel: How many requests of one batch run at a time.

        clock: The clock that a key is fresh by.

        sleep: Waits, while a fresh key is not found everywhere yet.

    Raises:
        twh_platform.errors.ConfigurationError: With a code that begins with ``aws_``.
    """

    name = "aws"

    def __init__(
        self,
        *,
        key: str,
        allowed: Sequence[str],
        session: boto3.Session | None = None,
        region: str | None = None,
        endpoint_url: str | None = None,
        timeout: float = 2.0,
        pending_window_days: int = 7,
        mac_key: str | None = None,
        create_missing: bool = False,
        multi_region: bool = False,
        rotation_days: int | None = 365,
        tags: Mapping[str, str] | None = None,
        parallel: int = 4,
        clock: Callable[[], float] = elapsed,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        _check_days(pending_window_days, rotation_days)
        self._names = KeyNames(key, mac_key)
        self._allowed = AllowedKeys(allowed)
        self._clients = Clients(
            "kms", KMS, session=session, region=region, endpoint_url=endpoint_url, timeout=timeout
        )
        self._timeout = timeout
        self._window_days = pending_window_days
        self._create_missing = create_missing and self._names.per_tenant
        self._multi_region = multi_region
        self._rotation_days = rotation_days
        self._tags = dict(tags or {})
        self._parallel = parallel
        self._fresh = FreshKeys(clock, sleep)
        self._creating = threading.Lock()
        self.capabilities = Capability.NATIVE_REWRAP
        if self._names.per_tenant:
            self.capabilities |= Capability.TENANT_KEYS | _LIFE
        if mac_key is not None:
            self.capabilities |= Capability.MAC

    def generate(self, contexts: Sequence[KeyContext]) -> list[Result[DataKey]]:
        """
        See `KeyService.generate`: GenerateDataKey, once for each.
        """
        return each(self._generate, contexts, self._parallel)

    def wrap(self, keys: Sequence[tuple[bytes, KeyContext]]) -> list[Result[WrappedKey]]:
        """
        See `KeyService.wrap`: Encrypt, once for each.
        """
        # Hidden, so that no traceback shows them among its locals.
        keys = [(HiddenBytes(key), context) for key, context in keys]
        for key, _ in keys:
            checked_data_key(key)
        return each(self._wrap, keys, self._parallel)

    def unwrap(self, keys: Sequence[tuple[WrappedKey, KeyContext]]) -> list[Result[bytes]]:
        """
        See `KeyService.unwrap`: Decrypt by the recorded key, once for each.

        Whatever an alias says by now does not matter.
        """
        return each(self._unwrap, keys, self._parallel)

    def rewrap(self, keys: Sequence[tuple[WrappedKey, KeyContext]]) -> list[Result[WrappedKey]]:
        """
        See `KeyService.rewrap`: ReEncrypt, once for each.

        ReEncrypt knows one region.  What a key of another region has wrapped
        is unwrapped there and wrapped here.
        """
        return each(self._rewrap, keys, self._parallel)

    def mac(self, message: bytes, *, key: str) -> Mac:
        """
        See `KeyService.mac`: GenerateMac over *key* and the SHA-512 of *message*.
        """
        said = self._mac_input(message, key)
        asked = {"KeyId": self._names.mac_key, "MacAlgorithm": _MAC_ALGORITHM, "Message": said}
        answer = self._call("generate_mac", asked)
        arn = self._allowed.require(answer.get("KeyId"))
        return Mac(key_ref=str(arn), tag=_required(answer, "Mac"))

    def verify_mac(self, message: bytes, mac: Mac, *, key: str) -> None:
        """
        See `KeyService.verify_mac`: VerifyMac by the recorded key.
        """
        said = self._mac_input(message, key)
        try:
            arn = self._allowed.require(mac.key_ref)
        except KeyAccessDeniedError:
            raise DecryptionError from None
        if not 0 < len(mac.tag) <= _LONGEST_TAG:
            raise DecryptionError
        asked = {
            "KeyId": str(arn),
            "MacAlgorithm": _MAC_ALGORITHM,
            "Message": said,
            "Mac": mac.tag,
        }
        if self._call("verify_mac", asked, arn.region).get("MacValid") is not True:
            raise DecryptionError

    def create(self, tenant_id: str) -> KeyInfo:
        """
        See `KeyService.create`: CreateKey, EnableKeyRotation and CreateAlias.

        Of several who create at once one wins; the keys of the others are
        scheduled for deletion, and have wrapped nothing.
        """
        self._require(Capability.CREATE)
        with suppress(KeyNotFoundError):
            return self.describe(tenant_id)
        return self._create(tenant_id)

    def rotate(self, tenant_id: str) -> KeyInfo:
        """
        See `KeyService.rotate`: RotateKeyOnDemand.

        AWS allows a key a number of these in its life, and keeps all older
        material for as long as the key lives.
        """
        self._require(Capability.ROTATE)
        metadata = self._metadata(tenant_id)
        primary = related_arns(metadata)[-1]
        try:
            self._call("rotate_key_on_demand", {"KeyId": str(primary)}, primary.region)
        except KeyServiceError as error:
            # One is under way: it does what was asked.
            if error.code != "key_conflict":
                raise
        return info_of(metadata)

    def disable(self, tenant_id: str) -> KeyInfo:
        """
        See `KeyService.disable`: DisableKey, in every region that has the key.

        AWS carries it out within seconds, not at once.
        """
        self._require(Capability.DISABLE)
        metadata = self._metadata(tenant_id)
        self._everywhere("disable_key", metadata)
        self._fresh.forget(tenant_id)
        return info_of({**metadata, "KeyState": "Disabled"})

    def enable(self, tenant_id: str) -> KeyInfo:
        """
        See `KeyService.enable`: EnableKey, in every region that has the key.
        """
        self._require(Capability.DISABLE)
        metadata = self._metadata(tenant_id)
        self._everywhere("enable_key", metadata)
        self._fresh.note(tenant_id)
        return info_of({**metadata, "KeyState": "Enabled"})

    def destroy(self, tenant_id: str) -> KeyInfo:
        """
        See `KeyService.destroy`: ScheduleKeyDeletion, in every region that has the key.

        AWS refuses every use from now on, and destroys after
        *pending_window_days*: the state is ``DESTROYING`` with that date, and
        an administrator of the account can still take it back.  Once AWS has
        destroyed a key it knows it no more, and this raises `KeyNotFoundError`.
        """
        self._require(Capability.DESTROY)
        self._fresh.forget(tenant_id)
        metadata = self._metadata(tenant_id)
        for arn in related_arns(metadata):
            answer = self._schedule_deletion(arn)
            if answer is not None and str(arn) == metadata["Arn"]:
                # What the key says of itself may be some seconds old.
                date = answer.get("DeletionDate")
                metadata = {**metadata, "KeyState": "PendingDeletion", "DeletionDate": date}
        return info_of(metadata)

    def describe(self, tenant_id: str) -> KeyInfo:
        """
        See `KeyService.describe`: DescribeKey.

        AWS numbers no versions, so `KeyInfo.version` is 0.
        """
        return info_of(self._metadata(tenant_id))

    def health(self) -> Health:
        """
        See `KeyService.health`: GenerateDataKey and Decrypt, by the platform's own key.
        """
        begun = time.monotonic()
        code = None
        context = KeyContext(tenant_id=PLATFORM.id, purpose="health", data_key_id=os.urandom(16))
        try:
            (made,) = self.generate([context])
            made = require_result(made)
            (found,) = self.unwrap([(made.wrapped, context)])
            if require_result(found) != made.plaintext:
                code = "key_answer_invalid"
        except KeyServiceError as error:
            code = error.code
        return Health(ok=code is None, seconds=time.monotonic() - begun, code=code)

    def close(self) -> None:
        """
        Close the connections.
        """
        self._clients.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(region={self._clients.region!r})"

    def _generate(self, context: KeyContext) -> DataKey:
        answer = self._by_name(
            "generate_data_key",
            context,
            {"KeySpec": "AES_256"},
            name="KeyId",
            bound="EncryptionContext",
        )
        wrapped = self._wrapped(answer)
        return DataKey(plaintext=_data_key(answer), wrapped=wrapped)

    def _wrap(self, item: tuple[bytes, KeyContext]) -> WrappedKey:
        key, context = item
        return self._wrapped(
            self._by_name(
                "encrypt", context, {"Plaintext": key}, name="KeyId", bound="EncryptionContext"
            )
        )

    def _unwrap(self, item: tuple[WrappedKey, KeyContext]) -> bytes:
        wrapped, context = item
        recorded = self._recorded(wrapped)
        here = recorded.within(self._clients.region) if recorded.multi_region else recorded
        try:
            return self._decrypt(wrapped.ciphertext, context, here)
        except KeyNotFoundError:
            if here == recorded:
                raise
        # There is no replica in our region.
        return self._decrypt(wrapped.ciphertext, context, recorded)

    def _decrypt(self, ciphertext: bytes, context: KeyContext, arn: KeyArn) -> bytes:
        asked = {
            "KeyId": str(arn),
            "CiphertextBlob": ciphertext,
            "EncryptionContext": context.pairs(),
        }
        answer = self._patient(context.tenant_id, "decrypt", asked, arn.region)
        self._check_key(answer, "KeyId", arn)
        return _data_key(answer)

    def _rewrap(self, item: tuple[WrappedKey, KeyContext]) -> WrappedKey:
        wrapped, context = item
        recorded = self._recorded(wrapped)
        here = recorded.within(self._clients.region)
        if not here.same_key(recorded):
            return self._wrap((self._unwrap(item), context))
        asked = {
            "SourceKeyId": str(here),
            "CiphertextBlob": wrapped.ciphertext,
            "SourceEncryptionContext": context.pairs(),
        }
        answer = self._by_name(
            "re_encrypt",
            context,
            asked,
            name="DestinationKeyId",
            bound="DestinationEncryptionContext",
        )
        self._check_key(answer, "SourceKeyId", here)
        return self._wrapped(answer)

    def _by_name(
        self, operation: str, context: KeyContext, asked: dict[str, Any], *, name: str, bound: str
    ) -> Any:
        """
        Ask for something to be wrapped by the tenant's key of now.
        """
        asked |= {name: self._names.of(context.tenant_id), bound: context.pairs()}
        try:
            return self._patient(context.tenant_id, operation, asked)
        except KeyNotFoundError:
            if not self._create_missing:
                raise
        # Threads that meet a new tenant together would each make a key, and pay for it.
        with self._creating:
            self.create(context.tenant_id)
        # Also one that another process has made meanwhile.
        self._fresh.note(context.tenant_id)
        return self._patient(context.tenant_id, operation, asked)

    def _create(self, tenant_id: str) -> KeyInfo:
        tags = self._tags | {"twh:tenant": tenant_id}
        asked = {
            "KeySpec": "SYMMETRIC_DEFAULT",
            "KeyUsage": "ENCRYPT_DECRYPT",
            "MultiRegion": self._multi_region,
            "Tags": [{"TagKey": tag, "TagValue": value} for tag, value in tags.items()],
        }
        made = _required(self._call("create_key", asked), "KeyMetadata")["Arn"]
        self._fresh.note(tenant_id)
        try:
            arn = str(self._allowed.require(made))
            if self._rotation_days is not None:
                rotated = {"KeyId": arn, "RotationPeriodInDays": self._rotation_days}
                self._patient(tenant_id, "enable_key_rotation", rotated)
            alias = {"AliasName": self._names.of(tenant_id), "TargetKeyId": arn}
            self._patient(tenant_id, "create_alias", alias)
        except KeyServiceUnavailableError:
            # The alias may stand all the same: the key is left, and its tag tells whose it is.
            raise
        except KeyServiceError as error:
            self._discard(made)
            if error.code != "key_exists":
                raise
        return info_of(self._patiently(tenant_id, lambda: self._metadata(tenant_id)))

    def _discard(self, key: str) -> None:
        with suppress(KeyServiceError):
            asked = {"KeyId": key, "PendingWindowInDays": _SHORTEST_WINDOW}
            self._clients.call("schedule_key_deletion", asked)

    def _schedule_deletion(self, arn: KeyArn) -> Any:
        asked = {"KeyId": str(arn), "PendingWindowInDays": self._window_days}
        try:
            return self._call("schedule_key_deletion", asked, arn.region)
        except KeyDestroyedError:
            # It is so already, and keeps its date.
            return None

    def _everywhere(self, operation: str, metadata: Mapping[str, Any]) -> None:
        for arn in related_arns(metadata):
            self._call(operation, {"KeyId": str(arn)}, arn.region)

    def _metadata(self, tenant_id: str) -> Mapping[str, Any]:
        asked = {"KeyId": self._names.of(valid_tenant_id(tenant_id))}
        metadata: Mapping[str, Any] = _required(
            self._clients.call("describe_key", asked), "KeyMetadata"
        )
        for arn in related_arns(metadata):
            self._allowed.require(str(arn))
        return metadata

    def _patient(
        self, tenant_id: str, operation: str, asked: Mapping[str, Any], region: str = ""
    ) -> Any:
        return self._patiently(tenant_id, lambda: self._call(operation, asked, region))

    def _patiently(self, tenant_id: str, call: Callable[[], T]) -> T:
        return self._fresh.patiently(tenant_id, call, lambda: time_left(self._timeout))

    def _call(self, operation: str, asked: Mapping[str, Any], region: str = "") -> Any:
        try:
            return self._clients.call(operation, asked, region)
        except KeyDisabledError as error:
            if error.code != "key_state_invalid":
                raise
        raise self._state_fault(operation, asked, region)

    def _state_fault(
        self, operation: str, asked: Mapping[str, Any], region: str
    ) -> KeyServiceError:
        """
        What KMSInvalidStateException means: AWS tells in prose only, so the key is asked.
        """
        fields = ("KeyId", "SourceKeyId", "DestinationKeyId", "TargetKeyId")
        try:
            states = [self._state(asked[field], region) for field in fields if field in asked]
        except KeyAccessDeniedError:
            what = f"AWS {operation}: the state of the key forbids it; DescribeKey is denied"
            return KeyDisabledError(what, code="key_state_invalid")
        if KeyState.DESTROYING in states:
            return KeyDestroyedError(f"AWS {operation}: the key is to be destroyed")
        if KeyState.DISABLED in states:
            return KeyDisabledError(f"AWS {operation}: the key is disabled, or not ready")
        what = f"AWS {operation}: the key changes its state, or cannot be reached"
        return KeyServiceUnavailableError(what, code="key_unavailable")

    def _state(self, key: str, region: str) -> KeyState:
        answer = self._clients.call("describe_key", {"KeyId": key}, region)
        return info_of(_required(answer, "KeyMetadata")).state

    def _wrapped(self, answer: Any) -> WrappedKey:
        arn = self._allowed.require(answer.get("KeyId"))
        ciphertext = _required(answer, "CiphertextBlob")
        if len(ciphertext) > LONGEST_WRAPPED_BYTES:
            message = f"AWS answered with a wrapped key of {len(ciphertext)} bytes"
            raise KeyServiceError(message, code="key_answer_invalid")
        return WrappedKey(
            provider=self.name, key_ref=str(arn), key_version=0, ciphertext=ciphertext
        )

    def _recorded(self, wrapped: WrappedKey) -> KeyArn:
        if wrapped.provider != self.name:
            message = f"wrapped by key service {wrapped.provider[:40]!r}, not {self.name!r}"
            raise KeyNotFoundError(message)
        return self._allowed.require(wrapped.key_ref)

    def _check_key(self, answer: Any, field: str, arn: KeyArn) -> None:
        used = self._allowed.require(answer.get(field))
        if used != arn:
            message = f"AWS answered with {str(used)!r} where {str(arn)!r} was asked"
            raise KeyServiceError(message, code="key_answer_invalid")

    def _mac_input(self, message: bytes, key: str) -> bytes:
        self._require(Capability.MAC)
        # AWS binds an HMAC key to no context, and one key serves several uses here.
        digest = hashlib.sha512(checked_mac_message(message)).digest()
        return length_prefixed(b"twh/mac/v1", checked_mac_key(key).encode(), digest)

    def _require(self, capability: Capability) -> None:
        if capability not in self.capabilities:
            what = capability.name or ""
            raise KeyUnsupportedError(f"key service {self.name!r} has no {what} as it is set up")


def _data_key(answer: Any) -> bytes:
    # Not kept in a variable: a traceback shows those.
    if len(_required(answer, "Plaintext")) != DATA_KEY_BYTES:
        message = f"AWS answered with a data key that has not {DATA_KEY_BYTES} bytes"
        raise KeyServiceError(message, code="key_answer_invalid")
    return bytes(answer["Plaintext"])


def _required(answer: Any, field: str) -> Any:
    found = answer.get(field)
    if not found:
        raise KeyServiceError(f"AWS answered without {field}", code="key_answer_invalid")
    return found


def _check_days(window: int, rotation: int | None) -> None:
    if not _SHORTEST_WINDOW <= window <= _LONGEST_WINDOW:
        message = f"pending_window_days={window!r} is not between 7 and 30"
        raise ConfigurationError(message, code="aws_days_invalid")
    if rotation is not None and rotation not in _ROTATION_DAYS:
        message = f"rotation_days={rotation!r} is not between 90 and 2,560"
        raise ConfigurationError(message, code="aws_days_invalid")
