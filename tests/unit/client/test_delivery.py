"""Delivery with time in the test's hand: what is sent, retried, cut, held, spooled and given up."""

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
    """A server that takes everything, and whose answer is lost the first `times` times."""

    def answer(parcel: Parcel) -> Answer:
        response = core.accept(parcel)
        return failure if len(core.attempts) <= times else response

    return answer


@pytest.mark.req("T1.1", "T1.3")
def test_events_go_in_batches_after_the_interval() -> None:
    core = Core()
    core.record(25)

    core.run(0.4)
    assert [parcel.batch.count for _, parcel in core.attempts] == [10, 10]
    core.run(0.2)

    assert [parcel.batch.count for _, parcel in core.attempts] == [10, 10, 5]
    assert core.flushed()
    assert core.counters.accepted == core.total() == 25


@pytest.mark.req("S11")
def test_it_sleeps_when_there_is_nothing_to_do() -> None:
    core = Core()
    assert core.settle() is None
    core.record(3)
    core.run(1.0)

    assert core.settle() is None


@pytest.mark.req("T1.1")
@pytest.mark.parametrize("failure", [DOWN, Failure(StatusCode.DEADLINE_EXCEEDED), BUSY, BROKEN])
def test_a_lost_answer_is_harmless(failure: Failure) -> None:
    core = Core()
    core.answer = without_answer(core, 4, failure)
    ids = core.record(10)

    core.run(60)

    assert core.flushed()
    assert len({parcel.batch.payload for _, parcel in core.attempts}) == 1, "each attempt is the same bytes"
    assert len(core.attempts) == 5
    assert core.capture.counted == set(ids)
    assert (core.counters.duplicate, core.counters.retries, core.outcomes) == (10, 4, [])


@pytest.mark.req("T1.1", "T7.1")
def test_waits_grow_and_are_left_to_chance() -> None:
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
def test_an_overloaded_server_is_left_alone_for_as_long_as_it_asks() -> None:
    core = Core()
    core.answer = lambda parcel: BUSY if len(core.attempts) <= 1 else core.accept(parcel)
    core.record(10)
    core.run(0.1)
    core.record(100)

    core.run(1.8)
    assert len(core.attempts) == 1, "what was on its way, and nothing after it"
    assert core.delivery.breaker is BreakerState.CLOSED
    core.run(30)

    assert core.attempts[1][0] >= core.attempts[0][0] + 2.0
    assert core.counters.accepted == 110


@pytest.mark.req("T7.1")
def test_an_unreachable_server_costs_a_probe_now_and_then() -> None:
    core = Core(fail(DOWN), max_events=100_000)
    core.record(500)

    core.run(600)

    assert core.delivery.breaker is BreakerState.OPEN
    # Five to open, then with cooldowns of 1, 2, 4, 8, 16, 30, 30, ... of which a half is left to chance.
    assert 5 + 600 / 30 <= len(core.attempts) <= 5 + 5 + 600 / 15
    assert core.total() == 500


@pytest.mark.req("T1.3")
def test_a_flush_waits_for_what_is_on_its_way_and_for_nothing_later() -> None:
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
def test_while_a_probe_is_on_its_way_nothing_else_happens() -> None:
    core = Core(fail(DOWN))
    core.record(50)
    core.run(0.6)
    core.answer = lambda _: None
    core.run(60)

    assert core.delivery.breaker is BreakerState.HALF_OPEN
    assert len(core.unanswered) == 1
    assert core.settle() is None


@pytest.mark.req("T7.1")
def test_a_server_that_is_back_gets_everything_soon() -> None:
    core = Core(fail(DOWN), backoff_base=30, breaker_failures=4)
    core.record(500)
    core.run(0.5)
    before = len(core.attempts)

    core.answer = core.accept
    core.run(31)

    assert core.delivery.breaker is BreakerState.CLOSED
    assert core.counters.accepted == 500
    # One probe, and then nothing waits for the rest of its half minute.
    assert (before, core.attempts[-1][0]) == (4, core.attempts[4][0])


@pytest.mark.req("T1.1", "T7.1")
def test_one_bad_event_does_not_sink_the_others() -> None:
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
def test_all_bad_events_are_found() -> None:
    core = Core(fail(MALFORMED), chunk_events=50)
    ids = core.record(50)

    core.run(10)

    assert core.flushed()
    assert sorted(outcome.event.id for outcome in core.outcomes) == sorted(ids)
    assert core.delivery.breaker is BreakerState.CLOSED, "a refusal is an answer"


@pytest.mark.req("T1.1")
def test_a_refused_tenant_is_not_looked_for_in_each_event() -> None:
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
def test_an_event_that_the_server_fails_on_is_given_up_and_the_others_are_not() -> None:
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
def test_a_server_that_takes_no_large_messages_gets_small_ones() -> None:
    too_large = Failure(StatusCode.RESOURCE_EXHAUSTED, "message larger than max")
    core = Core(chunk_events=100)
    core.answer = lambda parcel: too_large if parcel.batch.count > 20 else core.accept(parcel)
    core.record(100)

    core.run(120)

    assert core.counters.accepted == 100


@pytest.mark.req("T1.1")
def test_overload_alone_never_gives_up_an_event() -> None:
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
def test_an_answer_that_does_not_account_for_all_is_none(answer: capture_pb2.ReportResponse) -> None:
    core = Core()
    core.answer = lambda parcel: answer if len(core.attempts) == 1 else core.accept(parcel)
    core.record(10)

    core.run(10)

    assert (len(core.attempts), core.counters.accepted, core.total()) == (2, 10, 10)


@pytest.mark.req("T1.1", "T1.2")
def test_refused_events_of_an_accepted_batch_are_told() -> None:
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
def test_only_so_many_batches_are_on_their_way() -> None:
    core = Core(lambda _: None, max_in_flight=3)
    core.record(100)
    core.run(5)

    assert len(core.unanswered) == 3


@pytest.mark.req("T1.3", "T7.2")
def test_a_server_that_is_away_for_long_has_its_batches_on_disk(tmp_path: Path) -> None:
    core = Core(fail(DOWN), spool_dir=tmp_path, max_events=100)
    core.record(95)

    core.run(4.5)
    in_memory_first = core.counters.spooled == 0
    core.run(2)
    for _ in range(30):
        core.record(10)
        core.run(1)

    assert not in_memory_first, "a buffer that is nearly full is emptied to disk before that"
    assert core.counters.window <= 10
    assert core.counters.spooled == core.total() == 395
    assert core.buffer.dropped == 0
    core.answer = core.accept
    core.run(60)
    assert core.flushed()
    assert core.counters.accepted == 395
    assert list(tmp_path.rglob("*.seg")) == []


@pytest.mark.req("T1.3", "T7.2")
def test_a_short_outage_does_not_touch_the_disk(tmp_path: Path) -> None:
    core = Core(fail(DOWN), spool_dir=tmp_path)
    core.record(50)
    core.run(4.5)

    assert (core.counters.spooled, list(tmp_path.rglob("*.seg"))) == (0, [])
    core.run(1)
    assert core.counters.spooled == 50


@pytest.mark.req("T2.4", "T7.2")
def test_a_slow_server_makes_no_drops_while_there_is_disk(tmp_path: Path) -> None:
    core = Core(lambda _: None, spool_dir=tmp_path, max_events=100)
    for _ in range(100):
        core.record(10)
        core.settle()

    assert core.buffer.dropped == 0
    assert core.counters.spooled > 800


@pytest.mark.req("T1.3", "T7.3")
def test_what_is_left_at_the_end_is_sent_by_the_next_process(tmp_path: Path) -> None:
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
def test_what_was_on_its_way_at_the_end_is_sent_again_with_the_same_bytes(tmp_path: Path) -> None:
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
def test_without_a_spool_the_end_is_told_for_each_event(asked: bool, kind: OutcomeKind) -> None:
    core = Core(fail(DOWN))
    ids = core.record(7)
    if asked:
        core.run(1)

    core.close()

    assert [(o.event.id, o.outcome) for o in core.outcomes] == [(one, kind) for one in ids]
    assert core.total() == 7


@pytest.mark.req("T7.1", "T7.2")
def test_a_full_spool_is_an_error_that_is_counted_and_told(tmp_path: Path) -> None:
    core = Core(fail(DOWN), spool_dir=tmp_path, max_spool_bytes=2_000, max_events=50)
    for _ in range(40):
        core.record(10)
        core.run(1)

    assert core.counters.spool_errors > 0
    # Tried again every five seconds, not at every step.
    assert core.counters.spool_errors <= 8
    assert core.buffer.dropped > 0
    assert core.total() == 400
    core.answer = core.accept
    core.run(60)
    assert core.flushed()
    assert core.counters.accepted + core.buffer.dropped == 400


@pytest.mark.req("T7.2")
def test_a_bad_event_in_the_spool_is_found_there_too(tmp_path: Path) -> None:
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
def test_a_batch_stays_on_disk_until_its_last_part_is_done(tmp_path: Path) -> None:
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
def test_damage_on_disk_is_counted_and_does_not_stop_the_rest(tmp_path: Path) -> None:
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
    """A fault of somebody's code."""


@pytest.mark.req("T7.1")
def test_what_cannot_be_encoded_is_told_and_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_a_callback_that_raises_does_no_harm() -> None:
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
def test_whatever_the_server_does_no_event_is_lost_or_counted_twice(
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
    told: list[str] = []
    for turn, (count, seconds) in enumerate(loads):
        recorded += core.record(count)
        core.run(seconds)
        assert core.total() == len(recorded) - settled_before, "every event has a place"
        if spool and turn == restart:
            core.close()
            told += [outcome.event.id for outcome in core.outcomes]
            settled_before = len(recorded) - core.counters.spooled
            core = Core(answer, spool_dir=directory, max_events=60, max_spool_bytes=5_000)
    core.run(3_600)
    told += [outcome.event.id for outcome in core.outcomes]

    assert core.flushed()
    assert capture.counted | set(told) == set(recorded)
    assert len(told) == len(set(told))
    never = {o.event.id for o in core.outcomes if o.outcome is OutcomeKind.DROPPED}
    assert not never & capture.counted, "dropped means that it does not count"
