"""
The fixtures that the package gives to test suites.
"""

from __future__ import annotations

import subprocess

from twh_platform.testing import find_postgres


def test_a_database_is_empty_and_owned(twh_database):
    """The owner can make tables, and the application role cannot read them unasked."""
    twh_database.execute("CREATE TABLE t (a int)", user="twh_test_owner")
    readable = "SELECT has_table_privilege('twh_test_app', 't', 'SELECT')"

    assert twh_database.execute(readable) == "f"
    assert twh_database.execute("SELECT current_user", user="twh_test_app") == "twh_test_app"


def test_a_database_lives_on_the_shared_server(twh_postgres, twh_database):
    """Databases of modules are neighbours on one server."""
    assert twh_database.server is twh_postgres
    assert twh_database.name in twh_postgres.execute("SELECT datname FROM pg_database")


def test_a_private_server_is_another_one(twh_private_postgres, twh_postgres):
    """Stopping the private server leaves the shared one alone."""
    twh_private_postgres.stop()

    assert twh_private_postgres.port != twh_postgres.port
    assert twh_postgres.execute("SELECT 1") == "1"


def test_the_unix_socket_is_a_door_too(twh_private_postgres):
    """A DSN through the socket reaches the same server."""
    twh_private_postgres.start()
    dsn = twh_private_postgres.dsn(unix_socket=True)
    found = find_postgres([twh_private_postgres.source])
    address = subprocess.check_output(
        [found.psql, "-X", "-A", "-t", "-d", dsn, "-c", "SELECT inet_server_addr() IS NULL"],
        text=True,
    )

    assert address == "t\n"
