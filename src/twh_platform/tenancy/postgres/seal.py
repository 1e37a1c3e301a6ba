"""
The keys of a sealed database (extra: `psycopg`).

`twh-platform tenancy seal` does the same from a command line.
"""

from ._psycopg_seal import (
    SealKeyStatus,
    add_seal_key,
    enforce_seal,
    retire_seal_keys,
    seal_key_statuses,
    withdraw_seal_key,
)

__all__ = [
    "SealKeyStatus",
    "add_seal_key",
    "enforce_seal",
    "retire_seal_keys",
    "seal_key_statuses",
    "withdraw_seal_key",
]
