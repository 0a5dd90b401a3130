"""A call of capture: its origin, its events, and its result."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping, MutableSequence, Sequence
from dataclasses import dataclass, field

from meterline_protos.ingest.v1 import capture_pb2
from opentelemetry.trace import SpanContext

from meterline_ingest.event.batches import BatchOrigin
from meterline_ingest.event.columns import Columns
from meterline_ingest.event.outcomes import Kind, Problem

# A flush takes as many events as the largest efficient batch; more would only delay the responses.
MAX_FLUSH_EVENTS = 5_000

MAX_FLUSH_BYTES = 4 << 20

# Bytes that count as one event where events are larger, so that one bound limits both.
BYTES_AN_EVENT = MAX_FLUSH_BYTES // MAX_FLUSH_EVENTS

# The cost of a rejected event, in accepted ones: it is serialised, sealed, and stored in a wide row of three
# indexes. Measured: three to ten times as much.
REJECTED_COST = 6


@dataclass(frozen=True, slots=True)
class Origin:
    """The origin of a call. Times in microseconds since the Unix epoch.

    any_age: whether its events may be of any age
    tenant: the only one that the caller may report for; None for any
    import_id: of the import that it is part of
    """

    source: str
    received_at_us: int
    sent_at_us: int | None
    trace: SpanContext
    kind: BatchOrigin = BatchOrigin.REPORTED
    any_age: bool = False
    tenant: str | None = None
    import_id: uuid.UUID | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """`problems` by row of the call; all other rows were accepted. `batch_id` is empty when none was.

    quarantined: rejected rows that were kept
    kept_bytes: their sealed size
    """

    rows: int
    problems: dict[int, Problem]
    batch_id: str
    quarantined: frozenset[int] = frozenset()
    kept_bytes: int = 0

    @property
    def surcharge(self) -> int:
        """The cost beyond that of the same events if all were accepted."""
        rejected = sum(problem.kind is Kind.REJECTED for problem in self.problems.values())
        return cost_of((REJECTED_COST - 1) * rejected, self.kept_bytes)


@dataclass(frozen=True, slots=True)
class Turn:
    """The queue flow of a call, by the number of its tenant (0: unknown), and that tenant's weight."""

    flow: int = 0
    weight: int = 1


NOBODYS_TURN = Turn()


@dataclass(slots=True, eq=False)
class Submission:
    """One call, or the events of a stream between two flushes. Either `rows` or `columns`.

    flags: flags to store with single events, by row
    events, cost: the number of events, and what they count in a flush and in the queue
    """

    origin: Origin
    tenant_id: str
    rows: MutableSequence[capture_pb2.Event] = field(default_factory=list)
    columns: Columns | None = None
    bytes: int = 0
    flags: Mapping[int, Sequence[str]] = field(default_factory=dict)
    turn: Turn = NOBODYS_TURN
    taken: bool = False
    result: asyncio.Future[Result] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    events: int = field(init=False)
    cost: int = field(init=False)

    def __post_init__(self) -> None:
        self.events = len(self.rows) if self.columns is None else len(self.columns)
        self.cost = cost_of(self.events, self.bytes)

    def __len__(self) -> int:
        return self.events


def cost_of(events: int, size: int) -> int:
    """The cost in a flush and in the queue: the events, or the bytes in units of events if those are more."""
    return max(events, -(-size // BYTES_AN_EVENT))
