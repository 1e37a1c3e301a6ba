"""
The suppliers' rows as the database has them, past the warehouse.

They are read as `warehouse_support`, which sees all tenants and has no key, and
written as `warehouse_app`, as whoever has taken over the database could do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import psycopg
from psycopg.rows import dict_row

from twh_platform import Tenant, bind_tenant
from twh_platform.kms import Suite, parse
from twh_platform.tenancy.postgres import Seal
from twh_platform.tenancy.postgres.psycopg import TenantConnection

from ..settings import Settings

__all__ = ["Rows", "shown_rows"]

Deed = Callable[[Mapping[str, str]], Any]
"""What an `Aside` does, given the variables."""

_READ = """
SELECT tenant_id, bank_account, bank_account_index, suppliers::text AS whole
FROM suppliers WHERE id = ANY(%s::uuid[]) ORDER BY array_position(%s::uuid[], id)
"""
_WRITE = "UPDATE suppliers SET bank_account = %s WHERE id = %s"
_SHOWN_BYTES = 28


class Rows:
    """
    Looks at suppliers and writes over them.

    Args:
        settings: Which database, and with which logins.

        seal: What the writing login has to seal its tenant with.
    """

    def __init__(self, settings: Settings, seal: Seal) -> None:
        self._settings, self._seal = settings, seal

    def seen(self, *suppliers: str, account: str) -> Deed:
        """
        What the database has of each supplier, given by variable, with the header decoded.

        `readable` says whether the variable *account*, or most of it, is
        anywhere in the row; `alone`, whether no other row has its bytes, its
        index or its data key.
        """

        def look(variables: Mapping[str, str]) -> list[dict[str, Any]]:
            found = self._read([variables[one] for one in suppliers])
            rows = [_described(row, variables[account]) for row in found]
            for one in rows:
                one["alone"] = not any(_alike(one, other) for other in rows if other is not one)
            return rows

        return look

    def copied(self, source: str, target: str, *, tenant: str) -> Deed:
        """
        Put the sealed account of one supplier over that of another, a supplier of *tenant*.
        """

        def copy(variables: Mapping[str, str]) -> dict[str, Any]:
            taken, before = self._read([variables[source], variables[target]])
            rows = self._write(variables[target], taken["bank_account"], tenant)
            return {"rows": rows, "before": before["bank_account"].hex()}

        return copy

    def put_back(self, target: str, before: str, *, tenant: str) -> Deed:
        """
        Undo what `copied` did; *before* is the variable that has kept the bytes.
        """

        def put(variables: Mapping[str, str]) -> dict[str, Any]:
            sealed = bytes.fromhex(variables[before])
            return {"rows": self._write(variables[target], sealed, tenant)}

        return put

    def _read(self, ids: list[str]) -> list[dict[str, Any]]:
        dsn = _plain(self._settings.support_dsn)
        with psycopg.connect(dsn, row_factory=dict_row) as support:
            return support.execute(_READ, (ids, ids)).fetchall()

    def _write(self, supplier: str, sealed: bytes, tenant: str) -> int:
        kind = TenantConnection.using(seal=self._seal)
        dsn = _plain(self._settings.app_dsn)
        with bind_tenant(Tenant(id=tenant)), kind.connect(dsn) as connection:
            written: int = connection.execute(_WRITE, (sealed, supplier)).rowcount
        return written


def shown_rows(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """
    Rows as `Rows.seen` gives them, for people.
    """
    lines = []
    for row in rows:
        start = row["sealed"][: 2 * _SHOWN_BYTES]
        lines += [
            f"{row['tenant']:10} bank_account        \\x{start}... ({row['bytes']} bytes)",
            f"{'':10} bank_account_index  \\x{row['index']}",
            f"{'':10} header              suite {row['suite']}, data key {row['data_key']}",
        ]
    return lines


def _described(row: Mapping[str, Any], account: str) -> dict[str, Any]:
    sealed: bytes = row["bank_account"]
    header = parse(sealed)
    number = account[-14:]  # without the country and the bank, which are no secret
    return {
        "tenant": row["tenant_id"],
        "sealed": sealed.hex(),
        "index": row["bank_account_index"].hex(),
        "bytes": len(sealed),
        "version": sealed[0],
        "suite": Suite(header.suite).name,
        "data_key": header.data_key_id.hex(),
        "readable": number in row["whole"] or number.encode().hex() in row["whole"],
    }


def _alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return any(one[name] == other[name] for name in ("sealed", "index", "data_key"))


def _plain(dsn: str) -> str:
    return dsn.replace("postgresql+psycopg://", "postgresql://", 1)
