"""
What a connection says to PostgreSQL so that a transaction belongs to a tenant.

The tenant is a setting of one transaction.  It travels in the same message as
``BEGIN``, so it costs no round trip::

    BEGIN; SET LOCAL twh.tenant_id = 'acme'

In a sealed database the literal is a token that has the tenant in it, see
`_seal`.

Every transaction is bound, also one that has no tenant: it is bound to the
empty string, which the policies refuse, whatever a session was left with.

Outside a transaction a session still holds things that a transaction's end
does not take back: cursors WITH HOLD, temporary tables, LISTEN, advisory
locks, settings.  When a connection changes tenant, `_SCRUB` goes ahead in the
same message.  It is a transaction of its own, because what DISCARD TEMP drops
in the tenant's transaction would be back after a ROLLBACK.

A statement that a tenant sends outside a transaction has no BEGIN to ride on.
There the scrub is a message of its own, on a change of tenant only.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from ...errors import TenantMismatchError
from .._context import _current, known_id
from ._seal import Seal
from ._violations import announce_violation

__all__ = ["KEPT", "SETTING", "Configured", "TransactionBinding"]

SETTING = "twh.tenant_id"

KEPT = ("application_name", "client_encoding", "DateStyle", "TimeZone")
"""What a client may say when it connects through PgBouncer, and be given in any session."""

_SCRUB = "; ".join(  # noqa: FLY002 -- one statement a line, with its reason
    (
        # The last tenant's defaults may be those of a transaction that waits.
        "BEGIN ISOLATION LEVEL READ COMMITTED",
        # First, so that the last tenant's search_path and statement_timeout
        # do not govern the rest.
        "RESET ALL",
        "SET SESSION AUTHORIZATION DEFAULT",  # undoes SET ROLE too
        "CLOSE ALL",
        "UNLISTEN *",
        "SELECT pg_catalog.pg_advisory_unlock_all()",
        # Those of the drivers stay: SQL cannot make one that looks like theirs.
        # Each name is qualified, types too: pg_temp is searched before pg_catalog.
        (
            "DO $$DECLARE made pg_catalog.text;\nBEGIN\n"
            "FOR made IN SELECT name FROM pg_catalog.pg_prepared_statement() WHERE from_sql LOOP\n"
            "EXECUTE pg_catalog.format('DEALLOCATE %I', made);\nEND LOOP;\nEND$$"
        ),
        "DISCARD TEMP",
        "DISCARD SEQUENCES",
        "COMMIT",
    )
)

# What runs for every statement is spared the calls around this one: they cost
# as much as the rest of it.
_current_tenant = _current.get

# No tenant id is empty, and None stands for work without a tenant.
_UNKNOWN = ""


class TransactionBinding:
    """
    What one connection knows: whose transaction is open, and whose residue it has.

    A driver sends a message from here and, once the server has carried it
    out, says so with `begun` or `scrubbed`.  In between the message may be
    cancelled, before or after it took effect.  Until the word comes, nobody
    may use an open transaction and the residue is unknown.

    Args:
        seal: Seals the tenants, for a sealed database.

        pooled: Whether each transaction may be in another server session, so
            that the residue is never known.

        startup: Settings that the client gave when it connected.  A pooler
            has made them with SET, so RESET ALL would take them away: there
            the scrub makes them again.

    Attributes:
        begins: How many times a BEGIN was asked for.

        lost: Whether a prepared statement of the driver is gone, so that the
            connection has to be given up as soon as no transaction is open.

        pooled: Whether a pooler is in between.

        scrubbing: Whether the message that was given last has the scrub in it.
    """

    __slots__ = ("_bound", "_residue", "_scrub", "_seal", "begins", "lost", "pooled", "scrubbing")

    def __init__(
        self,
        seal: Seal | None = None,
        *,
        pooled: bool = False,
        startup: Mapping[str, str] | None = None,
    ) -> None:
        self._seal = seal
        self.pooled = pooled
        self._scrub = _scrub_keeping(startup) if pooled and startup else _SCRUB
        self._bound: str | None = _UNKNOWN
        self._residue: str | None = _UNKNOWN
        self.begins = 0
        self.lost = False
        self.scrubbing = False

    def begin_message(self, begin: str) -> str:
        """
        The statements that open a transaction for the current tenant.

        They are joined by ``"; "`` and fit one simple query.

        Args:
            begin: The driver's own ``BEGIN``, with its options, no semicolon.
        """
        self.begins += 1
        self._bound = _UNKNOWN
        tenant = _current_tenant()
        tenant_id = None if tenant is None else tenant.id
        seal = self._seal
        if seal is None or tenant_id is None:
            message = _message(begin, tenant_id)
        else:
            message = f"{begin}; SET LOCAL {SETTING} = '{seal.token(tenant_id)}'"
        self.scrubbing = self.pooled or tenant_id != self._residue
        if not self.scrubbing:
            return message
        self._residue = _UNKNOWN
        return f"{self._scrub}; {message}"

    def bind_message(self) -> str:
        """
        The statement that binds a transaction which was opened without it.

        `scrub_message` comes before that transaction.
        """
        tenant_id, seal = _current_id(), self._seal
        return _bind(tenant_id if seal is None or tenant_id is None else seal.token(tenant_id))

    def begun(self) -> None:
        """
        Note that the server has opened a transaction for the current tenant.
        """
        # Not what was asked for last: that may have been another task's try.
        # Also if a lease has ended meanwhile: the next use is refused, and
        # whoever tidies up has to know what there is.
        self._bound = self._residue = known_id(_current_tenant())

    def scrub_message(self) -> str | None:
        """
        What the session needs before the current tenant uses it outside a transaction.

        No tenant is bound there, so the policies refuse, but the session's
        cursors, tables and settings can be seen.  A transaction that the use
        opens without the driver's knowledge belongs to nobody.

        Returns:
            Statements, joined by ``"; "``, or None if the residue is the
            tenant's own.

        Raises:
            twh_platform.errors.TenantMismatchError: With code
                ``pooled_outside_transaction``, behind a pooler.
        """
        self._bound = _UNKNOWN
        if self.pooled:
            raise TenantMismatchError(
                "behind a pooler a statement outside of a transaction may be run in a "
                "session that another tenant has left its settings in: open a transaction",
                code="pooled_outside_transaction",
            )
        self.scrubbing = not self.settled
        if not self.scrubbing:
            return None
        self._residue = _UNKNOWN
        return self._scrub

    def scrubbed(self) -> None:
        """
        Note that the server has carried out what `scrub_message` gave.
        """
        self._residue = known_id(_current_tenant())

    @property
    def settled(self) -> bool:
        """
        Whether all that happened since the last word was the current tenant's.
        """
        return not self.pooled and self._residue == _current_id()

    def check(self) -> None:
        """
        Allow the current tenant to use the open transaction.

        Raises:
            twh_platform.errors.TenantMismatchError: If it was opened for
                another tenant, for none, or behind the driver's back.
        """
        tenant = _current_tenant()
        tenant_id = None if tenant is None else tenant.id
        if tenant_id != self._bound:
            announce_violation("tenant_switched_in_transaction")
            raise TenantMismatchError(
                f"the open transaction belongs to {_name(self._bound)} and the "
                f"current tenant is {_name(tenant_id)}: end the transaction "
                "first, or take another connection",
                code="tenant_switched_in_transaction",
            )


class Configured:
    """
    A connection class with settings of its own.

    Drivers make connections from a class, so what all connections of a pool
    have in common is said to the class.
    """

    __slots__ = ()

    _binding_kind = TransactionBinding
    _seal: Seal | None = None
    _pooled = False

    @classmethod
    def using(cls, *, seal: Seal | None = None, pooled: bool = False) -> Any:
        """
        Make a class of connections like this one.

        Args:
            seal: Seals the tenants, for a sealed database.

            pooled: Whether a pooler in transaction mode is in between.  Then
                nobody knows what the last tenant left in a server session,
                and every transaction begins with the scrub.
        """
        settings = {
            "__module__": cls.__module__,
            "__slots__": (),
            "_seal": seal,
            "_pooled": pooled,
        }
        return type(cls.__name__, (cls,), settings)


def _current_id() -> str | None:
    tenant = _current_tenant()
    return None if tenant is None else tenant.id


def _bind(text: str | None) -> str:
    # The alphabet of tenant ids makes the literal safe; see valid_tenant_id.
    return f"SET LOCAL {SETTING} = '{text or ''}'"


@lru_cache(maxsize=4096)
def _message(begin: str, tenant_id: str | None) -> str:
    return f"{begin}; {_bind(tenant_id)}"


def _scrub_keeping(settings: Mapping[str, str]) -> str:
    given = {name.lower(): value for name, value in settings.items() if value}
    made = [
        f"SET {name} = E'{_escaped(given[name.lower()])}'" for name in KEPT if name.lower() in given
    ]
    return _SCRUB.replace("RESET ALL", "; ".join(["RESET ALL", *made]))


def _escaped(value: str) -> str:
    # Statements are joined by "; " and split at it: only what is harmless stays as it is.
    text = value.encode("ascii", "replace").decode()
    return "".join(char if char.isalnum() else f"\\u{ord(char):04x}" for char in text)


def _name(tenant_id: str | None) -> str:
    if tenant_id is None:
        return "no tenant"
    return f"tenant {tenant_id!r}" if tenant_id else "nobody that bound it"
