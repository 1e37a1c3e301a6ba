"""
What statements and commands are called in public.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twh_platform.telemetry._clients_words import read_command, read_statement

SECRET = "hunter2"

KNOWN = [
    ("select * from items", ("SELECT", "items")),
    ("SELECT a, b\nFROM shop.items i WHERE x = 1", ("SELECT", "shop.items")),
    ('SELECT "items"."id" FROM "items"', ("SELECT", "items")),
    ("  -- why\n /* so */ (SELECT 1 FROM only_one)", ("SELECT", "only_one")),
    ("INSERT INTO orders (id) VALUES (1)", ("INSERT", "orders")),
    ("UPDATE ONLY orders SET a = 1", ("UPDATE", "orders")),
    ("delete from orders", ("DELETE", "orders")),
    ("MERGE INTO orders USING x", ("MERGE", "orders")),
    ("TRUNCATE TABLE orders", ("TRUNCATE", "orders")),
    ("COPY orders FROM STDIN", ("COPY", "orders")),
    ("COPY (SELECT 1) TO STDOUT", ("COPY", "")),
    ("BEGIN; SET LOCAL x = 'hunter2'", ("BEGIN", "")),
    (b"ROLLBACK", ("ROLLBACK", "")),
    ("WITH a AS (SELECT 1) SELECT * FROM a", ("WITH", "")),
    ("SELECT 1", ("SELECT", "")),
    ("SELECT * FROM generate_series(1, 2)", ("SELECT", "")),
    ("SELECT * FROM (SELECT 1) x", ("SELECT", "")),
    ("", ("_OTHER", "")),
    (None, ("_OTHER", "")),
]

HOSTILE = [
    f"SELECT 'x from {SECRET}'",
    f"SELECT E'\\' from {SECRET}'",
    f"SELECT $$ from {SECRET} $$",
    f"SELECT $a$ from {SECRET} $a$",
    f'SELECT "x from {SECRET} "',
    f"SELECT `x from {SECRET} `",
    f"SELECT 1 -- from {SECRET}",
    f"SELECT 1 /* from {SECRET} */",
    f"SELECT 1 FROM '{SECRET}'",
    f"INSERT INTO {SECRET}'",
    f'UPDATE "{SECRET} "',
    f"{SECRET} SELECT",
    f"-- {SECRET}",
    f"/* {SECRET}",
    f"SELECT{SECRET}",
    f"SET password = {SECRET}",
    f"ALTER ROLE x PASSWORD '{SECRET}'",
]


@pytest.mark.parametrize(("statement", "expected"), KNOWN)
def test_a_statement_has_an_operation_and_a_table(statement, expected):
    """The first keyword counts, and the name where only a table can stand."""
    assert read_statement(statement) == expected


@pytest.mark.parametrize("statement", HOSTILE)
def test_no_value_is_taken_for_a_table(statement):
    """What stands in texts, comments and odd places stays there."""
    assert SECRET not in "".join(read_statement(statement))


@given(
    st.sampled_from(["SELECT ", "SELECT a FROM ", "INSERT INTO ", "UPDATE "]),
    st.text('"-/* \n(;ab', max_size=12),
)
def test_a_text_is_never_taken_for_a_table(start, between):
    """Whatever stands before it, a quoted text with a FROM in it tells nothing."""
    operation, table = read_statement(f"{start}{between}'quoted from {SECRET} ' x")

    assert SECRET not in operation + table


def test_a_name_that_may_have_been_cut_is_left_out():
    """Only so much of a statement is read."""
    statement = "SELECT " + "a, " * 165 + "b FROM " + "t" * 200

    assert read_statement(statement) == ("SELECT", "")


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("GET", "GET"),
        (b"hset", "HSET"),
        ("CONFIG SET", "CONFIG"),
        ("JSON.SET", "_OTHER"),
        (SECRET, "_OTHER"),
        (7, "_OTHER"),
    ],
)
def test_a_command_is_out_of_the_list(command, expected):
    """Subcommands and arguments are no part of a command's name."""
    assert read_command(command) == expected
