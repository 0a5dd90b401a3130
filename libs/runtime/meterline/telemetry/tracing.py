"""The tracer provider. Without an OTLP endpoint spans get ids, which SQL keeps, but are not recorded.

Standard variables apply: OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_SAMPLER, OTEL_TRACES_SAMPLER_ARG,
OTEL_RESOURCE_ATTRIBUTES, OTEL_BSP_*.
"""

from __future__ import annotations

import os
from functools import cache

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from meterline import __version__

# A span keeps this many links; further ones are in SQL only.
MAX_LINKS = 128


def endpoint() -> str:
    return os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or os.environ.get(
        "OTEL_EXPORTER_OTLP_ENDPOINT", ""
    )


def set_up(service: str) -> TracerProvider:
    """Installs the provider of this process; its `shutdown` sends what is left."""
    resource = Resource.create({"service.name": f"meterline-{service}", "service.version": __version__})
    if endpoint():
        # Importing it takes long, and most processes of tests and of development do without.
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        provider = TracerProvider(resource=resource)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    else:
        provider = TracerProvider(resource=resource, sampler=ALWAYS_OFF)
    trace.set_tracer_provider(provider)
    return provider


@cache
def tracer() -> trace.Tracer:
    """The tracer of all of Meterline; before `set_up` one that follows the provider set later."""
    return trace.get_tracer("meterline", __version__)


def trace_url(template: str, trace_id: str) -> str:
    """The address of a trace, or empty when no template is configured."""
    return template.replace("{trace_id}", trace_id) if template and trace_id else ""
