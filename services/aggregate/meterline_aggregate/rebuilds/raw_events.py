"""Reads stored events from ingest and converts them to rows for folding."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal

import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp
from meterline.transactions.unit_of_work import Transaction
from meterline_protos.events.v1 import events_pb2 as facts_pb2
from meterline_protos.ingest.v1 import events_pb2

from meterline_aggregate.folding.counted import drop_uncounted
from meterline_aggregate.folding.decoding import Accepted, read
from meterline_aggregate.folding.rules.origins import with_targets
from meterline_aggregate.folding.rules.rows import Message
from meterline_aggregate.folding.series import SeriesBook, View
from meterline_aggregate.meters.rules.definitions import Meter
from meterline_aggregate.peers import Ingest
from meterline_aggregate.rebuilds.store import Month

_NO_ID = bytes(16)

Page = Sequence[events_pb2.StoredEvent]


class RawEvents:
    """Events of one meter from ingest, with the targets that they had when they were folded."""

    def __init__(self, ingest: Ingest, book: SeriesBook) -> None:
        self._ingest = ingest
        self._book = book

    def pages(self, month: Month, meter: Meter, batch_ids: Sequence[uuid.UUID]) -> AsyncIterator[Page]:
        """The month's events in at most 1,000 batches. Raises UnavailableError."""
        return self._ingest.events(
            month.slug, batch_ids, meter.definition.event_type, month.first_us, month.last_us
        )

    async def to_message(
        self, tx: Transaction, tenant_id: int, meter: Meter, page: Page, *, by_group: bool = True
    ) -> Message:
        """The events as rows with targets of this meter only. Raises GarbledError, UnknownTenantError.

        A retracted event that was accepted before the meter was created has no target.

        by_group: False if only the total is needed; targets of groups may then be missing
        """
        accepted = read(_fact(tenant_id, meter.definition.quantity, {_NO_ID: page}))
        message = await self.look_up(tx, meter, accepted, by_group=by_group)
        (counted,) = await drop_uncounted(tx, [accepted], [message])
        return counted

    async def look_up(
        self, tx: Transaction, meter: Meter, accepted: Accepted, *, by_group: bool = True
    ) -> Message:
        """As `to_message`, for events that are decoded already."""
        # Limited to the meter: a meter newer than the events would otherwise get groups without events.
        view = View(meter.meter_id, by_group)
        (series,) = await self._book.look_up(tx, [accepted.fact], view=view)
        return for_meter(accepted.with_series(series), meter.meter_id)


def for_meter(message: Message, meter_id: int) -> Message:
    """The message with targets of this meter only."""
    own = [with_targets(series, lambda known: known == meter_id) for series in message.series]
    return replace(message, series=own)


def accepted_of(tenant_id: int, meter: Meter, events: Page) -> Accepted:
    """The events, grouped by their batches. Raises GarbledError."""
    batches: dict[bytes, list[events_pb2.StoredEvent]] = {}
    for event in events:
        batches.setdefault(uuid.UUID(event.batch_id).bytes, []).append(event)
    return read(_fact(tenant_id, meter.definition.quantity, batches))


def _fact(tenant_id: int, quantity: str, batches: Mapping[bytes, Page]) -> facts_pb2.EventsAccepted:
    """An EventsAccepted of these batches, by id, with the measured quantity only and no trace or times of
    calls.
    """
    # In each batch, retracted rows come first.
    page = [event for rows in batches.values() for event in sorted(rows, key=lambda row: not row.retracted)]
    keys = [(event.type, tuple(sorted(event.dimensions.items()))) for event in page]
    series = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    subjects = {name: place for place, name in enumerate(dict.fromkeys(event.subject for event in page))}
    return facts_pb2.EventsAccepted(
        batches=[
            facts_pb2.AcceptedBatch(
                batch_id=batch_id,
                rows=len(rows),
                retracted=sum(event.retracted for event in rows),
                origins=_origins(rows),
            )
            for batch_id, rows in batches.items()
        ],
        series=[
            facts_pb2.Series(
                tenant_id=tenant_id,
                event_type=event_type,
                dimensions=[facts_pb2.Dimension(name=name, value=value) for name, value in dimensions],
            )
            for event_type, dimensions in series
        ],
        subjects=list(subjects),
        event_ids=_NO_ID * len(page),
        series_index=np.array([series[key] for key in keys], "<u4").tobytes(),
        subject_index=np.array([subjects[event.subject] for event in page], "<u4").tobytes(),
        times_us=np.array([_us(event.time) for event in page], "<i8").tobytes(),
        quantities=[_quantity(quantity, page)] if quantity else [],
    )


def _origins(rows: Page) -> bytes:
    """Of the retracted rows; empty from an ingest of an earlier release, which does not answer them."""
    ids = [event.origin_batch_id for event in rows if event.retracted]
    return b"".join(uuid.UUID(origin).bytes for origin in ids) if all(ids) else b""


def _us(moment: Timestamp) -> int:
    return moment.seconds * 1_000_000 + moment.nanos // 1_000


def _quantity(name: str, rows: Page) -> facts_pb2.QuantityValues:
    values = [Decimal(event.quantities.get(name, "0")) for event in rows]
    scale = max(0, *(-int(value.as_tuple().exponent) for value in values))
    return facts_pb2.QuantityValues(
        name=name,
        scale=scale,
        units=np.array([int(value.scaleb(scale)) for value in values], "<i8").tobytes(),
        present=bytes(name in event.quantities for event in rows),
    )
