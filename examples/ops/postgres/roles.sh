#!/bin/sh
# The logins of the warehouse, and its database; run once, as the superuser, on an empty server.
# Passwords are read by psql from their files: they are on no command line.
set -eu
export SECRETS="${SECRETS:-/run/secrets}"

psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "${POSTGRES_USER:-postgres}" --dbname postgres <<'SQL'
\set owner `cat "$SECRETS/warehouse_owner_password"`
\set app `cat "$SECRETS/warehouse_app_password"`
\set directory `cat "$SECRETS/warehouse_directory_password"`
\set administrator `cat "$SECRETS/warehouse_administrator_password"`
\set support `cat "$SECRETS/warehouse_support_password"`
SET password_encryption = 'scram-sha-256';
SET log_statement = 'none';
CREATE ROLE warehouse_owner LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE PASSWORD :'owner';
CREATE ROLE warehouse_app LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE PASSWORD :'app';
CREATE ROLE warehouse_directory LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE PASSWORD :'directory';
CREATE ROLE warehouse_administrator LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE PASSWORD :'administrator';
-- Sees all tenants, for an administrator who has stated a reason.
CREATE ROLE warehouse_support LOGIN NOSUPERUSER BYPASSRLS NOCREATEDB NOCREATEROLE NOREPLICATION PASSWORD :'support';
-- The seals of a login are hidden from its other connections.
ALTER ROLE warehouse_app SET track_activities = off;
ALTER ROLE warehouse_app SET pg_stat_statements.track_utility = off;
ALTER ROLE warehouse_directory SET track_activities = off;
ALTER ROLE warehouse_directory SET pg_stat_statements.track_utility = off;
ALTER ROLE warehouse_administrator SET track_activities = off;
ALTER ROLE warehouse_administrator SET pg_stat_statements.track_utility = off;
CREATE DATABASE warehouse TEMPLATE template0 OWNER warehouse_owner;
SQL
