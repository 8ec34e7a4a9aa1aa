"""Spans of requests for OpenTelemetry, by its own libraries and its own environment variables."""

from typing import Any

from exporter.errors import MissingExtraError

# Whoever watches over a server asks for these every second or so.
_UNTRACED = "v2/health,metrics"


class Traces:
    """Where spans go: to the collector of `OTEL_EXPORTER_OTLP_ENDPOINT`, over HTTP."""

    def __init__(self) -> None:
        """As the variables `OTEL_...` say.

        Raises:
          MissingExtraError: without the libraries of OpenTelemetry.
        """
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            raise MissingExtraError(
                "traces need OpenTelemetry. Install it with pip install 'jax-exporter[traces]'."
            ) from error
        resource = Resource.create()  # of OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES
        if str(resource.attributes["service.name"]).startswith("unknown_service"):
            resource = resource.merge(Resource({"service.name": "jax-exporter"}))
        self._provider = TracerProvider(resource=resource)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))

    def http(self, app: Any) -> Any:
        """An ASGI application whose requests are spans."""
        from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

        return OpenTelemetryMiddleware(
            app,
            excluded_urls=_UNTRACED,
            tracer_provider=self._provider,
            exclude_spans=["receive", "send"],
        )

    def rpc(self) -> Any:
        """What makes spans of the calls of a server of gRPC."""
        from opentelemetry.instrumentation.grpc import aio_server_interceptor

        made: Any = aio_server_interceptor
        return made(tracer_provider=self._provider)

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()
