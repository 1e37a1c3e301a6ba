"""
Laws of the plan file: whatever it says, plans come out or one kind of error.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from twh_platform.errors import ConfigurationError
from twh_platform.quotas._plans import Plans

WORDS = st.sampled_from(
    [
        "default",
        "common",
        "rules",
        "plans",
        "minute",
        "kind",
        "limit",
        "per",
        "burst",
        "routes",
        "x",
    ]
)
WRONG = ["true", "1e400", "nan", "[]", '["GET /"]', "{}", "1979-05-27", f"0x{'f' * 99}"]
TEXTS = ['"rate"', '"capacity"', '"calendar"', '"day"', '"unlimited"', '"client"']
VALUES = st.sampled_from([*TEXTS, *WRONG, "60", "0", "-1", "{limit=1}"])
LINES = st.one_of(
    st.builds("{} = {}".format, WORDS, VALUES),
    st.builds("[{}.{}]".format, WORDS, WORDS),
    st.builds("[{}.{}.{}]".format, WORDS, WORDS, WORDS),
)


def read(text: str) -> Plans | ConfigurationError:
    """The plans, or the complaint."""
    try:
        return Plans.from_text(text, source="p.toml")
    except ConfigurationError as error:
        return error


@given(st.text() | st.lists(LINES, max_size=14).map("\n".join))
def test_a_file_is_plans_or_one_kind_of_error(text):
    """No other exception, and the error is about this file."""
    outcome = read(text)

    if isinstance(outcome, ConfigurationError):
        assert outcome.code == "plan_invalid"
        assert str(outcome).startswith("p.toml: ")
        assert len(str(outcome)) < 1500
    else:
        assert all(plan.name for plan in outcome.values())


@given(st.data())
def test_a_line_that_was_altered_is_told(data):
    """A good file with one line altered: plans, or the one error."""
    names = [rule.name for rule in Plans.example()["FREE"].rules]
    lines = [f'[rules.{name}]\nkind = "capacity"' for name in names] + ["[plans.FREE]"]
    lines += [f"{name} = 1" for name in names]
    lines[data.draw(st.integers(0, len(lines) - 1))] = data.draw(LINES)
    outcome = read("\n".join(lines))

    assert isinstance(outcome, Plans) or outcome.code == "plan_invalid"
