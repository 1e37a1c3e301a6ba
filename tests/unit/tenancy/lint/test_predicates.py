"""
What is understood of a policy's expression, as the server writes it.
"""

from __future__ import annotations

import pytest

from twh_platform.tenancy.postgres.lint._predicates import read_expression

COLUMNS = {"tenant_id", "org_id", "owner", "is_public", "user"}


def read(text: str):
    """Read it as a policy of the table ``items``."""
    return read_expression(text, table="items", columns=COLUMNS, unguarded={"app.loose"})


@pytest.mark.parametrize(
    ("text", "column", "form", "binding"),
    [
        ("(tenant_id = ( SELECT app.t() AS t))", "tenant_id", "equal", "function app.t()"),
        ("(app.t() = tenant_id)", "tenant_id", "equal", "function app.t()"),
        (
            "((tenant_id)::text = current_setting('a.t'::text, true))",
            "tenant_id",
            "equal",
            "setting a.t",
        ),
        ("(org_id = ANY (app.orgs()))", "org_id", "in", "function app.orgs()"),
        (
            "(org_id IN ( SELECT m.org_id FROM app.m m WHERE (m.who = auth.uid())))",
            "org_id",
            "in",
            "function auth.uid()",
        ),
        (
            (
                "(EXISTS ( SELECT 1 FROM app.m m"
                " WHERE ((m.org_id = items.org_id) AND (m.w = auth.uid()))))"
            ),
            "org_id",
            "exists",
            "function auth.uid()",
        ),
        ("app.may_see(tenant_id)", "tenant_id", "call", "function app.may_see()"),
        ("(NOT (tenant_id IS DISTINCT FROM app.t()))", "tenant_id", "distinct", "function app.t()"),
        ("(owner = CURRENT_USER)", "owner", "equal", "role (current_user)"),
        ('("user" = app.t())', "user", "equal", "function app.t()"),
        (
            "(tenant_id = ((current_setting('jwt.claims'::text, true))::json ->> 'org'::text))",
            "tenant_id",
            "equal",
            "setting jwt.claims",
        ),
    ],
)
def test_a_tie_is_read(text, column, form, binding):
    """The column, the way of comparing and the binding are told, and the row is held."""
    expression = read(text)

    (tie,) = expression.ties
    assert (tie.column, tie.form, str(tie.bindings[0])) == (column, form, binding)
    assert expression.restricts
    assert not expression.loose


@pytest.mark.parametrize(
    ("text", "loose", "flags"),
    [
        ("((tenant_id = app.t()) OR is_public)", 1, 0),
        ("((tenant_id = app.t()) OR (current_setting('a.bypass'::text, true) = 'on'::text))", 1, 1),
        ("( SELECT app.is_staff() AS is_staff)", 1, 1),
        ("(tenant_id <> app.t())", 1, 0),
        ("(tenant_id IS NOT NULL)", 1, 0),
        ("(NOT (tenant_id = app.t()))", 1, 0),
        ("((tenant_id = app.t()) AND (is_public OR (owner = 'x'::text)))", 0, 0),
        ("((tenant_id = app.t()) OR ((org_id = app.o()) AND is_public))", 0, 0),
    ],
)
def test_branches_that_let_rows_pass_are_told(text, loose, flags):
    """A branch that is not tied is loose; one that asks nothing of the row is a flag."""
    expression = read(text)

    assert len(expression.loose) == loose
    assert len(expression.flags) == flags
    assert expression.restricts == (loose == 0)


@pytest.mark.parametrize(
    "text", ["true", "(true)", "(1 = 1)", "((tenant_id = app.t()) OR true)", "(NOT false)"]
)
def test_what_is_always_true_is_told(text):
    """It is no branch of its own, but the whole."""
    assert read(text).always_true


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("(tenant_id = (current_setting('a.t'::text, true))::uuid)", 1),
        ("(tenant_id = ( SELECT (current_setting('a.t'::text, true))::uuid AS c))", 1),
        ("(tenant_id = (app.loose())::bigint)", 1),
        ("(tenant_id = (NULLIF(current_setting('a.t'::text, true), ''::text))::uuid)", 0),
        ("(tenant_id = (app.t())::bigint)", 0),
        ("(tenant_id = (current_setting('a.t'::text, true))::text)", 0),
    ],
)
def test_casts_that_break_are_told(text, bare):
    """A cast of what may be empty breaks, unless the empty string is taken out first."""
    assert len(read(text).bare_casts) == bare
