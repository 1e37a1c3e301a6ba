"""
What is made of the catalog's answer about a login, without a server.
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from twh_platform.errors import ConfigurationError, UnsafeLoginError
from twh_platform.tenancy.postgres import LOGIN_FAULTS
from twh_platform.tenancy.postgres._login import verified
from twh_platform.tenancy.postgres._login_query import LOGIN_QUERY

_ATTRIBUTES = ("superuser", "bypasses", "creates", "makes_databases", "replicates")


def answer(**changes: Any) -> str:
    """
    What the server says of a login that is safe.
    """
    role = dict.fromkeys(_ATTRIBUTES, False)
    facts = {
        "login": "app",
        "current": "app",
        "database": "shop",
        "version": 150_018,
        "safe_owner": "owner",
        "reach": [{"name": "app", "becomes": True, "way": ["app"], **role}],
        "owned": [],
        "granted": [],
        "settings": {"track_activities": ["on", "on"], "row_security": ["on", "on"]},
        "presets": [],
        "elsewhere": ["postgres"],
        "database_owner": "owner",
        "sealed": False,
        "handed": [],
        "key_holders": [],
        "functions": {},
    }
    return json.dumps({**facts, **changes})


@pytest.mark.parametrize(
    ("version", "faults"),
    [
        (150_002, 4),
        (150_008, 2),
        (150_013, 1),
        (150_014, 0),
        (160_009, 1),
        (160_010, 0),
        (170_005, 1),
        (170_006, 0),
        (180_000, 0),
        (190_000, 0),
    ],
)
def test_a_minor_with_a_known_fault_is_refused(version, faults):
    """A server is refused below the first minor that has all fixes, and not from it on."""
    found = verified(answer(version=version), accept={"server_outdated"}).accepted

    assert [fault.message.count("CVE-") for fault in found] == ([faults] if faults else [])


def test_the_first_good_minor_is_named():
    """The remedy says what to install."""
    with pytest.raises(UnsafeLoginError, match=r"Install 17\.6 or newer"):
        verified(answer(version=170_002))


def test_a_safe_login_is_described():
    """Nothing wrong, nothing accepted."""
    safe = verified(answer())

    assert (safe.login, safe.server_version, safe.roles) == ("app", "15.18", ("app",))


def test_visible_statements_matter_only_where_there_is_a_seal():
    """The same settings are a fault of a sealed database alone."""
    with pytest.raises(UnsafeLoginError) as caught:
        verified(answer(sealed=True))

    assert {fault.code for fault in caught.value.faults} == {"seal_altered", "token_visible"}


def test_who_reaches_keys_is_told_without_a_reason():
    """What the server says of the keys counts, also where no grant explains it."""
    found = verified(answer(sealed=True, key_holders=["app"]), accept=LOGIN_FAULTS.keys()).accepted

    assert "app reads or writes twh.seal_keys" in " ".join(one.message for one in found)


def test_what_is_accepted_is_spelled_right():
    """An unknown code is refused, and named."""
    with pytest.raises(ConfigurationError, match="'no_such'"):
        verified(answer(), accept=["no_such"])


def test_drivers_read_no_parameter_in_the_query():
    """A per cent sign would be one for psycopg, a dollar sign for asyncpg."""
    assert not {"%", "$", ":="} & set(LOGIN_QUERY)


def test_each_fault_is_in_the_reference(project_root):
    """A code that a service refused to start with can be looked up."""
    page = (project_root / "docs" / "reference" / "postgres.md").read_text()
    table = page.partition("## Faults of a login")[2].partition("## ")[0]

    codes = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert sorted(codes) == sorted(["code", *LOGIN_FAULTS])  # the heading, too


def test_each_code_has_a_meaning():
    """Codes are words, and meanings are sentences without an end."""
    assert all(code.isidentifier() and code.islower() for code in LOGIN_FAULTS)
    assert all(meaning and not meaning.endswith(".") for meaning in LOGIN_FAULTS.values())
