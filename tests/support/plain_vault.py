"""
Transit as hvac alone has it: what attacks on keys are compared with.
"""

from __future__ import annotations

import base64
import secrets
from typing import Any

import hvac
from hvac.exceptions import InvalidRequest

__all__ = ["PlainTransit", "text_of"]


class PlainTransit:
    """
    hvac's calls of one Transit engine.

    Args:
        address: Of the server.

        token: What it lets in.

        mount: Where the engine is.
    """

    def __init__(self, address: str, token: str, mount: str = "transit") -> None:
        self.client = hvac.Client(address, token=token)
        self.mount = mount

    def __getattr__(self, name: str) -> Any:
        call = getattr(self.client.secrets.transit, name)
        return lambda *args, **kwargs: call(*args, **{"mount_point": self.mount, **kwargs})

    def made(self, count: int = 5, **options: Any) -> tuple[str, list[str]]:
        """
        A key of its own, and so many ciphertexts.
        """
        name = f"naive-{secrets.token_hex(4)}"
        self.create_key(name, **options)
        sealed = [self.encrypt_data(name, plaintext=text_of(b"key")) for _ in range(count)]
        return name, [one["data"]["ciphertext"] for one in sealed]

    def refused(self, name: str, ciphertexts: list[str], **asked: Any) -> int:
        """
        How many do not decrypt.
        """
        failed = 0
        for one in ciphertexts:
            try:
                self.decrypt_data(name, ciphertext=one, **asked)
            except InvalidRequest:
                failed += 1
        return failed


def text_of(given: bytes) -> str:
    """
    Base64, as Vault's API wants it.
    """
    return base64.b64encode(given).decode()
