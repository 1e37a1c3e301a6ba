"""
Numbers of bank accounts (IBAN, ISO 13616): in one possible form, and checked.
"""

from __future__ import annotations

import re

from .problems import Refusal

__all__ = ["bank_account"]

_SHAPE = re.compile(r"[A-Z]{2}[0-9]{2}[A-Z0-9]{11,30}", re.ASCII)
_MODULUS, _REMAINDER = 97, 1
_BASE = 36  # letters count from 10 to 35


def bank_account(text: str) -> str:
    """
    The account without spaces, in capitals.

    Raises:
        Refusal: With `bank_account_invalid`, if it has not the shape of an
            IBAN, or its check digits (ISO 7064, MOD 97-10) are not right.
    """
    account = "".join(text.split()).upper()
    if not _SHAPE.fullmatch(account) or _checked(account) != _REMAINDER:
        raise Refusal("bank_account_invalid", "It is not an IBAN, or has a typing error.")
    return account


def _checked(account: str) -> int:
    turned = account[4:] + account[:4]
    return int("".join(str(int(one, _BASE)) for one in turned)) % _MODULUS
