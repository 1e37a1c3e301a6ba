"""
How the catalog is read: by anybody, in one transaction, without leaving a trace.
"""

from __future__ import annotations

import psycopg
import pytest

from twh_platform.errors import BackendUnavailableError, ConfigurationError
from twh_platform.tenancy.postgres.lint import lint
from twh_platform.tenancy.postgres.lint._psycopg_snapshot import read_catalog


def test_the_transaction_is_one_that_only_reads(clinic):
    """The server itself is told that nothing will be written, and that it is one snapshot."""
    clinic.server.execute("ALTER SYSTEM SET log_statement = 'all'; SELECT pg_reload_conf()")
    read_catalog(clinic.dsn())
    clinic.server.execute("ALTER SYSTEM RESET log_statement; SELECT pg_reload_conf()")

    log = clinic.server.log
    assert "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY" in log


def test_whoever_may_connect_sees_the_same(clinic):
    """The application's own login finds what a superuser finds."""
    clinic.execute("CREATE TABLE booking.extra (clinic_id uuid); ")
    try:
        by_web = lint(clinic.dsn(user="clinic_web"))
        by_superuser = lint(clinic.dsn())
    finally:
        clinic.execute("DROP TABLE booking.extra")

    assert by_web.findings == by_superuser.findings != ()


def test_an_open_transaction_goes_on(clinic):
    """What a migration has not committed is seen, and its transaction is as it was."""
    with psycopg.connect(clinic.dsn()) as connection:
        connection.execute("SET LOCAL search_path = booking")
        connection.execute("CREATE TABLE extra (clinic_id uuid)")

        found = lint(connection, rules=["TWH206"])

        path = connection.execute("SHOW search_path").fetchone()
        connection.execute("INSERT INTO extra VALUES (NULL)")
        connection.rollback()
    assert [one.object for one in found.findings] == ["booking.extra"]
    assert path == ("booking",)
    assert lint(clinic.dsn()).findings == ()


def test_an_idle_connection_is_given_back_idle(clinic):
    """No transaction is left open and no setting changed."""
    with psycopg.connect(clinic.dsn()) as connection:
        lint(connection)

        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        assert connection.execute("SHOW transaction_read_only").fetchone() == ("off",)
        assert connection.execute("SHOW search_path").fetchone() == ('"$user", public',)


def test_a_connection_may_make_other_rows(clinic):
    """A connection that returns dictionaries, or commits by itself, will do."""
    rows = psycopg.rows.dict_row
    with psycopg.connect(clinic.dsn(), autocommit=True, row_factory=rows) as connection:
        assert lint(connection).findings == ()


def test_a_failed_transaction_is_refused(clinic):
    """A connection that must be rolled back first is refused in words."""
    with psycopg.connect(clinic.dsn()) as connection:
        with pytest.raises(psycopg.Error):
            connection.execute("SELECT 1 / 0")

        with pytest.raises(ConfigurationError, match="roll it back"):
            lint(connection)


def test_the_url_of_sqlalchemy_is_understood(clinic):
    """A URL that names a driver is taken as it is."""
    assert lint(clinic.dsn(scheme="postgresql+psycopg")).findings == ()


@pytest.mark.parametrize(
    ("dsn", "error"),
    [
        ("postgresql://u:hush@127.0.0.1:1/x", BackendUnavailableError),
        ("postgresql://u:hush@127.0.0.1:1/x?no_such=hush", ConfigurationError),
        ("host=127.0.0.1 password=hush nonsense", ConfigurationError),
    ],
)
def test_a_password_is_never_told(dsn, error):
    """Whatever is wrong with a DSN, the message has not its password."""
    with pytest.raises(error) as raised:
        lint(dsn)

    assert "hush" not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rules": ["TWH000"]}, "no rule 'TWH000'"),
        ({"ignore": ["no-such"]}, "no rule 'no-such'"),
        ({"app_roles": ["nobody_here"]}, "no role 'nobody_here'"),
    ],
)
def test_what_does_not_exist_is_refused(options, words, clinic):
    """A rule or role that is misspelt does not make a lint silent."""
    with pytest.raises(ConfigurationError, match=words):
        lint(clinic.dsn(), **options)


def test_named_roles_are_believed(clinic):
    """With the owner named as the application, its power is the finding."""
    report = lint(clinic.dsn(), app_roles=["clinic_owner"])

    assert [one.object for one in report.findings if one.rule.id == "TWH103"] == ["clinic_owner"]


def test_the_activity_has_two_doors(clinic):
    """Control: without the one function the other still shows a neighbour's statement."""
    show = "SELECT pg_stat_get_backend_activity(i) FROM pg_stat_get_backend_idset() i"
    clinic.execute(
        "ALTER ROLE clinic_web RESET track_activities;"
        "REVOKE EXECUTE ON FUNCTION pg_stat_get_activity FROM PUBLIC"
    )
    try:
        with (
            psycopg.connect(clinic.dsn(user="clinic_web")) as victim,
            psycopg.connect(clinic.dsn(user="clinic_web")) as thief,
        ):
            victim.execute("SELECT 'a secret token'")
            seen = str(thief.execute(show).fetchall())
            report = lint(clinic.dsn(), rules=["TWH510"])
    finally:
        clinic.execute(
            "ALTER ROLE clinic_web SET track_activities = off;"
            "GRANT EXECUTE ON FUNCTION pg_stat_get_activity TO PUBLIC"
        )

    assert "a secret token" in seen
    assert len(report.findings) == 1
