"""What the load generator is told, and the requests that it makes of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from tests.bench import encoding
from tests.bench.workload import MADE_PER_SECOND, Counted, Tally, Workload, generate

# Messages of a stream that carry one tenant before the next one's turn.
_STREAM_TURN = 1_000
# Events that are made at once: as objects of numpy they take more memory than as requests.
PART_EVENTS = 2_000_000


@dataclass(frozen=True, slots=True)
class LoadOrder:
    """What to send where.

    form: `rows`, `columns`, or `stream` (events one by one)
    batch: events a call
    concurrency: calls in flight, or streams
    events, seconds: bounds, whichever comes first
    duplicates: share of each batch that repeats earlier events
    rate: events a second of an open loop, where a call is due when its time comes whatever became of
        those before it, and its latency counts from then; 0: the next call follows an answer
    window: messages in flight on a stream
    age_seconds: the last events were made so long ago
    slice_seconds: width of the slices of time that are reported one by one; 0: none
    token: goes with every call; empty: none
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
    """Events that were made at once, in the order of their requests, and what they add up to."""

    events: Counted
    tally: Tally


@dataclass(slots=True)
class Lane:
    """Requests in their order, `batch` events each. What was sent is always the first `sent` of them."""

    payloads: list[bytes]
    parts: list[Part]
    batch: int
    sent: int = 0

    def take(self) -> int | None:
        """The position of the next request, if there is one."""
        if self.sent == len(self.payloads):
            return None
        self.sent += 1
        return self.sent - 1

    def tally(self) -> Tally:
        """Of what was sent. Quick however much it is: only the last part is added up anew."""
        left = self.sent * self.batch
        total = Tally.empty(len(self.parts[0].tally.counts))
        for part in self.parts:
            taken = min(left, len(part.events))
            left -= taken
            whole = taken == len(part.events)
            total += part.tally if whole else Tally.of(part.events[slice(0, taken)], len(total.counts))
        return total

    def last_tenant(self) -> int:
        """Of the last event that was sent; 0 when none was."""
        row = self.sent * self.batch - 1
        for part in self.parts:
            if 0 <= row < len(part.events):
                return part.events.tenant(row)
            row -= len(part.events)
        return 0


def lanes(order: LoadOrder, now_ms: int, part_events: int = PART_EVENTS) -> list[Lane]:
    """One lane; for streams one each."""
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
    """Made part by part. Duplicates repeat events of their own part."""
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
