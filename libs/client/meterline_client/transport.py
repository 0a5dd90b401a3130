"""The call that reports a batch."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, cast

import grpc
from google.protobuf import timestamp_pb2
from meterline_protos.ingest.v1 import capture_pb2

from meterline_client import lifecycle
from meterline_client.retry import Failure
from meterline_client.signing import CaptureConfigs, signed
from meterline_client.status import to_failure

Metadata = Sequence[tuple[str, str | bytes]]
Answer = capture_pb2.ReportResponse | Failure

_SERVICE = capture_pb2.DESCRIPTOR.services_by_name["CaptureService"].full_name

# How long a process that ends waits for one call, where it can do nothing else meanwhile.
_LONGEST_WAIT = 5.0

# Kept, because a channel with calls that never end cannot be closed. Few: a thread failed to start for each.
_abandoned: deque[grpc.Channel] = deque(maxlen=1_000)

_OPTIONS = [
    # Retries happen in one layer, and that is delivery.
    ("grpc.enable_retries", 0),
    # By default a channel waits up to two minutes before it connects again, longer than the breaker.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    # An answer that names each of 10,000 refused events is longer than the usual limit.
    ("grpc.max_receive_message_length", 64 << 20),
]


def bearer(api_key: str | None) -> Metadata:
    """The header of an API key. ValueError, whose text omits the key, when it cannot be one."""
    if api_key is None:
        return ()
    if not api_key or not api_key.isascii() or not api_key.isprintable() or " " in api_key:
        raise ValueError("api_key: must be a key as it was made")
    return (("authorization", f"Bearer {api_key}"),)


class GrpcTransport:
    """Sends serialised batches. The first call opens the channel, so that a process may fork before."""

    def __init__(
        self,
        target: str,
        credentials: grpc.ChannelCredentials | None,
        metadata: Metadata,
        configs: CaptureConfigs | None = None,
    ) -> None:
        """`configs`: calls are signed, with what it answers."""
        self._configs = configs
        self._target = target
        self._credentials = credentials
        self._metadata = tuple(metadata)
        self._channel: grpc.Channel | None = None
        self._report: Any = None
        # Whether a thread of gRPC failed to start.
        self._no_thread = False

    def call(
        self, payload: bytes, now_us: int, metadata: Metadata, timeout: float, done: Callable[[Answer], None]
    ) -> None:
        """Starts one attempt and returns; `done` is called once, in another thread."""
        if self._report is None:
            self._open()
        try:
            request = self._request(payload + sent_at(now_us), now_us)
        except Exception as error:  # noqa: BLE001 - the application's own error; until it is fixed, events wait
            done(Failure(grpc.StatusCode.UNAUTHENTICATED, f"no capture configuration: {error}"))
            return
        headers = (*self._metadata, *metadata)
        if (self._no_thread or lifecycle.is_closing()) and not self._has_threads():
            done(self._call_and_wait(request, min(timeout, _LONGEST_WAIT), headers))
            return
        try:
            future = self._report.future(request, timeout=timeout, metadata=headers)
        except (ValueError, TypeError, RuntimeError, grpc.RpcError) as error:
            if isinstance(error, RuntimeError) and not isinstance(error, grpc.RpcError):
                self._abandon()
            # A closed channel, metadata that cannot be sent, no thread to be had.
            done(Failure(grpc.StatusCode.UNAVAILABLE, str(error)))
            return
        future.add_done_callback(lambda ended: done(_answer(ended)))

    def _call_and_wait(self, request: bytes, timeout: float, headers: Metadata) -> Answer:
        """The same in this thread, for a process that ends and has no other."""
        try:
            response, _ = self._report.with_call(request, timeout=timeout, metadata=headers)
        except grpc.RpcError as error:
            return to_failure(cast("grpc.Call", error))
        except (ValueError, TypeError, RuntimeError) as error:
            return Failure(grpc.StatusCode.UNAVAILABLE, str(error))
        answer: capture_pb2.ReportResponse = response
        return answer

    def _has_threads(self) -> bool:
        """Whether a thread can be started. From Python 3.12 on none can once the interpreter ends."""
        try:
            threading.Thread(target=int, daemon=True).start()
        except RuntimeError:
            return False
        self._no_thread = False
        return True

    def _abandon(self) -> None:
        """A channel whose thread did not start believes that it has one: its calls, and closing it, would
        never end. The next call opens another, once there are threads."""
        self._no_thread = True
        if self._channel is not None:
            _abandoned.append(self._channel)
        self._channel = self._report = None

    def _request(self, report: bytes, now_us: int) -> bytes:
        return report if self._configs is None else signed(report, now_us, self._configs())

    def close(self) -> None:
        """Cancels what is on its way."""
        if self._channel is not None:
            self._channel.close()

    def _open(self) -> None:
        if self._credentials is None:
            self._channel = grpc.insecure_channel(self._target, options=_OPTIONS)
        else:
            self._channel = grpc.secure_channel(self._target, self._credentials, options=_OPTIONS)
        # The batch is bytes already, the same at every attempt.
        method, read = ("Report", _answered) if self._configs is None else ("ReportSigned", _answered_signed)
        self._report = self._channel.unary_unary(
            f"/{_SERVICE}/{method}", request_serializer=bytes, response_deserializer=read
        )


def sent_at(now_us: int) -> bytes:
    """The request's field `sent_at`, serialised. Appended to a serialised request it becomes part of it, so
    the server can distinguish a wrong clock from a late attempt, and the batch's bytes stay unchanged."""
    seconds, micros = divmod(now_us, 1_000_000)
    stamp = timestamp_pb2.Timestamp(seconds=seconds, nanos=micros * 1_000)
    return capture_pb2.ReportRequest(sent_at=stamp).SerializeToString()


def _answered(data: bytes) -> capture_pb2.ReportResponse:
    return capture_pb2.ReportResponse.FromString(data)


def _answered_signed(data: bytes) -> capture_pb2.ReportResponse:
    return capture_pb2.ReportSignedResponse.FromString(data).report


def _answer(call: Any) -> Answer:
    if call.cancelled():
        return Failure(grpc.StatusCode.CANCELLED, "the call was cancelled")
    if call.exception() is not None:
        return to_failure(call)
    response: capture_pb2.ReportResponse = call.result()
    return response
