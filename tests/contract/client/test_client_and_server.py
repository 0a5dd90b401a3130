"""The client against a real gRPC server with failures: overload, lost answers, outages and refusals."""

import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from meterline_client import BreakerState, Client, Outcome, OutcomeKind, Tuning
from opentelemetry import trace

from tests.support.capture_server import (
    Act,
    CaptureServer,
    accept,
    blackhole,
    lose_answer,
    malformed_for,
    over_quota,
    overloaded,
    serving,
    unavailable,
)

QUICK = Tuning(
    call_timeout=5,
    backoff_base=0.005,
    backoff_longest=0.02,
    breaker_cooldown=0.01,
    breaker_longest=0.05,
    spool_after=0.05,
    spool_retry=0.05,
)
SECONDS = 30.0


def client(server: CaptureServer, **options: object) -> Client:
    given = {
        "source": "test/1",
        "tenant_id": "acme",
        "batch_events": 100,
        "flush_interval": 0.01,
        "tuning": QUICK,
    }
    return Client(server.address, **given | options)  # type: ignore[arg-type]


def record(one: Client, count: int, subject: str = "s") -> set[str]:
    return {one.record("api.called", subject, quantities={"calls": n}) for n in range(count)}


@pytest.mark.req("T1.1", "T1.3")
def test_recorded_events_arrive_once() -> None:
    with serving(CaptureServer()) as server, client(server) as one:
        ids = record(one, 1_234)

        assert one.flush(SECONDS)
        assert server.capture.counted == ids
        stats = one.stats
    assert (stats.recorded, stats.accepted, stats.buffered, stats.retries) == (1_234, 1_234, 0, 0)
    assert max(len(call.columns.times_us) // 8 for call in server.calls) == 100
    assert {call.source for call in server.calls} == {"test/1"}


@pytest.mark.req("T1.1", "T1.2", "T4.2")
@pytest.mark.parametrize("bad_day", [lose_answer, unavailable, overloaded(0.02), over_quota(0.02)])
def test_resent_events_count_once(bad_day: Act) -> None:
    script = [bad_day, accept, bad_day, bad_day, bad_day, accept, bad_day] * 3
    with serving(CaptureServer(*script)) as server, client(server) as one:
        ids = record(one, 1_000)

        assert one.flush(SECONDS)
        assert server.capture.counted == ids
        assert one.stats.accepted + one.stats.duplicate == 1_000
        assert one.stats.retries >= 15
        assert one.stats.dropped == 0


@pytest.mark.req("T1.1", "T1.5")
def test_attempts_differ_only_in_the_send_time() -> None:
    with serving(CaptureServer(lose_answer, unavailable)) as server, client(server) as one:
        record(one, 5)
        assert one.flush(SECONDS)

    assert len(server.calls) == 3
    times = [call.sent_at.ToMicroseconds() for call in server.calls]
    assert times == sorted(set(times))
    for call in server.calls:
        call.ClearField("sent_at")
    assert server.calls[0] == server.calls[1] == server.calls[2]


@pytest.mark.req("T1.1", "T2.4")
def test_overloaded_server_gets_its_requested_pause() -> None:
    with serving(CaptureServer(overloaded(0.4))) as server, client(server) as one:
        record(one, 5)
        assert one.flush(SECONDS)

    first, second = (call.sent_at.ToMicroseconds() for call in server.calls)
    assert second - first >= 400_000


@pytest.mark.req("T1.1")
def test_deadline_ends_an_unanswered_call() -> None:
    tuning = Tuning(call_timeout=0.1, backoff_base=0.005)
    with serving(CaptureServer(blackhole)) as server, client(server, tuning=tuning) as one:
        ids = record(one, 10)

        assert one.flush(SECONDS)
        assert server.capture.counted == ids
        assert len(server.calls) >= 2


@pytest.mark.req("T1.1", "T1.2")
def test_rejected_events_are_reported_and_others_accepted() -> None:
    reported: list[Outcome] = []
    with serving(CaptureServer()) as server, client(server, on_outcome=reported.append) as one:
        good = record(one, 50)
        bad = record(one, 3, subject="bad")

        assert one.flush(SECONDS)
    assert server.capture.counted == good
    assert {outcome.event.id for outcome in reported} == bad
    assert {(o.outcome, o.reason, o.field, o.message) for o in reported} == {
        (OutcomeKind.REJECTED, "SUBJECT_UNKNOWN", "subject", "no such subject")
    }
    assert (one.stats.accepted, one.stats.rejected) == (50, 3)


@pytest.mark.req("T1.1", "T7.1")
def test_refused_batch_is_split() -> None:
    reported: list[Outcome] = []
    servicer = CaptureServer(otherwise=malformed_for("poison"))
    with serving(servicer) as server, client(server, on_outcome=reported.append) as one:
        good = record(one, 80)
        poison = record(one, 1, subject="poison")

        assert one.flush(SECONDS)
    assert server.capture.counted == good
    assert {outcome.event.id for outcome in reported} == poison
    assert reported[0].reason == "INVALID_ARGUMENT"


@pytest.mark.req("K4")
def test_trace_context_is_propagated() -> None:
    context = trace.SpanContext(5, 6, is_remote=True, trace_flags=trace.TraceFlags(1))
    with serving(CaptureServer()) as server, client(server, metadata=[("x-team", "a")]) as one:
        with trace.use_span(trace.NonRecordingSpan(context)):
            record(one, 3)
        assert one.flush(SECONDS)

    [headers] = server.headers
    assert str(headers["traceparent"]).startswith(f"00-{5:032x}-")
    assert headers["x-team"] == "a"


@pytest.mark.req("T1.4", "S8")
def test_api_key_is_sent_with_every_call_and_never_shown(caplog: pytest.LogCaptureFixture) -> None:
    key = "mlk_0123456789abcdef_secret"
    with caplog.at_level(logging.DEBUG), serving(CaptureServer(unavailable)) as server:
        with client(server, api_key=key) as one:
            record(one, 3)
            assert one.flush(SECONDS)
            assert key not in repr(one)
        assert [headers["authorization"] for headers in server.headers] == [f"Bearer {key}"] * 2
    assert "secret" not in caplog.text


@pytest.fixture
def stalled_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A disk whose fsync blocks until the event is set."""
    release = threading.Event()
    monkeypatch.setattr(os, "fsync", lambda _: release.wait(60))
    yield release
    release.set()


@pytest.mark.req("T7.1")
def test_recording_never_waits_for_server_or_disk(tmp_path: Path, stalled_disk: threading.Event) -> None:
    with serving(CaptureServer(otherwise=blackhole)) as server:
        one = client(server, spool_dir=tmp_path, max_buffer_events=1_000)
        # Ten times the capacity of the buffer while nothing can be sent or stored: blocking would hang.
        record(one, 10_000)

        stats = one.stats
        assert stats.recorded == 10_000
        assert stats.buffered + stats.spooled + stats.dropped == 10_000
        assert stats.buffered <= 1_000 + 5 * 100
        stalled_disk.set()
        server.release.set()
        assert one.close(SECONDS)
    assert len(server.capture.counted) == one.stats.accepted == 10_000 - one.stats.dropped


@pytest.mark.req("T1.3", "T7.1", "T7.2")
def test_recovered_server_receives_the_spooled_events(tmp_path: Path) -> None:
    servicer = CaptureServer()
    with serving(servicer):
        pass
    one = client(servicer, spool_dir=tmp_path)
    ids = record(one, 500)
    assert not one.flush(0.5)
    assert one.stats.spooled == 500
    assert one.stats.breaker is not BreakerState.CLOSED

    with serving(servicer, port=int(servicer.address.rpartition(":")[2])):
        assert one.flush(SECONDS)
        assert servicer.capture.counted == ids
        assert (one.stats.spooled, one.stats.breaker) == (0, BreakerState.CLOSED)
        assert one.close()
    assert list(tmp_path.rglob("*.seg")) == []


@pytest.mark.req("T1.3", "T7.1", "T7.2")
def test_close_without_a_server_is_quick_and_keeps_all_events(tmp_path: Path) -> None:
    servicer = CaptureServer()
    with serving(servicer):
        pass
    first = client(servicer, spool_dir=tmp_path)
    ids = record(first, 300)
    # Much longer than needed: closing does not wait for an open breaker.
    assert not first.close(SECONDS)
    assert (first.stats.spooled, first.stats.dropped) == (300, 0)

    with (
        serving(servicer, port=int(servicer.address.rpartition(":")[2])),
        client(servicer, spool_dir=tmp_path) as next_one,
    ):
        assert next_one.flush(SECONDS)
        assert next_one.stats.inherited == 300
    assert servicer.capture.counted == ids


@pytest.mark.req("T1.1")
async def test_asyncio_callers_await_only_flush_and_close() -> None:
    with serving(CaptureServer()) as server:
        async with client(server) as one:
            ids = record(one, 150)
            assert await one.flush_async(SECONDS)
            assert server.capture.counted == ids
        assert await one.close_async()


@pytest.mark.req("T7.1")
def test_flush_within_a_callback_is_refused() -> None:
    reported: list[str] = []

    def on_outcome(_: Outcome) -> None:
        for call in (one.flush, one.close):
            with pytest.raises(RuntimeError, match="on_outcome"):
                call()
        reported.append(one.record("api.called", "from the callback"))

    with serving(CaptureServer()) as server:
        one = client(server, on_outcome=on_outcome)
        record(one, 1, subject="bad")
        assert one.flush(SECONDS)
        assert one.close(SECONDS)
    assert server.capture.counted == set(reported)
    assert len(reported) == 1
