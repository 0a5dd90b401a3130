"""Pages through a tenant's events in the order of their time, without an index by time.

Events belong to batches, and each batch has the span of its events' times. Batches are read in the order of
their first events, a group at a time. Of the groups' events after the position, the earliest are kept, as
many as the page may have. No later batch has an event earlier than the first of the next one, so all events
before that one are complete, in order, and can be returned:

    position ─▶ │      complete      │ the next batch's first event
    batch 1   ──┼───────┤
    batch 2     ├────────────────────┼──────┤
    batch 3     │                    ├────┤      not read yet

Memory holds a page and a group. Work is the events of the batches that overlap the time of the page: batches
that begin after it are never read. A page that has read enough is returned short, or empty, up to where it is
complete, unless so many batches overlap at one moment that it has made no progress.

A position names an event, or the moment before one, so that events that are stored between two pages neither
hide nor repeat others.
"""

from __future__ import annotations

import heapq
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

# A statement reads at most this many batches, and at most one batch beyond this many events.
GROUP_BATCHES: Final = 128
GROUP_EVENTS: Final = 20_000
# A page that has read this much is returned short.
PAGE_BATCHES: Final = 8_192
PAGE_EVENTS: Final = 200_000

_LAST_ID: Final = uuid.UUID(int=2**128 - 1)
_LAST_STEP: Final = 2**31 - 1


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """After the event of this time (in microseconds since the Unix epoch) and id.

    step: orders contents that have both in common
    """

    time_us: int
    event_id: uuid.UUID
    step: int = 0

    @classmethod
    def before(cls, time_us: int) -> Position:
        """Before all events of a time."""
        return cls(time_us - 1, _LAST_ID, _LAST_STEP)


class Positioned(Protocol):
    """An event."""

    @property
    def position(self) -> Position: ...


E = TypeVar("E", bound=Positioned)
E_co = TypeVar("E_co", bound=Positioned, covariant=True)


@dataclass(frozen=True, slots=True)
class Span:
    """A batch: its first event's time, and how many of its events to read (0: it does not match)."""

    first_us: int
    batch_number: int
    events: int


class Source(Protocol[E_co]):
    """Where batches and events are read. Both only grow, except for deletion by age."""

    async def spans(self, after: Position, beyond: Span | None, limit: int) -> Sequence[Span]:
        """Batches with events at or after `after`, by (first_us, batch_number), after `beyond`."""

    async def events(self, batch_numbers: Sequence[int], after: Position, limit: int) -> Sequence[E_co]:
        """The first events of these batches after `after`, by position."""


@dataclass(frozen=True, slots=True)
class Page(Generic[E]):
    """`following` is None at the end."""

    events: list[E]
    following: Position | None


async def page(
    source: Source[E], after: Position, limit: int, *, batches: int = PAGE_BATCHES, events: int = PAGE_EVENTS
) -> Page[E]:
    """The first events after `after`, at most `limit`; `batches` and `events` bound what is read for them."""
    found: list[E] = []
    beyond: Span | None = None
    while True:
        spans = await source.spans(after, beyond, GROUP_BATCHES + 1)
        group = _group(spans)
        upcoming = spans[len(group)] if len(spans) > len(group) else None
        numbers = [span.batch_number for span in group if span.events]
        if numbers:
            more = await source.events(numbers, after, limit + 1)
            # Both are sorted already.
            found = list(heapq.merge(found, more, key=_position))[: limit + 1]
        if upcoming is None:
            return Page(found[:limit], found[limit - 1].position if len(found) > limit else None)
        if len(found) >= limit and found[limit - 1].position.time_us < upcoming.first_us:
            return Page(found[:limit], found[limit - 1].position)
        batches -= len(group)
        events -= sum(span.events for span in group)
        complete = Position.before(upcoming.first_us)
        if (batches <= 0 or events <= 0) and complete > after:
            return Page([event for event in found if event.position <= complete], complete)
        beyond = group[-1]


def _group(spans: Sequence[Span]) -> Sequence[Span]:
    """The first spans, as many as one statement reads."""
    total = 0
    for at, span in enumerate(spans[:GROUP_BATCHES]):
        if at and total + span.events > GROUP_EVENTS:
            return spans[:at]
        total += span.events
    return spans[:GROUP_BATCHES]


def _position(event: Positioned) -> Position:
    return event.position
