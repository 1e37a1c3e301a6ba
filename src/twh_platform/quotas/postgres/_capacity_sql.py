"""
Levels of capacity as plain SQL: one table, and the functions that move a level.

A row of ``twh.quota_levels`` says how much of one rule one tenant has taken:
items, locations, stored bytes.  It is a tenant table like any other, and the
application's role may read its tenant's rows and write none.  Levels move
through two functions, which run as the owner of the table (SECURITY DEFINER);
policies are forced, so they hold the owner too, and the functions name the
tenant besides.

``twh.change_capacity(rules, amounts, limits)``
    Takes what is positive and gives back what is negative, for all rules or,
    if one has not enough left, for none.  A limit of NULL only counts.  It
    returns a row for each rule and raises nothing, so a refusal leaves the
    transaction as it was.

``twh.correct_capacity(rule, counted)``
    Puts a level right.  It is for whoever reconciles, and not for the
    application.

About the first:

- Its first statement makes the rows that are missing and locks them all, in
  the order of the rules' names.  Two takes can wait for each other only in this
  order, so they cannot deadlock.  ``WHERE false`` updates nothing: the row is
  locked before the condition is looked at.
- Its second statement has a snapshot of its own (READ COMMITTED), taken after
  the locks: it sees what the last holder has left.  Under REPEATABLE READ and
  SERIALIZABLE, a level that somebody else has moved since the snapshot cannot
  be locked: error 40001, as for any row.
- The lock lasts until the transaction ends, or the savepoint is rolled back.
  Until then the next taker of the same tenant and rule waits; whatever ends
  the transaction, also a server that notices that its client is gone, gives
  back what was taken.
- ``level`` is in no index and pages are filled by half, so an update stays on
  its page (HOT) and is cleaned up by the next one.
"""

from __future__ import annotations

from collections.abc import Iterable

from ...errors import ConfigurationError
from ...tenancy.postgres import TenantTable, tenant_sql
from ...tenancy.postgres._grants_sql import revoke_sql
from ...tenancy.postgres._policies import quote_name

__all__ = ["FUNCTIONS", "QUOTA_LEVELS", "capacity_sql"]

QUOTA_LEVELS = TenantTable(schema="twh", name="quota_levels", privileges=("SELECT",))
"""The declaration of the table: for `administrator_sql`, which may grant it to others."""

FUNCTIONS = (
    "twh.change_capacity(text[], bigint[], bigint[])",
    "twh.correct_capacity(text, bigint)",
)

_TABLE = """\
CREATE TABLE IF NOT EXISTS twh.quota_levels (
    tenant_id text NOT NULL,
    rule text COLLATE "C" NOT NULL CHECK (rule ~ '^[a-z0-9][a-z0-9_.-]{0,63}$'),
    level bigint NOT NULL DEFAULT 0 CHECK (level BETWEEN 0 AND 9007199254740991),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, rule)
) WITH (fillfactor = 50);
"""

_FUNCTIONS = """\
CREATE OR REPLACE FUNCTION twh.change_capacity(rules text[], amounts bigint[], limits bigint[])
    RETURNS TABLE (rule text, before bigint, after bigint, refused boolean)
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    tenant CONSTANT text := twh.current_tenant();
BEGIN
    IF rules IS NULL
        OR cardinality(amounts) IS DISTINCT FROM cardinality(rules)
        OR cardinality(limits) IS DISTINCT FROM cardinality(rules)
        OR array_position(amounts, NULL) IS NOT NULL
        OR (SELECT count(DISTINCT asked) FROM unnest(rules) AS asked) < cardinality(rules)
    THEN
        RAISE EXCEPTION 'every rule once, with an amount and a limit'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    INSERT INTO twh.quota_levels AS kept (tenant_id, rule)
        SELECT tenant, asked FROM unnest(rules) AS asked ORDER BY asked COLLATE "C"
        ON CONFLICT (tenant_id, rule) DO UPDATE SET level = kept.level WHERE false;
    RETURN QUERY
    WITH asked AS (
        SELECT kept.rule, kept.level AS before, kept.level + one.amount AS wanted,
            coalesce(
                bool_or(one.amount > 0 AND kept.level + one.amount > one.most) OVER (), false
            ) AS refused
        FROM unnest(rules, amounts, limits) AS one (rule, amount, most)
            JOIN twh.quota_levels AS kept ON kept.tenant_id = tenant AND kept.rule = one.rule
    ), changed AS (
        UPDATE twh.quota_levels AS kept
        SET level = greatest(asked.wanted, 0), updated_at = now()
        FROM asked
        WHERE kept.tenant_id = tenant AND kept.rule = asked.rule
            AND asked.wanted <> asked.before AND NOT asked.refused
        RETURNING kept.rule, kept.level
    )
    SELECT asked.rule, asked.before, coalesce(changed.level, asked.before), asked.refused
    FROM asked LEFT JOIN changed ON changed.rule = asked.rule;
END
$$;
CREATE OR REPLACE FUNCTION twh.correct_capacity(rule text, counted bigint)
    RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    INSERT INTO twh.quota_levels (tenant_id, rule, level)
        VALUES (twh.current_tenant(), correct_capacity.rule, counted)
        ON CONFLICT (tenant_id, rule)
        DO UPDATE SET level = excluded.level, updated_at = now();
END
$$;
"""


def capacity_sql(*, role: str, reconcilers: Iterable[str] = ()) -> str:
    """
    The SQL that makes the table of levels and its functions; it comes after `install_sql`.

    It may be run again, with other roles too: what was granted on them is taken
    back first, from whoever has it but the owner.  Run it in one transaction,
    as the role that owns the schema ``twh``, which must be no superuser and not
    the application's role.

    Args:
        role: The login role of the application: it reads its tenant's levels,
            takes and gives back.

        reconcilers: Roles that may also put a level right; the owner may in any
            case.

    Raises:
        twh_platform.errors.ConfigurationError: If a role is ``public`` or
            ``none``, which mean no role even between quotes.
    """
    sql = _TABLE + _FUNCTIONS + revoke_sql(tables=["twh.quota_levels"], functions=FUNCTIONS)
    sql += tenant_sql([QUOTA_LEVELS], role=role) + _grant(role, FUNCTIONS[:1])
    return sql + "".join(_reconciler(one) for one in reconcilers)


def _grant(role: str, functions: Iterable[str]) -> str:
    return f"GRANT EXECUTE ON FUNCTION {', '.join(functions)} TO {quote_name(role)};\n"


def _reconciler(role: str) -> str:
    if role in {"public", "none"}:
        message = f"{role!r} is not a role: name the login that reconciles"
        raise ConfigurationError(message)
    return f"GRANT SELECT ON {QUOTA_LEVELS.qualified} TO {quote_name(role)};\n" + _grant(
        role, FUNCTIONS
    )
