"""
Where tests get a Vault: a real one if there is one, else the emulator.

In this order: `TWH_TEST_VAULT_ADDR` with `TWH_TEST_VAULT_TOKEN`; `bao` or `vault`
on PATH, started as a dev server on loopback; the emulator, whose results carry
the word "emulated" in the name of the test.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.support.key_services import Subject
    from tests.support.vault_emulator import VaultEmulator
    from twh_platform.kms.vault import VaultKeyService, VaultSecretStore

__all__ = ["ORIGIN", "VaultUnderTest", "vault_subject", "vault_under_test"]

_START_SECONDS = 20.0


def _origin() -> str:
    if os.environ.get("TWH_TEST_VAULT_ADDR"):
        return "vault-given"
    program = shutil.which("bao") or shutil.which("vault")
    return f"vault-{Path(program).name}" if program else "vault-emulated"


ORIGIN = _origin()
"""The name of what tests run on; ``vault-emulated`` without a real server."""


@dataclass(kw_only=True)
class VaultUnderTest:
    """
    A server with engines of this test's own.

    Attributes:
        emulator: The emulator, if it is one.
    """

    address: str
    token: str = field(repr=False)
    transit: str
    kv: str
    emulator: VaultEmulator | None = None

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """
        Ask the server by its plain API.
        """
        import requests

        answer = requests.request(
            method,
            f"{self.address}/v1/{path}",
            json=body,
            headers={"X-Vault-Token": self.token},
            timeout=10,
        )
        answer.raise_for_status()
        return answer.json() if answer.content else {}

    def key_service(self, stack: contextlib.ExitStack, **options: Any) -> VaultKeyService:
        """
        A key service over the Transit engine.
        """
        from twh_platform.kms.vault import TokenAuth, VaultKeyService

        auth = options.pop("auth", None) or TokenAuth(self.token)
        options = {"mount": self.transit, "timeout": 20.0, **options}
        return stack.enter_context(VaultKeyService(self.address, auth, **options))

    def secret_store(self, stack: contextlib.ExitStack, **options: Any) -> VaultSecretStore:
        """
        A secret store over the KV engine.
        """
        from twh_platform.kms.vault import TokenAuth, VaultSecretStore

        auth = options.pop("auth", None) or TokenAuth(self.token)
        options = {"mount": self.kv, "timeout": 20.0, **options}
        return stack.enter_context(VaultSecretStore(self.address, auth, **options))


@contextlib.contextmanager
def vault_under_test(flavour: str | None = None) -> Iterator[VaultUnderTest]:
    """
    A server, and in it a Transit and a KV v2 engine that are removed again.

    With a flavour it is the emulator in any case.
    """
    pytest.importorskip("hvac")
    pytest.importorskip("cryptography")
    with _server(flavour) as (address, token, emulator):
        mark = secrets.token_hex(6)
        made = VaultUnderTest(
            address=address,
            token=token,
            transit=f"transit-{mark}",
            kv=f"kv-{mark}",
            emulator=emulator,
        )
        made.call("POST", f"sys/mounts/{made.transit}", {"type": "transit"})
        options = {"type": "kv", "options": {"version": "2"}}
        made.call("POST", f"sys/mounts/{made.kv}", options)
        try:
            yield made
        finally:
            if emulator is None:
                made.call("DELETE", f"sys/mounts/{made.transit}")
                made.call("DELETE", f"sys/mounts/{made.kv}")


@contextlib.contextmanager
def _server(flavour: str | None) -> Iterator[tuple[str, str, VaultEmulator | None]]:
    if flavour is not None or ORIGIN == "vault-emulated":
        from tests.support.vault_emulator import VaultEmulator

        with VaultEmulator(flavour=flavour or "openbao") as emulator:
            yield emulator.address, emulator.root_token, emulator
    elif given := os.environ.get("TWH_TEST_VAULT_ADDR"):
        yield given, os.environ["TWH_TEST_VAULT_TOKEN"], None
    elif program := shutil.which("bao") or shutil.which("vault"):
        with _dev_server(program) as (address, token):
            yield address, token, None


@contextlib.contextmanager
def _dev_server(program: str) -> Iterator[tuple[str, str]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        listen = f"127.0.0.1:{probe.getsockname()[1]}"
    token = f"root-{secrets.token_hex(8)}"
    command = [program, "server", "-dev", "-dev-no-store-token"]
    command += [f"-dev-root-token-id={token}", f"-dev-listen-address={listen}"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **quiet) as process:
        try:
            _wait_for(f"http://{listen}")
            yield f"http://{listen}", token
        finally:
            process.terminate()
            process.wait(10)


def _wait_for(address: str) -> None:
    ends_at = time.monotonic() + _START_SECONDS
    while time.monotonic() < ends_at:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/v1/sys/health"):
            return
        time.sleep(0.1)
    pytest.fail(f"no Vault answers at {address}")


def vault_subject(
    request: pytest.FixtureRequest, *, flavour: str | None = None
) -> Iterator[Subject]:
    """
    `VaultKeyService` for the suite of all key services.
    """
    pytest.importorskip("hvac")
    from tests.support.key_services import Subject
    from twh_platform.errors import DecryptionError
    from twh_platform.kms.vault._transport import VaultTransport

    monkeypatch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")

    def unwrap_fails() -> None:
        exchange = VaultTransport.exchange

        def broken(self: VaultTransport, method: str, path: str, **options: Any) -> Any:
            if "/decrypt/" in path:
                raise DecryptionError
            return exchange(self, method, path, **options)

        monkeypatch.setattr(VaultTransport, "exchange", broken)

    with vault_under_test(flavour) as vault, contextlib.ExitStack() as stack:
        yield Subject(
            service=vault.key_service(stack),
            again=lambda: vault.key_service(stack),
            lacking=lambda: vault.key_service(stack, create_missing=False),
            unwrap_fails=unwrap_fails,
            secrets=(vault.token,),
        )
