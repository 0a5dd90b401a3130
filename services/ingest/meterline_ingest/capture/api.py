"""CaptureService: turns calls into submissions, and results into responses."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final, TypeVar, cast

from google.protobuf.timestamp_pb2 import Timestamp
from grpc import aio
from meterline.auth.principals import acting_as, current_principal
from meterline.clock import Clock
from meterline.deadline import time_left
from meterline.errors import (
    InvalidArgumentError,
    OverloadedError,
    QuotaError,
    UnavailableError,
)
from meterline.tasks import in_thread
from meterline.telemetry import metrics
from meterline_protos.ingest.v1 import capture_pb2, capture_pb2_grpc
from opentelemetry import trace

from meterline_ingest.capture.admission import Admission
from meterline_ingest.capture.call import Origin, Result, Submission, Turn
from meterline_ingest.capture.group_commit import Committer
from meterline_ingest.capture.parse import columns as translate
from meterline_ingest.capture.parse import wire
from meterline_ingest.capture.signed_calls import SignedCalls
from meterline_ingest.event.bounds import MAX_EVENT_ID, MAX_ROWS, MAX_SOURCE
from meterline_ingest.event.outcomes import Kind, Problem

Context = aio.ServicerContext[Any, Any]
T = TypeVar("T")

# Messages of one stream that may wait for their outcome; reading pauses beyond these.
STREAM_WINDOW = 4_096
# Beyond so many bytes of a call, or sets or outcomes in it, they are read and written off the event loop.
MUCH: Final = 128 << 10
MANY: Final = 500


class CaptureServicer(capture_pb2_grpc.CaptureServiceServicer):
    def __init__(
        self, admission: Admission, committer: Committer, signed_calls: SignedCalls, clock: Clock
    ) -> None:
        self._admission = admission
        self._committer = committer
        self._signed_calls = signed_calls
        self._clock = clock

    async def Report(
        self, request: capture_pb2.ReportRequest, context: Context
    ) -> capture_pb2.ReportResponse:
        # As `wire.read_report` has read it.
        return await self._report(cast("wire.Received[capture_pb2.ReportRequest]", request))

    async def ReportSigned(
        self, request: capture_pb2.ReportSignedRequest, context: Context
    ) -> capture_pb2.ReportSignedResponse:
        principal, body = await self._signed_calls.open(request)
        with acting_as(principal):
            return capture_pb2.ReportSignedResponse(report=await self._report(body))

    async def _report(self, received: wire.Received[capture_pb2.ReportRequest]) -> capture_pb2.ReportResponse:
        started = time.perf_counter()
        request = received.message
        sent_at = request.sent_at if request.HasField("sent_at") else None
        submission = await to_submission(request, received.size, self._origin(request.source, sent_at))
        if len(submission) == 0:
            return capture_pb2.ReportResponse()
        try:
            async with asyncio.timeout(_seconds_left()):
                await self._admission.submit(submission)
                result = await submission.result
        except TimeoutError as error:
            # It may be durable nevertheless; the same events sent again are then duplicates.
            raise UnavailableError("not stored before the deadline of the call") from error
        metrics.CAPTURE_SECONDS.observe(time.perf_counter() - started)
        return await to_response(request, result)

    async def Stream(
        self, requests: AsyncIterator[capture_pb2.StreamRequest], context: Context
    ) -> AsyncIterator[capture_pb2.StreamResponse]:
        stream = _Stream(self._admission, self._committer, self._origin)
        reading = asyncio.ensure_future(
            # As `wire.read_stream` has read them.
            stream.read(cast("AsyncIterator[wire.Received[capture_pb2.StreamRequest]]", requests))
        )
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
            None if sent_at is None else _microseconds(sent_at),
            trace.get_current_span().get_span_context(),
            tenant=current_principal().tenant,
        )


def checked_source(source: str) -> str:
    """Raises InvalidArgumentError."""
    if not 0 < len(source) <= MAX_SOURCE or "\0" in source:
        raise InvalidArgumentError("source", f"1 to {MAX_SOURCE} characters, no NUL")
    return source


async def to_submission(request: capture_pb2.ReportRequest, size: int, origin: Origin) -> Submission:
    """`request` is in the form of `wire`, and came in `size` bytes. Raises InvalidArgumentError."""
    # A caller with a tenant need not name it.
    tenant_id = request.tenant_id or origin.tenant or ""
    if request.HasField("columns"):
        arguments = request.columns, tenant_id, request.source
        sets = len(request.columns.dimension_sets) + len(request.columns.property_sets)
        if size > MUCH and sets > MANY:
            columns = await in_thread(translate.from_columns, *arguments)
        else:
            columns = translate.from_columns(*arguments)
        return Submission(origin, tenant_id, columns=columns, bytes=size)
    if not request.HasField("rows"):
        raise InvalidArgumentError("batch", "rows or columns")
    if len(request.rows.events) > MAX_ROWS:
        raise InvalidArgumentError("rows.events", f"at most {MAX_ROWS}", "TOO_MANY_EVENTS")
    return Submission(origin, tenant_id, rows=request.rows.events, bytes=size)


def _microseconds(sent_at: Timestamp) -> int:
    try:
        return sent_at.ToMicroseconds()
    except ValueError:
        raise InvalidArgumentError("sent_at", "a time from year 1 to 9999") from None


class _Stream:
    """One stream: events gather in a submission until a flush takes it, then in the next."""

    def __init__(self, admission: Admission, committer: Committer, origin: Any) -> None:
        self._admission = admission
        self._committer = committer
        self._make_origin = origin
        self._open: Submission | None = None
        self._submissions: deque[Submission] = deque()
        self._unanswered = 0
        self._changed = asyncio.Event()
        self._room = asyncio.Event()

    async def read(self, requests: AsyncIterator[wire.Received[capture_pb2.StreamRequest]]) -> None:
        own = current_principal().tenant
        tenant_id, source = own or "", ""
        async for message in requests:
            request, size = message.message, message.size
            tenant_id, source = request.tenant_id or tenant_id, request.source or source
            slug = own or request.event.tenant_id or tenant_id
            turn = await _retry_when_limited(partial(self._admission.admit_event, slug, size))
            await _retry_when_limited(
                partial(self._submit_event, tenant_id, source, request.event, size, turn)
            )
            self._unanswered += 1
            while self._unanswered >= STREAM_WINDOW:
                self._room.clear()
                await self._room.wait()

    async def _submit_event(
        self, tenant_id: str, source: str, event: capture_pb2.Event, size: int, turn: Turn
    ) -> None:
        current = self._open
        if (
            current is not None
            and not current.taken
            and current.tenant_id == tenant_id
            and current.origin.source == source
        ):
            self._committer.extend(current, event, size)
            return
        origin = self._make_origin(source, None)
        opened = Submission(origin, tenant_id, rows=[event], bytes=size, turn=turn)
        self._committer.submit(opened)
        self._open = opened
        self._submissions.append(opened)
        self._changed.set()

    async def responses(self, reading: asyncio.Future[None]) -> AsyncIterator[capture_pb2.StreamResponse]:
        """Yields responses in order; ends when every message that was read is answered."""
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


async def _retry_when_limited(step: Callable[[], Awaitable[T]]) -> T:
    """Repeats `step` until its limit permits it. Meanwhile the stream is not read, which slows its sender."""
    while True:
        try:
            return await step()
        except (QuotaError, OverloadedError) as error:
            await asyncio.sleep(error.retry_after)


def _seconds_left() -> float | None:
    left = time_left.get()
    return left() if left else None


def _outcome(row: int, event_id: str, problem: Problem, *, quarantined: bool) -> dict[str, Any]:
    """The fields of an EventOutcome. As such they are built in their place, which saves a copy."""
    return {
        "index": row,
        "outcome": capture_pb2.Outcome.ValueType(problem.kind),
        "reason": problem.reason,
        "field": problem.field,
        "message": problem.message,
        "event_id": event_id[:MAX_EVENT_ID],
        "stored_digest": problem.stored_digest.hex(),
        "sent_digest": problem.sent_digest.hex(),
        "quarantined": quarantined,
    }


def _count(result: Result, *, shown: bool = True) -> dict[Kind, int]:
    counts = dict.fromkeys(Kind, 0)
    if not result.problems:
        counts[Kind.ACCEPTED] = result.rows
        if shown:
            metrics.EVENTS.labels("accepted", "").inc(result.rows)
        return counts
    by_reason = Counter((problem.kind, problem.reason) for problem in result.problems.values())
    for (kind, _), events in by_reason.items():
        counts[kind] += events
    counts[Kind.ACCEPTED] = result.rows - len(result.problems)
    if shown:
        for (kind, reason), events in by_reason.items():
            metrics.EVENTS.labels(kind.name.lower(), reason).inc(events)
        metrics.EVENTS.labels("accepted", "").inc(counts[Kind.ACCEPTED])
    return counts


async def to_response(
    request: capture_pb2.ReportRequest, result: Result, *, counted: bool = True
) -> capture_pb2.ReportResponse:
    """`counted`: whether the outcomes are shown in the metrics."""
    counts = _count(result, shown=counted)
    if len(result.problems) > MANY:
        return await in_thread(_response, request, result, counts)
    return _response(request, result, counts)


def _response(
    request: capture_pb2.ReportRequest, result: Result, counts: Mapping[Kind, int]
) -> capture_pb2.ReportResponse:
    sent_ids = _sent_ids(request, result)
    response = capture_pb2.ReportResponse(
        accepted=counts[Kind.ACCEPTED],
        duplicate=counts[Kind.DUPLICATE],
        conflict=counts[Kind.CONFLICT],
        rejected=counts[Kind.REJECTED],
        batch_id=result.batch_id,
    )
    add = response.outcomes.add
    for event_id, (row, problem) in zip(sent_ids, result.problems.items(), strict=True):
        add(**_outcome(row, event_id, problem, quarantined=row in result.quarantined))
    return response


def _sent_ids(request: capture_pb2.ReportRequest, result: Result) -> list[str]:
    """The ids of the rows with problems, as they were sent."""
    if not request.HasField("columns"):
        events = request.rows.events
        return [events[row].id for row in result.problems]
    return translate.sent_ids(request.columns, result.problems)


def _stream_response(submission: Submission, result: Result, answered: int) -> capture_pb2.StreamResponse:
    counts = _count(result)
    return capture_pb2.StreamResponse(
        acknowledged=answered + result.rows,
        accepted=counts[Kind.ACCEPTED],
        duplicate=counts[Kind.DUPLICATE],
        outcomes=[
            capture_pb2.StreamOutcome(
                sequence=answered + row,
                outcome=capture_pb2.EventOutcome(
                    **_outcome(0, submission.rows[row].id, problem, quarantined=row in result.quarantined)
                ),
            )
            for row, problem in result.problems.items()
        ],
    )
