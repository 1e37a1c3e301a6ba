"""
The record of the attacks fails what is no proof.
"""

from __future__ import annotations

import json

import pytest

PLUGINS = ("-p", "tests.support.attacks", "-p", "no:asyncio", "-p", "no:cacheprovider")


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("row(kind='attack').ours(0)", "has no control"),
        ("row(kind='attack').control(0)", "the control got nothing"),
        ("row(kind='attack').control([1])", "was not tried on ours"),
        ("row(kind='attack').ours(['theirs'])", "the attacker got ['theirs']"),
        ("row(kind='fact')", "was not tried on ours"),
        ("row(kind='fact').ours(1)", "the attacker got 1"),
        ("row(kind='residual')", "was not tried on ours"),
        ("pass", "made no row"),
    ],
)
def test_no_proof(pytester, body, fault):
    """A row without a control, or one that gives something away, fails its test."""
    result = pytester.runpytest_inprocess(*PLUGINS, written(pytester, body))

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"*{fault.replace('[', '[[]')}*"])


def test_proof_is_written(pytester):
    """What has been shown is printed and stands in the file."""
    body = "one = row(kind='attack', form='f'); one.control(2); one.control([1]); one.ours([])"
    result = pytester.runpytest_inprocess(
        *PLUGINS, written(pytester, body), "--attacks-json", "rows.json"
    )
    [row] = json.loads((pytester.path / "rows.json").read_text())

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*1 attacks, 1 with a control;*0 at fault"])
    assert (row["number"], row["form"], row["control"], row["ours"]) == (7, "f", 3, 0)
    assert (row["ok"], row["capability"]) == (True, pytester.path.name)


def test_each_capability_has_a_table(pytester):
    """The folder of a test says what it attacks; each is counted for itself."""
    written = [pytester.path / one / f"test_{one}.py" for one in ("quotas", "tenancy")]
    for path in written:
        path.parent.mkdir()
        path.write_text(
            "def test_01_it(twh_attack):\n"
            "    row = twh_attack(number=1, title='does it')\n"
            "    row.control(1)\n"
            "    row.ours(0)\n"
        )
    result = pytester.runpytest_inprocess(*PLUGINS, *written)

    result.stdout.fnmatch_lines(
        ["*attacks on quotas,*", "*attacks on tenancy,*", "quotas: 1 attacks*", "tenancy: 1 *"]
    )


def written(pytester: pytest.Pytester, body: str):
    """Write a test with this body."""
    return pytester.makepyfile(f"""
        from functools import partial

        def test_07_it(twh_attack):
            row = partial(twh_attack, number=7, title="does it")
            {body}
    """)
