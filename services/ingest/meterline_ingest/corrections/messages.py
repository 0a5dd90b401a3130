"""Reads and writes corrections as protobuf messages."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp
from meterline import decimals
from meterline.clock import EPOCH, to_datetime, to_us
from meterline.decimals import to_text
from meterline.errors import InvalidArgumentError
from meterline.rpc import fields
from meterline_protos.common.v1 import types_pb2
from meterline_protos.ingest.v1 import corrections_pb2 as pb

from meterline_ingest.capture.parse.rows import clamped
from meterline_ingest.corrections.rules.changes import (
    DIMENSIONS,
    MAX_CHANGES,
    MAX_IDS,
    PROPERTIES,
    QUANTITIES,
    Changes,
    Failure,
)
from meterline_ingest.corrections.rules.effects import Effect, InvoiceEffect, WindowEffect
from meterline_ingest.corrections.rules.history import Correction, Import
from meterline_ingest.corrections.rules.selection import EventsFilter, NamedEvents
from meterline_ingest.event import ids as event_ids
from meterline_ingest.event.content import Content
from meterline_ingest.event.names import shown
from meterline_ingest.event_types.rules.types import EventType

MAX_BATCHES: Final = 1_000

_KINDS: Final = (DIMENSIONS, QUANTITIES, PROPERTIES)


def changes(message: pb.EventChanges, field: str = "changes") -> Changes:
    """Raises InvalidArgumentError."""
    # Each of thousands of events gets a copy of the changes.
    for name in (DIMENSIONS, QUANTITIES, PROPERTIES, "removed"):
        if len(getattr(message, name)) > MAX_CHANGES:
            raise InvalidArgumentError(f"{field}.{name}", f"at most {MAX_CHANGES}")
    removed = frozenset(map(_removed, message.removed))
    found = Changes(
        _moment(f"{field}.time", message.time) if message.HasField("time") else None,
        message.subject if message.HasField("subject") else None,
        dict(message.dimensions),
        {
            name: _decimal(f"{field}.quantities.{shown(name)}", text)
            for name, text in sorted(message.quantities.items())
        },
        dict(message.properties),
        removed,
    )
    if found.is_empty:
        raise InvalidArgumentError(field, "at least one change")
    named = {DIMENSIONS: found.dimensions, QUANTITIES: found.quantities, PROPERTIES: found.properties}
    if any(name in named[kind] for kind, name in removed):
        raise InvalidArgumentError(f"{field}.removed", "nothing that is set as well")
    return found


def named_events(message: pb.EventIds) -> NamedEvents:
    """Raises InvalidArgumentError."""
    if len(message.event_ids) > MAX_IDS:
        raise InvalidArgumentError("ids.event_ids", f"at most {MAX_IDS}")
    parsed = [event_ids.parse_one(message.source, text)[0] for text in message.event_ids]
    ids = map(uuid.UUID, [raw.hex() for raw in parsed])
    return NamedEvents(list(zip(ids, message.event_ids, strict=True)))


def events_filter(message: pb.EventsFilter) -> EventsFilter:
    """Raises InvalidArgumentError."""
    start, end = fields.time_range("filter.time", message.time)
    return EventsFilter(
        message.type,
        message.subject if message.HasField("subject") else None,
        message.source,
        fields.identifiers("filter.batch_ids", message.batch_ids, most=MAX_BATCHES, least=0),
        None if start is None else to_us(start),
        None if end is None else to_us(end),
    )


def correction(made: Correction, definition: EventType | None) -> pb.Correction:
    """`definition`: of the event's type."""
    message = pb.Correction(
        correction_id=str(made.correction_id),
        kind=pb.CorrectionKind.ValueType(made.kind),
        event_id=made.sent_id,
        revision=made.revision,
        before=_content(made.before, definition),
        after=None if made.after is None else _content(made.after, definition),
        batch_id=str(made.batch_id) if made.batch_id.int else "",
        batch_id_before=str(made.batch_id_before),
        requested_by=made.requested_by,
        reason=made.reason,
    )
    if made.at != EPOCH:
        message.at.FromDatetime(made.at)
    return message


def failure(failed: Failure) -> pb.FailedCorrection:
    return pb.FailedCorrection(
        event_id=failed.event_id, reason=failed.reason, field=failed.field, message=failed.message
    )


def effect(found: Effect) -> pb.Effect:
    ordered = sorted(found.windows.values(), key=lambda each: each.key)
    return pb.Effect(
        retracted=found.retracted,
        added=found.added,
        windows=map(_window, ordered),
        windows_unknown=found.windows_unknown,
        invoices=map(_invoice, found.invoices),
        invoices_unknown=found.invoices_unknown,
    )


def imported(stored: Import) -> pb.Import:
    message = pb.Import(
        import_id=str(stored.import_id),
        source=stored.source,
        requested_by=stored.requested_by,
        reason=stored.reason,
        batches=stored.batches,
        events=stored.events,
    )
    message.started_at.FromDatetime(stored.started_at)
    return message


def _window(window: WindowEffect) -> pb.WindowEffect:
    message = pb.WindowEffect(
        meter=window.meter,
        grain=types_pb2.Grain.ValueType(window.grain),
        value_before=to_text(window.before),
        value_after="" if window.after is None else to_text(window.after),
        event_count_before=window.events_before,
        event_count_after=window.events_after,
    )
    message.start_time.FromDatetime(window.start)
    message.end_time.FromDatetime(window.end)
    return message


def _invoice(invoice: InvoiceEffect) -> pb.InvoiceEffect:
    message = pb.InvoiceEffect(
        currency=invoice.currency,
        total_before=invoice.before,
        total_after=invoice.after,
        final_invoice_id=invoice.final_invoice_id,
        unknown_meters=invoice.unknown_meters,
    )
    message.period_start.FromDatetime(invoice.start)
    message.period_end.FromDatetime(invoice.end)
    return message


def _content(content: Content, definition: EventType | None) -> pb.EventContent:
    message = pb.EventContent(
        type=content.event_type,
        subject=content.subject,
        dimensions=content.dimensions,
        quantities=quantities(content.units, definition),
        properties=content.properties,
        sealed_properties=content.sealed,
        flags=content.flags,
    )
    message.time.FromDatetime(to_datetime(content.time_us))
    return message


def quantities(units: Iterable[int | None], definition: EventType | None) -> Mapping[str, str]:
    """Decimals by name."""
    names = () if definition is None else definition.quantities
    return {
        quantity.name: decimals.units_to_text(value, quantity.scale)
        for quantity, value in zip(names, units, strict=False)
        if value is not None
    }


def _removed(text: str) -> tuple[str, str]:
    kind, _, name = text.partition(".")
    if kind not in _KINDS or not name:
        raise InvalidArgumentError("changes.removed", f"{' or '.join(f'{each}.<name>' for each in _KINDS)}")
    return kind, name


def _decimal(field: str, text: str) -> tuple[int, int]:
    try:
        return decimals.parse_units(text)
    except decimals.DecimalError as error:
        raise InvalidArgumentError(field, str(error), error.reason) from error


def _moment(field: str, timestamp: Timestamp) -> int:
    """Microseconds since the Unix epoch, limited to 64 bits; the rules decide which are in range."""
    if not 0 <= timestamp.nanos < 1_000_000_000:
        raise InvalidArgumentError(field, "nanos from 0 to 999999999", "TIME_OUT_OF_RANGE")
    return clamped(timestamp.seconds * 1_000_000 + timestamp.nanos // 1_000)
