"""
Taking back what was granted, whoever granted it.

REVOKE takes back from a role what the owner gave it, and with CASCADE what the
role passed on.  One thing it leaves: who has a privilege on the table with the
grant option may pass it on for a column, and nothing ties the column's grant to
the table's.  So those who did are first given the column by the owner, and lose
it with all that hangs on it.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["revoke_sql"]

# The owner's own privileges are held by no grant; taken from it, its functions fail.
_REVOKE = """\
DO $$
DECLARE
    held record;
BEGIN
    FOR held IN
        SELECT DISTINCT a.attrelid, a.attname, acl.grantor
        FROM pg_catalog.pg_class AS c
            JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND NOT a.attisdropped,
            pg_catalog.aclexplode(a.attacl) AS acl
        WHERE c.oid = ANY (ARRAY[{tables}]::regclass[]) AND acl.grantor <> c.relowner
    LOOP
        EXECUTE format(
            'GRANT ALL (%I) ON %s TO %s WITH GRANT OPTION',
            held.attname, held.attrelid::regclass, held.grantor::regrole
        );
    END LOOP;
    FOR held IN
        SELECT 'TABLE ' || c.oid::regclass AS what, acl.grantee
        FROM pg_catalog.pg_class AS c, pg_catalog.aclexplode(c.relacl) AS acl
        WHERE c.oid = ANY (ARRAY[{tables}]::regclass[]) AND acl.grantee <> c.relowner
        UNION
        SELECT 'TABLE ' || c.oid::regclass, acl.grantee
        FROM pg_catalog.pg_class AS c
            JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND NOT a.attisdropped,
            pg_catalog.aclexplode(a.attacl) AS acl
        WHERE c.oid = ANY (ARRAY[{tables}]::regclass[]) AND acl.grantee <> c.relowner
        UNION
        SELECT 'FUNCTION ' || p.oid::regprocedure, acl.grantee
        FROM pg_catalog.pg_proc AS p,
            pg_catalog.aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS acl
        WHERE p.oid = ANY (ARRAY[{functions}]::regprocedure[]) AND acl.grantee <> p.proowner
    LOOP
        EXECUTE format(
            'REVOKE ALL ON %s FROM %s CASCADE',
            held.what,
            CASE held.grantee WHEN 0 THEN 'PUBLIC' ELSE held.grantee::regrole::text END
        );
    END LOOP;
END
$$;
"""


def revoke_sql(*, tables: Iterable[str], functions: Iterable[str] = ()) -> str:
    """
    The SQL that takes everything on them back, from whoever has it but the owner.

    Default privileges may have granted something to somebody, and so may an earlier
    run.  What was granted on columns is taken back too, and what was passed on.
    Run it as the owner.

    Args:
        tables: Their names with the schema.

        functions: Their signatures with the schema.
    """
    return _REVOKE.format(
        tables=", ".join(f"'{one}'" for one in tables),
        functions=", ".join(f"'{one}'" for one in functions),
    )
