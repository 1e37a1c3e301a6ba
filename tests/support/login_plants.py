"""
One planted fault or more for each that a login can have.

They are planted in a sealed database that is done well, by a superuser.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["APP", "OWNER", "PLANTS", "LoginPlant"]

APP = "login_app"
OWNER = "login_owner"


@dataclass(frozen=True, kw_only=True)
class LoginPlant:
    """
    A fault.

    Args:
        code: The code that has to name it, and no other.

        also: Codes that name something that comes with it.

        sql: What plants it.

        undo: What takes away what the remedy leaves.

        says: What the message has to name.

        before: The first major version that does not know such a fault.

        since: The first major version that knows it.

        about: Tells several plants of a code apart.
    """

    code: str
    sql: str
    says: str
    also: tuple[str, ...] = ()
    undo: str = ""
    before: int = 99
    since: int = 15
    about: str = ""

    @property
    def id(self) -> str:
        """Name it for the list of tests."""
        return f"{self.code}-{self.about}" if self.about else self.code


def _plant(code: str, sql: str, says: str, **more: object) -> LoginPlant:
    return LoginPlant(code=code, sql=sql, says=says, **more)  # type: ignore[arg-type]


_MID = "CREATE ROLE login_mid; GRANT login_mid TO login_app;"
_DROP_MID = "DROP OWNED BY login_mid; DROP ROLE login_mid;"
_BACK = "ALTER TABLE things OWNER TO login_owner; REVOKE ALL ON things FROM login_app;"
_BACK += "GRANT SELECT, INSERT, UPDATE, DELETE ON things TO login_app;"

_OWN_DATABASE = "ALTER DATABASE sealed OWNER TO login_app;"
_OWNED_BACK = (
    "ALTER DATABASE sealed OWNER TO login_owner; GRANT TEMPORARY ON DATABASE sealed TO login_owner;"
)

_ROLES = (
    _plant("login_superuser", "ALTER ROLE login_app SUPERUSER", APP, about="itself"),
    _plant(
        "login_superuser",
        f"{_MID} CREATE ROLE login_root SUPERUSER; GRANT login_root TO login_mid",
        "login_app -> login_mid -> login_root",
        undo=f"DROP ROLE login_root; {_DROP_MID}",
        about="far",
    ),
    _plant("login_bypasses_policies", "ALTER ROLE login_app BYPASSRLS", APP, about="itself"),
    _plant(
        "login_bypasses_policies",
        f"{_MID} ALTER ROLE login_mid BYPASSRLS",
        "login_app -> login_mid",
        undo=_DROP_MID,
        about="member",
    ),
    _plant(
        "login_bypasses_policies",
        f"{_MID} ALTER ROLE login_mid BYPASSRLS;"
        "GRANT login_mid TO login_app WITH ADMIN TRUE, INHERIT FALSE, SET FALSE",
        "login_app -> login_mid",
        undo=_DROP_MID,
        since=16,
        about="admin",
    ),
    _plant("login_creates_roles", "ALTER ROLE login_app CREATEROLE", APP, before=16),
    _plant("login_replicates", "ALTER ROLE login_app REPLICATION", APP),
    _plant(
        "login_owns_tables",
        "ALTER TABLE things OWNER TO login_app",
        "public.things",
        undo=_BACK,
        about="itself",
    ),
    _plant(
        "login_owns_tables",
        f"{_MID} ALTER TABLE things OWNER TO login_mid",
        "login_app -> login_mid",
        undo=f"{_BACK} {_DROP_MID}",
        about="member",
    ),
    _plant(
        "login_owns_tables",
        f"{_MID} ALTER TABLE things OWNER TO login_mid;"
        "GRANT login_mid TO login_app WITH INHERIT TRUE, SET FALSE",
        "has the rights of login_mid",
        undo=f"{_BACK} {_DROP_MID}",
        since=16,
        about="inherited",
    ),
    _plant("login_owns_schema", "ALTER SCHEMA twh OWNER TO login_app", "owns twh", about="schema"),
    _plant(
        "login_owns_schema",
        "ALTER TABLE twh.seal_keys OWNER TO login_app",
        "twh.seal_keys",
        about="keys",
    ),
    _plant(
        "login_owns_schema",
        "ALTER FUNCTION twh.current_tenant() OWNER TO login_app",
        "twh.current_tenant()",
        about="function",
    ),
    _plant(
        "login_owns_schema",
        f"{_OWN_DATABASE} ALTER TABLE twh.seal_keys OWNER TO pg_database_owner",
        "login_app -> pg_database_owner",
        also=("temporary_allowed",),
        undo=f"{_OWNED_BACK} ALTER TABLE twh.seal_keys OWNER TO login_owner",
        about="database",
    ),
    _plant(
        "login_owns_tables",
        f"{_MID} ALTER DATABASE sealed OWNER TO login_mid;"
        "ALTER TABLE things OWNER TO pg_database_owner",
        "login_app -> login_mid -> pg_database_owner",
        also=("temporary_allowed",),
        undo=f"{_OWNED_BACK} {_BACK} {_DROP_MID}",
        about="database",
    ),
    _plant(
        "login_changes_schema",
        "GRANT CREATE ON SCHEMA twh TO login_app",
        "login_app may create",
        about="itself",
    ),
    _plant(
        "login_changes_schema",
        "GRANT CREATE ON SCHEMA twh TO PUBLIC",
        "PUBLIC may create",
        about="everybody",
    ),
    _plant(
        "login_reaches_server",
        "GRANT pg_read_server_files TO login_app",
        "pg_read_server_files",
        about="read",
    ),
    _plant(
        "login_reaches_server",
        "GRANT pg_write_server_files TO login_app",
        "pg_write_server_files",
        about="write",
    ),
    _plant(
        "login_reaches_server",
        "GRANT pg_execute_server_program TO login_app",
        "pg_execute_server_program",
        about="execute",
    ),
    _plant(
        "login_reaches_server",
        "GRANT EXECUTE ON FUNCTION pg_read_file(text) TO login_app",
        "pg_read_file",
        about="function",
    ),
    _plant(
        "login_reaches_others",
        "CREATE EXTENSION dblink; GRANT EXECUTE ON FUNCTION dblink_connect_u(text) TO PUBLIC",
        "dblink_connect_u",
        undo="DROP EXTENSION dblink",
    ),
    _plant("login_ends_sessions", "GRANT pg_signal_backend TO login_app", "pg_signal_backend"),
    _plant("login_watches_sessions", "GRANT pg_monitor TO login_app", "pg_monitor", about="all"),
    _plant(
        "login_watches_sessions",
        f"{_MID} GRANT pg_read_all_stats TO login_mid",
        "login_app -> login_mid -> pg_read_all_stats",
        undo=_DROP_MID,
        about="stats",
    ),
)

_SETTINGS = (
    _plant("setting_preset", "ALTER ROLE login_app SET twh.tenant_id = 'a'", "ROLE", about="role"),
    _plant(
        "setting_preset",
        "ALTER ROLE login_app IN DATABASE sealed SET twh.tenant_id = 'a'",
        "ROLE login_app IN DATABASE sealed",
        about="both",
    ),
    _plant(
        "setting_preset",
        "ALTER DATABASE sealed SET twh.tenant_id = 'a'",
        "DATABASE sealed",
        about="database",
    ),
    _plant(
        "setting_preset", "ALTER ROLE ALL SET twh.tenant_id = 'a'", "ROLE ALL", about="everybody"
    ),
    _plant("row_security_off", "ALTER ROLE login_app SET row_security = off", "ROLE login_app"),
)

_LEAK = "CREATE TABLE leak (said text);"
_OLD = "ALTER ROLE login_app IN DATABASE sealed RESET"

_SEAL = (
    _plant("seal_keys_reachable", "GRANT SELECT ON twh.seal_keys TO login_app", APP, about="read"),
    _plant(
        "seal_keys_reachable",
        "GRANT INSERT (key_id) ON twh.seal_keys TO PUBLIC",
        "PUBLIC",
        about="columns",
    ),
    _plant(
        "seal_keys_reachable",
        f"{_MID} GRANT UPDATE ON twh.seal_keys TO login_mid",
        "login_mid",
        undo=_DROP_MID,
        about="member",
    ),
    _plant(
        "seal_keys_reachable",
        "GRANT pg_read_all_data TO login_app",
        "pg_read_all_data",
        about="everything",
    ),
    _plant(
        "seal_altered",
        "ALTER FUNCTION twh.current_tenant() IMMUTABLE",
        "is plpgsql IMMUTABLE PARALLEL SAFE, not plpgsql STABLE PARALLEL SAFE",
        about="immutable",
    ),
    _plant(
        "seal_altered",
        "ALTER FUNCTION twh.current_tenant_uuid() PARALLEL UNSAFE",
        "PARALLEL UNSAFE",
        about="parallel",
    ),
    _plant(
        "seal_altered",
        "ALTER FUNCTION twh.current_tenant() LEAKPROOF",
        "is LEAKPROOF",
        about="leakproof",
    ),
    _plant(
        "seal_altered",
        "DROP FUNCTION twh.raise_unsealed()",
        "twh.raise_unsealed() is missing",
        undo="ALTER FUNCTION twh.raise_unsealed() OWNER TO login_owner",
        about="missing",
    ),
    _plant(
        "seal_altered",
        "DROP FUNCTION twh.current_tenant_bigint()",
        "twh.current_tenant_bigint() is missing",
        undo="ALTER FUNCTION twh.current_tenant_bigint() OWNER TO login_owner",
        about="typed",
    ),
    _plant(
        "seal_altered",
        "ALTER FUNCTION twh.current_tenant() SECURITY INVOKER",
        "SECURITY DEFINER",
        about="invoker",
    ),
    _plant(
        "seal_altered",
        "ALTER FUNCTION twh.current_tenant() RESET search_path",
        "has settings []",
        about="path",
    ),
    _plant(
        "seal_altered",
        "CREATE OR REPLACE FUNCTION twh.current_tenant() RETURNS text LANGUAGE sql STABLE"
        " SECURITY DEFINER SET search_path = pg_catalog, pg_temp"
        " AS $$ SELECT current_setting('twh.tenant_id') $$",
        "another body",
        about="body",
    ),
    _plant(
        "seal_altered",
        "CREATE OR REPLACE FUNCTION twh.raise_unsealed() RETURNS text LANGUAGE sql STABLE"
        " RETURN current_setting('twh.tenant_id')",
        "twh.raise_unsealed() has another body",
        about="helper",
    ),
    _plant(
        "seal_keys_copied",
        f'{_LEAK} CREATE RULE "o\'dd" AS ON INSERT TO twh.seal_keys'
        " DO ALSO INSERT INTO leak VALUES (NEW.key_id)",
        'Rule "o\'dd" on twh.seal_keys',
        undo="DROP TABLE leak",
        about="rule",
    ),
    _plant(
        "seal_keys_copied",
        f"{_LEAK} CREATE RULE read AS ON INSERT TO leak"
        " DO ALSO UPDATE leak SET said = (SELECT min(key_id) FROM twh.seal_keys)",
        "Rule read on public.leak",
        undo="DROP TABLE leak",
        about="rule-elsewhere",
    ),
    _plant(
        "seal_keys_copied",
        f"{_LEAK} CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO leak VALUES (NEW.key_id); RETURN NEW; END $$;"
        "CREATE TRIGGER tell AFTER INSERT ON twh.seal_keys FOR EACH ROW EXECUTE FUNCTION tell()",
        "Trigger tell on twh.seal_keys",
        undo="DROP FUNCTION tell; DROP TABLE leak",
        about="trigger",
    ),
    _plant(
        "seal_keys_copied",
        "CREATE VIEW key_view AS SELECT * FROM twh.seal_keys;GRANT SELECT ON key_view TO login_app",
        "View public.key_view",
        about="view",
    ),
    _plant(
        "seal_keys_copied",
        "CREATE MATERIALIZED VIEW key_copy AS SELECT * FROM twh.seal_keys",
        "Materialized view public.key_copy",
        about="materialized",
    ),
    _plant(
        "seal_keys_copied",
        "CREATE TABLE more_keys () INHERITS (twh.seal_keys);GRANT INSERT ON more_keys TO login_app",
        "Table public.more_keys",
        undo="DROP TABLE more_keys",
        about="heir",
    ),
    _plant(
        "temporary_allowed",
        "GRANT TEMPORARY ON DATABASE sealed TO PUBLIC",
        "PUBLIC may make",
        about="everybody",
    ),
    _plant(
        "temporary_allowed",
        f"{_MID} GRANT TEMPORARY ON DATABASE sealed TO login_mid",
        "login_mid may make",
        undo=_DROP_MID,
        about="member",
    ),
    _plant(
        "temporary_allowed",
        _OWN_DATABASE,
        "login_app may make",
        undo=_OWNED_BACK,
        about="owner",
    ),
    _plant(
        "token_visible",
        f"{_OLD} track_activities",
        "track_activities is on",
        undo="ALTER ROLE login_app RESET track_activities;"
        "ALTER ROLE login_app IN DATABASE sealed SET track_activities = off;",
        about="on",
    ),
    _plant(
        "token_visible",
        "GRANT SET ON PARAMETER track_activities TO login_app",
        "login_app may set track_activities",
        about="settable",
    ),
    _plant(
        "token_in_statements",
        f"{_OLD} pg_stat_statements.track_utility",
        "database postgres",
        undo="ALTER ROLE login_app RESET pg_stat_statements.track_utility;"
        "ALTER ROLE login_app IN DATABASE sealed SET pg_stat_statements.track_utility = off;",
        about="elsewhere",
    ),
    _plant(
        "token_in_statements",
        f"{_OLD} pg_stat_statements.track_utility; CREATE EXTENSION pg_stat_statements",
        "public.pg_stat_statements",
        undo="ALTER ROLE login_app RESET pg_stat_statements.track_utility;"
        "ALTER ROLE login_app IN DATABASE sealed SET pg_stat_statements.track_utility = off;"
        "DROP EXTENSION pg_stat_statements;",
        about="here",
    ),
)

PLANTS = (*_ROLES, *_SETTINGS, *_SEAL)
"""All but the transition, a missing seal and an old server, which have tests of their own."""
