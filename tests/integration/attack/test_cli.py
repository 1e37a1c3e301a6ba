"""
`twh-platform tenancy attack`, as a user calls it.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.support.attacked import FAULTS
from twh_platform.cli import main
from twh_platform.tenancy.postgres import write_seal_key

TENANTS = ("--tenant", "acme", "--other", "globex")

MODULE = """
import os
from contextlib import contextmanager

import sqlalchemy as sa

from twh_platform import bind_tenant
from twh_platform.tenancy import Tenant
from twh_platform.tenancy.postgres import Seal
from twh_platform.tenancy.postgres.sqlalchemy import bind_engine


def make_engine():
    url = os.environ["SHOP_URL"]
    engine = sa.create_engine(url, pool_size=2, max_overflow=0)
    return bind_engine(engine, seal=Seal.from_file(os.environ["SHOP_SEAL"]))


@contextmanager
def bind(tenant):
    with bind_tenant(None if tenant is None else Tenant(id=tenant)):
        yield


notes = {}


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    tenant = dict(scope["headers"])[b"x-tenant"].decode()
    if scope["method"] == "POST":
        notes.setdefault(tenant, []).append((await receive())["body"].decode())
    made = scope["method"] == "POST"
    seen = notes.get("globex" if os.environ.get("LEAKY") and not made else tenant, [])
    body = (seen[-1] if made else "[" + ",".join(seen) + "]").encode()
    await send({"type": "http.response.start", "status": 200,
                "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": body})


app.routes = ["POST /notes", "GET /notes"]


def authorize(request, tenant):
    return request.with_header("X-Tenant", tenant.id)


from twh_platform.testing import WalkStep

STEPS = [WalkStep("POST /notes", {"id": "{mark}"})]
"""


def attack(*arguments: str) -> int:
    """Call it within this process."""
    return main(["tenancy", "attack", *arguments, *TENANTS])


@pytest.fixture
def shop(service, tmp_path, monkeypatch):
    """A sealed service, its key in a file, and a module of its own in the current folder."""
    one = service(sealed=True)
    key = tmp_path / "seal.key"
    write_seal_key(key, one.seal.key)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "attacked_shop.py").write_text(MODULE)
    monkeypatch.setenv(
        "SHOP_URL", one.database.dsn(user="attacked_app", scheme="postgresql+psycopg")
    )
    monkeypatch.setenv("SHOP_SEAL", str(key))
    monkeypatch.setenv("TWH_ATTACK_DSN", one.dsn)
    yield one
    sys.modules.pop("attacked_shop", None)


def test_a_sealed_database_is_status_0(shop, capsys):
    """All attacks are refused: 0, and the report says what was there to steal."""
    assert attack("--seal", "seal.key") == 0

    told = capsys.readouterr().out
    assert "rows of 'globex' to steal: public.items 2, public.lines 2, public.visits 1" in told
    assert "pool: not attacked\napp: not attacked\nleft behind: nothing\n0 leaked" in told


def test_a_leak_is_status_1(shop, capsys):
    """One attack that succeeds makes the status 1, unless it is left out."""
    shop.plant(FAULTS["TWHA24"])

    assert attack("--seal", "seal.key") == 1
    assert "LEAKED       TWHA24 truncate" in capsys.readouterr().out
    assert attack("--seal", "seal.key", "--ignore", "truncate") == 0
    assert attack("--seal", "seal.key", "--attack", "TWHA02") == 0


def test_what_proves_nothing_is_status_1(shop, capsys):
    """Unless it is allowed."""
    shop.plant("DELETE FROM visits WHERE tenant_id = 'globex'")

    assert attack("--seal", "seal.key") == 1
    assert attack("--seal", "seal.key", "--allow-inconclusive") == 0
    assert "inconclusive public.visits: the other tenant has no row there" in (
        capsys.readouterr().out
    )


def test_what_cannot_be_done_is_status_2(shop, capsys, monkeypatch):
    """Nothing is taken for safe that was not attacked."""
    nowhere = "postgresql://u:hush@127.0.0.1:1/x"

    assert attack() == 2  # without the seal the other tenant has nothing
    assert attack("--seal", "no-such-file") == 2
    assert attack("--seal", "seal.key", "--attack", "TWHA99") == 2
    assert attack("--seal", "seal.key", "--pool", "attacked_shop:none") == 2
    assert attack("--seal", "seal.key", "--app", "attacked_shop:app") == 2
    assert attack("--seal", "seal.key", "--output", "no/such/folder") == 2
    assert attack(nowhere) == 2
    monkeypatch.delenv("TWH_ATTACK_DSN")
    assert attack() == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "hush" not in captured.err
    assert captured.err.count("twh-platform tenancy attack: ") == 8


def test_a_setting_is_named(service, capsys):
    """A service that binds by a setting of its own is attacked by plain connections."""
    one = service()

    status = attack(one.dsn, "--setting", "twh.tenant_id", "--format", "json")

    report = json.loads(capsys.readouterr().out)
    assert status == 1
    assert {one["attack"] for one in report["results"] if one["verdict"] == "leaked"} == {
        "TWHA03",
        "TWHA04",
        "TWHA06",
        "TWHA14",
    }
    assert report["version"] == 1
    assert report["tables"] == {"public.items": 2, "public.lines": 2, "public.visits": 1}
    assert report["results"][0]["outcomes"][0].keys() == {"name", "verdict", "rows", "detail"}


def test_the_pool_is_attacked(shop, capsys, tmp_path):
    """An engine that a function makes is stormed; the probe is found in the schema."""
    given = ("--seal", "seal.key", "--pool", "attacked_shop:make_engine")

    assert attack(*given, "--transactions", "60", "--bind", "attacked_shop:bind") == 0
    told = capsys.readouterr().out
    assert "refused      TWHA60 pool-rows" in told
    assert "pool: not attacked" not in told
    shop.plant("DELETE FROM visits; DELETE FROM lines; DELETE FROM items WHERE tenant_id = 'acme'")
    assert attack(*given) == 2


@pytest.mark.parametrize(("leaky", "status"), [("", 0), ("yes", 1)])
def test_the_app_is_walked(leaky, status, shop, capsys, monkeypatch):
    """The walk is made as the attacker, who must see nothing of the other."""
    monkeypatch.setenv("LEAKY", leaky)
    given = ("--app", "attacked_shop:app", "--authorize", "attacked_shop:authorize")

    assert attack("--seal", "seal.key", *given, "--steps", "attacked_shop:STEPS") == status
    told = capsys.readouterr().out
    walked = told.partition("\napp: ")[2].partition("left behind")[0]
    assert walked.startswith("2 operations: 2 walked")
    assert ("leak:" in walked) == (status == 1)


def test_it_is_a_program(shop):
    """The module can be run where the script is not on PATH."""
    command = [sys.executable, "-m", "twh_platform.cli", "tenancy", "attack", *TENANTS]
    done = subprocess.run(
        [*command, "--seal", "seal.key", "--output", "report.txt"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
