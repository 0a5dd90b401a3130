"""A collector that only counts spans, to measure the cost of tracing without that of a backend.

Runs as a separate process. It prints its address, and at SIGTERM one JSON line: spans by service and name.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections import Counter
from typing import Any

import uvloop
from grpc import aio
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

READY = "collector at "


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Counts the spans of every export."""

    def __init__(self) -> None:
        self.spans: Counter[tuple[str, str]] = Counter()

    async def Export(
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: aio.ServicerContext[Any, Any]
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        for resource in request.resource_spans:
            attributes = {each.key: each.value.string_value for each in resource.resource.attributes}
            service = attributes.get("service.name", "")
            self.spans.update((service, span.name) for scope in resource.scope_spans for span in scope.spans)
        return trace_service_pb2.ExportTraceServiceResponse()

    def summary(self) -> dict[str, Any]:
        """The number of spans in total, by service, and by service and name."""
        services: Counter[str] = Counter()
        for (service, _), count in self.spans.items():
            services[service] += count
        names = {f"{service} {name}": count for (service, name), count in self.spans.most_common()}
        return {"total": self.spans.total(), "services": dict(services), "names": names}


async def _main() -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    collector = Collector()
    server = aio.server(options=[("grpc.max_receive_message_length", 64 << 20)])
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"{READY}127.0.0.1:{port}", flush=True)
    await stopped.wait()
    await server.stop(1.0)
    print(json.dumps(collector.summary()), flush=True)


if __name__ == "__main__":
    uvloop.run(_main())
