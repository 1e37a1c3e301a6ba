-- A board of projects behind a gateway that logs in as one role and becomes another, the
-- way hosted platforms do it: the tenant is an organisation, found through memberships of
-- the user whom a token names.

DO $$ BEGIN CREATE ROLE board_owner NOLOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
DO $$ BEGIN CREATE ROLE board_gateway LOGIN NOINHERIT; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
DO $$ BEGIN CREATE ROLE board_anon NOLOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
DO $$ BEGIN CREATE ROLE board_user NOLOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
DO $$ BEGIN CREATE ROLE board_service NOLOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
ALTER ROLE board_service BYPASSRLS;
GRANT board_anon, board_user, board_service TO board_gateway;

CREATE SCHEMA auth;
CREATE SCHEMA board;
ALTER SCHEMA auth OWNER TO board_owner;
ALTER SCHEMA board OWNER TO board_owner;
SET ROLE board_owner;
GRANT USAGE ON SCHEMA auth, board TO board_anon, board_user, board_service;
CREATE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql STABLE AS $$
    SELECT (nullif(current_setting('request.jwt.claims', true), '')::json ->> 'sub')::uuid
$$;
CREATE FUNCTION auth.is_staff() RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT coalesce(nullif(current_setting('request.jwt.claims', true), '')::json ->> 'staff', '')
           = 'yes'
$$;

CREATE TABLE board.organizations (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name text);
CREATE TABLE board.memberships (
    org_id uuid NOT NULL REFERENCES board.organizations ON DELETE CASCADE,
    user_id uuid NOT NULL,
    PRIMARY KEY (org_id, user_id)
);
CREATE INDEX ON board.memberships (user_id);
CREATE TABLE board.projects (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    org_id uuid NOT NULL REFERENCES board.organizations ON DELETE CASCADE,
    slug text NOT NULL UNIQUE,
    is_public boolean NOT NULL DEFAULT false
);
CREATE TABLE board.tasks (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    org_id uuid NOT NULL REFERENCES board.organizations ON DELETE CASCADE,
    project_id uuid NOT NULL REFERENCES board.projects ON DELETE CASCADE,
    labels text[] NOT NULL DEFAULT '{}'
);
CREATE INDEX tasks_labels ON board.tasks USING gin (labels);
CREATE TABLE board.files (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    org_id uuid NOT NULL REFERENCES board.organizations ON DELETE CASCADE,
    path text NOT NULL
);

ALTER TABLE board.memberships ENABLE ROW LEVEL SECURITY;
ALTER TABLE board.projects ENABLE ROW LEVEL SECURITY;
ALTER TABLE board.tasks ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON board.memberships TO board_user USING (user_id = auth.uid());
CREATE POLICY members ON board.projects TO board_user USING (
    org_id IN (SELECT m.org_id FROM board.memberships m WHERE m.user_id = auth.uid())
    OR is_public
);
CREATE POLICY members ON board.tasks TO board_user USING (
    org_id IN (SELECT m.org_id FROM board.memberships m WHERE m.user_id = auth.uid())
);
CREATE POLICY staff ON board.tasks TO board_user USING ((SELECT auth.is_staff()));
CREATE POLICY insert_any ON board.tasks FOR INSERT TO board_user WITH CHECK (true);
GRANT ALL ON ALL TABLES IN SCHEMA board TO board_anon, board_user, board_service;
ALTER DEFAULT PRIVILEGES IN SCHEMA board GRANT ALL ON TABLES TO board_anon, board_user;
RESET ROLE;
