"""
What requests of one method, scheme and version of HTTP share: where they are counted.
"""

from __future__ import annotations

from typing import Final

from ._instruments import BoundGauge, BoundHistogram

__all__ = ["NO_KIND", "RequestKind", "ResultMetrics"]


class ResultMetrics:
    """
    What requests with one result count into; for bodies, where there was one.
    """

    __slots__ = ("duration", "request_bytes", "response_bytes")

    def __init__(self) -> None:
        self.duration: BoundHistogram | None = None
        self.request_bytes: BoundHistogram | None = None
        self.response_bytes: BoundHistogram | None = None


class RequestKind:
    """
    The requests of one method, scheme and version.

    Args:
        method: The method as a label.

        active: Counts those that are being answered.

        scheme: The scheme as a label.

        version: The version of HTTP as a label.

    Attributes:
        results: What they count into, by route, status and type of error.
    """

    __slots__ = ("active", "method", "results", "scheme", "version")

    def __init__(
        self, method: str, active: BoundGauge | None = None, scheme: str = "", version: str = ""
    ) -> None:
        self.method = method
        self.active = active
        self.scheme = scheme
        self.version = version
        self.results: dict[tuple[str | None, int, str], ResultMetrics] = {}


NO_KIND: Final = RequestKind("")
"""
Of what has no method, such as websockets.
"""
