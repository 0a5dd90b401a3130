"""CaptureService: calls become submissions, results become answers."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final, cast

from google.protobuf.timestamp_pb2 import Timestamp
from grpc import aio
from meterline.clock import Clock
from meterline.errors import InvalidArgumentError
from meterline.telemetry import metrics
from meterline_protos.ingest.v1 import capture_pb2, capture_pb2_grpc
from opentelemetry import trace

from meterline_ingest import translate, wire
from meterline_ingest.committer import Committer, Origin, Result, Submission
from meterline_ingest.domain.limits import MAX_ROWS, MAX_SOURCE
from meterline_ingest.domain.outcomes import Kind, Problem

Context = aio.ServicerContext[Any, Any]

# Messages of one stream that wait for their outcome; beyond these the stream is read no further.
STREAM_WINDOW = 4_096


class CaptureServicer(capture_pb2_grpc.CaptureServiceServicer):
    def __init__(self, committer: Committer, clock: Clock) -> None:
        self._committer = committer
        self._clock = clock

    async def Report(
        self, request: capture_pb2.ReportRequest, context: Context
    ) -> capture_pb2.ReportResponse:
        started = time.perf_counter()
        sent_at = request.sent_at if request.HasField("sent_at") else None
        submission = to_submission(request, self._origin(request.source, sent_at))
        if len(submission) == 0:
            return capture_pb2.ReportResponse()
        self._committer.submit(submission)
        result = await submission.result
        metrics.CAPTURE_SECONDS.observe(time.perf_counter() - started)
        return to_response(request, result)

    async def Stream(
        self, requests: AsyncIterator[capture_pb2.StreamRequest], context: Context
    ) -> AsyncIterator[capture_pb2.StreamResponse]:
        stream = _Stream(self._committer, self._origin)
        reading = asyncio.ensure_future(stream.read(requests))
        try:
            async for response in stream.responses(reading):
                yield response
            await reading
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    def _origin(self, source: str, sent_at: Timestamp | None) -> Origin:
        return Origin(
            checked_source(source),
            self._clock.now_us(),
            None if sent_at is None else sent_at.ToMicroseconds(),
            trace.get_current_span().get_span_context(),
        )


def checked_source(source: str) -> str:
    """Raises InvalidArgumentError."""
    if not 0 < len(source) <= MAX_SOURCE or "\0" in source:
        raise InvalidArgumentError("source", f"1 to {MAX_SOURCE} characters, no NUL")
    return source


def to_submission(request: capture_pb2.ReportRequest, origin: Origin) -> Submission:
    """A call, in the form of `wire`. Raises InvalidArgumentError."""
    size = request.ByteSize()
    if request.HasField("columns"):
        columns = translate.from_columns(request.columns, request.tenant_id, request.source)
        return Submission(origin, request.tenant_id, columns=columns, bytes=size)
    if not request.HasField("rows"):
        raise InvalidArgumentError("batch", "rows or columns")
    if len(request.rows.events) > MAX_ROWS:
        raise InvalidArgumentError("rows.events", f"at most {MAX_ROWS}", "TOO_MANY_EVENTS")
    return Submission(origin, request.tenant_id, rows=request.rows.events, bytes=size)


def add_to_server(servicer: CaptureServicer, server: Any) -> None:
    """As the generated function, but requests are read in the form of `wire`."""
    capture_pb2_grpc.add_CaptureServiceServicer_to_server(servicer, cast("Any", _WithWireForms(server)))


class _WithWireForms:
    """Hands handlers on to a server, with other deserializers."""

    _READERS: Final = {"Report": wire.ReportRequest.FromString, "Stream": wire.StreamRequest.FromString}

    def __init__(self, server: Any) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Not needed: see `meterline.rpc.server`."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        read = {
            name: handler._replace(request_deserializer=self._READERS[name])
            for name, handler in handlers.items()
        }
        self._server.add_registered_method_handlers(service, read)


class _Stream:
    """One stream: events gather in a submission until a flush takes it, then in the next."""

    def __init__(self, committer: Committer, origin: Any) -> None:
        self._committer = committer
        self._make_origin = origin
        self._open: Submission | None = None
        self._rows: list[capture_pb2.Event] = []
        self._submissions: deque[Submission] = deque()
        self._unanswered = 0
        self._changed = asyncio.Event()
        self._room = asyncio.Event()

    async def read(self, requests: AsyncIterator[capture_pb2.StreamRequest]) -> None:
        tenant_id = source = ""
        async for request in requests:
            tenant_id, source = request.tenant_id or tenant_id, request.source or source
            current = self._open
            if (
                current is None
                or current.taken
                or current.tenant_id != tenant_id
                or current.origin.source != source
            ):
                self._rows = [request.event]
                current = self._open = Submission(self._make_origin(source, None), tenant_id, rows=self._rows)
                self._committer.submit(current)
                self._submissions.append(current)
                self._changed.set()
            else:
                self._committer.reserve(1)
                self._rows.append(request.event)
            self._unanswered += 1
            while self._unanswered >= STREAM_WINDOW:
                self._room.clear()
                await self._room.wait()

    async def responses(self, reading: asyncio.Future[None]) -> AsyncIterator[capture_pb2.StreamResponse]:
        """Answers in order; ends when all that was read is answered."""
        answered = 0
        reading.add_done_callback(lambda _: self._changed.set())
        while True:
            while not self._submissions:
                if reading.done():
                    return
                self._changed.clear()
                await self._changed.wait()
            submission = self._submissions.popleft()
            result = await submission.result
            self._unanswered -= result.rows
            self._room.set()
            yield _stream_response(submission, result, answered)
            answered += result.rows


def _outcome(row: int, event_id: str, problem: Problem) -> capture_pb2.EventOutcome:
    return capture_pb2.EventOutcome(
        index=row,
        outcome=capture_pb2.Outcome.ValueType(problem.kind),
        reason=problem.reason,
        field=problem.field,
        message=problem.message,
        event_id=event_id,
        stored_digest=problem.stored_digest.hex(),
        sent_digest=problem.sent_digest.hex(),
    )


def _count(result: Result, *, shown: bool = True) -> dict[Kind, int]:
    counts = dict.fromkeys(Kind, 0)
    for problem in result.problems.values():
        counts[problem.kind] += 1
    counts[Kind.ACCEPTED] = result.rows - len(result.problems)
    if shown:
        for problem in result.problems.values():
            metrics.EVENTS.labels(problem.kind.name.lower(), problem.reason).inc()
        metrics.EVENTS.labels("accepted", "").inc(counts[Kind.ACCEPTED])
    return counts


def to_response(
    request: capture_pb2.ReportRequest, result: Result, *, counted: bool = True
) -> capture_pb2.ReportResponse:
    """`counted`: whether the outcomes are shown in the metrics."""
    counts, sent_ids = _count(result, shown=counted), _sent_ids(request, result)
    return capture_pb2.ReportResponse(
        accepted=counts[Kind.ACCEPTED],
        duplicate=counts[Kind.DUPLICATE],
        conflict=counts[Kind.CONFLICT],
        rejected=counts[Kind.REJECTED],
        outcomes=[_outcome(row, sent_ids[row], problem) for row, problem in result.problems.items()],
        batch_id=result.batch_id,
    )


def _sent_ids(request: capture_pb2.ReportRequest, result: Result) -> dict[int, str]:
    """The ids of the rows with problems, as they were sent."""
    if not request.HasField("columns"):
        return {row: request.rows.events[row].id for row in result.problems}
    return {row: translate.sent_id(request.columns, row) for row in result.problems}


def _stream_response(submission: Submission, result: Result, answered: int) -> capture_pb2.StreamResponse:
    counts = _count(result)
    return capture_pb2.StreamResponse(
        acknowledged=answered + result.rows,
        accepted=counts[Kind.ACCEPTED],
        duplicate=counts[Kind.DUPLICATE],
        outcomes=[
            capture_pb2.StreamOutcome(
                sequence=answered + row, outcome=_outcome(0, submission.rows[row].id, problem)
            )
            for row, problem in result.problems.items()
        ],
    )
