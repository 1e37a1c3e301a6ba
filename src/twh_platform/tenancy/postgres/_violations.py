"""
Telling that the database, or the binding in front of it, refused something.

A violation is announced once, where it leaves the driver.  What SQL catches
inside of the server, in a block of PL/pgSQL with EXCEPTION, is seen by nobody
out here.
"""

from __future__ import annotations

from ..._signals import announce, has_listeners
from .._announcements import TenantViolation
from .._context import binding_here, known_id

__all__ = ["VIOLATIONS", "announce_error", "announce_violation", "lost_statement"]

VIOLATIONS = {
    "TW001": "tenant_unbound",
    "TW002": "tenant_id_malformed",
    "TW003": "tenant_seal_invalid",
    "42501": "tenant_row_refused",
}
"""The codes of violations, by the SQLSTATE that tells of them."""

_MARK = "_twh_announced"


def announce_violation(code: str, *, sqlstate: str = "") -> None:
    """
    Tell that something was refused to the current tenant.
    """
    if not has_listeners(TenantViolation):
        return
    tenant_id = known_id(binding_here())
    announce(TenantViolation(code=code, tenant_id=tenant_id, sqlstate=sqlstate))


def announce_error(error: BaseException | None) -> None:
    """
    Tell of a driver's error if it is a violation, once.
    """
    sqlstate = getattr(error, "sqlstate", None)
    code = VIOLATIONS.get(sqlstate) if isinstance(sqlstate, str) else None
    # SQLAlchemy makes an error of its own from asyncpg's.
    told = hasattr(error, _MARK) or hasattr(getattr(error, "__cause__", None), _MARK)
    if code is not None and not told:
        setattr(error, _MARK, True)
        announce_violation(code, sqlstate=str(sqlstate))


def lost_statement(error: BaseException | None) -> bool:
    """
    Whether a prepared statement of the driver is gone.

    Injected SQL has deallocated it, or put another in its place that the scrub
    took away.  The driver would ask for it for ever: the connection is lost.
    """
    return getattr(error, "sqlstate", None) == "26000"  # invalid_sql_statement_name
