"""What the load generator is told, and the requests that it makes of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from tests.bench import encoding
from tests.bench.workload import Events, Workload, generate

# Messages of a stream that carry one tenant before the next one's turn.
_STREAM_TURN = 1_000


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
    seed: int = 1
    token: str = field(default="", repr=False)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def parse(cls, data: dict[str, Any]) -> LoadOrder:
        return cls(**data | {"workload": Workload(**data["workload"])})


@dataclass(slots=True)
class Lane:
    """Requests in their order, `batch` events each. What was sent is always the first `sent` of them."""

    payloads: list[bytes]
    events: Events
    batch: int
    sent: int = 0

    def take(self) -> int | None:
        """The position of the next request, if there is one."""
        if self.sent == len(self.payloads):
            return None
        self.sent += 1
        return self.sent - 1

    def sent_events(self) -> Events:
        return self.events[slice(0, self.sent * self.batch)]


def lanes(order: LoadOrder, now_ms: int) -> list[Lane]:
    """One lane; for streams one each."""
    if order.form != "stream":
        calls = max(1, order.events // order.batch)
        events = generate(order.workload, calls, order.batch, now_ms, order.seed, order.duplicates)
        encode = encoding.column_request if order.form == "columns" else encoding.row_request
        starts = range(0, len(events), order.batch)
        payloads = [encode(events[start : start + order.batch], order.workload) for start in starts]
        return [Lane(payloads, events, order.batch)]
    turns = max(1, order.events // (_STREAM_TURN * order.concurrency))
    made = []
    for stream in range(order.concurrency):
        events = generate(order.workload, turns, _STREAM_TURN, now_ms, order.seed * 1_000 + stream)
        made.append(Lane(list(encoding.stream_requests(events)), events, 1))
    return made
