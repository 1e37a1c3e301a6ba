"""
How master keys are called in Transit, and what of it is checked.
"""

from __future__ import annotations

import base64
import re

from ...errors import ConfigurationError
from ...tenancy._tenant import valid_tenant_id
from .._checks import checked_mac_key

__all__ = ["KeyNames", "ciphertext_version"]

_PREFIX = re.compile(r"[a-z][a-z0-9]{0,15}-", re.ASCII)
_CIPHERTEXT = re.compile(rb"vault:v([1-9][0-9]{0,8}):([A-Za-z0-9+/]+={0,2})")


class KeyNames:
    """
    The names of one application's keys in one mount.

    A tenant's key is the prefix and the tenant's id in base32 (lower case, no
    padding): Transit's names have no case and no underscore on every storage.
    Other keys have a hyphen after the prefix's, which base32 has not.

    Args:
        mount: Where Transit is mounted.

        prefix: What the names begin with: letters, digits, one hyphen.

    Raises:
        twh_platform.errors.ConfigurationError: With code ``vault_name_invalid``.
    """

    def __init__(self, mount: str, prefix: str) -> None:
        if not _PREFIX.fullmatch(prefix):
            message = f"key_prefix={prefix[:80]!r} is not letters and digits and one '-'"
            raise ConfigurationError(message, code="vault_name_invalid")
        self.mount = mount
        self._prefix = prefix

    def tenant(self, tenant_id: str) -> str:
        """
        The name of a tenant's master key.
        """
        return self._prefix + _base32(valid_tenant_id(tenant_id))

    def gone(self, tenant_id: str) -> str:
        """
        The name of the key that stands where a tenant's was destroyed.
        """
        return f"{self._prefix}gone-{_base32(valid_tenant_id(tenant_id))}"

    def mac(self, key: str) -> str:
        """
        The name of a MAC key of the platform.
        """
        return f"{self._prefix}mac-{checked_mac_key(key)}"

    @property
    def canary(self) -> str:
        """
        The name of the key that health is tried on.
        """
        return f"{self._prefix}canary-health"

    def reference(self, name: str) -> str:
        """
        What `WrappedKey.key_ref` says for a key: its mount and name.
        """
        return f"{self.mount}/{name}"


def ciphertext_version(ciphertext: bytes) -> int:
    """
    The key version that a ciphertext of Transit names; 0 if it is none.

    ``vault:v<version>:`` and base64, in the one form that an encoder gives.
    """
    found = _CIPHERTEXT.fullmatch(ciphertext)
    if found is None or len(found[2]) % 4:
        return 0
    if base64.b64encode(base64.b64decode(found[2])) != found[2]:
        return 0
    return int(found[1])


def _base32(text: str) -> str:
    return base64.b32encode(text.encode()).decode().rstrip("=").lower()
