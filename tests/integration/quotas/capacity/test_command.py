"""
`twh-platform quotas reconcile`, as an operator calls it.
"""

from __future__ import annotations

import pytest

from tests.integration.quotas.capacity.conftest import COUNTS, OWNER, rule
from twh_platform.cli import main
from twh_platform.tenancy.postgres import write_seal_key
from twh_platform.tenancy.postgres.directory import directory_sql

ITEMS = rule(9)
ITEMS_COUNT = f"items={COUNTS['items']}"


@pytest.fixture
def run(house, monkeypatch, tmp_path):
    """Call the command as the owner."""
    monkeypatch.setenv("TWH_OWNER_DSN", house.dsn(OWNER))
    more = []
    if house.seal is not None:
        write_seal_key(tmp_path / "key", house.seal._key)
        more = ["--seal", str(tmp_path / "key")]
    return lambda *words: main(["quotas", "reconcile", *words, *more])


async def forget(house, acme) -> None:
    """Insert two rows and count one."""
    async with house.line() as line, line.transaction():
        await line.take(ITEMS)
        await line.sql("INSERT INTO items (body) VALUES ('abc'), ('de')")


async def test_drift_is_listed_and_put_right(run, house, acme, capsys):
    """The status says that there was some, and the next run finds none."""
    await forget(house, acme)
    words = ["--tenant", "acme", "--count", ITEMS_COUNT]

    assert run(*words, "--look") == 1
    assert run(*words) == 1
    assert run(*words) == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "acme items: recorded 1, counted 2",
        "1 levels, 1 wrong",
        "acme items: recorded 1, counted 2",
        "1 levels, 1 wrong, put right",
        "1 levels, 0 wrong",
    ]
    assert house.level() == 2


async def test_all_tenants_of_the_directory_are_reconciled(run, house, acme, capsys):
    """Without a tenant on the command line the table of tenants names them."""
    await forget(house, acme)
    house.database.execute(directory_sql(role="twh_test_app"), user=OWNER)
    house.database.execute("INSERT INTO twh.tenants (id) VALUES ('acme'), ('other')")

    status = run("--count", f"stored_bytes={COUNTS['stored_bytes']};", "--count", ITEMS_COUNT)

    house.database.execute("DROP TABLE twh.tenants")
    assert (status, house.level("stored_bytes")) == (1, 5)
    assert capsys.readouterr().out.splitlines()[-1] == "4 levels, 2 wrong, put right"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--count", "items"], "--count is RULE=SQL"),
        (["--count", "It=SELECT 1"], "rule 'It'"),
        (["--count", "items=SELECT nonsense"], "the server refused"),
        (["--count", ITEMS_COUNT, "--dsn", "postgresql://nobody@127.0.0.1:1/x"], "did not do it"),
        (["--count", ITEMS_COUNT, "--tenant", "a tenant"], "tenant"),
    ],
)
def test_what_cannot_be_done_is_said(words, said, run, capsys):
    """A sentence and the status 2, and no password."""
    if "--tenant" not in words:
        words = [*words, "--tenant", "acme"]

    assert run(*words) == 2
    assert said in capsys.readouterr().err


def test_a_dsn_is_needed(run, monkeypatch, capsys):
    """On the command line or in the environment."""
    monkeypatch.delenv("TWH_OWNER_DSN")

    assert run("--count", ITEMS_COUNT) == 2
    assert "TWH_OWNER_DSN" in capsys.readouterr().err
