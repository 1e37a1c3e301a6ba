"""
A key's metadata, as DescribeKey answers it, read.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ...errors import KeyServiceError
from .._service import KeyInfo, KeyState
from ._refs import KeyArn, parse_arn

__all__ = ["info_of", "related_arns"]

_STATES = {
    "Enabled": KeyState.ENABLED,
    # The description of a multi-region key is on its way to the replicas.
    "Updating": KeyState.ENABLED,
    "PendingDeletion": KeyState.DESTROYING,
    "PendingReplicaDeletion": KeyState.DESTROYING,
}


def info_of(metadata: Mapping[str, Any]) -> KeyInfo:
    """
    The key as the seam describes it.

    States in which nothing can be done with a key, such as ``PendingImport``,
    are ``DISABLED``: they can be mended.
    """
    state = _STATES.get(str(metadata.get("KeyState")), KeyState.DISABLED)
    date = metadata.get("DeletionDate") if state is KeyState.DESTROYING else None
    return KeyInfo(
        key_ref=str(_arn(metadata.get("Arn"))),
        state=state,
        destroyed_at=date.astimezone(UTC) if isinstance(date, datetime) else None,
    )


def related_arns(metadata: Mapping[str, Any]) -> list[KeyArn]:
    """
    The key in every region that has it, the primary one last.
    """
    related = metadata.get("MultiRegionConfiguration")
    if not related:
        return [_arn(metadata.get("Arn"))]
    replicas = [_arn(one.get("Arn")) for one in related.get("ReplicaKeys", ())]
    return [*replicas, _arn(related.get("PrimaryKey", {}).get("Arn"))]


def _arn(text: object) -> KeyArn:
    arn = parse_arn(text)
    if arn is None:
        message = "AWS answered with a key that has no key ARN"
        raise KeyServiceError(message, code="key_answer_invalid")
    return arn
