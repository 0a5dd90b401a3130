"""Converts meters, and event types as ingest describes them, from and to protobuf."""

from __future__ import annotations

from meterline.rpc import fields
from meterline_protos.aggregate.v1 import meters_pb2
from meterline_protos.common.v1 import types_pb2
from meterline_protos.ingest.v1 import event_types_pb2

from meterline_aggregate.kinds.kind import Aggregation
from meterline_aggregate.meters.rules.definitions import Definition, Meter, UnknownMeter
from meterline_aggregate.meters.rules.references import EventTypeDescription


def to_definition(meter: meters_pb2.Meter) -> Definition:
    return Definition(
        meter.name,
        meter.event_type,
        fields.choice("meter.aggregation", Aggregation, meter.aggregation),
        meter.quantity,
        meter.unique_dimension,
        tuple(meter.group_by),
        tuple(sorted(meter.filter.items())),
    )


def to_meter(meter: Meter | UnknownMeter) -> meters_pb2.Meter:
    """A meter of an unknown kind is returned as its row has it, with the kind's number."""
    definition = meter if isinstance(meter, UnknownMeter) else meter.definition
    return meters_pb2.Meter(
        name=definition.name,
        event_type=definition.event_type,
        aggregation=types_pb2.Aggregation.ValueType(definition.aggregation),
        quantity=definition.quantity,
        unique_dimension=definition.unique_dimension,
        group_by=definition.group_by,
        filter=dict(definition.filter),
    )


def to_description(answer: event_types_pb2.DescribeEventTypeResponse) -> EventTypeDescription:
    return EventTypeDescription(
        frozenset(answer.quantities),
        {each.name: frozenset(each.values) for each in answer.dimensions},
        answer.partial,
    )
