"""
Keys and secrets: what is sealed, who can open it, and how it ends.

Two main tenants have a supplier each, with one account.  A sandbox is made to
have its master key rotated and destroyed.  It comes last: what the old secret
has signed is refused at its end.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from twh_platform.errors import DecryptionError
from twh_platform.kms import LocalKeyService
from twh_platform.kms.lifecycle import ShredReceipt, verify_receipt
from twh_platform.tenancy.postgres import Seal

from ..seed import MAIN, email
from ..settings import Settings
from ..vault import SEAL, TOKENS
from .rows import Rows, shown_rows
from .step import ABSENT, ANY, Aside, Contains, Matches, Members, Step, log_in, problem

__all__ = ["accounts", "keys"]

_FIRST, _SECOND = MAIN
_LEAVER = "leaver-{run}"

# All that is said of a secret, and of a version.
_SECRET = ("name", "rotates", "versions")
_VERSION = ("version", "stage", "created_at", "expires_at", "retires_at", "revoked_at")


def keys(settings: Settings, seal: Seal) -> list[Step | Aside]:
    """
    The steps, as users of two tenants and of one that leaves, and the administrator.

    Args:
        settings: Which database is looked into, and with which keyset receipts
            are verified.

        seal: What the app seals tenants with for the database.
    """
    rows = Rows(settings, seal)
    return [
        *_logins(),
        *_sealed(rows),
        *_looked_up(),
        *_swapped(rows),
        *_rotated(rows),
        *_shredded(settings, rows),
        *_secrets(),
    ]


def accounts() -> dict[str, str]:
    """
    Variables for bank accounts that nobody has: one to note, and one that is not noted.
    """
    account, unused = _new_account(), _new_account()
    start, last = account[:-1], account[-1]
    return {
        "account": account,
        "account_spaced": " ".join(account[n : n + 4] for n in range(0, len(account), 4)).lower(),
        "account_misspelt": f"{start}{(int(last) + 1) % 10}",
        "account_unused": unused,
        "last_four": account[-4:],
    }


def _new_account() -> str:
    # ISO 13616: the check digits bring the whole to 1 modulo 97.
    number = f"NWBK{secrets.randbelow(10**14):014}"
    digits = "".join(str(int(one, 36)) for one in f"{number}GB00")
    return f"GB{98 - int(digits) % 97:02}{number}"


def _administers(title: str, request: str, status: int, expect: Any = ANY, **more: Any) -> Step:
    return Step(title, request, status, expect, bearer="administrator", **more)


def _logins() -> list[Step]:
    def user(role: str, tenant: str, keep: str, at: int) -> Step:
        return log_in(f"log in as a {role} of {tenant}", tenant, email(role, tenant), keep, at=at)

    return [
        user("manager", _FIRST, "manager", 1),
        user("clerk", _FIRST, "clerk", 2),
        user("manager", _SECOND, "their_manager", 3),
    ]


def _sealed(rows: Rows) -> list[Step | Aside]:
    def add(tenant: str, keep: str, **more: Any) -> Step:
        return Step(
            f"{tenant} notes a supplier, and where to pay it",
            "POST /suppliers",
            201,
            {"id": ANY, "bank_account_last4": "{last_four}"},
            body={"name": "Bolts {run}", "bank_account": "{account_spaced}"},
            keep=(keep, "id"),
            **more,
        )

    one = "/suppliers/{supplier}"
    sealed = {
        "version": 1,
        "suite": "STREAM",
        "data_key": Matches("[0-9a-f]{32}"),
        "readable": False,
        "alone": True,
    }
    return [
        add(_FIRST, "supplier", bearer="manager", shown=True),
        add(_SECOND, "their_supplier", bearer="their_manager"),
        Aside(
            "the rows as the database has them: one account, and nothing in common",
            rows.seen("supplier", "their_supplier", account="account"),
            [
                {"tenant": _FIRST, **sealed},
                {"tenant": _SECOND, **sealed},
            ],
            tells=shown_rows,
        ),
        Step(
            "a manager reads it",
            f"GET {one}",
            200,
            {"bank_account": "{account}", "bank_account_last4": "{last_four}"},
            bearer="manager",
            shown=True,
            tells=lambda body: [f"bank_account {body['bank_account']}"],
        ),
        Step(
            "a clerk reads the last four",
            f"GET {one}",
            200,
            {"bank_account": ABSENT, "bank_account_last4": "{last_four}"},
            bearer="clerk",
            shown=True,
            tells=lambda body: [f"bank_account_last4 {body['bank_account_last4']}"],
        ),
    ]


def _looked_up() -> list[Step | Aside]:
    def look(title: str, bearer: str, *found: str, account: str = "account") -> Step:
        expect = {"data": [{"id": one} for one in found]}
        path = f"GET /suppliers?bank_account={{{account}}}"
        return Step(title, path, 200, expect, bearer=bearer, shown=bearer == "clerk")

    wrong = {"name": "Bolts", "bank_account": "{account_misspelt}"}
    return [
        look("look the account up: a clerk may, without reading it", "clerk", "{supplier}"),
        look(f"{_SECOND} looks the same account up", "their_manager", "{their_supplier}"),
        look("an account that nobody has", "manager", account="account_unused"),
        Step(
            "one digit that is wrong",
            "POST /suppliers",
            422,
            problem("bank_account_invalid"),
            bearer="manager",
            body=wrong,
            shown=True,
        ),
    ]


def _swapped(rows: Rows) -> list[Step | Aside]:
    """
    Let somebody who can write the database move one tenant's bytes to another.
    """
    theirs = "/suppliers/{their_supplier}"
    opened = {"bank_account": "{account}"}
    return [
        Aside(
            f"past the app, the sealed account of {_FIRST} is copied into the row of {_SECOND}",
            rows.copied("supplier", "their_supplier", tenant=_SECOND),
            {"rows": 1},
            keep=("their_sealed", "before"),
        ),
        Step(
            f"it does not open for {_SECOND}",
            f"GET {theirs}",
            500,
            problem("sealed_unreadable"),
            bearer="their_manager",
            tells=_code,
        ),
        Step(f"it does for {_FIRST}", "GET /suppliers/{supplier}", 200, opened, bearer="manager"),
        Aside(
            "the row is put back",
            rows.put_back("their_supplier", "their_sealed", tenant=_SECOND),
            {"rows": 1},
        ),
        Step(
            f"{_SECOND} reads its own again", f"GET {theirs}", 200, opened, bearer="their_manager"
        ),
    ]


def _rotated(rows: Rows) -> list[Step | Aside]:
    own = f"/admin/keys/{_LEAVER}"
    address = "first@example.com"
    user = {"email": address, "name": "First", "password": "{password}"}
    return [
        _administers(
            "a sandbox, which will leave",
            "POST /tenants",
            201,
            {"id": _LEAVER},
            body={"id": _LEAVER, "tier": "GROWTH", "user": user},
            shown=True,
        ),
        log_in("log in to it", _LEAVER, address, "leaver", at=4, shown=True),
        Step(
            "its supplier",
            "POST /suppliers",
            201,
            {"id": ANY},
            bearer="leaver",
            body={"name": "Bolts {run}", "bank_account": "{account}"},
            keep=("lost", "id"),
            shown=True,
        ),
        Aside(
            "its row",
            rows.seen("lost", account="account"),
            [{"tenant": _LEAVER, "readable": False}],
            keep=("lost_sealed", "0.sealed"),
        ),
        _administers(
            "its data keys are wrapped by the first version of its master key",
            f"GET {own}",
            200,
            {"tenant": _LEAVER, "versions": [{"version": 1, "data_keys": 2}], "shredded": False},
            shown=True,
            tells=_versions,
        ),
        _administers(
            "a new version, and its data keys are wrapped by that",
            f"POST {own}/rotate",
            200,
            {"version": 2, "rewrapped": 2, "remaining": 0},
            shown=True,
            tells=lambda body: [
                "version {version}: {rewrapped} rewrapped, {remaining} remaining".format(**body)
            ],
        ),
        _administers(
            "none is left at the old one",
            f"GET {own}",
            200,
            {"versions": [{"version": 2, "data_keys": 2}]},
            tells=_versions,
        ),
        Aside(
            "not a byte of the row has changed",
            rows.seen("lost", account="account"),
            [{"sealed": "{lost_sealed}"}],
        ),
        Step(
            "and it opens",
            "GET /suppliers/{lost}",
            200,
            {"bank_account": "{account}"},
            bearer="leaver",
        ),
        Step(
            "a tenant asks for its keys",
            f"GET {own}",
            401,
            problem("credentials_invalid"),
            bearer="leaver",
        ),
    ]


def _shredded(settings: Settings, rows: Rows) -> list[Step | Aside]:
    path = f"POST /admin/keys/{_LEAVER}/shred"
    order = {"reason": "ticket 4714: they have left", "confirm": _LEAVER}
    one = "/suppliers/{lost}"
    gone = problem("tenant_shredded")

    return [
        _administers(
            "shred it, and name another tenant",
            path,
            422,
            problem("confirmation_wrong"),
            body={**order, "confirm": _FIRST},
        ),
        _administers(
            "shred it for no reason",
            path,
            422,
            problem("reason_invalid"),
            body={**order, "reason": " "},
        ),
        Step("so far it opens", f"GET {one}", 200, {"bank_account": "{account}"}, bearer="leaver"),
        _administers(
            "shred it",
            path,
            200,
            {"receipt": ANY},
            body=order,
            keep=("receipt", "receipt"),
            shown=True,
        ),
        Aside(
            "the receipt, verified with the keyset alone",
            _verified(settings),
            {
                "tenant": _LEAVER,
                "state": "destroyed",
                "canary": "key_destroyed",
                "altered": "receipt_invalid",
            },
            tells=lambda body: body["lines"],
        ),
        Step(
            "its supplier does not open",
            f"GET {one}",
            410,
            gone,
            bearer="leaver",
            shown=True,
            tells=_code,
        ),
        Step(
            "nor is a new one sealed",
            "POST /suppliers",
            410,
            gone,
            bearer="leaver",
            body={"name": "More bolts", "bank_account": "{account}"},
        ),
        Step("the rest of it is served", "GET /items", 200, {"data": []}, bearer="leaver"),
        Aside(
            "the row is still there, for nobody",
            rows.seen("lost", account="account"),
            [{"sealed": "{lost_sealed}", "readable": False}],
            tells=shown_rows,
        ),
        _administers(
            "shred it again: the same receipt", path, 200, {"receipt": "{receipt}"}, body=order
        ),
        _administers("rotate what is no more", f"POST /admin/keys/{_LEAVER}/rotate", 410, gone),
        _administers(
            "what is left of its keys",
            f"GET /admin/keys/{_LEAVER}",
            200,
            {"versions": [], "shredded": True},
        ),
        *(
            Step(
                f"{tenant} reads its supplier",
                f"GET /suppliers/{{{supplier}}}",
                200,
                {"bank_account": "{account}"},
                bearer=bearer,
            )
            for tenant, supplier, bearer in (
                (_FIRST, "supplier", "manager"),
                (_SECOND, "their_supplier", "their_manager"),
            )
        ),
    ]


def _secrets() -> list[Step | Aside]:
    """
    Rotate what tokens are signed with: those of before are good until the old one is revoked.
    """
    own = f"/admin/secrets/{TOKENS}"

    def ask(title: str, bearer: str, status: int = 200, expect: Any = ANY, **more: Any) -> Step:
        return Step(title, "GET /suppliers/{supplier}", status, expect, bearer=bearer, **more)

    opened = {"bank_account": "{account}"}
    return [
        _administers(
            "the platform's own secrets, and no value",
            "GET /admin/secrets",
            200,
            Members(frozenset({"data", *_SECRET, *_VERSION})),
            shown=True,
            tells=lambda body: [line for one in body["data"] for line in _secret_lines(one)],
        ),
        *(
            _administers(
                f"among them is {name}",
                "GET /admin/secrets",
                200,
                {"data": Contains({"name": name, "rotates": rotates})},
            )
            for name, rotates in ((SEAL, False), (TOKENS, True))
        ),
        _administers(
            "a new secret to sign tokens with",
            f"POST {own}/rotate",
            200,
            {"name": TOKENS, "versions": [{"stage": "previous"}, {"stage": "current"}]},
            keep=("old", "versions.0.version"),
            shown=True,
            tells=_secret_lines,
        ),
        ask("a token of before is good", "manager", expect=opened),
        log_in("log in again", _FIRST, email("manager", _FIRST), "renewed", at=5, shown=True),
        ask("the new token is good", "renewed", expect=opened, shown=True),
        _administers(
            "revoke the old secret",
            f"POST {own}/revoke",
            200,
            {"versions": [{"revoked_at": ANY}, {"stage": "current", "revoked_at": None}]},
            body='{"version": {old}}',
            shown=True,
            tells=_secret_lines,
        ),
        ask(
            "the token of before is refused",
            "manager",
            401,
            problem("credentials_invalid"),
            shown=True,
            tells=_code,
        ),
        _administers(
            "the administrator's, too", "GET /admin/secrets", 401, problem("credentials_invalid")
        ),
        ask("the new token is good as before", "renewed", expect=opened),
    ]


def _verified(settings: Settings) -> Callable[[Mapping[str, str]], Any]:
    def verify(variables: Mapping[str, str]) -> dict[str, Any]:
        text = variables["receipt"]
        service = LocalKeyService(settings.keyset_file, create_missing=False)
        receipt = verify_receipt(text, service)
        other = text.replace(receipt.tenant_id, _FIRST)
        return {
            "tenant": receipt.tenant_id,
            "state": receipt.state.value,
            "canary": receipt.canary,
            "altered": _refusal(lambda: verify_receipt(other, service)),
            "lines": _receipt_lines(receipt),
        }

    return verify


def _receipt_lines(receipt: ShredReceipt) -> list[str]:
    steps = ", ".join(f"{name} {took / 1000:.1f}" for name, took in receipt.steps)
    return [
        f"{receipt.tenant_id}: {receipt.state.value}, master key {receipt.key_ref}",
        f"{receipt.data_keys} data keys overwritten, and the key service says {receipt.canary}",
        f"it took {receipt.seconds * 1000:.1f} ms: {steps}",
        *(f"not covered: {one}" for one in receipt.caveats),
    ]


def _refusal(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except DecryptionError as error:
        return error.code
    return ""


def _code(body: Any) -> Iterable[str]:
    return [f"{body['status']} {body['code']}: {body['title']}"]


def _versions(body: Any) -> Iterable[str]:
    return [f"version {one['version']}: {one['data_keys']} data keys" for one in body["versions"]]


def _secret_lines(body: Any) -> list[str]:
    return [f"{body['name']}: {', '.join(map(_version_of_secret, body['versions']))}"]


def _version_of_secret(version: Mapping[str, Any]) -> str:
    state = "revoked" if version["revoked_at"] else version["stage"] or "superseded"
    until = f" until {version['retires_at']:.19}Z" if state == "previous" else ""
    return f"version {version['version']} {state}{until}"
