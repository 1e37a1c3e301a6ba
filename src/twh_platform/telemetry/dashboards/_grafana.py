"""
Dashboards as Grafana 11.6 reads them (schema 41): plain values, laid out by themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

__all__ = ["Board", "Panel", "Query", "Row", "board_json"]

Kind = Literal["timeseries", "stat", "table", "heatmap", "bargauge"]

_DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
_WIDTH: Final = 24
_HEIGHTS: Final = {"stat": 4, "table": 9}
_REFS: Final = "ABCDEFGHIJ"


@dataclass(frozen=True, slots=True)
class Query:
    """
    What a panel shows.

    Args:
        expr: PromQL.

        legend: How a series is called, as ``{{http_route}}``; of a table the title of its column.

        exemplars: Whether to show traces as points.

        unit: Of a table's column, where not that of the panel.
    """

    expr: str
    legend: str = ""
    exemplars: bool = False
    unit: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """
    A panel.

    Args:
        title: Its title.

        about: One sentence for who asks.

        queries: What it shows.

        kind: How.

        unit: A unit of Grafana.

        width: Of 24 columns.

        warn: From where on it is orange.

        bad: From where on it is red; below *warn* where little is bad.

        stacked: Whether series are stacked.

        most: The upper end of the axis.
    """

    title: str
    about: str
    queries: Sequence[Query]
    kind: Kind = "timeseries"
    unit: str = "short"
    width: int = 8
    warn: float | None = None
    bad: float | None = None
    stacked: bool = False
    most: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """
    Panels with a headline.
    """

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """
    A dashboard.

    Args:
        uid: What addresses have; it stays.

        title: Its title.

        about: One sentence.

        folder: The folder that it is in.

        rows: What it shows.

        variables: Name, title and query of each variable besides data source and job.

        since: How far back it looks.
    """

    uid: str
    title: str
    about: str
    folder: str
    rows: Sequence[Row]
    variables: Sequence[tuple[str, str, str]] = field(default=())
    since: str = "now-3h"


def board_json(board: Board) -> dict[str, Any]:
    """
    The dashboard as Grafana reads it.
    """
    return {
        "annotations": {"list": [_alerts_as_annotations()]},
        "description": board.about,
        "editable": True,
        "fiscalYearStartMonth": 0,
        "graphTooltip": 1,
        "links": [_link_to_the_others()],
        "panels": [*_panels(board)],
        "refresh": "30s",
        "schemaVersion": 41,
        "tags": ["twh-platform"],
        "templating": {"list": [*_variables(board)]},
        "time": {"from": board.since, "to": "now"},
        "timezone": "browser",
        "title": board.title,
        "uid": board.uid,
    }


def _alerts_as_annotations() -> dict[str, Any]:
    return {
        "builtIn": 1,
        "datasource": {"type": "grafana", "uid": "-- Grafana --"},
        "enable": True,
        "hide": True,
        "iconColor": "rgba(0, 211, 255, 1)",
        "name": "Annotations & Alerts",
        "type": "dashboard",
    }


def _link_to_the_others() -> dict[str, Any]:
    return {
        "asDropdown": True,
        "icon": "external link",
        "includeVars": True,
        "keepTime": True,
        "tags": ["twh-platform"],
        "targetBlank": False,
        "title": "Other dashboards",
        "tooltip": "",
        "type": "dashboards",
        "url": "",
    }


def _variables(board: Board) -> Iterator[dict[str, Any]]:
    yield {
        "allowCustomValue": True,
        "hide": 0,
        "includeAll": False,
        "label": "Data source",
        "multi": False,
        "name": "datasource",
        "query": "prometheus",
        "refresh": 1,
        "skipUrlSync": False,
        "type": "datasource",
    }
    job = ("job", "Job", "label_values(telemetry_series, job)")
    for name, label, query in (job, *board.variables):
        yield {
            "allValue": ".*",
            "allowCustomValue": True,
            "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
            "datasource": _DATASOURCE,
            "hide": 0,
            "includeAll": True,
            "label": label,
            "multi": True,
            "name": name,
            "query": {"query": query, "refId": f"variable-{name}"},
            "refresh": 2,
            "skipUrlSync": False,
            "sort": 1,
            "type": "query",
        }


def _panels(board: Board) -> Iterator[dict[str, Any]]:
    top, number = 0, 1
    for row in board.rows:
        yield _row(row, number, top)
        number, top, left, height = number + 1, top + 1, 0, 0
        for panel in row.panels:
            if left + panel.width > _WIDTH:
                top, left, height = top + height, 0, 0
            size = _HEIGHTS.get(panel.kind, 8)
            yield _panel(panel, number, {"h": size, "w": panel.width, "x": left, "y": top})
            number, left, height = number + 1, left + panel.width, max(height, size)
        top += height


def _row(row: Row, number: int, top: int) -> dict[str, Any]:
    return {
        "collapsed": False,
        "gridPos": {"h": 1, "w": _WIDTH, "x": 0, "y": top},
        "id": number,
        "panels": [],
        "title": row.title,
        "type": "row",
    }


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    made: dict[str, Any] = {
        "datasource": _DATASOURCE,
        "description": panel.about,
        "fieldConfig": {"defaults": _defaults(panel), "overrides": [*_overrides(panel)]},
        "gridPos": place,
        "id": number,
        "options": _OPTIONS[panel.kind],
        "repeatDirection": "h",
        "targets": [_target(panel, at, query) for at, query in enumerate(panel.queries)],
        "title": panel.title,
        "transparent": False,
        "type": panel.kind,
    }
    if panel.kind == "table":
        made["transformations"] = [*_columns(panel)]
    return made


_LEGEND: Final = {"calcs": ["mean", "max"], "displayMode": "table", "placement": "bottom"}
_REDUCED: Final = {"calcs": ["lastNotNull"], "fields": "", "values": False}
_OPTIONS: Final[dict[Kind, dict[str, Any]]] = {
    "timeseries": {
        "legend": {**_LEGEND, "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "stat": {
        "colorMode": "value",
        "graphMode": "area",
        "justifyMode": "auto",
        "orientation": "auto",
        "reduceOptions": _REDUCED,
        "textMode": "auto",
    },
    "bargauge": {"displayMode": "basic", "orientation": "horizontal", "reduceOptions": _REDUCED},
    "table": {"cellHeight": "sm", "showHeader": True},
    "heatmap": {
        "calculate": False,
        "cellGap": 1,
        "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64},
        "exemplars": {"color": "rgba(255,0,255,0.7)"},
        "legend": {"show": True},
        "tooltip": {"mode": "single", "yHistogram": False},
        "yAxis": {"axisPlacement": "left", "unit": "s"},
    },
}


def _defaults(panel: Panel) -> dict[str, Any]:
    defaults: dict[str, Any] = {
        "color": {"mode": "thresholds" if panel.kind == "stat" else "palette-classic"},
        "thresholds": {"mode": "absolute", "steps": [*_steps(panel)]},
        "unit": panel.unit,
    }
    if panel.kind == "timeseries":
        defaults["custom"] = {
            "drawStyle": "line",
            "fillOpacity": 30 if panel.stacked else 8,
            "lineWidth": 1,
            "showPoints": "never",
            "stacking": {"group": "A", "mode": "normal" if panel.stacked else "none"},
        }
        defaults["min"] = 0
    if panel.most is not None:
        defaults["max"] = panel.most
    return defaults


def _steps(panel: Panel) -> Iterator[dict[str, Any]]:
    warn, bad = panel.warn, panel.bad
    if warn is not None and bad is not None and bad < warn:
        colours = [("red", None), ("orange", bad), ("green", warn)]
    else:
        colours = [("green", None), ("orange", warn), ("red", bad)]
    first, *rest = colours
    yield {"color": first[0], "value": None}
    yield from ({"color": color, "value": value} for color, value in rest if value is not None)


def _target(panel: Panel, at: int, query: Query) -> dict[str, Any]:
    table = panel.kind == "table"
    made: dict[str, Any] = {
        "datasource": _DATASOURCE,
        "editorMode": "code",
        "exemplar": query.exemplars,
        "expr": query.expr,
        "instant": table,
        "range": not table,
        "refId": _REFS[at],
    }
    if panel.kind == "heatmap":
        return {**made, "format": "heatmap", "legendFormat": "{{le}}"}
    if table:
        return {**made, "format": "table"}
    return {**made, "format": "time_series", "legendFormat": query.legend or "__auto"}


def _value_columns(panel: Panel) -> Iterator[tuple[str, Query]]:
    single = len(panel.queries) == 1
    for at, query in enumerate(panel.queries):
        yield ("Value" if single else f"Value #{_REFS[at]}"), query


def _columns(panel: Panel) -> Iterator[dict[str, Any]]:
    if len(panel.queries) > 1:
        yield {"id": "merge", "options": {}}
    titles = {column: query.legend for column, query in _value_columns(panel)}
    yield {
        "id": "organize",
        "options": {"excludeByName": {"Time": True}, "indexByName": {}, "renameByName": titles},
    }


def _overrides(panel: Panel) -> Iterator[dict[str, Any]]:
    if panel.kind == "table":
        for query in panel.queries:
            if query.unit:
                yield {
                    "matcher": {"id": "byName", "options": query.legend},
                    "properties": [{"id": "unit", "value": query.unit}],
                }
