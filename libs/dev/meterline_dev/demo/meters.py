"""The meters: one event type, a flight that departed, and four meters of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from meterline_protos.aggregate.v1 import meters_pb2
from meterline_protos.common.v1 import types_pb2
from meterline_protos.ingest.v1 import event_types_pb2

EVENT_TYPE: Final = "flight.departed"
GROUP: Final = "origin"


@dataclass(frozen=True, slots=True)
class DemoMeter:
    """`billing_event_name` is the meter's name at Stripe, where an account may hold others too."""

    name: str
    title: str
    aggregation: types_pb2.Aggregation.ValueType
    quantity: str = ""

    @property
    def billing_event_name(self) -> str:
        return f"meterline_demo_{self.name}"


METERS: Final = (
    DemoMeter("departures", "Departures", types_pb2.AGGREGATION_COUNT),
    DemoMeter("air_minutes", "Minutes in the air", types_pb2.AGGREGATION_SUM, "air_minutes"),
    DemoMeter("miles", "Miles", types_pb2.AGGREGATION_SUM, "miles"),
    DemoMeter("aircraft", "Aircraft in use", types_pb2.AGGREGATION_UNIQUE),
)


def event_type(*, air_minutes_required: bool) -> event_types_pb2.EventType:
    """A flight without an aircraft is rejected; so is one without its minutes in the air, at first."""
    return event_types_pb2.EventType(
        name=EVENT_TYPE,
        quantities=[
            event_types_pb2.QuantityDefinition(name="air_minutes", required=air_minutes_required),
            event_types_pb2.QuantityDefinition(name="miles", required=True),
        ],
        dimensions=[
            event_types_pb2.DimensionDefinition(name="origin", required=True),
            event_types_pb2.DimensionDefinition(name="dest", required=True),
        ],
        subject_required=True,
    )


def definition(meter: DemoMeter) -> meters_pb2.Meter:
    """The meter as the aggregate service takes it: grouped by origin, in addition to the total."""
    return meters_pb2.Meter(
        name=meter.name,
        event_type=EVENT_TYPE,
        aggregation=meter.aggregation,
        quantity=meter.quantity,
        group_by=[GROUP],
    )
