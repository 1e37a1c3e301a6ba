-- A booking service of clinics that is done well.  Run it as a superuser in an empty
-- database.  The tenant is the clinic: column clinic_id, setting clinic.current,
-- function app.clinic().

DO $$ BEGIN CREATE ROLE clinic_owner NOLOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
DO $$ BEGIN CREATE ROLE clinic_web LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
ALTER ROLE clinic_owner NOSUPERUSER NOBYPASSRLS NOCREATEROLE NOREPLICATION;
ALTER ROLE clinic_web LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEROLE NOREPLICATION;
ALTER ROLE clinic_web SET track_activities = off;

DO $$ BEGIN
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO clinic_web', current_database());
    EXECUTE format('ALTER DATABASE %I OWNER TO clinic_owner', current_database());
END $$;
REVOKE EXECUTE ON FUNCTION pg_terminate_backend, pg_cancel_backend FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION
    lo_create(oid), lo_creat(integer), lo_from_bytea(oid, bytea), lo_get(oid),
    lo_get(oid, bigint, integer), lo_open(oid, integer), lo_put(oid, bigint, bytea),
    loread(integer, integer), lowrite(integer, bytea) FROM PUBLIC;

SET ROLE clinic_owner;
CREATE SCHEMA app;
CREATE SCHEMA booking;
GRANT USAGE ON SCHEMA app, booking TO clinic_web;

CREATE FUNCTION app.clinic() RETURNS uuid
    LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    bound text := nullif(current_setting('clinic.current', true), '');
BEGIN
    IF bound IS NULL THEN
        RAISE EXCEPTION 'no clinic is bound to this transaction';
    END IF;
    RETURN bound::uuid;
END
$$;

CREATE TABLE app.clinics (
    clinic_id uuid PRIMARY KEY,
    name text NOT NULL
);
CREATE TABLE booking.patients (
    clinic_id uuid NOT NULL DEFAULT app.clinic() REFERENCES app.clinics ON DELETE CASCADE,
    patient_id uuid NOT NULL DEFAULT gen_random_uuid(),
    email text NOT NULL,
    email_folded text GENERATED ALWAYS AS (lower(email)) STORED,
    notes jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (clinic_id, patient_id),
    UNIQUE (clinic_id, email_folded)
);
CREATE TABLE booking.rooms (
    clinic_id uuid NOT NULL DEFAULT app.clinic() REFERENCES app.clinics,
    room text NOT NULL,
    PRIMARY KEY (clinic_id, room)
);
CREATE TABLE booking.appointments (
    clinic_id uuid NOT NULL DEFAULT app.clinic() REFERENCES app.clinics,
    appointment_id uuid NOT NULL DEFAULT gen_random_uuid(),
    patient_id uuid NOT NULL,
    room text,
    state text NOT NULL DEFAULT 'booked' CHECK (state IN ('booked', 'kept', 'missed')),
    begins timestamptz NOT NULL,
    fee_cents bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (clinic_id, appointment_id),
    FOREIGN KEY (clinic_id, patient_id) REFERENCES booking.patients ON DELETE CASCADE,
    FOREIGN KEY (clinic_id, room) REFERENCES booking.rooms ON DELETE SET NULL (room)
);
CREATE INDEX ON booking.appointments (clinic_id, begins);
CREATE INDEX ON booking.appointments (clinic_id, state);
CREATE TABLE booking.visits (
    clinic_id uuid NOT NULL DEFAULT app.clinic(),
    visit_id uuid NOT NULL DEFAULT gen_random_uuid(),
    happened date NOT NULL,
    PRIMARY KEY (clinic_id, visit_id, happened)
) PARTITION BY RANGE (happened);
CREATE TABLE booking.visits_2025 PARTITION OF booking.visits
    FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
ALTER TABLE booking.visits_2025 ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
-- Shared by all clinics.
CREATE TABLE app.countries (code text PRIMARY KEY, name text NOT NULL);
GRANT SELECT ON app.countries TO clinic_web;

DO $$
DECLARE
    one text;
    rule CONSTANT text := 'clinic_id = (SELECT app.clinic())';
BEGIN
    FOREACH one IN ARRAY ARRAY['app.clinics', 'booking.patients', 'booking.rooms',
                               'booking.appointments', 'booking.visits'] LOOP
        EXECUTE 'ALTER TABLE ' || one || ' ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY';
        EXECUTE format('CREATE POLICY own ON %s TO clinic_web USING (%s) WITH CHECK (%2$s)',
                       one, rule);
        EXECUTE format('CREATE POLICY fence ON %s AS RESTRICTIVE TO clinic_web '
                       'USING (%s) WITH CHECK (%2$s)', one, rule);
    END LOOP;
END $$;
GRANT SELECT ON app.clinics TO clinic_web;
GRANT SELECT, INSERT, UPDATE, DELETE
    ON booking.patients, booking.rooms, booking.appointments, booking.visits TO clinic_web;

CREATE VIEW booking.today WITH (security_invoker = true) AS
    SELECT * FROM booking.appointments WHERE begins::date = current_date;
GRANT SELECT ON booking.today TO clinic_web;

CREATE FUNCTION app.country_name(wanted text) RETURNS text
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, app, pg_temp
    AS 'SELECT name FROM countries WHERE code = wanted';
REVOKE EXECUTE ON FUNCTION app.country_name FROM PUBLIC;
GRANT EXECUTE ON FUNCTION app.country_name TO clinic_web;

CREATE FUNCTION booking.stamp() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS 'BEGIN NEW.fee_cents := coalesce(NEW.fee_cents, 0); RETURN NEW; END';
CREATE TRIGGER stamped BEFORE INSERT ON booking.appointments
    FOR EACH ROW EXECUTE FUNCTION booking.stamp();
RESET ROLE;
