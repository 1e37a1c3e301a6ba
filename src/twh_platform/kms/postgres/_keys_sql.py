r"""
Data keys and secrets as plain SQL: tables of tenants, and what guards their lives.

``twh.data_keys``
    Wrapped data keys, one row each.  A tenant table like any other.  The
    application's role adds rows, reads and retires them, and destroys what was
    retired of a blind index; administrators change what wraps them too.  The
    rest of a row stays as it was added.

``twh.key_tenants``
    Who has data keys, and whose were destroyed: a row for each tenant, which is
    also what adding and shredding lock.  Nobody is granted it but auditors;
    the application asks ``twh.tenant_shredded()``.

``twh.secrets`` and ``twh.secret_versions``
    Sealed secrets of tenants, in versions.  No number is used twice, also when
    its row is gone, and what was revoked stays so and has no value.

``twh.lock_data_keys()``
    Lets one at a time add a data key to the current tenant, until the
    transaction ends; it says false of a tenant that was shredded.

``twh.shred_tenant()``
    Destroys the data keys of the current tenant, and refuses new ones from
    then on.  It is for administrators.

About the guards:

- Adding a key locks its tenant's row of ``twh.key_tenants`` until the
  transaction ends; shredding writes that row first.  So a key that is being
  added while its tenant is shredded is either destroyed with the others or
  refused.  The statement that destroys has a snapshot of its own, taken after
  the lock, as READ COMMITTED gives one; other isolation levels are refused.
- It is a trigger AFTER INSERT: policies are asked before it, so that it tells
  nobody about other tenants.
- A destroyed row cannot be changed, and every change raises ``revision`` by
  one, whoever makes it.  ``wrapped`` of a destroyed row is one zero byte.
- An administrator is who may execute ``twh.shred_tenant()``.  Nobody else can
  overwrite a data key that seals values, or have a retired one seal again: not
  by SQL that is injected into the application either.
- Triggers that reach beyond the tenant's own rows and the functions are
  SECURITY DEFINER.  Policies are forced, so they hold the owner too.
- Caches hear ``key:TENANT`` and ``secret:TENANT:NAME`` on the channel
  ``twh_keys`` when the transaction commits.  A rewrapped key is the same key,
  so nobody is told of it.  A payload never has more in it than names, but every
  session can listen.  The channel is an argument of the triggers: the lint of
  tenancy warns of a name in a function, which here is shared on purpose.
"""

from __future__ import annotations

from collections.abc import Iterable

from ...errors import ConfigurationError
from ...tenancy.postgres import TenantTable, tenant_sql
from ...tenancy.postgres._grants_sql import revoke_sql
from ...tenancy.postgres._policies import quote_name
from .._context import DATA_KEY_ID_BYTES
from .._service import LONGEST_KEY_REF, LONGEST_WRAPPED_BYTES

__all__ = [
    "CHANNEL",
    "DATA_KEYS",
    "DESTROYED_SQLSTATE",
    "FUNCTIONS",
    "KEY_TABLES",
    "KEY_TENANTS",
    "SECRETS",
    "SECRET_VERSIONS",
    "SHREDDED_SQLSTATE",
    "keys_sql",
    "uninstall_sql",
]

CHANNEL = "twh_keys"
"""The channel on which changed keys and secrets are notified."""

SHREDDED_SQLSTATE = "TW021"
"""The SQLSTATE of the error that says that the tenant was shredded: it gets no new keys."""

DESTROYED_SQLSTATE = "TW022"
"""The SQLSTATE of the error that says that a data key or a secret cannot change in this way."""

KEY_TENANTS = TenantTable(schema="twh", name="key_tenants", privileges=())
DATA_KEYS = TenantTable(schema="twh", name="data_keys", privileges=("SELECT", "INSERT"))
SECRETS = TenantTable(schema="twh", name="secrets", privileges=("SELECT",))
SECRET_VERSIONS = TenantTable(
    schema="twh", name="secret_versions", privileges=("SELECT", "INSERT", "DELETE")
)

KEY_TABLES = (KEY_TENANTS, DATA_KEYS, SECRETS, SECRET_VERSIONS)
"""The declarations of the tables."""

FUNCTIONS = ("twh.tenant_shredded()", "twh.lock_data_keys()", "twh.shred_tenant()")
_TRIGGERED = (
    "twh.data_key_added()",
    "twh.data_key_changing()",
    "twh.keys_changed()",
    "twh.secret_version_added()",
    "twh.secret_version_changing()",
    "twh.secret_changed()",
)

# What may be written of a row, beyond what the declarations say.
_COLUMNS = {
    "data_keys": ("UPDATE (provider, key_ref, key_version, wrapped, state, not_after, revision)",),
    "secrets": ("INSERT (tenant_id, name, policy)", "UPDATE (policy)"),
    "secret_versions": (
        "UPDATE (stage, expires_at, current_since, retires_at, revoked_at, sealed)",
    ),
}

_SEEN = (
    "tenant_id, data_key_id, purpose, provider, key_ref, key_version, state, shared, "
    "created_at, not_after, revision"
)

_TABLE_SQL = f"""\
CREATE TABLE IF NOT EXISTS twh.key_tenants (
    tenant_id text COLLATE "C" PRIMARY KEY,
    since timestamptz,
    shredded_at timestamptz
);
CREATE TABLE IF NOT EXISTS twh.data_keys (
    tenant_id text NOT NULL,
    data_key_id bytea NOT NULL CHECK (length(data_key_id) = {DATA_KEY_ID_BYTES}),
    purpose text COLLATE "C" NOT NULL CHECK (purpose ~ '^[a-z][a-z0-9_.-]{{0,31}}$'),
    provider text COLLATE "C" NOT NULL CHECK (char_length(provider) BETWEEN 1 AND 32),
    key_ref text COLLATE "C" NOT NULL CHECK (char_length(key_ref) BETWEEN 1 AND {LONGEST_KEY_REF}),
    key_version bigint NOT NULL CHECK (key_version >= 0),
    wrapped bytea NOT NULL CHECK (length(wrapped) BETWEEN 1 AND {LONGEST_WRAPPED_BYTES}),
    state text COLLATE "C" NOT NULL CHECK (state IN ('active', 'decrypt', 'destroyed')),
    shared boolean NOT NULL,
    created_at timestamptz NOT NULL CHECK (isfinite(created_at)),
    not_after timestamptz CHECK (isfinite(not_after)),
    revision bigint NOT NULL CHECK (revision >= 0),
    PRIMARY KEY (tenant_id, data_key_id),
    CHECK (state <> 'destroyed' OR wrapped = '\\x00')
);
CREATE INDEX IF NOT EXISTS data_keys_current
    ON twh.data_keys (tenant_id, purpose, created_at) WHERE state = 'active' AND shared;
CREATE INDEX IF NOT EXISTS data_keys_by_version
    ON twh.data_keys (tenant_id, provider, key_ref, key_version) WHERE state <> 'destroyed';
CREATE TABLE IF NOT EXISTS twh.secrets (
    tenant_id text NOT NULL,
    name text COLLATE "C" NOT NULL CHECK (name ~ '^[a-z0-9][a-z0-9._/-]{{0,127}}$'),
    last_version bigint NOT NULL DEFAULT 0 CHECK (last_version >= 0),
    policy jsonb CHECK (jsonb_typeof(policy) = 'object'),
    PRIMARY KEY (tenant_id, name)
);
CREATE TABLE IF NOT EXISTS twh.secret_versions (
    tenant_id text NOT NULL,
    name text COLLATE "C" NOT NULL,
    version bigint NOT NULL CHECK (version > 0),
    stage text COLLATE "C" CHECK (stage IN ('current', 'previous', 'pending')),
    sealed bytea,
    created_at timestamptz NOT NULL CHECK (isfinite(created_at)),
    expires_at timestamptz CHECK (isfinite(expires_at)),
    current_since timestamptz CHECK (isfinite(current_since)),
    retires_at timestamptz CHECK (isfinite(retires_at)),
    revoked_at timestamptz CHECK (isfinite(revoked_at)),
    PRIMARY KEY (tenant_id, name, version),
    FOREIGN KEY (tenant_id, name) REFERENCES twh.secrets (tenant_id, name),
    CHECK (revoked_at IS NULL OR sealed IS NULL)
);
CREATE UNIQUE INDEX IF NOT EXISTS secret_versions_stage
    ON twh.secret_versions (tenant_id, name, stage) WHERE stage IS NOT NULL;
"""

_FUNCTION_SQL = f"""\
CREATE OR REPLACE FUNCTION twh.tenant_shredded() RETURNS boolean
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    tenant CONSTANT text := twh.current_tenant();
BEGIN
    RETURN EXISTS (
        SELECT FROM twh.key_tenants WHERE tenant_id = tenant AND shredded_at IS NOT NULL
    );
END
$$;
CREATE OR REPLACE FUNCTION twh.lock_data_keys() RETURNS boolean
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    tenant CONSTANT text := twh.current_tenant();
BEGIN
    INSERT INTO twh.key_tenants (tenant_id) VALUES (tenant) ON CONFLICT DO NOTHING;
    PERFORM FROM twh.key_tenants
        WHERE tenant_id = tenant AND shredded_at IS NULL FOR NO KEY UPDATE;
    RETURN FOUND;
END
$$;
CREATE OR REPLACE FUNCTION twh.shred_tenant() RETURNS bigint
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    tenant CONSTANT text := twh.current_tenant();
    destroyed bigint;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'a tenant is shredded in READ COMMITTED: an older snapshot misses keys'
            USING ERRCODE = 'invalid_transaction_state';
    END IF;
    -- Waits for whoever is adding a key now; from here on they are refused.
    INSERT INTO twh.key_tenants AS kept (tenant_id, shredded_at) VALUES (tenant, now())
        ON CONFLICT (tenant_id)
        DO UPDATE SET shredded_at = coalesce(kept.shredded_at, excluded.shredded_at);
    UPDATE twh.data_keys
        SET state = 'destroyed', wrapped = '\\x00', revision = revision + 1
        WHERE tenant_id = tenant AND state <> 'destroyed';
    GET DIAGNOSTICS destroyed = ROW_COUNT;
    RETURN destroyed;
END
$$;
CREATE OR REPLACE FUNCTION twh.data_key_added() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO twh.key_tenants AS kept (tenant_id, since) VALUES (NEW.tenant_id, now())
        ON CONFLICT (tenant_id) DO UPDATE SET since = excluded.since WHERE kept.since IS NULL;
    PERFORM FROM twh.key_tenants
        WHERE tenant_id = NEW.tenant_id AND shredded_at IS NULL FOR SHARE;
    IF NOT FOUND AND NEW.state <> 'destroyed' THEN
        RAISE EXCEPTION 'the tenant was shredded: it gets no new data keys'
            USING ERRCODE = '{SHREDDED_SQLSTATE}';
    END IF;
    RETURN NULL;
END
$$;
CREATE OR REPLACE FUNCTION twh.data_key_changing() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF OLD.state = 'destroyed' THEN
        RAISE EXCEPTION 'a destroyed data key cannot be changed'
            USING ERRCODE = '{DESTROYED_SQLSTATE}';
    END IF;
    IF NEW.revision <> OLD.revision + 1 THEN
        RAISE EXCEPTION 'a change of a data key raises its revision by one'
            USING ERRCODE = '{DESTROYED_SQLSTATE}';
    END IF;
    -- Who may shred is an administrator.  The function runs as its owner, who may.
    IF has_function_privilege(current_user, 'twh.shred_tenant()', 'EXECUTE') THEN
        RETURN NEW;
    END IF;
    -- The key of a blind index that was replaced, and no other.
    IF OLD.state = 'decrypt' AND NEW.state = 'destroyed' AND starts_with(OLD.purpose, 'index.') THEN
        RETURN NEW;
    END IF;
    IF NEW.state = 'destroyed' OR (OLD.state, NEW.state) = ('decrypt', 'active') OR
        (NEW.provider, NEW.key_ref, NEW.key_version, NEW.wrapped)
        IS DISTINCT FROM (OLD.provider, OLD.key_ref, OLD.key_version, OLD.wrapped)
    THEN
        RAISE EXCEPTION 'data keys are rewrapped, destroyed and taken back by administrators'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NEW;
END
$$;
CREATE OR REPLACE FUNCTION twh.keys_changed() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        PERFORM pg_notify(TG_ARGV[0], '');
    ELSE
        PERFORM pg_notify(TG_ARGV[0], 'key:' || coalesce(NEW.tenant_id, OLD.tenant_id));
    END IF;
    RETURN NULL;
END
$$;
CREATE OR REPLACE FUNCTION twh.secret_version_added() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE twh.secrets SET last_version = NEW.version
        WHERE tenant_id = NEW.tenant_id AND name = NEW.name AND last_version < NEW.version;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no number of a version of a secret is used twice'
            USING ERRCODE = '{DESTROYED_SQLSTATE}';
    END IF;
    RETURN NULL;
END
$$;
CREATE OR REPLACE FUNCTION twh.secret_version_changing() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF OLD.revoked_at IS NOT NULL AND NEW.revoked_at IS DISTINCT FROM OLD.revoked_at THEN
        RAISE EXCEPTION 'a revoked version of a secret stays revoked'
            USING ERRCODE = '{DESTROYED_SQLSTATE}';
    END IF;
    RETURN NEW;
END
$$;
CREATE OR REPLACE FUNCTION twh.secret_changed() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    changed twh.secret_versions := coalesce(NEW, OLD);
BEGIN
    PERFORM pg_notify(TG_ARGV[0], format('secret:%s:%s', changed.tenant_id, changed.name));
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER tenant_shredded AFTER INSERT OR UPDATE ON twh.key_tenants
    FOR EACH ROW WHEN (NEW.shredded_at IS NOT NULL)
    EXECUTE FUNCTION twh.keys_changed('{CHANNEL}');
CREATE OR REPLACE TRIGGER data_key_added AFTER INSERT ON twh.data_keys
    FOR EACH ROW EXECUTE FUNCTION twh.data_key_added();
CREATE OR REPLACE TRIGGER data_key_changing BEFORE UPDATE ON twh.data_keys
    FOR EACH ROW EXECUTE FUNCTION twh.data_key_changing();
CREATE OR REPLACE TRIGGER data_key_changed AFTER UPDATE ON twh.data_keys
    FOR EACH ROW WHEN (OLD.state <> NEW.state OR OLD.not_after IS DISTINCT FROM NEW.not_after)
    EXECUTE FUNCTION twh.keys_changed('{CHANNEL}');
CREATE OR REPLACE TRIGGER data_key_deleted AFTER DELETE ON twh.data_keys
    FOR EACH ROW EXECUTE FUNCTION twh.keys_changed('{CHANNEL}');
CREATE OR REPLACE TRIGGER data_keys_emptied AFTER TRUNCATE ON twh.data_keys
    FOR EACH STATEMENT EXECUTE FUNCTION twh.keys_changed('{CHANNEL}');
CREATE OR REPLACE TRIGGER secret_version_added AFTER INSERT ON twh.secret_versions
    FOR EACH ROW EXECUTE FUNCTION twh.secret_version_added();
CREATE OR REPLACE TRIGGER secret_version_changing BEFORE UPDATE ON twh.secret_versions
    FOR EACH ROW EXECUTE FUNCTION twh.secret_version_changing();
CREATE OR REPLACE TRIGGER secret_changed AFTER INSERT OR UPDATE OR DELETE ON twh.secret_versions
    FOR EACH ROW EXECUTE FUNCTION twh.secret_changed('{CHANNEL}');
CREATE OR REPLACE TRIGGER secrets_emptied AFTER TRUNCATE ON twh.secret_versions
    FOR EACH STATEMENT EXECUTE FUNCTION twh.keys_changed('{CHANNEL}');
"""  # noqa: S608 -- only our own words


def keys_sql(*, role: str, administrators: Iterable[str] = (), auditors: Iterable[str] = ()) -> str:
    """
    The SQL that makes the tables of data keys and secrets; it comes after `install_sql`.

    It may be run again, with other roles too: what was granted on them is taken
    back first, from whoever has it but the owner.  Run it in one transaction,
    as the role that owns the schema ``twh``, which must be no superuser and not
    the application's role.  PostgreSQL 15 or newer.

    Args:
        role: The login role of the application: it adds, reads and retires data
            keys of its tenant, and keeps its secrets.

        administrators: Logins of those who keep the keys: they may do the same,
            rewrap data keys, and shred the tenant that is bound.  Policies hold
            them too.

        auditors: Logins with BYPASSRLS that may see which tenants have keys,
            and everything of a data key but its wrapped form.

    Raises:
        twh_platform.errors.ConfigurationError: If a role is ``public`` or
            ``none``, which mean no role even between quotes.
    """
    named, seeing = tuple(dict.fromkeys(administrators)), tuple(dict.fromkeys(auditors))
    for one in (*named, *seeing):
        if one in {"public", "none"}:
            message = f"{one!r} is not a role: name a login"
            raise ConfigurationError(message)
    sql = _TABLE_SQL + _FUNCTION_SQL
    sql += revoke_sql(
        tables=[f"twh.{one.name}" for one in KEY_TABLES], functions=(*FUNCTIONS, *_TRIGGERED)
    )
    sql += tenant_sql(KEY_TABLES, role=role) + _grants(dict.fromkeys((role, *named)))
    if named:
        sql += f"GRANT EXECUTE ON FUNCTION {FUNCTIONS[2]} TO {_listed(named)};\n"
    if seeing:
        sql += (
            f"GRANT USAGE ON SCHEMA twh TO {_listed(seeing)};\n"
            f"GRANT SELECT ON twh.key_tenants TO {_listed(seeing)};\n"
            f"GRANT SELECT ({_SEEN}) ON twh.data_keys TO {_listed(seeing)};\n"
        )
    return sql


def uninstall_sql() -> str:
    """
    The SQL that drops all that `keys_sql` makes, the keys included.
    """
    tables = ", ".join(f"twh.{one.name}" for one in reversed(KEY_TABLES))
    functions = ", ".join((*FUNCTIONS, *_TRIGGERED))
    return f"DROP TABLE {tables};\nDROP FUNCTION {functions};\n"


def _listed(roles: Iterable[str]) -> str:
    return ", ".join(map(quote_name, roles))


def _grants(roles: Iterable[str]) -> str:
    to = _listed(roles)
    given = [
        (", ".join((*table.privileges, *_COLUMNS.get(table.name, ()))), f"twh.{table.name}")
        for table in KEY_TABLES
    ]
    return (
        f"GRANT USAGE ON SCHEMA twh TO {to};\n"
        + "".join(f"GRANT {what} ON {table} TO {to};\n" for what, table in given if what)
        + f"GRANT EXECUTE ON FUNCTION {', '.join(FUNCTIONS[:2])} TO {to};\n"
    )
