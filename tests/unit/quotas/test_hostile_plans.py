"""
What a hostile plan file, and a careless installation of overrides, get: a refusal at once.
"""

from __future__ import annotations

import pytest

from twh_platform.errors import ConfigurationError
from twh_platform.quotas import Plans
from twh_platform.quotas.postgres._overrides_sql import overrides_sql

RULES = '[rules.minute]\nkind = "rate"\nper = 60\n[plans.FREE]\nminute = 10\n'


@pytest.mark.parametrize("line", ["{} = 1", "[{}]", "[[{}]]", "a = {{ {} = 1 }}"])
@pytest.mark.parametrize("part", ["a", '"a"', " a ", '"\u2028"'])
def test_a_key_of_many_parts_is_refused_unread(line, part):
    """Each part of a dotted key costs the reader as much as all before: a megabyte took hours."""
    text = RULES + line.format(".".join([part] * 100_000))
    with pytest.raises(ConfigurationError, match="line 6: it has more than 250 dots") as caught:
        Plans.from_text(text, source="plans.toml")

    assert caught.value.code == "plan_invalid"


def test_control_many_lines_with_dots_are_read():
    """Routes of versions, one below the other."""
    routes = ",\n".join(f'"/v1.{one}/items"' for one in range(900))
    plans = Plans.from_text(RULES.replace("per = 60", f"per = 60\nroutes = [\n{routes}\n]"))

    assert len(plans["FREE"].rule("minute").routes) == 900


@pytest.mark.parametrize("role", ["public", "none"])
def test_everybody_is_no_role(role):
    """Neither reads all tenants' limits nor changes them."""
    with pytest.raises(ConfigurationError, match="is not a role"):
        overrides_sql(role=role)
    with pytest.raises(ConfigurationError, match="is not a role"):
        overrides_sql(role="reader", administrators=["ada", role])
