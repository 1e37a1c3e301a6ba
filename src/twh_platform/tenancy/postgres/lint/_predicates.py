"""
What a policy's expression says: which column it compares with what, and who gets past it.

A *binding* is where a policy has the tenant from: a setting, a function, the role.
A clause *ties* a row to the binding if it has a column of the row and a binding.
An expression *restricts* if no row passes without being tied: of an OR each
branch has to, of an AND one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal

from ._expressions import Clause, Node, clause_of, is_constant_true, is_subselect, parse, walk

__all__ = ["Binding", "Expression", "Tie", "read_expression", "settings_of"]

_ROLES = frozenset(("current_user", "session_user", "current_role", "user"))
_TEXTS = (("text",), ("character",), ("varchar",))
_SETTINGS = frozenset(("current_setting", "pg_catalog.current_setting"))


@dataclass(frozen=True, slots=True, order=True)
class Binding:
    """
    Where a policy has the tenant from.

    Args:
        kind: A ``setting``, a ``function`` or the ``role``.

        name: The setting's or function's name; ``current_user`` or the like.
    """

    kind: Literal["setting", "function", "role"]
    name: str

    def __str__(self) -> str:
        return {
            "setting": f"setting {self.name}",
            "function": f"function {self.name}()",
            "role": f"role ({self.name})",
        }[self.kind]


Form = Literal["equal", "in", "exists", "call", "distinct"]

# Which form tells best which column is the tenant's.
FORMS: tuple[Form, ...] = ("equal", "distinct", "in", "call", "exists")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tie:
    """
    One clause that compares a column of the row with a binding.

    Args:
        column: The column.

        form: How: ``=``, ``IN`` or ``ANY``, EXISTS, a function that is given
            the column, or ``IS NOT DISTINCT FROM``.

        bindings: What it is compared with.

        cast: The type that the column is cast to, if it is.

        clause: The clause.
    """

    column: str
    form: Form
    bindings: tuple[Binding, ...]
    cast: str | None
    clause: Clause


@dataclass(frozen=True, slots=True, kw_only=True)
class Expression:
    """
    A policy's USING or WITH CHECK.

    Args:
        text: As the server deparsed it.

        clause: The whole of it, taken apart.

        ties: The clauses that compare a column with a binding.

        restricts: Whether no row passes without being tied.

        always_true: Whether everything passes.

        loose: The branches by which a row passes untied.

        flags: Those of them that ask a setting or a function and look at
            nothing in the row: a door that whoever sets the setting opens.

        unwrapped: Calls of bindings outside of any sub-select.

        bare_casts: Settings that are cast with no guard against ``''``.
    """

    text: str
    clause: Clause
    ties: tuple[Tie, ...]
    restricts: bool
    always_true: bool
    loose: tuple[Clause, ...]
    flags: tuple[Clause, ...]
    unwrapped: tuple[Node, ...]
    bare_casts: tuple[Node, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reader:
    """
    What is needed to read the expressions of one table.
    """

    table: str
    columns: Collection[str]
    unguarded: Collection[str]

    def column_of(self, node: Node, *, inside: bool) -> str | None:
        if node.kind != "name":
            return None
        *table, last = node.parts
        if last not in self.columns:
            return None
        if table:
            return last if table[-1] == self.table else None
        # In a sub-select the server qualifies all columns.
        return None if inside or node.is_word(*_ROLES) else last

    def bindings(self, nodes: Collection[Node]) -> Iterator[Binding]:
        for node, _ in walk(nodes):
            if (found := self.binding_of(node)) is not None:
                yield found

    def binding_of(self, node: Node) -> Binding | None:
        if node.is_word(*_ROLES):
            return Binding("role", node.parts[0])
        if node.kind != "call":
            return None
        if node.name in _SETTINGS:
            name = _first_string(node)
            return Binding("role" if name == "role" else "setting", name) if name else None
        # With the search_path of the snapshot only the system's stand alone.
        if len(node.parts) > 1 and node.parts[0] != "pg_catalog":
            given = any(self.column_of(one, inside=inside) for one, inside in walk(node.children))
            return None if given else Binding("function", node.name)
        return None

    def tie(self, clause: Clause) -> Tie | None:
        nodes = clause.nodes
        found = tuple(dict.fromkeys(self.bindings(nodes)))
        taker = self._taker(nodes)
        if taker is not None:
            name, given = taker
            bound = (Binding("function", name), *found)
            return Tie(column=given, form="call", bindings=bound, cast=None, clause=clause)
        if not found:
            return None
        form, column, cast = self._compared(nodes)
        if column is None or form is None:
            return None
        return Tie(column=column, form=form, bindings=found, cast=cast, clause=clause)

    def _taker(self, nodes: Collection[Node]) -> tuple[str, str] | None:
        """
        Find a function of users that is given a column, outside of a comparison.
        """
        if any(node.is_operator("=", "<>", "!=") for node in nodes):
            return None
        for node, inside in walk(nodes):
            if node.kind == "call" and len(node.parts) > 1 and node.parts[0] != "pg_catalog":
                for one, deeper in walk(node.children, inside=inside):
                    if column := self.column_of(one, inside=deeper):
                        return node.name, column
        return None

    def _compared(self, nodes: tuple[Node, ...]) -> tuple[Form | None, str | None, str | None]:
        for number, node in enumerate(nodes):
            if node.is_operator("="):
                several = nodes[number + 1 :][:1]
                form: Form = "in" if several and several[0].is_word("any") else "equal"
                return form, *self._side(nodes[:number], nodes[number + 1 :])
            if node.is_word("in"):
                return "in", *self._side(nodes[:number], ())
            if node.is_word("distinct"):
                return "distinct", *self._side(nodes[: number - 1], nodes[number + 2 :])
            if node.is_word("exists"):
                return "exists", self._correlated(nodes[number:]), None
        if len(nodes) == 1 and is_subselect(nodes[0]):
            return "exists", self._correlated(nodes), None
        return None, None, None

    def _side(
        self, left: tuple[Node, ...], right: tuple[Node, ...]
    ) -> tuple[str | None, str | None]:
        for nodes in (left, right):
            inner, cast = _uncast(nodes)
            if len(inner) == 1 and (column := self.column_of(inner[0], inside=False)):
                return column, cast
        for node, inside in walk((*left, *right)):
            if column := self.column_of(node, inside=inside):
                return column, "an expression"
        return None, None

    def _correlated(self, nodes: tuple[Node, ...]) -> str | None:
        for node, inside in walk(nodes):
            if column := self.column_of(node, inside=inside):
                return column
        return None

    def casts(self, clause: Clause) -> Iterator[Node]:
        """
        Yield what may be empty and is cast to a type that has no empty value.
        """
        for group in _sequences(clause.nodes):
            for node, cast, kind in zip(group, group[1:], group[2:], strict=False):
                if cast.is_operator("::") and kind.parts[:1] not in _TEXTS:
                    yield from self._empty(node)

    def _empty(self, node: Node) -> Iterator[Node]:
        while node.kind == "group" and len(node.children) == 1:
            node = node.children[0]
        if is_subselect(node):
            node = node.children[1] if len(node.children) > 1 else node
        if node.kind == "call" and (node.name in _SETTINGS or node.name in self.unguarded):
            yield node


def read_expression(
    text: str, *, table: str, columns: Collection[str], unguarded: Collection[str] = ()
) -> Expression:
    """
    Read a policy's USING or WITH CHECK.

    Args:
        text: As `pg_get_expr` gives it with nothing on the search_path.

        table: The table's name, without its schema.

        columns: The names of its columns.

        unguarded: Functions that may return ``''``.
    """
    reader = _Reader(table=table, columns=columns, unguarded=unguarded)
    nodes = parse(text).children
    clause = clause_of(nodes)
    ties = tuple(_ties(clause, reader))
    loose = () if is_constant_true(clause) else tuple(_loose(clause, reader))
    return Expression(
        text=text,
        clause=clause,
        ties=ties,
        restricts=_restricts(clause, reader),
        always_true=is_constant_true(clause),
        loose=loose,
        flags=tuple(one for one in loose if _is_flag(one, reader)),
        unwrapped=tuple(_unwrapped(nodes, reader)),
        bare_casts=tuple(
            dict.fromkeys(node for leaf in clause.leaves() for node in reader.casts(leaf))
        ),
    )


def settings_of(text: str) -> Iterator[str]:
    """
    Yield the settings that SQL reads with `current_setting`.
    """
    for node, _ in walk(parse(text).children):
        if node.kind == "call" and node.name in _SETTINGS and (name := _first_string(node)):
            yield name


def _first_string(call: Node) -> str | None:
    first = call.children[0] if call.children else None
    return first.parts[0].lower() if first is not None and first.kind == "string" else None


def _uncast(nodes: tuple[Node, ...]) -> tuple[tuple[Node, ...], str | None]:
    """
    Take brackets and a cast off: ``((tenant_id)::text)``.
    """
    cast = None
    while True:
        if len(nodes) == 1 and nodes[0].kind == "group" and not is_subselect(nodes[0]):
            nodes = nodes[0].children
        elif len(nodes) > 2 and nodes[1].is_operator("::"):  # noqa: PLR2004 -- x :: type
            cast = cast or nodes[2].name
            nodes = nodes[:1]
        else:
            return nodes, cast


def _sequences(nodes: tuple[Node, ...]) -> Iterator[tuple[Node, ...]]:
    yield nodes
    for node in nodes:
        if node.children:
            yield from _sequences(node.children)


def _ties(clause: Clause, reader: _Reader) -> Iterator[Tie]:
    if clause.kind == "not":
        tie = reader.tie(clause.parts[0])
        # NOT (a IS DISTINCT FROM b) is how the server writes IS NOT DISTINCT FROM.
        if tie is not None and tie.form == "distinct":
            yield tie
        return
    if clause.kind == "leaf":
        tie = reader.tie(clause)
        if tie is not None and tie.form != "distinct":
            yield tie
    for part in clause.parts:
        yield from _ties(part, reader)


def _restricts(clause: Clause, reader: _Reader) -> bool:
    if clause.kind == "or":
        return all(_restricts(part, reader) for part in clause.parts)
    if clause.kind == "and":
        return any(_restricts(part, reader) for part in clause.parts)
    return any(True for _ in _ties(clause, reader))


def _loose(clause: Clause, reader: _Reader) -> Iterator[Clause]:
    if _restricts(clause, reader):
        return
    if clause.kind == "or":
        for part in clause.parts:
            yield from _loose(part, reader)
    else:
        yield clause


def _is_flag(clause: Clause, reader: _Reader) -> bool:
    if any(reader.column_of(node, inside=inside) for node, inside in walk(clause.nodes)):
        return False
    return any(one.kind != "role" for one in reader.bindings(clause.nodes))


def _unwrapped(nodes: tuple[Node, ...], reader: _Reader) -> Iterator[Node]:
    for node, inside in walk(nodes):
        if not inside and node.kind == "call":
            found = reader.binding_of(node)
            if found is not None and found.kind != "role":
                yield node
