"""What is remembered of another service holds exactly as long as it is said to."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meterline.auth.credential_cache import CredentialCache
from meterline.errors import OverloadedError, UnavailableError
from meterline.remembered.single_flight import SingleFlight

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
        self.cache: CredentialCache[str, str] = CredentialCache(
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
    assert source.cache.known("a") is None
    assert await source.cache.find("a") == "1"
    source.now += FRESH - 0.001
    assert source.cache.known("a") == await source.cache.find("a") == "1"
    assert source.asked == ["a"]
    source.now += 0.001
    assert source.cache.known("a") is None
    assert await source.cache.find("a") == "1"
    assert source.asked == ["a", "a"]


async def test_what_was_taken_back_is_gone_once_it_is_asked_for() -> None:
    source = Source(a="1")
    await source.cache.find("a")
    del source.values["a"]
    source.now += FRESH
    assert await source.cache.find("a") is None
    source.away = True
    # Not even while the other service is away: what it said last counts.
    assert await source.cache.find("a") is None
    source.now += 1.0
    with pytest.raises(UnavailableError):
        await source.cache.find("a")


async def test_a_known_answer_outlasts_the_other_service_for_a_while() -> None:
    source = Source(a="1")
    await source.cache.find("a")
    source.away = True
    source.now += STALE - 0.001
    assert await source.cache.find("a") == "1"
    source.now += 0.001
    with pytest.raises(UnavailableError):
        await source.cache.find("a")
    with pytest.raises(UnavailableError):
        await source.cache.find("b")


async def test_the_unknown_is_not_asked_for_at_every_call() -> None:
    source = Source()
    assert [await source.cache.find("a") for _ in range(5)] == [None] * 5
    assert source.asked == ["a"]
    source.values["a"] = "1"
    source.now += 1.0
    assert await source.cache.find("a") == "1"


async def test_an_answer_is_as_old_as_its_question() -> None:
    """What is taken back between question and answer must not count from the answer on."""
    source = Source(a="1")
    source.gate = asyncio.Event()
    waiting = asyncio.create_task(source.cache.find("a"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert source.asked == ["a"]
    source.now += FRESH
    source.gate.set()
    assert await waiting == "1"
    assert source.cache.known("a") is None


async def test_who_finds_an_old_question_under_way_waits_for_a_fresh_one() -> None:
    source = Source(a="1")
    source.gate = asyncio.Event()
    first = asyncio.create_task(source.cache.find("a"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    source.now += FRESH
    second = asyncio.create_task(source.cache.find("a"))
    await asyncio.sleep(0)
    source.gate.set()
    assert await first == await second == "1"
    assert source.asked == ["a", "a"]


async def test_many_callers_share_a_question_and_none_can_cancel_it() -> None:
    source = Source(a="1")
    source.gate = asyncio.Event()
    first, *others = [asyncio.create_task(source.cache.find("a")) for _ in range(50)]
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    source.gate.set()
    assert await asyncio.gather(*others) == ["1"] * 49
    assert source.asked == ["a"]


async def test_what_is_kept_is_bounded_and_the_oldest_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meterline.auth.credential_cache._MOST_KEPT", 3)
    source = Source(a="1", b="2", c="3", d="4")
    for key in ("a", "b", "c"):
        await source.cache.find(key)
    source.now += FRESH
    await source.cache.find("a")
    await source.cache.find("d")
    source.away = True
    assert [await source.cache.find(key) for key in ("a", "c", "d")] == ["1", "3", "4"]
    with pytest.raises(UnavailableError):
        await source.cache.find("b")


async def test_questions_are_bounded() -> None:
    source = Source(known="1")
    await source.cache.find("known")
    source.now += FRESH
    source.gate = asyncio.Event()
    flood = [asyncio.create_task(source.cache.find(f"made up {at}")) for at in range(40)]
    await asyncio.sleep(0)
    renewed = asyncio.create_task(source.cache.find("known"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert source.asked.count("known") == 2
    source.gate.set()
    assert await renewed == "1"
    results = await asyncio.gather(*flood, return_exceptions=True)
    assert results.count(None) == 32
    assert sum(isinstance(result, OverloadedError) for result in results) == 8


async def revoked_during_a_flood(source: Source) -> tuple[str | None, list[str]]:
    """What a known key is answered once it was revoked, while made-up ones take all there is to take; and
    what was asked about while they did."""
    await source.cache.find("known")
    del source.values["known"]
    source.now += FRESH
    open_to_known = asyncio.Event()

    async def ask(key: str) -> str | None:
        source.asked.append(key)
        if key != "known":
            await open_to_known.wait()
        return source.values.get(key)

    source.cache._ask = ask
    flood = [asyncio.create_task(source.cache.find(f"made up {at}")) for at in range(100)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    try:
        async with asyncio.timeout(5):
            answer = await source.cache.find("known")
    finally:
        open_to_known.set()
        await asyncio.gather(*flood, return_exceptions=True)
    return answer, source.asked


async def test_a_flood_of_made_up_keys_keeps_no_revoked_one_alive() -> None:
    answer, asked = await revoked_during_a_flood(Source(known="1"))
    assert answer is None
    assert asked.count("known") == 2
    assert sum(key.startswith("made up") for key in asked) == 32


async def test_renewals_in_the_lane_of_made_up_keys_would_be_seen() -> None:
    """A planted bug: no room for the question, so that the old answer goes on."""
    source = Source(known="1")
    source.cache._questions = OneLane(source.cache._asked, seconds=None, most=32)
    answer, asked = await revoked_during_a_flood(source)
    assert answer == "1"
    assert asked.count("known") == 1


class OneLane(SingleFlight[str, tuple[str | None, float]]):
    """Questions about known keys count as well, and one for which there is no room counts as not answered."""

    def begin(self, key: str) -> asyncio.Task[tuple[str | None, float]]:
        try:
            return super().begin(key)
        except OverloadedError as error:
            raise UnavailableError("full") from error


async def test_many_known_keys_are_all_renewed_a_few_at_a_time() -> None:
    keys = [f"key {at}" for at in range(200)]
    source = Source(**dict.fromkeys(keys, "1"))
    for key in keys:
        await source.cache.find(key)
    source.now += FRESH
    source.asked.clear()
    source.gate = asyncio.Event()
    renewed = [asyncio.create_task(source.cache.find(key)) for key in keys]
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(source.asked) == 32
    source.gate.set()
    assert await asyncio.gather(*renewed) == ["1"] * 200
    assert sorted(source.asked) == sorted(keys)


async def test_a_renewal_that_has_no_turn_is_as_if_nobody_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meterline.auth.credential_cache._PATIENCE_SECONDS", 0)
    source = Source(**{f"{at}": "1" for at in range(40)})
    for at in range(40):
        await source.cache.find(f"{at}")
    source.now += FRESH
    source.gate = asyncio.Event()
    waiting = [asyncio.create_task(source.cache.find(f"{at}")) for at in range(32)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert await source.cache.find("35") == "1"
    source.now += STALE
    with pytest.raises(UnavailableError):
        await source.cache.find("36")
    source.gate.set()
    await asyncio.gather(*waiting)


async def test_what_is_known_to_be_unknown_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source()
    for at in range(1_500):
        assert await source.cache.find(f"made up {at}") is None
    assert len(source.cache._unknown) == 1_000


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
                taken = await source.cache.find("a") is not None
            except UnavailableError:
                continue
            if taken and revoked_at is not None:
                limit = STALE if source.away else FRESH
                assert source.now - revoked_at < limit
