"""Delivery with a spool under a manual clock: outages, restarts, a full disk and damaged records."""

from pathlib import Path

import pytest
from grpc import StatusCode
from meterline_client.events import OutcomeKind
from meterline_client.retry import Failure
from meterline_client.transport import Answer
from meterline_client.window import Parcel

from tests.support.client import Core, fail, ids_of

DOWN = Failure(StatusCode.UNAVAILABLE, "connection refused")
MALFORMED = Failure(
    StatusCode.INVALID_ARGUMENT, "columns.types: too long", field="columns.types", reason="TOO_LONG"
)


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
