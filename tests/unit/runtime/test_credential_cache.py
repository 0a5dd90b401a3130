"""Cached credentials are used for exactly the documented times."""

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
    """A fake of the other service, with a manual clock."""

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


async def test_fresh_answer_is_not_requested_again() -> None:
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


async def test_revoked_key_is_refused_after_the_next_request() -> None:
    source = Source(a="1")
    await source.cache.find("a")
    del source.values["a"]
    source.now += FRESH
    assert await source.cache.find("a") is None
    source.away = True
    # Also while the other service is unavailable: its last answer counts.
    assert await source.cache.find("a") is None
    source.now += 1.0
    with pytest.raises(UnavailableError):
        await source.cache.find("a")


async def test_known_answer_is_used_for_a_limited_time_during_an_outage() -> None:
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


async def test_unknown_key_is_not_requested_at_every_call() -> None:
    source = Source()
    assert [await source.cache.find("a") for _ in range(5)] == [None] * 5
    assert source.asked == ["a"]
    source.values["a"] = "1"
    source.now += 1.0
    assert await source.cache.find("a") == "1"


async def test_age_of_an_answer_counts_from_its_request() -> None:
    """A key revoked between request and answer must not gain time from a late answer."""
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


async def test_call_does_not_use_an_old_request_in_flight() -> None:
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


async def test_callers_share_a_request_and_cannot_cancel_it() -> None:
    source = Source(a="1")
    source.gate = asyncio.Event()
    first, *others = [asyncio.create_task(source.cache.find("a")) for _ in range(50)]
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    source.gate.set()
    assert await asyncio.gather(*others) == ["1"] * 49
    assert source.asked == ["a"]


async def test_cache_is_bounded_and_evicts_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
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


async def test_concurrent_requests_are_bounded() -> None:
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
    """Looks up a revoked key while made-up keys occupy all requests; returns the answer, and the requested
    keys."""
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


async def test_flood_of_unknown_keys_does_not_keep_a_revoked_key_valid() -> None:
    answer, asked = await revoked_during_a_flood(Source(known="1"))
    assert answer is None
    assert asked.count("known") == 2
    assert sum(key.startswith("made up") for key in asked) == 32


async def test_shared_request_limit_for_known_and_unknown_keys_is_caught() -> None:
    """The planted bug: the renewal finds no free request, so the old answer stays in use."""
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


async def test_many_known_keys_are_renewed_with_bounded_concurrency() -> None:
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


async def test_renewal_that_times_out_in_the_queue_counts_as_an_outage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
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


async def test_cache_of_unknown_keys_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
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
async def test_revoked_key_is_never_accepted_beyond_its_limit(sequence: list[tuple[str, float]]) -> None:
    """The limit is 2 s after the revocation while the other service answers, and 30 s otherwise."""
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
