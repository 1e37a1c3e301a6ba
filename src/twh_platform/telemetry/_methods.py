"""
The method of a request as a label: a known one, or ``_OTHER``.

OpenTelemetry semantic conventions 1.44, ``http.request.method``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

__all__ = ["KNOWN_METHODS", "OTHER_METHOD", "KnownMethods", "known_method"]

KNOWN_METHODS = frozenset(
    {"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"}
)
"""
RFC 9110 section 9.3, PATCH of RFC 5789 and QUERY, a safe method with a body.
"""

OTHER_METHOD = "_OTHER"
"""
The label of every other method.
"""

_VARIABLE = "OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS"
_LONGEST_ORIGINAL = 128


class KnownMethods:
    """
    Tell the label of a method, out of a closed list.

    Methods are compared as they were sent, because they are case-sensitive
    (RFC 9110 section 9.1): ``get`` is another method than ``GET``.

        >>> known = KnownMethods()
        >>> known("GET")
        ('GET', None)
        >>> known("BREW")
        ('_OTHER', 'BREW')

    Args:
        methods: The whole list, instead of `KNOWN_METHODS`.
    """

    def __init__(self, methods: Iterable[str] = KNOWN_METHODS) -> None:
        self._known: dict[str, tuple[str, str | None]] = {one: (one, None) for one in methods}

    @classmethod
    def of_environment(cls, environ: Mapping[str, str] = os.environ) -> KnownMethods:
        """
        The methods of ``OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS``.

        It is a list with commas and replaces ours; where it is missing or
        blank, ours stays.
        """
        named = [one.strip() for one in environ.get(_VARIABLE, "").split(",")]
        return cls([one for one in named if one] or KNOWN_METHODS)

    def __call__(self, method: str) -> tuple[str, str | None]:
        """
        The label of *method*, and for ``_OTHER`` what was sent: at most 128 characters.
        """
        return self._known.get(method) or (OTHER_METHOD, method[:_LONGEST_ORIGINAL])


known_method = KnownMethods.of_environment()
"""
The `KnownMethods` of this process's environment, read when it is imported.
"""
