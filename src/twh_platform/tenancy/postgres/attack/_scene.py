"""
Where attacks take place: sessions of the two tenants, and what there is to steal.

Nothing here knows a driver; `_psycopg_scene` opens the sessions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from ..lint._catalog import Constraint, Index, Relation
from ..lint._sql import literal, name_sql
from ..lint._survey import Survey

__all__ = [
    "MOST",
    "Column",
    "Fault",
    "Prize",
    "Said",
    "Scene",
    "Session",
    "Table",
    "counted",
    "few_rows",
    "listed_values",
    "setting_sql",
]

MOST = 1000
"""How many rows are counted at the most, so that a large table is not read whole."""

_FEW = 20

# What says that the server refused, rather than that the attack was put wrongly.
_PRIVILEGE = "42501"
_WRITTEN_WRONGLY = "42"
_TIMED_OUT = ("57014", "55P03", "25P02", "40P01")
_UNSUPPORTED = "0A000"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """
    What the server said in refusal.
    """

    state: str
    message: str
    constraint: str = ""
    table: str = ""

    @property
    def broken(self) -> bool:
        """
        Whether the attack was not carried out: it proves nothing.
        """
        wrong = self.state.startswith(_WRITTEN_WRONGLY) and self.state != _PRIVILEGE
        return wrong or self.state in _TIMED_OUT or self.state == _UNSUPPORTED

    @property
    def by_constraint(self) -> bool:
        """
        Whether only a key or a check stopped a row that the policies had let through.
        """
        return self.state.startswith("23") and bool(
            self.constraint or (self.state == "23502" and self.table)
        )

    def __str__(self) -> str:
        return f"{self.state}: {self.message}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """
    What the server answered: rows of the last statement that has some, or a fault.
    """

    rows: tuple[tuple[Any, ...], ...] = ()
    changed: int = 0
    fault: Fault | None = None

    @property
    def number(self) -> int:
        """
        The last column of the last row, as a count.
        """
        if not self.rows or self.rows[-1][-1] is None:
            return 0
        return int(self.rows[-1][-1])

    @property
    def text(self) -> str:
        """
        The first column of the first row.
        """
        return "" if not self.rows or self.rows[0][0] is None else str(self.rows[0][0])


class Session(Protocol):
    """
    A transaction of somebody, which is rolled back at the end.
    """

    def attempt(self, sql: str) -> Said:
        """
        Send SQL as an injection would be sent, and undo what it did.
        """
        ...

    def say(self, sql: str) -> Said:
        """
        Send SQL as it is; it lasts until the end of the transaction.
        """
        ...

    def copied(self, sql: str) -> Said:
        """
        Run a COPY to the client; each line is a row.
        """
        ...

    def plan(self, name: str, sql: str) -> None:
        """
        Prepare a query that gives one value; it stays with the connection.
        """
        ...

    def planned(self, name: str) -> Said:
        """
        Execute it.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """
    A column, and what the login may do with it.
    """

    name: str
    type: str
    made: bool
    selects: bool
    inserts: bool
    updates: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Prize:
    """
    What rows of the other tenant can be counted in: a table, a partition or a view.

    Attributes:
        name: As it is shown.

        sql: As it is written in SQL.

        foreign: The condition that finds rows of the other tenant.

        theirs: How many of them the other tenant sees itself, up to `MOST`;
            None if the login may not read it.

        problem: Why it cannot be told what there is.
    """

    name: str
    sql: str
    column: str
    foreign: str
    theirs: int | None
    problem: str = ""

    @property
    def count(self) -> str:
        """
        The query that an attacker counts with.
        """
        return counted(self.sql, self.foreign)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """
    A tenant table.

    Attributes:
        prize: What there is to steal.

        values: What its tenant column has in rows of the other tenant.

        own: What it has in rows of the first one.

        by_reference: Whether that column refers to rows which are a tenant's.

        samples: Some rows of the other tenant, as texts by column.

        mine: One row of the first one.

        whole: Whether the login may read all columns, the system's too.

        seen: How many rows of the other one the first one sees by plainly asking.
    """

    relation: Relation
    prize: Prize
    by_reference: bool
    values: tuple[str, ...]
    own: tuple[str, ...]
    columns: tuple[Column, ...]
    samples: tuple[dict[str, str | None], ...]
    mine: dict[str, str | None]
    whole: bool
    seen: int

    @property
    def name(self) -> str:
        """
        As it is shown.
        """
        return self.prize.name

    @property
    def sql(self) -> str:
        """
        As it is written in SQL.
        """
        return self.prize.sql

    @property
    def column(self) -> str:
        """
        The tenant column.
        """
        return self.prize.column


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """
    Everything that an attack needs.

    Attributes:
        tenant: What the attacker's own tenant is called.

        other: What the one is called whose rows are to be stolen.

        settings: Names of the settings that bind a tenant.

        claims: What an attacker can say there to pass for the other, by how.

        roles: What the login can become.

        sealed: Whether the tenant is sealed.
    """

    survey: Survey
    opens: Opens
    tenant: str
    other: str
    tables: tuple[Table, ...]
    children: tuple[Prize, ...]
    views: tuple[Prize, ...]
    settings: tuple[str, ...]
    claims: dict[str, str]
    roles: tuple[str, ...]
    sealed: bool

    def claimed(self) -> Iterator[tuple[str, str, str]]:
        """
        Every setting with every claim: how, the setting in SQL and the literal.
        """
        for setting in self.settings:
            for how, value in self.claims.items():
                yield how, setting_sql(setting), literal(value)

    def unique(self, table: Table) -> tuple[Index, ...]:
        """
        The unique keys of a table that have no tenant in them.
        """
        tenant = next(
            one.number
            for one in self.survey.columns[table.relation.oid].values()
            if one.name == table.column
        )
        return tuple(
            one
            for one in self.survey.indexes_of.get(table.relation.oid, ())
            if one.unique and one.valid and tenant not in one.columns[: one.keys]
        )

    def foreign_keys(self) -> Iterator[tuple[Constraint, Table, Table]]:
        """
        The foreign keys between tenant tables, with both of them.
        """
        tables = {one.relation.oid: one for one in self.tables}
        for key in self.survey.foreign_keys:
            known = key.relation in tables and key.foreign in tables
            # Where a row is whose it refers to, the key is the tie itself.
            if known and not tables[key.relation].by_reference:
                yield key, tables[key.relation], tables[key.foreign]


class Opens(Protocol):
    """
    Opens sessions; each is rolled back when it is left.
    """

    def first(self) -> AbstractContextManager[Session]:
        """
        A transaction of the attacker's own tenant.
        """
        ...

    def other(self) -> AbstractContextManager[Session]:
        """
        A transaction of the other tenant.
        """
        ...

    def nobody(self) -> AbstractContextManager[Session]:
        """
        A transaction of a plain connection of the login, bound to nobody.
        """
        ...

    def reused(self, *, first: bool) -> AbstractContextManager[Session]:
        """
        A transaction of either tenant, on one and the same connection.
        """
        ...


def counted(source: str, condition: str) -> str:
    """
    The query that counts rows, up to `MOST`.
    """
    return f"SELECT count(*) FROM (SELECT FROM {source} WHERE {condition} LIMIT {MOST}) AS twh_n"  # noqa: S608 -- that is what it is for


def listed_values(column: str, type_: str, values: Sequence[str]) -> str:
    """
    The condition that a column has one of these values, in a form that an index serves.
    """
    listed = ", ".join(map(literal, values))
    return f"{name_sql(column)} = ANY (ARRAY[{listed}]::{type_}[])"


def few_rows(table: Table, condition: str) -> str:
    """
    The same condition for a few rows only, so that a large table is not changed whole.
    """
    if not table.whole:
        return condition
    few = f"SELECT ctid FROM {table.sql} WHERE {condition} LIMIT {_FEW}"  # noqa: S608 -- as above
    return f"{condition} AND ctid = ANY (ARRAY({few}))"


def setting_sql(setting: str) -> str:
    """
    A setting's name, as SET takes it.
    """
    return ".".join(map(name_sql, setting.split(".")))
