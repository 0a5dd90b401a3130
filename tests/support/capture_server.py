"""A real gRPC server with a capture service that follows a script."""

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
    """Takes the events, and the caller never hears of it."""
    capture.report(request.SerializeToString())
    context.abort(grpc.StatusCode.UNAVAILABLE, "connection reset")


def unavailable(
    _: Capture, request: capture_pb2.ReportRequest, context: Context
) -> capture_pb2.ReportResponse:
    context.abort(grpc.StatusCode.UNAVAILABLE, "shutting down")


def overloaded(seconds: float) -> Act:
    """Asks to be left alone for some time."""
    return refused(OverloadedError("queue", seconds))


def over_quota(seconds: float) -> Act:
    """Refuses for a tenant that is over its limit."""
    return refused(QuotaError({"tenant:acme": "100 events a second, 100 at once"}, seconds))


def refused(error: MeterlineError) -> Act:
    """Answers as the service would."""
    status = rpc_status.to_status(to_status(error))

    def act(_: Capture, request: capture_pb2.ReportRequest, context: Context) -> capture_pb2.ReportResponse:
        context.abort_with_status(status)

    return act


def malformed_for(subject: str) -> Act:
    """Refuses any whole batch that has an event of this subject."""

    def act(
        capture: Capture, request: capture_pb2.ReportRequest, context: Context
    ) -> capture_pb2.ReportResponse:
        if subject in request.columns.subjects:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "columns.subjects: not allowed")
        return accept(capture, request, context)

    return act


class CaptureServer(capture_pb2_grpc.CaptureServiceServicer):
    """Does what `script` says, one act a call, and `otherwise` when it is used up."""

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
        """The client does not use it."""
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "not in this test")

    def ReportSigned(
        self, request: capture_pb2.ReportSignedRequest, context: Context
    ) -> capture_pb2.ReportSignedResponse:
        """The client does not use it."""
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
    """Takes the events, and does not answer before the server ends."""
    return accept(capture, request, context)


@contextmanager
def serving(servicer: CaptureServer, port: int = 0) -> Iterator[CaptureServer]:
    """The service on a port of this machine."""
    server = grpc.server(futures.ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
    capture_pb2_grpc.add_CaptureServiceServicer_to_server(servicer, server)
    servicer.address = f"127.0.0.1:{server.add_insecure_port(f'127.0.0.1:{port}')}"
    server.start()
    try:
        yield servicer
    finally:
        servicer.release.set()
        server.stop(None).wait()
