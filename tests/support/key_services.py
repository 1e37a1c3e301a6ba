"""
The key services that the conformance suite runs over, each made anew for a test.

A maker is a generator: it yields one `Subject` and cleans up after it.  One
whose package is not installed skips by `pytest.importorskip`.  The names of
emulated services contain the word ``emulated``.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.vault_servers import ORIGIN, vault_subject

__all__ = ["KEY_SERVICES", "Subject", "key_service"]


@dataclass(kw_only=True)
class Subject:
    """
    A key service under test, and what the suite cannot do through its protocol.

    Args:
        service: The service; it makes missing master keys by itself.

        again: Another instance of it over the same master keys, as a second
            process has it.

        lacking: One more that makes no missing keys (``create_missing=False``).

        unwrap_fails: From now on unwrapping fails where the keys are, while
            wrapping goes on to work.

        secrets: What no message or repr may show: passphrases, tokens.
    """

    service: Any
    again: Callable[[], Any]
    lacking: Callable[[], Any]
    unwrap_fails: Callable[[], None]
    secrets: tuple[str, ...] = ()


Maker = Callable[[pytest.FixtureRequest], Iterator[Subject]]

KEY_SERVICES: dict[str, Maker] = {}


def key_service(name: str) -> Callable[[Maker], Maker]:
    """
    Enter a maker into the suite.
    """

    def enter(maker: Maker) -> Maker:
        KEY_SERVICES[name] = maker
        return maker

    return enter


def _local(request: pytest.FixtureRequest, passphrase: str | None) -> Iterator[Subject]:
    pytest.importorskip("cryptography")
    from twh_platform.errors import DecryptionError
    from twh_platform.kms import LocalKeyService, create_keyset

    path: Path = request.getfixturevalue("tmp_path") / "keyset.json"
    monkeypatch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
    # scrypt at full cost would take most of the suite's time.
    monkeypatch.setattr("twh_platform.kms._keyset_document.SCRYPT_N", 2**10)
    create_keyset(path, passphrase=passphrase)

    def made(**options: Any) -> LocalKeyService:
        return LocalKeyService(path, passphrase=passphrase, **options)

    def unwrap_fails() -> None:
        def broken(*_: object, **__: object) -> bytes:
            raise DecryptionError

        monkeypatch.setattr("twh_platform.kms._local.unwrap_key", broken)

    yield Subject(
        service=made(),
        again=made,
        lacking=lambda: made(create_missing=False),
        unwrap_fails=unwrap_fails,
        secrets=(passphrase,) if passphrase else (),
    )


@key_service("local")
def _local_plain(request: pytest.FixtureRequest) -> Iterator[Subject]:
    yield from _local(request, None)


@key_service("local-guarded")
def _local_guarded(request: pytest.FixtureRequest) -> Iterator[Subject]:
    pytest.importorskip("cryptography")
    from twh_platform.kms import CallBudget, GuardedKeyService

    def guarded(make: Callable[[], Any]) -> Callable[[], Any]:
        return lambda: GuardedKeyService(make(), budget=CallBudget())

    for made in _local(request, None):
        again, lacking = guarded(made.again), guarded(made.lacking)
        yield replace(made, service=again(), again=again, lacking=lacking)


@key_service("local-passphrase")
def _local_passphrase(request: pytest.FixtureRequest) -> Iterator[Subject]:
    yield from _local(request, "marked-passphrase-of-the-suite")


@key_service(ORIGIN)
def _vault(request: pytest.FixtureRequest) -> Iterator[Subject]:
    yield from vault_subject(request)


def _aws(request: pytest.FixtureRequest, key: str) -> Iterator[Subject]:
    pytest.importorskip("boto3")
    pytest.importorskip("moto")
    from tests.support.strict_moto import shared_moto
    from twh_platform.kms.aws import AwsKeyService

    moto, name = shared_moto(), f"twh-{secrets.token_hex(6)}"
    key = key.replace("NAME", name)
    kms = moto.client("kms")
    mac = kms.create_key(KeyUsage="GENERATE_VERIFY_MAC", KeySpec="HMAC_256")
    kms.create_alias(AliasName=f"alias/{name}/mac", TargetKeyId=mac["KeyMetadata"]["KeyId"])
    if "{tenant}" not in key:
        shared = kms.create_key()["KeyMetadata"]["KeyId"]
        kms.create_alias(AliasName=key, TargetKeyId=shared)

    def made(*, create_missing: bool = True) -> AwsKeyService:
        return AwsKeyService(
            key=key,
            mac_key=f"alias/{name}/mac",
            allowed=[moto.allowed],
            session=moto.shared_session(),
            endpoint_url=moto.url,
            timeout=20.0,
            create_missing=create_missing,
        )

    yield Subject(
        service=made(),
        again=made,
        lacking=lambda: made(create_missing=False),
        unwrap_fails=lambda: moto.fail("Decrypt", code="AccessDeniedException"),
        secrets=("a-secret-key-of-the-tests",),
    )
    moto.heal()


@key_service("aws-moto")
def _aws_tenant_keys(request: pytest.FixtureRequest) -> Iterator[Subject]:
    yield from _aws(request, "alias/NAME-{tenant}")


@key_service("aws-moto-shared")
def _aws_shared_key(request: pytest.FixtureRequest) -> Iterator[Subject]:
    yield from _aws(request, "alias/NAME")


@key_service("vault-emulated-without-disabling")
def _vault_without_disabling(request: pytest.FixtureRequest) -> Iterator[Subject]:
    yield from vault_subject(request, flavour="vault")
