"""The usage replica: messages in any order, repeated messages, and invalid messages."""

from __future__ import annotations

from functools import partial
from itertools import permutations
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.protobuf.wrappers_pb2 import BytesValue
from meterline_protos.events.v1 import events_pb2
from meterline_protos.operations.v1 import dead_letters_pb2
from meterline_publisher.usage import replica

from tests.integration.publisher.conftest import StartPublisher
from tests.integration.publisher.world import NOW, START, World
from tests.support.fake_mesh import timestamp
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


@pytest.mark.usefixtures("api")
async def test_greatest_revision_wins_in_any_order(world: World) -> None:
    orders = {"".join(map(str, order)): order for order in permutations([1, 2, 3])}
    for place in range(3):
        windows = [window(str(order[place] * 10), order[place], meter) for meter, order in orders.items()]
        await world.deliver("usage.window", events_pb2.UsageWindowsChanged(windows=windows))
        last = events_pb2.UsageWindowsChanged(windows=[window("1", place + 1, "last")])
        await world.deliver("usage.window", last)
        # The next windows come in another transaction.
        await eventually(
            partial(world.rows, "SELECT FROM usage WHERE meter = 'last' AND revision = %s", place + 1)
        )
    found = world.rows("SELECT meter, value, revision FROM usage WHERE meter <> 'last' ORDER BY meter")
    assert found == [(meter, 30, 3) for meter in orders]


@pytest.mark.usefixtures("api")
async def test_message_may_contain_a_window_twice(world: World) -> None:
    fact = events_pb2.UsageWindowsChanged(windows=[window("20", 2), window("10", 1), window("7", 1, "b")])
    await world.deliver("usage.window", fact)
    found = await eventually(lambda: world.rows("SELECT meter, value FROM usage ORDER BY meter"))
    assert found == [("b", 7), ("calls", 20)]


@pytest.mark.usefixtures("api")
async def test_window_of_unknown_aggregation_is_stored(world: World) -> None:
    newer = window("20", 1)
    newer.aggregation = 99  # type: ignore[assignment]
    await world.deliver("usage.window", events_pb2.UsageWindowsChanged(windows=[newer]))
    found = await eventually(lambda: world.rows("SELECT value, aggregation FROM usage"))
    assert found == [(20, "99")]


# Fields that make a window invalid.
INVALID: list[dict[str, Any]] = [
    {"value": "many"},
    {"value": "NaN"},
    {"value": "1E+90"},
    {"value": ""},
    {"meter": ""},
    {"revision": 0},
    {"end_time": timestamp(START)},
    {"meter": "a\0b"},
    {"tenant_id": 0},
    {"tenant_id": -1},
    {"start_time": Timestamp(seconds=-(1 << 62))},
]


@pytest.mark.usefixtures("api")
async def test_invalid_window_becomes_dead_letter_and_delays_nothing(world: World) -> None:
    for number, wrong in enumerate(INVALID, 1):
        bad = window("1", 1)
        for name in wrong:
            bad.ClearField(name)  # type: ignore[arg-type]
        bad.MergeFrom(events_pb2.UsageWindow(**wrong))
        await world.deliver("usage.window", events_pb2.UsageWindowsChanged(windows=[bad]))
        good = window(str(number), number, "good")
        await world.deliver("usage.window", events_pb2.UsageWindowsChanged(windows=[good]))
        await eventually(partial(world.rows, "SELECT FROM usage WHERE revision = %s", number))
        letters = await eventually(partial(world.rows, "SELECT FROM dead_letters OFFSET %s", number - 1))
        assert len(letters) == 1, wrong
        assert world.rows("SELECT meter, revision FROM usage") == [("good", number)], wrong


def message_with_one_bad_window() -> events_pb2.UsageWindowsChanged:
    bad = window("1", 1, "bad")
    bad.value = "1E+45"
    return events_pb2.UsageWindowsChanged(windows=[window("5", 1, "a"), bad, window("7", 1, "b")])


@pytest.mark.req("O2")
@pytest.mark.usefixtures("api")
async def test_bad_window_does_not_affect_others_and_can_be_redriven(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.deliver("usage.window", message_with_one_bad_window())
    # Both are in one transaction: once the dead letter is visible, so are the applied windows.
    ((letter_id, payload),) = await eventually(
        lambda: world.rows("SELECT message_id, payload FROM dead_letters")
    )
    assert world.rows("SELECT meter, value FROM usage ORDER BY meter") == [("a", 5), ("b", 7)]
    kept = events_pb2.UsageWindowsChanged.FromString(payload)
    assert [each.meter for each in kept.windows] == ["bad"]

    monkeypatch.setattr(replica, "check_size", lambda value: None)
    assert world.api is not None
    answer = await world.api.dead_letters.RedriveDeadLetters(
        dead_letters_pb2.RedriveDeadLettersRequest(
            message_ids=[str(letter_id)], requested_by="ann", reason="it has room now"
        )
    )
    assert [one.outcome for one in answer.results] == [dead_letters_pb2.REDRIVE_OUTCOME_APPLIED]
    assert [meter for (meter,) in world.rows("SELECT meter FROM usage ORDER BY meter")] == ["a", "b", "bad"]


async def test_burying_all_windows_of_a_message_is_detected(
    world: World, start: StartPublisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meterline_publisher.main.split_windows", lambda _: ())
    await start()
    with pytest.raises(AssertionError):
        await test_bad_window_does_not_affect_others_and_can_be_redriven(world, monkeypatch)


@pytest.mark.usefixtures("api")
async def test_unparseable_bytes_become_dead_letter(world: World) -> None:
    await world.deliver("usage.window", BytesValue(value=b"\xff" * 40))
    await eventually(lambda: world.rows("SELECT error FROM dead_letters"))
