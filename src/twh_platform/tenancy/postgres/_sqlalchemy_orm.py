"""
SQLAlchemy sessions that belong to one tenant while they hold anything of it.

A session answers `get` and many lazy loads from its identity map, without a
word to the database, so no policy can refuse them.  Here the session does.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, NoReturn

from ..._extras import missing_extra
from ...errors import TenantMismatchError
from .._context import current_tenant
from ._violations import announce_violation

try:
    from sqlalchemy import event
    from sqlalchemy.orm import Session
    from sqlalchemy.orm.state import InstanceState
except ImportError as cause:
    raise missing_extra("sqlalchemy", cause) from cause

__all__ = ["TenantSession"]

# No tenant id is empty, and None stands for work without a tenant.
_FREE = ""

# In the `info` of an object's state, which is pickled with it.
_MARK = "twh.tenant"

_USES = (
    "__iter__",
    "_identity_lookup",  # where lazy loads of many-to-one and Query.get() look first
    "add",
    "add_all",
    "begin",
    "begin_nested",
    "bulk_insert_mappings",
    "bulk_save_objects",
    "bulk_update_mappings",
    "commit",
    "connection",
    "delete",
    "delete_all",
    "enable_relationship_loading",
    "execute",
    "flush",
    "get",
    "get_one",
    "merge",
    "merge_all",
    "prepare",
    "query",
    "refresh",
    "scalar",
    "scalars",
)


class TenantSession(Session):
    """
    A `sqlalchemy.orm.Session` pinned to the tenant of its first use.

    Any use under another tenant, or under none, raises
    `twh_platform.errors.TenantMismatchError` with code
    ``session_of_another_tenant``: also what would be answered from memory,
    such as `get` of an object that is there already.  `close`, `reset` and
    `expunge_all` let go of its objects and make it free again.  They, `expunge`,
    `expire` and `rollback` can be called by anyone.

    Objects remember whose they are, pickled too: one that was loaded or stored
    for one tenant is refused, with code ``object_of_another_tenant``, where it
    is added to or merged into a session of another.

    What an object holds already is read without its session, and so is what a
    result has fetched: nobody can refuse that.

        >>> from sqlalchemy.ext.asyncio import async_sessionmaker
        >>> from sqlalchemy.orm import sessionmaker
        >>> sessions = sessionmaker(engine, class_=TenantSession)  # doctest: +SKIP
        >>> sessions = async_sessionmaker(
        ...     async_engine, sync_session_class=TenantSession
        ... )  # doctest: +SKIP
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._twh_tenant: str | None = _FREE
        super().__init__(*args, **kwargs)

    def expunge_all(self) -> None:
        """
        Let go of all objects; `close` and `reset` do it too.
        """
        super().expunge_all()
        self._twh_tenant = _FREE

    def _twh_admit(self) -> None:
        tenant = current_tenant()
        tenant_id = None if tenant is None else tenant.id
        if tenant_id == self._twh_tenant:
            return
        if self._twh_tenant != _FREE:
            _refuse(self._twh_tenant, tenant_id, code="session_of_another_tenant")
        self._twh_tenant = tenant_id

    def _twh_admit_state(self, state: InstanceState[Any]) -> None:
        # What was loaded for nobody has no tenant's rows in it.
        mark = state.info.get(_MARK)
        if mark not in {None, self._twh_tenant}:
            _refuse(mark, self._twh_tenant, code="object_of_another_tenant")

    def _merge(self, state: Any, *args: Any, **kwargs: Any) -> Any:
        # Every object of a merge comes through here, those that it refers to as well.
        self._twh_admit_state(state)
        return super()._merge(state, *args, **kwargs)


def _refuse(owner: str | None, tenant_id: str | None, *, code: str) -> NoReturn:
    announce_violation(code)
    what = code.partition("_")[0]
    message = f"this {what} belongs to {_name(owner)} and the current tenant is {_name(tenant_id)}"
    raise TenantMismatchError(message, code=code)


def _name(tenant_id: str | None) -> str:
    return "no tenant" if tenant_id is None else f"tenant {tenant_id!r}"


def _guarded(use: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(use)
    def guarded(self: TenantSession, *args: Any, **kwargs: Any) -> Any:
        self._twh_admit()
        return use(self, *args, **kwargs)

    return guarded


for _name_of_use in _USES:
    if hasattr(Session, _name_of_use):  # some came with later versions
        setattr(TenantSession, _name_of_use, _guarded(getattr(Session, _name_of_use)))


@event.listens_for(TenantSession, "before_commit")
def _before_commit(session: TenantSession) -> None:
    # `with session.begin()` commits the transaction, not the session.
    session._twh_admit()  # noqa: SLF001 -- ours


@event.listens_for(TenantSession, "before_attach", raw=True)
def _before_attach(session: TenantSession, state: InstanceState[Any]) -> None:
    # An object can be attached through another one, without a word to the session.
    session._twh_admit()  # noqa: SLF001 -- ours
    session._twh_admit_state(state)  # noqa: SLF001 -- ours


@event.listens_for(TenantSession, "loaded_as_persistent", raw=True)
@event.listens_for(TenantSession, "pending_to_persistent", raw=True)
def _mark(session: TenantSession, state: InstanceState[Any]) -> None:
    # For every object that is loaded: `state.info` itself takes three times as long.
    state.__dict__.setdefault("info", {})[_MARK] = session._twh_tenant  # noqa: SLF001 -- ours
