"""Reads and writes event types as protobuf messages."""

from __future__ import annotations

from meterline import decimals
from meterline.errors import InvalidArgumentError
from meterline.rpc import fields
from meterline_protos.ingest.v1 import event_types_pb2 as pb

from meterline_ingest.event.bounds import MAX_DIMENSION_VALUE
from meterline_ingest.event_types.rules.enrichment import Attribute, Enrichment, WhenMissing
from meterline_ingest.event_types.rules.properties import DEFAULT_LENGTH, Kind, Property
from meterline_ingest.event_types.rules.types import (
    MAX_SCALE,
    Dimension,
    EventType,
    Quantity,
    TimerPolicy,
    WhenAbandoned,
)


def read(message: pb.EventType) -> EventType:
    """Raises InvalidArgumentError."""
    return EventType(
        message.name,
        tuple(_quantity(each) for each in message.quantities),
        tuple(
            Dimension(each.name, each.required, tuple(each.values), each.max_length or MAX_DIMENSION_VALUE)
            for each in message.dimensions
        ),
        message.subject_required,
        tuple(_property(each) for each in message.properties),
        tuple(_enrichment(each) for each in message.enrichments),
        message.for_identity,
        _timer(message.timer) if message.HasField("timer") else None,
    )


def write(event_type: EventType) -> pb.EventType:
    message = pb.EventType(
        name=event_type.name,
        quantities=[
            pb.QuantityDefinition(
                name=each.name,
                scale=each.scale,
                required=each.required,
                signed=each.signed,
                minimum="" if each.minimum is None else decimals.units_to_text(each.minimum, each.scale),
                maximum="" if each.maximum is None else decimals.units_to_text(each.maximum, each.scale),
            )
            for each in event_type.quantities
        ],
        dimensions=[
            pb.DimensionDefinition(
                name=each.name, required=each.required, values=each.values, max_length=each.max_length
            )
            for each in event_type.dimensions
        ],
        subject_required=event_type.subject_required,
        properties=[
            pb.PropertyDefinition(
                name=each.name,
                kind=pb.PropertyKind.ValueType(each.kind),
                required=each.required,
                minimum=each.minimum,
                maximum=each.maximum,
                values=each.values,
                max_length=each.max_length,
                sensitive=each.sensitive,
            )
            for each in event_type.properties
        ],
        enrichments=[
            pb.Enrichment(
                namespace=each.namespace,
                key=each.key,
                attributes=[
                    pb.EnrichedAttribute(attribute=one.name, target=one.target) for one in each.attributes
                ],
                when_missing=pb.MissingEntry.ValueType(each.when_missing),
            )
            for each in event_type.enrichments
        ],
        for_identity=event_type.for_identity,
        timer=None if event_type.timer is None else _write_timer(event_type.timer),
    )
    if event_type.archived_at is not None:
        message.archived_at.FromDatetime(event_type.archived_at)
    return message


def _write_timer(timer: TimerPolicy) -> pb.TimerPolicy:
    return pb.TimerPolicy(
        quantity=timer.quantity,
        abandoned_after_seconds=timer.abandoned_after_seconds,
        when_abandoned=pb.AbandonedTimer.ValueType(timer.when_abandoned),
    )


def _quantity(message: pb.QuantityDefinition) -> Quantity:
    return Quantity(
        message.name,
        message.scale,
        message.required,
        message.signed,
        _bound(message, "minimum", message.minimum),
        _bound(message, "maximum", message.maximum),
    )


def _bound(message: pb.QuantityDefinition, name: str, text: str) -> int | None:
    if not text:
        return None
    quantity = f"event_type.quantities[{message.name[:64]}]"
    field = f"{quantity}.{name}"
    if message.scale > MAX_SCALE:
        raise InvalidArgumentError(f"{quantity}.scale", f"from 0 to {MAX_SCALE}")
    try:
        units, scale = decimals.parse_units(text)
    except decimals.DecimalError as error:
        raise InvalidArgumentError(field, str(error)) from error
    if scale > message.scale:
        raise InvalidArgumentError(field, f"at most {message.scale} decimals")
    return units * decimals.POWERS[message.scale - scale]


def _property(message: pb.PropertyDefinition) -> Property:
    return Property(
        message.name,
        fields.choice(f"event_type.properties[{message.name[:64]}].kind", Kind, message.kind),
        message.required,
        message.minimum,
        message.maximum,
        tuple(message.values),
        message.max_length or DEFAULT_LENGTH,
        message.sensitive,
    )


def _enrichment(message: pb.Enrichment) -> Enrichment:
    field = f"event_type.enrichments[{message.namespace[:64]}].when_missing"
    return Enrichment(
        message.namespace,
        message.key,
        tuple(Attribute(each.attribute, each.target or each.attribute) for each in message.attributes),
        fields.choice(field, WhenMissing, message.when_missing),
    )


def _timer(message: pb.TimerPolicy) -> TimerPolicy:
    field = "event_type.timer.when_abandoned"
    return TimerPolicy(
        message.quantity,
        message.abandoned_after_seconds,
        fields.choice(field, WhenAbandoned, message.when_abandoned),
    )
