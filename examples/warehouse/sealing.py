"""
What sealed columns are sealed with, while a request is served.

The models are imported before there is an app, and tests run several at once.
So a column asks here, and whoever begins to work on the database says what
holds: `web` for requests, in one place.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from twh_platform.kms import BlindIndex, TenantCipher

__all__ = ["Sealing", "bank_accounts", "cipher", "sealing_with"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealing:
    """
    A cipher, and the blind indexes made from it.

    Attributes:
        cipher: Seals and opens for the tenant that is bound.

        bank_accounts: Finds suppliers by their account.
    """

    cipher: TenantCipher
    bank_accounts: BlindIndex


_current: ContextVar[Sealing] = ContextVar("warehouse_sealing")


@contextmanager
def sealing_with(sealing: Sealing) -> Iterator[None]:
    """
    Seal and open columns with this, inside a `with`.
    """
    token = _current.set(sealing)
    try:
        yield
    finally:
        _current.reset(token)


def cipher() -> TenantCipher:
    """
    The cipher of sealed columns.
    """
    return _current.get().cipher


def bank_accounts() -> BlindIndex:
    """
    The index of `suppliers.bank_account`.
    """
    return _current.get().bank_accounts
