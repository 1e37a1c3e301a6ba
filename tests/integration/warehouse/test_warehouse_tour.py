"""
The tour itself: its matchers, its asides, its looks into the database.
"""

from __future__ import annotations

import json
import secrets
from typing import Any

import httpx
import pytest

from examples.warehouse.bank_accounts import bank_account
from examples.warehouse.problems import Refusal
from examples.warehouse.settings import Settings
from examples.warehouse.tour import Tour
from examples.warehouse.tour.check import drive, mismatch
from examples.warehouse.tour.keys import accounts
from examples.warehouse.tour.receiver import Receiver
from examples.warehouse.tour.rows import Rows
from examples.warehouse.tour.shell import shell_lines
from examples.warehouse.tour.step import ABSENT, ANY, Aside, Members, Step
from examples.warehouse.vault import Vault
from tests.support.warehouse import SignIn, add
from twh_platform.errors import DecryptionError
from twh_platform.webhooks import StandardSecret, sign


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"a": 1}, {"a": ABSENT}),
        ({"a": None}, {"a": ABSENT}),
        ({"a": [{"b": {"value": 1}}]}, Members(frozenset("ab"))),
        ([{"value": 1}], Members(frozenset("ab"))),
    ],
)
def test_what_must_not_be_there_is_noticed(found: Any, expected: Any) -> None:
    """
    A member that has to be absent, or is none of those that may be there, is a mismatch.
    """
    assert mismatch(found, expected) != ""


@pytest.mark.parametrize(
    ("found", "expected"),
    [({"b": 1}, {"a": ABSENT}), ({"a": [{"b": None}, {}]}, Members(frozenset("ab")))],
)
def test_what_may_be_there_is_right(found: Any, expected: Any) -> None:
    """
    Nothing is said of an absent member, nor of those that may be there.
    """
    assert mismatch(found, expected) == ""


async def taken(*steps: Step | Aside) -> tuple[bool, list[str]]:
    """
    Take asides without any warehouse, and return whether all was right and what was said.
    """
    said: list[str] = []
    tour = Tour(name="asides", steps=steps, variables={"known": "7"})
    right = await drive("http://127.0.0.1:9", [tour], said.append)
    return right, said


async def test_an_aside_tells_and_keeps() -> None:
    """
    Its lines follow its own, and what it keeps is there for the next one.
    """
    right, said = await taken(
        Aside("one", lambda v: {"n": v["known"]}, {"n": "{known}"}, keep=("n", "n")),
        Aside("two", lambda v: v["n"], "7", tells=lambda body: [f"it is {body}"]),
    )

    assert right
    assert [line.split()[-1] for line in said] == ["one", "two", "7", "failed"]


def raising(_variables: object) -> None:
    """
    Fail as an envelope that does not open.
    """
    raise DecryptionError("it does not open")


@pytest.mark.parametrize("does", [lambda _: {"rows": 0}, lambda v: v["unknown"], raising])
async def test_an_aside_can_fail(does: Any) -> None:
    """
    Another outcome, a variable that nobody kept, a refusal: each fails, and the tour goes on.
    """
    right, said = await taken(Aside("bad", does, {"rows": 1}), Aside("good", lambda _: 1, 1))

    assert not right
    assert [line.split()[0] for line in said] == ["FAILED", "ok", "2"]


async def test_a_variable_that_a_failed_step_should_have_kept_fails_the_next() -> None:
    """
    The tour says so instead of ending.
    """
    right, said = await taken(Aside("uses it", lambda _: 1, "{lost}"))

    assert not right
    assert "there is no lost" in said[0]


def test_no_aside_is_printed_for_a_shell() -> None:
    """
    A shell is given the requests alone, and a body of text as it is.
    """
    step = Step("s", "POST /x", 200, ANY, bearer="", body='{"version": {old}}', shown=True)
    lines = shell_lines("http://w", [([Aside("aside", lambda _: 1), step], {"old": "1"})])

    assert "aside" not in "\n".join(lines)
    assert """-d '{"version": '"${OLD}"'}'""" in lines[-1]


def test_the_accounts_of_the_tour_are_what_they_are_said_to_be() -> None:
    """
    With spaces it is the same account; with a wrong digit it is none.
    """
    made = accounts()

    assert bank_account(made["account_spaced"]) == made["account"] != made["account_unused"]
    assert bank_account(made["account_unused"])
    with pytest.raises(Refusal):
        bank_account(made["account_misspelt"])


async def test_what_has_members_is_kept_as_json() -> None:
    """
    An aside can read all of an answer that way.
    """
    sent = {"sent": {"body": "b", "headers": []}}
    right, _ = await taken(
        Aside("one", lambda _: sent, keep=("sent", "sent")),
        Aside("two", lambda v: json.loads(v["sent"]), sent["sent"]),
    )

    assert right


def test_the_receiver_of_the_tour_is_a_real_one() -> None:
    """
    It lets in what is signed with its secret, once, and nothing with another; then it is gone.
    """
    receiver, secret = Receiver(), StandardSecret.generate()
    url = receiver.reserve({})["url"]
    unsigned = receiver.start("secret")({"secret": secret.reveal()})

    def sent(key: StandardSecret) -> dict[str, str]:
        request = sign(b'{"type":"webhook.test"}', key)
        headers = [{"name": name, "value": value} for name, value in request.headers.items()]
        return {"sent": json.dumps({"url": url, "headers": headers, "body": request.body.decode()})}

    good, foreign = sent(secret), sent(StandardSecret.generate())
    copies = (receiver.copy("sent"), receiver.copy("sent", tampered=True))
    answers = [copies[0](good), copies[0](good), copies[1](good), copies[0](foreign)]
    receiver.close()

    assert (unsigned, answers) == (401, [204, 200, 401, 401])
    with pytest.raises(httpx.ConnectError):
        copies[0](good)


@pytest.fixture
def rows(warehouse: Settings) -> Rows:
    """
    The rows of the shared warehouse.
    """
    return Rows(warehouse, Vault.of(warehouse).seal())


async def test_an_account_that_is_not_sealed_is_seen(sign_in: SignIn, rows: Rows) -> None:
    """
    The look that finds nothing of a sealed account finds one that stands in the name.
    """
    user, account = await sign_in(), accounts()["account"]
    sealed = await add(user, "/suppliers", name="Sealed", bank_account=account)
    leaking = await add(user, "/suppliers", name=f"pay {account}", bank_account=account)

    look = rows.seen("sealed", "leaking", account="account")
    found = look({"sealed": sealed, "leaking": leaking, "account": account})

    assert [one["readable"] for one in found] == [False, True]
    assert [one["alone"] for one in found] == [False, False]  # one tenant, one index


async def test_bytes_that_are_copied_within_a_tenant_open(sign_in: SignIn, rows: Rows) -> None:
    """
    The copy is a good one: between rows of one tenant, which a column does not tell apart.
    """
    user, first, second = await sign_in(), accounts()["account"], accounts()["account"]
    name = secrets.token_hex(4)
    ids = {
        "source": await add(user, "/suppliers", name=name, bank_account=first),
        "target": await add(user, "/suppliers", name=name, bank_account=second),
    }

    async def read() -> str:
        account: str = (await user.get(f"/suppliers/{ids['target']}")).json()["bank_account"]
        return account

    done = rows.copied("source", "target", tenant="acme")(ids)
    copied = await read()
    rows.put_back("target", "before", tenant="acme")({**ids, "before": done["before"]})

    assert (copied, await read()) == (first, second)
