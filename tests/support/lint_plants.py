"""
One planted fault or more for each rule of the lint, in the schema ``clinic``.

Everything is done in one transaction, by a superuser, and rolled back.
"""

from __future__ import annotations

from dataclasses import dataclass

from twh_platform.tenancy.postgres import install_sql, seal_sql

__all__ = ["PLANTS", "Plant"]

_NOTES = "CREATE TABLE booking.notes (clinic_id uuid NOT NULL, body text);"
_GRANTED_NOTES = f"{_NOTES} GRANT SELECT ON booking.notes TO clinic_web;"
_BODY = "DECLARE b text := nullif(current_setting('clinic.current', true), ''); BEGIN {} END"
_NO_FENCE = "DROP POLICY fence ON booking.rooms;"
_BIND = "CREATE FUNCTION app.bind(clinic text) RETURNS void LANGUAGE {} AS $$ {} $$;"
_ROOM_CLASH = "CREATE EXTENSION btree_gist; ALTER TABLE booking.rooms"


@dataclass(frozen=True, kw_only=True)
class Plant:
    """
    A fault.

    Args:
        rule: The rule that has to find it.

        sql: What plants it; ``{database}`` is the database's name.

        found: What the rule has to name, and nothing else.

        since: The first major version that knows such a fault.

        about: Tells several plants of a rule apart.
    """

    rule: str
    sql: str
    found: tuple[str, ...]
    since: int = 15
    about: str = ""

    @property
    def id(self) -> str:
        """Name it for the list of tests."""
        return f"{self.rule}-{self.about}" if self.about else self.rule


def _plant(rule: str, sql: str, *found: str, since: int = 15, about: str = "") -> Plant:
    return Plant(rule=rule, sql=sql, found=found, since=since, about=about)


def _own(expression: str) -> str:
    return f"ALTER POLICY own ON booking.rooms USING ({expression});"


_ROLES = (
    _plant("TWH101", "ALTER ROLE clinic_web SUPERUSER;", "role clinic_web"),
    _plant("TWH102", "ALTER ROLE clinic_web BYPASSRLS;", "role clinic_web"),
    _plant("TWH103", "ALTER TABLE booking.rooms OWNER TO clinic_web;", "role clinic_web"),
    _plant(
        "TWH104",
        "CREATE ROLE clinic_all BYPASSRLS; CREATE ROLE clinic_mid;"
        "GRANT clinic_all TO clinic_mid; GRANT clinic_mid TO clinic_web;",
        "role clinic_web",
        about="bypassrls",
    ),
    _plant("TWH104", "GRANT clinic_owner TO clinic_web;", "role clinic_web", about="owner"),
    _plant(
        "TWH104",
        "GRANT clinic_owner TO clinic_web WITH ADMIN TRUE, INHERIT FALSE, SET FALSE;",
        "role clinic_web",
        since=16,
        about="admin",
    ),
    _plant(
        "TWH105",
        "GRANT clinic_owner TO clinic_web WITH INHERIT TRUE, SET FALSE;",
        "role clinic_web",
        since=16,
    ),
    _plant("TWH106", "ALTER ROLE clinic_web CREATEROLE;", "role clinic_web"),
    _plant("TWH107", "ALTER ROLE clinic_web REPLICATION;", "role clinic_web"),
    _plant("TWH108", "GRANT pg_read_server_files TO clinic_web;", "role clinic_web"),
    _plant("TWH109", "GRANT pg_monitor TO clinic_web;", "role clinic_web", about="monitor"),
    _plant("TWH109", "GRANT pg_signal_backend TO clinic_web;", "role clinic_web", about="signal"),
    _plant(
        "TWH110",
        "CREATE TABLE booking.desks (clinic_id text NOT NULL);"
        "ALTER TABLE booking.desks ENABLE ROW LEVEL SECURITY;"
        "CREATE POLICY mine ON booking.desks USING (clinic_id = current_user);",
        "policy mine on booking.desks",
    ),
    _plant(
        "TWH111",
        "ALTER ROLE clinic_web SET clinic.current = '00000000-0000-0000-0000-000000000001';",
        "setting clinic.current",
        about="role",
    ),
    _plant(
        "TWH111",
        "ALTER DATABASE {database} SET clinic.current = 'x';",
        "setting clinic.current",
        about="database",
    ),
    _plant(
        "TWH111",
        "ALTER ROLE clinic_web IN DATABASE {database} SET row_security = off;",
        "setting row_security",
        about="row_security",
    ),
    _plant(
        "TWH112",
        "CREATE ROLE clinic_audit LOGIN BYPASSRLS; GRANT SELECT ON booking.rooms TO clinic_audit;",
        "role clinic_audit",
        about="bypassrls",
    ),
    _plant(
        "TWH112",
        "CREATE ROLE clinic_audit LOGIN; GRANT SELECT ON booking.rooms TO clinic_audit;"
        "CREATE POLICY audit ON booking.rooms FOR SELECT TO clinic_audit USING (true);",
        "role clinic_audit",
        about="policy",
    ),
)

_TABLES = (
    _plant("TWH113", "GRANT pg_read_all_data TO clinic_web;", "role clinic_web"),
    _plant("TWH201", _GRANTED_NOTES, "table booking.notes", about="by-name"),
    _plant(
        "TWH201",
        "CREATE TABLE booking.bills (payer uuid REFERENCES app.clinics);"
        "GRANT SELECT ON booking.bills TO clinic_web;",
        "table booking.bills",
        about="by-reference",
    ),
    _plant(
        "TWH202",
        "ALTER TABLE booking.rooms DISABLE ROW LEVEL SECURITY;",
        "table booking.rooms",
    ),
    _plant(
        "TWH203", "ALTER TABLE booking.rooms NO FORCE ROW LEVEL SECURITY;", "table booking.rooms"
    ),
    _plant(
        "TWH204",
        f"{_GRANTED_NOTES} ALTER TABLE booking.notes ENABLE ROW LEVEL SECURITY;",
        "table booking.notes",
        about="tenant",
    ),
    _plant(
        "TWH204",
        "ALTER TABLE app.countries ENABLE ROW LEVEL SECURITY;",
        "table app.countries",
        about="shared",
    ),
    _plant(
        "TWH205",
        "CREATE TABLE booking.photos (clinic uuid, patient uuid,"
        " FOREIGN KEY (clinic, patient) REFERENCES booking.patients);"
        "GRANT SELECT ON booking.photos TO clinic_web;",
        "table booking.photos",
    ),
    _plant(
        "TWH206",
        "CREATE TABLE booking.notes (clinic_id uuid, body text);",
        "table booking.notes",
    ),
    _plant(
        "TWH207",
        "ALTER TABLE booking.visits_2025 DISABLE ROW LEVEL SECURITY;"
        "GRANT SELECT ON booking.visits_2025 TO clinic_web;",
        "table booking.visits_2025",
        about="partition",
    ),
    _plant(
        "TWH207",
        "CREATE TABLE booking.old_rooms () INHERITS (booking.rooms);"
        "GRANT SELECT ON booking.old_rooms TO PUBLIC;",
        "table booking.old_rooms",
        about="inheritance",
    ),
    _plant(
        "TWH208",
        "ALTER TABLE booking.visits_2025 DISABLE ROW LEVEL SECURITY;",
        "table booking.visits_2025",
    ),
    _plant("TWH209", _NOTES, "table booking.notes"),
    _plant(
        "TWH210",
        "ALTER VIEW booking.today RESET (security_invoker);"
        "ALTER VIEW booking.today OWNER TO CURRENT_USER;",
        "view booking.today",
        about="superuser",
    ),
    _plant(
        "TWH210",
        "CREATE VIEW booking.inner_view AS SELECT * FROM booking.rooms;"
        "CREATE VIEW booking.outer_view AS SELECT room FROM booking.inner_view;"
        "GRANT SELECT ON booking.outer_view TO clinic_web;",
        "view booking.outer_view",
        about="nested",
    ),
    _plant(
        "TWH210",
        "ALTER VIEW booking.today RESET (security_invoker);"
        "ALTER TABLE booking.appointments NO FORCE ROW LEVEL SECURITY;",
        "view booking.today",
        about="unforced",
    ),
    _plant(
        "TWH211",
        "ALTER VIEW booking.today RESET (security_invoker);",
        "view booking.today",
    ),
    _plant(
        "TWH212",
        "CREATE MATERIALIZED VIEW booking.counts AS"
        " SELECT count(*) FROM booking.today GROUP BY room;"
        "GRANT SELECT ON booking.counts TO clinic_web;",
        "materialized view booking.counts",
    ),
    _plant(
        "TWH213",
        "CREATE FOREIGN DATA WRAPPER nowhere; CREATE SERVER far FOREIGN DATA WRAPPER nowhere;"
        "CREATE FOREIGN TABLE booking.far_rooms (clinic_id uuid, room text) SERVER far;"
        "GRANT SELECT ON booking.far_rooms TO clinic_web;",
        "foreign table booking.far_rooms",
    ),
    _plant(
        "TWH214",
        "DROP POLICY own ON app.clinics; DROP POLICY fence ON app.clinics;"
        "ALTER TABLE app.clinics DISABLE ROW LEVEL SECURITY;",
        "table app.clinics",
        about="no-policy",
    ),
    _plant(
        "TWH214",
        "DROP POLICY fence ON app.clinics; ALTER POLICY own ON app.clinics USING (true);",
        "table app.clinics",
        about="always-true",
    ),
    _plant("TWH215", "CREATE PUBLICATION sent FOR TABLE booking.rooms;", "publication sent"),
)

_POLICIES = (
    _plant(
        "TWH301",
        f"{_NO_FENCE} CREATE POLICY wide ON booking.rooms FOR SELECT USING (true);",
        "policy wide on booking.rooms",
    ),
    _plant(
        "TWH302",
        f"{_NO_FENCE} CREATE POLICY wide ON booking.rooms USING (room = 'lobby');",
        "policy wide on booking.rooms",
        about="whole",
    ),
    _plant(
        "TWH302",
        _NO_FENCE + _own("clinic_id = (SELECT app.clinic()) OR room = 'lobby'"),
        "policy own on booking.rooms",
        about="branch",
    ),
    _plant(
        "TWH303",
        f"{_NO_FENCE} CREATE POLICY wide ON booking.rooms FOR INSERT WITH CHECK (true);",
        "policy wide on booking.rooms",
    ),
    _plant(
        "TWH304",
        "DROP POLICY own ON booking.rooms; CREATE POLICY own ON booking.rooms TO clinic_web"
        " USING (clinic_id = (SELECT app.clinic()));",
        "policy own on booking.rooms",
    ),
    _plant("TWH305", _NO_FENCE, "table booking.rooms", about="none"),
    _plant(
        "TWH305",
        f"{_NO_FENCE} CREATE POLICY fence ON booking.rooms AS RESTRICTIVE FOR SELECT"
        " USING (clinic_id = (SELECT app.clinic()));",
        "table booking.rooms",
        about="one-command",
    ),
    _plant(
        "TWH306",
        f"{_NO_FENCE} CREATE POLICY again ON booking.rooms FOR SELECT"
        " USING (clinic_id = (SELECT app.clinic()));",
        "table booking.rooms",
    ),
    _plant(
        "TWH307",
        _own("clinic_id IS NOT DISTINCT FROM (SELECT app.clinic())"),
        "policy own on booking.rooms",
    ),
    _plant(
        "TWH308",
        _NO_FENCE
        + _own(
            "clinic_id = (SELECT app.clinic()) OR current_setting('clinic.bypass', true) = 'on'"
        ),
        "policy own on booking.rooms",
        about="setting",
    ),
    _plant(
        "TWH308",
        "CREATE FUNCTION app.is_staff() RETURNS boolean STABLE LANGUAGE sql"
        " RETURN current_setting('clinic.staff', true) = 'on';"
        f"{_NO_FENCE} CREATE POLICY staff ON booking.rooms USING (app.is_staff());",
        "policy staff on booking.rooms",
        about="function",
    ),
    _plant("TWH309", _own("clinic_id = app.clinic()"), "policy own on booking.rooms"),
    _plant(
        "TWH310",
        _own("clinic_id = (SELECT current_setting('clinic.current', true)::uuid)"),
        "policy own on booking.rooms",
    ),
    _plant(
        "TWH311",
        _own("clinic_id::text = (SELECT app.clinic()::text)"),
        "policy own on booking.rooms",
    ),
    _plant(
        "TWH312",
        _own("clinic_id = (SELECT nullif(current_setting('clinic.id', true), '')::uuid)"),
        "policy own on booking.rooms",
    ),
)

_ALL_ROOMS = (
    "CREATE FUNCTION app.all_rooms() RETURNS SETOF booking.rooms LANGUAGE {} SECURITY DEFINER"
    " SET search_path = pg_catalog, pg_temp AS $${}$$;"
    "REVOKE EXECUTE ON FUNCTION app.all_rooms FROM PUBLIC;"
    "GRANT EXECUTE ON FUNCTION app.all_rooms TO clinic_web;"
)

_FUNCTIONS = (
    _plant("TWH401", "ALTER FUNCTION app.clinic() IMMUTABLE;", "function app.clinic()"),
    _plant("TWH402", "ALTER FUNCTION app.clinic() VOLATILE;", "function app.clinic()"),
    _plant(
        "TWH403",
        _ALL_ROOMS.format("sql", "SELECT * FROM booking.rooms"),
        "function app.all_rooms()",
        about="named",
    ),
    _plant(
        "TWH403",
        _ALL_ROOMS.format(
            "plpgsql", "BEGIN RETURN QUERY EXECUTE 'SELECT * FROM ' || 'booking.rooms'; END"
        ),
        "function app.all_rooms()",
        about="dynamic",
    ),
    _plant(
        "TWH404",
        "ALTER FUNCTION app.country_name RESET search_path;",
        "function app.country_name(wanted text)",
        about="none",
    ),
    _plant(
        "TWH404",
        "ALTER FUNCTION app.country_name SET search_path = app;",
        "function app.country_name(wanted text)",
        about="temporary",
    ),
    _plant(
        "TWH404",
        "ALTER FUNCTION app.country_name SET search_path = pg_catalog;",
        "function app.country_name(wanted text)",
        about="types",
    ),
    _plant(
        "TWH404",
        "ALTER FUNCTION app.country_name SET search_path = '';",
        "function app.country_name(wanted text)",
        about="empty",
    ),
    _plant(
        "TWH404",
        "ALTER FUNCTION app.country_name SET search_path = pg_temp, app, pg_temp;",
        "function app.country_name(wanted text)",
        about="twice",
    ),
    _plant(
        "TWH404",
        "CREATE SCHEMA free; GRANT CREATE ON SCHEMA free TO clinic_web;"
        "ALTER FUNCTION app.country_name SET search_path = free, app, pg_temp;",
        "function app.country_name(wanted text)",
        about="writable",
    ),
    _plant(
        "TWH405",
        "GRANT EXECUTE ON FUNCTION app.country_name TO PUBLIC;",
        "function app.country_name(wanted text)",
    ),
    _plant(
        "TWH406",
        "ALTER FUNCTION booking.stamp() OWNER TO CURRENT_USER;"
        "ALTER FUNCTION booking.stamp() SECURITY DEFINER;",
        "trigger stamped on booking.appointments",
    ),
    _plant(
        "TWH407",
        _BIND.format("sql", "SELECT set_config('clinic.current', clinic, false)"),
        "function app.bind(clinic text)",
        about="set_config",
    ),
    _plant(
        "TWH407",
        _BIND.format("plpgsql", "BEGIN EXECUTE format('SET clinic.current = %L', clinic); END"),
        "function app.bind(clinic text)",
        about="execute",
    ),
    _plant(
        "TWH407",
        _BIND.format("plpgsql", "BEGIN SET SESSION clinic.current TO 'x'; END"),
        "function app.bind(clinic text)",
        about="set",
    ),
    _plant(
        "TWH408",
        "CREATE FUNCTION app.spy(text) RETURNS boolean LANGUAGE sql IMMUTABLE LEAKPROOF"
        " AS 'SELECT true';",
        "function app.spy(text)",
    ),
    _plant(
        "TWH409",
        "CREATE OR REPLACE FUNCTION app.clinic() RETURNS uuid LANGUAGE sql STABLE"
        " SET search_path = pg_catalog, pg_temp"
        " AS $$ SELECT current_setting('clinic.current', true)::uuid $$;",
        "function app.clinic()",
        about="text",
    ),
    _plant(
        "TWH409",
        "CREATE OR REPLACE FUNCTION app.clinic() RETURNS uuid LANGUAGE sql STABLE"
        " RETURN current_setting('clinic.current', true)::uuid;",
        "function app.clinic()",
        about="standard",
    ),
    _plant(
        "TWH410",
        "ALTER FUNCTION app.clinic() RESET search_path;",
        "function app.clinic()",
        about="none",
    ),
    _plant(
        "TWH410",
        "ALTER FUNCTION app.clinic() SET search_path = pg_catalog;",
        "function app.clinic()",
        about="types",
    ),
    _plant(
        "TWH411",
        "CREATE OR REPLACE FUNCTION booking.stamp() RETURNS trigger LANGUAGE plpgsql"
        " AS $$ BEGIN PERFORM pg_notify('rooms', NEW.room); RETURN NEW; END $$;",
        "function booking.stamp()",
        about="pg_notify",
    ),
    _plant(
        "TWH411",
        "CREATE OR REPLACE FUNCTION booking.stamp() RETURNS trigger LANGUAGE plpgsql"
        " AS $$ BEGIN NOTIFY rooms, 'more'; RETURN NEW; END $$;",
        "function booking.stamp()",
        about="notify",
    ),
)

_SIGNED = _BODY.format("PERFORM sha256(b::bytea); RETURN b::uuid;")
_SEALED = (
    "CREATE OR REPLACE FUNCTION app.clinic() RETURNS uuid LANGUAGE plpgsql STABLE"
    f" SET search_path = pg_catalog, pg_temp AS $${_SIGNED}$$;"
)
_KEYED = _SEALED.replace("b::bytea", "(SELECT secret FROM app.keys)")

_GRANTS = (
    _plant("TWH501", "GRANT TRUNCATE ON booking.rooms TO clinic_web;", "table booking.rooms"),
    _plant("TWH502", "GRANT TRIGGER ON booking.rooms TO PUBLIC;", "table booking.rooms"),
    _plant("TWH503", "GRANT REFERENCES ON booking.rooms TO clinic_web;", "table booking.rooms"),
    _plant("TWH504", "GRANT SELECT ON booking.rooms TO PUBLIC;", "table booking.rooms"),
    _plant(
        "TWH505", "GRANT CREATE ON SCHEMA booking TO clinic_web;", "schema booking", about="granted"
    ),
    _plant("TWH505", "ALTER SCHEMA booking OWNER TO clinic_web;", "schema booking", about="owned"),
    _plant(
        "TWH505",
        "GRANT CREATE ON DATABASE {database} TO clinic_web;",
        "database {database}",
        about="database",
    ),
    _plant("TWH506", "GRANT TEMPORARY ON DATABASE {database} TO PUBLIC;", "database {database}"),
    _plant(
        "TWH507",
        "CREATE SEQUENCE booking.numbers; GRANT SELECT ON booking.numbers TO clinic_web;",
        "sequence booking.numbers",
    ),
    _plant(
        "TWH508",
        "CREATE SEQUENCE booking.numbers; GRANT USAGE ON booking.numbers TO clinic_web;",
        "sequence booking.numbers",
    ),
    _plant(
        "TWH509",
        "ALTER DEFAULT PRIVILEGES FOR ROLE clinic_owner IN SCHEMA booking"
        " GRANT ALL ON TABLES TO clinic_web;",
        "default privileges clinic_owner IN SCHEMA booking",
    ),
    _plant("TWH510", "ALTER ROLE clinic_web RESET track_activities;", "database {database}"),
    _plant(
        "TWH511",
        f"ALTER ROLE clinic_web RESET track_activities; {_SEALED}",
        "database {database}",
        about="on",
    ),
    _plant(
        "TWH511",
        "ALTER ROLE clinic_web IN DATABASE {database} SET track_activities = on;" + _SEALED,
        "database {database}",
        about="on-in-database",
    ),
    _plant(
        "TWH511",
        f"GRANT SET ON PARAMETER track_activities TO PUBLIC; {_SEALED}",
        "database {database}",
        about="settable",
    ),
    _plant(
        "TWH511",
        "ALTER ROLE clinic_web RESET track_activities;"
        "REVOKE EXECUTE ON FUNCTION pg_stat_get_activity FROM PUBLIC;"
        f"REVOKE EXECUTE ON FUNCTION pg_stat_get_backend_activity FROM PUBLIC; {_SEALED}",
        "database {database}",
        about="elsewhere",
    ),
    _plant(
        "TWH511",
        "ALTER ROLE clinic_web RESET track_activities; ALTER ROLE clinic_web CREATEDB;"
        "REVOKE EXECUTE ON FUNCTION pg_stat_get_activity FROM PUBLIC;"
        "REVOKE EXECUTE ON FUNCTION pg_stat_get_backend_activity FROM PUBLIC;"
        f"REVOKE CONNECT ON DATABASE postgres, template1 FROM PUBLIC; {_SEALED}",
        "database {database}",
        about="makes-one",
    ),
    _plant(
        "TWH512",
        "CREATE EXTENSION pg_stat_statements SCHEMA app;",
        "view app.pg_stat_statements",
        "function app.pg_stat_statements",
    ),
    _plant(
        "TWH513",
        "GRANT EXECUTE ON FUNCTION pg_terminate_backend TO clinic_web;",
        "database {database}",
    ),
    _plant(
        "TWH514", "GRANT EXECUTE ON FUNCTION lo_creat(integer) TO PUBLIC;", "database {database}"
    ),
    _plant(
        "TWH515",
        "GRANT EXECUTE ON FUNCTION lo_get(oid) TO PUBLIC; SELECT lo_create(0);",
        "database {database}",
    ),
)

_LOOSE = (
    "ALTER TABLE booking.patients ADD UNIQUE (patient_id);"
    "ALTER TABLE booking.appointments ADD CONSTRAINT loose FOREIGN KEY (patient_id)"
    " REFERENCES booking.patients (patient_id) "
)

_KEYS = (
    _plant(
        "TWH601",
        "CREATE UNIQUE INDEX one_room ON booking.rooms (lower(room)) WHERE room <> '';",
        "index one_room on booking.rooms",
        about="index",
    ),
    _plant(
        "TWH601",
        "ALTER TABLE booking.rooms ADD CONSTRAINT one_room UNIQUE (room);"
        "ALTER TABLE booking.appointments ADD CONSTRAINT in_room FOREIGN KEY (room)"
        " REFERENCES booking.rooms (room) ON DELETE SET NULL;",
        "constraint one_room on booking.rooms",
        about="referenced",
    ),
    _plant(
        "TWH601",
        f"{_ROOM_CLASH} ADD CONSTRAINT one_room EXCLUDE USING gist (room WITH =);",
        "constraint one_room on booking.rooms",
        about="exclusion",
    ),
    _plant(
        "TWH602",
        "CREATE TABLE booking.bills (clinic_id uuid NOT NULL, bill bigint PRIMARY KEY);"
        "CREATE TABLE booking.items (clinic_id uuid NOT NULL,"
        " bill bigint REFERENCES booking.bills ON DELETE CASCADE);",
        "constraint bills_pkey on booking.bills",
    ),
    _plant(
        "TWH603",
        "CREATE TABLE booking.bills (clinic_id uuid NOT NULL, bill uuid PRIMARY KEY);",
        "constraint bills_pkey on booking.bills",
    ),
    _plant("TWH604", f"{_LOOSE};", "constraint loose on booking.appointments"),
    _plant(
        "TWH605",
        f"{_LOOSE} ON DELETE CASCADE;",
        "constraint loose on booking.appointments",
        about="tenant",
    ),
    _plant(
        "TWH605",
        "ALTER TABLE booking.rooms ADD country text CONSTRAINT lies_in REFERENCES app.countries"
        " ON DELETE CASCADE; GRANT DELETE ON app.countries TO clinic_web;",
        "constraint lies_in on booking.rooms",
        about="shared",
    ),
)

_INDEXES = (
    _plant("TWH701", _NOTES, "table booking.notes"),
    _plant(
        "TWH702",
        "CREATE TYPE booking.kind AS ENUM ('ward', 'lab');"
        "ALTER TABLE booking.rooms ADD kind booking.kind NOT NULL DEFAULT 'lab';"
        "CREATE INDEX by_kind ON booking.rooms (clinic_id, kind);",
        "index by_kind on booking.rooms",
        about="enum",
    ),
    _plant(
        "TWH702",
        "ALTER TABLE booking.rooms ADD rate numeric(8, 2) NOT NULL DEFAULT 1.5;"
        "CREATE INDEX by_rate ON booking.rooms (clinic_id, rate);",
        "index by_rate on booking.rooms",
        about="numeric",
    ),
    _plant(
        "TWH702",
        "CREATE INDEX by_room ON booking.rooms (clinic_id, lower(room));",
        "index by_room on booking.rooms",
        about="expression",
    ),
    _plant(
        "TWH702",
        "ALTER TABLE booking.rooms ADD rate numeric;"
        "CREATE INDEX by_both ON booking.rooms (clinic_id, rate, lower(room) DESC);",
        "index by_both on booking.rooms",
        about="two",
    ),
    _plant(
        "TWH702",
        "CREATE INDEX by_notes ON booking.patients USING gin (notes);",
        "index by_notes on booking.patients",
        about="gin",
    ),
    _plant(
        "TWH702",
        "CREATE EXTENSION pg_trgm;"
        "CREATE INDEX by_mail ON booking.patients USING gin (email gin_trgm_ops);",
        "index by_mail on booking.patients",
        about="trigram",
    ),
)

_KEYS_TABLE = f"CREATE TABLE app.keys (secret bytea); {_KEYED}"
_OURS = install_sql() + seal_sql()

_SEAL = (
    _plant(
        "TWH901",
        f"{_KEYS_TABLE} GRANT INSERT ON app.keys TO clinic_web;",
        "table app.keys",
        about="granted",
    ),
    _plant(
        "TWH901",
        f"{_KEYS_TABLE} GRANT SELECT (secret) ON app.keys TO PUBLIC;",
        "table app.keys",
        about="column",
    ),
    _plant(
        "TWH901",
        f"{_KEYS_TABLE} ALTER TABLE app.keys OWNER TO clinic_web;",
        "table app.keys",
        about="owned",
    ),
    _plant(
        "TWH902",
        f"{_OURS} {seal_sql(allow_unsealed=True)}",
        "function twh.current_tenant()",
    ),
    _plant(
        "TWH903",
        f"{_OURS} ALTER FUNCTION twh.current_tenant() SECURITY INVOKER;",
        "function twh.current_tenant()",
        about="invoker",
    ),
    _plant(
        "TWH903",
        f"{_OURS} ALTER FUNCTION twh.current_tenant() SET search_path = public;",
        "function twh.current_tenant()",
        about="path",
    ),
    _plant(
        "TWH903",
        f"{_OURS} CREATE OR REPLACE FUNCTION twh.raise_unsealed() RETURNS text STABLE"
        " LANGUAGE sql RETURN current_setting('twh.tenant_id');",
        "function twh.raise_unsealed()",
        about="body",
    ),
    _plant(
        "TWH903",
        f"{_OURS} ALTER FUNCTION twh.current_tenant() IMMUTABLE;",
        "function twh.current_tenant()",
        about="immutable",
    ),
    _plant(
        "TWH903",
        f"{_OURS} ALTER FUNCTION twh.current_tenant_uuid() PARALLEL UNSAFE;",
        "function twh.current_tenant_uuid()",
        about="parallel",
    ),
    _plant(
        "TWH903",
        f"{_OURS} DROP FUNCTION twh.raise_unsealed();",
        "function twh.raise_unsealed()",
        about="missing",
    ),
    _plant("TWH903", f"{_OURS} {install_sql()}", "function twh.current_tenant()", about="again"),
    _plant(
        "TWH904",
        f"{_SEALED} {_NO_FENCE}"
        + _own("clinic_id = (SELECT nullif(current_setting('clinic.current', true), '')::uuid)"),
        "policy own on booking.rooms",
    ),
    _plant(
        "TWH905",
        f"ALTER ROLE clinic_web RESET pg_stat_statements.track_utility; {_SEALED}",
        "database {database}",
        about="elsewhere",
    ),
    _plant(
        "TWH905",
        "ALTER ROLE clinic_web RESET pg_stat_statements.track_utility;"
        f"CREATE EXTENSION pg_stat_statements SCHEMA app; {_SEALED}",
        "database {database}",
        about="here",
    ),
    _plant("TWH906", f"GRANT pg_monitor TO clinic_web; {_SEALED}", "role clinic_web"),
)

PLANTS = (*_ROLES, *_TABLES, *_POLICIES, *_FUNCTIONS, *_GRANTS, *_KEYS, *_INDEXES, *_SEAL)
"""All of them; TWH801 and TWH802 are not planted in this schema."""
