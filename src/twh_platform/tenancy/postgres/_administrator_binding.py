"""
What a connection of the administrators' login says to PostgreSQL, and when it is silent.

That login has BYPASSRLS, so no policy stands behind it.  Its connections serve
only inside of `administrator`, and a transaction serves the access that it was
opened under and no other.  There the message with BEGIN is::

    BEGIN; SET LOCAL twh.tenant_id = ''; SET LOCAL application_name = 'twh-administrator-...'

No tenant is bound, whichever is current.  Nothing reads the application's name
but people: with ``%a`` in ``log_line_prefix`` it joins what the server logs to
the stated reason.
"""

from __future__ import annotations

from typing import Any, NoReturn

from ...errors import AdministratorError
from .._administrator import Access, access_here
from ._binding import SETTING, Configured, TransactionBinding
from ._violations import announce_violation

__all__ = ["Administered", "AdministratorBinding"]

_APPLICATION = "twh-administrator-"


class AdministratorBinding(TransactionBinding):
    """
    What one connection knows: under whose access its transaction is, and its residue.

    The methods are those of `TransactionBinding`, and so is what a driver has
    to do.  Each access counts as somebody else: its residue is scrubbed before
    the next one, also of the same person.
    """

    __slots__ = ("_left_by", "_serves")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._serves: Access | None = None
        self._left_by: Access | None = None

    def begin_message(self, begin: str) -> str:
        """
        The statements that open a transaction under the access that is open here.

        Raises:
            twh_platform.errors.AdministratorError: If there is none.
        """
        access = _required()
        self.begins += 1
        self._serves = None
        self.scrubbing = self.pooled or access is not self._left_by
        message = f"{begin}; {_bind(access)}"
        if not self.scrubbing:
            return message
        self._left_by = None
        return f"{self._scrub}; {message}"

    def bind_message(self) -> str:
        """
        The statements that name the access in a transaction which was opened without them.
        """
        return _bind(_required())

    def begun(self) -> None:
        """
        Note that the server has opened a transaction for the access here.
        """
        self._serves = self._left_by = access = access_here()
        if access is not None:
            access.count()

    def scrub_message(self) -> str | None:
        """
        What the session needs before it is used outside a transaction.

        Raises:
            twh_platform.errors.AdministratorError: If no access is open here.
        """
        _required()
        self._serves = None
        self.scrubbing = not self.settled
        if not self.scrubbing:
            return None
        self._left_by = None
        return self._scrub

    def scrubbed(self) -> None:
        """
        Note that the server has carried out what `scrub_message` gave.
        """
        self._left_by = access_here()

    @property
    def settled(self) -> bool:
        """
        Whether all that happened since the last word was under the access here.
        """
        access = access_here()
        return not self.pooled and access is not None and access is self._left_by

    def check(self) -> None:
        """
        Allow the access that is open here to use the open transaction.

        Raises:
            twh_platform.errors.AdministratorError: If there is none, or the
                transaction was opened under another one.
        """
        if _required() is not self._serves:
            _refuse(
                "administrator_switched_in_transaction",
                "the open transaction belongs to another administrator(...): end it first, "
                "or take another connection",
            )


class Administered(Configured):
    """
    A connection class of the administrators' login.
    """

    __slots__ = ()

    _binding_kind = AdministratorBinding

    @classmethod
    def using(cls, *, pooled: bool = False) -> Any:  # type: ignore[override]  # no tenant, no seal
        """
        Make a class of connections like this one.

        Args:
            pooled: Whether a pooler in transaction mode is in between.
        """
        return super().using(pooled=pooled)


def _required() -> Access:
    access = access_here()
    if access is None:
        _refuse(
            "administrator_access_missing",
            "connections of the administrators' login work inside administrator(...) only, "
            "which says who and why",
        )
    return access


def _refuse(code: str, message: str) -> NoReturn:
    announce_violation(code)
    raise AdministratorError(message, code=code)


def _bind(access: Access) -> str:
    name = f"{_APPLICATION}{access.entered.access_id}"
    return f"SET LOCAL {SETTING} = ''; SET LOCAL application_name = '{name}'"
