"""
The table of tenants as plain SQL.
"""

from __future__ import annotations

from collections.abc import Iterable

from ._grants_sql import revoke_sql
from ._policies import quote_name

__all__ = ["CHANNEL", "LOOK_UP", "directory_sql"]

CHANNEL = "twh_tenants"
"""The channel that a changed tenant's id is notified on."""

LOOK_UP = """\
SELECT id, tier, status, kind, expires_at, time_zone, attributes
FROM twh.tenants WHERE id = %s"""

# Each check repeats what `Tenant` asks for, so that every row can be read.
_TABLE = """\
CREATE SCHEMA IF NOT EXISTS twh;
CREATE TABLE IF NOT EXISTS twh.tenants (
    id text COLLATE "C" PRIMARY KEY CHECK (id ~ '^[A-Za-z0-9_-]{1,64}$'),
    tier text NOT NULL DEFAULT '',
    status text NOT NULL DEFAULT 'provisioning'
        CHECK (status IN ('provisioning', 'active', 'suspended', 'deleting')),
    kind text NOT NULL DEFAULT 'production' CHECK (kind IN ('production', 'sandbox')),
    expires_at timestamptz CHECK (isfinite(expires_at)),
    time_zone text NOT NULL DEFAULT 'UTC' CHECK (
        time_zone ~ '^(UTC|[A-Z][A-Za-z_]*(/[A-Z][A-Za-z0-9_+-]*)+)$'
        AND timezone(time_zone, timestamptz '2000-01-01 00:00+00') IS NOT NULL
    ),
    attributes jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(attributes) = 'object'),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
"""

_NOTIFY = f"""\
CREATE OR REPLACE FUNCTION twh.tenant_touched() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    NEW.updated_at := now();
    RETURN NEW;
END
$$;
CREATE OR REPLACE FUNCTION twh.tenant_changed() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        PERFORM pg_notify('{CHANNEL}', '');
        RETURN NULL;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        PERFORM pg_notify('{CHANNEL}', OLD.id);
    END IF;
    IF TG_OP <> 'DELETE' THEN
        PERFORM pg_notify('{CHANNEL}', NEW.id);
    END IF;
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER tenant_touched BEFORE UPDATE ON twh.tenants
    FOR EACH ROW EXECUTE FUNCTION twh.tenant_touched();
CREATE OR REPLACE TRIGGER tenant_changed AFTER INSERT OR UPDATE OR DELETE ON twh.tenants
    FOR EACH ROW EXECUTE FUNCTION twh.tenant_changed();
CREATE OR REPLACE TRIGGER tenants_emptied AFTER TRUNCATE ON twh.tenants
    FOR EACH STATEMENT EXECUTE FUNCTION twh.tenant_changed();
"""

# Not forced, so the owner is not held.  Row security stands behind the grants:
# a role that is granted SELECT by mistake, with all tables of a schema, sees no row.
_CLOSE = """\
ALTER TABLE twh.tenants ENABLE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS directory_reads ON twh.tenants;
DROP POLICY IF EXISTS administrators_write ON twh.tenants;
"""


def directory_sql(*, role: str, administrators: Iterable[str] = ()) -> str:
    """
    The SQL that makes the table `twh.tenants` and lets *role* read it.

    The directory reads before a tenant is known, so no policy can bind it.
    Its role is therefore a login of its own that may read this one table; the
    application's role gets nothing here.  Every change is notified on the
    channel ``twh_tenants`` with the tenant's id, for `TenantChangeListener`.

    It may be run again, with other roles too: every grant on the table is
    taken back first, from whoever has it but the owner: on columns too, and
    what was passed on.  Run it in one transaction, as the role that owns the
    schema.

    Args:
        role: The login role of the directory.

        administrators: Roles that may also insert, update and delete tenants.
    """
    writers = ", ".join(map(quote_name, administrators))
    functions = ["twh.tenant_touched()", "twh.tenant_changed()"]
    close = _CLOSE + revoke_sql(tables=["twh.tenants"], functions=functions)
    sql = _TABLE + _NOTIFY + close + _grant("directory_reads", quote_name(role), "SELECT")
    if writers:
        sql += _grant("administrators_write", writers, "SELECT, INSERT, UPDATE, DELETE")
    return sql


def _grant(policy: str, roles: str, privileges: str) -> str:
    command = "SELECT" if privileges == "SELECT" else "ALL"
    return f"""\
GRANT USAGE ON SCHEMA twh TO {roles};
GRANT {privileges} ON twh.tenants TO {roles};
CREATE POLICY {policy} ON twh.tenants FOR {command} TO {roles} USING (true);
"""
