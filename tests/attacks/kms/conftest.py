"""
What stands for AWS and Vault, and the libraries whose faults were found.

Neither AWS nor Vault can be installed: moto and an emulator of Vault's HTTP
API stand for them, and the table says so.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from twh_platform.testing import require_part

if TYPE_CHECKING:
    from tests.support.strict_moto import StrictMoto
    from tests.support.vault_servers import VaultUnderTest


@pytest.fixture
def server() -> None:
    """
    That a test has a server at all; `moto` and `vault` ask for it.
    """


@pytest.fixture
def server_version(request: pytest.FixtureRequest) -> str:
    """
    How the table of the attacks names it.
    """
    if "moto" in request.fixturenames:
        return f"AWS emulated by moto {importlib.metadata.version('moto')}"
    from tests.support.vault_servers import ORIGIN

    return ORIGIN.replace("vault-", "Vault, ")


@pytest.fixture
def moto(server: None) -> Iterator[StrictMoto]:
    """
    AWS KMS and Secrets Manager, healed afterwards.
    """
    from tests.support.strict_moto import shared_moto

    yield shared_moto()
    shared_moto().heal()


@pytest.fixture
def vault(server: None) -> Iterator[VaultUnderTest]:
    """
    A Vault of this test alone: a real one if there is one, else the emulator.
    """
    from tests.support.vault_servers import vault_under_test

    with vault_under_test() as under_test:
        yield under_test


@pytest.fixture
def encryption_sdk() -> ModuleType:
    """
    The AWS Encryption SDK, at version 4.
    """
    return _library("aws_encryption_sdk")


@pytest.fixture
def tink() -> ModuleType:
    """
    The library of this name, its AEADs registered.
    """
    found = _library("tink", "tink.aead")
    found.aead.register()
    return found


@pytest.fixture
def sqlalchemy_utils() -> ModuleType:
    """
    SQLAlchemy-Utils.
    """
    return _library("sqlalchemy_utils")


def _library(name: str, *modules: str) -> ModuleType:
    found = importlib.util.find_spec(name)
    require_part("anchors", found, hint=f"{name}, of the group `anchors` in pyproject.toml")
    for module in modules:
        importlib.import_module(module)
    return importlib.import_module(name)
