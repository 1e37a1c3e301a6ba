"""
Writing SQL: names, policies, keys and whatever else remedies are made of.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["columns_sql", "literal", "name_sql", "qualified_sql", "short_name"]

_PLAIN = re.compile(r"[a-z_][a-z0-9_]*")
_LONGEST = 63

# Keywords that cannot be the name of a column, table or role without quotes.
_RESERVED = frozenset(
    [
        "all",
        "analyse",
        "analyze",
        "and",
        "any",
        "array",
        "as",
        "asc",
        "asymmetric",
        "authorization",
        "between",
        "binary",
        "both",
        "case",
        "cast",
        "check",
        "collate",
        "collation",
        "column",
        "concurrently",
        "constraint",
        "create",
        "cross",
        "current_catalog",
        "current_date",
        "current_role",
        "current_schema",
        "current_time",
        "current_timestamp",
        "current_user",
        "default",
        "deferrable",
        "desc",
        "distinct",
        "do",
        "else",
        "end",
        "except",
        "false",
        "fetch",
        "for",
        "foreign",
        "freeze",
        "from",
        "full",
        "grant",
        "group",
        "having",
        "ilike",
        "in",
        "initially",
        "inner",
        "intersect",
        "into",
        "is",
        "isnull",
        "join",
        "lateral",
        "leading",
        "left",
        "like",
        "limit",
        "localtime",
        "localtimestamp",
        "natural",
        "not",
        "notnull",
        "null",
        "offset",
        "on",
        "only",
        "or",
        "order",
        "outer",
        "overlaps",
        "placing",
        "primary",
        "public",
        "references",
        "returning",
        "right",
        "select",
        "session_user",
        "similar",
        "some",
        "symmetric",
        "system_user",
        "table",
        "tablesample",
        "then",
        "to",
        "trailing",
        "true",
        "union",
        "unique",
        "user",
        "using",
        "variadic",
        "verbose",
        "when",
        "where",
        "window",
        "with",
    ]
)


def name_sql(name: str) -> str:
    """
    Quote a name where it needs it.
    """
    if _PLAIN.fullmatch(name) and (name not in _RESERVED or name == "public"):
        return name
    return '"' + name.replace('"', '""') + '"'


def qualified_sql(schema: str, name: str) -> str:
    """
    Quote a name with its schema.
    """
    return f"{name_sql(schema)}.{name_sql(name)}"


def columns_sql(names: Iterable[str]) -> str:
    """
    Quote names and join them with commas.
    """
    return ", ".join(map(name_sql, names))


def literal(text: str) -> str:
    """
    Quote a string.
    """
    quoted = "'" + text.replace("'", "''") + "'"
    return f"E{quoted}".replace("\\", "\\\\") if "\\" in text else quoted


def short_name(*parts: str) -> str:
    """
    Join parts to a name that PostgreSQL keeps whole.
    """
    return "_".join(parts).encode()[:_LONGEST].decode(errors="ignore")
