"""
Sealed columns, and columns to find them by, for SQLAlchemy (extra: `sqlalchemy`).

    class Supplier(Base):
        iban: Mapped[str] = mapped_column(Sealed(cipher, of=str))
        iban_index: Mapped[bytes] = mapped_column(BlindIndexed(BlindIndex(cipher, "iban")))

    index_with(Supplier.iban, Supplier.iban_index)

A value is sealed when a statement is sent and opened when a row is read, for
the tenant that is bound then, bound to the names of its table and its column.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Hashable, Iterable, Mapping
from functools import cache
from typing import Any, NoReturn, Protocol, cast, final

from ..._extras import missing_extra
from ...errors import ConfigurationError, KeyServiceError, PlatformError
from .._cipher import AsyncTenantCipher, TenantCipher
from .._envelope import Suite

try:
    from sqlalchemy import Column, LargeBinary, Table, event
    from sqlalchemy.engine import Dialect
    from sqlalchemy.exc import DontWrapMixin
    from sqlalchemy.orm import InstrumentedAttribute
    from sqlalchemy.sql import ClauseElement, operators
    from sqlalchemy.types import TypeDecorator
except ImportError as error:
    raise missing_extra("sqlalchemy", error) from error

__all__ = ["BlindIndexed", "Sealed", "index_with"]

Cipher = TenantCipher | AsyncTenantCipher


class Index(Protocol):
    """
    What makes an index's values of texts: a `BlindIndex`.
    """

    def value(self, text: str) -> bytes:
        """
        What is written.
        """
        ...

    def candidates(self, text: str) -> tuple[bytes, ...]:
        """
        What is searched for; two while the index's key is being changed.
        """
        ...


def _is_harmless(column: ClauseElement, op: Any, given: object = None, *_: object) -> bool:
    if op in {operators.is_, operators.is_not}:
        return True
    if op not in {operator.eq, operator.ne}:
        return False
    # Looking a column up in a dictionary compares it with itself.
    itself = isinstance(given, ClauseElement) and hash(given) == hash(column)
    return given is None or itself


class _Unsearchable(TypeDecorator.Comparator[Any], LargeBinary.Comparator[Any]):
    # Two seals of one value differ, so every answer of the database would be wrong.

    def operate(self, op: Any, *other: Any, **kwargs: Any) -> Any:
        if _is_harmless(self.expr, op, *other):
            return super().operate(op, *other, **kwargs)
        self._refuse(op)

    def reverse_operate(self, op: Any, *_: Any, **__: Any) -> Any:
        self._refuse(op)

    def _refuse(self, op: Any) -> NoReturn:
        message = (
            f"{self.expr} is sealed: the database cannot compute {op.__name__} on it; "
            "search by a BlindIndexed column"
        )
        raise ConfigurationError(message, code="sealed_not_comparable")


class Sealed(TypeDecorator[Any]):
    """
    A column whose values are sealed: ``bytea`` in the database, a value in Python.

    It is bound to the tenant, its table and its column: what is copied to
    another of them does not open.  Rows are not told apart, for a type does not
    see them: whoever can write the table can swap two values of one column and
    tenant.  Where that matters, seal with the cipher itself and a context that
    has the row's key.

    The first value of a tenant loads its data key, which blocks; under an async
    engine that holds up the loop, so ``await cipher.warm()`` before.

    One object belongs to one column.  NULL stays NULL.  The database can
    compute nothing on it but ``IS NULL``.

    Args:
        cipher: A `TenantCipher`, an `AsyncTenantCipher`, or a function that
            gives one, for models that are imported before there is one.

        of: ``bytes`` or ``str``, which is sealed as UTF-8.

        suite: See `TenantCipher.seal`.

        table: The name that seals are bound to instead of the table's own, such
            as the old one after a renaming.

        column: The same for the column.

    Raises:
        twh_platform.errors.ConfigurationError: With code
            ``sealed_type_invalid``, for another *of*; later on,
            ``sealed_column_shared`` for one object on two columns,
            ``sealed_column_unknown`` for one on none, and
            ``sealed_not_comparable``.
    """

    impl = LargeBinary
    cache_ok = True
    comparator_factory = _Unsearchable

    def __init__(
        self,
        cipher: Cipher | Callable[[], Cipher],
        of: type[bytes | str] = bytes,
        *,
        suite: Suite = Suite.STREAM,
        table: str | None = None,
        column: str | None = None,
    ) -> None:
        super().__init__()
        if of not in {bytes, str}:
            message = f"a sealed column is of bytes or str, not of {of!r}"
            raise ConfigurationError(message, code="sealed_type_invalid")
        # Under their names: they are the type's key in the cache of statements.
        self.cipher, self.of, self.suite, self.table, self.column = cipher, of, suite, table, column
        self._given = (table, column)
        self._attached: Column[Any] | None = None

    def __repr__(self) -> str:
        return f"Sealed(of={self.of.__name__}, table={self.table!r}, column={self.column!r})"

    @property
    def python_type(self) -> type[bytes | str]:
        """
        What a value is in Python.
        """
        return self.of

    def copy(self, **kwargs: Any) -> Sealed:
        """
        The same, for a column that is a copy (of a mixin's, of a table's) or for a dialect.
        """
        again = super().copy(**kwargs)
        again._attached = None  # noqa: SLF001 -- the same class
        return again

    def process_bind_param(self, value: Any, dialect: Dialect) -> bytes | None:
        """
        Seal a value for the current tenant.
        """
        del dialect
        if value is None:
            return None
        try:
            return self._cipher().seal(self._bytes(value), self._context(), suite=self.suite)
        except Exception as error:  # noqa: BLE001 -- of whatever kind, it would be wrapped
            raise _bare(error)  # noqa: B904 -- its cause is told, or is the error

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        """
        Open what was sealed for the current tenant.
        """
        del dialect
        if value is None:
            return None
        try:
            opened = self._cipher().open(bytes(value), self._context())
        except Exception as error:  # noqa: BLE001 -- of whatever kind, it would be wrapped
            raise _bare(error)  # noqa: B904 -- its cause is told, or is the error
        return opened if self.of is bytes else opened.decode()

    def _cipher(self) -> TenantCipher:
        given = self.cipher
        if callable(given):
            given = given()
        return given.blocking if isinstance(given, AsyncTenantCipher) else given

    def _context(self) -> Mapping[str, str]:
        if self.table is None or self.column is None:
            message = "a Sealed type that is no column's does not know what to bind to"
            raise ConfigurationError(message, code="sealed_column_unknown")
        return {"table": self.table, "column": self.column}

    def _bytes(self, value: Any) -> bytes:
        if self.of is str and isinstance(value, str):
            return value.encode()
        if self.of is bytes and isinstance(value, bytes | bytearray | memoryview):
            return bytes(value)
        kind = type(value).__name__
        del value
        message = f"{self.table}.{self.column} is sealed of {self.of.__name__}, not of {kind}"
        raise ConfigurationError(message, code="sealed_type_invalid")

    def _attach(self, column: Column[Any]) -> None:
        if self._attached not in {None, column}:
            message = f"one Sealed object is on {self._attached} and on {column}: make two"
            raise ConfigurationError(message, code="sealed_column_shared")
        self._attached = column
        event.listen(column, "after_parent_attach", self._name)

    def _name(self, column: Column[Any], table: Table) -> None:
        # Copies of a column have its listeners too, and a type of their own.
        if column.type is self and isinstance(table, Table):
            given_table, given_column = self._given
            self.table = table.fullname if given_table is None else given_table
            self.column = column.name if given_column is None else given_column


@event.listens_for(Sealed, "after_parent_attach")
def _attach(kind: Sealed, column: object) -> None:
    if isinstance(column, Column):
        kind._attach(column)  # noqa: SLF001 -- the same module


@final
class _Candidate:
    # What is searched for, until the statement is sent: then the tenant is known.
    __slots__ = ("place", "text")

    def __init__(self, text: str, place: int) -> None:
        self.text = text
        self.place = place

    def __repr__(self) -> str:
        return "_Candidate(hidden)"


class _Searchable(TypeDecorator.Comparator[Any], LargeBinary.Comparator[Any]):
    def operate(self, op: Any, *other: Any, **kwargs: Any) -> Any:
        given: Any = other[0] if other else None
        if _is_harmless(self.expr, op, *other):
            return super().operate(op, *other, **kwargs)
        if op in {operator.eq, operator.ne} and isinstance(given, str):
            found = operators.in_op if op is operator.eq else operators.not_in_op
            return super().operate(found, _candidates([given]), **kwargs)
        if op in {operators.in_op, operators.not_in_op} and _are_texts(given):
            return super().operate(op, _candidates(given), **kwargs)
        message = (
            f"{self.expr} is a blind index: it is compared with texts, by ==, !=, in_ and not_in"
        )
        raise ConfigurationError(message, code="sealed_not_comparable")

    def reverse_operate(self, op: Any, other: Any, **kwargs: Any) -> Any:
        return self.operate(op, other, **kwargs)


def _are_texts(given: object) -> bool:
    return isinstance(given, list | tuple | set | frozenset) and all(
        isinstance(one, str) for one in given
    )


def _candidates(texts: Iterable[str]) -> list[_Candidate]:
    return [_Candidate(text, place) for text in texts for place in (0, 1)]


class BlindIndexed(TypeDecorator[Any]):
    """
    A column to find sealed values by: a keyed hash of the text, the tenant's own.

    It is written as a text and compared with texts, by ``==``, ``!=``, ``in_``
    and ``not_in``; what is read from it is the hash.  A comparison finds what
    was written before and after a rotation of the index's key.  Short hashes
    meet: look at the opened values of what is found.

    Args:
        index: A `BlindIndex`, or a function that gives one.

    Raises:
        twh_platform.errors.ConfigurationError: With code
            ``sealed_not_comparable``, from every other comparison.
    """

    impl = LargeBinary
    cache_ok = True
    comparator_factory = _Searchable

    def __init__(self, index: Index | Callable[[], Index]) -> None:
        super().__init__()
        self.index = index

    def __repr__(self) -> str:
        return "BlindIndexed()"

    def process_bind_param(self, value: Any, dialect: Dialect) -> bytes | None:
        """
        Hash a text for the current tenant; bytes are a hash already.
        """
        del dialect
        if value is None or isinstance(value, bytes):
            return value
        index = self.index() if callable(self.index) else self.index
        try:
            if not isinstance(value, _Candidate):
                return index.value(value)
            found = index.candidates(value.text)
            return found[min(value.place, len(found) - 1)]
        except Exception as error:  # noqa: BLE001 -- of whatever kind, it would be wrapped
            raise _bare(error)  # noqa: B904 -- its cause is told, or is the error


def index_with(source: InstrumentedAttribute[Any], index: InstrumentedAttribute[Any]) -> None:
    """
    Give *index* the value of *source* whenever that is set, on every object.

    Statements that are no objects' (``insert(...)``, ``update(...)``) say both
    themselves.
    """

    def copy(target: Any, value: Any, *_: Any) -> None:
        setattr(target, index.key, value)

    event.listen(source, "set", copy)


def _bare(error: Exception) -> Exception:
    """
    The same error, which SQLAlchemy does not wrap in one that quotes the parameters.
    """
    if not isinstance(error, PlatformError):
        what = KeyServiceError(f"it cannot be sealed or opened: {type(error).__name__}")
        what.__cause__ = error
        return _bare(what)
    kind: Hashable = cast("Hashable", type(error))
    error.__class__ = _bare_class(kind)
    return error


@cache
def _bare_class(kind: Hashable) -> Any:
    assert isinstance(kind, type)  # noqa: S101 -- for the type checker
    if issubclass(kind, DontWrapMixin):
        return kind
    named = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    return type(kind.__name__, (kind, DontWrapMixin), named)
