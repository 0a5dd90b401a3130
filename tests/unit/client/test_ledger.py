"""Without a callback, lost events are logged once a minute, not once an event."""

import logging

import grpc
import pytest
from meterline_client.batches import cut
from meterline_client.ledger import Ledger, Throttle
from meterline_client.retry import Failure
from meterline_client.stats import Counters

from tests.support.client import ManualClock, rows


@pytest.mark.req("T7.1")
def test_flood_of_refusals_logs_one_line_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    ledger = Ledger(Counters(), None, clock)
    [batch] = cut(rows(50), "gw/1")
    refusal = Failure(grpc.StatusCode.INVALID_ARGUMENT, "too old", field="time", reason="TIME_TOO_OLD")

    for _ in range(3):
        ledger.refused(batch, refusal)
        clock.advance(25)
    ledger.refused(batch, refusal)

    assert ledger.counters.rejected == 200
    first, second = (record.getMessage() for record in caplog.records)
    assert first == f"event rejected (TIME_TOO_OLD): {batch.events()[0].id}: time too old"
    assert second.startswith("event rejected (TIME_TOO_OLD) (and 149 before it): ")


@pytest.mark.req("T7.1")
def test_throttle_memory_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    throttle = Throttle(ManualClock())

    for number in range(10_000):
        throttle(f"kind {number}", "")

    assert len(throttle._next) <= 256
