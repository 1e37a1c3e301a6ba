"""
Reading PromQL: which labels an expression has in the end, and whether it can have any.

It takes what our dashboards and rules need of the language, and is stricter than
Prometheus: a name or a label that is not in the vocabulary is a fault, and so
are two sides of an operator that no label can bring together.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple, NoReturn

from ...errors import ConfigurationError
from ._vocabulary import Sample, Vocabulary

__all__ = ["Read", "read_expression"]

_TOKEN: Final = re.compile(
    r"""
    (?P<space>\s+)
    | (?P<string>"(?:[^"\\]|\\.)*")
    | (?P<duration>(?:\d+(?:ms|[smhdwy]))+ | \$__(?:rate_interval|interval|range)\b)
    | (?P<number>\d+(?:\.\d+)?(?:e[+-]?\d+)?)
    | (?P<name>[a-zA-Z_][a-zA-Z0-9_:]*)
    | (?P<operator>=~|!~|!=|==|>=|<=|[-+*/%^<>=(){}\[\],:])
    """,
    re.VERBOSE,
)
_AGGREGATIONS: Final = frozenset({"sum", "min", "max", "avg", "group", "count", "topk", "bottomk"})
_WITH_NUMBER: Final = frozenset({"topk", "bottomk"})
_GROWING: Final = frozenset({"rate", "increase", "irate"})
_OVER_TIME: Final = frozenset(
    {
        "avg_over_time",
        "changes",
        "delta",
        "last_over_time",
        "max_over_time",
        "min_over_time",
        "sum_over_time",
    }
)
_PLAIN: Final = frozenset({"abs", "clamp_max", "clamp_min", "sort", "sort_desc"})
_PRECEDENCE: Final = {
    "or": 1,
    "and": 2,
    "unless": 2,
    **dict.fromkeys(("==", "!=", "<", ">", "<=", ">="), 3),
    "+": 4,
    "-": 4,
    "*": 5,
    "/": 5,
    "%": 5,
    "^": 6,
}
_SETS: Final = frozenset({"or", "and", "unless"})


class Read(NamedTuple):
    """
    What an expression comes to.

    Args:
        labels: The labels of its series; None for a number.

        grows: Whether it is a counter as it was scraped.

        range: Whether it is a range of samples.
    """

    labels: frozenset[str] | None
    grows: bool = False
    range: bool = False


class _Matching(NamedTuple):
    on: frozenset[str] | None = None
    ignoring: frozenset[str] = frozenset()
    many: bool = False
    more: frozenset[str] = frozenset()


_NUMBER = Read(None)
_NO_MATCHING = _Matching()


def read_expression(text: str, words: Vocabulary) -> Read:
    """
    Read an expression.

    Args:
        text: PromQL, with Grafana's variables in strings and in the place of durations.

        words: What it may name.

    Raises:
        twh_platform.errors.ConfigurationError: With code
            ``dashboard_expression_invalid``: it cannot be read, names what is
            not there, groups by a label that nothing has, or has sides that
            never meet.
    """
    reader = _Reader(text, words)
    read = reader.expression(0)
    reader.end()
    return read


class _Reader:
    def __init__(self, text: str, words: Vocabulary) -> None:
        self._text, self._words = text, words
        self._tokens = [*self._cut()]
        self._at = 0

    def _cut(self) -> list[tuple[str, str]]:
        tokens, at = [], 0
        while at < len(self._text):
            found = _TOKEN.match(self._text, at)
            if found is None:
                self._fail(f"nothing begins with {self._text[at : at + 10]!r}")
            at = found.end()
            if found.lastgroup != "space":
                tokens.append((str(found.lastgroup), found.group()))
        return [*tokens, ("end", "")]

    def _fail(self, why: str) -> NoReturn:
        message = f"{why}, in {' '.join(self._text.split())}"
        raise ConfigurationError(message, code="dashboard_expression_invalid")

    def _peek(self) -> str:
        return self._tokens[self._at][1]

    def _kind(self) -> str:
        return self._tokens[self._at][0]

    def _next(self, kind: str = "") -> str:
        found, token = self._tokens[self._at]
        if kind and found != kind:
            self._fail(f"{token!r} is no {kind}")
        self._at += 1
        return token

    def _take(self, token: str) -> bool:
        if self._peek() != token or self._kind() == "string":
            return False
        self._at += 1
        return True

    def _expect(self, token: str) -> None:
        if not self._take(token):
            self._fail(f"{token!r} is missing before {self._peek()!r}")

    def end(self) -> None:
        """
        Nothing may follow.
        """
        if self._kind() != "end":
            self._fail(f"{self._peek()!r} is too much")

    def expression(self, least: int) -> Read:
        """
        An expression whose operators bind at least as closely as *least*.
        """
        left = self._one()
        while (precedence := _PRECEDENCE.get(self._peek(), 0)) > least:
            operator = self._next()
            self._take("bool")
            matching = self._matching()
            right = self.expression(precedence - (operator == "^"))
            left = self._joined(left, operator, matching, right)
        return left

    def _one(self) -> Read:
        if self._take("-") or self._take("+"):
            return self._one()._replace(grows=False)
        read = self._primary()
        while self._peek() in {"[", "offset"}:
            if self._take("offset"):
                self._next("duration")
                continue
            self._expect("[")
            self._next("duration")
            if self._take(":") and self._kind() == "duration":
                self._next()
            self._expect("]")
            if read.range or read.labels is None:
                self._fail("a range of what is no series")
            read = read._replace(range=True)
        return read

    def _primary(self) -> Read:
        if self._kind() in {"number", "duration"}:
            self._next()
            return _NUMBER
        if self._take("("):
            read = self.expression(0)
            self._expect(")")
            return read
        name = self._next("name")
        if name in _AGGREGATIONS:
            return self._aggregation(name)
        if self._peek() == "(":
            return self._function(name)
        return self._selector(name)

    def _selector(self, name: str) -> Read:
        sample = self._words.get(name)
        if sample is None:
            self._fail(f"there is no metric {name!r}")
        if self._take("{"):
            self._matchers(name, sample)
        return Read(sample.labels, grows=sample.grows)

    def _matchers(self, name: str, sample: Sample) -> set[str]:
        exact = set()
        while not self._take("}"):
            label, operator = self._next("name"), self._next("operator")
            if label not in sample.labels:
                self._fail(f"{name} has no label {label!r}")
            if operator not in {"=", "!=", "=~", "!~"}:
                self._fail(f"{operator!r} matches nothing")
            self._next("string")
            exact |= {label} if operator == "=" else set()
            if self._peek() != "}":
                self._expect(",")
        return exact

    def _names(self) -> frozenset[str]:
        self._expect("(")
        names = set()
        while not self._take(")"):
            names.add(self._next("name"))
            if self._peek() != ")":
                self._expect(",")
        return frozenset(names)

    def _aggregation(self, name: str) -> Read:
        grouping = self._grouping()
        self._expect("(")
        if name in _WITH_NUMBER:
            self.expression(0)
            self._expect(",")
        inner = self._series(self.expression(0), name)
        self._expect(")")
        how, by = grouping or self._grouping() or ("by", frozenset[str]())
        if by - inner:
            self._fail(f"{name} {how} {sorted(by - inner)}, which nothing has")
        if name in _WITH_NUMBER:
            return Read(inner)
        return Read(by if how == "by" else inner - by)

    def _grouping(self) -> tuple[str, frozenset[str]] | None:
        if self._peek() not in {"by", "without"}:
            return None
        return self._next(), self._names()

    def _series(self, read: Read, name: str) -> frozenset[str]:
        if read.labels is None or read.range:
            self._fail(f"{name} of what are no series")
        return read.labels

    def _function(self, name: str) -> Read:
        if name in {"absent", "vector", "time"}:
            return self._made(name)
        self._expect("(")
        if name == "histogram_quantile":
            self.expression(0)
            self._expect(",")
        read = self.expression(0)
        while self._take(","):
            self.expression(0)
        self._expect(")")
        return self._applied(name, read)

    def _made(self, name: str) -> Read:
        self._expect("(")
        labels: set[str] = set()
        if name == "absent":
            metric = self._next("name")
            if metric not in self._words:
                self._fail(f"there is no metric {metric!r}")
            if self._take("{"):
                labels = self._matchers(metric, self._words[metric])
        elif name == "vector":
            self.expression(0)
        self._expect(")")
        return _NUMBER if name == "time" else Read(frozenset(labels))

    def _applied(self, name: str, read: Read) -> Read:
        if read.labels is None:
            self._fail(f"{name} of a number")
        if name in _GROWING or name in _OVER_TIME:
            if not read.range:
                self._fail(f"{name} of what is no range")
            if name in _GROWING and not read.grows:
                self._fail(f"{name} of what is no counter")
            return Read(read.labels)
        if read.range:
            self._fail(f"{name} of a range")
        if name == "histogram_quantile":
            if "le" not in read.labels:
                self._fail("histogram_quantile without le")
            return Read(read.labels - {"le"})
        if name not in _PLAIN:
            self._fail(f"no function {name!r} is known here")
        return Read(read.labels)

    def _matching(self) -> _Matching:
        on, ignoring = None, frozenset[str]()
        if self._take("on"):
            on = self._names()
        elif self._take("ignoring"):
            ignoring = self._names()
        if not self._take("group_left"):
            return _Matching(on, ignoring)
        more = self._names() if self._peek() == "(" else frozenset[str]()
        return _Matching(on, ignoring, many=True, more=more)

    def _joined(self, left: Read, operator: str, matching: _Matching, right: Read) -> Read:
        if left.range or right.range:
            self._fail(f"{operator} of a range")
        if left.labels is None or right.labels is None:
            if operator in _SETS:
                self._fail(f"{operator} of a number")
            return Read(left.labels if right.labels is None else right.labels)
        if operator == "or":
            return Read(left.labels & right.labels)
        self._must_meet(left.labels, operator, matching, right.labels)
        if operator in _SETS or operator in {"==", "!=", "<", ">", "<=", ">="} or matching.many:
            return Read(left.labels | matching.more)
        return Read(left.labels - matching.ignoring if matching.on is None else matching.on)

    def _must_meet(
        self, left: frozenset[str], operator: str, matching: _Matching, right: frozenset[str]
    ) -> None:
        if matching.on is not None:
            meets: Callable[[frozenset[str]], bool] = matching.on.issubset
            good = meets(left) and meets(right)
        else:
            good = left - matching.ignoring == right - matching.ignoring
        if not good or not matching.more <= right:
            self._fail(f"the sides of {operator!r} never meet: {sorted(left)}, {sorted(right)}")
