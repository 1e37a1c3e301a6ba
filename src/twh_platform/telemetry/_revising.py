"""
The second moment of sampling: the tenant of a request has become known.
"""

from __future__ import annotations

import logging

from ._exchange import current_exchange
from ._sampling import HeadSampler, Verdict
from ._tracing import Tracing

__all__ = ["Revising"]

_logger = logging.getLogger("twh_platform.telemetry")


class Revising:
    """
    Ask the sampler again about the request that is served here; never raises.

    Args:
        sampler: Decides.

        tracing: Begins the span after all, or gives it up.
    """

    __slots__ = ("_sampler", "_tracing")

    def __init__(self, sampler: HeadSampler, tracing: Tracing) -> None:
        self._sampler, self._tracing = sampler, tracing

    @classmethod
    def of(cls, sampler: HeadSampler, tracing: Tracing | None) -> Revising | None:
        """
        None where no rule minds the tenant, so that requests pay nothing for it.
        """
        return cls(sampler, tracing) if tracing is not None and sampler.minds_tenants else None

    def __call__(self, tenant_id: str) -> None:
        """
        Hear who the tenant is.
        """
        try:
            self._ask(tenant_id)
        except Exception:
            _logger.exception("a tenant could not be heard of")

    def _ask(self, tenant_id: str) -> None:
        exchange, tracing = current_exchange(), self._tracing
        if exchange is None or exchange.has_ended:
            return
        # What a trusted peer said is the only reason that stands; the others are alike here.
        reason = "ratio" if exchange.inbound.sampled is None else "parent"
        first = Verdict(sampled=exchange.sampled, reason=reason)
        settled = tracing.is_settled(exchange, exchange.entered)
        again = self._sampler.revise(first, exchange.trace_id, tenant_id, settled=settled)
        if again.sampled is not first.sampled:
            exchange.entered = tracing.turn(exchange, exchange.entered)
