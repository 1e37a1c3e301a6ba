"""
The table of overrides as plain SQL.

Versions are given out under a lock on one row, which is held until the
transaction ends.  So they become visible in their order, and whoever has read
up to a version misses none below it.  A sequence does not do that: it gives
the smaller number to the one who commits later.
"""

from __future__ import annotations

from collections.abc import Iterable

from ...errors import ConfigurationError
from ...tenancy.postgres._grants_sql import revoke_sql
from ...tenancy.postgres._policies import quote_name
from .._limits import LONGEST_ACTOR, LONGEST_REASON, MOST_LIMITS
from .._rules import LARGEST_LIMIT

__all__ = ["CHANGE", "CHANGED_SQLSTATE", "CHANGES", "CURRENT", "HISTORY", "overrides_sql"]

CHANGED_SQLSTATE = "TW011"
"""The SQLSTATE of the error that says that the override is of another version."""

_COLUMNS = "tenant_id, version, limits, actor, reason, changed_at"

CHANGE = f"SELECT {_COLUMNS} FROM twh.change_quota_override(%s, %s, %s, %s, %s)"  # noqa: S608

CURRENT = f"""\
SELECT {_COLUMNS} FROM twh.quota_overrides
WHERE tenant_id = %s ORDER BY version DESC LIMIT 1"""  # noqa: S608 -- only our own words

CHANGES = f"""\
SELECT {_COLUMNS} FROM twh.quota_overrides AS newest
WHERE version > %s AND NOT EXISTS (
    SELECT FROM twh.quota_overrides AS later
    WHERE later.tenant_id = newest.tenant_id AND later.version > newest.version
)
ORDER BY version LIMIT %s"""  # noqa: S608 -- only our own words

HISTORY = f"""\
SELECT {_COLUMNS} FROM twh.quota_overrides
WHERE tenant_id = %s ORDER BY version DESC LIMIT %s"""  # noqa: S608 -- only our own words

_TABLES = f"""\
CREATE SCHEMA IF NOT EXISTS twh;
CREATE TABLE IF NOT EXISTS twh.quota_overrides (
    version bigint PRIMARY KEY CHECK (version > 0),
    tenant_id text COLLATE "C" NOT NULL CHECK (tenant_id ~ '^[A-Za-z0-9_-]{{1,64}}$'),
    limits jsonb NOT NULL CHECK (jsonb_typeof(limits) = 'object'),
    actor text NOT NULL CHECK (char_length(actor) BETWEEN 1 AND {LONGEST_ACTOR}),
    reason text NOT NULL CHECK (char_length(reason) BETWEEN 1 AND {LONGEST_REASON}),
    login text NOT NULL,
    changed_at timestamptz NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS quota_overrides_by_tenant
    ON twh.quota_overrides (tenant_id, version);
CREATE TABLE IF NOT EXISTS twh.quota_overrides_head (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    version bigint NOT NULL
);
INSERT INTO twh.quota_overrides_head (version) VALUES (0) ON CONFLICT DO NOTHING;
"""  # noqa: S608 -- only our own words

_SIGNATURE = "twh.change_quota_override(text, jsonb, text, text, bigint)"

# Each check repeats what `read_limits` asks for, so that every row can be read.
_FUNCTION = f"""\
CREATE OR REPLACE FUNCTION twh.change_quota_override(
    of_tenant text, new_limits jsonb, by_actor text, given_reason text,
    expected bigint DEFAULT NULL
) RETURNS SETOF twh.quota_overrides
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    head bigint;
    before twh.quota_overrides;
BEGIN
    IF jsonb_typeof(new_limits) IS DISTINCT FROM 'object'
    OR (SELECT count(*) > {MOST_LIMITS} FROM jsonb_object_keys(new_limits))
    OR EXISTS (
        SELECT FROM jsonb_each(new_limits) AS one (name, said)
        WHERE name !~ '^[a-z0-9][a-z0-9_.-]{{0,63}}$'
        OR jsonb_typeof(said) <> 'object'
        OR NOT said ? 'limit'
        OR EXISTS (
            SELECT FROM jsonb_each_text(
                CASE jsonb_typeof(said) WHEN 'object' THEN said ELSE '{{}}' END
            ) AS field (key, number)
            WHERE NOT CASE
                WHEN key NOT IN ('limit', 'burst') OR jsonb_typeof(said -> key) <> 'number'
                    OR number !~ '^[0-9]{{1,16}}$' THEN false
                WHEN key = 'burst' THEN number::bigint BETWEEN 1 AND {LARGEST_LIMIT}
                ELSE number::bigint <= {LARGEST_LIMIT}
            END
        )
    ) THEN
        RAISE EXCEPTION 'these are no limits: %', left(new_limits::text, 200)
            USING ERRCODE = 'check_violation';
    END IF;
    -- Until this transaction ends, nobody else gets a version.
    SELECT version INTO STRICT head FROM twh.quota_overrides_head FOR UPDATE;
    SELECT * INTO before FROM twh.quota_overrides
        WHERE tenant_id = of_tenant ORDER BY version DESC LIMIT 1;
    IF expected <> (
        CASE WHEN coalesce(before.limits, '{{}}') = '{{}}' THEN 0 ELSE before.version END
    ) THEN
        RAISE EXCEPTION 'the override of % is of another version', of_tenant
            USING ERRCODE = '{CHANGED_SQLSTATE}';
    END IF;
    IF new_limits = '{{}}' AND coalesce(before.limits, '{{}}') = '{{}}' THEN
        RETURN;
    END IF;
    UPDATE twh.quota_overrides_head SET version = head + 1;
    IF before.limits <> '{{}}' THEN
        RETURN NEXT before;
    END IF;
    RETURN QUERY INSERT INTO twh.quota_overrides
        VALUES (head + 1, of_tenant, new_limits, by_actor, given_reason,
            session_user, clock_timestamp())
        RETURNING *;
END
$$;
"""  # noqa: S608 -- only our own words

# Row security stands behind the grants: a role that is granted SELECT by mistake,
# with all tables of a schema, sees no row.
_CLOSE = """\
ALTER TABLE twh.quota_overrides ENABLE ROW LEVEL SECURITY;
ALTER TABLE twh.quota_overrides_head ENABLE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS overrides_read ON twh.quota_overrides;
"""


def overrides_sql(*, role: str, administrators: Iterable[str] = ()) -> str:
    """
    The SQL that makes the table `twh.quota_overrides` and lets *role* read it.

    Every instance reads the overrides of all tenants, so no tenant's policy can
    bind the role that reads: it is a login of its own, and may be that of the
    tenants' directory.  The application's role gets nothing here.

    Rows are only ever added, by `twh.change_quota_override`: with the next
    version, the server's time and the login.  Nobody but the owner can change
    what was written.

    It may be run again, with other roles too: every grant is taken back first,
    from whoever has it but the owner: on columns too, and what was passed on.
    Run it in one transaction, as the role that owns the schema.

    Args:
        role: The login role that reads.

        administrators: Roles that may also change overrides.

    Raises:
        twh_platform.errors.ConfigurationError: If a role is ``public`` or
            ``none``, which mean no role even between quotes.
    """
    named = list(administrators)
    for one in (role, *named):
        if one in {"public", "none"}:
            message = f"{one!r} is not a role: name a login"
            raise ConfigurationError(message)
    writers = list(map(quote_name, named))
    readers = ", ".join(dict.fromkeys([quote_name(role), *writers]))
    close = _CLOSE + revoke_sql(
        tables=["twh.quota_overrides", "twh.quota_overrides_head"], functions=[_SIGNATURE]
    )
    sql = f"""\
{_TABLES}{_FUNCTION}{close}\
GRANT USAGE ON SCHEMA twh TO {readers};
GRANT SELECT ON twh.quota_overrides TO {readers};
CREATE POLICY overrides_read ON twh.quota_overrides FOR SELECT TO {readers} USING (true);
"""
    if writers:
        sql += f"GRANT EXECUTE ON FUNCTION {_SIGNATURE} TO {', '.join(writers)};\n"
    return sql
