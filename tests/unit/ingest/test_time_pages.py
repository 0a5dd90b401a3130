"""Pages of events in time order, against a plain sort."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meterline_ingest.reading import time_pages
from meterline_ingest.reading.time_pages import Position, Span

pytestmark = pytest.mark.req("S3", "T7.4")

BEGINNING = Position.before(0)


@dataclass(frozen=True)
class Event:
    position: Position


@dataclass
class Batch:
    """`wanted`: whether the batch is of the requested source."""

    events: list[Event]
    wanted: bool = True

    @property
    def first_us(self) -> int:
        return min(event.position.time_us for event in self.events)

    @property
    def last_us(self) -> int:
        return max(event.position.time_us for event in self.events)


@dataclass
class Store:
    """Batches by number, queried as in the database. Counts the events that were read."""

    batches: list[Batch]
    read: int = 0
    latest_read: int = -1
    pages: list[int] = field(default_factory=list)

    async def spans(self, after: Position, beyond: Span | None, limit: int) -> list[Span]:
        found = sorted(
            (batch.first_us, number)
            for number, batch in enumerate(self.batches)
            if batch.last_us >= after.time_us
        )
        if beyond is not None:
            found = [each for each in found if each > (beyond.first_us, beyond.batch_number)]
        return [
            Span(first_us, number, len(self.batches[number].events) if self.batches[number].wanted else 0)
            for first_us, number in found[:limit]
        ]

    async def events(self, batch_numbers: Sequence[int], after: Position, limit: int) -> list[Event]:
        read = [event for number in batch_numbers for event in self.batches[number].events]
        self.read += len(read)
        self.latest_read = max(
            [self.latest_read, *(self.batches[number].first_us for number in batch_numbers)]
        )
        return sorted((event for event in read if event.position > after), key=lambda each: each.position)[
            :limit
        ]

    def sorted(self) -> list[Event]:
        return sorted(
            (event for batch in self.batches if batch.wanted for event in batch.events),
            key=lambda event: event.position,
        )


def batches_of(times: st.SearchStrategy[int]) -> st.SearchStrategy[Batch]:
    """Events with ids in any order, which may repeat; `distinct` removes repetitions."""
    ids = st.integers(0, 2**20).map(lambda number: uuid.UUID(int=number))
    events = st.lists(st.builds(Position, times, ids).map(Event), min_size=1, max_size=6)
    return st.builds(Batch, events, st.sampled_from([True, True, True, False]))


def distinct(batches: Sequence[Batch], known: set[Position]) -> list[Batch]:
    """Removes repeated events and those in `known`, since an id is stored once. Adds to `known`."""
    kept: list[Batch] = []
    for batch in batches:
        events = [event for event in dict.fromkeys(batch.events) if event.position not in known]
        known.update(event.position for event in events)
        if events:
            kept.append(Batch(events, batch.wanted))
    return kept


# Narrow, wide, nested and equal batches; few moments, so that many events share a time.
batches = st.lists(
    st.one_of(
        batches_of(st.integers(0, 40)),
        st.integers(0, 40).flatmap(lambda start: batches_of(st.integers(start, start + 2))),
    ),
    max_size=10,
)


@pytest.fixture(scope="module", autouse=True)
def small_groups() -> Iterator[None]:
    """Small limits, so that a few batches make many groups."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time_pages, "GROUP_BATCHES", 3)
        patch.setattr(time_pages, "GROUP_EVENTS", 8)
        yield


async def all_pages(store: Store, size: int, batches: int, events: int) -> list[Event]:
    found: list[Event] = []
    following: Position | None = BEGINNING
    while following is not None:
        page = await time_pages.page(store, following, size, batches=batches, events=events)
        assert len(page.events) <= size
        assert page.following is None or page.following > following, "each page must advance"
        store.pages.append(len(page.events))
        found += page.events
        following = page.following
    return found


@settings(deadline=None)
@given(batches, st.integers(1, 20), st.integers(1, 30), st.integers(1, 60))
def test_concatenated_pages_equal_the_sorted_events(
    batches: list[Batch], size: int, most_batches: int, most_events: int
) -> None:
    store = Store(distinct(batches, set()))
    assert asyncio.run(all_pages(store, size, most_batches, most_events)) == store.sorted()


@settings(deadline=None, max_examples=50)
@given(batches, st.lists(batches, max_size=3), st.integers(1, 5), st.lists(st.booleans(), max_size=10))
def test_events_added_between_pages_neither_hide_nor_repeat_others(
    before: list[Batch], arriving: list[list[Batch]], size: int, turns: list[bool]
) -> None:
    known: set[Position] = set()
    before = distinct(before, known)
    coming = [distinct(some, known) for some in arriving]
    store = Store(list(before))

    async def pages() -> list[Event]:
        found: list[Event] = []
        following: Position | None = BEGINNING
        while following is not None:
            page = await time_pages.page(store, following, size, batches=3, events=8)
            found += page.events
            following = page.following
            if coming and turns and turns.pop():
                store.batches += coming.pop()
        return found

    found = [event.position for event in asyncio.run(pages())]
    assert len(found) == len(set(found))
    assert found == sorted(found)
    wanted = {event.position for batch in before if batch.wanted for event in batch.events}
    assert wanted <= set(found)


def narrow(count: int) -> list[Batch]:
    """Consecutive batches of two events each."""
    return [
        Batch([Event(Position(10 * at + step, uuid.UUID(int=at))) for step in (0, 5)]) for at in range(count)
    ]


async def test_page_reads_no_batch_that_begins_after_it() -> None:
    store = Store(narrow(1_000))
    page = await time_pages.page(store, Position.before(5_000), 10)
    assert [event.position.time_us for event in page.events] == list(range(5_000, 5_050, 5))
    assert store.read <= 30
    assert store.latest_read <= 5_200


async def test_sparse_search_returns_short_pages_and_continues() -> None:
    store = Store(narrow(1_000))
    for batch in store.batches[:-1]:
        batch.wanted = False
    found = await all_pages(store, 10, 30, 100)
    assert [event.position for event in found] == [event.position for event in store.batches[-1].events]
    assert len(store.pages) > 20
    assert set(store.pages[:-1]) == {0}


async def test_overlapping_batches_are_all_read_for_one_page() -> None:
    """No event can be returned before all batches are read, so the limits do not apply."""
    store = Store(
        [
            Batch([Event(Position(0, uuid.UUID(int=at))), Event(Position(1_000 - at, uuid.UUID(int=at)))])
            for at in range(50)
        ]
    )
    page = await time_pages.page(store, BEGINNING, 5, batches=2, events=2)
    assert [event.position.event_id.int for event in page.events] == [0, 1, 2, 3, 4]
    assert store.read == 100
