"""Callers who want the same share one question, and none of them decides about the others."""

from __future__ import annotations

import asyncio

import pytest
from meterline.deadline import time_left
from meterline.errors import OverloadedError, UnavailableError
from meterline.remembered.single_flight import SingleFlight
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

pytestmark = pytest.mark.req("T2.4")


class Source:
    """Answers a key with the number of the question, as soon as it may."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.gate = asyncio.Event()

    async def ask(self, key: str) -> int:
        self.asked.append(key)
        number = len(self.asked)
        await self.gate.wait()
        return number


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_callers_share_a_question_and_none_can_cancel_it() -> None:
    source = Source()
    flight = SingleFlight(source.ask)
    first, *others = [asyncio.create_task(flight.get("a")) for _ in range(20)]
    await turn()
    first.cancel()
    await turn()
    source.gate.set()
    assert await asyncio.gather(*others) == [1] * 19
    assert await flight.get("a") == 2, "an answer is not remembered"


async def test_a_question_that_is_not_enough_is_followed_by_one_more() -> None:
    source = Source()
    flight = SingleFlight(source.ask)
    early = asyncio.create_task(flight.get("a"))
    await turn()
    late = [asyncio.create_task(flight.get("a", lambda number: number >= 2)) for _ in range(5)]
    await turn()
    source.gate.set()
    assert (await early, await asyncio.gather(*late)) == (1, [2] * 5)


async def test_a_question_takes_the_trace_of_the_first_caller_and_not_its_deadline() -> None:
    async def ask(key: str) -> tuple[bool, int]:
        return time_left.get() is None, trace.get_current_span().get_span_context().trace_id

    token = time_left.set(lambda: 0.0)
    try:
        with TracerProvider().get_tracer("test").start_as_current_span("call") as span:
            answer = await SingleFlight(ask).get("a")
    finally:
        time_left.reset(token)
    assert answer == (True, span.get_span_context().trace_id)


async def test_a_question_without_an_answer_in_time_fails() -> None:
    flight = SingleFlight(Source().ask, what="the source", seconds=0.0)
    with pytest.raises(UnavailableError, match="the source did not answer in time"):
        await flight.get("a")


async def test_only_questions_that_count_are_bounded() -> None:
    source = Source()
    flight = SingleFlight(source.ask, what="the source", most=2, counts=str.islower)
    pending = [asyncio.create_task(flight.get(key)) for key in "abaABC"]
    await turn()
    with pytest.raises(OverloadedError, match="the source"):
        await flight.get("c")
    source.gate.set()
    await asyncio.gather(*pending)
    assert sorted(source.asked) == ["A", "B", "C", "a", "b"]
    assert await flight.get("c") == 6, "there is room once they are answered"


async def test_a_failure_reaches_all_callers_and_is_not_remembered() -> None:
    failures = [UnavailableError("away")]

    async def ask(key: str) -> str:
        await asyncio.sleep(0)
        if failures:
            raise failures.pop()
        return key

    flight = SingleFlight(ask)
    results = await asyncio.gather(flight.get("a"), flight.get("a"), return_exceptions=True)
    assert [str(result) for result in results] == ["away", "away"]
    assert await flight.get("a") == "a"


async def test_stop_ends_what_is_pending() -> None:
    flight = SingleFlight(Source().ask)
    question = flight.begin("a")
    await turn()
    await flight.stop()
    assert question.cancelled()


async def test_finished_question_that_is_not_enough_is_followed_by_one_more() -> None:
    """A caller may come between the end of a question and its callbacks. To await a finished question does
    not yield to the loop, so a caller that repeats this holds the loop for ever, and fills the memory."""
    asked = looked = 0

    async def ask(_: str) -> int:
        nonlocal asked
        asked += 1
        return asked

    def enough(answer: int) -> bool:
        nonlocal looked
        looked += 1
        assert looked < 10, "the same answer is looked at again and again"
        return answer >= 2

    flight: SingleFlight[str, int] = SingleFlight(ask, most=1)
    first = flight.begin("a")
    # Its first step follows that of the question, which ends there.
    late = asyncio.create_task(flight.get("a", enough))
    assert await late == 2
    assert (await first, asked) == (1, 2)
    assert await flight.get("a", enough) == 3
