"""
Announcements: capabilities say what happened, others listen.

A signal is a frozen dataclass.  The capability that announces it knows no
listener; telemetry and audit subscribe to the classes that they understand.

A listener is called at once, in the context of the announcer, and must not
block.  One that raises is logged and the request goes on: what is told about
a request never decides it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["announce", "has_listeners", "subscribe"]

S = TypeVar("S")

_logger = logging.getLogger("twh_platform.signals")

# Tuples are replaced and never changed, so announce() needs no lock.
_listeners: dict[type, tuple[Callable[[Any], None], ...]] = {}


def subscribe(signal: type[S], listener: Callable[[S], None]) -> Callable[[], None]:
    """
    Call *listener* with each announcement of exactly this class.

    Returns:
        A function that ends the subscription; calling it again does nothing.
    """
    _listeners[signal] = (*_listeners.get(signal, ()), listener)

    def unsubscribe() -> None:
        kept = tuple(one for one in _listeners.get(signal, ()) if one is not listener)
        if kept:
            _listeners[signal] = kept
        else:
            _listeners.pop(signal, None)

    return unsubscribe


def has_listeners(signal: type) -> bool:
    """
    Whether anyone subscribed to this class: if not, the signal need not be built.
    """
    return signal in _listeners


def announce(signal: object) -> None:
    """
    Hand *signal* to everyone who subscribed to its class.
    """
    for listener in _listeners.get(type(signal), ()):
        try:
            listener(signal)
        except Exception:
            _logger.exception("a listener failed on %s", type(signal).__name__)
