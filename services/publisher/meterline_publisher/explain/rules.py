"""Which events a meter counts, as the aggregate service decides it."""

from collections.abc import Mapping

from meterline_publisher.billing.meters import MeterDefinition


def counts(
    meter: MeterDefinition,
    event_type: str,
    subject: str,
    dimensions: Mapping[str, str],
    quantities: Mapping[str, str],
) -> bool:
    """Whether an event counts for the meter: its type, all filtered dimensions, and what is measured."""
    return (
        event_type == meter.event_type
        and all(dimensions.get(name) == value for name, value in meter.filter.items())
        and (not meter.quantity or meter.quantity in quantities)
        # An empty value is nobody: it would be one member more of every count.
        and (not meter.unique_dimension or bool(dimensions.get(meter.unique_dimension)))
        and (not meter.of_subjects or bool(subject))
    )
