"""
The platform's own secrets are kept sealed, listed without values, and rotated.
"""

from __future__ import annotations

import asyncio
import stat
import subprocess
import sys
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from starlette.applications import Starlette

from examples.warehouse import vault as vault_module
from examples.warehouse.app import create_app
from examples.warehouse.auth import Role, Tokens
from examples.warehouse.database import temporary_warehouse
from examples.warehouse.models import TenantRecord, Tier
from examples.warehouse.provisioning import NewUser, provision
from examples.warehouse.schema import APP, OWNER
from examples.warehouse.settings import Settings
from examples.warehouse.vault import SEAL, TOKENS, Vault
from tests.support.tenancy import heard
from tests.support.warehouse import PASSWORD, Client, SignIn, connect
from twh_platform import Tenant, bind_tenant
from twh_platform.kms import platform_owner
from twh_platform.kms.secrets import RotationPolicy, Secret, SecretChanged
from twh_platform.tenancy.postgres import Seal
from twh_platform.tenancy.postgres.psycopg import TenantConnection
from twh_platform.tenancy.postgres.seal import add_seal_key, withdraw_seal_key
from twh_platform.testing import PostgresServer

ROTATE, REVOKE = f"/admin/secrets/{TOKENS}/rotate", f"/admin/secrets/{TOKENS}/revoke"
USER = NewUser(email="a@b.example", name="A", password=PASSWORD)
FIELDS = {"version", "stage", "created_at", "expires_at", "retires_at", "revoked_at"}


class Clock:
    """
    The time of day, which can be moved on.
    """

    moved = timedelta()

    def __call__(self) -> datetime:
        """
        The time.
        """
        return datetime.now(UTC) + self.moved


@pytest.fixture
def boss(app: Starlette) -> Client:
    """
    A client with the administrator's token.
    """
    return boss_of(app)


def boss_of(app: Starlette) -> Client:
    """
    A client with a new token of the administrator.
    """
    return connect(app, app.state.services.tokens.for_administrator())


def user_of(app: Starlette) -> Client:
    """
    A client with a new token of a tenant's user.
    """
    user: dict[str, Any] = {"tenant_id": "acme", "user_id": UUID(int=1), "role": Role.ADMIN}
    return connect(app, app.state.services.tokens.for_user(**user))


async def rotated(boss: Client) -> int:
    """
    Rotate the secret of tokens, and return the number of the version before.
    """
    answer = await boss.post(ROTATE)
    assert answer.status_code == 200, answer.text
    [before] = [one for one in answer.json()["versions"] if one["stage"] == "previous"]
    number: int = before["version"]
    return number


async def statuses(*clients: Client) -> list[int]:
    """
    What each is answered, asking for what it may.
    """
    return [(await one.get("/items")).status_code for one in clients]


async def test_the_list_has_no_values(boss: Client, warehouse: Settings) -> None:
    """
    Names, versions, stages and times, and nothing else; neither in the file.
    """
    answer = await boss.get("/admin/secrets")
    vault = Vault.of(warehouse)
    with platform_owner():
        values = [vault.secrets.get(name).secret.reveal() for name in (TOKENS, SEAL)]

    listed = {one["name"]: one for one in answer.json()["data"]}
    assert {*listed} >= {TOKENS, SEAL}
    assert (listed[TOKENS]["rotates"], listed[SEAL]["rotates"]) == (True, False)
    assert {frozenset(one) for one in listed[TOKENS]["versions"]} == {frozenset(FIELDS)}
    kept = answer.content + warehouse.secrets_file.read_bytes() + warehouse.keyset_file.read_bytes()
    assert not [one for one in values if one in kept or one.hex().encode() in kept]


def test_nobody_else_reads_the_files(warehouse: Settings) -> None:
    """
    The keyset and the file of secrets have mode 600, in a folder of mode 700.
    """
    files = (warehouse.keyset_file, warehouse.secrets_file, warehouse.keyset_file.parent)

    modes = [stat.S_IMODE(one.stat().st_mode) for one in files]
    assert modes == [0o600, 0o600, 0o700]


async def test_a_rotation_logs_nobody_out(app: Starlette, boss: Client) -> None:
    """
    Tokens of before and of after are good; once the old version is revoked, the first are not.
    """
    before = user_of(app)
    with heard(SecretChanged) as signals:
        old = await rotated(boss)
    after, new_boss = user_of(app), boss_of(app)
    overlapping = await statuses(before, after)
    revoked = await new_boss.post(REVOKE, json={"version": old})

    assert overlapping == [200, 200]
    assert revoked.status_code == 200
    assert await statuses(before, after) == [401, 200]
    assert (await boss.get("/tenants")).status_code == 401
    assert {(one.name, one.action) for one in signals} == {(TOKENS, "put"), (TOKENS, "rotated")}


async def test_the_overlap_ends(warehouse: Settings) -> None:
    """
    A token that would be good for longer is refused from then on; one of the new secret is not.
    """
    clock = Clock()
    app = create_app(replace(warehouse, now=clock, token_seconds=7_200.0))
    async with app.state.services.running():
        before = user_of(app)
        await rotated(boss_of(app))
        after = user_of(app)
        found = []
        for minutes in (29, 31):
            clock.moved = timedelta(minutes=minutes)
            found.append(await statuses(before, after))

    assert found == [[200, 200], [401, 200]]


async def test_another_instance_reads_new_tokens(warehouse: Settings) -> None:
    """
    One that has read the secret before the rotation looks again when a signature does not fit.
    """
    async with AsyncExitStack() as stack:
        apps = [create_app(warehouse) for _ in range(2)]
        for app in apps:
            await stack.enter_async_context(app.state.services.running())
        one, other = apps
        assert await statuses(user_of(one), user_of(other)) == [200, 200]
        await rotated(boss_of(one))
        token = user_of(one).headers["authorization"].removeprefix("Bearer ")

        assert await statuses(connect(other, token)) == [200]


async def test_a_forged_token_is_none_however_often(app: Starlette, warehouse: Settings) -> None:
    """
    What another secret has signed is refused, also while the vault is looked at again.
    """
    vault = Vault.of(replace(warehouse, secrets_file=warehouse.secrets_file.with_name("other")))
    vault.make_token_secret(token_seconds=900)
    forged = Tokens(warehouse, vault).for_administrator()

    answers = [await connect(app, forged).get("/tenants") for _ in range(3)]

    assert [one.status_code for one in answers] == [401] * 3


REFUSED = [
    (f"/admin/secrets/{SEAL}/rotate", None, 409, "secret_not_rotated"),
    (f"/admin/secrets/{SEAL}/revoke", 1, 409, "secret_not_rotated"),
    ("/admin/secrets/nothing/rotate", None, 404, "not_found"),
    ("/admin/secrets/No%20name/rotate", None, 404, "not_found"),
    (REVOKE, 9_999, 404, "not_found"),
    (REVOKE, 0, 422, "validation_failed"),
]


@pytest.mark.parametrize(("path", "version", "status", "code"), REFUSED)
async def test_what_is_not_changed_here(
    boss: Client, path: str, version: int | None, status: int, code: str
) -> None:
    """
    The seal of the database, and what there is not.
    """
    body = None if version is None else {"version": version}

    answer = await boss.post(path, json=body)

    assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_the_current_version_is_not_revoked(app: Starlette, boss: Client) -> None:
    """
    Then nobody could log in any more: it is rotated first.
    """
    old = await rotated(boss)

    answer = await boss.post(REVOKE, json={"version": old + 1})

    assert (answer.status_code, answer.json()["code"]) == (409, "secret_in_use")
    assert await statuses(user_of(app)) == [200]


async def test_no_tenant_sees_the_list(sign_in: SignIn) -> None:
    """
    A tenant's own administrator is a stranger here.
    """
    user = await sign_in("acme", "admin")
    answers = [
        await user.get("/admin/secrets"),
        await user.post(ROTATE),
        await user.post(REVOKE, json={"version": 1}),
    ]

    assert [one.status_code for one in answers] == [401] * 3


async def test_what_is_due_is_rotated(app: Starlette, warehouse: Settings) -> None:
    """
    A round of the lifespan's task gives a secret its next value, and leaves what is not due.
    """
    past = replace(warehouse, now=lambda: datetime.now(UTC) - timedelta(days=2))
    policy = RotationPolicy(every=86_400, overlap=3_600)
    with platform_owner():
        Vault.of(past).secrets.put("due", Secret.random(), policy=policy)
    tokens = app.state.services.vault.secrets
    with platform_owner():
        before = tokens.get(TOKENS).version

    app.state.services.vault.rotation.run_once()

    with platform_owner():
        assert tokens.get("due").version.version == 2
        assert tokens.get(TOKENS).version == before


async def test_a_new_seal_is_used_without_a_restart(
    twh_postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Put by another process, it is in use soon; then the database need not know the old one.
    """
    monkeypatch.setattr(vault_module, "_LOOK_EVERY", 0.01)
    with temporary_warehouse(twh_postgres, administrator_password_hash="") as settings:
        app = create_app(settings)
        services = app.state.services
        async with services.running():
            await provision(services, TenantRecord(id="acme", tier=Tier.FREE), [USER])
            old = services.seal.key.id
            with psycopg.connect(owner_dsn(settings), autocommit=True) as owner:
                Vault.of(settings).put_seal(add_seal_key(owner))
                services.vault.secrets.clear()  # what a minute does
                async with asyncio.timeout(30):
                    while services.seal.key.id == old:  # noqa: ASYNC110 -- nothing announces it
                        await asyncio.sleep(0.01)
                withdraw_seal_key(owner, old)

            assert await statuses(user_of(app)) == [200]


def owner_dsn(settings: Settings) -> str:
    """
    The database as its owner.
    """
    return settings.app_dsn.replace("+psycopg", "").replace(APP, OWNER)


# --- the command line


@pytest.fixture
def command(warehouse: Settings) -> list[str]:
    """
    `twh-platform secrets` on the files of the warehouse.
    """
    files = ["--keyset", str(warehouse.keyset_file), "--store", str(warehouse.secrets_file)]
    return [sys.executable, "-m", "twh_platform.cli", "secrets", *files]


def ran(command: list[str], *arguments: str) -> str:
    """
    What a command of the group writes.
    """
    *start, group = command[:4]
    line = [*start, group, *arguments, *command[4:]]
    return subprocess.run(line, check=True, capture_output=True, text=True).stdout


def test_the_command_line_reads_the_same(command: list[str]) -> None:
    """
    `secrets list` has the secrets that the service uses.
    """
    written = ran(command, "list")

    assert f"{SEAL} version 1, current" in written
    assert TOKENS in written


def test_the_seal_is_a_file_for_other_commands(
    command: list[str], warehouse: Settings, tmp_path: Path
) -> None:
    """
    `secrets get` writes what `--seal` of other commands reads.
    """
    file = tmp_path / "seal.key"
    ran(command, "get", SEAL, "--output", str(file))

    kind = TenantConnection.using(seal=Seal.from_file(file))
    dsn = warehouse.app_dsn.replace("+psycopg", "")
    with bind_tenant(Tenant(id="acme")), kind.connect(dsn) as connection:
        assert connection.execute("SELECT twh.current_tenant()").fetchone() == ("acme",)
    with psycopg.connect(dsn) as bare, pytest.raises(psycopg.Error):
        bare.execute("SELECT twh.current_tenant()")
