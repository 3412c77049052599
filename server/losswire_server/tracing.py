"""Traces by OpenTelemetry, where they are asked for: one span for each call.

In: OpenTelemetry's own environment variables, such as OTEL_EXPORTER_OTLP_ENDPOINT. Out: spans of
the gRPC plugin, children of the caller's where its metadata says so. They name methods, peers and
statuses, never contents.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from losswire_proto import __version__
from losswire_server.errors import StartupError

if TYPE_CHECKING:
    from collections.abc import Callable

    import grpc


def start() -> tuple[grpc.aio.ServerInterceptor, Callable[[], None]]:
    """What traces calls, and a way to send the last spans and end it.

    Raises:
        StartupError: OpenTelemetry is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
            OTLPSpanExporter,
        )
        from opentelemetry.instrumentation.grpc import aio_server_interceptor  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise StartupError(f"tracing: needs {error.name}: pip install 'losswire[otel]'") from error
    about = Resource.create({"service.name": "losswire", "service.version": __version__})
    provider = TracerProvider(resource=about)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    tracer = aio_server_interceptor(tracer_provider=provider)  # type: ignore[no-untyped-call]
    return tracer, provider.shutdown
