"""Traces: a span for each answer and each job, where the packages of the extra ``tracing`` are installed and asked for.

Spans hold ids, numbers and codes, as logs do; nothing that was sent, and no messages of errors.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from instantrt.errors import MissingExtraError
from instantrt.version import __version__

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

Value = str | int | float | None


class Traces:
    """Where spans go.

    Args:
        tracer: OpenTelemetry's; None where no traces are wanted.
    """

    def __init__(self, tracer: Tracer | None = None) -> None:
        self._tracer = tracer

    def note(self, name: str, seconds: float, values: Mapping[str, Value], parent: str | None = None) -> None:
        """A span that ends now.

        Args:
            name: of a kind of work.
            seconds: how long it took.
            values: about it; None is left out.
            parent: a W3C ``traceparent`` header of the caller's.
        """
        if self._tracer is None:
            return
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        context = TraceContextTextMapPropagator().extract({"traceparent": parent} if parent else {})
        began_ns = time.time_ns() - round(seconds * 1e9)
        known = {key: value for key, value in values.items() if value is not None}
        self._tracer.start_span(name, context, attributes=known, start_time=began_ns).end()


def traces_to(endpoint: str | None) -> Traces:
    """Traces that are sent to an OTLP endpoint, e.g. ``http://localhost:4318/v1/traces``; nowhere without one.

    Raises:
        MissingExtraError: the packages are not installed.
    """
    if endpoint is None:
        return Traces()
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise MissingExtraError("Sending traces", "tracing", str(error)) from error
    provider = TracerProvider(resource=Resource({"service.name": "instantrt"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint)))
    return Traces(provider.get_tracer("instantrt_serve", __version__))
