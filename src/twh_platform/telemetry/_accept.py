"""
Which page format, and whether compressed: RFC 9110, sections 12.4.2 and 12.5.

Total functions: a header that cannot be read is as none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ._exposition import OPENMETRICS_TYPE, TEXT_TYPE

__all__ = ["accepts_gzip", "choose_format"]

_LONGEST = 4096
_WEIGHT = re.compile(r"(?:0(?:\.\d{0,3})?|1(?:\.0{0,3})?)", re.ASCII)
# How well a range fits text and OpenMetrics: the closer one has the say (12.5.1).
_RANGES = {
    "*/*": (1, 1),
    "text/*": (2, 0),
    "application/*": (0, 2),
    "text/plain": (3, 0),
    "application/openmetrics-text": (0, 3),
}
_VERSIONS = {"text/plain": {"0.0.4"}, "application/openmetrics-text": {"1.0.0", "0.0.1"}}


def choose_format(accept: str) -> str:
    """
    The content type of the page for an Accept header; text 0.0.4 where nothing decides.

    A client that accepts neither gets text too: it has asked for a page of metrics.

        >>> choose_format("application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
        'application/openmetrics-text; version=1.0.0; charset=utf-8'
        >>> choose_format("*/*")
        'text/plain; version=0.0.4; charset=utf-8'
    """
    # For text and for OpenMetrics: closeness and weight.
    best = [(0, 0.0), (0, 0.0)]
    for name, parameters in _elements(accept):
        version = parameters.get("version", "").strip('"')
        if version and version not in _VERSIONS.get(name, {version}):
            continue
        for side, closeness in enumerate(_RANGES.get(name, (0, 0))):
            if closeness:
                best[side] = max(best[side], (closeness, _weight(parameters)))
    (text_fit, text), (open_fit, openmetrics) = best
    wins = openmetrics > text or (openmetrics == text > 0 and open_fit > text_fit)
    return OPENMETRICS_TYPE if wins else TEXT_TYPE


def accepts_gzip(accept_encoding: str) -> bool:
    """
    Whether an Accept-Encoding header lets the page be compressed with gzip.

        >>> accepts_gzip("gzip;q=0, br")
        False
    """
    weights = {name: _weight(parameters) for name, parameters in _elements(accept_encoding)}
    return weights.get("gzip", weights.get("x-gzip", weights.get("*", 0.0))) > 0.0


def _elements(header: str) -> Iterator[tuple[str, dict[str, str]]]:
    if len(header) > _LONGEST:
        return
    for element in header.split(","):
        name, *parameters = (part.strip().lower() for part in element.split(";"))
        pairs = (part.partition("=") for part in parameters)
        if name:
            yield name, {key.strip(): value.strip() for key, _, value in pairs}


def _weight(parameters: dict[str, str]) -> float:
    weight = parameters.get("q", "1")
    return float(weight) if _WEIGHT.fullmatch(weight) else 0.0
