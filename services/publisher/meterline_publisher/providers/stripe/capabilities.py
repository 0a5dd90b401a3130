"""What Stripe's billing meters take, and for how long they remember an event."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from meterline_publisher.providers.capabilities import Capabilities

STRIPE: Final = Capabilities(
    name="stripe",
    bills=True,
    max_digits=15,
    max_identifier=100,
    # Stripe refuses an identifier that it knows for 24 hours at the least, from the receipt of the event. One
    # hour is for clocks that differ and for calls that hang.
    identifier_memory=timedelta(hours=23),
    # Stripe's period may end an hour earlier or later than the tenant's month, because its anchor does not
    # follow daylight-saving time.
    period_edge=timedelta(hours=2),
    exact_sums_below=2**53,
)
