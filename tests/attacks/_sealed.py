"""
A shop whose database demands a seal, and what an attacker can make of what they know.
"""

from __future__ import annotations

import time
from dataclasses import replace

from tests.attacks._shop import APP, MINE, OWNER, A, Shop, attempt, run, secrets
from twh_platform.tenancy.postgres import Seal, SealKey
from twh_platform.tenancy.postgres.seal import add_seal_key, enforce_seal, withdraw_seal_key

__all__ = ["SealedShop", "sql_of"]

OWN_TOKEN = "SELECT current_setting('twh.tenant_id')"
WORKSHOP = f"CREATE SCHEMA IF NOT EXISTS mine AUTHORIZATION {APP}"


class SealedShop:
    """
    A shop whose database demands a seal, beside it the naive table.
    """

    def __init__(self, shop: Shop) -> None:
        shop.plant_naive()
        # Without an index the naive policy is asked for each row anew.
        shop.plant(f"{WORKSHOP}; ALTER TABLE naive DROP CONSTRAINT naive_pkey")
        with shop.connect(OWNER) as owner:
            enforce_seal(owner)
            self.key, self.withdrawn = add_seal_key(owner), add_seal_key(owner)
            owner.commit()
            withdraw_seal_key(owner, self.withdrawn.id)
            owner.commit()
        self.seal = Seal(self.key)
        self.shop = replace(shop, seal=self.seal)

    def forgeries(self) -> dict[str, str]:
        """
        Make what an attacker can present in the name of tenant B.
        """
        soon, past = int(time.time()) + 60, int(time.time()) - 1
        with self.shop.ours(A) as connection:
            [[own]] = run(connection, OWN_TOKEN)
        payload, code = own.split(".")
        renamed = payload[:-1] + "b"
        known = SealKey(id=self.key.id, secret=bytes(32))
        return {
            "a plain name": "b",
            "their token with another name": f"{renamed}.{code}",
            "their token with a name appended": f"{payload}b.{code}",
            "their token and more": f"{own}.{renamed}",
            "their token behind another": f"{renamed}.{code}.{own}",
            "no code": f"{renamed}.",
            "a code of nothing": f"{renamed}.{'0' * 64}",
            "a key of their own": known.token("b", expires_at=soon),
            "a key of their own, and its id": SealKey(id="ffff", secret=bytes(32)).token(
                "b", expires_at=soon
            ),
            "an expired token": self.key.token("b", expires_at=past),
            "a token of a withdrawn key": self.withdrawn.token("b", expires_at=soon),
            "another version": "2" + self.key.token("b", expires_at=soon)[1:],
            "nothing": "",
        }

    def control(self, form: str) -> int:
        """
        Count the secrets that a form brings from ``naive``.
        """
        with self.shop.naive(A) as connection:
            return secrets(attempt(connection, sql_of(form, "app", "naive", "b")))

    def ours(self, form: str) -> int:
        """
        Count the secrets that a form brings with any of the forgeries.
        """
        gained = 0
        with self.shop.ours(A) as connection:
            connection.prepare_threshold = None  # the driver would not know that it is discarded
            for value in self.forgeries().values():
                assert len(run(connection, "SELECT * FROM orders")) == MINE
                gained += secrets(attempt(connection, sql_of(form, "twh", "orders", value)))
                connection.rollback()
                # As good as another session, and cheaper.
                connection.pgconn.exec_(b"DISCARD ALL")
        return gained


def sql_of(form: str, prefix: str, table: str, value: str) -> str:
    """Put the names into a form of the attack."""
    for placeholder, text in (("[s]", f"{prefix}.tenant_id"), ("[t]", table), ("[v]", value)):
        form = form.replace(placeholder, text)
    return form
