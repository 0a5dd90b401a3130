"""Orders for the load generator, and the requests that it makes from them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from tests.bench import encoding
from tests.bench.workload import MADE_PER_SECOND, Counted, Tally, Workload, generate

# Consecutive messages of one tenant on a stream.
_STREAM_TURN = 1_000
# Events of one part, which limits memory: numpy columns need more than encoded requests.
PART_EVENTS = 2_000_000


@dataclass(frozen=True, slots=True)
class LoadOrder:
    """An order for the load generator.

    form: `rows`, `columns`, or `stream` (events one by one)
    batch: events a call
    concurrency: calls in flight, or streams
    events, seconds: the run ends at the first of these bounds
    duplicates: share of each batch that repeats earlier events
    rate: events a second of an open loop, where each call has a due time independent of earlier calls, from
        which its latency counts; 0: a closed loop, where the next call follows an answer
    window: messages in flight on a stream
    age_seconds: age of the last events
    slice_seconds: width of the separately reported time slices; 0: none
    token: sent with every call; empty: none
    """

    address: str
    workload: Workload
    form: str
    batch: int
    concurrency: int
    events: int
    seconds: float
    duplicates: float = 0.0
    rate: float = 0.0
    window: int = 256
    age_seconds: int = 0
    slice_seconds: float = 0.0
    seed: int = 1
    token: str = field(default="", repr=False)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def parse(cls, data: dict[str, Any]) -> LoadOrder:
        return cls(**data | {"workload": Workload(**data["workload"])})


@dataclass(frozen=True, slots=True)
class Part:
    """Events that were generated together, in the order of their requests, and their totals."""

    events: Counted
    tally: Tally


@dataclass(slots=True)
class Lane:
    """Requests in order, `batch` events each. The first `sent` of them were sent."""

    payloads: list[bytes]
    parts: list[Part]
    batch: int
    sent: int = 0

    def take(self) -> int | None:
        """The position of the next request, if any."""
        if self.sent == len(self.payloads):
            return None
        self.sent += 1
        return self.sent - 1

    def tally(self) -> Tally:
        """The tally of the sent events. Fast for any number: only the last part is added up again."""
        left = self.sent * self.batch
        total = Tally.empty(len(self.parts[0].tally.counts))
        for part in self.parts:
            taken = min(left, len(part.events))
            left -= taken
            whole = taken == len(part.events)
            total += part.tally if whole else Tally.of(part.events[slice(0, taken)], len(total.counts))
        return total

    def last_tenant(self) -> int:
        """The time of the last sent event; 0 if none was sent."""
        row = self.sent * self.batch - 1
        for part in self.parts:
            if 0 <= row < len(part.events):
                return part.events.tenant(row)
            row -= len(part.events)
        return 0


def lanes(order: LoadOrder, now_ms: int, part_events: int = PART_EVENTS) -> list[Lane]:
    """One lane, or one for each stream."""
    now_ms -= order.age_seconds * 1000
    if order.form != "stream":
        return [_lane(order, now_ms, part_events)]
    turns = max(1, order.events // (_STREAM_TURN * order.concurrency))
    made = []
    for stream in range(order.concurrency):
        events = generate(order.workload, turns, _STREAM_TURN, now_ms, order.seed * 1_000 + stream)
        payloads = list(encoding.stream_requests(events))
        made.append(Lane(payloads, [_part(events.counted(), order)], 1))
    return made


def _lane(order: LoadOrder, now_ms: int, part_events: int) -> Lane:
    """Generates a lane in parts. Duplicates repeat events of their own part."""
    calls, calls_a_part = max(1, order.events // order.batch), max(1, part_events // order.batch)
    encode = encoding.column_request if order.form == "columns" else encoding.row_request
    lane = Lane([], [], order.batch)
    for at, first in enumerate(range(0, calls, calls_a_part)):
        here = min(calls_a_part, calls - first)
        until_ms = now_ms - (calls - first - here) * order.batch * 1000 // MADE_PER_SECOND
        events = generate(
            order.workload, here, order.batch, until_ms, order.seed * 1_000 + at, order.duplicates
        )
        starts = range(0, len(events), order.batch)
        lane.payloads += [encode(events[start : start + order.batch], order.workload) for start in starts]
        lane.parts.append(_part(events.counted(), order))
    return lane


def _part(events: Counted, order: LoadOrder) -> Part:
    return Part(events, Tally.of(events, order.workload.tenants))
