"""
Usage and the notices that were given, as plain SQL: two tables without a tenant's policy.

A meter writes for all tenants at once, a billing run reads all of them, and
neither has a tenant.  So their roles are logins of their own, and the
application's role gets nothing here.  A tenant sees what it has used through
the limiter.
"""

from __future__ import annotations

from collections.abc import Iterable

from ...errors import ConfigurationError
from ...tenancy.postgres._grants_sql import revoke_sql
from ...tenancy.postgres._policies import quote_name

__all__ = ["CLAIM", "PAGE", "RECORD", "usage_sql"]

# Each counter has one row: see `UsageCounter`.  What it counted belongs to its
# period, which a tenant that moves to another zone changes with the counter.
_TABLES = """\
CREATE SCHEMA IF NOT EXISTS twh;
CREATE TABLE IF NOT EXISTS twh.quota_usage (
    tenant_id text COLLATE "C" NOT NULL CHECK (tenant_id ~ '^[A-Za-z0-9_-]{1,64}$'),
    rule text COLLATE "C" NOT NULL CHECK (rule ~ '^[a-z0-9][a-z0-9_.-]{0,63}$'),
    scope text COLLATE "C" NOT NULL CHECK (char_length(scope) <= 200),
    birth bigint NOT NULL CHECK (birth > 0),
    instance text COLLATE "C" NOT NULL CHECK (instance ~ '^[0-9a-f]{0,32}$'),
    unit text COLLATE "C" NOT NULL,
    period_start timestamptz NOT NULL,
    period_end timestamptz NOT NULL CHECK (period_start < period_end),
    start_offset interval NOT NULL,
    end_offset interval NOT NULL,
    starts_on date NOT NULL
        GENERATED ALWAYS AS ((period_start AT TIME ZONE 'UTC' + start_offset)::date) STORED,
    taken bigint NOT NULL,
    refunded bigint NOT NULL CHECK (refunded BETWEEN 0 AND taken),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, rule, scope, birth, instance)
);
CREATE INDEX IF NOT EXISTS quota_usage_by_day
    ON twh.quota_usage (starts_on, tenant_id, rule, period_start, scope);
CREATE TABLE IF NOT EXISTS twh.quota_notices (
    tenant_id text COLLATE "C" NOT NULL CHECK (tenant_id ~ '^[A-Za-z0-9_-]{1,64}$'),
    rule text COLLATE "C" NOT NULL CHECK (rule ~ '^[a-z0-9][a-z0-9_.-]{0,63}$'),
    scope text COLLATE "C" NOT NULL CHECK (char_length(scope) <= 200),
    period_start timestamptz NOT NULL,
    threshold smallint NOT NULL CHECK (threshold BETWEEN 1 AND 100),
    of_limit bigint NOT NULL CHECK (of_limit > 0),
    given_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, rule, scope, period_start, threshold)
);
"""

# Whoever is granted a table by mistake, with all of a schema, still sees no row.
_CLOSE = """\
ALTER TABLE twh.quota_usage ENABLE ROW LEVEL SECURITY;
ALTER TABLE twh.quota_notices ENABLE ROW LEVEL SECURITY;
DO $$
DECLARE
    held record;
BEGIN
    FOR held IN
        SELECT p.polname AS policy, p.polrelid::regclass AS relation
        FROM pg_catalog.pg_policy AS p
        WHERE p.polrelid IN ('twh.quota_usage'::regclass, 'twh.quota_notices'::regclass)
    LOOP
        EXECUTE format('DROP POLICY %I ON %s', held.policy, held.relation);
    END LOOP;
END
$$;
"""

# What a meter may change of a row that is there.
_WRITTEN = {
    "quota_usage": (
        "taken, refunded, unit, period_start, period_end, start_offset, end_offset, updated_at"
    ),
    "quota_notices": "of_limit, given_at",
}

# In the order of the key, so that two instances wait for each other's rows in one order only.
RECORD = """\
INSERT INTO twh.quota_usage AS kept (
    tenant_id, rule, scope, birth, instance, unit,
    period_start, period_end, start_offset, end_offset, taken, refunded
)
SELECT * FROM unnest(
    %s::text[], %s::text[], %s::text[], %s::bigint[], %s::text[], %s::text[],
    %s::timestamptz[], %s::timestamptz[], %s::interval[], %s::interval[],
    %s::bigint[], %s::bigint[]
) AS seen (
    tenant_id, rule, scope, birth, instance, unit,
    period_start, period_end, start_offset, end_offset, taken, refunded
)
ORDER BY tenant_id COLLATE "C", rule COLLATE "C", scope COLLATE "C", birth, instance COLLATE "C"
ON CONFLICT (tenant_id, rule, scope, birth, instance) DO UPDATE SET
    taken = greatest(kept.taken, excluded.taken),
    refunded = greatest(kept.refunded, excluded.refunded),
    (unit, period_start, period_end, start_offset, end_offset) = (
        SELECT excluded.unit, excluded.period_start, excluded.period_end,
            excluded.start_offset, excluded.end_offset
        WHERE (excluded.taken, excluded.refunded) > (kept.taken, kept.refunded)
        UNION ALL
        SELECT kept.unit, kept.period_start, kept.period_end, kept.start_offset, kept.end_offset
        LIMIT 1
    ),
    updated_at = now()
WHERE excluded.taken > kept.taken OR excluded.refunded > kept.refunded"""

CLAIM = """\
INSERT INTO twh.quota_notices AS kept
    (tenant_id, rule, scope, period_start, threshold, of_limit)
VALUES (%s, %s, %s, %s, %s, %s)
ON CONFLICT (tenant_id, rule, scope, period_start, threshold)
    DO UPDATE SET of_limit = excluded.of_limit, given_at = now()
    WHERE %s AND kept.of_limit < excluded.of_limit
RETURNING true"""

_PLACE = (
    "starts_on, tenant_id, rule, period_start, scope, unit, period_end, start_offset, end_offset"
)

PAGE = f"""\
SELECT {_PLACE}, sum(taken)::bigint, sum(refunded)::bigint
FROM twh.quota_usage
WHERE starts_on >= %(first)s AND starts_on < %(until)s
    AND (%(tenant_id)s::text IS NULL OR tenant_id = %(tenant_id)s)
    AND (%(day)s::date IS NULL OR starts_on >= %(day)s)
    AND (%(day)s::date IS NULL OR ({_PLACE}) > (
        %(day)s, %(tenant)s, %(rule)s, %(period_start)s, %(scope)s, %(unit)s, %(period_end)s,
        %(start_offset)s, %(end_offset)s
    ))
GROUP BY {_PLACE} ORDER BY {_PLACE} LIMIT %(size)s"""  # noqa: S608 -- only our own words


def usage_sql(*, role: str, readers: Iterable[str] = ()) -> str:
    """
    The SQL that makes `twh.quota_usage` and `twh.quota_notices`, and lets *role* write them.

    The role adds counters and raises them; it deletes nothing.  Both roles have
    no tenant, so they are logins of their own; the application's role gets
    nothing here.  Old rows are the owner's to delete.

    It may be run again, with other roles too: every grant and policy is taken
    back first, from whoever has it but the owner: on columns too, and what was
    passed on.  Run it in one transaction, as the role that owns the schema.
    PostgreSQL 15 or newer.

    Args:
        role: The login role of the meters.

        readers: Roles that may read usage, to bill by it.

    Raises:
        twh_platform.errors.ConfigurationError: If a role is ``public`` or
            ``none``, which mean no role even between quotes.
    """
    named = list(readers)
    for one in (role, *named):
        if one in {"public", "none"}:
            message = f"{one!r} is not a role: name a login"
            raise ConfigurationError(message)
    writer = quote_name(role)
    close = _CLOSE + revoke_sql(tables=[f"twh.{table}" for table in _WRITTEN])
    sql = _TABLES + close + f"GRANT USAGE ON SCHEMA twh TO {writer};\n"
    for table, columns in _WRITTEN.items():
        sql += (
            f"GRANT SELECT, INSERT, UPDATE ({columns}) ON twh.{table} TO {writer};\n"
            f"CREATE POLICY meters_write ON twh.{table} TO {writer} USING (true);\n"
        )
    if named:
        roles = ", ".join(map(quote_name, named))
        sql += (
            f"GRANT USAGE ON SCHEMA twh TO {roles};\n"
            f"GRANT SELECT ON twh.quota_usage TO {roles};\n"
            f"CREATE POLICY readers_read ON twh.quota_usage FOR SELECT TO {roles} USING (true);\n"
        )
    return sql
