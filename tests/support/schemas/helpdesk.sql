-- A help desk that grew.  Tenant: the account (account_ref, bigint), setting desk.account.
-- It connects as a role that owns nothing, and has most other faults.

DO $$ BEGIN CREATE ROLE desk_owner NOLOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
DO $$ BEGIN CREATE ROLE desk_app LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
ALTER ROLE desk_owner NOSUPERUSER NOBYPASSRLS;
ALTER ROLE desk_app LOGIN NOSUPERUSER NOBYPASSRLS CREATEROLE;

CREATE SCHEMA desk;
ALTER SCHEMA desk OWNER TO desk_owner;
SET ROLE desk_owner;
GRANT USAGE, CREATE ON SCHEMA desk TO desk_app;
CREATE TYPE desk.priority AS ENUM ('low', 'high');

CREATE TABLE desk.accounts (id bigint PRIMARY KEY, name text NOT NULL);
CREATE TABLE desk.agents (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_ref bigint NOT NULL REFERENCES desk.accounts,
    email text NOT NULL UNIQUE
);
CREATE TABLE desk.tickets (
    id bigserial PRIMARY KEY,
    account_ref bigint REFERENCES desk.accounts,
    agent_id bigint REFERENCES desk.agents ON DELETE CASCADE,
    priority desk.priority NOT NULL DEFAULT 'low',
    cost numeric(10, 2) NOT NULL DEFAULT 0,
    subject text NOT NULL
);
CREATE INDEX tickets_priority ON desk.tickets (account_ref, priority);
CREATE INDEX tickets_cost ON desk.tickets (account_ref, cost);
CREATE INDEX tickets_subject ON desk.tickets (lower(subject));
CREATE TABLE desk.comments (
    id bigserial PRIMARY KEY,
    ticket_id bigint NOT NULL REFERENCES desk.tickets ON DELETE CASCADE,
    body text NOT NULL
);
CREATE TABLE desk.notes (account_ref bigint NOT NULL, body text NOT NULL);
CREATE TABLE desk.macros (account_ref bigint NOT NULL, name text NOT NULL, body text NOT NULL);
CREATE INDEX ON desk.macros (account_ref);
CREATE TABLE desk.drafts (account_ref bigint NOT NULL, body text NOT NULL);

ALTER TABLE desk.agents ENABLE ROW LEVEL SECURITY;
ALTER TABLE desk.tickets ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE desk.macros ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE desk.drafts ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY mine ON desk.agents
    USING (account_ref = current_setting('desk.account', true)::bigint);
CREATE POLICY mine ON desk.tickets USING (
    account_ref IS NOT DISTINCT FROM nullif(current_setting('desk.account', true), '')::bigint
    OR current_setting('desk.support', true) = 'on'
) WITH CHECK (true);
CREATE POLICY mine ON desk.macros
    USING (account_ref::text = (SELECT current_setting('desk.account', true)));
CREATE POLICY for_reports ON desk.macros FOR SELECT USING (true);
-- Written, and never enabled.
CREATE POLICY mine ON desk.notes
    USING (account_ref = (SELECT nullif(current_setting('desk.account', true), '')::bigint));
GRANT ALL ON ALL TABLES IN SCHEMA desk TO desk_app;
GRANT ALL ON ALL SEQUENCES IN SCHEMA desk TO desk_app;
RESET ROLE;

CREATE VIEW desk.open_tickets AS SELECT * FROM desk.tickets;
CREATE MATERIALIZED VIEW desk.ticket_counts AS
    SELECT account_ref, count(*) FROM desk.tickets GROUP BY account_ref;
GRANT SELECT ON desk.open_tickets, desk.ticket_counts TO desk_app;
CREATE FUNCTION desk.all_tickets() RETURNS SETOF desk.tickets
    LANGUAGE sql SECURITY DEFINER AS 'SELECT * FROM desk.tickets';
CREATE FUNCTION desk.bind(account bigint) RETURNS void LANGUAGE plpgsql
    AS $$ BEGIN PERFORM set_config('desk.account', account::text, false); END $$;
CREATE FUNCTION desk.tell() RETURNS trigger LANGUAGE plpgsql
    AS $$ BEGIN PERFORM pg_notify('tickets', NEW.id::text); RETURN NEW; END $$;
CREATE TRIGGER told AFTER INSERT ON desk.tickets FOR EACH ROW EXECUTE FUNCTION desk.tell();
