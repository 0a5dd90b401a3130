"""A real gRPC server with a scripted capture service."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager

import grpc
from grpc_status import rpc_status
from meterline.errors import MeterlineError, OverloadedError, QuotaError
from meterline.rpc.errors import to_status
from meterline_protos.ingest.v1 import capture_pb2, capture_pb2_grpc

from tests.support.client import Capture

Context = grpc.ServicerContext
Act = Callable[[Capture, capture_pb2.ReportRequest, Context], capture_pb2.ReportResponse]


def accept(capture: Capture, request: capture_pb2.ReportRequest, _: Context) -> capture_pb2.ReportResponse:
    return capture.report(request.SerializeToString())


def lose_answer(
    capture: Capture, request: capture_pb2.ReportRequest, context: Context
) -> capture_pb2.ReportResponse:
    """Accepts the events, but the answer is lost."""
    capture.report(request.SerializeToString())
    context.abort(grpc.StatusCode.UNAVAILABLE, "connection reset")


def unavailable(
    _: Capture, request: capture_pb2.ReportRequest, context: Context
) -> capture_pb2.ReportResponse:
    context.abort(grpc.StatusCode.UNAVAILABLE, "shutting down")


def overloaded(seconds: float) -> Act:
    """Refuses with a retry delay."""
    return refused(OverloadedError("queue", seconds))


def over_quota(seconds: float) -> Act:
    """Refuses a tenant that exceeds its limit."""
    return refused(QuotaError({"tenant:acme": "100 events a second, 100 at once"}, seconds))


def refused(error: MeterlineError) -> Act:
    """Answers like the real service."""
    status = rpc_status.to_status(to_status(error))

    def act(_: Capture, request: capture_pb2.ReportRequest, context: Context) -> capture_pb2.ReportResponse:
        context.abort_with_status(status)

    return act


def malformed_for(subject: str) -> Act:
    """Refuses every batch that contains an event of this subject."""

    def act(
        capture: Capture, request: capture_pb2.ReportRequest, context: Context
    ) -> capture_pb2.ReportResponse:
        if subject in request.columns.subjects:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "columns.subjects: not allowed")
        return accept(capture, request, context)

    return act


class CaptureServer(capture_pb2_grpc.CaptureServiceServicer):
    """Follows `script`, one act for each call, then `otherwise`."""

    def __init__(self, *script: Act, otherwise: Act = accept) -> None:
        self.capture = Capture()
        self.script = deque(script)
        self.otherwise = otherwise
        self.address = ""
        self.calls: list[capture_pb2.ReportRequest] = []
        self.headers: list[dict[str, str | bytes]] = []
        self.release = threading.Event()
        self._lock = threading.Lock()

    def Stream(
        self, request_iterator: Iterator[capture_pb2.StreamRequest], context: Context
    ) -> Iterator[capture_pb2.StreamResponse]:
        """Not used by the client."""
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "not in this test")

    def ReportSigned(
        self, request: capture_pb2.ReportSignedRequest, context: Context
    ) -> capture_pb2.ReportSignedResponse:
        """Not used by the client."""
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "not in this test")

    def Report(self, request: capture_pb2.ReportRequest, context: Context) -> capture_pb2.ReportResponse:
        with self._lock:
            self.calls.append(request)
            self.headers.append(dict(context.invocation_metadata()))
            act = self.script.popleft() if self.script else self.otherwise
        if act is blackhole:
            self.release.wait(60)
        with self._lock:
            return act(self.capture, request, context)


def blackhole(
    capture: Capture, request: capture_pb2.ReportRequest, context: Context
) -> capture_pb2.ReportResponse:
    """Accepts the events, and does not answer before the server stops."""
    return accept(capture, request, context)


@contextmanager
def serving(servicer: CaptureServer, port: int = 0) -> Iterator[CaptureServer]:
    """Runs the service on a local port."""
    server = grpc.server(futures.ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
    capture_pb2_grpc.add_CaptureServiceServicer_to_server(servicer, server)
    servicer.address = f"127.0.0.1:{server.add_insecure_port(f'127.0.0.1:{port}')}"
    server.start()
    try:
        yield servicer
    finally:
        servicer.release.set()
        server.stop(None).wait()
