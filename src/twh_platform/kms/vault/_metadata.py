"""
A key's metadata, as Transit answers it, read.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ...errors import KeyServiceError

__all__ = ["check_kind", "latest_version", "made_at", "open_versions"]


def check_kind(found: Mapping[str, Any], name: str) -> None:
    """
    Return if a key may be used as a tenant's.

    Raises:
        twh_platform.errors.KeyServiceError: With code ``vault_key_unsuitable``.
    """
    open_ways = [one for one in ("exportable", "allow_plaintext_backup") if found.get(one)]
    if found.get("derived") is not True:
        # Transit ignores the context of a key that is not derived.
        open_ways.insert(0, "not derived")
    if open_ways:
        message = f"the key {name} is {' and '.join(open_ways)}: it is not used"
        raise KeyServiceError(message, code="vault_key_unsuitable")


def latest_version(found: Mapping[str, Any]) -> int:
    """
    The version that wraps; 0 if the server does not tell.
    """
    return _number(found, "latest_version")


def open_versions(found: Mapping[str, Any]) -> tuple[int, ...]:
    """
    The versions that still unwrap, in ascending order.
    """
    lowest = max(1, _number(found, "min_decryption_version"))
    versions = sorted(int(one) for one in found.get("keys") or () if str(one).isdigit())
    return tuple(one for one in versions if one >= lowest)


def made_at(found: Mapping[str, Any]) -> datetime | None:
    """
    When its first version was made; None if the server does not tell.
    """
    first = (found.get("keys") or {}).get("1")
    return datetime.fromtimestamp(first, UTC) if isinstance(first, int) else None


def _number(found: Mapping[str, Any], name: str) -> int:
    value = found.get(name)
    return value if isinstance(value, int) else 0
