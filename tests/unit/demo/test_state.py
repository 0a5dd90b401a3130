"""The state that the demo keeps between runs on the same data."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from meterline_dev.demo import state
from meterline_dev.demo.errors import DemoError
from meterline_dev.demo.state import BilledAt, State


def a_state() -> State:
    return State.begin(datetime(2013, 1, 1, 10, tzinfo=UTC), timedelta(days=5_000, minutes=7), 0, "double")


@pytest.mark.req("T1.2", "X4")
def test_state_round_trips(tmp_path: Path) -> None:
    path = tmp_path / "demo.json"
    assert state.load(path) is None
    kept = a_state()
    kept.meters = {"meterline_demo_miles": "mtr_1"}
    kept.tenants = {"ua": BilledAt("clock_1", "cus_1", "sub_1")}
    state.save(path, kept)
    state.save(path, kept)
    assert state.load(path) == kept
    assert [one.name for one in tmp_path.iterdir()] == ["demo.json"]


@pytest.mark.req("T1.2")
def test_repeated_run_moves_time_by_the_same_offset() -> None:
    kept = a_state()
    assert kept.shift == timedelta(days=5_000, minutes=7)
    moved = datetime(2013, 1, 1, 10, tzinfo=UTC) + kept.shift
    assert datetime.fromtimestamp(kept.first, UTC) == moved


@pytest.mark.req("X4")
def test_state_of_another_demo_is_not_continued() -> None:
    kept = a_state()
    kept.check(0, "double")
    with pytest.raises(DemoError, match="a sample of 500 flights"):
        kept.check(500, "double")
    with pytest.raises(DemoError, match="another Stripe account"):
        kept.check(0, "stripe")
    assert a_state().run != kept.run
