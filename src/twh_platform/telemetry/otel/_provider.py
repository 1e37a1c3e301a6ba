"""
The SDK's provider as `configure_telemetry` makes it.
"""

from __future__ import annotations

import os
import uuid
import weakref
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Tracer

from .._trace_context import new_span_id, new_trace_id
from ._contrib import CONTRIB, Quiet

__all__ = ["PlatformProvider", "of_process"]


class PlatformProvider(TracerProvider):
    """
    A provider whose tracers for ASGI make nothing twice, and whose ids survive a fork.

    Args:
        ratio: The part of traces that is recorded, of those that no request
            begins; below a span its decision counts.

        resource: What the process is.
    """

    def __init__(self, *, ratio: float, resource: Resource) -> None:
        super().__init__(
            sampler=ParentBased(TraceIdRatioBased(ratio)),
            resource=resource,
            id_generator=_Ids(),
            shutdown_on_exit=False,
        )
        if hasattr(os, "register_at_fork"):
            weakly = weakref.ref(self)
            os.register_at_fork(after_in_child=lambda: _renew(weakly()))

    @property
    def processor(self) -> SpanProcessor:
        """
        Every processor that was added, as one.
        """
        return self._active_span_processor

    def get_tracer(self, instrumenting_module_name: str, *args: Any, **options: Any) -> Tracer:
        """
        See `TracerProvider`.
        """
        tracer = super().get_tracer(instrumenting_module_name, *args, **options)
        return Quiet(tracer) if instrumenting_module_name in CONTRIB else tracer


class _Ids(IdGenerator):
    # The SDK's own generator uses the global one, which an app may seed.
    def generate_trace_id(self) -> int:
        return int(new_trace_id(), 16)

    def generate_span_id(self) -> int:
        return int(new_span_id(), 16)

    def is_trace_id_random(self) -> bool:
        return True  # the flag of W3C level 2


def of_process() -> dict[str, Any]:
    """
    What is different in each process.
    """
    return {"process.pid": os.getpid(), "service.instance.id": str(uuid.uuid4())}


def _renew(provider: PlatformProvider | None) -> None:
    update = getattr(provider, "_update_resource", None)  # the SDK's, for its own fork
    if update is not None:
        update(Resource(of_process()))
