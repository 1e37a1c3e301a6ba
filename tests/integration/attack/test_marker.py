"""
The marker and the fixtures for attacks, in a suite of somebody else's.
"""

from __future__ import annotations

from tests.support.attacked import FAULTS
from twh_platform.tenancy.postgres.attack import ATTACKS

SUITE = """
    import pytest
    from twh_platform.tenancy.postgres import Seal, SealKey

    @pytest.fixture(scope="module")
    def twh_attack_target():
        key = SealKey(id={id!r}, secret={secret!r})
        return {{"dsn": {dsn!r}, "tenant": "acme", "other": "globex", "seal": Seal(key)}}

    {marker}
    def test_attack(twh_attack_result):
        twh_attack_result.ensure_refused()
"""


def suite(service, marker: str = "") -> str:
    """The suite of a sealed service."""
    key = service.seal.key
    return SUITE.format(id=key.id, secret=key.secret, dsn=service.dsn, marker=marker)


def test_a_suite_has_a_test_for_each_attack(service, pytester):
    """Every attack on a database is a test of its own; on a good one all pass."""
    pytester.makepyfile(suite(service(sealed=True)))

    result = pytester.runpytest_subprocess("-p", "no:asyncio", "-v")

    database = [one for one in ATTACKS if one.target == "database"]
    result.assert_outcomes(passed=len(database))
    result.stdout.fnmatch_lines([f"*test_attack?{one.id}-{one.name}?*" for one in database])


def test_a_leak_fails_its_test(service, pytester):
    """The test of the attack that succeeds fails, and says what to do."""
    pytester.makepyfile(suite(service(FAULTS["TWHA24"], sealed=True)))

    result = pytester.runpytest_subprocess("-p", "no:asyncio")

    result.assert_outcomes(passed=35, failed=1)
    result.stdout.fnmatch_lines(["*leaked public.lines: TRUNCATE*", "*Defence: no grant of TRUNC*"])


def test_the_marker_chooses_and_excuses(service, pytester):
    """Attacks are chosen by id or name; what is borne is skipped with its reason."""
    marker = (
        "@pytest.mark.twh_attack('truncate', 'TWHA02',"
        " exceptions={'TWHA24': 'our reports need it'})"
    )
    pytester.makepyfile(suite(service(FAULTS["TWHA24"], sealed=True), marker))

    result = pytester.runpytest_subprocess("-p", "no:asyncio", "--strict-markers", "-rs")

    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(["*TWHA24 truncate is borne: our reports need it*"])


def test_a_marker_that_names_nothing_is_an_error(service, pytester):
    """A misspelt attack would otherwise never be tried."""
    pytester.makepyfile(suite(service(sealed=True), "@pytest.mark.twh_attack('trunkate')"))

    result = pytester.runpytest_subprocess("-p", "no:asyncio")

    result.stdout.fnmatch_lines(["*twh_attack: there is no attack 'trunkate'*"])


def test_a_suite_is_told_what_to_define(pytester):
    """Without a target there is nothing to attack."""
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.twh_attack("TWHA02")
        def test_attack(twh_attack_result): pass
        """
    )

    result = pytester.runpytest_subprocess("-p", "no:asyncio")

    result.stdout.fnmatch_lines(["*define a fixture twh_attack_target in your conftest.py*"])
