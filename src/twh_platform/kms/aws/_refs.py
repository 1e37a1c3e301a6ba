"""
Names of keys: which alias is whose, and which key ARNs may be used at all.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import ConfigurationError, KeyAccessDeniedError

__all__ = ["AllowedKeys", "KeyArn", "KeyNames", "parse_arn"]

_ARN = re.compile(
    r"arn:(aws[a-z-]{0,20}):kms:([a-z0-9-]{1,32}):([0-9]{12}):key/([A-Za-z0-9-]{1,64})", re.ASCII
)
# The account stands there in full: a pattern over accounts would trust strangers.
_PATTERN = re.compile(
    r"arn:aws[a-z-]{0,20}:kms:[a-z0-9*-]{1,32}:[0-9]{12}:key/[A-Za-z0-9*-]{1,64}", re.ASCII
)
_ALIAS = re.compile(r"alias/(?!aws/)[A-Za-z0-9/_-]{1,250}", re.ASCII)
# An alias has at most 256 characters, and a tenant's id takes 64.
_LONGEST_TEMPLATE = 180
_TENANT = "{tenant}"
_ANY_TENANT = "[A-Za-z0-9_-]{1,64}"


@dataclass(frozen=True, slots=True)
class KeyArn:
    """
    The parts of ``arn:PARTITION:kms:REGION:ACCOUNT:key/KEY_ID``.
    """

    partition: str
    region: str
    account: str
    key_id: str

    def __str__(self) -> str:
        return f"arn:{self.partition}:kms:{self.region}:{self.account}:key/{self.key_id}"

    @property
    def multi_region(self) -> bool:
        """
        Whether keys of that id in other regions are the same key.
        """
        return self.key_id.startswith("mrk-")

    def within(self, region: str) -> KeyArn:
        """
        The related key of another region.
        """
        return KeyArn(self.partition, region, self.account, self.key_id)

    def same_key(self, other: KeyArn) -> bool:
        """
        Whether what one of them has wrapped, the other unwraps.
        """
        return self == other or (self.multi_region and self.within(other.region) == other)


def parse_arn(text: object) -> KeyArn | None:
    """
    Read the ARN of a key; None for all else, the ARN of an alias included.
    """
    found = _ARN.fullmatch(text) if isinstance(text, str) else None
    return KeyArn(*found.groups()) if found else None


class AllowedKeys:
    """
    The keys that may be used: the rest is refused before anything is sent.

    Args:
        patterns: Key ARNs; ``*`` stands for any run of characters in the
            region and in the key id, and for nothing else.

    Raises:
        twh_platform.errors.ConfigurationError: With code
            ``aws_allowed_invalid``, for none at all or for one that does not
            name its account.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        if isinstance(patterns, str) or not patterns:
            message = f"allowed={patterns!r} is not a list of patterns of key ARNs"
            raise ConfigurationError(message, code="aws_allowed_invalid")
        for pattern in patterns:
            if not _PATTERN.fullmatch(pattern):
                message = (
                    f"allowed: {pattern[:120]!r} is not arn:aws:kms:REGION:ACCOUNT:key/ID"
                    " with * in the region and the id only"
                )
                raise ConfigurationError(message, code="aws_allowed_invalid")
        either = "|".join(re.escape(pattern).replace(r"\*", "[^:/]*") for pattern in patterns)
        self._allowed = re.compile(either)

    def require(self, text: object) -> KeyArn:
        """
        Read a key ARN that may be used.

        Raises:
            twh_platform.errors.KeyAccessDeniedError: With code
                ``key_ref_refused``, for every other text.
        """
        arn = parse_arn(text)
        if arn is None or not self._allowed.fullmatch(str(arn)):
            shown = repr(text[:120]) if isinstance(text, str) else type(text).__name__
            message = f"key {shown} is not one of those allowed"
            raise KeyAccessDeniedError(message, code="key_ref_refused")
        return arn


class KeyNames:
    """
    How the service's keys are called when something new is wrapped.

    Args:
        key: An alias with ``{tenant}`` in it, an alias, or a key ARN.

        mac_key: An alias or a key ARN; None for no MACs.

    Raises:
        twh_platform.errors.ConfigurationError: With code ``aws_key_invalid``.
    """

    def __init__(self, key: str, mac_key: str | None) -> None:
        self.per_tenant = key.count(_TENANT) == 1
        self._key = key
        self.mac_key = mac_key
        if not _ALIAS.fullmatch(key.replace(_TENANT, "x")) and parse_arn(key) is None:
            raise _invalid("key", key, "an alias, with or without {tenant}, or a key ARN")
        if key.count(_TENANT) > 1 or (self.per_tenant and len(key) > _LONGEST_TEMPLATE):
            raise _invalid("key", key, "an alias with one {tenant}, of at most 180 characters")
        if mac_key is None:
            return
        if not _ALIAS.fullmatch(mac_key) and parse_arn(mac_key) is None:
            raise _invalid("mac_key", mac_key, "an alias or a key ARN")
        if self._may_be_a_tenants(mac_key):
            raise _invalid("mac_key", mac_key, "a name that no tenant's key can have")

    def of(self, tenant_id: str) -> str:
        """
        The name under which *tenant_id*'s master key is asked for.
        """
        return self._key.replace(_TENANT, tenant_id)

    def _may_be_a_tenants(self, name: str) -> bool:
        before, _, after = self._key.partition(_TENANT)
        pattern = re.escape(before) + _ANY_TENANT + re.escape(after)
        return re.fullmatch(pattern if self.per_tenant else re.escape(self._key), name) is not None


def _invalid(option: str, value: str, wanted: str) -> ConfigurationError:
    return ConfigurationError(f"{option}={value[:120]!r} is not {wanted}", code="aws_key_invalid")
