"""What is remembered of another service holds exactly as long as it is said to."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meterline.auth.leases import Leases
from meterline.errors import OverloadedError, UnavailableError

pytestmark = pytest.mark.req("T4.1")

FRESH, STALE = 2.0, 30.0


class Source:
    """Another service, and the time."""

    def __init__(self, **values: str) -> None:
        self.values = values
        self.away = False
        self.asked: list[str] = []
        self.now = 100.0
        self.gate: asyncio.Event | None = None
        self.leases: Leases[str, str] = Leases(
            "the source", self.ask, fresh=FRESH, stale=STALE, now=lambda: self.now
        )

    async def ask(self, key: str) -> str | None:
        self.asked.append(key)
        if self.gate is not None:
            await self.gate.wait()
        if self.away:
            raise UnavailableError("away")
        return self.values.get(key)


async def test_a_fresh_answer_is_not_asked_for_again() -> None:
    source = Source(a="1")
    assert source.leases.known("a") is None
    assert await source.leases.find("a") == "1"
    source.now += FRESH - 0.001
    assert source.leases.known("a") == await source.leases.find("a") == "1"
    assert source.asked == ["a"]
    source.now += 0.001
    assert source.leases.known("a") is None
    assert await source.leases.find("a") == "1"
    assert source.asked == ["a", "a"]


async def test_what_was_taken_back_is_gone_once_it_is_asked_for() -> None:
    source = Source(a="1")
    await source.leases.find("a")
    del source.values["a"]
    source.now += FRESH
    assert await source.leases.find("a") is None
    source.away = True
    # Not even while the other service is away: what it said last counts.
    assert await source.leases.find("a") is None
    source.now += 1.0
    with pytest.raises(UnavailableError):
        await source.leases.find("a")


async def test_a_known_answer_outlasts_the_other_service_for_a_while() -> None:
    source = Source(a="1")
    await source.leases.find("a")
    source.away = True
    source.now += STALE - 0.001
    assert await source.leases.find("a") == "1"
    source.now += 0.001
    with pytest.raises(UnavailableError):
        await source.leases.find("a")
    with pytest.raises(UnavailableError):
        await source.leases.find("b")


async def test_the_unknown_is_not_asked_for_at_every_call() -> None:
    source = Source()
    assert [await source.leases.find("a") for _ in range(5)] == [None] * 5
    assert source.asked == ["a"]
    source.values["a"] = "1"
    source.now += 1.0
    assert await source.leases.find("a") == "1"


async def test_an_answer_is_as_old_as_its_question() -> None:
    """What is taken back between question and answer must not count from the answer on."""
    source = Source(a="1")
    source.gate = asyncio.Event()
    waiting = asyncio.create_task(source.leases.find("a"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert source.asked == ["a"]
    source.now += FRESH
    source.gate.set()
    assert await waiting == "1"
    assert source.leases.known("a") is None


async def test_who_finds_an_old_question_under_way_waits_for_a_fresh_one() -> None:
    source = Source(a="1")
    source.gate = asyncio.Event()
    first = asyncio.create_task(source.leases.find("a"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    source.now += FRESH
    second = asyncio.create_task(source.leases.find("a"))
    await asyncio.sleep(0)
    source.gate.set()
    assert await first == await second == "1"
    assert source.asked == ["a", "a"]


async def test_many_callers_share_a_question_and_none_can_cancel_it() -> None:
    source = Source(a="1")
    source.gate = asyncio.Event()
    first, *others = [asyncio.create_task(source.leases.find("a")) for _ in range(50)]
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    source.gate.set()
    assert await asyncio.gather(*others) == ["1"] * 49
    assert source.asked == ["a"]


async def test_what_is_kept_is_bounded_and_the_oldest_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meterline.auth.leases._MOST_KEPT", 3)
    source = Source(a="1", b="2", c="3", d="4")
    for key in ("a", "b", "c"):
        await source.leases.find(key)
    source.now += FRESH
    await source.leases.find("a")
    await source.leases.find("d")
    source.away = True
    assert [await source.leases.find(key) for key in ("a", "c", "d")] == ["1", "3", "4"]
    with pytest.raises(UnavailableError):
        await source.leases.find("b")


async def test_questions_are_bounded() -> None:
    source = Source(known="1")
    await source.leases.find("known")
    source.now += FRESH
    source.gate = asyncio.Event()
    flood = [asyncio.create_task(source.leases.find(f"made up {at}")) for at in range(40)]
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        assert await source.leases.find("known") == "1"
    source.gate.set()
    results = await asyncio.gather(*flood, return_exceptions=True)
    assert results.count(None) == 32
    assert sum(isinstance(result, OverloadedError) for result in results) == 8


steps = st.lists(
    st.one_of(
        st.tuples(st.just("pass"), st.sampled_from([0.5, 1.0, 2.0, 7.0, 29.0])),
        st.tuples(st.sampled_from(["grant", "revoke", "leave", "return", "call"]), st.just(0.0)),
    ),
    max_size=40,
)


@given(steps)
async def test_nothing_revoked_is_taken_beyond_its_time(sequence: list[tuple[str, float]]) -> None:
    """2 s after it was revoked while the other service answers, 30 s in any case."""
    source = Source(a="1")
    revoked_at: float | None = None
    for step, seconds in sequence:
        if step == "pass":
            source.now += seconds
        elif step == "grant":
            source.values["a"], revoked_at = "1", None
        elif step == "revoke" and revoked_at is None:
            source.values.pop("a", None)
            revoked_at = source.now
        elif step in ("leave", "return"):
            source.away = step == "leave"
        elif step == "call":
            try:
                taken = await source.leases.find("a") is not None
            except UnavailableError:
                continue
            if taken and revoked_at is not None:
                limit = STALE if source.away else FRESH
                assert source.now - revoked_at < limit
