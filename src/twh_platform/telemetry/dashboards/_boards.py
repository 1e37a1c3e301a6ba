"""
All dashboards with their folders, and the check that they name what there is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from ...errors import ConfigurationError
from ._board_business import BUSINESS, OBJECTIVES
from ._board_dependencies import DEPENDENCIES
from ._board_health import HEALTH
from ._board_telemetry import TELEMETRY
from ._board_tenants import QUOTAS, TENANTS
from ._grafana import Board, Panel, board_json
from ._promql import read_expression
from ._vocabulary import TARGET_LABELS, Vocabulary

__all__ = ["BOARDS", "FOLDERS", "board_documents", "check_board"]

FOLDERS: Final = {
    "twh-platform": "TWH platform",
    "twh-business": "TWH business",
    "twh-tenants": "TWH tenants",
}
"""
Folders of Grafana by uid; what names tenants is in one of its own, for fewer to see.
"""

BOARDS: Final = (HEALTH, BUSINESS, OBJECTIVES, TENANTS, QUOTAS, DEPENDENCIES, TELEMETRY)
"""
All dashboards.
"""

_variable = re.compile(r"label_values\((?P<metric>.+), (?P<label>\w+)\)").fullmatch


def board_documents(words: Vocabulary) -> Iterator[tuple[Board, dict[str, Any]]]:
    """
    Each dashboard with its JSON.

    Args:
        words: What expressions may name.

    Raises:
        twh_platform.errors.ConfigurationError: With code
            ``dashboard_expression_invalid``.
    """
    for board in BOARDS:
        check_board(board, words)
        yield board, board_json(board)


def check_board(board: Board, words: Vocabulary) -> None:
    """
    Read every expression, legend and variable.

    Raises:
        twh_platform.errors.ConfigurationError: With code
            ``dashboard_expression_invalid``.
    """
    for row in board.rows:
        for panel in row.panels:
            _check_panel(board, panel, words)
    for name, _, query in board.variables:
        found = _variable(query)
        labels = read_expression(found["metric"], words).labels if found else None
        if found is None or labels is None or found["label"] not in labels:
            raise _invalid(f"variable {name} of {board.title}: {query}")


def _check_panel(board: Board, panel: Panel, words: Vocabulary) -> None:
    known = {name for name, _, _ in board.variables} | {"job"}
    for query in panel.queries:
        read = read_expression(query.expr, words)
        if read.labels is None or read.range or read.grows:
            raise _invalid(f"{panel.title} of {board.title} shows no series: {query.expr}")
        legend = set(re.findall(r"\{\{(\w+)\}\}", query.legend))
        if panel.kind != "table" and not legend <= read.labels:
            raise _invalid(f"{panel.title} of {board.title} has no {sorted(legend - read.labels)}")
        if panel.kind != "table" and not legend and read.labels - TARGET_LABELS - {"le"}:
            raise _invalid(f"{panel.title} of {board.title} does not tell its series apart")
        variables = set(re.findall(r"\$(?!__)(\w+)", query.expr))
        if not variables <= known:
            raise _invalid(f"{panel.title} of {board.title} has no {sorted(variables - known)}")


def _invalid(message: str) -> ConfigurationError:
    return ConfigurationError(message, code="dashboard_expression_invalid")
