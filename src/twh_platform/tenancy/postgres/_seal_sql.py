"""
The half of the seal that lives in the database.

`seal_sql` puts a function that demands a seal in the place of
``twh.current_tenant()``.  The policies call it by its name and stay as they
are, so a database is sealed, or unsealed, without touching a table.

About the function:

- SECURITY DEFINER, because only the owner may read the keys.  Its search_path
  names pg_temp last: left out, it would be searched first for types.
- HMAC-SHA256 by the builtin `sha256`; the keys are stored with their inner and
  outer padding (RFC 2104, section 2), so no extension is needed.
- The codes are compared as text.  That ends at the first difference, but the C
  library compares 8 bytes or more at a time, 32 bits of the code: there is no
  byte to guess alone.
- The expiry is compared as digits.  A cast to a number would fail on other
  text, and the planner may carry it out before the code is looked at.
- One statement and few expressions: each is set up anew in every transaction,
  and that is what a sealed statement costs.
"""

from __future__ import annotations

from ._binding import SETTING
from ._grants_sql import revoke_sql

__all__ = ["INVALID_SEAL_SQLSTATE", "seal_sql"]

INVALID_SEAL_SQLSTATE = "TW003"
"""The SQLSTATE of the error that says the tenant of the transaction has no valid seal."""

_KEYS = """\
CREATE TABLE IF NOT EXISTS twh.seal_keys (
    key_id text COLLATE "C" PRIMARY KEY CHECK (key_id ~ '^1[0-9a-f]{4}$'),
    inner_pad bytea NOT NULL CHECK (length(inner_pad) = 64),
    outer_pad bytea NOT NULL CHECK (length(outer_pad) = 64),
    added_at timestamptz NOT NULL DEFAULT now(),
    not_after timestamptz NOT NULL DEFAULT 'infinity'
);
"""

_FUNCTION = """\
CREATE OR REPLACE FUNCTION twh.current_tenant() RETURNS text
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    token text := current_setting('{setting}', true);
    payload CONSTANT text := split_part(token, '.', 1);
BEGIN
    SELECT CASE
            WHEN substr(payload, 6, 10) COLLATE "C" > date_part('epoch', now())::bigint::text
            THEN substr(payload, 16)
        END
        INTO token
        FROM twh.seal_keys
        WHERE key_id = left(payload, 5)
            AND not_after > now()
            AND token = payload || '.' || encode(
                sha256(outer_pad || sha256(inner_pad || convert_to(payload, 'UTF8'))), 'hex'
            );
    IF token IS NULL THEN
        {otherwise}
    END IF;
    RETURN token;
END
$$;
GRANT EXECUTE ON FUNCTION twh.current_tenant() TO PUBLIC;
"""

_REFUSE = "RETURN twh.raise_unsealed();"
_ADMIT = f"""\
token := current_setting('{SETTING}', true);
        IF payload = token AND token <> '' THEN
            RETURN token;  -- the time of transition: unsealed tenants are believed
        END IF;
        RETURN twh.raise_unsealed();"""


def seal_sql(*, allow_unsealed: bool = False) -> str:
    """
    The SQL that makes the database demand a seal; it comes after `install_sql`.

    It may be run again.  Run it as the role that owns the schema ``twh``, in one
    transaction.  Without a key nobody is believed: see
    `twh_platform.tenancy.postgres.seal.add_seal_key`.

    Args:
        allow_unsealed: Believe tenants without a seal too, while a running
            service is being changed over.  **SQL injection switches tenants as
            long as this lasts.**
    """
    return (
        _KEYS
        + revoke_sql(tables=["twh.seal_keys"])
        + f"""\
CREATE OR REPLACE FUNCTION twh.raise_unsealed() RETURNS text
    LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF coalesce(current_setting('{SETTING}', true), '') = '' THEN
        RETURN twh.raise_no_tenant();
    END IF;
    RAISE EXCEPTION 'the tenant of this transaction has no valid seal'
        USING ERRCODE = '{INVALID_SEAL_SQLSTATE}',
              HINT = 'Forged, made with a key that is unknown or withdrawn, or expired: '
                  'compare the clocks of service and database.';
END
$$;
GRANT EXECUTE ON FUNCTION twh.raise_unsealed() TO PUBLIC;
"""
        + _FUNCTION.format(setting=SETTING, otherwise=_ADMIT if allow_unsealed else _REFUSE)
    )
