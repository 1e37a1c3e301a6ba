"""
The sessions of a scene: plain connections of psycopg, and ours.

Nothing is ever committed.  Each session is a transaction that ends in ROLLBACK,
and each attempt in it a savepoint that is rolled back to.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Self

from ...._extras import missing_extra
from ....errors import BackendUnavailableError, ConfigurationError
from ..._context import bind_tenant, unbind_tenant
from ..._tenant import Tenant
from .._seal import Seal
from ..lint._sql import literal, name_sql
from ._scene import Fault, Said, Session

try:
    import psycopg
    from psycopg import conninfo, errors
    from psycopg.pq import ExecStatus
    from psycopg.rows import tuple_row
except ImportError as cause:
    raise missing_extra("psycopg", cause) from cause

from ..psycopg import TenantConnection

__all__ = ["Login", "Sessions"]

_SECONDS = 10
_PATIENCE = (
    "-c statement_timeout={statement} -c lock_timeout={lock} "
    "-c idle_in_transaction_session_timeout=300s"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """
    How the service logs in, and how it binds a tenant.

    Attributes:
        dsn: The database.

        settings: What a tenant is told to; empty for tenant connections.

        seal: Seals the tenants.

        role: What the service becomes after it has logged in.

        statement_timeout: Milliseconds.

        lock_timeout: Milliseconds.
    """

    dsn: str = field(repr=False)
    settings: tuple[str, ...] = ()
    seal: Seal | None = None
    role: str | None = None
    statement_timeout: int = 10_000
    lock_timeout: int = 200

    def conninfo(self) -> str:
        """
        The DSN, with timeouts that keep an attack from being in the way.

        Raises:
            twh_platform.errors.ConfigurationError: With code ``attack_dsn_invalid``.
        """
        dsn = re.sub(r"^(postgres(?:ql)?)\+\w+://", r"\1://", self.dsn)
        try:
            given: dict[str, Any] = conninfo.conninfo_to_dict(dsn)
        except psycopg.Error:
            # The message would repeat what it could not read, the password with it.
            raise ConfigurationError("the DSN cannot be read", code="attack_dsn_invalid") from None
        patience = _PATIENCE.format(statement=self.statement_timeout, lock=self.lock_timeout)
        ours: dict[str, Any] = {
            "application_name": "twh-platform tenancy attack",
            "connect_timeout": _SECONDS,
        }
        options = f"{given.pop('options', '')} {patience}".strip()
        return conninfo.make_conninfo(**{**ours, **given, "options": options})

    def without_password(self, text: str) -> str:
        """
        Take the password out of a message.
        """
        with contextlib.suppress(psycopg.Error, ConfigurationError):
            password = conninfo.conninfo_to_dict(self.conninfo()).get("password")
            if password:
                return text.replace(str(password), "***")
        return text


class Sessions:
    """
    Opens the sessions, each kind on a connection of its own.

    Raises:
        twh_platform.errors.BackendUnavailableError: With code
            ``attack_unavailable``, whenever the server is away.
    """

    def __init__(self, login: Login, *, tenant: str, other: str) -> None:
        self._login = login
        self._tenants = {True: tenant, False: other}
        self._connections: dict[str, psycopg.Connection[Any]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._connections.values():
            connection.close()

    def first(self) -> AbstractContextManager[Session]:
        """
        A transaction of the attacker's own tenant.
        """
        return self._opened("first", self._tenants[True])

    def other(self) -> AbstractContextManager[Session]:
        """
        A transaction of the other tenant.
        """
        return self._opened("other", self._tenants[False])

    def nobody(self) -> AbstractContextManager[Session]:
        """
        A transaction of a plain connection, bound to nobody.
        """
        return self._opened("nobody", None)

    def reused(self, *, first: bool) -> AbstractContextManager[Session]:
        """
        A transaction of either tenant, on one and the same connection.
        """
        return self._opened("reused", self._tenants[first])

    @contextlib.contextmanager
    def _opened(self, kind: str, tenant: str | None) -> Iterator[Session]:
        login = self._login
        try:
            connection = self._connected(kind)
            with _bound(None if login.settings else tenant):
                transaction = connection.transaction(force_rollback=True)
                transaction.__enter__()
            session = _Session(connection, tenant=None if login.settings else tenant)
            try:
                for statement in self._binding(tenant):
                    _told(connection, statement)
                yield session
            finally:
                with _bound(session.tenant):
                    transaction.__exit__(None, None, None)
        except psycopg.Error as error:
            text = " ".join(login.without_password(str(error)).split())
            # Not kept as the cause: its message is the one that was not redacted.
            raise BackendUnavailableError(
                f"the database cannot be attacked: {text}", code="attack_unavailable"
            ) from None

    def _binding(self, tenant: str | None) -> Iterator[str]:
        if self._login.role is not None:
            yield f"SET LOCAL ROLE {name_sql(self._login.role)}"
        if tenant is not None:
            for setting in self._login.settings:
                yield f"SELECT set_config({literal(setting)}, {literal(tenant)}, true)"

    def _connected(self, kind: str) -> psycopg.Connection[Any]:
        known = self._connections.get(kind)
        if known is not None and not known.closed:
            return known
        plain = kind == "nobody" or bool(self._login.settings)
        opened: Any = psycopg.Connection if plain else TenantConnection.using(seal=self._login.seal)
        connection: psycopg.Connection[Any] = opened.connect(
            self._login.conninfo(), row_factory=tuple_row
        )
        self._connections[kind] = connection
        return connection


def _told(connection: psycopg.Connection[Any], statement: str) -> None:
    try:
        connection.execute(statement.encode())
    except psycopg.Error as error:
        if connection.closed or error.sqlstate is None:
            raise
        raise ConfigurationError(
            f"no tenant can be bound: {error.diag.message_primary}", code="attack_not_bound"
        ) from error


class _Session:
    def __init__(self, connection: psycopg.Connection[Any], *, tenant: str | None) -> None:
        self._connection = connection
        self.tenant = tenant

    def attempt(self, sql: str) -> Said:
        said = self.say(f"SAVEPOINT twh_attack; {sql}")
        with _bound(self.tenant):
            self._connection.execute("ROLLBACK TO SAVEPOINT twh_attack")
            self._connection.execute("RELEASE SAVEPOINT twh_attack")
        return said

    def say(self, sql: str) -> Said:
        try:
            with _bound(self.tenant):
                cursor = self._connection.execute(sql.encode())
                return _said(cursor)
        except psycopg.Error as error:
            return self._refusal(error)

    def copied(self, sql: str) -> Said:
        self.say("SAVEPOINT twh_copy")
        try:
            with _bound(self.tenant), self._connection.cursor().copy(sql.encode()) as copy:
                said = Said(rows=tuple(tuple(row) for row in copy.rows()))
        except psycopg.Error as error:
            said = self._refusal(error)
        with _bound(self.tenant):
            self._connection.execute("ROLLBACK TO SAVEPOINT twh_copy")
        return said

    def plan(self, name: str, sql: str) -> None:
        self._connection.pgconn.prepare(name.encode(), sql.encode())

    def planned(self, name: str) -> Said:
        # Not by the driver's own ways: after a rollback it forgets what it has prepared.
        result = self._connection.pgconn.exec_prepared(name.encode(), None)
        if result.status != ExecStatus.TUPLES_OK:
            return self._refusal(errors.error_from_result(result))
        value = result.get_value(0, 0) or b"0"
        return Said(rows=((value.decode(),),))

    def _refusal(self, error: psycopg.Error) -> Said:
        if self._connection.closed or error.sqlstate is None:
            raise error
        diagnosis = error.diag
        return Said(
            fault=Fault(
                state=error.sqlstate,
                message=diagnosis.message_primary or "",
                constraint=diagnosis.constraint_name or "",
                table=diagnosis.table_name or "",
            )
        )


def _said(cursor: psycopg.Cursor[Any]) -> Said:
    rows: Sequence[Any] = ()
    changed = 0
    while True:
        if cursor.description:
            rows = cursor.fetchall()
        changed = max(cursor.rowcount, 0) if _changes(cursor) else changed
        if not cursor.nextset():
            return Said(rows=tuple(rows), changed=changed)


def _changes(cursor: psycopg.Cursor[Any]) -> bool:
    return (cursor.statusmessage or "").startswith(("INSERT", "UPDATE", "DELETE", "MERGE"))


@contextlib.contextmanager
def _bound(tenant: str | None) -> Iterator[None]:
    with unbind_tenant() if tenant is None else bind_tenant(Tenant(id=tenant)):
        yield
