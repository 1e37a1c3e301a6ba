"""
The service that the README shows does what the README says.
"""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import jwt
import pytest

from twh_platform.tenancy.postgres import TenantTable, install_sql, tenant_sql
from twh_platform.testing import PostgresDatabase

README = Path(__file__).parents[2] / "README.md"
KEY = "a key of the README, thirty-two bytes or more"
ROWS = (
    "CREATE TABLE items (tenant_id text, name text);"
    "INSERT INTO items VALUES ('acme', 'anvil'), ('globex', 'gadget');"
)


@pytest.fixture
def app(twh_database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch):
    """The app of the first code block, on a database with two tenants' rows."""
    table = tenant_sql([TenantTable(name="items")], role="twh_test_app")
    twh_database.execute(ROWS + install_sql() + table, user="twh_test_owner")
    monkeypatch.setenv("DATABASE_URL", twh_database.dsn(user="twh_test_app"))
    monkeypatch.setenv("SIGNING_KEY", KEY)
    block = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    # Not a module of ours: without this file's postponed annotations.
    code = compile(block[1], README.name, "exec", dont_inherit=True)
    namespace: dict[str, object] = {}
    exec(code, namespace)
    return namespace["app"]


async def test_a_tenant_gets_its_rows_and_a_stranger_none(app):
    """The query names no tenant, and yet only one tenant's row comes back."""
    claims = {"aud": "shop", "iss": "https://id.example", "exp": 4e9, "tenant_id": "acme"}
    headers = {"authorization": f"Bearer {jwt.encode(claims, KEY, 'HS256')}"}
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://shop") as client,
    ):
        mine, theirs = await client.get("/items", headers=headers), await client.get("/items")

    assert mine.json() == ["anvil"]
    assert theirs.status_code == 401
