"""
Reading SQL: expressions as PostgreSQL deparses them, function bodies as people write them.

It is not a parser of SQL.  It knows strings, comments, names, brackets and calls,
which is enough, because the server writes every AND, OR and NOT of a policy into
brackets of its own: ``((a = b) OR (c = d))``.

Every node knows where it stands in the text, so that a remedy can replace one
part and leave the rest as its author wrote it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

__all__ = [
    "Clause",
    "Node",
    "clause_of",
    "is_constant_true",
    "is_subselect",
    "parse",
    "replace",
    "walk",
]

Kind = Literal["name", "string", "number", "operator", "group", "call"]

_TOKEN = re.compile(
    r"""
      (?P<space>\s+|--[^\n]*|/\*.*?\*/)
    | (?P<dollar>\$(?P<tag>[A-Za-z_]*)\$.*?\$(?P=tag)\$)
    | (?P<escaped>[eE]'(?:[^'\\]|\\.|'')*')
    | (?P<string>'(?:[^']|'')*')
    | (?P<name>(?:"(?:[^"]|"")*"|[^\W\d][\w$]*)(?:\.(?:"(?:[^"]|"")*"|[^\W\d][\w$]*))*)
    | (?P<number>\d+(?:\.\d+)?)
    | (?P<open>[(\[])
    | (?P<close>[)\]])
    | (?P<operator>::|:=|[-+*/<>=~!@\#%^&|`?]+|.)
    """,
    re.VERBOSE | re.DOTALL,
)
_PART = re.compile(r'"(?:[^"]|"")*"|[^\W\d][\w$]*')

# What stands before a bracket and is no function.
_NO_CALL = frozenset(
    [
        "all",
        "and",
        "any",
        "array",
        "as",
        "between",
        "by",
        "case",
        "check",
        "distinct",
        "else",
        "elsif",
        "end",
        "except",
        "exists",
        "from",
        "group",
        "having",
        "if",
        "in",
        "into",
        "intersect",
        "is",
        "join",
        "limit",
        "not",
        "offset",
        "on",
        "or",
        "order",
        "over",
        "perform",
        "return",
        "returning",
        "row",
        "select",
        "set",
        "some",
        "table",
        "then",
        "to",
        "union",
        "using",
        "values",
        "when",
        "where",
        "while",
        "with",
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """
    A piece of SQL.

    Args:
        kind: What it is.

        parts: Of a name or a call: its parts, lower-cased where they were not
            quoted.  Of a string, its value; of a number or operator, its text.

        start: Where it begins in the text.

        end: Where it ends.

        children: What stands inside its brackets.

        quoted: Whether a part of the name was quoted, so it is no keyword.
    """

    kind: Kind
    parts: tuple[str, ...]
    start: int
    end: int
    children: tuple[Node, ...] = ()
    quoted: bool = False

    @property
    def name(self) -> str:
        """
        The parts, joined by dots.
        """
        return ".".join(self.parts)

    def is_word(self, *words: str) -> bool:
        """
        Whether it is one of these keywords.
        """
        return (
            self.kind == "name"
            and not self.quoted
            and len(self.parts) == 1
            and self.parts[0] in words
        )

    def is_operator(self, *operators: str) -> bool:
        """
        Whether it is one of these operators.
        """
        return self.kind == "operator" and self.parts[0] in operators


@lru_cache(maxsize=4096)
def parse(text: str) -> Node:
    """
    Read SQL into a group of nodes.

    Brackets that do not match end at the end of the text: it never fails.
    """
    tokens = [one for one in _TOKEN.finditer(text) if not one["space"]]
    children, _ = _read(tokens, 0)
    return Node(kind="group", parts=(), start=0, end=len(text), children=tuple(children))


def _read(tokens: Sequence[re.Match[str]], at: int) -> tuple[list[Node], int]:
    nodes: list[Node] = []
    while at < len(tokens):
        token = tokens[at]
        if token["close"]:
            break
        if token["open"]:
            children, closing = _read(tokens, at + 1)
            end = tokens[min(closing, len(tokens) - 1)].end()
            _bracket(nodes, token.start(), end, tuple(children))
            at = closing + 1
        else:
            nodes.append(_leaf(token))
            at += 1
    return nodes, at


def _bracket(nodes: list[Node], start: int, end: int, children: tuple[Node, ...]) -> None:
    before = nodes[-1] if nodes else None
    if before is not None and before.kind == "name" and not before.is_word(*_NO_CALL):
        nodes[-1] = Node(
            kind="call", parts=before.parts, start=before.start, end=end, children=children
        )
    else:
        nodes.append(Node(kind="group", parts=(), start=start, end=end, children=children))


def _leaf(token: re.Match[str]) -> Node:
    kind, parts, quoted = _content(token)
    return Node(kind=kind, parts=parts, start=token.start(), end=token.end(), quoted=quoted)


def _content(token: re.Match[str]) -> tuple[Kind, tuple[str, ...], bool]:
    text = token[0]
    if token["name"]:
        return "name", tuple(map(_part, _PART.findall(text))), '"' in text
    if token["dollar"]:
        mark = len(token["tag"]) + 2
        return "string", (text[mark:-mark],), False
    if token["escaped"]:
        return "string", (text[2:-1].replace("''", "'").replace("\\\\", "\\"),), False
    if token["string"]:
        return "string", (text[1:-1].replace("''", "'"),), False
    return ("number" if token["number"] else "operator"), (text,), False


def _part(text: str) -> str:
    return text[1:-1].replace('""', '"') if text.startswith('"') else text.lower()


def is_subselect(node: Node) -> bool:
    """
    Whether a group is a query in brackets.
    """
    return node.kind == "group" and bool(node.children) and node.children[0].is_word("select")


def walk(nodes: Iterable[Node], *, inside: bool = False) -> Iterator[tuple[Node, bool]]:
    """
    Yield every node at every depth, and whether it stands in a sub-select.
    """
    for node in nodes:
        yield node, inside
        yield from walk(node.children, inside=inside or is_subselect(node))


def replace(text: str, changes: Mapping[tuple[int, int], str]) -> str:
    """
    Put other text in the place of some spans.

    A span that lies inside another one is left to the outer.
    """
    result, at = [], 0
    for (start, end), new in sorted(changes.items(), key=lambda one: (one[0][0], -one[0][1])):
        if start >= at:
            result += [text[at:start], new]
            at = end
    return "".join([*result, text[at:]])


@dataclass(frozen=True, slots=True, kw_only=True)
class Clause:
    """
    A boolean expression, taken apart at its ANDs, ORs and NOTs.

    Args:
        kind: ``and``, ``or``, ``not``, or ``leaf`` for what has none of them.

        nodes: The nodes of the whole clause.

        parts: The operands.
    """

    kind: Literal["and", "or", "not", "leaf"]
    nodes: tuple[Node, ...]
    parts: tuple[Clause, ...] = ()

    @property
    def span(self) -> tuple[int, int]:
        """
        Where it stands in the text.
        """
        return (self.nodes[0].start, self.nodes[-1].end) if self.nodes else (0, 0)

    def leaves(self) -> Iterator[Clause]:
        """
        Yield the clauses without AND, OR and NOT.
        """
        if self.kind == "leaf":
            yield self
        for part in self.parts:
            yield from part.leaves()


def clause_of(nodes: Sequence[Node]) -> Clause:
    """
    Take a boolean expression apart.
    """
    whole = tuple(nodes)
    inner = whole
    while len(inner) == 1 and inner[0].kind == "group" and not is_subselect(inner[0]):
        inner = inner[0].children
    for word in ("or", "and"):
        parts = _split(inner, word)
        if len(parts) > 1:
            kind: Literal["or", "and"] = "or" if word == "or" else "and"
            return Clause(kind=kind, nodes=whole, parts=tuple(map(clause_of, parts)))
    if inner and inner[0].is_word("not"):
        return Clause(kind="not", nodes=whole, parts=(clause_of(inner[1:]),))
    return Clause(kind="leaf", nodes=inner or whole)


def _split(nodes: Sequence[Node], word: str) -> list[Sequence[Node]]:
    if any(node.is_word("select", "case", "between") for node in nodes):
        return [nodes]
    cuts = [number for number, node in enumerate(nodes) if node.is_word(word)]
    starts = [0, *(cut + 1 for cut in cuts)]
    return [nodes[start:end] for start, end in zip(starts, [*cuts, len(nodes)], strict=True)]


def is_constant_true(clause: Clause) -> bool:
    """
    Whether a clause lets everything through: ``true``, ``1 = 1``, ``x OR true``.
    """
    if clause.kind == "or":
        return any(map(is_constant_true, clause.parts))
    if clause.kind == "and":
        return all(map(is_constant_true, clause.parts))
    if clause.kind == "not":
        return len(clause.parts[0].nodes) == 1 and clause.parts[0].nodes[0].is_word("false")
    nodes = [node for node, _ in walk(clause.nodes) if node.kind != "group"]
    if len(nodes) == 1:
        return nodes[0].is_word("true")
    return (
        len(clause.nodes) == 3  # noqa: PLR2004 -- left, operator, right
        and clause.nodes[1].is_operator("=")
        and clause.nodes[0].parts == clause.nodes[2].parts != ()
        and clause.nodes[0].kind in {"string", "number"}
    )
