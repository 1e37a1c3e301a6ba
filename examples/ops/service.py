"""
The warehouse as containers run it: `python -m examples.ops.service prepare | serve | health`.

What it is told comes from variables, and each secret from a file of its own, so
that none is in an environment, a command line or an image.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self
from urllib.parse import quote

import psycopg
import uvicorn

from examples.warehouse.app import create_app
from examples.warehouse.database import migrate
from examples.warehouse.passwords import hash_password
from examples.warehouse.schema import ADMINISTRATOR, APP, DIRECTORY, OWNER, SUPPORT
from examples.warehouse.seed import seed
from examples.warehouse.services import Services
from examples.warehouse.settings import Settings
from examples.warehouse.telemetry import json_logs
from examples.warehouse.vault import SEAL, TOKENS, Vault
from twh_platform.kms import platform_owner
from twh_platform.kms.vault import TokenAuth, VaultKeyService
from twh_platform.tenancy.postgres.seal import add_seal_key

__all__ = ["LOGINS", "SECRETS", "VARIABLES", "Place", "main"]

LOGINS = (OWNER, APP, DIRECTORY, ADMINISTRATOR, SUPPORT)
"""The logins of the database; the password of each is in the secret `<login>_password`."""

SECRETS = (
    *(f"{login}_password" for login in LOGINS),
    "administrator_password",
    "demo_password",
    "metrics_token",
    "openbao_ca",
    "openbao_token",
    "redis_password",
)
"""The files in the folder of secrets; `openbao_ca` only where the address is one with ``https``."""

VARIABLES = {
    "WAREHOUSE_DATABASE": "postgres:5432/warehouse",
    "WAREHOUSE_REDIS": "redis:6379/0",
    "WAREHOUSE_OPENBAO": "https://openbao:8200",
    "WAREHOUSE_ADMINISTRATOR_EMAIL": "administrator@warehouse.example",
    "WAREHOUSE_SECRETS": "/run/secrets",
    "WAREHOUSE_STATE": "/var/lib/warehouse",
    "WAREHOUSE_HOST": "0.0.0.0",  # noqa: S104 -- of a container, which publishes it on loopback
    "WAREHOUSE_PORT": "8000",
}
"""The variables that are read, besides ``OTEL_*``, and what is taken without them."""


@dataclass(frozen=True, slots=True)
class Place:
    """
    Where the service runs.

    Args:
        environ: The variables.
    """

    environ: Mapping[str, str]

    def asked(self, name: str) -> str:
        """
        The value of a variable.
        """
        return self.environ.get(name, "") or VARIABLES[name]

    def secret(self, name: str) -> str:
        """
        What is in the file of a secret, without the end of the line.
        """
        return self._file(name).read_text(encoding="utf-8").strip()

    def dsn(self, login: str) -> str:
        """
        The database, as one of its logins.
        """
        password = quote(self.secret(f"{login}_password"), safe="")
        return f"postgresql+psycopg://{login}:{password}@{self.asked('WAREHOUSE_DATABASE')}"

    def key_service(self) -> VaultKeyService:
        """
        OpenBao, with a token that is read from its file anew whenever it is needed.
        """
        address, ca = self.asked("WAREHOUSE_OPENBAO"), self._file("openbao_ca")
        token = TokenAuth(file=self._file("openbao_token"))
        return VaultKeyService(address, token, ca=ca if address.startswith("https:") else None)

    def settings(self, administrator_password_hash: str) -> Settings:
        """
        The same as the warehouse asks for it.
        """
        state = Path(self.asked("WAREHOUSE_STATE"))
        password = quote(self.secret("redis_password"), safe="")
        return Settings(
            app_dsn=self.dsn(APP),
            directory_dsn=self.dsn(DIRECTORY),
            administrator_dsn=self.dsn(ADMINISTRATOR),
            support_dsn=self.dsn(SUPPORT),
            keyset_file=state / "keyset.json",  # not there: keys are in OpenBao
            secrets_file=state / "secrets.sqlite",
            administrator_email=self.asked("WAREHOUSE_ADMINISTRATOR_EMAIL"),
            administrator_password_hash=administrator_password_hash,
            redis_url=f"redis://:{password}@{self.asked('WAREHOUSE_REDIS')}",
            metrics_token=self.secret("metrics_token"),
            otel={name: text for name, text in self.environ.items() if name.startswith("OTEL_")},
            key_service=self.key_service,
        )

    def _file(self, name: str) -> Path:
        return Path(self.asked("WAREHOUSE_SECRETS")) / name

    @classmethod
    def here(cls) -> Self:
        """
        This process.
        """
        return cls(os.environ)


def prepare(place: Place) -> None:
    """
    Bring the schema up to date, and fill what is empty; it may be run again.
    """
    migrate(place.dsn(OWNER))
    digest = asyncio.run(hash_password(place.secret("administrator_password")))
    settings = replace(place.settings(digest), otel={})  # nobody watches this
    with psycopg.connect(_plain(place.dsn(OWNER))) as owner:
        _fill_vault(settings, owner)
    with psycopg.connect(_plain(settings.administrator_dsn)) as administrator:
        (count,) = administrator.execute("SELECT count(*) FROM twh.tenants").fetchone() or (0,)
    if not count:
        asyncio.run(_seed(settings, place.secret("demo_password")))


def _fill_vault(settings: Settings, owner: psycopg.Connection[tuple[object, ...]]) -> None:
    vault = Vault.of(settings)
    with platform_owner():
        known = set(vault.secrets.names())
    if SEAL not in known:
        vault.put_seal(add_seal_key(owner))
    if TOKENS not in known:
        vault.make_token_secret(token_seconds=settings.token_seconds)


async def _seed(settings: Settings, password: str) -> None:
    services = Services.of(settings)
    async with services.running():
        await seed(services, password=password)


def serve(place: Place) -> None:
    """
    Serve until told to stop; each request is a line of JSON with its ids.
    """
    digest = asyncio.run(hash_password(place.secret("administrator_password")))
    with json_logs(logging.StreamHandler(), ""):
        uvicorn.run(
            create_app(place.settings(digest)),
            host=place.asked("WAREHOUSE_HOST"),
            port=int(place.asked("WAREHOUSE_PORT")),
            access_log=False,
            log_config=None,
            proxy_headers=False,
        )


def health(place: Place) -> None:
    """
    Ask the service on this machine how it is; it raises if that is not well.
    """
    address = f"http://127.0.0.1:{place.asked('WAREHOUSE_PORT')}/healthz"
    # No proxy that the environment names: it is this machine.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(address, timeout=5) as answer:
        answer.read()


def _plain(dsn: str) -> str:
    return dsn.replace("postgresql+psycopg://", "postgresql://", 1)


_COMMANDS = {"prepare": prepare, "serve": serve, "health": health}


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Do what the command line says.

    Args:
        arguments: The command line.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(prog="python -m examples.ops.service", description=__doc__)
    parser.add_argument("command", choices=sorted(_COMMANDS))
    asked = parser.parse_args(arguments)
    _COMMANDS[asked.command](Place.here())
    return 0


if __name__ == "__main__":
    sys.exit(main())
