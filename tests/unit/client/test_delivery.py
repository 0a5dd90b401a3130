"""Delivery under a manual clock: sending, retries, splitting, backpressure, spooling and giving up."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import grpc
import pytest
from grpc import StatusCode
from hypothesis import given, settings
from hypothesis import strategies as st
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


@pytest.mark.req("T1.3", "T7.2")
def test_long_outage_spools_batches_to_disk(tmp_path: Path) -> None:
    core = Core(fail(DOWN), spool_dir=tmp_path, max_events=100)
    core.record(95)

    core.run(4.5)
    in_memory_first = core.counters.spooled == 0
    core.run(2)
    for _ in range(30):
        core.record(10)
        core.run(1)

    assert not in_memory_first, "a nearly full buffer is written to disk before it overflows"
    assert core.counters.window <= 10
    assert core.counters.spooled == core.total() == 395
    assert core.buffer.dropped == 0
    core.answer = core.accept
    core.run(60)
    assert core.flushed()
    assert core.counters.accepted == 395
    assert list(tmp_path.rglob("*.seg")) == []


@pytest.mark.req("T1.3", "T7.2")
def test_short_outage_writes_nothing_to_disk(tmp_path: Path) -> None:
    core = Core(fail(DOWN), spool_dir=tmp_path)
    core.record(50)
    core.run(4.5)

    assert (core.counters.spooled, list(tmp_path.rglob("*.seg"))) == (0, [])
    core.run(1)
    assert core.counters.spooled == 50


@pytest.mark.req("T2.4", "T7.2")
def test_slow_server_causes_no_drops_while_the_disk_has_space(tmp_path: Path) -> None:
    core = Core(lambda _: None, spool_dir=tmp_path, max_events=100)
    for _ in range(100):
        core.record(10)
        core.settle()

    assert core.buffer.dropped == 0
    assert core.counters.spooled > 800


@pytest.mark.req("T1.3", "T7.3")
def test_next_process_sends_the_spooled_batches(tmp_path: Path) -> None:
    first = Core(fail(DOWN), spool_dir=tmp_path)
    ids = first.record(35)
    first.run(1)
    first.close()
    assert (first.counters.spooled, first.counters.failed, first.counters.dropped) == (35, 0, 0)

    second = Core(spool_dir=tmp_path)
    more = second.record(5)
    second.run(2)

    assert second.flushed()
    assert second.counters.inherited == 35
    assert second.capture.counted == {*ids, *more}
    assert second.total() == 40


@pytest.mark.req("T1.1", "T7.3")
def test_next_process_resends_batches_in_flight_unchanged(tmp_path: Path) -> None:
    first = Core(lambda _: None, spool_dir=tmp_path)
    first.record(10)
    first.settle()
    [sent] = first.unanswered
    first.close()

    second = Core(spool_dir=tmp_path)
    second.settle()

    assert second.capture.received == [sent.batch.payload]


@pytest.mark.req("T7.1")
@pytest.mark.parametrize(("asked", "kind"), [(True, OutcomeKind.FAILED), (False, OutcomeKind.DROPPED)])
def test_without_a_spool_close_reports_each_lost_event(asked: bool, kind: OutcomeKind) -> None:
    core = Core(fail(DOWN))
    ids = core.record(7)
    if asked:
        core.run(1)

    core.close()

    assert [(o.event.id, o.outcome) for o in core.outcomes] == [(one, kind) for one in ids]
    assert core.total() == 7


@pytest.mark.req("T7.1", "T7.2")
def test_full_spool_is_counted_and_reported(tmp_path: Path) -> None:
    core = Core(fail(DOWN), spool_dir=tmp_path, max_spool_bytes=2_000, max_events=50)
    for _ in range(40):
        core.record(10)
        core.run(1)

    assert core.counters.spool_errors > 0
    # Writes are retried every five seconds, not at every step.
    assert core.counters.spool_errors <= 8
    assert core.buffer.dropped > 0
    assert core.total() == 400
    core.answer = core.accept
    core.run(60)
    assert core.flushed()
    assert core.counters.accepted + core.buffer.dropped == 400


@pytest.mark.req("T7.2")
def test_invalid_event_in_the_spool_is_isolated(tmp_path: Path) -> None:
    first = Core(fail(DOWN), spool_dir=tmp_path)
    [bad] = first.record(1)
    first.record(9)
    first.close()

    second = Core(spool_dir=tmp_path)
    second.answer = lambda p: MALFORMED if bad in ids_of(p.batch.payload) else second.accept(p)
    second.run(1)

    assert second.flushed()
    assert (second.counters.accepted, second.counters.rejected, second.counters.spooled) == (9, 1, 0)
    assert [outcome.event.id for outcome in second.outcomes] == [bad]


@pytest.mark.req("T7.2", "T7.3")
def test_batch_stays_on_disk_until_its_last_part_is_acknowledged(tmp_path: Path) -> None:
    first = Core(fail(DOWN), spool_dir=tmp_path)
    ids = first.record(10)
    first.close()

    def answer(parcel: Parcel) -> Answer | None:
        if parcel.batch.count == 10:
            return MALFORMED
        return None if ids[-1] in ids_of(parcel.batch.payload) else second.accept(parcel)

    second = Core(answer, spool_dir=tmp_path)
    second.run(1)
    assert 0 < second.counters.accepted < 10
    assert not second.flushed()
    assert second.counters.spooled == 10 - second.counters.accepted
    second.close()

    third = Core(spool_dir=tmp_path)
    third.run(1)
    assert third.capture.counted == set(ids)


@pytest.mark.req("T7.2")
def test_damaged_spool_record_is_counted_and_skipped(tmp_path: Path) -> None:
    first = Core(fail(DOWN), spool_dir=tmp_path)
    first.record(30)
    first.run(1)
    first.close()
    [path] = tmp_path.rglob("*.seg")
    content = path.read_bytes()
    path.write_bytes(content[:200] + b"\0\0\0\0" + content[204:])

    second = Core(spool_dir=tmp_path)
    second.run(1)

    assert second.flushed()
    assert (second.counters.accepted, second.counters.dropped) == (20, 10)
    assert second.total() == second.counters.inherited == 30


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


failures = st.sampled_from(
    [
        None,
        *(Failure(code, "scripted") for code in grpc.StatusCode if code is not StatusCode.OK),
        Failure(StatusCode.RESOURCE_EXHAUSTED, "scripted", retry_after=0.7),
        "lost",
    ]
)


@pytest.mark.req("T1.1", "T1.3", "T7.2", "T7.3")
@settings(max_examples=150, deadline=None)
@given(
    script=st.lists(failures, max_size=60),
    loads=st.lists(st.tuples(st.integers(0, 40), st.floats(0, 8)), min_size=1, max_size=8),
    spool=st.booleans(),
    restart=st.integers(0, 8),
)
def test_every_event_counts_once_under_any_server_behaviour(
    tmp_path_factory: pytest.TempPathFactory,
    script: list[Failure | str | None],
    loads: list[tuple[int, float]],
    spool: bool,
    restart: int,
) -> None:
    directory = tmp_path_factory.mktemp("spool") if spool else None
    core = Core(spool_dir=directory, max_events=60, max_spool_bytes=5_000)
    capture, left, settled_before = core.capture, list(script), 0

    def answer(parcel: Parcel) -> Answer:
        said = left.pop(0) if left else None
        if isinstance(said, Failure):
            return said
        response = capture.report(parcel.batch.payload)
        return DOWN if said == "lost" else response

    core.answer = answer
    recorded: list[str] = []
    reported: list[str] = []
    for turn, (count, seconds) in enumerate(loads):
        recorded += core.record(count)
        core.run(seconds)
        assert core.total() == len(recorded) - settled_before, "every event is accepted, dropped or pending"
        if spool and turn == restart:
            core.close()
            reported += [outcome.event.id for outcome in core.outcomes]
            settled_before = len(recorded) - core.counters.spooled
            core = Core(answer, spool_dir=directory, max_events=60, max_spool_bytes=5_000)
    core.run(3_600)
    reported += [outcome.event.id for outcome in core.outcomes]

    assert core.flushed()
    assert capture.counted | set(reported) == set(recorded)
    assert len(reported) == len(set(reported))
    never = {o.event.id for o in core.outcomes if o.outcome is OutcomeKind.DROPPED}
    assert not never & capture.counted, "a dropped event must not count"
