"""
A key service that fails as it is told to, around a real one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

__all__ = ["FaultyKeyService"]


class FaultyKeyService:
    """
    The same calls, noted down, with faults in front of some.

    Args:
        service: The real one.

    Attributes:
        calls: Each call that came: its name, and how many items it had.

        faults: What the next calls meet, first to last.  An error is raised; a
            function is given the name of the call and its items, and returns
            None to let the call through, or the answer in its place.
    """

    def __init__(self, service: Any) -> None:
        self.service = service
        self.name = service.name
        self.capabilities = service.capabilities
        self.calls: list[tuple[str, int]] = []
        self.faults: list[Exception | Callable[[str, Any], Any]] = []
        self.always: Exception | None = None
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        real = getattr(self.service, name)
        return lambda *args, **kwargs: self._met(name, real, args, kwargs)

    def count(self, name: str) -> int:
        """
        How many calls of that name came.
        """
        return sum(1 for called, _ in self.calls if called == name)

    def _met(self, name: str, real: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        items = args[0] if args and isinstance(args[0], list | tuple) else ()
        with self._lock:
            self.calls.append((name, len(items)))
            fault = self.faults.pop(0) if self.faults else self.always
        if isinstance(fault, Exception):
            raise fault
        answer = fault(name, items) if fault else None
        return real(*args, **kwargs) if answer is None else answer
