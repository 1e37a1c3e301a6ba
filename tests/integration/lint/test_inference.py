"""
What is taken for the tenant and for the application, in schemas never seen before.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from twh_platform.tenancy.postgres.lint import Report, lint


@pytest.fixture(scope="module")
def blank(lint_server) -> str:
    """An empty database."""
    return lint_server.create_database("blank").dsn()


@pytest.fixture
def connection(blank) -> Iterator[psycopg.Connection[Any]]:
    """A superuser's connection to it; what is done on it is taken back."""
    with psycopg.connect(blank) as connection:
        yield connection
        connection.rollback()


def found(report: Report, rule: str) -> list[str]:
    """The objects that a rule named."""
    return [one.object for one in report.findings if one.rule.id == rule]


def test_a_schema_without_any_policy(connection):
    """The column is known by its usual name, the application is who owns everything."""
    connection.execute("""
        CREATE ROLE all_in_one LOGIN; SET LOCAL ROLE NONE;
        CREATE TABLE a (org_id int NOT NULL); CREATE TABLE b (org_id int NOT NULL);
        ALTER TABLE a OWNER TO all_in_one; ALTER TABLE b OWNER TO all_in_one
    """)

    report = lint(connection)

    assert found(report, "TWH201") == ["public.a", "public.b"]
    assert found(report, "TWH103") == ["all_in_one"]
    assert "from its name alone" in report.text()
    assert "nobody else is granted any" in report.text()


def test_the_only_one_who_is_granted_anything_is_the_application(connection):
    """With policies for everybody, the one grantee counts, though it bypasses them."""
    connection.execute("""
        CREATE ROLE app_x LOGIN BYPASSRLS;
        CREATE TABLE a (shop text);
        CREATE POLICY p ON a USING (shop = current_setting('x.shop'));
        GRANT SELECT ON a TO app_x
    """)

    assert found(lint(connection), "TWH102") == ["app_x"]


def test_a_group_that_logins_are_members_of(connection):
    """Policies and grants for a group: its logins are the application too."""
    connection.execute("""
        CREATE ROLE staff_x NOLOGIN; CREATE ROLE web_x LOGIN CREATEROLE IN ROLE staff_x;
        CREATE TABLE a (shop text);
        CREATE POLICY p ON a TO staff_x USING (shop = current_setting('x.shop'));
        GRANT SELECT, TRUNCATE ON a TO staff_x
    """)

    report = lint(connection)

    assert found(report, "TWH106") == ["web_x"]
    assert found(report, "TWH501") == ["public.a"]


def test_an_administrator_is_not_the_application(connection):
    """A login that sees all, beside the one that policies name, is told of and no more."""
    connection.execute("""
        CREATE ROLE web_x LOGIN; CREATE ROLE boss_x LOGIN BYPASSRLS;
        CREATE TABLE a (shop text);
        CREATE POLICY p ON a TO web_x USING (shop = current_setting('x.shop'));
        GRANT ALL ON a TO boss_x; GRANT SELECT ON a TO web_x
    """)

    report = lint(connection)

    assert found(report, "TWH112") == ["boss_x"]
    assert found(report, "TWH501") == found(report, "TWH102") == []


def test_rows_that_belong_through_a_reference(connection):
    """A table whose policy follows a reference is no table without a tenant."""
    connection.execute("""
        CREATE ROLE web_x LOGIN;
        CREATE TABLE a (shop text NOT NULL, id uuid, PRIMARY KEY (shop, id), UNIQUE (id));
        CREATE TABLE b (a_id uuid NOT NULL REFERENCES a (id));
        ALTER TABLE a ENABLE ROW LEVEL SECURITY; ALTER TABLE b ENABLE ROW LEVEL SECURITY;
        CREATE POLICY p ON a TO web_x USING (shop = current_setting('x.shop'));
        CREATE POLICY p ON b TO web_x USING (EXISTS (
            SELECT FROM a WHERE a.id = b.a_id AND a.shop = current_setting('x.shop')));
        GRANT SELECT ON a, b TO web_x
    """)

    report = lint(connection)

    assert [found(report, one) for one in ("TWH205", "TWH302", "TWH604")] == [[], [], []]


def test_the_list_of_tenants_is_no_tenant_table(connection):
    """Its key is every tenant's own id, and says nothing about other tables' columns."""
    connection.execute("""
        CREATE ROLE web_x LOGIN;
        CREATE TABLE shops (id int PRIMARY KEY);
        CREATE TABLE a (shop int NOT NULL REFERENCES shops);
        CREATE TABLE words (id int PRIMARY KEY);
        ALTER TABLE shops ENABLE ROW LEVEL SECURITY;
        CREATE POLICY p ON shops TO web_x USING (id = current_setting('x.shop')::int);
        CREATE POLICY p ON a TO web_x USING (shop = current_setting('x.shop')::int);
        GRANT SELECT ON shops, a, words TO web_x
    """)

    report = lint(connection)

    assert found(report, "TWH214") == found(report, "TWH201") == []
    assert found(report, "TWH602") == []
    assert found(report, "TWH202") == ["public.a"]


def test_another_setting_and_function_and_column(connection):
    """Remedies use the house's own names."""
    connection.execute("""
        CREATE ROLE web_x LOGIN; CREATE SCHEMA u;
        CREATE FUNCTION u.mandant() RETURNS bigint STABLE LANGUAGE sql
            RETURN nullif(current_setting('u.m', true), '')::bigint;
        CREATE TABLE a (mandant_nr bigint NOT NULL); CREATE TABLE b (mandant_nr text NOT NULL);
        ALTER TABLE a ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
        CREATE POLICY p ON a TO web_x USING (mandant_nr = (SELECT u.mandant()));
        GRANT SELECT ON a, b TO web_x
    """)

    (one,) = lint(connection, rules=["TWH201"]).findings

    assert one.object == "public.b"
    assert "TO web_x" in one.remedy
    assert "mandant_nr = (SELECT u.mandant()::text)" in one.remedy
