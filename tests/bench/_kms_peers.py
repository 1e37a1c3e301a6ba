"""
What sealing is compared with: raw AES-GCM, and public libraries for envelopes.

Each contender is a pair of functions, from a plaintext to what it makes of it
and back.  Those that are not installed are left out.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from typing import Any, NamedTuple

from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

__all__ = ["AAD", "Peer", "peers", "raw"]

AAD = b"suppliers.bank_account.supplier-00042"  # 37 bytes, as a row's context has

Turn = Callable[[bytes], bytes]


class Peer(NamedTuple):
    """
    One way to seal and to open.
    """

    seal: Turn
    open: Turn


def raw() -> Peer:
    """
    AES-256-GCM with a random nonce and additional data: the reference.
    """
    aead = AESGCM(AESGCM.generate_key(256))

    def seal(plaintext: bytes) -> bytes:
        nonce = os.urandom(12)
        return nonce + aead.encrypt(nonce, plaintext, AAD)

    def unseal(sealed: bytes) -> bytes:
        return aead.decrypt(sealed[:12], sealed[12:], AAD)

    return Peer(seal, unseal)


def peers() -> dict[str, Peer]:
    """
    The public alternatives that are installed.
    """
    fernet = Fernet(Fernet.generate_key())
    found = {"Fernet": Peer(fernet.encrypt, fernet.decrypt)}
    if importlib.util.find_spec("tink"):
        found["Tink AES256_GCM"] = _tink()
    if importlib.util.find_spec("aws_encryption_sdk"):
        found["AWS Encryption SDK, cached"] = _aws_encryption_sdk()
    return found


def _tink() -> Peer:
    import tink
    from tink import aead

    aead.register()
    handle = tink.new_keyset_handle(aead.aead_key_templates.AES256_GCM)
    primitive = handle.primitive(aead.Aead)
    return Peer(
        lambda plaintext: primitive.encrypt(plaintext, AAD),
        lambda sealed: primitive.decrypt(sealed, AAD),
    )


def _aws_encryption_sdk() -> Peer:
    import aws_encryption_sdk as sdk
    from aws_encryption_sdk.identifiers import (
        Algorithm,
        CommitmentPolicy,
        EncryptionKeyType,
        WrappingAlgorithm,
    )
    from aws_encryption_sdk.internal.crypto.wrapping_keys import WrappingKey
    from aws_encryption_sdk.key_providers.raw import RawMasterKeyProvider

    class Static(RawMasterKeyProvider):  # type: ignore[misc, unused-ignore]
        provider_id = "static"

        def _get_raw_key(self, _key_id: Any) -> Any:
            return WrappingKey(
                wrapping_algorithm=WrappingAlgorithm.AES_256_GCM_IV12_TAG16_NO_PADDING,
                wrapping_key=b"\x07" * 32,
                wrapping_key_type=EncryptionKeyType.SYMMETRIC,
            )

    client = sdk.EncryptionSDKClient(
        commitment_policy=CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT
    )
    provider = Static()
    provider.add_master_key("static")
    manager = sdk.CachingCryptoMaterialsManager(
        cache=sdk.LocalCryptoMaterialsCache(100), max_age=600.0, master_key_provider=provider
    )
    suite = Algorithm.AES_256_GCM_HKDF_SHA512_COMMIT_KEY  # 0478: committing, not signed
    context = {"row": AAD.decode()}

    def seal(plaintext: bytes) -> bytes:
        sealed, _ = client.encrypt(
            source=plaintext,
            materials_manager=manager,
            encryption_context=context,
            algorithm=suite,
        )
        return bytes(sealed)

    def unseal(sealed: bytes) -> bytes:
        plaintext, _ = client.decrypt(source=sealed, materials_manager=manager)
        return bytes(plaintext)

    return Peer(seal, unseal)
