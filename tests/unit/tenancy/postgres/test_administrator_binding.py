"""
What a connection of the administrators' login says, and when, without a server.
"""

from __future__ import annotations

import pytest

from tests.support.tenancy import heard
from twh_platform.errors import AdministratorError, ConfigurationError
from twh_platform.tenancy import (
    AdministratorLeft,
    Tenant,
    TenantViolation,
    administrator,
    bind_tenant,
)
from twh_platform.tenancy.postgres import TenantTable, administrator_sql
from twh_platform.tenancy.postgres._administrator_binding import Administered, AdministratorBinding


def access():
    """A statement that nothing is wrong with."""
    return administrator(actor="ada@example.com", reason="ticket 4711")


def begun():
    """A binding that has a transaction open under the access here."""
    binding = AdministratorBinding()
    binding.begin_message("BEGIN")
    binding.begun()
    return binding


def test_begin_names_the_access_and_binds_no_tenant():
    """Whichever tenant is current; the id is what the announcements have."""
    with access() as entered, bind_tenant(Tenant(id="acme")):
        message = begun().begin_message("BEGIN READ ONLY")

    assert message == (
        "BEGIN READ ONLY; SET LOCAL twh.tenant_id = ''; "
        f"SET LOCAL application_name = 'twh-administrator-{entered.access_id}'"
    )


def test_the_first_transaction_of_an_access_scrubs():
    """Of the same person too; the next one of the same access does not."""
    with access():
        binding = AdministratorBinding()
        assert "DISCARD TEMP" in binding.begin_message("BEGIN")
        binding.begun()
        assert "DISCARD TEMP" not in binding.begin_message("BEGIN")
    with access():
        assert "DISCARD TEMP" in binding.begin_message("BEGIN")


def test_behind_a_pooler_every_transaction_scrubs():
    """There the residue is never known."""
    with access():
        binding = AdministratorBinding(pooled=True)
        binding.begin_message("BEGIN")
        binding.begun()

        assert "DISCARD TEMP" in binding.begin_message("BEGIN")
        assert not binding.settled


@pytest.mark.parametrize(
    "use",
    [
        lambda binding: binding.begin_message("BEGIN"),
        lambda binding: binding.bind_message(),
        lambda binding: binding.scrub_message(),
        lambda binding: binding.check(),
    ],
)
def test_outside_every_use_is_refused(use):
    """Before, after, and under a tenant; it is told as a violation of whoever is current."""
    with access():
        binding = begun()

    with (
        heard(TenantViolation) as told,
        bind_tenant(Tenant(id="acme")),
        pytest.raises(AdministratorError) as caught,
    ):
        use(binding)

    assert caught.value.code == "administrator_access_missing"
    assert [(one.code, one.tenant_id) for one in told] == [("administrator_access_missing", "acme")]
    assert not binding.settled


def test_a_transaction_serves_the_access_it_was_opened_under():
    """Not a nested one, and not the next one of the same person."""
    with access():
        binding = begun()
        binding.check()
        with access(), pytest.raises(AdministratorError) as caught:
            binding.check()
        binding.check()

    assert caught.value.code == "administrator_switched_in_transaction"


def test_outside_a_transaction_the_last_one_leaves_nothing():
    """A statement of its own scrubs first, once, and opens no transaction that counts."""
    with access():
        begun()
    with access():
        binding = begun()
        assert binding.scrub_message() is None
        with pytest.raises(AdministratorError):
            binding.check()
    with access():
        assert "CLOSE ALL" in binding.scrub_message()
        assert not binding.settled
        binding.scrubbed()
        assert binding.settled
        assert binding.scrub_message() is None


def test_a_word_that_comes_after_the_end_gives_nothing():
    """An access that ends while the server answers leaves the transaction to nobody."""
    with access():
        binding = AdministratorBinding()
        binding.begin_message("BEGIN")
    binding.begun()

    with access(), pytest.raises(AdministratorError):
        binding.check()


def test_transactions_are_counted():
    """As the announcement of the leave tells."""
    with heard(AdministratorLeft) as signals, access():
        begun()
        begun()

    assert [left.transactions for left in signals] == [2]


def test_its_connections_take_no_seal():
    """They bind no tenant, so there is nothing to be sealed."""
    assert Administered.using(pooled=True)._pooled is True
    with pytest.raises(TypeError, match="seal"):
        Administered.using(seal=None)


def test_grants_are_made_table_by_table():
    """What the declaration grants the application does not count."""
    tables = [
        TenantTable(name="items", privileges=("SELECT", "DELETE")),
        TenantTable(schema="s", name="t"),
    ]
    sql = administrator_sql(tables, role="support")

    assert 'GRANT SELECT ON "public"."items" TO "support";' in sql
    assert 'REVOKE ALL ON "s"."t" FROM "support";\nGRANT SELECT ON "s"."t"' in sql
    assert "DELETE ON" not in sql


def test_nothing_is_granted_where_nothing_is_asked():
    """An empty list takes back what was there."""
    sql = administrator_sql([TenantTable(name="items")], role="support", privileges=())

    assert "GRANT" not in sql
    assert sql.startswith('REVOKE ALL ON "public"."items" FROM "support";')


@pytest.mark.parametrize(
    "asked",
    [
        {"tables": [], "role": "public"},
        {"tables": [], "role": "none"},
        {"tables": [TenantTable(schema="twh", name="seal_keys")], "role": "support"},
        {"tables": [TenantTable(name="a")], "role": "support", "privileges": ("TRUNCATE",)},
    ],
)
def test_what_may_not_be_granted_is_refused(asked):
    """Nobody in particular, the keys of the seal, and what policies know nothing of."""
    with pytest.raises(ConfigurationError):
        administrator_sql(**asked)
