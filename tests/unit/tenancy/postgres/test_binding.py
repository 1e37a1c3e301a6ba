"""
What a connection says, and when, without a server.
"""

from __future__ import annotations

import re

import pytest

from twh_platform.errors import TenantMismatchError
from twh_platform.tenancy import Tenant, bind_tenant
from twh_platform.tenancy.postgres._binding import TransactionBinding

A, B = Tenant(id="a"), Tenant(id="b")
BOUND_TO_A = "BEGIN; SET LOCAL twh.tenant_id = 'a'"


def begun(tenant: Tenant | None) -> TransactionBinding:
    """
    A binding that has a transaction open for *tenant*.
    """
    binding = TransactionBinding()
    with bind_tenant(tenant):
        binding.begin_message("BEGIN")
        binding.begun()
    return binding


class TestMessages:
    """
    The text that travels with BEGIN.
    """

    def test_first_use(self) -> None:
        """
        What a new connection holds is unknown, so its first message scrubs.
        """
        with bind_tenant(A):
            message = TransactionBinding().begin_message("BEGIN")

        assert message.startswith("BEGIN ISOLATION LEVEL READ COMMITTED; RESET ALL; ")
        assert message.endswith("COMMIT; " + BOUND_TO_A)

    def test_same_tenant(self) -> None:
        """
        A tenant that follows itself needs no scrub.
        """
        binding = begun(A)
        with bind_tenant(A):
            assert binding.begin_message("BEGIN") == BOUND_TO_A

    def test_other_tenant(self) -> None:
        """
        A tenant that follows another one does, and so does nobody.
        """
        with bind_tenant(B):
            assert "DISCARD TEMP" in begun(A).begin_message("BEGIN")
        assert "DISCARD TEMP" in begun(A).begin_message("BEGIN")

    def test_no_tenant(self) -> None:
        """
        Without a tenant the setting is empty, whatever the session says.
        """
        assert begun(None).begin_message("BEGIN") == "BEGIN; SET LOCAL twh.tenant_id = ''"

    def test_options(self) -> None:
        """
        The driver's BEGIN keeps its options.
        """
        with bind_tenant(A):
            message = begun(A).begin_message("BEGIN READ ONLY")

        assert message == "BEGIN READ ONLY; SET LOCAL twh.tenant_id = 'a'"

    def test_scrub_has_the_transaction_outside(self) -> None:
        """
        The scrub is a transaction of its own: a ROLLBACK in the next cannot undo it.
        """
        with bind_tenant(B):
            statements = begun(A).begin_message("BEGIN").split("; ")

        assert statements[0].startswith("BEGIN ISOLATION")
        assert statements[-3:-1] == ["COMMIT", "BEGIN"]

    def test_settings_are_reset_first(self) -> None:
        """
        No setting of the last tenant governs the rest of the scrub.
        """
        scrub = begun(A).scrub_message() or ""

        assert scrub.split("; ")[1] == "RESET ALL"
        assert "pg_catalog.pg_advisory_unlock_all()" in scrub

    def test_interrupted(self) -> None:
        """
        Until the server has answered, the residue is unknown.
        """
        binding = begun(A)
        with bind_tenant(B):
            binding.begin_message("BEGIN")
            assert "DISCARD TEMP" in binding.begin_message("BEGIN")
        with bind_tenant(A):
            assert "DISCARD TEMP" in binding.begin_message("BEGIN")

    def test_late(self) -> None:
        """
        The binding alone, for a transaction that is open already.
        """
        with bind_tenant(A):
            assert TransactionBinding().bind_message() == "SET LOCAL twh.tenant_id = 'a'"


class TestOutsideTransactions:
    """
    Statements that no BEGIN goes ahead of.
    """

    def test_residue_of_another(self) -> None:
        """
        The session is scrubbed once for a tenant that comes to it.
        """
        binding = begun(A)
        with bind_tenant(B):
            assert binding.scrub_message()
            binding.scrubbed()
            assert binding.scrub_message() is None
            assert binding.settled

    def test_own_residue(self) -> None:
        """
        It is left as it is for the tenant whose it is.
        """
        binding = begun(A)
        with bind_tenant(A):
            assert binding.scrub_message() is None

    def test_transaction_behind_the_back(self) -> None:
        """
        A transaction that such a statement opens serves nobody.
        """
        binding = begun(A)
        with bind_tenant(A):
            binding.scrub_message()
            with pytest.raises(TenantMismatchError, match="nobody that bound it"):
                binding.check()


class TestCheck:
    """
    Whose turn it is in an open transaction.
    """

    def test_own(self) -> None:
        """
        The tenant's, or nobody's if it was opened for nobody.
        """
        binding = begun(A)
        with bind_tenant(A):
            binding.check()
        begun(None).check()

    @pytest.mark.parametrize(
        ("owner", "current", "said"),
        [
            (A, B, "tenant 'a' and the current tenant is tenant 'b'"),
            (A, None, "tenant 'a' and the current tenant is no tenant"),
            (None, A, "no tenant and the current tenant is tenant 'a'"),
        ],
    )
    def test_others(self, owner: Tenant | None, current: Tenant | None, said: str) -> None:
        """
        Everybody else is refused with a stable code, and told both sides.
        """
        binding = begun(owner)
        with bind_tenant(current), pytest.raises(TenantMismatchError, match=said) as caught:
            binding.check()

        assert caught.value.code == "tenant_switched_in_transaction"

    @pytest.mark.parametrize("tenant", [A, B, None])
    def test_interrupted(self, tenant: Tenant | None) -> None:
        """
        A BEGIN whose outcome is not known serves nobody.
        """
        binding = begun(A)
        with bind_tenant(A):
            binding.begin_message("BEGIN")
        with bind_tenant(tenant), pytest.raises(TenantMismatchError):
            binding.check()

    def test_failed_attempt_of_another(self) -> None:
        """
        Who tries to begin in between does not become the owner.
        """
        binding = TransactionBinding()
        with bind_tenant(A):
            binding.begin_message("BEGIN")
            with bind_tenant(B):
                binding.begin_message("BEGIN")
            binding.begun()
        with bind_tenant(B), pytest.raises(TenantMismatchError):
            binding.check()


class TestPooled:
    """
    What is said where a pooler is in between.
    """

    def test_every_transaction_is_scrubbed(self) -> None:
        """
        The scrub is in each message, also for one tenant time and again.
        """
        binding = TransactionBinding(pooled=True)
        with bind_tenant(A):
            for _ in range(3):
                assert binding.begin_message("BEGIN").startswith(
                    "BEGIN ISOLATION LEVEL READ COMMITTED; RESET ALL; "
                )
                binding.begun()
                assert not binding.settled

    def test_outside_of_a_transaction_it_refuses(self) -> None:
        """
        No scrub is sure to reach the session that the statement will meet.
        """
        binding = TransactionBinding(pooled=True)
        for tenant in (A, None):
            with bind_tenant(tenant), pytest.raises(TenantMismatchError) as refused:
                binding.scrub_message()
            assert refused.value.code == "pooled_outside_transaction"

    def test_startup_settings_are_made_again(self) -> None:
        """
        After RESET ALL come those that a client may give, whatever case they are in.
        """
        startup = {"timezone": "Asia/Tokyo", "application_name": "shop", "jit": "off"}
        message = TransactionBinding(pooled=True, startup=startup).begin_message("BEGIN")

        assert message.startswith(
            "BEGIN ISOLATION LEVEL READ COMMITTED; RESET ALL; SET application_name = E'shop'; "
            "SET TimeZone = E'Asia\\u002fTokyo'; SET SESSION AUTHORIZATION DEFAULT; "
        )
        assert "jit" not in message

    @pytest.mark.parametrize("value", ["'; DROP TABLE things; --", "\\'", "a; b", "\n", "\N{BOMB}"])
    def test_startup_settings_stay_values(self, value: str) -> None:
        """
        Nothing in a value ends the literal, or the statement.
        """
        startup = {"application_name": value}
        bare = TransactionBinding(pooled=True).begin_message("BEGIN")
        message = TransactionBinding(pooled=True, startup=startup).begin_message("BEGIN")
        (setting,) = (one for one in message.split("; ") if "application_name" in one)

        assert re.fullmatch(r"SET application_name = E'([A-Za-z0-9]|\\u[0-9a-f]{4})*'", setting)
        assert len(message.split("; ")) == len(bare.split("; ")) + 1

    def test_unpooled_has_its_settings(self) -> None:
        """
        Without a pooler RESET ALL goes back to what the client gave, so nothing is added.
        """
        message = TransactionBinding(startup={"TimeZone": "UTC"}).begin_message("BEGIN")

        assert "TimeZone" not in message
