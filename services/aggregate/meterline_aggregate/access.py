"""What each call demands of its caller."""

from __future__ import annotations

from typing import Final

from meterline.auth.principals import Permission
from meterline.auth.rules import EVENTS_BYTES, Reach, Rule, Rules

_METERS: Final = "meterline.aggregate.v1.MetersService"
_USAGE: Final = "meterline.aggregate.v1.UsageService"
_RECONCILIATION: Final = "meterline.aggregate.v1.ReconciliationService"

RULES: Final[Rules] = {
    f"{_METERS}/CreateMeter": Rule(Permission.CONFIGURE),
    f"{_METERS}/DeleteMeter": Rule(Permission.CONFIGURE),
    # Changes aggregate's data for a service that refers to them.
    f"{_METERS}/ReferToMeter": Rule(Permission.INTERNAL, Reach.EVERYBODY),
    f"{_METERS}/ListMeters": Rule(Permission.READ),
    f"{_USAGE}/QueryUsage": Rule(Permission.READ),
    f"{_USAGE}/ListContributions": Rule(Permission.READ),
    f"{_USAGE}/FindContributions": Rule(Permission.READ),
    # Ingest asks, for its dry runs. What is asked is a message as services exchange them.
    f"{_USAGE}/PreviewChanges": Rule(Permission.INTERNAL, Reach.EVERYBODY, max_bytes=EVENTS_BYTES),
    f"{_RECONCILIATION}/Compare": Rule(Permission.READ),
}
