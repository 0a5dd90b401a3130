"""What the aggregate service says of its meters."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class MeterDefinition:
    """What the aggregate service says of a meter. `quantity` is empty unless one is summed or compared;
    `of_subjects` is a count of distinct subjects."""

    name: str
    event_type: str
    quantity: str = ""
    unique_dimension: str = ""
    of_subjects: bool = False
    filter: Mapping[str, str] = field(default_factory=dict)
