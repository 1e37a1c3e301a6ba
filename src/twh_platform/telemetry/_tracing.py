"""
The seam to whatever makes spans and lets them leave the process.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from ._exchange import Exchange
    from ._trace_context import TraceContext

__all__ = ["OpenSpan", "SpanSource", "Tracing"]


class Tracing(Protocol):
    """
    Makes the SERVER span of each request or websocket.

    An implementation never raises, and never waits.
    """

    def enter(self, exchange: Exchange) -> Any:
        """
        Begin the span, or none for one that is not sampled, and make it current.

        It may give the exchange other ids, if it cannot use the ones that it has.

        Returns:
            What `leave` needs.
        """
        ...

    def is_settled(self, exchange: Exchange, entered: Any) -> bool:
        """
        Whether it cannot be changed any more if the exchange is recorded.

        Asked where a rule of the sampler minds the tenant, once that is known.
        """
        ...

    def turn(self, exchange: Exchange, entered: Any) -> Any:
        """
        Begin the span after all, or give it up, and turn the exchange's `sampled`.

        Called in the context of the request, for one that is not settled.

        Returns:
            What `finish` needs from now on; `leave` is still given what `enter`
            returned.
        """
        ...

    def finish(self, exchange: Exchange, entered: Any) -> None:
        """
        End the span at the exchange's end, or make one afterwards if it `kept` it.

        It is called for exchanges that are sampled or kept, and for no others.
        """
        ...

    def leave(self, entered: Any) -> None:
        """
        Make current what was before; the app has returned.
        """
        ...


class OpenSpan(Protocol):
    """
    A span below the current one, which is being recorded.
    """

    @property
    def place(self) -> TraceContext:
        """
        Where it is in its trace, for what is sent out in it.
        """
        ...

    def end(
        self,
        error: BaseException | str | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        """
        End it now, and make current what was before; never raises.

        Args:
            error: What went wrong; its type is told, and no text of it.  A text
                is the type itself.

            attributes: What became known meanwhile.
        """
        ...


class SpanSource(Protocol):
    """
    Makes spans for what a request does inside.
    """

    def begin(
        self,
        name: str,
        *,
        kind: Literal["internal", "client", "producer", "consumer"] = "internal",
        attributes: Mapping[str, Any] | None = None,
        current: bool = True,
        started: float | None = None,
    ) -> OpenSpan | None:
        """
        Begin a span below the current one; None where that is not recorded.

        Args:
            name: Out of a closed list.

            kind: On which side of a call it stands.

            attributes: What is known at its start.

            current: Make it the current one until it ends.

            started: When it began, in seconds of `time.perf_counter`; now
                without.
        """
        ...
