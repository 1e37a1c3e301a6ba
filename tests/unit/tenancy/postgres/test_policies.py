"""
The rendered SQL, without a server.
"""

from __future__ import annotations

from typing import Any

import pytest

from twh_platform.errors import ConfigurationError
from twh_platform.tenancy.postgres import TenantTable, install_sql, tenant_sql
from twh_platform.tenancy.postgres._policies import quote_name


class TestQuoting:
    """
    Names that PostgreSQL has to take as names.
    """

    @pytest.mark.parametrize(
        ("name", "quoted"),
        [
            ("items", '"items"'),
            ('a"; DROP TABLE b; --', '"a""; DROP TABLE b; --"'),
            ("Ünïcode", '"Ünïcode"'),
        ],
    )
    def test_quoted(self, name: str, quoted: str) -> None:
        """
        Quotes are doubled, all else stays.
        """
        assert quote_name(name) == quoted

    @pytest.mark.parametrize("name", ["", "a\0b", "x" * 64, "ü" * 32])
    def test_refused(self, name: str) -> None:
        """
        A name that would be cut, or is none, is refused.
        """
        with pytest.raises(ConfigurationError):
            quote_name(name)


class TestDeclaration:
    """
    What a table can be declared to be.
    """

    @pytest.mark.parametrize(
        "wrong",
        [
            {"name": ""},
            {"schema": "x" * 64},
            {"column": "a\0"},
            {"column_type": "text); DROP TABLE items; --"},
            {"privileges": ["TRUNCATE"]},
            {"privileges": ["SELECT, TRUNCATE"]},
            {"privileges": "SELECT"},
            {"keys": ["sku"]},
            {"indexes": ["sku"]},
            {"keys": [("x" * 60,)]},
            {"keys": [("a", "b_c"), ("a_b", "c")]},
            {"keys": [("",)]},
        ],
        ids=str,
    )
    def test_refused(self, wrong: dict[str, Any]) -> None:
        """
        Mistakes are refused when they are declared.
        """
        with pytest.raises(ConfigurationError):
            TenantTable(**{"name": "items", **wrong})

    def test_iterables(self) -> None:
        """
        Generators are read once and kept.
        """
        table = TenantTable(name="items", keys=(pair for pair in [("id",), ("sku",)]))

        assert table.keys == (("id",), ("sku",))
        assert tenant_sql([table], role="app") == tenant_sql([table], role="app")


class TestRendering:
    """
    The statements.
    """

    def test_two_policies(self) -> None:
        """
        A permissive policy and a restrictive floor have one expression.
        """
        sql = tenant_sql([TenantTable(name="items")], role="app")
        rule = '"tenant_id" = (SELECT twh.current_tenant())'

        assert "AS PERMISSIVE FOR ALL" in sql
        assert "AS RESTRICTIVE FOR ALL" in sql
        assert sql.count(rule) == 4
        assert "FORCE ROW LEVEL SECURITY" in sql

    @pytest.mark.parametrize("kind", ["uuid", "bigint", "integer"])
    def test_types(self, kind: str) -> None:
        """
        The tenant is cast, never the column.
        """
        sql = tenant_sql([TenantTable(name="items", column_type=kind)], role="app")

        assert f"SET DEFAULT twh.current_tenant_{kind}()" in sql
        assert f'"tenant_id" = (SELECT twh.current_tenant_{kind}())' in sql

    def test_privileges(self) -> None:
        """
        Only what is declared is granted, after all else is revoked.
        """
        ledger = tenant_sql(
            [TenantTable(name="moves", privileges=["SELECT", "INSERT"])], role="app"
        )
        nothing = tenant_sql([TenantTable(name="moves", privileges=[])], role="app")

        assert 'GRANT SELECT, INSERT ON "public"."moves" TO "app";' in ledger
        assert "GRANT" not in nothing
        assert "REVOKE ALL" in nothing

    def test_indexes(self) -> None:
        """
        Indexes are led by the tenant column, in name and in fact.
        """
        table = TenantTable(name="items", keys=[("sku",)], indexes=[("made_at", "id")])
        sql = tenant_sql([table], role="app")

        assert 'INDEX IF NOT EXISTS "items_tenant_id_sku_key"' in sql
        assert '("tenant_id", "made_at", "id")' in sql

    @pytest.mark.parametrize("role", ["public", "none", "", "x" * 64])
    def test_roles(self, role: str) -> None:
        """
        What PostgreSQL takes for everybody or nobody is not a role.
        """
        with pytest.raises(ConfigurationError):
            tenant_sql([TenantTable(name="items")], role=role)

    def test_install(self) -> None:
        """
        The function is strict and stable.
        """
        sql = install_sql()

        assert "STABLE" in sql
        assert "IMMUTABLE" not in sql
        assert "TW001" in sql
