"""The replica of usage: facts in any order and number, and messages that are none."""

from __future__ import annotations

from itertools import permutations

import pytest
from google.protobuf.wrappers_pb2 import BytesValue
from meterline_protos.events.v1 import events_pb2

from tests.integration.publisher.world import NOW, START, World
from tests.support.mesh import timestamp
from tests.support.polling import eventually

pytestmark = pytest.mark.req("T1.6", "T3.1", "K3")


def window(value: str, revision: int, meter: str = "calls") -> events_pb2.UsageWindow:
    return events_pb2.UsageWindow(
        tenant_id=1,
        meter=meter,
        start_time=timestamp(START),
        end_time=timestamp(NOW),
        value=value,
        event_count=revision,
        revision=revision,
    )


@pytest.mark.parametrize("order", list(permutations([1, 2, 3])))
async def test_the_greatest_revision_wins_in_any_order(world: World, order: tuple[int, ...]) -> None:
    for revision in order:
        fact = events_pb2.UsageWindowsChanged(windows=[window(str(revision * 10), revision)])
        await world.deliver("usage.window", fact)
    last = events_pb2.UsageWindowsChanged(windows=[window("1", 1, "last")])
    await world.deliver("usage.window", last)
    await eventually(lambda: world.rows("SELECT FROM usage WHERE meter = 'last'"))
    assert world.rows("SELECT value, revision FROM usage WHERE meter = 'calls'") == [(30, 3)]


async def test_one_message_may_tell_of_a_window_twice(world: World) -> None:
    fact = events_pb2.UsageWindowsChanged(windows=[window("20", 2), window("10", 1), window("7", 1, "b")])
    await world.deliver("usage.window", fact)
    found = await eventually(lambda: world.rows("SELECT meter, value FROM usage ORDER BY meter"))
    assert found == [("b", 7), ("calls", 20)]


@pytest.mark.parametrize(
    "wrong",
    [
        {"value": "many"},
        {"value": "NaN"},
        {"value": "1E+90"},
        {"value": ""},
        {"meter": ""},
        {"revision": 0},
        {"end_time": timestamp(START)},
    ],
)
async def test_what_is_no_window_is_kept_apart_and_delays_nothing(
    world: World, wrong: dict[str, object]
) -> None:
    bad = window("1", 1)
    for name in wrong:
        bad.ClearField(name)  # type: ignore[arg-type]
    bad.MergeFrom(events_pb2.UsageWindow(**wrong))  # type: ignore[arg-type]
    await world.deliver("usage.window", events_pb2.UsageWindowsChanged(windows=[bad]))
    await world.deliver("usage.window", events_pb2.UsageWindowsChanged(windows=[window("5", 1, "good")]))
    await eventually(lambda: world.rows("SELECT FROM usage WHERE meter = 'good'"))
    letters = await eventually(lambda: world.rows("SELECT error FROM dead_letters"))
    assert len(letters) == 1
    assert len(world.rows("SELECT FROM usage")) == 1


async def test_bytes_that_are_no_message_are_kept_apart(world: World) -> None:
    await world.deliver("usage.window", BytesValue(value=b"\xff" * 40))
    await eventually(lambda: world.rows("SELECT error FROM dead_letters"))
