"""
What the catalog says about a login: one query, whose only value is a JSON object.

It asks for the login, for the current role, and for all that these can become:
by SET ROLE, by privileges that they inherit, and by memberships that they may
grant themselves.  A membership names its way, so that a remedy can cut it where
it begins.

Names come quoted.  There is no % in it, which drivers would read as a parameter.
"""

from __future__ import annotations

from ._binding import SETTING

__all__ = ["LOGIN_QUERY"]

LOGIN_QUERY = f"""\
WITH RECURSIVE here AS (
    SELECT oid, datname, datdba, datacl FROM pg_catalog.pg_database
    WHERE datname = current_database()
), edges AS (
    SELECT m.member, m.roleid, m.admin_option AS administers,
        -- The options came with PostgreSQL 16.
        coalesce((to_jsonb(m) ->> 'inherit_option')::boolean, r.rolinherit) AS inherits,
        coalesce((to_jsonb(m) ->> 'set_option')::boolean, true) AS sets
    FROM pg_catalog.pg_auth_members AS m JOIN pg_catalog.pg_roles AS r ON r.oid = m.member
    UNION ALL
    -- Of this role the database's owner is a member, and no row says so.
    SELECT here.datdba, r.oid, false, true, true
    FROM here, pg_catalog.pg_roles AS r WHERE r.rolname = 'pg_database_owner'
), ways (role, becomes, way) AS (
    SELECT oid, true, ARRAY[oid] FROM pg_catalog.pg_roles
    WHERE rolname IN (session_user, current_user)
    UNION
    SELECT e.roleid, e.administers OR (w.becomes AND e.sets), w.way || e.roleid
    FROM ways AS w JOIN edges AS e ON e.member = w.role
    WHERE e.roleid <> ALL (w.way) AND (e.administers OR e.inherits OR (w.becomes AND e.sets))
), reach AS (
    SELECT DISTINCT ON (w.role) w.role AS oid, w.becomes, w.way, r.rolname AS name,
        r.rolsuper, r.rolbypassrls, r.rolcreaterole, r.rolcreatedb, r.rolreplication
    FROM ways AS w JOIN pg_catalog.pg_roles AS r ON r.oid = w.role
    ORDER BY w.role, w.becomes DESC, cardinality(w.way)
), held AS (
    -- What a superuser may do is no fault of a grant.
    SELECT oid FROM reach WHERE NOT rolsuper UNION ALL SELECT 0
), functions AS (
    SELECT p.oid, p.proname, p.proowner, p.prosrc, p.prosecdef, p.proacl, p.proconfig,
        p.provolatile, p.proparallel, p.proleakproof, l.lanname, n.nspname,
        quote_ident(n.nspname) || '.' || quote_ident(p.proname) || '('
            || pg_catalog.oidvectortypes(p.proargtypes) || ')' AS signature
    FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
    JOIN pg_catalog.pg_language AS l ON l.oid = p.prolang
    WHERE n.nspname = 'twh'
        OR p.proname IN ('pg_stat_statements', 'dblink_connect_u')
        OR (n.nspname = 'pg_catalog' AND p.proname IN (
            'pg_stat_get_activity', 'pg_stat_get_backend_activity',
            'pg_read_file', 'pg_read_binary_file', 'lo_import', 'lo_export'))
), keys AS (
    SELECT c.oid, c.relowner, c.relacl FROM pg_catalog.pg_class AS c
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname = 'twh' AND c.relname = 'seal_keys' AND c.relkind IN ('r', 'p')
), handed (kind, name, place) AS (
    SELECT CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'RULE' END,
        quote_ident(r.rulename), quote_ident(n.nspname) || '.' || quote_ident(c.relname)
    FROM pg_catalog.pg_rewrite AS r JOIN pg_catalog.pg_class AS c ON c.oid = r.ev_class
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.oid IN (SELECT oid FROM keys) OR r.oid IN (
        SELECT d.objid FROM pg_catalog.pg_depend AS d JOIN keys AS k ON k.oid = d.refobjid
        WHERE d.classid = 'pg_catalog.pg_rewrite'::regclass
            AND d.refclassid = 'pg_catalog.pg_class'::regclass)
    UNION ALL
    SELECT 'TRIGGER', quote_ident(t.tgname), 'twh.seal_keys'
    FROM pg_catalog.pg_trigger AS t JOIN keys AS k ON k.oid = t.tgrelid WHERE NOT t.tgisinternal
    UNION ALL
    -- Its rows are read with those of the keys.
    SELECT 'TABLE', '', quote_ident(n.nspname) || '.' || quote_ident(c.relname)
    FROM pg_catalog.pg_inherits AS i JOIN keys AS k ON k.oid = i.inhparent
    JOIN pg_catalog.pg_class AS c ON c.oid = i.inhrelid
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
), owned (kind, name, owner) AS (
    SELECT 'TABLE', quote_ident(n.nspname) || '.' || quote_ident(c.relname), c.relowner
    FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.relrowsecurity AND c.relkind IN ('r', 'p') AND c.relowner IN (SELECT oid FROM held)
    UNION ALL
    SELECT 'KEYS', 'twh.seal_keys', relowner FROM keys WHERE relowner IN (SELECT oid FROM held)
    UNION ALL
    SELECT 'SCHEMA', 'twh', nspowner FROM pg_catalog.pg_namespace
    WHERE nspname = 'twh' AND nspowner IN (SELECT oid FROM held)
    UNION ALL
    SELECT 'FUNCTION', signature, proowner FROM functions
    WHERE nspname = 'twh' AND proowner IN (SELECT oid FROM held)
), granted (kind, name, grantee) AS (
    SELECT f.proname, f.signature, acl.grantee
    FROM functions AS f,
        pg_catalog.aclexplode(coalesce(f.proacl, acldefault('f', f.proowner))) AS acl
    WHERE f.nspname <> 'twh' AND acl.privilege_type = 'EXECUTE'
    UNION ALL
    SELECT 'seal_keys', 'twh.seal_keys', acl.grantee
    FROM keys AS k, pg_catalog.aclexplode(k.relacl) AS acl WHERE acl.grantee <> k.relowner
    UNION ALL
    SELECT 'seal_keys', 'twh.seal_keys', acl.grantee
    FROM keys AS k JOIN pg_catalog.pg_attribute AS a ON a.attrelid = k.oid,
        pg_catalog.aclexplode(a.attacl) AS acl WHERE acl.grantee <> k.relowner
    UNION ALL
    SELECT 'parameter', p.parname, acl.grantee
    FROM pg_catalog.pg_parameter_acl AS p, pg_catalog.aclexplode(p.paracl) AS acl
    WHERE p.parname IN ('track_activities', 'pg_stat_statements.track',
        'pg_stat_statements.track_utility')
    UNION ALL
    SELECT 'schema', 'twh', acl.grantee
    FROM pg_catalog.pg_namespace AS n, pg_catalog.aclexplode(n.nspacl) AS acl
    WHERE n.nspname = 'twh' AND acl.privilege_type = 'CREATE' AND acl.grantee <> n.nspowner
    UNION ALL
    SELECT 'database', quote_ident(here.datname), acl.grantee
    FROM here, pg_catalog.aclexplode(coalesce(here.datacl, acldefault('d', here.datdba))) AS acl
    WHERE acl.privilege_type = 'TEMPORARY'
    UNION ALL
    SELECT 'database', quote_ident(datname), datdba FROM here
)
SELECT jsonb_build_object(
    'login', quote_ident(session_user),
    'current', quote_ident(current_user),
    'database', (SELECT quote_ident(datname) FROM here),
    'version', current_setting('server_version_num')::integer,
    'safe_owner', (
        SELECT quote_ident(r.rolname) FROM pg_catalog.pg_roles AS r, here
        WHERE (r.oid = here.datdba AND r.oid NOT IN (SELECT oid FROM reach)) OR r.rolsuper
        ORDER BY r.oid = here.datdba AND r.oid NOT IN (SELECT oid FROM reach) DESC, r.oid LIMIT 1
    ),
    'reach', (
        SELECT jsonb_agg(jsonb_build_object(
            'name', quote_ident(name), 'becomes', becomes,
            'superuser', rolsuper, 'bypasses', rolbypassrls,
            'creates', rolcreaterole, 'makes_databases', rolcreatedb,
            'replicates', rolreplication,
            'way', ARRAY(
                SELECT quote_ident(r.rolname)
                FROM unnest(way) WITH ORDINALITY AS step (oid, at)
                JOIN pg_catalog.pg_roles AS r ON r.oid = step.oid ORDER BY at)
        ) ORDER BY cardinality(way), name <> session_user, name) FROM reach
    ),
    'owned', (
        SELECT coalesce(jsonb_agg(jsonb_build_object(
            'kind', o.kind, 'name', o.name, 'owner', quote_ident(r.rolname)
        ) ORDER BY o.kind, o.name), '[]')
        FROM owned AS o JOIN pg_catalog.pg_roles AS r ON r.oid = o.owner
    ),
    'granted', (
        SELECT coalesce(jsonb_agg(DISTINCT jsonb_build_object(
            'kind', g.kind, 'name', g.name,
            'grantee', CASE g.grantee WHEN 0 THEN 'PUBLIC'
                ELSE quote_ident(pg_catalog.pg_get_userbyid(g.grantee)) END
        )), '[]')
        FROM granted AS g WHERE g.grantee IN (SELECT oid FROM held)
    ),
    'settings', (
        SELECT jsonb_object_agg(name, jsonb_build_array(setting, reset_val))
        FROM pg_catalog.pg_settings WHERE name IN ('track_activities', 'row_security',
            'pg_stat_statements.track', 'pg_stat_statements.track_utility')
    ),
    'presets', (
        SELECT coalesce(jsonb_agg(jsonb_build_object(
            'name', lower(split_part(one, '=', 1)),
            'value', substr(one, strpos(one, '=') + 1),
            'role', s.setrole <> 0, 'database', s.setdatabase <> 0
        )), '[]')
        FROM pg_catalog.pg_db_role_setting AS s, unnest(s.setconfig) AS one, here
        WHERE s.setdatabase IN (0, here.oid)
            AND s.setrole IN (0, (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = session_user))
            AND lower(split_part(one, '=', 1)) IN ('{SETTING}', 'row_security')
    ),
    'elsewhere', (
        SELECT coalesce(jsonb_agg(quote_ident(d.datname) ORDER BY d.datname), '[]')
        FROM pg_catalog.pg_database AS d, here
        WHERE d.oid <> here.oid AND d.datallowconn
            AND pg_catalog.has_database_privilege(session_user, d.oid, 'CONNECT')
    ),
    'database_owner', (
        SELECT quote_ident(pg_catalog.pg_get_userbyid(datdba)) FROM here
    ),
    'sealed', EXISTS (SELECT FROM keys),
    'handed', (
        SELECT coalesce(jsonb_agg(jsonb_build_object('kind', kind, 'name', name, 'place', place)
            ORDER BY kind, place, name), '[]') FROM handed
    ),
    -- What the server says, whatever the reason.
    'key_holders', (
        SELECT coalesce(jsonb_agg(quote_ident(r.name) ORDER BY r.name), '[]')
        FROM reach AS r, keys AS k WHERE NOT r.rolsuper AND (
            has_table_privilege(r.oid, k.oid, 'SELECT, INSERT, UPDATE, DELETE')
            OR has_any_column_privilege(r.oid, k.oid, 'SELECT, INSERT, UPDATE'))
    ),
    'functions', (
        SELECT coalesce(jsonb_object_agg(signature, jsonb_build_object(
            'body', prosrc, 'definer', prosecdef, 'config', coalesce(proconfig, '{{}}'),
            'language', lanname, 'volatility', provolatile, 'parallel', proparallel,
            'leakproof', proleakproof
        )), '{{}}') FROM functions WHERE nspname = 'twh'
    )
)::text
"""  # noqa: S608 -- the one value is a constant of ours
