"""
Secrets in AWS Secrets Manager: a version of ours is a version of AWS's.

In each AWS secret one version more, labelled ``twh-state``, says what the others
are: numbers, stages, times, no value.  Its id is the number of the change, and
AWS gives an id once: of two who change at the same time one is refused.  What
the change decides is then repeated in AWS's own labels, for readers that know
only those.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import boto3

from ...errors import (
    ConfigurationError,
    PlatformError,
    SecretConflictError,
    SecretError,
    SecretNotFoundError,
)
from .._clock import utc_now
from ..secrets._store import VersionedSecretStore
from ..secrets._versions import SecretState, Stage, read_state, write_state
from ._clients import Clients
from ._faults import SECRETS

__all__ = ["AwsSecretStore"]

_STATE = "twh-state"
_LABELS = {
    Stage.CURRENT: "AWSCURRENT",
    Stage.PREVIOUS: "AWSPREVIOUS",
    Stage.PENDING: "AWSPENDING",
}
_PREFIX = re.compile(r"[A-Za-z0-9/_+=.@-]{0,64}", re.ASCII)
_FORMAT = 1
_MOST_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class _Document:
    """
    What ``twh-state`` says: the state, the number of the change, and AWS's version ids.
    """

    state: SecretState
    revision: int = 0
    ids: Mapping[int, str] = field(default_factory=dict)


class AwsSecretStore(VersionedSecretStore):
    """
    A secret store in AWS Secrets Manager.

        store = AwsSecretStore(kms_key="alias/twh-secrets")

    The secret ``NAME`` of a tenant is AWS's ``twh/TENANT/NAME``.  The labels
    ``AWSCURRENT``, ``AWSPREVIOUS`` and ``AWSPENDING`` stand at the versions of
    those stages, so that other readers of AWS find the right one; they know
    nothing of expiry and overlap.  Where the current version is revoked,
    ``AWSCURRENT`` stands at a version without a secret.

    AWS erases no version on demand: the value of a revoked one loses its label
    and goes when AWS removes versions without labels.

    Args:
        prefix: What names begin with at AWS.

        kms_key: The KMS key of new secrets; None for AWS's own.

        session: A `boto3.Session`; None for the default credential chain.

        region: None for the session's own.

        endpoint_url: None for AWS's own; ``https``, or ``http`` on this machine.

        timeout: Seconds that one request may take.

        now: The wall clock, with time zone.

    Raises:
        twh_platform.errors.ConfigurationError: With a code that begins with ``aws_``.
    """

    def __init__(
        self,
        *,
        prefix: str = "twh/",
        kms_key: str | None = None,
        session: boto3.Session | None = None,
        region: str | None = None,
        endpoint_url: str | None = None,
        timeout: float = 2.0,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        super().__init__(now=now)
        if not _PREFIX.fullmatch(prefix):
            message = f"prefix={prefix[:80]!r} is not at most 64 of A-Z a-z 0-9 / _ + = . @ -"
            raise ConfigurationError(message, code="aws_prefix_invalid")
        self._prefix = prefix
        self._kms_key = kms_key
        self._clients = Clients(
            "secretsmanager",
            SECRETS,
            session=session,
            region=region,
            endpoint_url=endpoint_url,
            timeout=timeout,
        )
        self._remembered: dict[tuple[str, str, int], str] = {}

    def close(self) -> None:
        """
        Close the connections.
        """
        self._clients.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(region={self._clients.region!r})"

    def _load(self, tenant_id: str, name: str) -> SecretState:
        document = self._document(self._called(tenant_id, name), name)
        if len(self._remembered) > _MOST_REMEMBERED:
            self._remembered = {}
        for version, version_id in document.ids.items():
            self._remembered[tenant_id, name, version] = version_id
        return document.state

    def _save(
        self,
        tenant_id: str,
        before: SecretState,
        after: SecretState,
        values: Mapping[int, bytes],
    ) -> bool:
        called = self._called(tenant_id, after.name)
        found = self._document(called, after.name)
        if found.state != before:
            return False
        if not found.revision:
            self._create(called, tenant_id)
        new = {version: self._put_value(called, value) for version, value in values.items()}
        ids = {number: one for number, one in {**found.ids, **new}.items() if number in after.kept}
        document = _Document(after, found.revision + 1, ids)
        if not self._put_document(called, document):
            self._forget(called, new.values())
            return False
        self._forget(called, set(found.ids.values()) - set(ids.values()))
        # The change stands.  What fails now is put right by the next one.
        with suppress(PlatformError):
            self._label(called, document)
        return True

    def _value(self, tenant_id: str, name: str, version: int) -> bytes | None:
        version_id = self._remembered.get((tenant_id, name, version))
        if version_id is None:
            return None
        asked = {"SecretId": self._called(tenant_id, name), "VersionId": version_id}
        try:
            # Not kept in a variable: a traceback shows those.
            return bytes(self._clients.call("get_secret_value", asked)["SecretBinary"])
        except SecretNotFoundError:
            return None

    def _names(self, tenant_id: str, prefix: str) -> list[str]:
        begin = self._called(tenant_id, "")
        asked: dict[str, Any] = {"Filters": [{"Key": "name", "Values": [begin + prefix]}]}
        names = []
        while True:
            answer = self._clients.call("list_secrets", asked)
            names += [
                one["Name"].removeprefix(begin)
                for one in answer["SecretList"]
                if one["Name"].startswith(begin + prefix)
                and any(
                    _STATE in labels for labels in one.get("SecretVersionsToStages", {}).values()
                )
            ]
            if not answer.get("NextToken"):
                return names
            asked["NextToken"] = answer["NextToken"]

    def _called(self, tenant_id: str, name: str) -> str:
        return f"{self._prefix}{tenant_id}/{name}"

    def _document(self, called: str, name: str) -> _Document:
        asked = {"SecretId": called, "VersionStage": _STATE}
        try:
            text = self._clients.call("get_secret_value", asked)["SecretString"]
        except SecretNotFoundError:
            return _Document(SecretState(name=name))
        try:
            return _read(text, name)
        except (KeyError, TypeError, ValueError):
            # Raised below, without what was read.
            pass
        message = f"secret {name!r}: what AWS has of it was not written by this store"
        raise SecretError(message, code="secret_state_unreadable")

    def _create(self, called: str, tenant_id: str) -> None:
        asked: dict[str, Any] = {
            "Name": called,
            "Tags": [{"Key": "twh:tenant", "Value": tenant_id}],
        }
        if self._kms_key is not None:
            asked["KmsKeyId"] = self._kms_key
        # Another is about to put its first version, or has left off before.
        with suppress(SecretConflictError):
            self._clients.call("create_secret", asked)

    def _put_value(self, called: str, value: bytes) -> str:
        # Whoever else makes the same version has another id: no value is lost to a race.
        version_id = f"twh-value-{secrets.token_hex(16)}"
        asked = {
            "SecretId": called,
            "ClientRequestToken": version_id,
            "SecretBinary": value,
            # A label of its own, for AWS removes versions without one.
            "VersionStages": [version_id],
        }
        self._clients.call("put_secret_value", asked)
        return version_id

    def _put_document(self, called: str, document: _Document) -> bool:
        asked = {
            "SecretId": called,
            "ClientRequestToken": _state_id(document),
            "SecretString": _written(document),
            "VersionStages": [_STATE],
        }
        try:
            self._clients.call("put_secret_value", asked)
        except SecretConflictError:
            return False
        return True

    def _forget(self, called: str, version_ids: Any) -> None:
        with suppress(PlatformError):
            for version_id in version_ids:
                self._move(called, version_id, version_id, None)

    def _label(self, called: str, document: _Document) -> None:
        """
        Put AWS's labels where the stages are.
        """
        answer = self._clients.call("describe_secret", {"SecretId": called})
        stands = {
            label: version_id
            for version_id, labels in answer.get("VersionIdsToStages", {}).items()
            for label in labels
        }
        for stage, label in _LABELS.items():
            version = document.state.at(stage)
            target = document.ids.get(version.version) if version else None
            if target is None and stage is Stage.CURRENT:
                # AWS has no secret without a current version: it is the one without a value.
                target = _state_id(document)
            if stands.get(label) == target:
                continue
            self._move(called, label, stands.get(label), target)
            if stage is Stage.CURRENT and label in stands:
                # AWS has moved this one along.
                stands[_LABELS[Stage.PREVIOUS]] = stands[label]

    def _move(self, called: str, label: str, source: str | None, target: str | None) -> None:
        asked = {"SecretId": called, "VersionStage": label}
        asked |= {"RemoveFromVersionId": source} if source else {}
        asked |= {"MoveToVersionId": target} if target else {}
        self._clients.call("update_secret_version_stage", asked)


def _state_id(document: _Document) -> str:
    return f"{_STATE}-{document.revision:026d}"


def _written(document: _Document) -> str:
    return json.dumps(
        {
            "format": _FORMAT,
            "revision": document.revision,
            "state": write_state(document.state),
            "ids": {str(version): one for version, one in document.ids.items()},
            # Two who write the same are two all the same.
            "nonce": secrets.token_hex(8),
        }
    )


def _read(text: str, name: str) -> _Document:
    found = json.loads(text)
    state = read_state(found["state"])
    if found["format"] != _FORMAT or state.name != name:
        raise ValueError(name)
    ids = {int(version): str(one) for version, one in found["ids"].items()}
    return _Document(state, int(found["revision"]), ids)
