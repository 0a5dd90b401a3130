"""Delivery under a manual clock: sending, retries, splitting, backpressure and giving up."""

from collections.abc import Callable
from itertools import pairwise

import pytest
from grpc import StatusCode
from meterline_client import batches
from meterline_client.breaker import BreakerState
from meterline_client.delivery import Mark
from meterline_client.events import OutcomeKind
from meterline_client.retry import Failure
from meterline_client.transport import Answer
from meterline_client.window import Parcel
from meterline_protos.ingest.v1 import capture_pb2

from tests.support.client import Core, fail, ids_of

DOWN = Failure(StatusCode.UNAVAILABLE, "connection refused")
BUSY = Failure(StatusCode.RESOURCE_EXHAUSTED, "queue is full", retry_after=2.0)
BROKEN = Failure(StatusCode.INTERNAL, "internal error")
MALFORMED = Failure(
    StatusCode.INVALID_ARGUMENT, "columns.types: too long", field="columns.types", reason="TOO_LONG"
)


def without_answer(core: Core, times: int, failure: Failure = DOWN) -> Callable[[Parcel], Answer]:
    """A server that accepts everything and loses its first `times` answers."""

    def answer(parcel: Parcel) -> Answer:
        response = core.accept(parcel)
        return failure if len(core.attempts) <= times else response

    return answer


@pytest.mark.req("T1.1", "T1.3")
def test_events_are_sent_in_batches_after_the_interval() -> None:
    core = Core()
    core.record(25)

    core.run(0.4)
    assert [parcel.batch.count for _, parcel in core.attempts] == [10, 10]
    core.run(0.2)

    assert [parcel.batch.count for _, parcel in core.attempts] == [10, 10, 5]
    assert core.flushed()
    assert core.counters.accepted == core.total() == 25


@pytest.mark.req("S11")
def test_idle_delivery_sleeps() -> None:
    core = Core()
    assert core.settle() is None
    core.record(3)
    core.run(1.0)

    assert core.settle() is None


@pytest.mark.req("T1.1")
@pytest.mark.parametrize("failure", [DOWN, Failure(StatusCode.DEADLINE_EXCEEDED), BUSY, BROKEN])
def test_retry_after_a_lost_answer_counts_once(failure: Failure) -> None:
    core = Core()
    core.answer = without_answer(core, 4, failure)
    ids = core.record(10)

    core.run(60)

    assert core.flushed()
    assert len({parcel.batch.payload for _, parcel in core.attempts}) == 1, "all attempts have the same bytes"
    assert len(core.attempts) == 5
    assert core.capture.counted == set(ids)
    assert (core.counters.duplicate, core.counters.retries, core.outcomes) == (10, 4, [])


@pytest.mark.req("T1.1", "T7.1")
def test_retry_delays_grow_with_jitter() -> None:
    core = Core(fail(DOWN), breaker_failures=1_000)
    core.record(10)

    core.run(120)

    times = [when for when, _ in core.attempts]
    waits = [later - earlier for earlier, later in pairwise(times)]
    ceilings = [min(30.0, 0.1 * 2**n) for n in range(len(waits))]
    assert len(waits) >= 8
    assert all(0 <= wait <= ceiling + 1e-3 for wait, ceiling in zip(waits, ceilings, strict=True))
    assert len({round(wait / ceiling, 3) for wait, ceiling in zip(waits, ceilings, strict=True)}) > 5


@pytest.mark.req("T1.1", "T2.4")
def test_overloaded_server_gets_its_requested_pause() -> None:
    core = Core()
    core.answer = lambda parcel: BUSY if len(core.attempts) <= 1 else core.accept(parcel)
    core.record(10)
    core.run(0.1)
    core.record(100)

    core.run(1.8)
    assert len(core.attempts) == 1, "only the batches in flight, and none after them"
    assert core.delivery.breaker is BreakerState.CLOSED
    core.run(30)

    assert core.attempts[1][0] >= core.attempts[0][0] + 2.0
    assert core.counters.accepted == 110


@pytest.mark.req("T7.1")
def test_unreachable_server_is_probed_with_growing_cooldowns() -> None:
    core = Core(fail(DOWN), max_events=100_000)
    core.record(500)

    core.run(600)

    assert core.delivery.breaker is BreakerState.OPEN
    # Five failures open the breaker; then cooldowns of 1, 2, 4, 8, 16, 30, 30, ... with a random half.
    assert 5 + 600 / 30 <= len(core.attempts) <= 5 + 5 + 600 / 15
    assert core.total() == 500


@pytest.mark.req("T1.3")
def test_flush_waits_only_for_earlier_events() -> None:
    core = Core(lambda _: None)
    core.record(10)
    core.settle()
    mark = Mark(core.buffer.seal())
    core.record(10)

    assert not core.delivery.is_delivered(mark)
    core.delivery.answered(core.unanswered[0], core.accept(core.unanswered[0]))
    assert core.delivery.is_delivered(mark)
    assert not core.flushed()


@pytest.mark.req("S11", "T7.1")
def test_probe_in_flight_blocks_other_sends() -> None:
    core = Core(fail(DOWN))
    core.record(50)
    core.run(0.6)
    core.answer = lambda _: None
    core.run(60)

    assert core.delivery.breaker is BreakerState.HALF_OPEN
    assert len(core.unanswered) == 1
    assert core.settle() is None


@pytest.mark.req("T7.1")
def test_recovered_server_receives_the_backlog_immediately() -> None:
    core = Core(fail(DOWN), backoff_base=30, breaker_failures=4)
    core.record(500)
    core.run(0.5)
    before = len(core.attempts)

    core.answer = core.accept
    core.run(31)

    assert core.delivery.breaker is BreakerState.CLOSED
    assert core.counters.accepted == 500
    # After one successful probe no batch waits for the rest of the 30 s cooldown.
    assert (before, core.attempts[-1][0]) == (4, core.attempts[4][0])


@pytest.mark.req("T1.1", "T7.1")
def test_invalid_event_does_not_block_the_others() -> None:
    core = Core(chunk_events=100)
    core.answer = lambda parcel: MALFORMED if bad in ids_of(parcel.batch.payload) else core.accept(parcel)
    core.record(63)
    [bad] = core.record(1)
    core.record(36)

    core.run(1)

    assert core.flushed()
    assert (core.counters.accepted, core.counters.rejected) == (99, 1)
    [outcome] = core.outcomes
    assert outcome.event.id == bad
    assert (outcome.outcome, outcome.reason, outcome.field) == (
        OutcomeKind.REJECTED,
        "TOO_LONG",
        "columns.types",
    )
    assert len(core.attempts) < 40


@pytest.mark.req("T1.1")
def test_all_invalid_events_are_isolated() -> None:
    core = Core(fail(MALFORMED), chunk_events=50)
    ids = core.record(50)

    core.run(10)

    assert core.flushed()
    assert sorted(outcome.event.id for outcome in core.outcomes) == sorted(ids)
    assert core.delivery.breaker is BreakerState.CLOSED, "a refusal is no failure of the server"


@pytest.mark.req("T1.1")
def test_refused_tenant_fails_the_batch_without_splitting() -> None:
    unknown = Failure(
        StatusCode.INVALID_ARGUMENT, "no such tenant", field="tenant_id", reason="TENANT_UNKNOWN"
    )

    def answer(parcel: Parcel) -> Answer:
        tenants = {event.tenant_id for event in parcel.batch.events()}
        return unknown if "gone" in tenants else core.accept(parcel)

    core = Core(answer, chunk_events=40)
    core.record(20)
    gone = core.record(20, tenant_id="gone")

    core.run(10)

    assert core.flushed()
    assert core.counters.accepted == 20
    assert sorted(outcome.event.id for outcome in core.outcomes) == sorted(gone)
    assert len(core.attempts) < 20


@pytest.mark.req("T1.1", "T7.1")
def test_event_that_crashes_the_server_is_given_up_alone() -> None:
    core = Core(chunk_events=20)
    core.answer = lambda parcel: BROKEN if bad in ids_of(parcel.batch.payload) else core.accept(parcel)
    core.record(19)
    [bad] = core.record(1)
    core.record(20)

    core.run(3_600)

    assert core.flushed()
    assert (core.counters.accepted, core.counters.failed) == (39, 1)
    [outcome] = core.outcomes
    assert (outcome.event.id, outcome.outcome, outcome.reason) == (bad, OutcomeKind.FAILED, "INTERNAL")
    assert sum(bad in ids_of(parcel.batch.payload) for _, parcel in core.attempts) == 5 * 3


@pytest.mark.req("T1.1")
def test_batches_are_split_for_a_server_with_a_small_message_limit() -> None:
    too_large = Failure(StatusCode.RESOURCE_EXHAUSTED, "message larger than max")
    core = Core(chunk_events=100)
    core.answer = lambda parcel: too_large if parcel.batch.count > 20 else core.accept(parcel)
    core.record(100)

    core.run(120)

    assert core.counters.accepted == 100


@pytest.mark.req("T1.1")
def test_overload_never_gives_up_events() -> None:
    core = Core(fail(Failure(StatusCode.RESOURCE_EXHAUSTED)), chunk_events=4)
    core.record(4)

    core.run(3_600)

    assert (core.counters.failed, core.counters.window) == (0, 4)


@pytest.mark.req("T1.1")
@pytest.mark.parametrize(
    "answer",
    [
        capture_pb2.ReportResponse(),
        capture_pb2.ReportResponse(accepted=9),
        capture_pb2.ReportResponse(accepted=11),
        capture_pb2.ReportResponse(
            accepted=9,
            rejected=1,
            outcomes=[capture_pb2.EventOutcome(index=10, outcome=capture_pb2.OUTCOME_REJECTED)],
        ),
    ],
)
def test_answer_that_omits_events_is_a_failure(answer: capture_pb2.ReportResponse) -> None:
    core = Core()
    core.answer = lambda parcel: answer if len(core.attempts) == 1 else core.accept(parcel)
    core.record(10)

    core.run(10)

    assert (len(core.attempts), core.counters.accepted, core.total()) == (2, 10, 10)


@pytest.mark.req("T1.1", "T1.2")
def test_rejected_events_of_an_accepted_batch_are_reported() -> None:
    core = Core()
    good = core.record(4)
    [bad] = core.record(1, subject="bad")
    [other] = core.record(1)

    def answer(parcel: Parcel) -> Answer:
        response = core.capture.report(parcel.batch.payload)
        response.accepted -= 1
        response.conflict += 1
        response.outcomes.add(
            index=5, outcome=capture_pb2.OUTCOME_CONFLICT, reason="ID_REUSED", message="differs"
        )
        return response

    core.answer = answer
    core.run(1)

    assert [(o.event.id, o.outcome, o.reason) for o in core.outcomes] == [
        (bad, OutcomeKind.REJECTED, "SUBJECT_UNKNOWN"),
        (other, OutcomeKind.CONFLICT, "ID_REUSED"),
    ]
    counters = core.counters
    assert (counters.accepted, counters.rejected, counters.conflict) == (len(good), 1, 1)


@pytest.mark.req("T2.4", "T7.1")
def test_memory_is_bounded_without_a_server() -> None:
    core = Core(fail(DOWN), max_events=100, chunk_events=10)
    for _ in range(50):
        core.record(10)
        core.run(1)

    assert core.counters.window <= 4 * 10
    assert core.buffer.events <= 100
    assert core.counters.window + core.buffer.events + core.buffer.dropped == core.total() == 500
    dropped = [outcome for outcome in core.outcomes if outcome.outcome is OutcomeKind.DROPPED]
    assert len(dropped) == core.buffer.dropped > 0
    assert {outcome.reason for outcome in dropped} == {"BUFFER_FULL"}


@pytest.mark.req("T7.1")
def test_batches_in_flight_are_limited() -> None:
    core = Core(lambda _: None, max_in_flight=3)
    core.record(100)
    core.run(5)

    assert len(core.unanswered) == 3


class Fault(Exception):
    """An error raised by other code."""


@pytest.mark.req("T7.1")
def test_events_that_cannot_be_encoded_are_reported_and_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    core = Core()

    def encode(*_: object) -> bytes:
        raise Fault

    with monkeypatch.context() as patched:
        patched.setattr(batches, "encode", encode)
        lost = core.record(10)
        core.run(1)
    kept = core.record(10)
    core.run(1)

    assert [(o.event.id, o.outcome, o.reason) for o in core.outcomes] == [
        (one, OutcomeKind.DROPPED, "NOT_ENCODABLE") for one in lost
    ]
    assert core.capture.counted == set(kept)
    assert core.flushed()
    assert core.total() == 20


@pytest.mark.req("T7.1")
def test_raising_callback_does_not_stop_delivery() -> None:
    core = Core()
    core.ledger._callback = lambda _: (_ for _ in ()).throw(Fault())
    core.record(3, subject="bad")
    core.record(3)
    core.run(1)

    assert (core.counters.accepted, core.counters.rejected) == (3, 3)
